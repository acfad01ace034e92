// SPDX-License-Identifier: GPL-2.0-only
//! The figures of a run as a table, and as `out/bench.json` for programs: each beside what it is to
//! be compared with.

use anyhow::{Context, Result, ensure};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::figures::{BUILD, CORE, Figures, STOCK};
use crate::spec::number;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub machine: String,
    pub metric: &'static str,
    pub value: f64,
    /// What it is compared with: the same of an unpatched Xen, or what the table below says.
    pub reference: Option<f64>,
    pub ratio: Option<f64>,
}

/// What an unpatched Xen does not have, and what it has instead. An exchange is compared with
/// ballooning the same pages out and in.
const INSTEAD: &[(&str, &str)] = &[
    ("exchange_1", "stock.decrease_1 + stock.populate_1"),
    ("exchange_512", "stock.decrease_512 + stock.populate_512"),
    ("exchange_2m", "stock.decrease_2m + stock.populate_2m"),
    ("act_nothing", "bare_copy_2m"),
    ("promote", "bare_copy_2m"),
    ("complete_1", "bare_copy_2m"),
    ("complete_8", "bare_copy_2m"),
    ("complete_64", "bare_copy_2m"),
    ("complete_cycle_2", "bare_copy_2m"),
    ("complete_swap_1", "bare_copy_2m"),
    ("migrate", "bare_copy_2m"),
    ("migrate_hold", "migrate_copy"),
    ("complete_64_hold", "complete_64_copy"),
    ("listening_decrease_1", "stock.decrease_1"),
    ("listening_populate_1", "stock.populate_1"),
    ("listening_decrease_512", "stock.decrease_512"),
    ("listening_populate_512", "stock.populate_512"),
];

fn metric(name: &str, machine: &str) -> &'static str {
    match name {
        _ if machine == BUILD => "bytes",
        // How long a lock was held.
        _ if name.ends_with("_hold") => "instructions under the p2m lock",
        _ => "instructions",
    }
}

/// What both have, and what is compared with something else.
pub fn rows(figures: &Figures) -> Result<Vec<Row>> {
    let mut rows = vec![];
    for (machine, names) in &figures.0 {
        for (name, &value) in names.iter().filter(|(name, _)| !name.starts_with(STOCK)) {
            let instead = INSTEAD.iter().find(|(n, _)| n == name).map(|(_, e)| *e);
            let reference = match (instead, names.get(&format!("{STOCK}{name}"))) {
                (Some(expression), _) => Some(figures.value(machine, expression)?),
                (None, Some(&stock)) => Some(stock),
                (None, None) if machine == BUILD || machine == CORE => None,
                // A counter, not a cost.
                (None, None) => continue,
            };
            rows.push(Row {
                name: name.clone(),
                machine: machine.clone(),
                metric: metric(name, machine),
                value,
                reference,
                ratio: reference.filter(|r| *r != 0.0).map(|r| value / r),
            });
        }
    }
    ensure!(!rows.is_empty(), "there are no figures");
    Ok(rows)
}

/// What no emulated machine takes part in has rows of its own.
fn without_machine(row: &Row) -> bool {
    row.machine == BUILD || row.machine == CORE
}

/// For a person: figures down, machines across; each beside how many times what it is compared with
/// it is.
pub fn machines(rows: &[Row]) -> String {
    let mut machines = vec![];
    let mut names = vec![];
    for row in rows.iter().filter(|row| !without_machine(row)) {
        if !machines.contains(&row.machine) {
            machines.push(row.machine.clone());
        }
        if !names.contains(&row.name) {
            names.push(row.name.clone());
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).force_no_tty();
    table.set_header(
        std::iter::once("figure".to_owned()).chain(
            machines
                .iter()
                .flat_map(|name| [name.clone(), "ratio".to_owned()]),
        ),
    );
    for name in names {
        let mut line = vec![Cell::new(&name)];
        for machine in &machines {
            let row = rows
                .iter()
                .find(|row| row.name == name && row.machine == *machine);
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            line.push(right(row.map_or(String::new(), |row| number(row.value))));
            let ratio = row.and_then(|row| row.ratio);
            line.push(right(
                ratio.map_or(String::new(), |ratio| format!("{ratio:.3}")),
            ));
        }
        table.add_row(line);
    }
    format!("{table}\n")
}

/// The same of what needs no machine: the build, and the core by itself.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).force_no_tty();
    table.set_header(["of", "name", "value", "reference", "ratio", "metric"]);
    for row in rows.iter().filter(|row| without_machine(row)) {
        let right = |value: Option<f64>| {
            Cell::new(value.map_or(String::new(), number)).set_alignment(CellAlignment::Right)
        };
        table.add_row([
            Cell::new(&row.machine),
            Cell::new(&row.name),
            right(Some(row.value)),
            right(row.reference),
            right(row.ratio),
            Cell::new(row.metric),
        ]);
    }
    format!("{table}\n")
}

/// For a program.
pub fn json(rows: &[Row]) -> Result<String> {
    let text = serde_json::to_string_pretty(rows).context("figures as JSON")?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn each_beside_its_reference() {
        let mut figures = Figures::default();
        let counts = |list: &[(&str, u64)]| -> BTreeMap<String, u64> {
            list.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
        };
        let ours = [
            ("decrease_1", 12),
            ("populate_1", 8),
            ("exchange_1", 5),
            ("looked_at", 3),
        ];
        figures.add("m", "release", &counts(&ours));
        figures.add(
            "m",
            "stock-release",
            &counts(&[("decrease_1", 10), ("populate_1", 10)]),
        );
        figures.add(
            BUILD,
            "release",
            &counts(&[("xen_gz", 110), ("ledger", 530)]),
        );
        figures.add(BUILD, "stock-release", &counts(&[("xen_gz", 100)]));
        figures.add("n", "release", &counts(&[("decrease_1", 33)]));
        figures.add("n", "stock-release", &counts(&[("decrease_1", 30)]));
        figures.add(CORE, "release", &counts(&[("ledger_touch", 40)]));
        let rows = rows(&figures).unwrap();
        insta::assert_snapshot!(machines(&rows) + &table(&rows) + &json(&rows).unwrap());
    }
}
