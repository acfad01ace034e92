// SPDX-License-Identifier: GPL-2.0-only
//! One region and one thing in its way, for each reason that a region can be
//! left for; and when that goes away without an event, the region is healed all
//! the same, if that is promised.

use arch::Format;
use machine::heap::Policy;
use machine::host::{Act, Config, Host};
use machine::tables::{ACCESS_RWX, kind};
use p2m::account::{Counter, Outcome, Reason};
use p2m::addr::{Gfn, Order, REGION_PAGES, Region};
use p2m::coalesce::Mode;
use p2m::ledger::Ledger;
use p2m::machine::Facts;

const REGION: Region = Region(1);
const START: u16 = 512;

fn config() -> Config {
    Config {
        format: Format::Ept,
        ..Config::default()
    }
}

/// A guest whose second region is broken, its pages all over the place.
fn astray() -> Host {
    let mut host = Host::new(config());

    host.other_alloc();
    assert!(host.populate(REGION.start(), Order::REGION, true));
    host.heal_one();
    host
}

/// The same with the pages in order.
fn in_order() -> Host {
    let mut host = Host::new(config());

    assert!(host.populate(REGION.start(), Order::REGION, true));
    host
}

/// As `astray`, but nobody has looked yet.
fn scattered() -> Host {
    let mut host = Host::new(config());

    host.other_alloc();
    assert!(host.populate(REGION.start(), Order::REGION, true));
    host
}

fn outcome(host: &mut Host) -> Option<Outcome> {
    let healed = host.heal_one();
    host.check();
    healed.map(|(region, outcome)| {
        assert_eq!(region, REGION);
        outcome
    })
}

#[track_caller]
fn refused(host: &mut Host, reason: Reason) {
    assert_eq!(outcome(host), Some(Outcome::Refused(reason)));
    assert_eq!(host.account.refused(reason), 1);
}

/// What was in the way is gone: the region is looked at again before long.
#[track_caller]
fn healed_in_time(mut host: Host) {
    for _ in 0..1000 {
        host.now += 8;
        match outcome(&mut host) {
            None => {}
            Some(Outcome::Refused(reason)) => panic!("{reason:?} is not in the way any more"),
            Some(_) => {
                host.finish();
                return;
            }
        }
    }
    panic!("it is not looked at again");
}

#[test]
fn nothing_in_the_way() {
    let mut host = astray();
    host.check();
    assert!(host.tables.last_table(REGION.start()).is_none());
    host.finish();

    let mut host = in_order();
    assert_eq!(outcome(&mut host), Some(Outcome::Promoted));
    assert_eq!(outcome(&mut host), None);
    host.finish();

    let mut host = scattered();
    assert_eq!(outcome(&mut host), Some(Outcome::Migrated));
    assert_eq!(outcome(&mut host), None);
    host.finish();
}

#[test]
fn a_few_pages_astray_are_fetched() {
    let mut host = in_order();
    host.config.alloc_at = false;
    host.balloon_out(Gfn(515));
    host.other_alloc();
    host.populate(Gfn(515), Order::PAGE, false);
    host.config.alloc_at = true;
    host.other_free(0);
    // A page in its place may be pinned.
    host.pin(Gfn(600));
    assert_eq!(outcome(&mut host), Some(Outcome::Completed));
    host.finish();
}

#[test]
fn whole_already() {
    let mut host = in_order();
    assert_eq!(outcome(&mut host), Some(Outcome::Promoted));
    // Not by an event, for a whole region is not queued.
    let outcome = host.heal_now(REGION);
    assert_eq!(outcome, Outcome::Refused(Reason::WholeAlready));
    let outcome = host.heal_now(Region(0));
    assert_eq!(outcome, Outcome::Refused(Reason::Empty));
    host.finish();
}

#[test]
fn hole() {
    let mut host = scattered();
    host.balloon_out(Gfn(700));
    refused(&mut host, Reason::Hole);
    assert!(host.populate(Gfn(700), Order::PAGE, false));
    healed_in_time(host);
}

#[test]
fn pinned() {
    let mut host = scattered();
    host.pin(Gfn(1023));
    refused(&mut host, Reason::Pinned);
    host.unpin_all();
    healed_in_time(host);
}

