// SPDX-License-Identifier: GPL-2.0-only
//! A trace on one page of text, and the same for a machine.

use std::fmt::Write as _;

use serde::Serialize;

use crate::analysis::time::Step;
use crate::analysis::{
    Cause, Counts, Coverage, DomainView, View, mean_references, reason, walk_references,
};
use crate::scan::Scan;
use crate::trace::events::{self, Kind};
use crate::words::{Clock, grouped, memory, percent, times};

/// How a report looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Block characters; otherwise ASCII.
    pub blocks: bool,
    /// Bold headings.
    pub bold: bool,
    pub width: usize,
}

/// Domains of which a report tells everything; of the others one line each.
const IN_FULL: usize = 4;
/// The widest that is still read with ease.
const WIDEST: usize = 100;

impl Look {
    fn title(&self, words: &str) -> String {
        if self.bold {
            format!("\u{1b}[1m{words}\u{1b}[0m")
        } else {
            words.to_owned()
        }
    }

    fn width(&self) -> usize {
        self.width.clamp(60, WIDEST)
    }

    /// Values from 0 to 1 as a line of characters.
    fn sparkline(&self, values: &[Option<f64>]) -> String {
        const BLOCKS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
        const LETTERS: [&str; 8] = ["_", ".", ":", "-", "=", "+", "*", "#"];
        let levels = if self.blocks { BLOCKS } else { LETTERS };
        let level = |value: &f64| {
            // The lowest and the highest are for none and for all.
            let inner = 1 + (value * 6.0) as usize;
            let level = match *value {
                v if v <= 0.0 => 0,
                v if v >= 1.0 => 7,
                _ => inner.min(6),
            };
            levels[level]
        };
        values
            .iter()
            .map(|value| value.as_ref().map_or(" ", level))
            .collect()
    }

    /// A bar of `n` of `most`.
    fn bar(&self, n: u64, most: u64, width: usize) -> String {
        let length = (n as f64 / most.max(1) as f64 * width as f64).ceil() as usize;
        if self.blocks { "█" } else { "#" }.repeat(length.min(width))
    }
}

/// The lowest coverage in each of `width` parts of the course.
pub fn lows(steps: &[Step], width: usize) -> Vec<Option<f64>> {
    let width = width.min(steps.len()).max(1);
    (0..width)
        .map(|part| {
            let from = part * steps.len() / width;
            let to = ((part + 1) * steps.len() / width).max(from + 1);
            steps
                .get(from..to.min(steps.len()))?
                .iter()
                .filter_map(|step| step.low.coverage())
                .min_by(f64::total_cmp)
        })
        .collect()
}

/// What is wrong with a trace, for a person; empty if nothing is.
pub fn complaints(scan: &Scan, view: &View) -> Vec<String> {
    let mut lines = vec![];
    for damage in &scan.damage {
        lines.push(damage.clone());
    }
    let untold = scan.damages - scan.damage.len() as u64;
    if untold != 0 {
        lines.push(format!("and {untold} more of this kind"));
    }
    if scan.damages != 0 {
        lines.push(format!(
            "{} of {} bytes could not be read; the rest is reported",
            grouped(scan.skipped),
            grouped(scan.bytes)
        ));
    }
    if scan.lost != 0 {
        lines.push(format!(
            "Xen had no room for {} records: give it larger trace buffers (tbuf_size=, xentrace -S)",
            grouped(scan.lost)
        ));
    }
    if scan.late != 0 {
        lines.push(format!(
            "{} records came too late to be put in order: the course is less exact",
            grouped(scan.late)
        ));
    }
    if scan.backwards != 0 {
        lines.push(format!(
            "the clock of a CPU went backwards {}",
            times(scan.backwards, "time", "times")
        ));
    }
    if view.beyond != 0 {
        lines.push(format!(
            "{} records are of an unknown form, or of more domains and regions than are followed",
            grouped(view.beyond)
        ));
    }
    lines
}

