// SPDX-License-Identifier: GPL-2.0-only
//! `lab linux`.

use std::fs;
use std::path::PathBuf;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use comfy_table::{Table as Grid, presets};

use lab::linux::play::{Report, Request, play, prepare};
use lab::linux::report::{Kept, document, looks_table, remarks};
use lab::linux::table::{Scenario, Table};
use lab::place::Place;
use lab::tables::check_flavour;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says which scenarios there are
    List,
    /// Runs scenarios, each on the builds of Xen that the table names for it
    Run {
        /// Names of scenarios, or paths of scripts
        #[arg(required = true)]
        scenarios: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Runs scenarios and writes what came of all that were ever run. What passed with the same Xen, scripts
    /// and programs is not run again
    Results {
        /// What to write
        file: PathBuf,
        /// Which to run; all of them if none is named
        scenarios: Vec<String>,
        /// Runs nothing: what came of earlier runs is written
        #[arg(long, conflicts_with = "scenarios")]
        kept: bool,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these builds of Xen
    #[arg(long, value_name = "NAME")]
    flavour: Vec<String>,
    /// The builds of Xen that the table names for CI
    #[arg(long, conflicts_with = "flavour")]
    ci: bool,
    /// The long form
    #[arg(long)]
    long: bool,
    /// Runs what is known to pass, too
    #[arg(long)]
    again: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A variable for the script
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// More words for Xen's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Seconds after which a run is ended
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// How many machines at once: one, or with --ci as many as there are CPUs
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Prints the console as it comes
    #[arg(short, long)]
    verbose: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    let good = |c: char| c.is_ascii_graphic() && !"\"'`\\".contains(c);
    if name.is_empty() || !text.chars().all(good) {
        return Err("a name and a value without blanks and quotes".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub fn act(place: &Place, command: &Command) -> Result<bool> {
    let table = Table::built_in()?;
    match command {
        Command::List => {
            list(&table);
            Ok(true)
        }
        Command::Run { scenarios, options } => {
            let known = options.ci && !options.again;
            perform(place, &table, scenarios, options, known)
        }
        Command::Results {
            file,
            scenarios,
            kept,
            options,
        } => {
            let all: Vec<String> = table.scenarios.iter().map(|s| s.name.clone()).collect();
            let names = if scenarios.is_empty() {
                &all
            } else {
                scenarios
            };
            let passed = *kept || perform(place, &table, names, options, !options.again)?;
            let text = document(place, &table)?;
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(passed)
        }
    }
}

/// One run of a scenario that was asked for.
struct Task<'a> {
    scenario: &'a Scenario,
    flavour: &'a str,
}

/// Runs all that was asked for, several at once, and prints each scenario's table. Where something is known
/// of a run that passed, with all that it is made of as it is, that will do if `known` says so.
fn perform(
    place: &Place,
    table: &Table,
    names: &[String],
    options: &Options,
    known: bool,
) -> Result<bool> {
    let scenarios: Vec<Scenario> = names
        .iter()
        .map(|name| table.scenario(name))
        .collect::<Result<_>>()?;
    let mut tasks = vec![];
    for scenario in &scenarios {
        for flavour in flavours(scenario, options)? {
            tasks.push(Task { scenario, flavour });
        }
    }

    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<Kept>>>> =
        tasks.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        let cpus = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let jobs = options
            .jobs
            .unwrap_or_else(|| if options.ci { cpus() } else { 1 });
        for _ in 0..jobs.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some((n, task)) = tasks
                    .iter()
                    .enumerate()
                    .nth(next.fetch_add(1, Ordering::Relaxed))
                {
                    let result = run(place, table, task, options, known);
                    if let Ok(mut slot) = results[n].lock() {
                        *slot = Some(result);
                    }
                }
            });
        }
    });

    let mut all = vec![];
    for (task, result) in tasks.iter().zip(results) {
        let result = result.into_inner().ok().flatten();
        all.push((task, result.context("a run was lost")??));
    }
    for scenario in &scenarios {
        let of_it = all.iter().filter(|(t, _)| ptr::eq(t.scenario, scenario));
        let runs: Vec<&Kept> = of_it.map(|(_, kept)| kept).collect();
        if runs.iter().any(|kept| kept.has_looks()) {
            println!("\n{}:\n\n{}", scenario.name, looks_table(&runs));
        }
    }
    Ok(all.iter().all(|(_, kept)| kept.passed()))
}

