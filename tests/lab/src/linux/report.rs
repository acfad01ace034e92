// SPDX-License-Identifier: GPL-2.0-only
//! What came of scenarios, for a person: unpatched Xen beside ours.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use xen_coalesce::trace::events::REASONS;

use super::judge::{Counters, Look};
use super::play::Report;
use super::table::{Scenario, Table as Scenarios};
use crate::place::Place;
use crate::verdict::Region;

/// One run: the build of Xen, and what came of it.
pub type Run<'a> = (&'a str, &'a Report);

/// The looks of some runs as a table, each look on one Xen under that on the other.
pub fn looks_table(runs: &[Run<'_>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.force_no_tty();
    table.set_header([
        "look",
        "Xen",
        "entries",
        "whole 2M regions",
        "references per miss",
        "promoted",
        "completed",
        "migrated",
        "pages copied",
    ]);
    for column in 3..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut tags: Vec<&str> = vec![];
    for look in runs.iter().flat_map(|(_, report)| &report.story.looks) {
        if !tags.contains(&look.tag.as_str()) {
            tags.push(&look.tag);
        }
    }
    for tag in tags {
        for (flavour, report) in runs {
            for look in report.story.looks.iter().filter(|l| l.tag == tag) {
                table.add_row(row(flavour, look));
            }
        }
    }
    format!("{table}\n")
}

fn row(flavour: &str, look: &Look) -> Vec<String> {
    let count = |name: &str| {
        let counters: Option<&Counters> = look.counters.as_ref();
        counters.map_or("-".to_owned(), |c| c.get(name).to_string())
    };
    let walk = &look.walk;
    vec![
        look.tag.clone(),
        flavour.to_owned(),
        walk.to_string(),
        format!("{} of {}", walk.count(Region::Whole), walk.full()),
        format!("{:.2}", walk.references()),
        count("promoted"),
        count("completed"),
        count("migrated"),
        count("pages_copied"),
    ]
}

/// Why regions were left, at the last look.
fn reasons(report: &Report) -> Option<String> {
    let counters = report.story.looks.last()?.counters.as_ref()?;
    let words: Vec<String> = REASONS
        .iter()
        .map(|reason| (reason, counters.reason(reason)))
        .filter(|(_, count)| *count != 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// What a script said for people: its lines that begin with `= `.
pub fn remarks(report: &Report) -> impl Iterator<Item = &str> {
    let said = report.story.facts.said.iter();
    said.filter_map(|line| line.strip_prefix("= "))
}

/// A scenario's part of the document.
pub fn section(scenario: &Scenario, runs: &[Run<'_>], form: &str, seed: u64) -> String {
    let mut text = format!(
        "## {}\n\n{}.\n\n`make -f build.mk lab SCENARIO={}`, {form} form, seed {seed}.\n\n",
        scenario.name, scenario.shows, scenario.name
    );
    for (flavour, report) in runs {
        let verdict = if report.verdict.passed() {
            "pass"
        } else {
            "**FAIL**"
        };
        let _ = writeln!(
            text,
            "- {flavour}: {verdict}; the control domain's boot exchanged {} pages",
            report.story.exchanges
        );
        for fault in &report.verdict.faults {
            let _ = writeln!(text, "  - {fault}");
        }
        for remark in remarks(report) {
            let _ = writeln!(text, "  - {remark}");
        }
        if let Some(reasons) = reasons(report) {
            let _ = writeln!(text, "  - refusals by reason: {reasons}");
        }
    }
    if runs
        .iter()
        .any(|(_, report)| !report.story.looks.is_empty())
    {
        let _ = write!(text, "\n{}", looks_table(runs));
    }
    text
}

/// Keeps a scenario's part until the document is written.
pub fn keep(place: &Place, scenario: &Scenario, section: &str) -> Result<()> {
    let dir = place.out().join("linux-results");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::write(dir.join(format!("{}.md", scenario.name)), section)?;
    Ok(())
}

/// The document: what came of each scenario, or that it was not run.
pub fn document(place: &Place, table: &Scenarios) -> Result<String> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let mut text = String::from(
        "<!-- Written by `make -f build.mk results`: do not edit. -->\n\
         # What Linux guests keep of their superpages\n\n\
         Each scenario is a script that runs in a Linux control domain with Xen's own toolstack \
         ([how](linux-lab.md)).\nWhat is in a guest's page table was read in the machine's memory, \
         as the processor reads it, while the machine stood\nstill; Xen's own map, counters and \
         trace have to agree with it. *References per miss*: memory references for a\ntranslation \
         that is in no cache, averaged over the guest's memory (24 with 4K entries, 19 with 2M, 14 \
         with 1G).\n\n\
         The machine is emulated, and guests run as fast as the host lets them: which regions break \
         differs by a few from run\nto run.\n\n",
    );
    let _ = writeln!(text, "| part | version |\n|---|---|");
    let xen = read(&place.out().join("cache/xen.version"));
    let _ = writeln!(text, "| Xen, source | {} |", xen.trim());
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let qemu = qemu.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let qemu = qemu.unwrap_or_default();
    let _ = writeln!(text, "| QEMU | {} |", qemu.lines().next().unwrap_or("?"));
    for line in read(&place.out().join("linux/versions")).lines() {
        let wanted = ["xen-utils", "linux-image", "libc6", "busybox"];
        if let Some((name, version)) = line.split_once(' ') {
            if wanted.iter().any(|w| name.starts_with(w)) {
                let _ = writeln!(text, "| {name} | {version} |");
            }
        }
    }
    for scenario in &table.scenarios {
        let path = place
            .out()
            .join(format!("linux-results/{}.md", scenario.name));
        let section = read(&path);
        if section.is_empty() {
            let (name, shows) = (&scenario.name, &scenario.shows);
            let _ = write!(text, "\n## {name}\n\n{shows}.\n\nNot run.\n");
        } else {
            let _ = write!(text, "\n{section}");
        }
    }
    Ok(text)
}
