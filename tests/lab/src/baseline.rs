// SPDX-License-Identifier: GPL-2.0-only
//! What an unpatched Xen costs, as it was measured once and is kept in baseline.json.
//!
//! Promises are ratios to an unpatched Xen of the same run. Should that one become more expensive,
//! with another compiler or another version, they would be kept more easily, and nobody would see:
//! so it is compared with what it was.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::figures::{BUILD, Figures, STOCK};
use crate::spec::{Promise, number, promises};
use crate::tables::Tables;

const BASELINE: &str = include_str!("../baseline.json");

/// How far a figure may be from what it was, in percent of that: as much as another compiler makes.
pub const DRIFT: f64 = 5.0;

/// Figures of an unpatched Xen, by machine and name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Baseline(pub BTreeMap<String, BTreeMap<String, f64>>);

/// One figure, then and now.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    pub machine: String,
    pub name: String,
    pub then: Option<f64>,
    pub now: Option<f64>,
}

impl Drift {
    /// In percent of what it was; none if it was not measured then or now.
    pub fn percent(&self) -> Option<f64> {
        let (then, now) = (self.then?, self.now?);
        (then != 0.0).then(|| 100.0 * (now - then) / then)
    }

    pub fn small(&self) -> bool {
        self.percent().is_some_and(|percent| percent.abs() <= DRIFT)
    }
}

impl Baseline {
    /// The one that is kept.
    pub fn built_in() -> Result<Baseline> {
        serde_json::from_str(BASELINE).context("baseline.json")
    }

    /// Of all that was measured, what promises are compared with.
    pub fn of(promises: &[Promise], figures: &Figures) -> Baseline {
        let names = Regex::new(r"stock\.\w+").expect("a regular expression");
        let mut baseline = Baseline::default();
        for promise in promises.iter().filter(|promise| promise.machine != BUILD) {
            let Some(here) = figures.0.get(&promise.machine) else {
                continue;
            };
            for name in names.find_iter(&promise.figure).map(|found| found.as_str()) {
                if let Some(value) = here.get(name) {
                    let names = baseline.0.entry(promise.machine.clone()).or_default();
                    names.insert(name.trim_start_matches(STOCK).to_owned(), *value);
                }
            }
        }
        baseline
    }

    /// Each figure of either.
    pub fn against(&self, now: &Baseline) -> Vec<Drift> {
        let mut drifts = vec![];
        for (machine, names) in &self.0 {
            for (name, then) in names {
                drifts.push(Drift {
                    machine: machine.clone(),
                    name: name.clone(),
                    then: Some(*then),
                    now: now
                        .0
                        .get(machine)
                        .and_then(|names| names.get(name))
                        .copied(),
                });
            }
        }
        for (machine, names) in &now.0 {
            for (name, value) in names {
                let known = self
                    .0
                    .get(machine)
                    .is_some_and(|then| then.contains_key(name));
                if !known {
                    drifts.push(Drift {
                        machine: machine.clone(),
                        name: name.clone(),
                        then: None,
                        now: Some(*value),
                    });
                }
            }
        }
        drifts
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("figures as JSON")?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// For a person: then, now, difference.
pub fn table(drifts: &[Drift]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).force_no_tty();
    table.set_header(["machine", "unpatched Xen", "then", "now", "difference"]);
    for drift in drifts {
        let right = |text: Option<String>| {
            Cell::new(text.unwrap_or_else(|| "?".to_owned())).set_alignment(CellAlignment::Right)
        };
        table.add_row([
            Cell::new(&drift.machine),
            Cell::new(&drift.name),
            right(drift.then.map(number)),
            right(drift.now.map(number)),
            right(drift.percent().map(|percent| format!("{percent:+.2} %"))),
        ]);
    }
    format!("{table}\n")
}

/// In a line, and whether all is as it was; what is not, in a line each.
pub fn summary(drifts: &[Drift]) -> (String, bool) {
    let mut text = String::new();
    for drift in drifts.iter().filter(|drift| !drift.small()) {
        text += &match (drift.then, drift.now) {
            (Some(then), Some(now)) => format!(
                "  {} on {} took {then}, and now {now}\n",
                drift.name, drift.machine
            ),
            (None, _) => format!(
                "  {} on {} is not in baseline.json\n",
                drift.name, drift.machine
            ),
            (_, None) => format!("  {} on {} was not measured\n", drift.name, drift.machine),
        };
    }
    let largest = drifts
        .iter()
        .filter_map(Drift::percent)
        .fold(0.0, |most: f64, percent| most.max(percent.abs()));
    let good = text.is_empty() && !drifts.is_empty();
    text += &format!(
        "unpatched Xen: {} figures, at most {largest:.2} % from the committed baseline (allowed: {DRIFT} %): {}\n",
        drifts.len(),
        if good { "kept" } else { "BROKEN" },
    );
    (text, good)
}

/// What was measured against the baseline that is kept.
pub fn judged(tables: &Tables, figures: &Figures) -> Result<(String, bool)> {
    let now = Baseline::of(&promises(tables)?, figures);
    Ok(summary(&Baseline::built_in()?.against(&now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(value: f64) -> Baseline {
        let names = BTreeMap::from([("decrease_512".to_owned(), value)]);
        Baseline(BTreeMap::from([("bochs-ept".to_owned(), names)]))
    }

    #[test]
    fn each_figure_that_a_promise_names_is_in_the_baseline() {
        let promises = promises(&Tables::built_in().unwrap()).unwrap();
        let mut figures = Figures::default();
        for promise in &promises {
            let here = figures.0.entry(promise.machine.clone()).or_default();
            for word in promise
                .figure
                .split(|c: char| !c.is_alphanumeric() && !"_.".contains(c))
            {
                here.insert(word.to_owned(), 1.0);
            }
        }
        let wanted = Baseline::of(&promises, &figures);
        assert!(!wanted.0.is_empty());
        for drift in Baseline::built_in().unwrap().against(&wanted) {
            assert!(drift.then.is_some() && drift.now.is_some(), "{drift:?}");
        }
    }

    #[test]
    fn what_has_changed_is_told() {
        let told = |then: f64, now: Baseline| summary(&baseline(then).against(&now));
        assert!(told(1000.0, baseline(1040.0)).1);
        let (text, good) = told(1000.0, baseline(1060.0));
        assert!(
            !good && text.contains("decrease_512 on bochs-ept took 1000, and now 1060"),
            "{text}"
        );
        let (text, good) = told(1000.0, Baseline::default());
        assert!(!good && text.contains("was not measured"), "{text}");
        let (text, good) = summary(&Baseline::default().against(&baseline(1.0)));
        assert!(!good && text.contains("is not in baseline.json"), "{text}");
        assert!(!summary(&[]).1);
        assert!(table(&baseline(1000.0).against(&baseline(1060.0))).contains("+6.00 %"));
    }
}