#[test]
fn pinned_in_order() {
    let mut host = in_order();
    host.pin(Gfn(1023));
    assert_eq!(outcome(&mut host), Some(Outcome::Promoted));
    host.finish();
}

#[test]
fn mem_type() {
    let mut host = scattered();
    host.retype(Gfn(900), kind::RAM_RO, ACCESS_RWX);
    refused(&mut host, Reason::MemType);
    host.retype(Gfn(900), kind::RAM_RW, ACCESS_RWX);
    healed_in_time(host);

    let mut host = scattered();
    host.balloon_out(Gfn(900));
    host.set_paged(Gfn(900), true);
    refused(&mut host, Reason::MemType);
    host.finish();
}

#[test]
fn access() {
    for build in [in_order, scattered] {
        let mut host = build();
        host.retype(Gfn(900), kind::RAM_RW, 5);
        refused(&mut host, Reason::Access);
        host.retype(Gfn(900), kind::RAM_RW, ACCESS_RWX);
        healed_in_time(host);
    }
}

#[test]
fn mem_access() {
    for build in [in_order, scattered] {
        let mut host = build();
        for gfn in START..START + 512 {
            host.retype(Gfn(gfn.into()), kind::RAM_RW, 5);
        }
        refused(&mut host, Reason::MemAccess);
        for gfn in START..START + 512 {
            host.retype(Gfn(gfn.into()), kind::RAM_RW, ACCESS_RWX);
        }
        healed_in_time(host);
    }
}

#[test]
fn cacheability() {
    for build in [in_order, scattered] {
        let mut host = build();
        host.odd_ranges.insert(REGION.0);
        refused(&mut host, Reason::Cacheability);
        host.odd_ranges.clear();
        healed_in_time(host);
    }
}

/// The block in which most of the pages lie cannot be one leaf; another one can.
#[test]
fn cacheability_of_the_block() {
    let mut host = scattered();
    let blocks = (0..REGION_PAGES).filter_map(|i| host.mfn(REGION.start().add(i)));
    let blocks: Vec<u64> = blocks.map(|mfn| mfn.0 / REGION_PAGES).collect();
    host.odd_blocks.extend(blocks);
    assert_eq!(outcome(&mut host), Some(Outcome::Migrated));
    let home = host.mfn(REGION.start()).unwrap().0 / REGION_PAGES;
    assert!(!host.odd_blocks.contains(&home));
    host.finish();
}

/// Broken because code in it is executed: not to be made whole until something else
/// has.
#[test]
fn exec_sp() {
    for build in [in_order, scattered] {
        let mut host = build();
        host.surveyed(REGION);
        host.book.executed(REGION);
        host.balloon_out(Gfn(700));
        assert!(host.populate(Gfn(700), Order::PAGE, false));
        refused(&mut host, Reason::ExecSp);
        host.book.settled(REGION);
        host.balloon_out(Gfn(700));
        assert!(host.populate(Gfn(700), Order::PAGE, false));
        healed_in_time(host);
    }
}

#[test]
fn special() {
    let mut host = scattered();
    host.set_special(Gfn(900), true);
    refused(&mut host, Reason::Special);
    host.set_special(Gfn(900), false);
    host.finish();
}

#[test]
fn no_memory() {
    let mut host = scattered();
    host.config.watermark = u64::MAX / 2;
    refused(&mut host, Reason::NoMemory);
    host.config.watermark = 0;
    healed_in_time(host);
}

#[test]
fn dying() {
    let mut host = scattered();
    host.die();
    refused(&mut host, Reason::Dying);
    host.finish();
}

#[test]
fn facts() {
    let all = [
        (Facts::IOMMU, Reason::Iommu, true),
        (Facts::ALTP2M, Reason::Altp2m, false),
        (Facts::NESTED, Reason::Nested, false),
        (Facts::POD, Reason::PopulateOnDemand, true),
        (Facts::SHARING, Reason::Sharing, false),
        (Facts::LOG_DIRTY, Reason::LogDirty, false),
    ];
    for (fact, reason, promotable) in all {
        let mut host = scattered();
        host.facts |= fact;
        refused(&mut host, reason);
        host.facts -= fact;
        if matches!(reason, Reason::PopulateOnDemand | Reason::LogDirty) {
            healed_in_time(host);
        }

        let mut host = in_order();
        host.facts |= fact;
        if promotable {
            assert_eq!(outcome(&mut host), Some(Outcome::Promoted));
        } else {
            refused(&mut host, reason);
        }
        host.finish();
    }

    let mut host = scattered();
    host.facts -= Facts::CREATED;
    refused(&mut host, Reason::NotReady);
    host.finish();
}

