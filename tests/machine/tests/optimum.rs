// SPDX-License-Identifier: GPL-2.0-only
//! An exchange breaks no leaf that it need not break.
//!
//! What has to be broken is computed from the call alone, before it is made. Any
//! implementation does a call in *batches*: some chunks that follow each other in
//! the lists, of together 512 pages at most, because it holds a lock for that long;
//! between two of them the guest runs. A leaf of which a batch takes some pages and
//! leaves others has to be broken. A leaf can stay in one piece until it goes as a
//! whole if there is a batch with all of its 512 pages, in any order, and so with no
//! others: if they are consecutive in the list, and begin and end where chunks do.
//! These batches do not overlap, so an implementation can have all of them at once,
//! and the least number of leaves broken is that of the leaves of which pages are
//! given and for which there is no such batch.
//!
//! Outputs are holes, or what is given itself in the same order, so that it makes no
//! difference what is done first; and there is memory enough, in blocks of 2 MB: what
//! is given whole and asked for again is in pieces afterwards where it cannot be had
//! whole, whoever does it. What may come between otherwise is the matter of the other
//! tests.
//!
//! `OPTIMUM_OPS` sets how many operations are done on each machine, and
//! `PROPTEST_RNG_SEED` which.

use arch::Format;
use machine::heap::Policy;
use machine::host::{Config, GFN_MAX, Host, Lists};
use p2m::addr::{Gfn, Order, REGION_PAGES, Region};
use std::collections::BTreeSet;

/// SplitMix64: a script is the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn is_leaf(host: &Host, region: Region) -> bool {
    host.mfn(region.start()).is_some() && host.tables.last_table(region.start()).is_none()
}

fn pages_of(extents: &[u64], order: u32) -> Vec<u64> {
    extents
        .iter()
        .flat_map(|&gfn| gfn..gfn + (1 << order))
        .collect()
}

/// Leaves that have to be broken; see above.
fn least(host: &Host, pages: &[u64], chunk: u64) -> u64 {
    let regions: BTreeSet<u64> = pages.iter().map(|gfn| gfn / REGION_PAGES).collect();
    let has_to_break = |&region: &u64| {
        let places: Vec<u64> = (0..)
            .zip(pages)
            .filter(|&(_, gfn)| gfn / REGION_PAGES == region)
            .map(|(i, _)| i)
            .collect();
        let (first, last) = (places[0], places[places.len() - 1]);
        let all = places.len() as u64 == REGION_PAGES && last - first + 1 == REGION_PAGES;

        is_leaf(host, Region(region)) && !(all && first % chunk == 0)
    };

    regions.iter().filter(|r| has_to_break(r)).count() as u64
}

/// The inputs of a call, each page once.
fn inputs(host: &Host, random: &mut Random, order: u32) -> Vec<u64> {
    let ram = |gfn: u64| gfn < GFN_MAX && host.mfn(Gfn(gfn)).is_some();
    let size = 1u64 << order;
    let mut list: Vec<u64> = Vec::new();
    let mut taken = BTreeSet::new();

    for _ in 0..=random.below(4) {
        let region = random.below(GFN_MAX / REGION_PAGES) * REGION_PAGES;
        let base = region + random.below(REGION_PAGES);
        let mut some: Vec<u64> = match random.below(5) {
            // All of a region, in order or not.
            0 => (region..region + REGION_PAGES)
                .step_by(size as usize)
                .collect(),
            1 => {
                let mut all: Vec<u64> = (region..region + REGION_PAGES)
                    .step_by(size as usize)
                    .collect();
                random.shuffle(&mut all);
                all
            }
            // Some that follow each other, at any place.
            2 => (0..=random.below(40)).map(|i| base + i * size).collect(),
            3 => (0..=random.below(40))
                .map(|i| (region + i * 7 * size) % GFN_MAX)
                .collect(),
            _ => (0..=random.below(40))
                .map(|_| random.below(GFN_MAX / size) * size)
                .collect(),
        };
        some.retain(|&gfn| {
            let mut pages = gfn..gfn + size;
            let good = pages.clone().all(|p| ram(p) && !taken.contains(&p));
            if good {
                taken.extend(&mut pages);
            }
            good
        });
        list.extend(some);
    }
    list
}

/// As many holes, in extents of `order`; `None`: there are not so many.
fn holes(host: &Host, random: &mut Random, order: u32, pages: u64) -> Option<Vec<u64>> {
    let size = 1u64 << order;
    let hole = |gfn: u64| host.mfn(Gfn(gfn)).is_none();
    let mut all: Vec<u64> = (0..GFN_MAX)
        .step_by(size as usize)
        .filter(|&gfn| (gfn..gfn + size).all(hole))
        .collect();

    if random.below(2) == 0 {
        random.shuffle(&mut all);
    }
    all.truncate((pages / size) as usize);
    (all.len() as u64 * size == pages).then_some(all)
}

