// SPDX-License-Identifier: GPL-2.0-only
//! What a trace says about each domain, gathered while it is read.
//!
//! How a region was mapped before its first record is told by that record: what breaks was whole,
//! what is made whole was broken. So a course can be drawn from the first moment of the trace on.
//! Xen's own record of a change (`SET_P2M_ENTRY`) comes before the change is made, without a time of
//! its own, and on NPT only; where our records tell the same, they are believed.

pub mod region;
pub mod time;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::trace::events::{Act, Event, Kind, REASONS};
use crate::trace::order::Timed;
use region::{Class, PAGES, Region};
use time::{Course, Map, MapView, Step};

/// Domains that are followed one by one, and regions in all.
const DOMAINS: usize = 256;
const REGIONS: usize = 1 << 20;
/// Domains of which a map is drawn.
const MAPS: usize = 16;

/// Types of p2m entries of which a guest has memory: P2M_RAM_TYPES (xen/arch/x86/include/asm/p2m.h).
const RAM_TYPES: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 15;
const POPULATE_ON_DEMAND: u32 = 6;
const LOG_DIRTY: u32 = 2;
const READ_ONLY: u32 = 3;

/// Why a leaf broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A page was given back: decrease_reservation.
    Balloon,
    /// XENMEM_exchange took a page.
    Exchange,
    /// A page went away in another way.
    Removed,
    /// A page came or was replaced.
    Placed,
    /// Writes to a page began to be logged, or forbidden.
    Logging,
    /// Something that is no memory took a page's place, or a page was moved.
    Mapping,
    /// Type, access or cacheability of a page changed.
    Type,
    /// It was executed, on a processor on which superpages must not be (XSA-304).
    Executed,
    /// The trace does not say: a record of version 1, and Xen does not trace changes of an EPT.
    Unknown,
}

impl Cause {
    pub const ALL: [Cause; 9] = [
        Cause::Balloon,
        Cause::Exchange,
        Cause::Removed,
        Cause::Placed,
        Cause::Logging,
        Cause::Mapping,
        Cause::Type,
        Cause::Executed,
        Cause::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Cause::Balloon => "balloon",
            Cause::Exchange => "exchange",
            Cause::Removed => "removed",
            Cause::Placed => "placed",
            Cause::Logging => "logging",
            Cause::Mapping => "mapping",
            Cause::Type => "type",
            Cause::Executed => "executed",
            Cause::Unknown => "unknown",
        }
    }

    /// In words, for a person.
    pub fn explain(self) -> &'static str {
        match self {
            Cause::Balloon => "a page was ballooned out",
            Cause::Exchange => "a page was exchanged",
            Cause::Removed => "a page was taken away",
            Cause::Placed => "a page was put in or replaced",
            Cause::Logging => "writes to a page were logged or forbidden",
            Cause::Mapping => {
                "a page was moved, or a grant, a device or another domain's page was mapped"
            }
            Cause::Type => "type, access or cacheability of a page was changed",
            Cause::Executed => "it was executed (XSA-304)",
            Cause::Unknown => "the trace does not say",
        }
    }
}

/// How long the lock of the p2m was held by acts of one kind, in ticks of the TSC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Acts of which the hold was measured.
    pub count: u64,
    pub sum: u64,
    pub longest: u32,
    /// How many held it for at least so many ticks, and less than the next possible number, which is
    /// a sixteenth larger or less.
    pub buckets: BTreeMap<u32, u64>,
}

impl Holds {
    fn add(&mut self, ticks: u32) {
        // Nothing was measured.
        if ticks == 0 {
            return;
        }
        self.count += 1;
        self.sum += u64::from(ticks);
        self.longest = self.longest.max(ticks);
        let fine = ticks.ilog2().saturating_sub(4);
        *self.buckets.entry(ticks >> fine << fine).or_insert(0) += 1;
    }