/// The page.
pub fn page(name: &str, scan: &Scan, view: &View, clock: Clock, look: Look) -> String {
    let mut text = String::new();
    let ticks = view.last.saturating_sub(view.first);
    let _ = writeln!(text, "{}", look.title(name));
    let _ = writeln!(
        text,
        "{} of {} over {}",
        times(scan.records, "record", "records"),
        times(scan.cpus, "CPU", "CPUs"),
        clock.length(ticks as f64),
    );
    for line in complaints(scan, view) {
        let _ = writeln!(text, "! {line}");
    }
    if view.domains.is_empty() {
        text += "\nNothing in it is about the memory of a domain: trace the class TRC_MEM \
                 (xentrace -e 0x10f000, or tevt_mask=0x10f000 on Xen's command line).\n";
        return text;
    }

    let mut domains: Vec<&DomainView> = view.domains.iter().collect();
    domains.sort_by_key(|domain| (std::cmp::Reverse(activity(&domain.counts)), domain.id));
    let (full, brief) = domains.split_at(domains.len().min(IN_FULL));
    for domain in full {
        domain_page(&mut text, domain, clock, look);
    }
    if !brief.is_empty() {
        let _ = writeln!(text, "\n{}", look.title("Other domains"));
        for domain in brief {
            let _ = writeln!(text, "  {}", one_line(domain));
        }
    }
    text
}

fn activity(counts: &Counts) -> u64 {
    counts.healed() + counts.all_splits() + counts.all_refused() + counts.exchange_batches
}

fn one_line(domain: &DomainView) -> String {
    let coverage = domain.coverage().map_or(String::new(), |c| {
        format!(", {} in 2M pages", percent(c.last))
    });
    format!(
        "d{}: {}{coverage}, {} healed, {}",
        domain.id,
        memory(domain.regions),
        grouped(domain.counts.healed()),
        times(domain.counts.all_splits(), "split", "splits"),
    )
}

fn domain_page(text: &mut String, domain: &DomainView, clock: Clock, look: Look) {
    let counts = &domain.counts;
    let width = look.width();
    let _ = writeln!(
        text,
        "\n{}",
        look.title(&format!(
            "Domain {}: {} that the trace tells of ({})",
            domain.id,
            times(domain.regions, "region of 2M", "regions of 2M"),
            memory(domain.regions)
        ))
    );

    let mut row = |name: &str, value: &str| {
        let line = format!("  {name:<14} {value}");
        let _ = writeln!(text, "{}", line.trim_end());
    };

    if let Some(coverage) = domain.coverage() {
        let Coverage {
            first,
            worst,
            worst_at,
            last,
        } = coverage;
        row(
            "In 2M pages",
            &format!(
                "{} at first, {} at worst (after {}), {} at last",
                percent(first),
                percent(worst),
                clock.length(worst_at as f64),
                percent(last)
            ),
        );
        row("", &look.sparkline(&lows(&domain.steps, width - 17)));
        let refs = |share| [4, 3].map(|levels| format!("{:4.1}", mean_references(levels, share)));
        row(
            "TLB miss",
            &format!(
                "{:32} {:>8} {:>9} {:>8}",
                "memory references, on average", "at first", "at worst", "at last"
            ),
        );
        for (i, words) in ["guest page of 4K", "guest page of 2M"]
            .into_iter()
            .enumerate()
        {
            let levels = 4 - i as u32;
            let range = format!(
                "{words} ({} or {})",
                walk_references(levels, 3),
                walk_references(levels, 4)
            );
            let [a, b, c] = [first, worst, last].map(|share| refs(share)[i].clone());
            row("", &format!("  {range:<30} {a:>8} {b:>9} {c:>8}"));
        }
    }

    let healed = [
        (Kind::Promote, counts.promoted, "in place, nothing copied"),
        (
            Kind::Complete,
            counts.completed,
            "by fetching the pages astray",
        ),
        (Kind::Migrate, counts.migrated, "by moving all of it"),
    ];
    row(
        "Healed",
        &format!(
            "{}, {} copied",
            times(counts.healed(), "region", "regions"),
            times(counts.pages_copied, "page", "pages")
        ),
    );
    for (kind, n, words) in healed {
        if n != 0 {
            let holds = counts.holds.get(kind.name());
            let mean = holds.and_then(|holds| holds.mean());
            let mean = mean.map_or(String::new(), |ticks| {
                format!("; lock held for {} on average", clock.length(ticks))
            });
            row("", &format!("{:>9}  {words}{mean}", grouped(n)));
        }
    }

    let mut splits = times(counts.all_splits(), "2M page", "2M pages");
    if counts.splits_1g != 0 {
        splits += &format!(", {}", times(counts.splits_1g, "1G page", "1G pages"));
    }
    row(
        "Broken",
        &format!("{splits}; {} avoided", grouped(counts.splits_avoided)),
    );
    for cause in Cause::ALL {
        if let Some(n) = counts.splits.get(&cause) {
            row("", &format!("{:>9}  {}", grouped(*n), cause.explain()));
        }
    }

    if counts.exchange_batches != 0 {
        row(
            "Exchanged",
            &format!(
                "{} in {}",
                times(counts.exchanged_pages, "page", "pages"),
                times(counts.exchange_batches, "batch", "batches")
            ),
        );
    }

    if counts.refused.is_empty() {
        row("Left", "nothing");
    } else {
        row(
            "Left",
            &format!(
                "{} came to nothing",
                times(counts.all_refused(), "look", "looks")
            ),
        );
        let mut refused: Vec<(&u8, &u64)> = counts.refused.iter().collect();
        refused.sort_by_key(|(code, n)| (std::cmp::Reverse(**n), **code));
        for (code, n) in refused {
            let name = reason(*code);
            let words = events::explain(&name);
            row("", &format!("{:>9}  {name:<13} {words}", grouped(*n)));
        }
    }

    let holds = counts.all_holds();
    if let Some(mean) = holds.mean() {
        row(
            "Lock held",
            &format!(
                "{} measured, {} on average, {} at most",
                times(holds.count, "time", "times"),
                clock.length(mean),
                clock.length(f64::from(holds.longest))
            ),
        );
        let histogram = holds.histogram(clock.scale());
        let most = histogram.iter().map(|(_, n)| *n).max().unwrap_or(0);
        for (from, n) in histogram {
            let bar = look.bar(n, most, width.saturating_sub(45).max(10));
            let bound = clock.bound(from);
            row("", &format!("{:>9}  {bound:<14} {bar}", grouped(n)));
        }
    }
}