/// The builds that a scenario is run on, unpatched ones first.
fn flavours<'a>(scenario: &'a Scenario, options: &'a Options) -> Result<Vec<&'a str>> {
    let flavours: Vec<&str> = if !options.flavour.is_empty() {
        options.flavour.iter().map(String::as_str).collect()
    } else if options.ci {
        scenario.ci.iter().map(String::as_str).collect()
    } else {
        let all = scenario.before.iter().chain(&scenario.flavours);
        all.map(String::as_str).collect()
    };
    ensure!(
        !flavours.is_empty(),
        "{} has no builds for CI",
        scenario.name
    );
    for flavour in &flavours {
        check_flavour(flavour)?;
    }
    Ok(flavours)
}

fn list(table: &Table) {
    let mut grid = Grid::new();
    grid.load_preset(presets::ASCII_MARKDOWN);
    grid.set_header(["scenario", "machine", "Xen", "compared with", "shows"]);
    for scenario in &table.scenarios {
        grid.add_row([
            scenario.name.clone(),
            scenario.machine.clone(),
            scenario.flavours.join(" "),
            scenario.before.join(" "),
            scenario.shows.clone(),
        ]);
    }
    println!("{grid}");
}

fn run(
    place: &Place,
    table: &Table,
    task: &Task<'_>,
    options: &Options,
    known: bool,
) -> Result<Kept> {
    let request = Request {
        scenario: task.scenario,
        machine: table.machine(&task.scenario.machine)?,
        flavour: task.flavour,
        long: options.long,
        seed: options.seed,
        variables: options.variables.clone(),
        words: options.append.clone(),
        limit: options.limit.map(Duration::from_secs),
    };
    let prepared = prepare(place, &request).with_context(|| request.title())?;
    let (digest, xen) = (prepared.digest.clone(), prepared.xen_digest.clone());
    let name = &task.scenario.name;
    let before = Kept::load(place, name, task.flavour, options.long).filter(|_| known);
    if let Some(kept) = before.filter(|kept| kept.passed() && kept.digest == digest) {
        println!("pass {} (as before)", request.title());
        return Ok(kept);
    }
    let report = play(place, &request, prepared, &mut |line| {
        if options.verbose {
            println!("{line}");
        }
    })
    .with_context(|| request.title())?;
    let kept = Kept::new(&request, digest, &xen, &report);
    // A script of one's own is not in the document.
    if table
        .scenarios
        .iter()
        .any(|s| s.script == task.scenario.script)
    {
        kept.store(place, name)?;
    }
    print(&request, &report);
    Ok(kept)
}

fn print(request: &Request<'_>, report: &Report) {
    let word = if report.verdict.passed() {
        "pass"
    } else {
        "FAIL"
    };
    let seconds = report.wall.as_secs_f64();
    let mut text = format!("{word} {} ({seconds:.1} s)\n", request.title());
    for remark in remarks(report) {
        text += &format!("  {remark}\n");
    }
    if let Some(page) = &report.page {
        text += &format!("  the trace, for a browser: {}\n", page.display());
    }
    if !report.verdict.passed() {
        for fault in &report.verdict.faults {
            text += &format!("  - {fault}\n");
        }
        text += "  the last lines of the console:\n";
        for line in &report.last_lines {
            text += &format!("    | {line}\n");
        }
        text += &format!("  logs: {}\n", report.logs.display());
    }
    // In one piece: other runs print too.
    print!("{text}");
}
