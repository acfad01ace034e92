// SPDX-License-Identifier: GPL-2.0-only
//! What keeping superpages costs, and what it gives, on hosts that nobody has at
//! hand: hours of ballooning on up to 12 TiB and 1,000 domains.
//!
//! A [`Trace`] is what balloon drivers do: at a time, in a domain, a page of a
//! region leaves, or comes back. It is the same for every [`Policy`]: the ledger of
//! the core (the real one, fed as the hook in Xen's p2m code feeds it, and asked
//! as the worker asks it), a sweep with the published defaults of Linux's
//! khugepaged, or nothing at all. A region is so many holes and so many pages
//! astray; which act makes it whole, and how many pages that copies, follows
//! from those as in `p2m::coalesce`. Free memory is not modelled frame by frame:
//! a page that comes back gets its old place with a chance that is a parameter.
//!
//! Work is counted, not timed: wakes of the worker, domains that are asked, leaves of
//! the ledger that are visited, regions that are looked at, pages that are scanned.
//! So the figures are the same on every machine.

use p2m::addr::{REGION_PAGES, Region};
use p2m::ledger::{Book, Leaf, Ledger, Next, Slot, reach_for};
use p2m::pace::{LOOK, Roster, Seat, Step, Turn};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::{Deref, DerefMut};

/// Regions in a GiB.
const GIB: u64 = 512;

/// A host and what happens on it.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Guests' memory, in GiB.
    pub gib: u64,
    pub domains: u64,
    /// Simulated time.
    pub hours: u64,
    /// Pages that balloon drivers move in an hour, over all domains.
    pub events_per_hour: u64,
    /// In a hundred: how often a page that comes back gets its old place.
    pub placed: u64,
    /// Pages that the worker copies in a ms; 0: any number.
    pub speed: u64,
    pub seed: u64,
}

impl Host {
    /// A host of `gib` GiB with domains of 12 GiB, or one smaller domain.
    pub fn of(gib: u64) -> Self {
        Host {
            gib,
            domains: (gib / 12).max(1),
            hours: 4,
            events_per_hour: 200_000,
            placed: 60,
            speed: 0,
            seed: 1,
        }
    }

    /// Regions of one domain.
    pub fn regions(&self) -> u64 {
        (self.gib * GIB / self.domains).max(1)
    }
}

/// A page leaves a region, or comes back; `at` in ms.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub at: u64,
    pub domain: u64,
    pub region: u64,
    pub out: bool,
    /// It gets its old place.
    pub placed: bool,
}

/// What balloon drivers do in a time: bursts of pages of neighbouring regions
/// leave, and come back minutes later.
pub fn trace(host: &Host) -> Vec<Event> {
    let mut random = Pcg64::seed_from_u64(host.seed);
    let mut below = |n: u64| random.next_u64() % n.max(1);
    let end = host.hours * 3_600_000;
    let pages = host.events_per_hour * host.hours / 2;
    let mut events = Vec::new();
    let mut left = pages;

    while left > 0 {
        let domain = below(host.domains);
        let burst = (8 + below(120)).min(left);
        let first = below(host.regions());
        let start = below(end);
        let away = 30_000 + below(600_000);
        for i in 0..burst {
            // Some pages of each region, as fragmented guests give them.
            let region = (first + i / (1 + below(24))) % host.regions();
            let out = start + i;
            let event = |at, out, placed| Event {
                at,
                domain,
                region,
                out,
                placed,
            };
            events.push(event(out, true, false));
            events.push(event(out + away, false, below(100) < host.placed));
        }
        left -= burst;
    }
    events.sort_by_key(|e| (e.at, e.domain, e.region, Reverse(e.out)));
    events
}

