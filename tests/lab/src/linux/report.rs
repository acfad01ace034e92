// SPDX-License-Identifier: GPL-2.0-only
//! What came of scenarios, for a person: unpatched Xen beside ours.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use xen_coalesce::trace::events::REASONS;

use super::judge::{Counters, Look};
use super::play::{Report, Request};
use super::table::{Scenario, Table as Scenarios};
use crate::passed::{hex, sha256};
use crate::place::Place;
use crate::verdict::Region;

/// Characters of a digest that people are shown.
const SHOWN: usize = 8;

/// What is kept of a run: all that the document says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Of what it was made: [`super::play::Prepared::digest`].
    pub digest: String,
    flavour: String,
    /// The start of the digest of Xen.
    xen: String,
    long: bool,
    seed: u64,
    /// Variables of the script that were given on the command line.
    variables: Vec<(String, String)>,
    faults: Vec<String>,
    /// Pages that the control domain's boot has exchanged.
    exchanges: usize,
    /// What the script said for people.
    remarks: Vec<String>,
    /// Why regions were left, at the last look.
    reasons: Option<String>,
    /// The looks: the tag, and a row of the table.
    looks: Vec<(String, Vec<String>)>,
}

impl Kept {
    /// What came of a run, that was made of what these two digests stand for: everything, and Xen.
    pub fn new(request: &Request<'_>, digest: String, xen: &str, report: &Report) -> Kept {
        let looks = report.story.looks.iter();
        Kept {
            digest,
            flavour: request.flavour.to_owned(),
            xen: shown(xen),
            long: request.long,
            seed: request.seed,
            variables: request.variables.clone(),
            faults: report.verdict.faults.clone(),
            exchanges: report.story.exchanges,
            remarks: remarks(report).map(str::to_owned).collect(),
            reasons: reasons(report),
            looks: looks
                .map(|look| (look.tag.clone(), row(request.flavour, look)))
                .collect(),
        }
    }

    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn has_looks(&self) -> bool {
        !self.looks.is_empty()
    }

    fn path(place: &Place, scenario: &str, flavour: &str, long: bool) -> PathBuf {
        let form = form(long);
        place
            .out()
            .join(format!("cache/lab/linux/{scenario}@{flavour}@{form}.json"))
    }