#[test]
fn mode() {
    let mut host = scattered();
    host.set_mode(Mode::InPlace);
    refused(&mut host, Reason::Mode);
    host.set_mode(Mode::Full);
    healed_in_time(host);

    let mut host = in_order();
    host.set_mode(Mode::InPlace);
    assert_eq!(outcome(&mut host), Some(Outcome::Promoted));
    host.finish();

    let mut host = scattered();
    host.set_mode(Mode::Off);
    assert_eq!(outcome(&mut host), None);
    host.set_mode(Mode::Full);
    healed_in_time(host);
}

/// Pages that were written to while they were tracked are ordinary RAM by
/// type, and belong to a tracked range all the same.
#[test]
fn log_dirty_range() {
    for (build, above) in [(in_order as fn() -> Host, true), (scattered, false)] {
        let mut host = build();
        host.track(REGION, true, above);
        for gfn in START..START + 512 {
            host.act(Act::Write { vcpu: 0, gfn });
        }
        refused(&mut host, Reason::LogDirty);
        host.track(REGION, false, above);
        healed_in_time(host);
    }
}

#[test]
fn recalculation() {
    for above in [true, false] {
        // Tracking comes and goes, and nobody has looked at the types since.
        let mut host = scattered();
        host.track(REGION, true, above);
        host.track(REGION, false, above);
        assert_eq!(outcome(&mut host), Some(Outcome::Migrated));
        host.finish();

        // The types say log-dirty, and are out of date.
        let mut host = scattered();
        host.track(REGION, true, above);
        for gfn in START..START + 512 {
            host.act(Act::Read { vcpu: 0, gfn });
        }
        host.track(REGION, false, above);
        assert_eq!(outcome(&mut host), Some(Outcome::Migrated));
        host.finish();
    }
}

/// Two regions in order, of which the second is looked at.
fn two_regions(batch: u64) -> Host {
    let mut host = Host::new(config());

    host.batch = batch;
    for region in [Region(0), REGION] {
        assert!(host.populate(region.start(), Order::REGION, false));
    }
    host
}

fn now(host: &mut Host, region: Region) -> (Outcome, u64) {
    let before = host.account.count(Counter::PagesCopied);
    let outcome = host.heal_now(region);

    host.check();
    (outcome, host.account.count(Counter::PagesCopied) - before)
}

/// One copy for each page that only has to go to its place, one more for each
/// cycle and for each page of another region that has to make room; in batches of
/// any size.
#[test]
fn copies() {
    for batch in [8, 9, 64, 512] {
        // A cycle of two, and one of three.
        let mut host = two_regions(batch);
        assert!(host.swap(Gfn(520), Gfn(600)));
        assert!(host.swap(Gfn(700), Gfn(701)) && host.swap(Gfn(701), Gfn(702)));
        assert_eq!(now(&mut host, REGION), (Outcome::Completed, 7));
        host.finish();

        // Pages in each other's regions.
        let mut host = two_regions(batch);
        for i in 0..30 {
            assert!(host.swap(Gfn(i * 3), Gfn(512 + i * 5)));
        }
        assert_eq!(now(&mut host, REGION), (Outcome::Completed, 60));
        let (outcome, copies) = now(&mut host, Region(0));
        assert_eq!(outcome, Outcome::Completed);
        assert!((30..=60).contains(&copies), "{copies}");
        host.finish();

        // No memory, not even for one page: nothing is lost.
        let mut host = two_regions(batch);
        assert!(host.swap(Gfn(0), Gfn(512)));
        host.config.watermark = u64::MAX / 2;
        assert_eq!(
            now(&mut host, REGION),
            (Outcome::Refused(Reason::NoMemory), 0)
        );
        host.finish();

        // Most is elsewhere: a fresh block costs less.
        let mut host = two_regions(batch);
        for i in 0..400 {
            assert!(host.swap(Gfn(i), Gfn(512 + (i + 1) % 512)));
        }
        assert_eq!(now(&mut host, REGION), (Outcome::Migrated, 512));
        host.finish();
    }
}

