// SPDX-License-Identifier: GPL-2.0-only
//! What was seen in a run, and whether that is what has to be. Everything that is not clearly
//! right is a fault; Xen's map, its counters and its trace have to agree with the page table that
//! was read in the machine's memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use regex::RegexSet;
use xen_coalesce::trace::events::{Act, Kind, REASONS};
use xen_coalesce::trace::format::Trace;

use super::play::{Request, trace_of};
use super::walk::{Walk, parse_runs};
use crate::console::Line;
use crate::run::End;
use crate::verdict::{Facts, Region, judge, whole};

/// Lines of a Linux kernel that no good run has.
static LINUX_COMPLAINTS: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"Kernel panic",
        r"\bBUG: ",
        r"kernel BUG at ",
        r"WARNING: CPU: \d+",
        r"\bOops: ",
        r"general protection fault",
        r"Call Trace:",
        r"Out of memory: Killed|oom-kill:",
        r"soft lockup|hard LOCKUP|rcu.*stall|blocked for more than",
        r"I/O error|Buffer I/O|Corrupt",
        r"segfault at ",
        r"\bFAIL: ",
    ])
    .expect("constants")
});

/// `XEN_DOMCTL_COALESCE_COUNT_*`.
pub const COUNTERS: &[&str] = &[
    "looked_at",
    "promoted",
    "completed",
    "migrated",
    "pages_copied",
    "splits",
    "splits_avoided",
    "exchange_calls",
    "exchanged_pages",
    "longest_hold",
    "queued",
];
const FIRST_REASON: usize = 16;
/// How many there can be: causes of splits come after them.
const REASONS_MAX: usize = 32;

/// The counters of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub Vec<u64>);

impl Counters {
    fn parse(words: &[&str]) -> Result<Counters> {
        let numbers = words.iter().map(|word| word.parse());
        let numbers: Vec<u64> = numbers
            .collect::<Result<_, _>>()
            .context("counters that are no numbers")?;
        Ok(Counters(numbers))
    }

