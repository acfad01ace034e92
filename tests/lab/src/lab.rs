// SPDX-License-Identifier: GPL-2.0-only
//! One run from beginning to end: boot, watch, judge, and read the trace.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use regex::Regex;

use crate::console::Line;
use crate::emulator::{self, Boot};
use crate::extract::{Extract, extract};
use crate::place::Place;
use crate::run::{self, Job};
use crate::tables::{Machine, XEN_COMMAND_LINE};
use crate::verdict::{Expectation, Facts, Fault, Verdict, judge};

/// Lines of the console that are shown when something went wrong.
const LAST_LINES: usize = 30;

/// Which hypervisor to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xen {
    Flavour(String),
    File(PathBuf),
}

impl Xen {
    pub fn name(&self) -> &str {
        match self {
            Xen::Flavour(name) => name,
            Xen::File(_) => "given",
        }
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// What the run is called.
    pub name: &'a str,
    pub guest: &'a str,
    pub machine: &'a Machine,
    /// Memory that it has here, where that is not what it has for others.
    pub memory_mib: Option<u64>,
    pub xen: Xen,
    /// Added to Xen's command line.
    pub words: String,
    pub limit: Duration,
    pub expect: &'a Expectation,
}

impl Request<'_> {
    /// The name of this run in full; no two of a table have the same.
    pub fn title(&self) -> String {
        format!("{}@{}@{}", self.name, self.machine.name, self.xen.name())
    }

    pub fn command_line(&self) -> String {
        [XEN_COMMAND_LINE, &self.machine.xen, &self.words]
            .into_iter()
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub verdict: Verdict,
    pub facts: Facts,
    pub wall: Duration,
    pub console_log: PathBuf,
    /// The trace and where it is.
    pub trace: Option<(PathBuf, Extract)>,
    /// The end of the console.
    pub last_lines: Vec<String>,
    /// What the emulator itself said.
    pub emulator_words: String,
}

impl Report {
    /// What is wrong, for a person: one line each, and the end of the console where that helps.
    pub fn complaint(&self) -> String {
        let mut text = String::new();
        // A panic repeats the assertion that led to it.
        let mut told = HashSet::new();
        for fault in self.verdict.faults.iter().map(ToString::to_string) {
            if told.insert(fault.clone()) {
                text += &format!("  - {fault}\n");
            }
        }
        if self.verdict.wants_console() {
            if !self.emulator_words.is_empty() {
                text += "  the emulator says:\n";
                text += &indented(self.emulator_words.lines());
            }
            text += &match self.last_lines.len() {
                0 => "  the console stayed empty\n".to_owned(),
                n => format!("  the last {n} lines of the console:\n"),
            };
            text += &indented(self.last_lines.iter().map(String::as_str));
        }
        text + &format!("  console: {}\n", self.console_log.display())
    }
}

fn indented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| format!("    | {line}\n")).collect()
}

/// Runs what is asked for. An error is something that kept it from being run at all.
pub fn perform(
    place: &Place,
    request: &Request<'_>,
    on_line: &mut dyn FnMut(&Line),
) -> Result<Report> {
    let xen = match &request.xen {
        Xen::Flavour(name) => place.xen(name)?,
        Xen::File(path) => place.foreign_xen(path)?,
    };
    let guest = place.guest(request.guest)?;
    let logs = place.logs(&request.title())?;

    let command_line = request.command_line();
    let machine = Machine {
        memory_mib: request.memory_mib.unwrap_or(request.machine.memory_mib),
        ..request.machine.clone()
    };
    let launch = emulator::by_name(&request.machine.emulator)?.launch(&Boot {
        machine: &machine,
        xen: &xen,
        guest: &guest,
        command_line: &command_line,
        scratch: &place.out().join("cache/lab"),
        logs: &logs.dir,
    })?;
    let outcome = run::run(
        Job {
            command: launch.command,
            logs: logs.dir.clone(),
            limit: request.limit,
            inherited: launch.inherited,
            console: launch.console,
        },
        on_line,
    )?;

    let facts = Facts::from_lines(&outcome.lines);
    let mut verdict = judge(&facts, &outcome.end, request.expect)?;

    // The emulator is gone, but its memory is still here.
    let trace = match launch.ram.map(|ram| extract(&ram, &facts)) {
        Some(Ok(Some(trace))) => {
            let path = logs.dir.join("trace.bin");
            fs::write(&path, &trace.file)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Some((path, trace))
        }
        Some(Err(error)) => {
            verdict.faults.push(Fault::Trace(format!("{error:#}")));
            None
        }
        Some(Ok(None)) | None => None,
    };

    drop(launch.files);

    Ok(Report {
        verdict,
        facts,
        wall: outcome.wall,
        console_log: run::console_log(&logs.dir),
        trace,
        last_lines: last_lines(&outcome.lines),
        emulator_words: tail(&run::emulator_log(&logs.dir)),
    })
}

static RAW_STACK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^ *[0-9a-f]{16}( [0-9a-f]{16})*$").expect("a constant"));

/// The end of the console, without raw words of the stack: the call trace says it better, and they
/// are in the log.
pub(crate) fn last_lines(lines: &[Line]) -> Vec<String> {
    let lines: Vec<String> = lines
        .iter()
        .filter(|line| !(line.from_xen() && RAW_STACK.is_match(&line.text)))
        .map(Line::to_string)
        .collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}

/// The end of a file, if there is anything.
fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
