// SPDX-License-Identifier: GPL-2.0-only
//! Tables and plots of what the ledger costs and gives, beside a sweep and
//! nothing.

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use plotters::prelude::*;
use simulation::{Figures, Host, Policy, Sweep, run, spread, trace};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Simulates hours of ballooning on large hosts; writes tables and plots")]
struct Args {
    /// Where they go.
    #[arg(long, default_value = "out/simulation")]
    out: PathBuf,
    /// Hours that are simulated.
    #[arg(long, default_value_t = 4)]
    hours: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

type Curve = (&'static str, Figures);

fn main() -> Result<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;

    let host = Host {
        hours: args.hours,
        seed: args.seed,
        ..Host::of(12 * 1024)
    };
    let events = trace(&host);
    let no_holes = Sweep {
        holes: 0,
        ..Sweep::default()
    };
    let curves: Vec<Curve> = [
        ("nothing", Policy::Nothing),
        ("sweep", Policy::Sweep(Sweep::default())),
        ("sweep, holes stay", Policy::Sweep(no_holes)),
        ("ledger", Policy::Ledger),
    ]
    .into_iter()
    .map(|(name, policy)| (name, run(&host, &events, policy)))
    .collect();

    println!(
        "{} GiB, {} domains, {} hours, {} pages moved by balloons, seed {}",
        host.gib,
        host.domains,
        host.hours,
        events.len(),
        host.seed
    );
    println!("{}", compared(&curves));
    plot_coverage(&args.out.join("coverage.svg"), &curves)?;

    let sizes: Vec<(u64, Figures)> = [1, 12, 128, 1024, 12 * 1024]
        .into_iter()
        .map(|gib| {
            let of = |gib| Host {
                gib,
                domains: Host::of(gib).domains,
                ..host
            };
            let events = spread(&trace(&of(1)), &of(1), &of(gib));
            (gib, run(&of(gib), &events, Policy::Ledger))
        })
        .collect();
    println!("{}", scaled(&sizes));
    plot_work(&args.out.join("work.svg"), &sizes)?;
    println!("plots: {}/*.svg", args.out.display());
    Ok(())
}

fn compared(curves: &[Curve]) -> Table {
    let mut table = Table::new();

    table.load_preset(NOTHING);
    table.set_header([
        "",
        "broken, mean ppm",
        "looks",
        "entries read",
        "pages copied",
        "holes filled",
        "wakes",
        "ledger KiB",
    ]);
    for (name, f) in curves {
        table.add_row([
            (*name).to_owned(),
            format!("{:.1}", f.broken()),
            f.looks.to_string(),
            f.scanned.to_string(),
            f.copied.to_string(),
            f.filled.to_string(),
            f.wakes.to_string(),
            (f.memory / 1024).to_string(),
        ]);
    }
    table
}

fn scaled(sizes: &[(u64, Figures)]) -> Table {
    let mut table = Table::new();

    table.load_preset(NOTHING);
    table.set_header([
        "GiB",
        "events",
        "work per event",
        "promoted",
        "completed",
        "migrated",
        "ledger KiB",
        "bytes per GiB",
    ]);
    for (gib, f) in sizes {
        table.add_row([
            gib.to_string(),
            f.events.to_string(),
            format!("{:.2}", f.work_per_event()),
            f.promoted.to_string(),
            f.completed.to_string(),
            f.migrated.to_string(),
            (f.memory / 1024).to_string(),
            (f.memory / gib).to_string(),
        ]);
    }
    table
}

fn plot_coverage(path: &Path, curves: &[Curve]) -> Result<()> {
    let area = SVGBackend::new(path, (900, 500)).into_drawing_area();
    let hours = |ms: u64| ms as f64 / 3_600_000.0;
    let points = |f: &Figures| -> Vec<(f64, f64)> {
        let point = |&(ms, ppm): &(u64, u64)| (hours(ms), 1e6 - ppm as f64);
        f.coverage.iter().map(point).collect()
    };
    let all: Vec<_> = curves.iter().flat_map(|(_, f)| points(f)).collect();
    let right = all.iter().map(|p| p.0).fold(0.0, f64::max);
    let top = all.iter().map(|p| p.1).fold(1.0, f64::max);

    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption("regions that are not whole, ppm of all", ("sans-serif", 18))
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..right, 0.0..top * 1.05)?;
    chart.configure_mesh().x_desc("hours").draw()?;
    for (i, (name, f)) in curves.iter().enumerate() {
        let style = Palette99::pick(i).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points(f), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart.configure_series_labels().border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

fn plot_work(path: &Path, sizes: &[(u64, Figures)]) -> Result<()> {
    let area = SVGBackend::new(path, (900, 400)).into_drawing_area();
    let point = |(gib, f): &(u64, Figures)| ((*gib as f64).log2(), f.work_per_event());
    let points: Vec<_> = sizes.iter().map(point).collect();
    let top = points.iter().map(|p| p.1).fold(1.0, f64::max);

    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .caption("work per event", ("sans-serif", 18))
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..14.0, 0.0..top * 1.5)?;
    chart
        .configure_mesh()
        .x_desc("GiB of guests on the host, log2")
        .y_desc("wakes, domains asked, leaves and looks")
        .draw()?;
    chart.draw_series(LineSeries::new(points.clone(), BLUE.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|&p| Circle::new(p, 4, BLUE.filled())))?;
    area.present()?;
    Ok(())
}
