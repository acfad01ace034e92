// SPDX-License-Identifier: GPL-2.0-only
//! What the console says, and whether that is what was expected.
//!
//! [`Facts`] collects, line by line, what the guest reports and what Xen complains about.
//! [`judge`] compares them with an [`Expectation`]. Everything that is not clearly right is a
//! failure: a missing result, a skip that nobody expects, a line that cannot be read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use regex::{Regex, RegexSet};
use serde::Deserialize;
use thiserror::Error;

use crate::console::Line;
use crate::run::End;

/// The first line of every guest made with the Xen Test Framework.
const BANNER: &str = "--- Xen Test Framework ---";

/// The guest's own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
pub enum GuestResult {
    #[default]
    Success,
    Skip,
    Error,
    Failure,
}

impl GuestResult {
    fn parse(word: &str) -> Option<GuestResult> {
        Some(match word {
            "SUCCESS" => GuestResult::Success,
            "SKIP" => GuestResult::Skip,
            "ERROR" => GuestResult::Error,
            "FAILURE" => GuestResult::Failure,
            _ => return None,
        })
    }
}

impl fmt::Display for GuestResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            GuestResult::Success => "SUCCESS",
            GuestResult::Skip => "SKIP",
            GuestResult::Error => "ERROR",
            GuestResult::Failure => "FAILURE",
        })
    }
}

/// What a 2M region of the guest looks like in the second stage page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// One entry of 2M or more.
    Whole,
    /// 512 entries of 4K, all of them memory.
    Broken,
    /// Entries of 4K, not all of them memory.
    Holes,
    /// No memory at all.
    Empty,
    /// Something else: devices, foreign pages, paged out, ...
    Other,
}

impl Region {
    pub const ALL: [Region; 5] = [
        Region::Whole,
        Region::Broken,
        Region::Holes,
        Region::Empty,
        Region::Other,
    ];

    pub fn from_char(c: char) -> Option<Region> {
        Region::ALL.into_iter().find(|r| r.to_char() == c)
    }

    pub fn to_char(self) -> char {
        match self {
            Region::Whole => 'W',
            Region::Broken => 'b',
            Region::Holes => 'h',
            Region::Empty => '.',
            Region::Other => 'o',
        }
    }
}

/// A picture of the guest's memory at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    pub name: String,
    pub regions: Vec<Region>,
    /// When it was seen, counted from the start of the emulator.
    pub at: Duration,
}

/// A number that has to be the same after a test as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    pub name: String,
    pub before: u64,
    pub after: u64,
}

/// A line of the console that must not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub line: String,
    pub because: &'static str,
}

/// Where Xen says that a CPU's trace buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceBuffer {
    pub cpu: u16,
    /// The first page of the buffer.
    pub mfn: u32,
    /// Where the buffer's list of pages starts in Xen's t_info, counted in 32 bit words.
    pub offset: u16,
}

/// What is wrong with a line that starts with `@`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    #[error("no such kind of line")]
    Kind,
    #[error("wants {0}")]
    Form(&'static str),
    #[error("{0:?} is not a number")]
    Number(String),
    #[error("{0:?} stands for no kind of region")]
    Region(char),
}

/// A line of the guest that is meant for this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Phase(String),
    Map(Map),
    Count(String, u64),
    Leak(Leak),
    Reason(String, u64),
}

impl Report {
    /// Reads a line that starts with `@`.
    pub fn parse(line: &str) -> Result<Report, ProtocolError> {
        let mut words = line.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();

        let number = |word: &str| {
            word.parse::<u64>()
                .map_err(|_| ProtocolError::Number(word.to_owned()))
        };

        match (kind, words.as_slice()) {
            ("@phase", []) => Err(ProtocolError::Form("@phase NAME")),
            ("@phase", name) => Ok(Report::Phase(name.join(" "))),
            ("@map", [name @ .., chars]) if !name.is_empty() => {
                let regions = chars
                    .chars()
                    .map(|c| Region::from_char(c).ok_or(ProtocolError::Region(c)))
                    .collect::<Result<_, _>>()?;
                Ok(Report::Map(Map {
                    name: name.join(" "),
                    regions,
                    at: Duration::ZERO,
                }))
            }
            ("@map", _) => Err(ProtocolError::Form("@map NAME CHARS")),
            ("@count", [name, value]) => Ok(Report::Count((*name).to_owned(), number(value)?)),
            ("@count", _) => Err(ProtocolError::Form("@count NAME VALUE")),
            ("@reason", [name, value]) => Ok(Report::Reason((*name).to_owned(), number(value)?)),
            ("@reason", _) => Err(ProtocolError::Form("@reason NAME VALUE")),
            ("@leak", [name, before, after]) => Ok(Report::Leak(Leak {
                name: (*name).to_owned(),
                before: number(before)?,
                after: number(after)?,
            })),
            ("@leak", _) => Err(ProtocolError::Form("@leak NAME BEFORE AFTER")),
            _ => Err(ProtocolError::Kind),
        }
    }
}

