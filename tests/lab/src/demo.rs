// SPDX-License-Identifier: GPL-2.0-only
//! The demonstration: a guest's memory is broken up and heals, drawn for a person.

use std::fmt::Write as _;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use console::Style;
use indicatif::{ProgressBar, ProgressStyle};
use xen_coalesce::analysis::Analysis;
use xen_coalesce::plot;
use xen_coalesce::scan::scan;
use xen_coalesce::trace::events::{Kind, explain};
use xen_coalesce::words::{Clock, grouped};

use crate::console::Line;
use crate::lab::Report;
use crate::picture::{self, Look};
use crate::verdict::{Facts, Region, Report as GuestReport};

/// Shows while the machine runs what the guest is doing.
#[derive(Debug)]
pub struct Live {
    bar: Option<ProgressBar>,
    look: Look,
    phase: String,
    regions: Vec<Region>,
}

impl Live {
    pub fn new(look: Look) -> Live {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_style(
                ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_message("Xen is booting");
            bar
        });
        Live {
            bar,
            look,
            phase: String::new(),
            regions: vec![],
        }
    }

    pub fn take(&mut self, line: &Line) {
        if line.from_xen() || !line.text.starts_with('@') {
            return;
        }
        match GuestReport::parse(&line.text) {
            Ok(GuestReport::Phase(name)) => {
                self.phase = name;
                if self.bar.is_none() {
                    println!("[{:6.1} s] {}", line.at.as_secs_f64(), self.phase);
                }
            }
            Ok(GuestReport::Map(map)) => self.regions = map.regions,
            _ => return,
        }
        if let Some(bar) = &self.bar {
            let covered = picture::coverage(&self.regions)
                .map_or(String::new(), |percent| format!("{percent:3.0} %"));
            bar.set_message(format!(
                "{:<12} {covered} {}",
                self.phase,
                picture::paint(&self.regions, self.look)
            ));
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The story of a run.
pub fn story(report: &Report, look: Look) -> String {
    let facts = &report.facts;
    let mut text = String::new();
    let title = |words: &str| look.style(Style::new().bold()).apply_to(words).to_string();

    let _ = writeln!(
        text,
        "\n{}\n",
        title("The guest's memory, from top to bottom in time")
    );
    text += &picture::draw(&facts.maps, look);
    let _ = writeln!(text);

    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<24} {value}");
    };
    row("In 2M pages", coverage_story(facts));
    row("Healed", healed(facts));
    row(
        "Splits",
        two(
            facts,
            "splits",
            "happened",
            "splits_avoided",
            "were avoided",
        ),
    );
    row("Pages copied", count(facts, "pages_copied"));
    row(
        "Exchanged",
        two(facts, "exchange_calls", "calls", "exchanged_pages", "pages"),
    );
    row("Longest lock hold", longest_hold(report));

    let reasons: Vec<_> = facts.reasons.iter().filter(|(_, n)| **n != 0).collect();
    if reasons.is_empty() {
        row("Looked at and left", "nothing".to_owned());
    } else {
        for (i, (name, n)) in reasons.into_iter().enumerate() {
            let title = if i == 0 { "Looked at and left" } else { "" };
            let words = explain(name);
            let times = if *n == 1 { "once" } else { "times" };
            let n = if *n == 1 {
                String::new()
            } else {
                format!("{n} ")
            };
            row(title, format!("{n}{times}: {name}{}{words}", sep(words)));
        }
    }
    text
}

fn sep(words: &str) -> &'static str {
    if words.is_empty() { "" } else { ", " }
}

fn count(facts: &Facts, name: &str) -> String {
    facts
        .counts
        .get(name)
        .map_or("not reported".to_owned(), |n| grouped(*n))
}

fn two(facts: &Facts, one: &str, one_does: &str, other: &str, other_does: &str) -> String {
    format!(
        "{} {one_does}, {} {other_does}",
        count(facts, one),
        count(facts, other)
    )
}