#[derive(Default)]
struct Tally {
    calls: u64,
    pages: u64,
    broken: u64,
    kept: u64,
    plugged: u64,
}

/// Blocks of 2 MB for an exchange of so many pages. Each policy takes memory in runs,
/// and a run of n pages ends at most n/512 + 2 blocks; once as pages, once as blocks.
fn have_memory(host: &mut Host, pages: u64) -> u64 {
    let wanted = 2 * (pages / REGION_PAGES) + 4;
    let missing = wanted.saturating_sub(host.heap.free_blocks(Order::REGION));

    host.heap.plug(missing);
    missing
}

fn exchange(host: &mut Host, random: &mut Random, tally: &mut Tally) {
    let order = |random: &mut Random| match random.below(8) {
        0..=4 => 0,
        5 => random.below(6) as u32,
        6 => 9,
        _ => random.below(10) as u32,
    };
    let in_order = order(random);
    let in_place = random.below(3) == 0;
    let out_order = if in_place { in_order } else { order(random) };
    let chunk = 1u64 << in_order.max(out_order);
    let per_chunk = (chunk >> in_order) as usize;

    let mut ins = inputs(host, random, in_order);
    ins.truncate(ins.len() / per_chunk * per_chunk);
    let pages = pages_of(&ins, in_order);
    let outs = if in_place {
        Some(ins.clone())
    } else {
        holes(host, random, out_order, pages.len() as u64)
    };
    let Some(outs) = outs.filter(|_| !pages.is_empty()) else {
        return;
    };

    let least = least(host, &pages, chunk);
    let leaves = |host: &Host| {
        let mut regions: Vec<u64> = pages.iter().map(|gfn| gfn / REGION_PAGES).collect();
        regions.dedup();
        regions.sort_unstable();
        regions.dedup();
        regions.retain(|&r| is_leaf(host, Region(r)));
        regions.len() as u64
    };
    let touched = leaves(host);
    tally.plugged += have_memory(host, pages.len() as u64);
    let before = host.splits;
    let lists = Lists::new(ins.clone(), outs);
    let result = host.exchange(in_order, out_order, lists, 0);
    assert_eq!(result, (ins.len() as u64, Ok(())));
    assert_eq!(
        host.splits - before,
        least,
        "leaves broken by an exchange of order {in_order} for {out_order} of {ins:?}"
    );
    tally.calls += 1;
    tally.pages += pages.len() as u64;
    tally.broken += least;
    tally.kept += touched - least;
}

fn play(config: Config, seed: u64, ops: u64) -> Tally {
    let mut host = Host::new(config);
    let mut random = Random(seed);
    let mut tally = Tally::default();

    for region in 0..5 {
        assert!(host.populate(Region(region).start(), Order::REGION, false));
    }
    for op in 0..ops {
        match random.below(8) {
            0 => {
                // Guests balloon out in runs, mostly.
                let base = random.below(GFN_MAX);
                for gfn in base..(base + random.below(60)).min(GFN_MAX) {
                    if host.expect.len() as u64 > 3 * REGION_PAGES {
                        host.balloon_out(Gfn(gfn));
                    }
                }
            }
            1 if host.expect.len() as u64 + REGION_PAGES < 6 * REGION_PAGES => {
                let region = random.below(GFN_MAX / REGION_PAGES);
                for i in 0..REGION_PAGES {
                    let gfn = Region(region).start().add(i);
                    if host.mfn(gfn).is_none() {
                        host.populate(gfn, Order::PAGE, false);
                    }
                }
            }
            2 => {
                host.now += 1_000_000;
                host.heal_all();
            }
            _ => exchange(&mut host, &mut random, &mut tally),
        }
        if op % 256 == 0 {
            host.check();
            host.traced.clear();
        }
    }
    host.finish();
    tally
}

#[test]
fn no_leaf_is_broken_that_can_be_kept() {
    let ops = env("OPTIMUM_OPS").unwrap_or(400);
    let seed = env("PROPTEST_RNG_SEED").unwrap_or(1);

    for (i, (format, eager_flush, policy)) in [
        (Format::Npt, true, Policy::Lowest),
        (Format::Npt, false, Policy::Next),
        (Format::Ept, false, Policy::Highest),
    ]
    .into_iter()
    .enumerate()
    {
        let config = Config {
            format,
            eager_flush,
            policy,
            blocks: 20,
            ..Config::default()
        };
        let tally = play(config, seed + i as u64, ops);
        println!(
            "optimum: {ops} operations: {} calls, {} pages, {} leaves broken, {} kept; {} blocks added",
            tally.calls, tally.pages, tally.broken, tally.kept, tally.plugged
        );
        // A property of what never happens is worth nothing.
        assert!(tally.broken > ops / 50 && tally.kept > ops / 50);
    }
}