/// Lines of Xen that no good run has, and what they mean. They are the texts of Xen 4.20.
const XEN_COMPLAINTS: &[(&str, &str)] = &[
    (r"Panic on CPU \d+", "Xen panicked"),
    (r"Xen BUG at ", "Xen ran into a BUG()"),
    (r"Xen WARN at ", "Xen ran into a WARN()"),
    (
        r"Assertion '.*' failed at",
        "an assertion of Xen did not hold",
    ),
    (
        r"\bFATAL\b",
        "a trap in Xen that nothing handles (FATAL TRAP, FATAL PAGE FAULT)",
    ),
    (r"(?i)\bdouble fault\b", "a double fault in Xen"),
    (
        r"\bdomain_crash(_sync)? called from",
        "Xen crashed the domain",
    ),
    (
        r"Domain \d+ .*crashed (on|by)",
        "the domain was crashed or crashed itself",
    ),
    (r"Hardware Dom\d+ crashed", "the guest crashed"),
    (
        r"Hardware Dom\d+ shutdown: watchdog|Watchdog timer (fired|detects)",
        "a watchdog fired",
    ),
    (
        r"Hardware Dom\d+ shutdown \(unknown reason",
        "the guest shut down for an unknown reason",
    ),
    (
        r"(?i)triple fault",
        "the guest ran into a triple fault, which resets it",
    ),
    (
        r"mm locking order violation",
        "locks were taken in the wrong order",
    ),
    (
        r"CHECKLOCK FAILURE|CHECKLOCK max lock depth|CHECKLOCK released",
        "a lock was used wrongly (Xen's lock checker)",
    ),
    (
        r"Bad page free|pg(\[\d+\])? MFN [0-9a-f]+ c=",
        "a page was freed or allocated in a state it cannot have",
    ),
    (
        r"Over-allocation for|Inconsistent allocation for",
        "a domain's page count is wrong",
    ),
    (
        r"p2m_set_entry: |Error \d+ (changing|manipulating) Dom|p2m->recalc failed",
        "an entry of the p2m could not be written",
    ),
    (
        r"p2m audit found|mismatch: gfn|refcounted entry count|audit failed",
        "an audit of the p2m found an error",
    ),
    (
        r"failed to unmap foreign page",
        "a foreign page stays mapped",
    ),
    (
        r"SVM violation|EPT violation|vmentry failure|Size of VMCB|Walking EPT tables",
        "the guest touched memory that is not there for it, or could not be entered",
    ),
    (
        r"IO_PAGE_FAULT|VT-D\].* fault|IOMMU (un)?mapping dfn .* failed",
        "an IOMMU complained",
    ),
    (
        r"\bUnhandled\b",
        "something happened that Xen does not handle",
    ),
    (
        r"\bundefined behaviour\b|UBSAN",
        "undefined behaviour in Xen",
    ),
    (r"__insert_record: size=", "Xen's trace buffer is damaged"),
];

/// Lines of the guest that no good run has.
const GUEST_COMPLAINTS: &[(&str, &str)] = &[(r"^PANIC: ", "the guest panicked")];

static XEN_PATTERNS: LazyLock<RegexSet> = LazyLock::new(|| patterns(XEN_COMPLAINTS));
static GUEST_PATTERNS: LazyLock<RegexSet> = LazyLock::new(|| patterns(GUEST_COMPLAINTS));

fn patterns(table: &[(&str, &str)]) -> RegexSet {
    RegexSet::new(table.iter().map(|(pattern, _)| pattern)).expect("the patterns are constants")
}

static TRACE_BUFFER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^xentrace: p(\d+) mfn ([0-9a-f]+) offset (\d+)$").expect("a constant")
});
static TRACE_PAGES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^xentrace: requesting (\d+) t_info pages for (\d+) trace pages on \d+ cpus$")
        .expect("a constant")
});

static TSC: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^Detected (\d+\.\d+) MHz processor\.$").expect("a constant"));

/// Everything of one console that matters.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The test framework announced itself.
    pub banner: bool,
    pub results: Vec<GuestResult>,
    /// A result that is none of the four words.
    pub odd_results: Vec<String>,
    pub phases: Vec<String>,
    pub maps: Vec<Map>,
    /// The last value of each counter.
    pub counts: BTreeMap<String, u64>,
    /// The last value of each reason for a refusal.
    pub reasons: BTreeMap<String, u64>,
    pub leaks: Vec<Leak>,
    pub complaints: Vec<Complaint>,
    pub unreadable: Vec<(String, ProtocolError)>,
    /// All lines of the guest that are not for this program.
    pub said: Vec<String>,
    /// All lines of Xen.
    pub xen_said: Vec<String>,
    pub trace_buffers: Vec<TraceBuffer>,
    /// Pages in each CPU's trace buffer.
    pub trace_pages: Option<u16>,
    /// How fast the TSC runs, as Xen measured it.
    pub tsc_mhz: Option<f64>,
}