    /// How many were at least so long, and less than the next: 1, 2 or 5 times a power of ten of the
    /// unit of which a tick is `scale`.
    pub fn histogram(&self, scale: f64) -> Vec<(f64, u64)> {
        let rank = |value: f64| {
            let power = value.max(1.0).log10().floor();
            let digit = value / 10f64.powf(power);
            let third = if digit >= 5.0 {
                2
            } else if digit >= 2.0 {
                1
            } else {
                0
            };
            3 * power as i32 + third
        };
        let mut ranks: BTreeMap<i32, u64> = BTreeMap::new();
        for (ticks, n) in &self.buckets {
            *ranks.entry(rank(f64::from(*ticks) * scale)).or_insert(0) += n;
        }
        let (Some((&low, _)), Some((&high, _))) = (ranks.first_key_value(), ranks.last_key_value())
        else {
            return vec![];
        };
        (low..=high)
            .map(|rank| {
                let digit = [1.0, 2.0, 5.0][rank.rem_euclid(3) as usize];
                let from = digit * 10f64.powi(rank.div_euclid(3)) / scale;
                (from, ranks.get(&rank).copied().unwrap_or(0))
            })
            .collect()
    }

    pub fn mean(&self) -> Option<f64> {
        (self.count != 0).then(|| self.sum as f64 / self.count as f64)
    }
}

/// What happened in a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub promoted: u64,
    pub completed: u64,
    pub migrated: u64,
    pub pages_copied: u64,
    /// 2 MiB entries that broke, by cause.
    pub splits: BTreeMap<Cause, u64>,
    /// 1 GiB entries that broke.
    pub splits_1g: u64,
    pub splits_avoided: u64,
    /// Looks that came to nothing, by the number of the reason.
    pub refused: BTreeMap<u8, u64>,
    pub exchange_batches: u64,
    pub exchanged_pages: u64,
    /// Records of ours in a form that this program does not know.
    pub unknown: u64,
    pub holds: BTreeMap<&'static str, Holds>,
}

impl Counts {
    pub fn healed(&self) -> u64 {
        self.promoted + self.completed + self.migrated
    }

    /// `n` splits turn out to be of another cause.
    fn recount(&mut self, from: Cause, to: Cause, n: u64) {
        if n != 0 {
            let rest = self.splits.remove(&from).unwrap_or(0).saturating_sub(n);
            if rest != 0 {
                self.splits.insert(from, rest);
            }
            *self.splits.entry(to).or_insert(0) += n;
        }
    }

    pub fn all_splits(&self) -> u64 {
        self.splits.values().sum()
    }

    pub fn all_refused(&self) -> u64 {
        self.refused.values().sum()
    }

    /// The holds of all acts together.
    pub fn all_holds(&self) -> Holds {
        let mut all = Holds::default();
        for holds in self.holds.values() {
            all.count += holds.count;
            all.sum += holds.sum;
            all.longest = all.longest.max(holds.longest);
            for (bucket, n) in &holds.buckets {
                *all.buckets.entry(*bucket).or_insert(0) += n;
            }
        }
        all
    }
}

/// The name of a reason, also of one that this program does not know.
pub fn reason(code: u8) -> String {
    REASONS
        .get(usize::from(code))
        .map_or_else(|| format!("reason {code}"), |name| (*name).to_owned())
}

/// What is known of a domain while the trace is read.
#[derive(Debug)]
struct Domain {
    counts: Counts,
    regions: FxHashMap<u64, Region>,
    course: Course,
    map: Option<Map>,
}

/// A domain when all was read.
#[derive(Clone, Debug)]
pub struct DomainView {
    pub id: u16,
    pub counts: Counts,
    /// Regions of which the trace says anything.
    pub regions: u64,
    /// Ticks of a step of the course.
    pub width: u64,
    pub steps: Vec<Step>,
    pub map: Option<MapView>,
}

/// All domains when all was read.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub domains: Vec<DomainView>,
    /// Ticks of the TSC at the first and the last record.
    pub first: u64,
    pub last: u64,
    /// Records of domains or regions beyond those that are followed.
    pub beyond: u64,
}