    fn at(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    pub fn get(&self, name: &str) -> u64 {
        let index = COUNTERS.iter().position(|known| *known == name);
        index.map_or(0, |index| self.at(index))
    }

    pub fn reason(&self, name: &str) -> u64 {
        let index = REASONS.iter().position(|known| *known == name);
        index.map_or(0, |index| self.at(FIRST_REASON + index))
    }

    /// Each region looked at ends in one act or one refusal.
    fn law(&self) -> Result<(), String> {
        let acts: u64 = (1..=3).map(|index| self.at(index)).sum();
        let refused: u64 = self.0.iter().skip(FIRST_REASON).take(REASONS_MAX).sum();
        if self.at(0) == acts + refused {
            return Ok(());
        }
        Err(format!(
            "the counters do not add up: looked_at {} is not {acts} acts + {refused} refusals",
            self.at(0)
        ))
    }
}

/// One look at a guest.
#[derive(Clone, Debug)]
pub struct Look {
    pub tag: String,
    pub domid: u16,
    /// When, counted from the start of the emulator.
    pub at: Duration,
    pub walk: Walk,
    /// What Xen counted, if it counts.
    pub counters: Option<Counters>,
    /// RAM pages that Xen's audit met, if there is one.
    pub audited: Option<u64>,
}

/// Everything of a run that matters.
#[derive(Debug, Default)]
pub struct Story {
    pub facts: Facts,
    pub looks: Vec<Look>,
    /// Xen's own maps: tag, domain and regions.
    maps: Vec<(String, u16, Vec<Region>)>,
    pub trace: Option<Trace>,
    /// Pages that a PV domain has exchanged.
    pub exchanges: usize,
    /// What went wrong apart from what the console says.
    pub faults: Vec<String>,
    pub wall: Duration,
}

impl Story {
    pub fn new(lines: &[Line], looks: Vec<Look>, wall: Duration) -> Story {
        let mut story = Story {
            looks,
            wall,
            ..Story::default()
        };
        let mut counters: Vec<(String, u16, Counters)> = vec![];
        let mut audits: Vec<(String, u16, u64)> = vec![];
        for line in lines {
            let words: Vec<&str> = line.text.split_whitespace().collect();
            let result = match words.as_slice() {
                // A look prints the VMCBs, as Xen does when a guest cannot be entered.
                _ if line.from_xen() && line.text.starts_with("Size of VMCB") => Ok(()),
                _ if line.from_xen() => {
                    story.facts.take(line);
                    Ok(())
                }
                ["@look", _, _] => Ok(()),
                ["@domctl", tag, domid, runs] => {
                    Story::map(tag, domid, runs).map(|map| story.maps.push(map))
                }
                ["@counters", tag, domid, numbers @ ..] => {
                    Story::counters(tag, domid, numbers).map(|said| counters.push(said))
                }
                ["@audit", tag, domid, own, xen, ..] => {
                    Story::audit(tag, domid, own, xen).map(|said| audits.push(said))
                }
                _ => {
                    story.facts.take(line);
                    story.linux("the control domain", &line.text);
                    Ok(())
                }
            };
            if let Err(error) = result {
                story.faults.push(format!("{}: {error:#}", line.text));
            }
        }
        for (tag, domid, said) in counters {
            if let Err(error) = said.law() {
                story.faults.push(format!("look {tag}: {error}"));
            }
            let mut looks = story.looks.iter_mut();
            // Tags may come again: the first look that has none yet.
            let look = looks.find(|l| l.tag == tag && l.domid == domid && l.counters.is_none());
            if let Some(look) = look {
                look.counters = Some(said);
            }
        }
        for (tag, domid, pages) in audits {
            let mut looks = story.looks.iter_mut();
            let look = looks.find(|l| l.tag == tag && l.domid == domid && l.audited.is_none());
            if let Some(look) = look {
                look.audited = Some(pages);
            }
        }
        // The banner is that of the test framework, and here is another one.
        story.facts.banner = true;
        story
    }

    fn map(tag: &str, domid: &str, runs: &str) -> Result<(String, u16, Vec<Region>)> {
        Ok((tag.to_owned(), domid.parse()?, parse_runs(runs)?))
    }

    fn counters(tag: &str, domid: &str, numbers: &[&str]) -> Result<(String, u16, Counters)> {
        Ok((tag.to_owned(), domid.parse()?, Counters::parse(numbers)?))
    }

    fn audit(tag: &str, domid: &str, own: &str, xen: &str) -> Result<(String, u16, u64)> {
        let pages = own.parse::<u64>()? + xen.parse::<u64>()?;
        Ok((tag.to_owned(), domid.parse()?, pages))
    }

    fn linux(&mut self, who: &str, text: &str) {
        if LINUX_COMPLAINTS.is_match(text) {
            self.faults.push(format!("{who}: {text}"));
        }
    }

    /// Takes what the control domain has sent.
    pub fn take_results(&mut self, dir: &Path) {
        for name in ["console", "."] {
            for entry in fs::read_dir(dir.join(name)).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                let is_console = name.ends_with(".log") && path.parent() != Some(dir);
                if !(is_console || name == "dom0.dmesg") {
                    continue;
                }
                let bytes = fs::read(&path).unwrap_or_default();
                for line in String::from_utf8_lossy(&bytes).lines() {
                    self.linux(&name, line.trim_end());
                }
            }
        }
        match trace_of(dir) {
            Ok(trace) => self.trace = trace,
            Err(error) => self.faults.push(format!("the trace: {error:#}")),
        }
    }

    /// What the trace says of a domain, in the order in which it happened.
    fn acts(&self, domid: u16) -> Vec<Act> {
        let acts = self.trace.iter().flat_map(Trace::acts);
        acts.filter(|act| act.domid == domid).collect()
    }

