// SPDX-License-Identifier: GPL-2.0-only
//! What is promised as a number, in SPEC.md, against what was measured.
//!
//! The table there is read as it is: a promise, a figure (an expression of counters), a limit, and
//! the machines on which it holds.

use anyhow::{Context, Result, ensure};
use comfy_table::{Cell, CellAlignment, Color, Table, presets};

use crate::figures::{BUILD, CORE, Figures};
use crate::tables::Tables;

const SPEC: &str = include_str!("../../../SPEC.md");

/// Which side is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    AtMost,
    AtLeast,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    pub text: String,
    pub figure: String,
    pub side: Side,
    /// An expression, too.
    pub limit: String,
    pub machine: String,
}

/// A promise and what came of it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub promise: Promise,
    /// Measured and limit; an error is a promise that was not looked at, and so broken.
    pub values: Result<(f64, f64), String>,
}

impl Kept {
    pub fn kept(&self) -> bool {
        match (&self.values, self.promise.side) {
            (Ok((value, limit)), Side::AtMost) => value <= limit,
            (Ok((value, limit)), Side::AtLeast) => value >= limit,
            (Err(_), _) => false,
        }
    }

    /// What is left to the limit, in percent of it.
    fn margin(&self) -> Option<f64> {
        let (value, limit) = *self.values.as_ref().ok()?;
        let left = match self.promise.side {
            Side::AtMost => limit - value,
            Side::AtLeast => value - limit,
        };
        (limit != 0.0).then(|| 100.0 * left / limit)
    }
}

/// The promises of SPEC.md.
pub fn promises(tables: &Tables) -> Result<Vec<Promise>> {
    parse(SPEC, tables)
}

fn parse(text: &str, tables: &Tables) -> Result<Vec<Promise>> {
    let mut promises = vec![];
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        // Other tables, the heads of tables, and the line below them.
        let [what, figure, limit, machines] = cells[..] else {
            continue;
        };
        if figure == "figure" || figure.starts_with("--") {
            continue;
        }
        let (side, limit) = match limit.split_once(' ') {
            Some(("≤", limit)) => (Side::AtMost, limit),
            Some(("≥", limit)) => (Side::AtLeast, limit),
            _ => anyhow::bail!("SPEC.md: a limit is ≤ or ≥ and a number: {line}"),
        };
        for machine in machines.split(',').map(str::trim) {
            ensure!(
                [BUILD, CORE].contains(&machine) || tables.machine(machine).is_ok(),
                "SPEC.md: there is no machine {machine}: {line}"
            );
            promises.push(Promise {
                text: what.to_owned(),
                figure: figure.trim_matches('`').to_owned(),
                side,
                limit: limit.trim_matches('`').to_owned(),
                machine: machine.to_owned(),
            });
        }
    }
    ensure!(!promises.is_empty(), "SPEC.md has no promises");
    Ok(promises)
}

/// Each promise against the figures.
pub fn check(promises: Vec<Promise>, figures: &Figures) -> Vec<Kept> {
    promises
        .into_iter()
        .map(|promise| {
            let both = || {
                Ok((
                    figures.value(&promise.machine, &promise.figure)?,
                    figures.value(&promise.machine, &promise.limit)?,
                ))
            };
            let values = both().map_err(|error: anyhow::Error| format!("{error:#}"));
            Kept { promise, values }
        })
        .collect()
}

/// A number with as many digits as matter.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}")
    }
}

/// Promise, measured, margin.
pub fn table(kept: &[Kept], colour: bool) -> Result<String> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(["promise", "machine", "measured", "promised", "margin", ""]);
    let mut errors = String::new();
    for one in kept {
        let (measured, promised) = match &one.values {
            Ok((value, limit)) => (number(*value), number(*limit)),
            Err(error) => {
                errors += &format!("  {}: {error}\n", one.promise.text);
                ("?".to_owned(), one.promise.limit.clone())
            }
        };
        let side = match one.promise.side {
            Side::AtMost => "≤",
            Side::AtLeast => "≥",
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let (word, paint) = if one.kept() {
            ("kept", Color::Green)
        } else {
            ("BROKEN", Color::Red)
        };
        table.add_row([
            Cell::new(&one.promise.text),
            Cell::new(&one.promise.machine),
            right(measured),
            right(format!("{side} {promised}")),
            right(one.margin().map_or("".to_owned(), |m| format!("{m:.1} %"))),
            Cell::new(word).fg(paint),
        ]);
    }
    let broken = kept.iter().filter(|one| !one.kept()).count();
    let last = format!("{} promises kept, {broken} broken", kept.len() - broken);
    Ok(format!("{table}\n{errors}{last}\n"))
}

/// Reads and checks SPEC.md; what to print, and whether all is kept.
pub fn judged(tables: &Tables, figures: &Figures, colour: bool) -> Result<(String, bool)> {
    let kept = check(promises(tables).context("SPEC.md")?, figures);
    Ok((table(&kept, colour)?, kept.iter().all(Kept::kept)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_spec_can_be_read() {
        let promises = promises(&Tables::built_in().unwrap()).unwrap();
        assert!(promises.len() > 10);
    }

    const TEXT: &str = "\
| promise | figure | limit | machines |
|---|---|---|---|
| cheap | `x / stock.x` | ≤ 0.5 | qemu-npt, bochs-ept |
| many | `x` | ≥ 10 | qemu-npt |
";

    #[test]
    fn a_broken_promise_is_one() {
        let tables = Tables::built_in().unwrap();
        let promises = parse(TEXT, &tables).unwrap();
        assert_eq!(promises.len(), 3);

        let mut figures = Figures::default();
        let mut add = |machine, flavour, n| {
            figures.add(machine, flavour, &BTreeMap::from([("x".to_owned(), n)]));
        };
        add("qemu-npt", "release", 10);
        add("qemu-npt", "stock-release", 20);
        add("bochs-ept", "release", 11);
        add("bochs-ept", "stock-release", 20);
        let kept = check(promises.clone(), &figures);
        let verdicts: Vec<bool> = kept.iter().map(Kept::kept).collect();
        assert_eq!(verdicts, [true, false, true]);
        insta::assert_snapshot!(table(&kept, false).unwrap());

        // What was not measured is not kept.
        figures.0.remove("bochs-ept");
        let kept = check(promises, &figures);
        assert!(!kept[1].kept());
        let text = table(&kept, false).unwrap();
        assert!(text.contains("no run gave the figure x"), "{text}");
        assert!(text.ends_with("2 promises kept, 1 broken\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let tables = Tables::built_in().unwrap();
        for (from, to, complaint) in [
            ("≤ 0.5", "0.5", "a limit is"),
            ("bochs-ept", "vax", "no machine vax"),
        ] {
            let error = parse(&TEXT.replace(from, to), &tables).unwrap_err();
            assert!(error.to_string().contains(complaint), "{error}");
        }
        assert!(parse("", &tables).is_err());
    }
}