impl Facts {
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Facts {
        let mut facts = Facts::default();
        for line in lines {
            facts.take(line);
        }
        facts
    }

    /// Learns from one more line.
    pub fn take(&mut self, line: &Line) {
        if line.from_xen() {
            self.take_from_xen(&line.text);
        } else {
            self.take_from_guest(&line.text, line.at);
        }
    }

    fn take_from_xen(&mut self, text: &str) {
        self.xen_said.push(text.to_owned());
        for matched in XEN_PATTERNS.matches(text) {
            self.complaints.push(Complaint {
                line: format!("(XEN) {text}"),
                because: XEN_COMPLAINTS[matched].1,
            });
        }

        if let Some(found) = TRACE_BUFFER.captures(text) {
            let buffer = (
                found[1].parse(),
                u32::from_str_radix(&found[2], 16),
                found[3].parse(),
            );
            if let (Ok(cpu), Ok(mfn), Ok(offset)) = buffer {
                self.trace_buffers.push(TraceBuffer { cpu, mfn, offset });
            }
        } else if let Some(found) = TRACE_PAGES.captures(text) {
            self.trace_pages = found[2].parse().ok();
        } else if let Some(found) = TSC.captures(text) {
            self.tsc_mhz = found[1].parse().ok();
        }
    }

    fn take_from_guest(&mut self, text: &str, at: Duration) {
        for matched in GUEST_PATTERNS.matches(text) {
            self.complaints.push(Complaint {
                line: text.to_owned(),
                because: GUEST_COMPLAINTS[matched].1,
            });
        }

        if text == BANNER {
            self.banner = true;
        } else if let Some(word) = text.strip_prefix("Test result: ") {
            match GuestResult::parse(word.trim_end()) {
                Some(result) => self.results.push(result),
                None => self.odd_results.push(word.to_owned()),
            }
        } else if text.starts_with('@') {
            match Report::parse(text) {
                Ok(Report::Phase(name)) => self.phases.push(name),
                Ok(Report::Map(map)) => self.maps.push(Map { at, ..map }),
                Ok(Report::Count(name, value)) => {
                    self.counts.insert(name, value);
                }
                Ok(Report::Reason(name, value)) => {
                    self.reasons.insert(name, value);
                }
                Ok(Report::Leak(leak)) => self.leaks.push(leak),
                Err(error) => self.unreadable.push((text.to_owned(), error)),
            }
        } else {
            self.said.push(text.to_owned());
        }
    }

    /// `looked_at = promoted + completed + migrated + the sum of the refusals`, if the guest
    /// printed those. `None`: it did not.
    pub fn law_of_counters(&self) -> Option<Law> {
        let count = |name: &str| self.counts.get(name).copied();
        Some(Law {
            looked_at: count("looked_at")?,
            promoted: count("promoted")?,
            completed: count("completed")?,
            migrated: count("migrated")?,
            refused: self.reasons.values().sum(),
        })
    }

    pub fn has_result(&self) -> bool {
        !self.results.is_empty() || !self.odd_results.is_empty()
    }
}

/// Each region looked at ends in one act or one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Law {
    pub looked_at: u64,
    pub promoted: u64,
    pub completed: u64,
    pub migrated: u64,
    pub refused: u64,
}

impl Law {
    pub fn holds(&self) -> bool {
        self.looked_at == self.promoted + self.completed + self.migrated + self.refused
    }
}

/// A line of the console that is all right in one scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// A regular expression, matched against the whole line.
    pub line: String,
    /// Why the line is expected there.
    #[serde(rename = "because")]
    pub _because: String,
}

