// SPDX-License-Identifier: GPL-2.0-only
//! Where one page, one copy or one moment more decides: what is begun first, which
//! way is taken, how much is done in one lock hold, and what is believed.

use arch::Format;
use machine::heap::{Dom, Policy, State};
use machine::host::{Act, Config, Fallible, Host};
use p2m::account::{Account, Counter, Outcome, Reason};
use p2m::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use p2m::coalesce::{self, Limits, Mode, Scratch, books_balance};
use p2m::ledger::Ledger;
use p2m::machine::Machine;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

const REGION: Region = Region(1);

/// A guest of so many regions, each in a block of its own, the lowest that there are.
/// What is taken later comes from where `policy` says.
fn regions(count: u64, policy: Policy) -> Host {
    let mut host = Host::new(Config {
        format: Format::Ept,
        ..Config::default()
    });

    for r in 0..count {
        assert!(host.populate(Region(r).start(), Order::REGION, false));
    }
    host.heap.policy = policy;
    host.surveyed(REGION);
    host
}

/// The page at a slot of the second region.
fn page(slot: u64) -> Gfn {
    REGION.start().add(slot % REGION_PAGES)
}

/// Pages of the second region trade places with those of another, `shift` further on.
fn trade(host: &mut Host, slots: std::ops::Range<u64>, other: u64, shift: u64) {
    for slot in slots {
        let with = Region(other).start().add((slot + shift) % REGION_PAGES);
        assert!(host.swap(page(slot), with));
    }
}

/// No block holds many pages of the second region: it is best to migrate it.
fn scattered() -> Host {
    let mut host = regions(8, Policy::Lowest);

    trade(&mut host, 0..100, 2, 1);
    trade(&mut host, 100..200, 3, 1);
    trade(&mut host, 200..300, 4, 1);
    trade(&mut host, 300..400, 5, 1);
    trade(&mut host, 400..511, 6, 1);
    host
}

/// The page comes to lie in another block (the policy is not the lowest), and the frame
/// where it lay is free.
fn displace(host: &mut Host, slot: u64) -> Mfn {
    let frame = host.mfn(page(slot)).expect("it is there");

    host.config.alloc_at = false;
    assert!(host.balloon_out(page(slot)) && host.populate(page(slot), Order::PAGE, false));
    host.config.alloc_at = true;
    assert_eq!(host.heap.at(frame).state, State::Free);
    frame
}

/// Heal the second region: the outcome, and how many pages were copied.
fn heal(host: &mut Host) -> (Outcome, u64) {
    let before = host.account.count(Counter::PagesCopied);
    let outcome = host.heal_now(REGION);

    host.between = None;
    (outcome, host.account.count(Counter::PagesCopied) - before)
}

/// Others act at the n'th moment from now at which the lock is free.
fn meanwhile(host: &mut Host, n: usize, acts: Vec<Act>) {
    let moments = AtomicUsize::new(0);

    host.between = Some(Arc::new(move |host: &mut Host| {
        if !host.is_locked() && moments.fetch_add(1, Relaxed) == n {
            acts.iter().for_each(|&act| host.act(act));
        }
    }));
}

#[test]
fn an_act_that_was_interrupted_holds_what_is_nobodys() {
    let mut host = regions(2, Policy::Highest);
    // Pairs of pages in each other's places need a spare frame, and leave it free.
    for slot in (0..24).step_by(2) {
        assert!(host.swap(page(slot), page(slot + 1)));
    }
    for slot in [100, 200, 300] {
        displace(&mut host, slot);
    }
    let (mut scratch, mut kept) = (Scratch::default(), None);
    let limits = Limits {
        mode: Mode::Full,
        batch: 9,
        defer: false,
    };
    host.preempt_every = 1;
    let outcome = coalesce::heal(&mut host, &mut scratch, &mut kept, REGION, limits, 0);
    assert_eq!(outcome, Outcome::Refused(Reason::Interrupted));

    let act = kept.expect("it was interrupted");
    let nobodys = |&mfn: &Mfn| host.heap.at(mfn).state == State::Anonymous;
    let all = || (0..host.heap.len()).map(Mfn);
    let held: Vec<Mfn> = all().filter(|&mfn| act.holds(mfn)).collect();
    assert_eq!(held, all().filter(nobodys).collect::<Vec<_>>());
    // Three places, and the spare frame.
    assert_eq!(held.len(), 4);
    act.abandon(|block| host.free(block));
    host.finish();
}