/// What a program is told. The numbers of the layout change when a field changes its meaning.
#[derive(Debug, Serialize)]
pub struct Stats<'a> {
    pub layout: u32,
    pub trace: &'a Scan,
    #[serde(flatten)]
    pub clock: Clock,
    pub ticks: u64,
    pub domains: Vec<DomainStats<'a>>,
}

#[derive(Debug, Serialize)]
pub struct DomainStats<'a> {
    pub domain: u16,
    pub regions: u64,
    pub coverage: Option<Coverage>,
    pub walk_references: Option<[WalkReferences; 2]>,
    pub counts: &'a Counts,
    pub refused: std::collections::BTreeMap<String, u64>,
    pub course: Vec<CourseStats>,
    pub ticks_of_a_step: u64,
}

#[derive(Debug, Serialize)]
pub struct WalkReferences {
    pub guest_page_kib: u32,
    pub whole: u32,
    pub broken: u32,
    pub first: f64,
    pub worst: f64,
    pub last: f64,
}

#[derive(Debug, Serialize)]
pub struct CourseStats {
    pub step: usize,
    pub whole: u64,
    pub broken: u64,
    pub holes: u64,
    pub lowest_coverage: Option<f64>,
}

impl<'a> Stats<'a> {
    pub fn new(scan: &'a Scan, view: &'a View, clock: Clock) -> Stats<'a> {
        Stats {
            layout: 1,
            trace: scan,
            clock,
            ticks: view.last.saturating_sub(view.first),
            domains: view.domains.iter().map(DomainStats::new).collect(),
        }
    }
}

impl<'a> DomainStats<'a> {
    fn new(domain: &'a DomainView) -> DomainStats<'a> {
        use crate::analysis::region::Class;

        let coverage = domain.coverage();
        let walk = |coverage: Coverage| {
            [(4, 4), (3, 2048)].map(|(levels, guest_page_kib)| WalkReferences {
                guest_page_kib,
                whole: walk_references(levels, 3),
                broken: walk_references(levels, 4),
                first: mean_references(levels, coverage.first),
                worst: mean_references(levels, coverage.worst),
                last: mean_references(levels, coverage.last),
            })
        };
        // Steps in which nothing changed say nothing.
        let mut last = None;
        let course = domain.steps.iter().enumerate().filter_map(|(n, step)| {
            if last.replace(step.end) == Some(step.end) && step.low == step.end {
                return None;
            }
            Some(CourseStats {
                step: n,
                whole: step.end.whole(),
                broken: step.end.of(Class::Broken),
                holes: step.end.of(Class::Holes),
                lowest_coverage: step.low.coverage(),
            })
        });
        DomainStats {
            domain: domain.id,
            regions: domain.regions,
            coverage,
            walk_references: coverage.map(walk),
            counts: &domain.counts,
            refused: domain
                .counts
                .refused
                .iter()
                .map(|(code, n)| (reason(*code), *n))
                .collect(),
            course: course.collect(),
            ticks_of_a_step: domain.width,
        }
    }
}