/// What a CPU did last: a split follows the record of the change that asked for it.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    /// Domain and first page that is about to be ballooned out, and how many.
    decrease: Option<(u16, u64, u64)>,
    /// Domain, region, memory there, type.
    set: Option<(u16, u64, bool, u32)>,
    /// Splits of this domain by a page that came or went, or by nobody knows what: an exchange may
    /// come to have done that.
    open: (u16, [u64; 3]),
    /// A region for which one entry is written: by an act, if the record of one follows.
    fresh: Option<(u16, u64)>,
}

/// Causes that an exchange explains.
const OPEN: [Cause; 3] = [Cause::Removed, Cause::Placed, Cause::Unknown];

/// Gathers what a trace says.
#[derive(Debug, Default)]
pub struct Analysis {
    domains: BTreeMap<u16, Domain>,
    recent: FxHashMap<u16, Recent>,
    /// The moment of the first record with a time.
    start: Option<u64>,
    last: u64,
    regions: usize,
    beyond: u64,
    with_maps: bool,
    /// Records of ours were seen: Xen's own need not be guessed from.
    ours: bool,
}

impl Analysis {
    /// With maps of memory over time, or without.
    pub fn new(with_maps: bool) -> Analysis {
        Analysis {
            with_maps,
            ..Analysis::default()
        }
    }

    /// Takes the next record in the order of time.
    pub fn take(&mut self, timed: &Timed) {
        let now = timed.time;
        if self.start.is_none() && now != 0 {
            self.start = Some(now);
            for domain in self.domains.values_mut() {
                domain.begin(now);
            }
        }
        self.last = self.last.max(now);

        let event = Event::decode(timed.event, timed.extra());
        self.settle_fresh(now, timed.cpu, &event);
        match event {
            Event::Act(act) => self.act(now, timed.cpu, &act),
            Event::SetP2m {
                domid,
                gfn,
                mfn,
                kind,
                order,
            } => self.set(now, timed.cpu, domid, gfn, mfn.is_some(), kind, order),
            Event::Decrease { domid, gfn, order } => {
                let pages = 1u64.checked_shl(order).unwrap_or(u64::MAX);
                self.recent.entry(timed.cpu).or_default().decrease = Some((domid, gfn, pages));
            }
            // The domain of a form that is not known is not known either.
            Event::Unknown { .. } => self.beyond += 1,
            Event::Other => {}
        }
    }

    /// An entry for a whole region was the last that this CPU wrote: was it an act of ours?
    fn settle_fresh(&mut self, now: u64, cpu: u16, event: &Event) {
        let recent = self.recent.entry(cpu).or_default();
        let Some((domid, region)) = recent.fresh.take() else {
            return;
        };
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        match event {
            // An exchange replaced what was whole.
            Event::Act(act) if act.kind == Kind::Exchange && act.domid == domid => {
                domain.settle(region, Class::Whole);
            }
            // It tells itself.
            Event::Act(act) if act.domid == domid && act.gfn / PAGES == region => return,
            _ => {}
        }
        let known = domain.regions.get(&region).and_then(|r| r.class);
        if !known.is_some_and(Class::is_whole) {
            domain.becomes(now, region, Class::Whole);
        }
    }

    fn domain(&mut self, domid: u16) -> Option<&mut Domain> {
        let many = self.domains.len();
        if many >= DOMAINS && !self.domains.contains_key(&domid) {
            self.beyond += 1;
            return None;
        }
        let start = self.start;
        let with_map = self.with_maps && many < MAPS;
        Some(self.domains.entry(domid).or_insert_with(|| {
            let mut domain = Domain {
                counts: Counts::default(),
                regions: FxHashMap::default(),
                course: Course::new(),
                map: with_map.then(Map::new),
            };
            if let Some(start) = start {
                domain.begin(start);
            }
            domain
        }))
    }