/// By their types the pages are ordinary RAM again, for all of them were written to
/// since.
#[test]
fn what_is_tracked_and_written_to_meanwhile_is_left() {
    let mut host = regions(2, Policy::Lowest);
    assert!(host.swap(page(3), page(7)));
    let track = Act::Track {
        region: 1,
        on: true,
    };
    let write = |slot| Act::Write {
        vcpu: 0,
        gfn: page(slot).0 as u16,
    };
    let acts: Vec<Act> = [track]
        .into_iter()
        .chain((0..REGION_PAGES).map(write))
        .collect();

    for n in 0..5 {
        let mut host = host.clone();
        meanwhile(&mut host, n, acts.clone());
        let left = Outcome::Refused(Reason::LogDirty);
        assert_eq!(heal(&mut host), (left, 0), "{n}");
        host.finish();
    }
}

#[test]
fn what_takes_few_copies_comes_first() {
    for few in [1, 2] {
        let mut host = Host::new(Config::default());
        // All pages of the other region lie in no place of theirs.
        host.other_alloc();
        for r in [1, 2] {
            assert!(host.populate(Region(r).start(), Order::REGION, r != few));
        }
        let first = Region(few).start();
        assert!(host.swap(first, first.add(1)));
        host.surveyed(Region(1));
        host.book.touch(Region(2), host.now);
        let healed: Vec<_> = std::iter::from_fn(|| host.heal_one()).collect();

        let deferred = (Region(3 - few), Outcome::Refused(Reason::Deferred));
        let looks = [
            (Region(few), Outcome::Completed),
            (Region(3 - few), Outcome::Migrated),
        ];
        if few == 1 {
            assert_eq!(healed, looks);
        } else {
            assert_eq!(healed[0], deferred);
            assert_eq!(healed[1..], looks);
        }
        host.finish();
    }
}

/// Pages lie in their places in a block that is free but for them: it is completed if
/// that is cheaper than to copy all to a new one, though there is another block in
/// which more of them lie, and which cannot be had.
#[test]
fn a_block_with_some_pages_is_completed_if_that_is_cheaper() {
    // Each page costs 10 eighths of a copy, and 19 where another one has to make room;
    // a migration 4608.
    for (stay, expected) in [
        (1, (Outcome::Completed, 460)),
        (2, (Outcome::Migrated, 512)),
    ] {
        let mut host = regions(3, Policy::Highest);
        trade(&mut host, 0..53, 0, 0);
        trade(&mut host, 253..512, 2, 1);
        for i in 53 + stay..512 {
            assert!(host.balloon_out(Gfn(i)));
        }
        let block = host.mfn(page(0)).expect("it is there");
        assert_eq!(heal(&mut host), expected, "{stay}");
        let there = host.mfn(page(0)) == Some(block);
        assert_eq!(there, expected.0 == Outcome::Completed);
        host.finish();
    }
}

/// Whatever the heap would give out first: the frame by which pages change places comes
/// from outside the block, for a place in it is some page's.
#[test]
fn the_spare_frame_is_nobodys_place() {
    for policy in [Policy::Lowest, Policy::Highest] {
        for full in [false, true] {
            let mut host = regions(2, Policy::Highest);
            for slot in [0, 2, 4, 6] {
                assert!(host.swap(page(slot), page(slot + 1)));
            }
            displace(&mut host, 100);
            // Two free frames are left elsewhere; or whole blocks are.
            while full && host.heap.free_pages() > 3 {
                host.other_alloc();
            }
            host.heap.policy = policy;
            // The pairs come first, and each needs a spare frame.
            host.batch = 8;
            assert_eq!(
                heal(&mut host),
                (Outcome::Completed, 13),
                "{policy:?} {full}"
            );
            host.finish();
        }
    }
}

