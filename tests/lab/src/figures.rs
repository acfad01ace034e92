// SPDX-License-Identifier: GPL-2.0-only
//! Figures: what guests counted, by machine, ours beside those of an unpatched Xen of the same run;
//! and arithmetic with their names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;

/// The machine of what no machine is needed to measure: sizes of what was built.
pub const BUILD: &str = "build";

/// The machine of what runs without Xen and without an emulator: operations of the core.
pub const CORE: &str = "core";

/// Before the name of a figure of an unpatched Xen.
pub const STOCK: &str = "stock.";

/// Figures by machine and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(pub BTreeMap<String, BTreeMap<String, f64>>);

impl Figures {
    /// Adds what one run counted.
    pub fn add(&mut self, machine: &str, flavour: &str, counts: &BTreeMap<String, u64>) {
        let prefix = if flavour.starts_with("stock") {
            STOCK
        } else {
            ""
        };
        let here = self.0.entry(machine.to_owned()).or_default();
        for (name, value) in counts {
            #[allow(clippy::cast_precision_loss)] // below 2^53, or nothing is the same any more
            here.insert(format!("{prefix}{name}"), *value as f64);
        }
    }

    /// Adds sizes of what was built.
    pub fn add_build(&mut self, place: &Place) -> Result<()> {
        let mut sizes = BTreeMap::new();
        for (flavour, name) in [("release", "xen_gz"), ("stock-release", "stock.xen_gz")] {
            let file = place.out().join(flavour).join("xen.gz");
            let size = fs::metadata(&file)
                .with_context(|| format!("cannot see {}", file.display()))?
                .len();
            sizes.insert(name.to_owned(), size);
        }
        // One leaf, and the slot in the root that leads to it: a pointer.
        let leaf = size_of::<p2m::ledger::Leaf>() + size_of::<p2m::ledger::Slot<&mut ()>>();
        sizes.insert("ledger_bytes_per_gib".to_owned(), leaf as u64);
        self.add(BUILD, "release", &sizes);
        Ok(())
    }

    /// Adds what operations of the core take, as callgrind counts it: instructions of `core-cost`.
    pub fn add_core(&mut self, place: &Place) -> Result<()> {
        let program = place.core_cost()?;
        let names = output(Command::new(&program))?;
        let mut counts = BTreeMap::new();
        for name in names.lines() {
            counts.insert(name.to_owned(), callgrind(&program, name)?);
        }
        self.add(CORE, "release", &counts);
        Ok(())
    }

    /// The value of an expression on one machine.
    pub fn value(&self, machine: &str, expression: &str) -> Result<f64> {
        let none = BTreeMap::new();
        let names = self.0.get(machine).unwrap_or(&none);
        let value = evaluate(expression, &|name| names.get(name).copied())
            .with_context(|| format!("{expression} on {machine}"))?;
        ensure!(
            value.is_finite(),
            "{expression} on {machine} divides by nothing"
        );
        Ok(value)
    }
}

/// What a program prints, if it succeeds.
fn output(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}: 'make -f build.mk deps' installs it"))?;
    ensure!(
        output.status.success(),
        "{program}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Instructions that one operation takes. The same words and the same environment lie
/// on its stack each time, wherever the program is: what is copied takes other
/// instructions at another place.
fn callgrind(program: &Path, name: &str) -> Result<u64> {
    let folder = program.parent().context("a program is in a folder")?;
    let file_name = program.file_name().context("a program has a name")?;
    let file = tempfile::NamedTempFile::new().context("a file for callgrind")?;
    let mut command = Command::new("valgrind");
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir(folder)
        .args([
            "--tool=callgrind",
            "--quiet",
            "--collect-atstart=no",
            "--toggle-collect=*measured*",
        ])
        .arg(format!("--callgrind-out-file={}", file.path().display()))
        .arg(Path::new(".").join(file_name))
        .arg(name);
    output(command)?;
    let text = fs::read_to_string(file.path()).context("what callgrind has counted")?;
    counted(&text).with_context(|| format!("callgrind has counted nothing for {name}"))
}

/// The sum in a file of callgrind's.
fn counted(text: &str) -> Option<u64> {
    let sum = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))?;
    sum.trim().parse().ok().filter(|&sum| sum != 0)
}

/// `+ - * /`, parentheses, numbers, and names that `lookup` knows.
pub fn evaluate(text: &str, lookup: &dyn Fn(&str) -> Option<f64>) -> Result<f64> {
    let mut reader = Reader { rest: text, lookup };
    let value = reader.sum()?;
    let rest = reader.rest.trim_start();
    ensure!(rest.is_empty(), "cannot read {rest:?} in {text:?}");
    Ok(value)
}

struct Reader<'a> {
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<f64>,
}

impl Reader<'_> {
    fn take(&mut self, signs: &[char]) -> Option<char> {
        self.rest = self.rest.trim_start();
        let sign = self.rest.chars().next().filter(|c| signs.contains(c))?;
        self.rest = &self.rest[1..];
        Some(sign)
    }

    fn sum(&mut self) -> Result<f64> {
        let mut value = self.product()?;
        while let Some(sign) = self.take(&['+', '-']) {
            let next = self.product()?;
            value += if sign == '+' { next } else { -next };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<f64> {
        let mut value = self.factor()?;
        while let Some(sign) = self.take(&['*', '/']) {
            let next = self.factor()?;
            value = if sign == '*' {
                value * next
            } else {
                value / next
            };
        }
        Ok(value)
    }

    fn factor(&mut self) -> Result<f64> {
        if self.take(&['(']).is_some() {
            let value = self.sum()?;
            ensure!(self.take(&[')']).is_some(), "a ) is missing");
            return Ok(value);
        }
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            bail!("a number or a name is missing before {rest:?}");
        }
        self.rest = rest;
        if let Ok(number) = word.parse() {
            return Ok(number);
        }
        (self.lookup)(word).with_context(|| format!("no run gave the figure {word}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic() {
        let lookup = |name: &str| match name {
            "a" => Some(6.0),
            "stock.b_2m" => Some(3.0),
            _ => None,
        };
        for (text, value) in [
            ("a / stock.b_2m", 2.0),
            ("(a - 2) * 3 - 1", 11.0),
            ("0.05 + 1.5 * 16 / 512", 0.096875),
            (" a ", 6.0),
            ("2-1-1", 0.0),
        ] {
            assert_eq!(evaluate(text, &lookup).unwrap(), value, "{text}");
        }
        for (text, complaint) in [
            ("c", "no run gave the figure c"),
            ("a a", "cannot read"),
            ("(a", "a ) is missing"),
            ("a +", "a number or a name is missing"),
            ("", "a number or a name is missing"),
        ] {
            let error = evaluate(text, &lookup).unwrap_err().to_string();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn figures_side_by_side() {
        let mut figures = Figures::default();
        let counts = |n| BTreeMap::from([("x".to_owned(), n)]);
        figures.add("m", "release", &counts(6));
        figures.add("m", "stock-release", &counts(4));
        assert_eq!(figures.value("m", "x / stock.x").unwrap(), 1.5);
        assert!(figures.value("m", "x / 0").is_err());
        assert!(figures.value("n", "x").is_err());
    }
}