    /// The map that Xen gave has to be what is in the page table.
    fn compare_maps(&self, faults: &mut Vec<String>) {
        let mut looks: Vec<&Look> = self.looks.iter().collect();
        for (tag, domid, map) in &self.maps {
            let Some(index) = looks
                .iter()
                .position(|l| &l.tag == tag && l.domid == *domid)
            else {
                continue;
            };
            let look = looks.remove(index);
            let kind = |region: usize| look.walk.regions.get(region).map(|seen| seen.kind);
            for region in 0..map.len().max(look.walk.regions.len()) {
                let said = map.get(region).copied().unwrap_or(Region::Empty);
                let seen = kind(region).unwrap_or(Region::Empty);
                // Xen's map knows types that no entry of the hardware has.
                let same = said == seen || (said == Region::Other && seen == Region::Empty);
                if !same {
                    faults.push(format!(
                        "look {tag}: Xen says {} of region {region}, and the page table {}",
                        said.to_char(),
                        seen.to_char()
                    ));
                    break;
                }
            }
        }
    }

    /// The audit has to have met all pages that the page table maps.
    fn compare_audits(&self, faults: &mut Vec<String>) {
        for look in &self.looks {
            let mapped = look.walk.pages();
            if let Some(met) = look.audited.filter(|&met| met != mapped) {
                faults.push(format!(
                    "look {}: the audit met {met} pages of RAM, and {mapped} are in the page table",
                    look.tag
                ));
            }
        }
    }

    /// The last look at each domain: what was counted until then is what was traced.
    fn compare_trace(&self, faults: &mut Vec<String>) {
        let Some(trace) = &self.trace else { return };
        if trace.lost != 0 {
            faults.push(format!("the trace lost {} records", trace.lost));
        }
        let last: BTreeMap<u16, &Look> = self.looks.iter().map(|l| (l.domid, l)).collect();
        for (domid, look) in last {
            let Some(counters) = &look.counters else {
                continue;
            };
            let acts = self.acts(domid);
            let traced = |kind: Kind| acts.iter().filter(|act| act.kind == kind).count() as u64;
            let pairs = [
                (Kind::Promote, counters.get("promoted")),
                (Kind::Complete, counters.get("completed")),
                (Kind::Migrate, counters.get("migrated")),
                (Kind::Split, counters.get("splits")),
            ];
            for (kind, counted) in pairs {
                if traced(kind) != counted {
                    faults.push(format!(
                        "look {}: {} x {} are in the trace, and {counted} were counted",
                        look.tag,
                        traced(kind),
                        kind.name()
                    ));
                }
            }
        }
    }

    /// Regions of memory only that are not one entry, with the last that the trace says of each.
    pub fn left(&self, look: &Look) -> Vec<(u64, Option<&'static str>)> {
        // Each region that was looked at is one record: so many of them came before the look.
        let looked_at = look.counters.as_ref().map_or(0, |c| c.get("looked_at"));
        let looked = |act: &Act| !matches!(act.kind, Kind::Split | Kind::Exchange);
        let acts = self.acts(look.domid).into_iter().filter(looked);
        let mut last: BTreeMap<u64, Act> = BTreeMap::new();
        for act in acts.take(looked_at as usize) {
            last.insert(act.gfn >> 9, act);
        }
        let broken = (0u64..).zip(&look.walk.regions);
        broken
            .filter(|(_, seen)| seen.kind == Region::Broken)
            .map(|(region, _)| {
                let refused = last.get(&region).filter(|act| act.kind == Kind::Refuse);
                let reason = refused.and_then(|act| REASONS.get(usize::from(act.code)));
                (region, reason.copied())
            })
            .collect()
    }
}

/// Reasons that keep a region as it is, as long as they last. (`no_memory` is one of the scenario.)
const LASTING: &[&str] = &[
    "iommu",
    "pinned",
    "type_pinned",
    "special",
    "mem_type",
    "access",
    "mem_access",
    "exec_sp",
    "cacheability",
];