/// What was to be moved is pinned after the look: it stays, and the others come to it,
/// whichever way was begun.
#[test]
fn who_is_pinned_meanwhile_decides_where_the_others_go() {
    // To another block, for there is none that holds many of them. (That of the page in question is not
    // where others are in their places, nor among the first that one comes by.)
    let mut scattered = scattered();
    trade(&mut scattered, 450..451, 7, 0);
    trade(&mut scattered, 470..471, 0, 0);
    // To the block in which most of them lie.
    let mut gathered = regions(3, Policy::Lowest);
    trade(&mut gathered, 412..512, 2, 0);

    for (host, stuck, undisturbed) in [
        (scattered, page(470), Outcome::Migrated),
        (gathered, page(511), Outcome::Completed),
    ] {
        let frame = host.mfn(stuck);
        let mut quiet = host.clone();
        assert_eq!(heal(&mut quiet).0, undisturbed);
        assert_ne!(quiet.mfn(stuck), frame);

        for n in 1..4 {
            let mut host = host.clone();
            host.batch = REGION_PAGES;
            let gfn = stuck.0 as u16;
            meanwhile(&mut host, n, vec![Act::Map { gfn }]);
            assert_eq!(heal(&mut host).0, Outcome::Completed, "{n}");
            assert_eq!(host.mapper_holds(), 1);
            assert_eq!(host.mfn(stuck), frame, "{n}");
            host.check();
            host.unpin_all();
            host.finish();
        }
    }
}

/// Frames that nobody can get a reference to and that are not free.
fn frozen(host: &Host) -> usize {
    let all = (0..host.heap.len()).map(Mfn);
    all.filter(|&mfn| host.heap.at(mfn).is_frozen()).count()
}

/// Heal the second region in batches of 8: how it went, and the most frames that were
/// left but not free while the lock was.
fn left_at_most(host: &mut Host) -> ((Outcome, u64), usize) {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);

    host.batch = 8;
    host.between = Some(Arc::new(move |host: &mut Host| {
        if !host.is_locked() {
            seen.fetch_max(frozen(host), Relaxed);
        }
    }));
    (heal(host), most.load(Relaxed))
}

/// What a migration leaves is freed in one go when it ends, however it ends; what
/// others leave is freed at once, for the next batch may want it.
#[test]
fn frames_that_a_migration_leaves_are_freed_together() {
    let whole = scattered();
    let mut host = whole.clone();
    let migrated = (Outcome::Migrated, REGION_PAGES);
    assert_eq!(left_at_most(&mut host), (migrated, 512));
    host.finish();

    let mut host = whole.clone();
    host.preempt_every = 20;
    let interrupted = (Outcome::Refused(Reason::Interrupted), 160);
    assert_eq!(left_at_most(&mut host), (interrupted, 160));
    host.check();
    assert_eq!(frozen(&host), 0);
    host.finish();

    let mut host = regions(2, Policy::Highest);
    for slot in 0..24 {
        displace(&mut host, slot);
    }
    assert_eq!(left_at_most(&mut host), ((Outcome::Completed, 24), 8));
    host.finish();
}

/// A page that is renewed when it has come to its place has to move again: that makes
/// more frames than there is room for.
#[test]
fn a_migration_may_leave_more_frames_than_a_region_has() {
    let whole = scattered();

    // (If one that comes next is renewed too it is seen at once, and batches do not end with the region.)
    for (moved, renewed, next, batch) in [
        (0, 1, None, 8),
        (100, 8, None, 8),
        (400, 30, Some(410), 9),
        (503, 500, None, 8),
    ] {
        let mut host = whole.clone();
        let done = AtomicBool::new(false);

        host.batch = batch;
        host.between = Some(Arc::new(move |host: &mut Host| {
            let frame = host.mfn(page(moved)).filter(|_| !host.is_locked());
            let there = frame.is_some_and(|mfn| mfn.slot() == moved);
            if there && !done.swap(true, Relaxed) {
                host.heap.policy = Policy::Highest;
                for slot in (0..renewed).chain(next) {
                    displace(host, slot);
                }
            }
        }));
        let (outcome, copied) = heal(&mut host);
        assert_eq!(outcome, Outcome::Migrated, "{moved}");
        assert!(copied > REGION_PAGES, "{moved}: {copied}");
        host.check();
        assert_eq!(frozen(&host), 0);
        host.finish();
    }
}