    /// The last run of a scenario in this form, if it is known.
    pub fn load(place: &Place, scenario: &str, flavour: &str, long: bool) -> Option<Kept> {
        let bytes = fs::read(Kept::path(place, scenario, flavour, long)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Remembers it, in the place of the last one.
    pub fn store(&self, place: &Place, scenario: &str) -> Result<()> {
        let path = Kept::path(place, scenario, &self.flavour, self.long);
        let dir = path.parent().context("a file has a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, self)?;
        file.persist(&path)?;
        Ok(())
    }

    /// The run that the document shows: one of Xen as it is now, and a long one rather than a short one.
    fn best(place: &Place, scenario: &str, flavour: &str) -> Option<Kept> {
        let now = xen_shown(place, flavour).ok();
        [true, false]
            .into_iter()
            .filter_map(|long| Kept::load(place, scenario, flavour, long))
            // The first of equals.
            .min_by_key(|kept| Some(&kept.xen) != now.as_ref())
    }
}

fn form(long: bool) -> &'static str {
    if long { "long" } else { "short" }
}

/// A digest for people.
fn shown(digest: &str) -> String {
    digest.chars().take(SHOWN).collect()
}

/// Which Xen is there now, for people.
fn xen_shown(place: &Place, flavour: &str) -> Result<String> {
    Ok(shown(&hex(&sha256(&place.xen(flavour)?)?)))
}

/// The looks of some runs as a table, each look on one Xen under that on the other.
pub fn looks_table(runs: &[&Kept]) -> String {
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
    for (tag, _) in runs.iter().flat_map(|kept| &kept.looks) {
        if !tags.contains(&tag.as_str()) {
            tags.push(tag);
        }
    }
    for tag in tags {
        for kept in runs {
            for (_, row) in kept.looks.iter().filter(|(of, _)| of == tag) {
                table.add_row(row);
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
fn section(scenario: &Scenario, runs: &[&Kept]) -> String {
    let mut text = format!(
        "## {}\n\n{}.\n\n`make -f build.mk lab SCENARIO={}`\n\n",
        scenario.name, scenario.shows, scenario.name
    );
    if runs.is_empty() {
        text += "Not run.\n";
    }
    for kept in runs {
        let verdict = if kept.passed() { "pass" } else { "**FAIL**" };
        let mut form = format!("{} form, seed {}", form(kept.long), kept.seed);
        for (name, value) in &kept.variables {
            let _ = write!(form, ", {name}={value}");
        }
        let _ = writeln!(
            text,
            "- {} ({}; {form}): {verdict}; the control domain's boot exchanged {} pages",
            kept.flavour, kept.xen, kept.exchanges
        );
        let reasons = kept.reasons.iter();
        let reasons = reasons.map(|reasons| format!("refusals by reason: {reasons}"));
        for line in kept
            .faults
            .iter()
            .chain(&kept.remarks)
            .cloned()
            .chain(reasons)
        {
            let _ = writeln!(text, "  - {line}");
        }
    }
    if runs.iter().any(|kept| kept.has_looks()) {
        let _ = write!(text, "\n{}", looks_table(runs));
    }
    text
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
         differs by a few from run\nto run. Each run says which Xen it was on: the start of the \
         SHA-256 of its ELF file.\n\n",
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
        let flavours = scenario.before.iter().chain(&scenario.flavours);
        let kept: Vec<Kept> = flavours
            .filter_map(|flavour| Kept::best(place, &scenario.name, flavour))
            .collect();
        let runs: Vec<&Kept> = kept.iter().collect();
        let _ = write!(text, "\n{}", section(scenario, &runs));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(flavour: &str, long: bool, xen: &str) -> Kept {
        Kept {
            digest: "d".to_owned(),
            flavour: flavour.to_owned(),
            xen: xen.to_owned(),
            long,
            seed: 7,
            variables: vec![("MINUTES".to_owned(), "3".to_owned())],
            faults: vec![],
            exchanges: 3,
            remarks: vec!["a remark".to_owned()],
            reasons: None,
            looks: vec![("born".to_owned(), vec!["born".to_owned(); 9])],
        }
    }

    #[test]
    fn the_document_shows_a_long_run_of_xen_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        assert_eq!(Kept::best(&place, "one", "release"), None);
        let (short, long) = (kept("release", false, "x"), kept("release", true, "y"));
        short.store(&place, "one").unwrap();
        assert_eq!(Kept::best(&place, "one", "release"), Some(short.clone()));
        long.store(&place, "one").unwrap();
        assert_eq!(Kept::best(&place, "one", "release"), Some(long));
        assert_eq!(Kept::best(&place, "one", "debug"), None);

        // There is a Xen, and it is that of the short run.
        let xen = dir.path().join("release/xen.gz");
        fs::create_dir_all(xen.parent().unwrap()).unwrap();
        let packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        fs::write(&xen, packed.finish().unwrap()).unwrap();
        let now = kept("release", false, &xen_shown(&place, "release").unwrap());
        now.store(&place, "one").unwrap();
        assert_eq!(Kept::best(&place, "one", "release"), Some(now));
    }

    #[test]
    fn a_section_says_what_failed() {
        let table = Scenarios::built_in().unwrap();
        let scenario = table.scenario("hello").unwrap();
        assert!(section(&scenario, &[]).contains("Not run."));
        let mut bad = kept("release", false, "x");
        bad.faults.push("no look".to_owned());
        let text = section(&scenario, &[&kept("stock-release", true, "y"), &bad]);
        assert!(
            text.contains("- stock-release (y; long form, seed 7, MINUTES=3): pass"),
            "{text}"
        );
        assert!(
            text.contains("**FAIL**") && text.contains("  - no look\n"),
            "{text}"
        );
        assert!(text.contains("| born "), "{text}");
    }
}
