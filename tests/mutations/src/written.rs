// SPDX-License-Identifier: GPL-2.0-only
//! What `docs/xsa.md` says, against `mutations.toml`: a row whose mutation or test
//! is not there, or that breaks something else, would be a promise that nobody
//! keeps.

use crate::Mutation;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;

/// How many invariants there are.
pub const INVARIANTS: u32 = 14;

/// Cells of the rows of the table below a heading, without its own two lines.
fn rows<'t>(text: &'t str, heading: &str) -> Result<Vec<Vec<&'t str>>> {
    let (_, below) = text
        .split_once(&format!("\n## {heading}\n"))
        .with_context(|| format!("docs/xsa.md: no {heading:?}"))?;
    let below = below.split("\n## ").next().unwrap_or(below);
    let rows = below.lines().filter(|line| line.starts_with('|'));

    Ok(rows
        .skip(2)
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect())
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The numbers of invariants in a cell; an en dash: none of them.
fn numbers(cell: &str) -> Result<BTreeSet<u32>> {
    match cell {
        "–" => Ok(BTreeSet::new()),
        _ => cell
            .split(',')
            .map(|n| n.trim().parse().with_context(|| cell.to_owned()))
            .collect(),
    }
}

pub fn check(text: &str, mutations: &[Mutation]) -> Result<()> {
    let named = |name: &str| mutations.iter().find(|m| m.name == name);
    let invariants = rows(text, "Invariants")?;

    ensure!(
        invariants.len() == INVARIANTS as usize,
        "docs/xsa.md has {} invariants",
        invariants.len()
    );
    for (number, row) in (1..).zip(&invariants) {
        let [first, rule, cell] = row[..] else {
            bail!("docs/xsa.md: a row of invariants has {} cells", row.len());
        };
        ensure!(first == number.to_string() && !rule.is_empty(), "{row:?}");
        let told: BTreeSet<&str> = quoted(cell).filter(|name| named(name).is_some()).collect();
        let real: BTreeSet<&str> = mutations
            .iter()
            .filter(|m| m.invariants.contains(&number))
            .map(|m| m.name.as_str())
            .collect();
        ensure!(!real.is_empty(), "no mutation breaks invariant {number}");
        ensure!(
            told == real,
            "invariant {number}: docs/xsa.md names {told:?}, and mutations.toml has {real:?}"
        );
    }

    let mut seen = BTreeSet::new();
    for row in rows(text, "Advisories")? {
        let [advisory, lesson, broken, tests, cell] = row[..] else {
            bail!("docs/xsa.md: a row of advisories has {} cells", row.len());
        };
        let at = format!("docs/xsa.md: XSA-{advisory}");
        for number in advisory.split(',').map(str::trim) {
            ensure!(number.parse::<u32>().is_ok() && seen.insert(number), "{at}");
        }
        ensure!(!lesson.is_empty(), "{at} teaches nothing");
        let broken = numbers(broken).context(at.clone())?;
        let mut noticed = 0;
        for name in quoted(cell) {
            let m = named(name).with_context(|| format!("{at}: there is no {name}"))?;
            let (_, _, test) = m.target()?;
            let test = test.rsplit("::").next().unwrap_or(test);
            ensure!(
                quoted(tests).any(|t| t.ends_with(test)),
                "{at}: {name} is noticed by {test}, which is not named"
            );
            ensure!(
                broken.is_empty() || m.invariants.iter().any(|n| broken.contains(n)),
                "{at}: {name} breaks {:?}",
                m.invariants
            );
            noticed += 1;
        }
        ensure!(noticed > 0, "{at}: no mutation");
    }
    ensure!(!seen.is_empty(), "docs/xsa.md has no advisories");
    Ok(())
}