/// The first pages that are astray cannot be helped now, so it is the turn of others;
/// and one of those is another page by then.
#[test]
fn a_page_that_is_renewed_before_its_turn_is_moved_as_it_is() {
    let mut host = regions(2, Policy::Highest);
    for slot in 0..8 {
        displace(&mut host, slot);
    }
    assert!(host.swap(page(300), page(301)));
    host.batch = 8;
    // What is free in the block is not to be had.
    host.config.alloc_at = false;

    for n in 0..8 {
        let mut host = host.clone();
        let gfn = page(300).0 as u16;
        meanwhile(&mut host, n, vec![Act::Renew { gfn }]);
        let (outcome, _) = heal(&mut host);
        assert_eq!(outcome, Outcome::Migrated, "{n}");
        host.finish();
    }
}

#[test]
fn pages_that_follow_one_another_move_in_one_go_up_to_a_batch() {
    let mut host = regions(2, Policy::Lowest);
    // A hundred in a circle.
    for slot in 0..99 {
        assert!(host.swap(page(slot), page(slot + 1)));
    }
    host.preempt_every = 1;

    for batch in [8, 9, 100, 101, 512] {
        let mut host = host.clone();
        host.batch = batch;
        let expected = if batch > 100 {
            (Outcome::Completed, 101)
        } else {
            (Outcome::Refused(Reason::Interrupted), batch)
        };
        assert_eq!(heal(&mut host), expected);
        host.finish();
    }
}

/// A frame that the guest has, and that is mapped nowhere: what the M2P has for it is
/// no reason to take it for the page that is there.
#[test]
fn the_m2p_is_not_believed_against_the_page_table() {
    let mut host = regions(2, Policy::Highest);
    let gfn = page(7).0 as u16;
    host.act(Act::Write { vcpu: 0, gfn });
    let frame = displace(&mut host, 3);
    assert!(host.heap.take_at(frame).is_some());
    host.heap.scrub(frame);
    host.heap.assign(frame, Dom::Guest);
    *host.heap.tot_mut(Dom::Guest) += 1;
    host.heap.m2p[frame.0 as usize] = Some(page(7));

    assert_eq!(heal(&mut host), (Outcome::Migrated, 512));
    host.act(Act::Read { vcpu: 1, gfn });

    host.heap.m2p[frame.0 as usize] = None;
    let page = host.heap.at_mut(frame);
    (page.count, page.allocated) = (0, false);
    host.heap.put(frame, true);
    *host.heap.tot_mut(Dom::Guest) -= 1;
    host.finish();
}

/// One page in every forty of the lowest block is left, and all the rest of it is what
/// the heap would give out first.
#[test]
fn who_leaves_a_block_does_not_come_back_to_it() {
    let mut host = regions(1, Policy::Lowest);
    for i in (0..512).filter(|i| i % 40 != 0) {
        assert!(host.balloon_out(Gfn(i)));
    }
    let block = host.mfn(Gfn(0)).expect("it is there");

    // None may leave: what is free is asked for, once.
    let asked = |host: &Host| host.counts.get(&Fallible::AllocAt).copied();
    let before = asked(&host).unwrap_or(0);
    assert_eq!(host.vacate(block, 0), (0, false));
    assert_eq!(asked(&host), Some(before + REGION_PAGES));

    assert_eq!(host.vacate(block, 511), (13, true));
    host.finish();
}

#[test]
fn each_look_ends_in_one_outcome_in_the_books() {
    for outcome in [
        Outcome::Promoted,
        Outcome::Completed,
        Outcome::Migrated,
        Outcome::Refused(Reason::Pinned),
    ] {
        let account = Account::default();
        assert!(books_balance(&account));
        account.settle(outcome);
        assert!(books_balance(&account), "{outcome:?}");
        account.add(Counter::LookedAt, 1);
        assert!(!books_balance(&account), "{outcome:?}");
        account.add(Counter::Migrated, 1);
        assert!(books_balance(&account), "{outcome:?}");
        account.add(Counter::Promoted, 1);
        assert!(!books_balance(&account), "{outcome:?}");
    }
}