/// What a scenario wants to see.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectation {
    pub result: GuestResult,
    /// Counters that must have been printed with this value.
    pub counts: BTreeMap<String, u64>,
    /// Counters that must have been printed with this value or more.
    pub at_least: BTreeMap<String, u64>,
    /// Regular expressions: for each of them a line of the guest that it matches as a whole. An
    /// expected failure has to be the one that is meant.
    pub says: Vec<String>,
    /// The same for lines of Xen.
    pub xen_says: Vec<String>,
    pub allow: Vec<Allowed>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    #[error("no test result: {0}")]
    NoResult(String),
    #[error("the guest says {got}, and {wanted} is expected")]
    Result {
        got: GuestResult,
        wanted: GuestResult,
    },
    #[error("the guest says {0:?}, which is none of SUCCESS, SKIP, ERROR, FAILURE")]
    OddResult(String),
    #[error("the guest gives {0} results, and one is expected")]
    ManyResults(usize),
    #[error("the line {BANNER:?} is missing: this is no guest of the test framework")]
    NoBanner,
    #[error("{}: {}", .0.because, .0.line)]
    Complaint(Complaint),
    #[error("leak: {} was {} before and is {} after", .0.name, .0.before, .0.after)]
    Leak(Leak),
    #[error(
        "the counters do not add up: looked_at {} is not promoted {} + completed {} + migrated {} + refused {}",
        .0.looked_at, .0.promoted, .0.completed, .0.migrated, .0.refused
    )]
    Law(Law),
    #[error("the guest's line {line:?} cannot be read: {error}")]
    Unreadable { line: String, error: ProtocolError },
    #[error("{name} should be {wanted} and {}", got.map_or("was not printed".to_owned(), |v| format!("is {v}")))]
    Count {
        name: String,
        wanted: u64,
        got: Option<u64>,
    },
    #[error("{name} should be at least {wanted} and {}", got.map_or("was not printed".to_owned(), |v| format!("is {v}")))]
    TooFew {
        name: String,
        wanted: u64,
        got: Option<u64>,
    },
    #[error("the guest does not say what it should: {0}")]
    Unsaid(String),
    #[error("Xen does not say what it should: {0}")]
    XenUnsaid(String),
    #[error("{0}")]
    End(String),
    #[error("the trace cannot be read out of the machine: {0}")]
    Trace(String),
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub faults: Vec<Fault>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }

    /// True if the last lines of the console are what one needs to see.
    pub fn wants_console(&self) -> bool {
        self.faults
            .iter()
            .any(|f| !matches!(f, Fault::Leak(_) | Fault::Law(_) | Fault::Trace(_)))
    }
}

/// A regular expression for a line as a whole.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// Compares what was seen with what was expected.
pub fn judge(facts: &Facts, end: &End, expected: &Expectation) -> anyhow::Result<Verdict> {
    let mut faults = vec![];

    let allowed = expected
        .allow
        .iter()
        .map(|allowed| whole(&allowed.line))
        .collect::<Result<Vec<_>, _>>()?;
    let is_allowed = |line: &str| allowed.iter().any(|regex| regex.is_match(line));

    if !facts.has_result() {
        faults.push(Fault::NoResult(end.to_string()));
    } else {
        if !facts.banner {
            faults.push(Fault::NoBanner);
        }
        faults.extend(facts.odd_results.iter().cloned().map(Fault::OddResult));
        if facts.results.len() + facts.odd_results.len() > 1 {
            faults.push(Fault::ManyResults(
                facts.results.len() + facts.odd_results.len(),
            ));
        }
        if let Some(&got) = facts.results.iter().max() {
            if got != expected.result {
                faults.push(Fault::Result {
                    got,
                    wanted: expected.result,
                });
            }
        }
        if !end.is_orderly() {
            faults.push(Fault::End(end.to_string()));
        }
    }

    faults.extend(
        facts
            .complaints
            .iter()
            .filter(|complaint| !is_allowed(&complaint.line))
            .cloned()
            .map(Fault::Complaint),
    );
    faults.extend(
        facts
            .leaks
            .iter()
            .filter(|leak| leak.before != leak.after)
            .cloned()
            .map(Fault::Leak),
    );
    faults.extend(
        facts
            .law_of_counters()
            .filter(|law| !law.holds())
            .map(Fault::Law),
    );
    faults.extend(
        facts
            .unreadable
            .iter()
            .cloned()
            .map(|(line, error)| Fault::Unreadable { line, error }),
    );

    for (name, &wanted) in &expected.counts {
        let got = facts.counts.get(name).copied();
        if got != Some(wanted) {
            let name = name.clone();
            faults.push(Fault::Count { name, wanted, got });
        }
    }
    for (name, &wanted) in &expected.at_least {
        let got = facts.counts.get(name).copied();
        if got.is_none_or(|got| got < wanted) {
            let name = name.clone();
            faults.push(Fault::TooFew { name, wanted, got });
        }
    }

    for wanted in &expected.says {
        let regex = whole(wanted)?;
        if !facts.said.iter().any(|line| regex.is_match(line)) {
            faults.push(Fault::Unsaid(wanted.clone()));
        }
    }
    for wanted in &expected.xen_says {
        let regex = whole(wanted)?;
        if !facts.xen_said.iter().any(|line| regex.is_match(line)) {
            faults.push(Fault::XenUnsaid(wanted.clone()));
        }
    }

    Ok(Verdict { faults })
}