    /// A region of a domain, if there is room to follow it.
    fn followed(&mut self, domid: u16, region: u64) -> Option<(&mut Domain, u64)> {
        let full = self.regions >= REGIONS;
        let domain = self.domain(domid)?;
        let before = domain.regions.len();
        if full && !domain.regions.contains_key(&region) {
            self.beyond += 1;
            return None;
        }
        domain.regions.entry(region).or_default();
        let more = domain.regions.len() - before;
        self.regions += more;
        Some((self.domains.get_mut(&domid)?, region))
    }

    fn act(&mut self, now: u64, cpu: u16, act: &Act) {
        self.ours = true;
        let region = act.gfn / PAGES;
        let recent = self.recent.entry(cpu).or_default();
        let before = *recent;
        // It was for this act, or for none.
        recent.decrease = None;
        if act.kind != Kind::Split || recent.open.0 != act.domid {
            recent.open = (act.domid, [0; 3]);
        }
        let Some(domain) = self.domain(act.domid) else {
            return;
        };
        domain.course.act(now, act.kind, act.hold);
        let counts = &mut domain.counts;
        let name = act.kind.name();
        counts.holds.entry(name).or_default().add(act.hold);

        match act.kind {
            Kind::Split if act.code == 2 => {
                counts.splits_1g += 1;
                let first = region & !(PAGES - 1);
                for region in first..first + PAGES {
                    if let Some((domain, region)) = self.followed(act.domid, region) {
                        domain.settle(region, Class::Whole);
                    }
                }
                // The regions are as they were: whole.
            }
            Kind::Split => {
                let cause = act
                    .cause
                    .and_then(told)
                    .unwrap_or_else(|| cause(&before, act.domid, region));
                *counts.splits.entry(cause).or_insert(0) += 1;
                if let Some(open) = OPEN.iter().position(|open| *open == cause) {
                    self.recent.entry(cpu).or_default().open.1[open] += 1;
                }
                if let Some((domain, region)) = self.followed(act.domid, region) {
                    domain.breaks(now, region);
                }
            }
            Kind::Promote | Kind::Complete | Kind::Migrate => {
                let (count, class) = match act.kind {
                    Kind::Promote => (&mut counts.promoted, Class::Promoted),
                    Kind::Complete => (&mut counts.completed, Class::Completed),
                    _ => (&mut counts.migrated, Class::Migrated),
                };
                *count += 1;
                counts.pages_copied += u64::from(act.low);
                if let Some((domain, region)) = self.followed(act.domid, region) {
                    domain.settle_broken(region);
                    domain.becomes(now, region, class);
                }
            }
            Kind::Refuse => {
                *counts.refused.entry(act.code).or_insert(0) += 1;
                let says = match REASONS.get(usize::from(act.code)).copied() {
                    Some("whole_already") => Some(Class::Whole),
                    Some("empty") => Some(Class::Empty),
                    Some("hole") => Some(Class::Holes),
                    Some("pinned" | "mem_type" | "access" | "special" | "no_memory" | "iommu") => {
                        Some(Class::Broken)
                    }
                    _ => None,
                };
                if let (Some(class), Some((domain, region))) =
                    (says, self.followed(act.domid, region))
                {
                    domain.settle(region, class);
                    let known = domain.regions.get(&region).and_then(|r| r.class);
                    if class == Class::Holes && known == Some(Class::Broken) {
                        domain.becomes(now, region, class);
                    }
                }
            }
            Kind::Exchange => {
                counts.exchange_batches += 1;
                counts.exchanged_pages += u64::from(act.low);
                counts.splits_avoided += u64::from(act.high);
                let (domid, open) = before.open;
                if domid == act.domid {
                    // So that is why.
                    for (cause, n) in OPEN.into_iter().zip(open) {
                        counts.recount(cause, Cause::Exchange, n);
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn set(
        &mut self,
        now: u64,
        cpu: u16,
        domid: u16,
        gfn: u64,
        mapped: bool,
        kind: u32,
        order: u16,
    ) {
        let memory = mapped
            && 1u32
                .checked_shl(kind)
                .is_some_and(|bit| bit & RAM_TYPES != 0);
        let region = gfn / PAGES;
        let recent = self.recent.entry(cpu).or_default();
        recent.set = Some((domid, region, mapped, kind));
        recent.decrease = recent
            .decrease
            .filter(|&(domain, first, pages)| domain == domid && gfn.wrapping_sub(first) < pages);

        if order < 9 {
            let ours = self.ours;
            let Some((domain, region)) = self.followed(domid, region) else {
                return;
            };
            let Some(known) = domain.regions.get_mut(&region) else {
                return;
            };
            for page in gfn..gfn.saturating_add(1 << order) {
                known.page(page, mapped);
            }
            match known.class {
                // Where ours speak, the record of the split is what counts.
                Some(class) if class.is_whole() && ours => {}
                Some(class) if class.is_whole() => {
                    *domain.counts.splits.entry(Cause::Unknown).or_insert(0) += 1;
                    domain.breaks(now, region);
                }
                Some(Class::Empty) if !memory => {}
                Some(class) => {
                    let broken = known.broken();
                    if broken != class {
                        domain.becomes(now, region, broken);
                    }
                }
                // A record to come may tell what it was.
                None => {}
            }
            return;
        }
        if order > 18 {
            return;
        }
        let ours = self.ours;
        for region in region..region.saturating_add(1 << (order - 9)) {
            let class = if memory { Class::Whole } else { Class::Empty };
            let Some((domain, region)) = self.followed(domid, region) else {
                continue;
            };
            match domain.regions.get(&region).and_then(|r| r.class) {
                Some(was) if was == class || was.is_whole() && memory => {}
                // Our acts hide a region behind such an entry, and tell when it is whole.
                Some(Class::Broken | Class::Holes) if ours && kind == POPULATE_ON_DEMAND => {}
                // An act of ours, or memory to come.
                None if kind == POPULATE_ON_DEMAND => {}
                _ if memory && order == 9 => {
                    self.recent.entry(cpu).or_default().fresh = Some((domid, region));
                }
                _ => domain.becomes(now, region, class),
            }
        }
    }

    /// All that is known now that all was read; `first` and `last` are the moments of the trace's
    /// first and last record of any kind.
    pub fn finish(mut self, first: u64, last: u64) -> View {
        let last = self.last.max(last);
        let mut view = View {
            domains: vec![],
            first: self.start.unwrap_or(first),
            last,
            beyond: self.beyond,
        };
        let cpus: Vec<u16> = self.recent.keys().copied().collect();
        for cpu in cpus {
            self.settle_fresh(last, cpu, &Event::Other);
        }
        for (id, mut domain) in self.domains {
            // Nothing has told what these were: as they are now, they have been all the time.
            let untold: Vec<u64> = domain
                .regions
                .iter()
                .filter(|(_, region)| region.class.is_none())
                .map(|(region, _)| *region)
                .collect();
            for region in untold {
                domain.settle_broken(region);
            }
            let (width, steps) = domain.course.finish(last);
            view.domains.push(DomainView {
                id,
                counts: domain.counts,
                regions: domain.regions.len() as u64,
                width,
                steps,
                map: domain.map.map(|map| map.finish(last)),
            });
        }
        view
    }
}

impl Domain {
    /// Time begins.
    fn begin(&mut self, start: u64) {
        self.course.begin(start);
        if let Some(map) = &mut self.map {
            map.begin(start);
        }
    }

    /// A region of which nothing was known turns out to have been this all the time.
    fn settle(&mut self, region: u64, class: Class) {
        let Some(known) = self.regions.get_mut(&region) else {
            return;
        };
        if known.class.is_none() {
            known.class = Some(class);
            self.course.has_been(class);
            if let Some(map) = &mut self.map {
                map.has_been(region, class);
            }
        }
    }

    fn settle_broken(&mut self, region: u64) {
        if let Some(broken) = self.regions.get(&region).map(Region::broken) {
            self.settle(region, broken);
        }
    }

    fn breaks(&mut self, now: u64, region: u64) {
        self.settle(region, Class::Whole);
        if let Some(broken) = self.regions.get(&region).map(Region::broken) {
            self.becomes(now, region, broken);
        }
    }

    fn becomes(&mut self, now: u64, region: u64, class: Class) {
        let Some(known) = self.regions.get_mut(&region) else {
            return;
        };
        let was = known.class.replace(class);
        if class.is_whole() {
            known.forget_pages();
        }
        match was {
            Some(was) => self.course.changes(now, was, class),
            None => self.course.appears(now, class),
        }
        if let Some(map) = &mut self.map {
            let broke = was.is_some_and(Class::is_whole) && !class.is_whole();
            map.changes(now, region, was, class, broke);
        }
    }
}

/// What the record of a split itself says about why, by the numbers of
/// XEN_DOMCTL_COALESCE_CAUSE_*.
fn told(cause: u8) -> Option<Cause> {
    match cause {
        1 => Some(Cause::Balloon),
        2 => Some(Cause::Exchange),
        3 => Some(Cause::Mapping),
        4 => Some(Cause::Type),
        5 => Some(Cause::Logging),
        6 => Some(Cause::Executed),
        _ => None,
    }
}

/// What the records before a split on its CPU say about why.
fn cause(recent: &Recent, domid: u16, region: u64) -> Cause {
    if let Some((domain, first, pages)) = recent.decrease {
        let last = first.saturating_add(pages.saturating_sub(1));
        if domain == domid && (first / PAGES..=last / PAGES).contains(&region) {
            return Cause::Balloon;
        }
    }
    match recent.set {
        Some((domain, place, mapped, kind)) if (domain, place) == (domid, region) => {
            if !mapped {
                Cause::Removed
            } else if kind == LOG_DIRTY || kind == READ_ONLY {
                Cause::Logging
            } else if kind == 0 {
                Cause::Placed
            } else {
                Cause::Mapping
            }
        }
        _ => Cause::Unknown,
    }
}

/// Memory references of a TLB miss, without caches: (g + 1)(h + 1) - 1 for g levels of the guest's
/// page table and h of the host's (Bhargava et al., Accelerating Two-Dimensional Page Walks for
/// Virtualized Systems, ASPLOS 2008).
pub fn walk_references(guest_levels: u32, host_levels: u32) -> u32 {
    (guest_levels + 1) * (host_levels + 1) - 1
}

/// The mean over memory of which the share `coverage` is in 2 MiB entries, for a guest whose own
/// pages are of 4 KiB (4 levels) or 2 MiB (3).
pub fn mean_references(guest_levels: u32, coverage: f64) -> f64 {
    let whole = f64::from(walk_references(guest_levels, 3));
    let broken = f64::from(walk_references(guest_levels, 4));
    whole * coverage + broken * (1.0 - coverage)
}

impl DomainView {
    /// Coverage at first, at worst with the step where that was, and at last.
    pub fn coverage(&self) -> Option<Coverage> {
        let known = |(at, step): (usize, &Step)| Some((at, step.low.coverage()?));
        let (worst_step, worst) = self
            .steps
            .iter()
            .enumerate()
            .filter_map(known)
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        // Before anything happened all is as it was told to have been.
        let first = self.first()?.coverage()?;
        Some(Coverage {
            first,
            worst: worst.min(first),
            worst_at: self.width * worst_step as u64,
            last: self.steps.last()?.end.coverage()?,
        })
    }

    /// What the regions were before the first change.
    fn first(&self) -> Option<region::Tally> {
        let tallies = self.steps.iter().map(|step| step.start);
        tallies.into_iter().find(|tally| tally.memory() != 0)
    }
}

/// Which share of a domain's memory was in 2 MiB entries: 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coverage {
    pub first: f64,
    pub worst: f64,
    /// Ticks from the start of the trace.
    pub worst_at: u64,
    pub last: f64,
}