/// One domain balloons a page or more out of each of its regions, at once, and gets them
/// back at once: to make a region whole takes no copy, few, or many.
pub fn storm(host: &Host) -> Vec<Event> {
    let mut random = Pcg64::seed_from_u64(host.seed);
    let mut below = |n: u64| random.next_u64() % n.max(1);
    let mut events = Vec::new();

    for region in 0..host.regions() {
        let (pages, placed) = match below(10) {
            0..4 => (1 + below(64), true),
            4..7 => (1 + below(64), false),
            _ => (65 + below(447), false),
        };
        for (at, out) in [(0, true), (1000, false)] {
            events.extend((0..pages).map(|_| Event {
                at,
                domain: 0,
                region,
                out,
                placed,
            }));
        }
    }
    events.sort_by_key(|e| e.at);
    events
}

/// What happened on `small`, on a `large` host: the same pages of as many regions, which
/// lie evenly over all of it.
pub fn spread(events: &[Event], small: &Host, large: &Host) -> Vec<Event> {
    let apart = large.domains * large.regions() / (small.domains * small.regions());

    events
        .iter()
        .map(|event| {
            let region = (event.domain * small.regions() + event.region) * apart;
            Event {
                domain: region / large.regions(),
                region: region % large.regions(),
                ..*event
            }
        })
        .collect()
}

/// What becomes of broken regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing.
    Nothing,
    /// khugepaged's way: so many 4 KiB entries are scanned, then there is a rest;
    /// a region of which enough is there is copied, holes are filled.
    Sweep(Sweep),
    /// The core's ledger.
    Ledger,
    /// The same, but who comes first is served first, whatever it takes.
    InTurn,
}

impl Policy {
    fn keeps_a_ledger(self) -> bool {
        matches!(self, Policy::Ledger | Policy::InTurn)
    }
}

/// The settings of khugepaged (`Documentation/admin-guide/mm/transhuge.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// `pages_to_scan`: 4 KiB entries between two rests.
    pub pages: u64,
    /// `scan_sleep_millisecs`.
    pub rest: u64,
    /// `max_ptes_none`: holes that are filled.
    pub holes: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep {
            pages: 4096,
            rest: 10_000,
            holes: 511,
        }
    }
}

/// What it came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub events: u64,
    /// Regions looked at.
    pub looks: u64,
    /// Of those, so many times one was deferred.
    pub deferred: u64,
    /// 4 KiB entries read by those.
    pub scanned: u64,
    /// Leaves of the ledger touched by events and searches.
    pub leaves: u64,
    /// Times that the worker woke up.
    pub wakes: u64,
    /// Times that it asked a domain's ledger what is next.
    pub asks: u64,
    pub promoted: u64,
    pub completed: u64,
    pub migrated: u64,
    pub copied: u64,
    /// Pages copied by the time that each region was made whole.
    pub by_act: Vec<u64>,
    /// Pages given to a guest that it had ballooned out.
    pub filled: u64,
    /// The ledger's memory at the end, in bytes.
    pub memory: u64,
    /// What part of all regions is whole, in millionths, every so often (ms).
    pub coverage: Vec<(u64, u64)>,
}

impl Figures {
    /// What finding and judging costs: wakes, domains asked, leaves of the ledger
    /// visited, regions looked at, per event. (Copies are what the events are worth.)
    pub fn work_per_event(&self) -> f64 {
        let work = self.looks + self.leaves + self.wakes + self.asks;

        work as f64 / self.events.max(1) as f64
    }

    /// The mean of the regions that are not whole, in millionths.
    pub fn broken(&self) -> f64 {
        let sum: u64 = self.coverage.iter().map(|&(_, c)| 1_000_000 - c).sum();

        sum as f64 / self.coverage.len().max(1) as f64
    }
}

thread_local! {
    static VISITS: Cell<u64> = const { Cell::new(0) };
}

/// A leaf that counts who comes by.
struct Counted(Box<Leaf>);

impl Deref for Counted {
    type Target = Leaf;

    fn deref(&self) -> &Leaf {
        VISITS.set(VISITS.get() + 1);
        &self.0
    }
}

impl DerefMut for Counted {
    fn deref_mut(&mut self) -> &mut Leaf {
        VISITS.set(VISITS.get() + 1);
        &mut self.0
    }
}