/// A page that cannot move, and lies right, decides where the others go.
#[test]
fn anchored() {
    let mut host = two_regions(128);
    for i in 0..400 {
        assert!(host.swap(Gfn(i), Gfn(512 + i)));
    }
    let home = host.mfn(Gfn(1023)).unwrap();
    host.pin(Gfn(1023));
    assert_eq!(now(&mut host, REGION).0, Outcome::Completed);
    assert_eq!(host.mfn(Gfn(1023)), Some(home));
    host.finish();

    // Two of them do not agree.
    let mut host = two_regions(128);
    for i in 0..400 {
        assert!(host.swap(Gfn(i), Gfn(512 + i)));
    }
    host.pin(Gfn(512));
    host.pin(Gfn(1023));
    assert_eq!(
        now(&mut host, REGION),
        (Outcome::Refused(Reason::Pinned), 0)
    );
    host.finish();

    // The page that is to make room is pinned: to a fresh block instead.
    let mut host = two_regions(128);
    assert!(host.swap(Gfn(7), Gfn(519)) && host.pin(Gfn(7)));
    assert_eq!(now(&mut host, REGION), (Outcome::Migrated, 512));
    host.finish();
}

/// Somebody wants the CPU between two batches: what was moved stays, and the rest
/// follows.
#[test]
fn interrupted() {
    let mut host = scattered();
    host.batch = 100;
    host.preempt_every = 1;
    assert_eq!(
        now(&mut host, REGION),
        (Outcome::Refused(Reason::Interrupted), 100)
    );
    host.preempt_every = 0;
    assert_eq!(outcome(&mut host), Some(Outcome::Migrated));
    assert_eq!(host.account.count(Counter::PagesCopied), 512);
    host.finish();

    // The worker does not come back to it: what is left is a completion of the block.
    let mut host = scattered();
    host.preempt_every = 1;
    assert_eq!(
        now(&mut host, REGION),
        (Outcome::Refused(Reason::Interrupted), 128)
    );
    host.preempt_every = 0;
    host.abandon();
    host.check();
    assert_eq!(outcome(&mut host), Some(Outcome::Completed));
    assert_eq!(host.account.count(Counter::PagesCopied), 512);
    host.finish();
}

/// A guest that balloons the same memory again and again has it healed less and less
/// often: all rounds together copy little more than the first few would.
#[test]
fn again_and_again_is_healed_now_and_then() {
    let mut host = Host::new(config());
    let mut first = 0;

    for region in [Region(0), REGION] {
        assert!(host.populate(region.start(), Order::REGION, false));
    }
    host.heal_all();
    for round in 0..100 {
        // The frames of these pages are taken by others before they are back.
        for i in 0..32 {
            assert!(host.balloon_out(Gfn(512 + 13 * i)));
            host.other_alloc();
        }
        host.config.alloc_at = false;
        for i in 0..32 {
            assert!(host.populate(Gfn(512 + 13 * i), Order::PAGE, false));
        }
        host.config.alloc_at = true;
        for _ in 0..100 {
            host.heal_one();
            host.now += 1;
        }
        host.check();
        while host.other_pages() > 0 {
            host.other_free(0);
        }
        if round == 0 {
            first = host.account.count(Counter::PagesCopied);
        }
    }
    host.heal_all();
    let all = host.account.count(Counter::PagesCopied);
    assert!(
        first > 0 && all <= 12 * first,
        "{first} in one, {all} in all"
    );
    host.finish();
}