/// First, worst and last.
fn coverage_story(facts: &Facts) -> String {
    let moments: Vec<(&str, f64)> = facts
        .maps
        .iter()
        .filter_map(|map| Some((map.name.as_str(), picture::coverage(&map.regions)?)))
        .collect();
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
        return "not reported".to_owned();
    };
    let worst = moments
        .iter()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or(first);
    let say = |(name, percent): &(&str, f64)| format!("{percent:.1} % ({name})");
    if worst.1 < first.1 && worst.1 < last.1 {
        format!("{}, then {}, at last {}", say(first), say(worst), say(last))
    } else {
        format!("{}, at last {}", say(first), say(last))
    }
}

fn healed(facts: &Facts) -> String {
    let acts = [
        ("promoted", "in place"),
        ("completed", "by fetching the pages astray"),
        ("migrated", "by moving all"),
    ];
    let known: Vec<(u64, &str)> = acts
        .iter()
        .filter_map(|(name, words)| Some((*facts.counts.get(*name)?, *words)))
        .collect();
    if known.is_empty() {
        return "not reported".to_owned();
    }
    let all: u64 = known.iter().map(|(n, _)| n).sum();
    let parts: Vec<String> = known
        .iter()
        .filter(|(n, _)| *n != 0)
        .map(|(n, words)| format!("{n} {words}"))
        .collect();
    if parts.is_empty() {
        return "0 regions".to_owned();
    }
    format!("{all} regions: {}", parts.join(", "))
}

/// The longest hold of the lock, as counted by Xen, and beside what the trace has seen: nothing
/// that was not measured.
fn longest_hold(report: &Report) -> String {
    let mut holds: Vec<u32> = report
        .trace
        .iter()
        .flat_map(|(_, extract)| extract.trace.acts())
        .filter(|act| matches!(act.kind, Kind::Promote | Kind::Complete | Kind::Migrate))
        .map(|act| act.hold)
        .filter(|hold| *hold != 0)
        .collect();
    holds.sort_unstable();
    let median = holds.get(holds.len() / 2).copied();

    let clock = clock(report);
    let longest = report.facts.counts.get("longest_hold").copied();
    match (longest, median) {
        (None, _) => "not reported".to_owned(),
        (Some(longest), Some(median)) if median != 0 => format!(
            "{}, {:.1} x the median of {} acts",
            clock.length(longest as f64),
            longest as f64 / f64::from(median),
            holds.len()
        ),
        (Some(longest), _) => clock.length(longest as f64),
    }
}

fn clock(report: &Report) -> Clock {
    Clock {
        tsc_mhz: report.facts.tsc_mhz,
    }
}

/// Makes the page of a run's trace, beside it.
///
/// # Errors
/// It cannot be written.
pub fn page(report: &Report) -> Result<Option<PathBuf>> {
    let Some((trace, extract)) = &report.trace else {
        return Ok(None);
    };
    page_of(trace, &extract.file, clock(report)).map(Some)
}

/// The page of a trace that is in the file `trace`, beside it.
///
/// # Errors
/// It cannot be written.
pub fn page_of(trace: &Path, bytes: &[u8], clock: Clock) -> Result<PathBuf> {
    let mut analysis = Analysis::new(true);
    let scan = scan(bytes, false, |timed| analysis.take(timed));
    let view = analysis.finish(scan.first, scan.last);
    let html = plot::page(&near(trace), &scan, &view, clock);
    let path = trace.with_file_name("trace.html");
    fs::write(&path, html).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Where to look further.
pub fn pointers(report: &Report, page: Option<&Path>) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<24} {value}");
    };
    match &report.trace {
        Some((path, extract)) => {
            let records = grouped(extract.trace.records.len() as u64);
            row("Trace", &format!("{} ({records} records)", near(path)));
            if !extract.full.is_empty() || extract.trace.lost != 0 {
                row(
                    "",
                    "the trace buffer was too small: later records are missing",
                );
            }
            if let Some(page) = page {
                row("Page for a browser", &near(page));
            }
            let tsc = report.facts.tsc_mhz;
            let tsc = tsc.map_or(String::new(), |mhz| format!(" --tsc-mhz {mhz}"));
            let path = near(path);
            row(
                "More of it",
                &format!("target/release/xen-coalesce report {path}{tsc}"),
            );
        }
        None => row("Trace", "none"),
    }
    row("Console", &near(&report.console_log));
    text
}

/// A path as seen from here, which is shorter.
fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(here).unwrap_or(path);
    path.display().to_string()
}