/// A region that is not as it was born.
#[derive(Clone, Copy, Debug, Default)]
struct Damage {
    holes: u16,
    astray: u16,
    /// 4 KiB entries, even if nothing else is wrong.
    split: bool,
}

struct Domain {
    /// Regions that are whole and undamaged are not in it.
    damage: BTreeMap<u64, Damage>,
    book: Book<Box<[Slot<Counted>]>>,
    /// GiB in which something has happened.
    leaves: u64,
}

impl Domain {
    fn new(regions: u64) -> Self {
        let root = (0..regions.div_ceil(GIB))
            .map(|_| Slot::default())
            .collect();
        let mut book = Book::new(root, 0);

        // It was born whole: each survey finds nothing.
        for gib in 0..book.reach() {
            book.quiet(gib);
        }
        Domain {
            damage: BTreeMap::new(),
            book,
            leaves: 0,
        }
    }

    fn survey(&mut self, gib: u64, now: u64) {
        if self.book.survey(gib, Counted(Box::default())).is_none() {
            self.leaves += 1;
        }
        let broken: Vec<u64> = self
            .damage
            .range(gib * GIB..(gib + 1) * GIB)
            .filter(|(_, d)| d.split)
            .map(|(&region, _)| region)
            .collect();
        for region in broken {
            self.book.touch(Region(region), now);
        }
    }

    /// One step of the worker's.
    fn step(&mut self, now: u64, policy: Policy, figures: &mut Figures) -> Step {
        let before = figures.copied;

        figures.asks += 1;
        match self.book.next(now) {
            Next::Look(region) => self.look(region, now, policy == Policy::Ledger, figures),
            Next::Act(region) => self.look(region, now, false, figures),
            Next::Survey(gib) => self.survey(gib, now),
            Next::Grow(gib) => {
                let root = (0..reach_for(gib)).map(|_| Slot::default()).collect();
                self.book.grow(root, now);
            }
            Next::Again => {}
            Next::Wait(ms) => return Step::Wait(ms),
            Next::Idle => return Step::Idle,
        }
        Step::Worked(figures.copied - before)
    }

    fn look(&mut self, region: Region, now: u64, defer: bool, figures: &mut Figures) {
        figures.looks += 1;
        let Some(damage) = self.damage.get(&region.0).copied() else {
            return;
        };
        if damage.holes > 0 {
            // Up to the first hole. An event comes when one is filled.
            figures.scanned += REGION_PAGES / (u64::from(damage.holes) + 1);
            return;
        }
        figures.scanned += REGION_PAGES;
        if defer && self.book.defer(region, copies(damage), now) {
            figures.deferred += 1;
            return;
        }
        heal(damage, figures);
        self.damage.remove(&region.0);
        self.book.healed(region);
    }
}

/// What the cheapest sufficient act copies (`p2m::coalesce`).
fn copies(damage: Damage) -> u64 {
    match u64::from(damage.astray) {
        few if few <= REGION_PAGES / 2 => few,
        _ => REGION_PAGES,
    }
}

fn heal(damage: Damage, figures: &mut Figures) {
    let copies = copies(damage);

    *match copies {
        0 => &mut figures.promoted,
        REGION_PAGES => &mut figures.migrated,
        _ => &mut figures.completed,
    } += 1;
    figures.copied += copies;
    figures.by_act.push(figures.copied);
}

fn apply(domain: &mut Domain, event: &Event) {
    let damage = domain.damage.entry(event.region).or_default();

    damage.split = true;
    if event.out {
        damage.holes = (damage.holes + 1).min(REGION_PAGES as u16);
        return;
    }
    damage.holes = damage.holes.saturating_sub(1);
    if !event.placed {
        damage.astray = (damage.astray + 1).min(REGION_PAGES as u16);
    }
}