/// There is no free block of 2 MiB at all: one in which pages of the region lie does,
/// if it can be emptied; not the first, if it cannot.
#[test]
fn no_block_is_free() {
    for (stuck, at_home) in [(None, false), (Some(3), false), (Some(450), true)] {
        let mut host = Host::new(Config {
            blocks: 3,
            ..config()
        });
        for region in [Region(0), REGION] {
            assert!(host.populate(region.start(), Order::REGION, false));
        }
        host.other_alloc();
        for i in 0..400 {
            assert!(host.swap(Gfn(i), Gfn(512 + (i + 1) % 512)));
        }
        // Some pages lie in their places in one block, and the others in another, out
        // of place; a page of the other region in either may not be able to move.
        let home = host.mfn(Gfn(1023)).map(|mfn| mfn.align(Order::REGION));
        if let Some(gfn) = stuck {
            assert!(host.pin(Gfn(gfn)));
        }
        let (outcome, copies) = now(&mut host, REGION);
        assert_eq!(outcome, Outcome::Completed, "{stuck:?}");
        assert!(copies <= 1024, "{copies}");
        assert_eq!(host.mfn(REGION.start()) == home, at_home, "{stuck:?}");
        host.finish();
    }
}

/// A block that is nearly free is emptied, for somebody who needs one; what cannot be
/// moved stays, what is somebody else's as well, and nothing is left half done.
#[test]
fn room_is_made() {
    let config = Config {
        blocks: 4,
        policy: Policy::Next,
        ..config()
    };
    let build = || {
        let mut host = Host::new(config);
        for region in [Region(0), REGION] {
            assert!(host.populate(region.start(), Order::REGION, false));
        }
        // All but these are free, and none of the blocks that are left is.
        for i in (0..512).filter(|i| i % 40 != 0) {
            assert!(host.balloon_out(Gfn(i)));
        }
        let block = host.mfn(Gfn(0)).expect("it is there").align(Order::REGION);
        // One page of somebody else's in each of the other two.
        for _ in 0..=REGION_PAGES {
            host.other_alloc();
        }
        while host.other_pages() > 2 {
            host.other_free(host.other_pages() - 2);
        }
        assert_eq!(host.heap.free_blocks(Order::REGION), 0);
        (host, block)
    };

    let (mut host, block) = build();
    let own = (0..512).filter(|&i| host.mfn(Gfn(i)).is_some()).count() as u64;
    assert_eq!(own, 13);
    // As many as are allowed, and no more.
    assert_eq!(host.vacate(block, 5), (5, false));
    host.check();
    assert_eq!(host.vacate(block, 511), (8, true));
    host.check();
    assert_eq!(host.heap.free_blocks(Order::REGION), 1);
    assert_eq!(host.vacate(block, 511), (0, true));
    host.finish();

    // Small batches.
    let (mut host, block) = build();
    host.batch = 8;
    assert_eq!(host.vacate(block, 511), (13, true));
    host.finish();

    // The CPU is wanted after the first of them.
    let (mut host, block) = build();
    host.batch = 8;
    host.preempt_every = 1;
    assert_eq!(host.vacate(block, 511), (8, false));
    host.preempt_every = 0;
    assert_eq!(host.vacate(block, 511), (5, true));
    host.finish();

    // A page cannot be moved: the others are, and are where they may stay.
    let (mut host, block) = build();
    assert!(host.pin(Gfn(80)));
    assert_eq!(host.vacate(block, 511), (12, false));
    assert_eq!(host.heap.free_blocks(Order::REGION), 0);
    host.unpin_all();
    assert_eq!(host.vacate(block, 511), (1, true));
    host.finish();

    // There is no memory that may be taken.
    let (mut host, block) = build();
    host.config.watermark = u64::MAX / 2;
    assert_eq!(host.vacate(block, 511), (0, false));
    host.finish();

    // Nothing of a domain with devices is moved, nor with anything else that forbids it.
    for fact in [
        Facts::IOMMU,
        Facts::POD,
        Facts::ALTP2M,
        Facts::NESTED,
        Facts::SHARING,
        Facts::LOG_DIRTY,
    ] {
        let (mut host, block) = build();
        host.set_facts(fact, true);
        assert_eq!(host.vacate(block, 511), (0, false), "{fact:?}");
        host.set_facts(fact, false);
        assert_eq!(host.vacate(block, 511), (13, true), "{fact:?}");
        host.finish();
    }

    // No leaf is broken for it.
    let (mut host, _) = build();
    let whole = host.mfn(REGION.start()).expect("it is there");
    assert_eq!(host.vacate(whole, 511), (0, false));
    assert!(host.tables.last_table(REGION.start()).is_none());
    host.finish();
}