/// So many regions of one look are told of.
const TOLD: usize = 3;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub faults: Vec<String>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn new(story: &Story, end: &End, request: &Request<'_>) -> Result<Verdict> {
        let wishes = &request.scenario.expect;
        let mut console = wishes.console.clone();
        if !request.ours() {
            // What is counted are deeds of the series.
            console.counts.clear();
            console.at_least.clear();
        }
        let said = judge(&story.facts, end, &console)?;
        let mut faults: Vec<String> = said.faults.iter().map(ToString::to_string).collect();
        let allowed: Vec<_> = wishes
            .console
            .allow
            .iter()
            .map(|allowed| whole(&allowed.line))
            .collect::<Result<_, _>>()?;
        faults.extend(
            story
                .faults
                .iter()
                .filter(|fault| !allowed.iter().any(|line| line.is_match(fault)))
                .cloned(),
        );
        if story.exchanges == 0 {
            faults.push("the control domain's boot exchanged no page".to_owned());
        }
        story.compare_maps(&mut faults);
        story.compare_audits(&mut faults);
        story.compare_trace(&mut faults);
        for wish in &wishes.looks {
            let tag = whole(&wish.tag)?;
            let looks: Vec<&Look> = story
                .looks
                .iter()
                .filter(|l| tag.is_match(&l.tag))
                .collect();
            if looks.is_empty() {
                faults.push(format!("no look {} was taken", wish.tag));
            }
            for look in looks {
                let found = look.walk.percent_whole();
                if request.ours() && found < f64::from(wish.whole) {
                    let wanted = wish.whole;
                    faults.push(format!(
                        "look {}: {found:.1} % of the regions are one entry, and {wanted} % should be",
                        look.tag
                    ));
                }
                let of_full = look.walk.percent_of_full();
                if request.ours() && of_full < f64::from(wish.full) {
                    let wanted = wish.full;
                    faults.push(format!(
                        "look {}: {of_full:.1} % of the regions without holes are one entry, and \
                         {wanted} % should be",
                        look.tag
                    ));
                }
                if look.walk.ram_1g < wish.gib {
                    let (found, wanted) = (look.walk.ram_1g, wish.gib);
                    faults.push(format!(
                        "look {}: {found} entries are of 1G, and {wanted} should be",
                        look.tag
                    ));
                }
                let broken = look.walk.count(Region::Broken);
                if request.ours() && broken < wish.broken {
                    let wanted = wish.broken;
                    faults.push(format!(
                        "look {}: {broken} regions are broken, and {wanted} should be kept so",
                        look.tag
                    ));
                }
                for (reason, &wanted) in wish.reasons.iter().filter(|_| request.ours()) {
                    let counted = look.counters.as_ref().map_or(0, |c| c.reason(reason));
                    if counted < wanted {
                        faults.push(format!(
                            "look {}: {reason} was counted {counted} times, and should be {wanted}",
                            look.tag
                        ));
                    }
                }
                let most = wish.before.map(f64::from);
                if !request.ours() && most.is_some_and(|most| found > most) {
                    faults.push(format!(
                        "look {}: {found:.1} % of the regions are one entry without the series: this \
                         shows nothing",
                        look.tag
                    ));
                }
                if request.ours() && wish.healed {
                    faults.extend(unexplained(story, look));
                }
            }
        }
        Ok(Verdict { faults })
    }
}

fn unexplained(story: &Story, look: &Look) -> Vec<String> {
    if story.trace.is_none() {
        return vec![format!(
            "look {}: there is no trace to explain it",
            look.tag
        )];
    }
    let mut left = story.left(look);
    left.retain(|(_, reason)| !reason.is_some_and(|r| LASTING.contains(&r)));
    let all = left.len();
    left.into_iter()
        .take(TOLD)
        .map(|(region, reason)| {
            let why = match reason {
                Some(reason) => format!("the last reason is {reason}"),
                None => "nothing was said of it".to_owned(),
            };
            format!(
                "look {}: region {region} is broken, and {why} ({all} such regions)",
                look.tag
            )
        })
        .collect()
}