/// Run `trace` on `host` under `policy`.
pub fn run(host: &Host, trace: &[Event], policy: Policy) -> Figures {
    let mut domains: Vec<Domain> = (0..host.domains)
        .map(|_| Domain::new(host.regions()))
        .collect();
    let mut figures = Figures::default();
    let end = host.hours * 3_600_000 + 700_000;
    let (mut sample, every) = (0, (end / 200).max(1));
    // The worker, and its timer.
    let mut roster = Roster::new(vec![Seat::default(); host.domains as usize]);
    let (mut timer, mut busy) = (u64::MAX, 0);
    // When the next sweep begins, and with which domain and region.
    let mut sweep = (0u64, 0u64, 0u64);
    let mut next = trace.iter().peekable();
    let mut broken = 0u64;
    let all = host.domains * host.regions();

    VISITS.set(0);
    loop {
        let event = next.peek().map_or(u64::MAX, |e| e.at);
        let scan = match policy {
            Policy::Sweep(_) => sweep.0,
            _ => u64::MAX,
        };
        let now = event.min(timer).min(scan).min(sample);
        if now > end {
            break;
        }
        if now == sample {
            figures
                .coverage
                .push((now, (all - broken) * 1_000_000 / all));
            sample += every;
        } else if now == event {
            let Some(event) = next.next() else { continue };
            let domain = &mut domains[event.domain as usize];
            let before = domain.damage.len() as u64;
            apply(domain, event);
            broken = broken + domain.damage.len() as u64 - before;
            figures.events += 1;
            if policy.keeps_a_ledger() && !event.out {
                domain.book.touch(Region(event.region), now);
                roster.alert(event.domain as u32);
                timer = timer.min(now.max(busy));
            }
        } else if now == timer {
            figures.wakes += 1;
            let mut spent = 0;
            timer = loop {
                if host.speed > 0 && spent >= host.speed {
                    busy = now + spent / host.speed;
                    break busy;
                }
                match roster.next(now) {
                    Turn::Serve(number) => {
                        let domain = &mut domains[number as usize];
                        let before = domain.damage.len() as u64;
                        let step = domain.step(now, policy, &mut figures);
                        if let Step::Worked(copied) = step {
                            spent += copied + LOOK;
                        }
                        broken = broken + domain.damage.len() as u64 - before;
                        roster.done(number, step, now);
                    }
                    Turn::Wait(ms) => break now + ms,
                    Turn::Idle => break u64::MAX,
                }
            };
        } else if let Policy::Sweep(settings) = policy {
            figures.wakes += 1;
            let mut left = settings.pages;
            while left > 0 {
                let (_, number, region) = sweep;
                let domain = &mut domains[number as usize];
                figures.looks += 1;
                match domain.damage.get(&region).copied() {
                    // One entry tells that it is whole.
                    None => left = left.saturating_sub(1),
                    Some(damage) => {
                        left = left.saturating_sub(REGION_PAGES);
                        figures.scanned += REGION_PAGES;
                        if u64::from(damage.holes) <= settings.holes {
                            // It allocates, copies all, and fills what is not there.
                            figures.migrated += 1;
                            figures.copied += REGION_PAGES - u64::from(damage.holes);
                            figures.filled += u64::from(damage.holes);
                            domain.damage.remove(&region);
                            broken -= 1;
                        }
                    }
                }
                sweep = match (region + 1 == host.regions(), number + 1 == host.domains) {
                    (false, _) => (sweep.0, number, region + 1),
                    (true, false) => (sweep.0, number + 1, 0),
                    (true, true) => (sweep.0, 0, 0),
                };
            }
            sweep.0 = now + settings.rest;
        }
    }
    figures.leaves = VISITS.get();
    if policy.keeps_a_ledger() {
        figures.memory = domains.iter().map(memory).sum();
    }
    figures
}

/// What a ledger takes, in bytes: its root, and a leaf for each GiB where
/// something happened.
fn memory(domain: &Domain) -> u64 {
    let root = domain.book.reach() * size_of::<Slot<&mut Leaf>>() as u64;

    root + domain.leaves * size_of::<Leaf>() as u64
}
