// SPDX-License-Identifier: GPL-2.0-only
//! What the compiler lets be dropped is noticed when it is; and the machine
//! notices what a core must not do. If these did not panic, the other tests
//! would prove nothing.

use arch::Format;
use machine::heap::Dom;
use machine::host::{Act, Config, Host, Lists};
use p2m::account::Counter;
use p2m::addr::{Gfn, Mfn, Order, Region};
use p2m::frames::{Frozen, List, Pending};
use p2m::machine::{Facts, Locked, Machine, Purpose};
use p2m::region::Shape;

/// A guest with one region, and translations of it in its TLBs.
fn host() -> Host {
    let mut host = Host::new(Config::default());

    assert!(host.populate(Gfn(0), Order::REGION, true));
    for gfn in 0..512 {
        host.act(Act::Write { vcpu: 0, gfn });
        host.act(Act::Read { vcpu: 1, gfn });
    }
    host.check();
    host
}

fn list(host: &Host, gfns: impl Iterator<Item = u64>) -> List {
    let mut list = List::default();
    for gfn in gfns {
        list.push(Gfn(gfn), host.mfn(Gfn(gfn)).unwrap());
    }
    list
}

#[test]
#[should_panic(expected = "dropped frozen frames")]
fn frozen_frames_are_dropped() {
    let mut host = host();
    let mut list = list(&host, 0..4);
    let frozen = Frozen::freeze_all(&mut host.lock(), &mut list);
    drop(frozen.unwrap());
}

#[test]
#[should_panic(expected = "dropped a pending TLB flush")]
fn pending_flush_is_dropped() {
    let mut host = host();
    drop(Pending::<<Host as Machine>::Loss>::new());
    host.check();
}

#[test]
#[should_panic(expected = "dropped retired frames")]
fn retired_frames_are_dropped() {
    let mut host = host();
    let mut list = list(&host, 0..4);
    let mut locked = host.lock();
    let frozen = Frozen::freeze_all(&mut locked, &mut list).unwrap();
    let flushed = locked.flush(Pending::new());
    drop(frozen.retire(&flushed));
}

/// As an exchange does it, but for the steps that are left out.
fn give_away(host: &mut Host, zap: bool, m2p: bool) {
    let mut list = list(host, 3..4);
    let mut locked = host.lock();
    let frozen = Frozen::freeze_all(&mut locked, &mut list).unwrap();
    let mut pending = Pending::new();

    if m2p {
        locked.set_m2p(frozen.pairs()[0].mfn(), None);
    }
    if zap {
        locked.zap(&mut pending, Gfn(3), Order::PAGE);
    }
    let flushed = locked.flush(pending);
    let retired = frozen.retire(&flushed);
    drop(locked);
    retired.free(host, Order::PAGE);
    // The page is not replaced by another.
    host.expect.remove(&3);
    *host.heap.tot_mut(Dom::Guest) -= 1;
    host.check();
}

#[test]
fn a_page_is_given_away() {
    give_away(&mut host(), true, true);
}

#[test]
#[should_panic(expected = "is mapped to")]
fn a_page_that_is_mapped_is_freed() {
    give_away(&mut host(), false, true);
}

#[test]
#[should_panic(expected = "orphans")]
fn a_page_is_unmapped_with_its_m2p_entry() {
    give_away(&mut host(), true, false);
}

#[test]
#[should_panic(expected = "while the TLB of vCPU")]
fn a_page_is_freed_with_a_flush_from_before() {
    let mut host = host();
    let mut list = list(&host, 3..4);
    let mut locked = host.lock();
    let flushed = locked.flush(Pending::new());
    drop(locked);
    host.act(Act::Read { vcpu: 0, gfn: 3 });
    let mut locked = host.lock();
    let frozen = Frozen::freeze_all(&mut locked, &mut list).unwrap();
    // No zap: in a deferred machine the TLB keeps what it has.
    let mfn = frozen.pairs()[0].mfn();
    locked.set_m2p(mfn, None);
    let retired = frozen.retire(&flushed);
    drop(locked);
    retired.free(&mut host, Order::PAGE);
}

#[test]
#[should_panic(expected = "while the TLB of vCPU")]
fn a_page_is_copied_before_the_flush() {
    let mut host = host();
    let block = host
        .alloc(Order::REGION, Purpose::Overwrite(Mfn(0)))
        .unwrap();
    let mut list = list(&host, 0..512);
    let mut locked = host.lock();
    let frozen = Frozen::freeze_all(&mut locked, &mut list).unwrap();
    let mut pending = Pending::new();
    let _table = locked.detach(&mut pending, Region(0)).unwrap();
    locked.copy(frozen.pairs()[0].mfn(), block.mfn());
}

#[test]
#[should_panic(expected = "somebody else's data")]
fn a_block_is_shown_before_it_is_overwritten() {
    let mut host = host();
    for _ in 0..512 {
        host.other_alloc();
    }
    while host.other_pages() > 0 {
        host.other_free(0);
    }
    let block = host
        .alloc(Order::REGION, Purpose::Overwrite(Mfn(0)))
        .unwrap();
    let _ = host.lock().assign(block.mfn(), Order::REGION);
}

#[test]
#[should_panic(expected = "leaked")]
fn a_block_is_forgotten() {
    let mut host = host();
    let _ = host.alloc(Order::PAGE, Purpose::Expose);
    host.check();
}

#[test]
#[should_panic(expected = "a promotion changes")]
fn a_region_out_of_order_is_promoted() {
    let mut host = Host::new(Config::default());
    host.other_alloc();
    assert!(host.populate(Gfn(0), Order::REGION, true));
    let mut pending = Pending::new();
    let _ = host
        .lock()
        .promote(&mut pending, Gfn(0), Mfn(0), Order::REGION, 7);
}

#[test]
#[should_panic(expected = "is dropped while")]
fn a_region_stays_hidden() {
    let mut host = host();
    let mut pending = Pending::new();
    let table = host.lock().detach(&mut pending, Region(0)).unwrap();
    table.ended();
    pending.unused();
}

#[test]
#[should_panic(expected = "waits for a lock that nobody holds")]
fn a_guest_waits_for_ever() {
    let mut host = host();
    host.die();
    let mut pending = Pending::new();
    let mut locked = host.lock();
    let table = locked.detach(&mut pending, Region(0)).unwrap();
    table.ended();
    let _ = locked.flush(pending);
    drop(locked);
    // Not dying after all: only so that the check of the guard is passed by.
    host.facts.remove(p2m::machine::Facts::DYING);
    host.act(Act::Read { vcpu: 0, gfn: 5 });
}

/// What was broken of a leaf of 1 GiB is healed, and then it is one leaf again; unless
/// something forbids it, or the frames are not those that it had.
#[test]
fn a_gib_becomes_one_leaf_again() {
    for format in [Format::Npt, Format::Ept] {
        let mut host = Host::new(Config {
            format,
            blocks: 512 + 8,
            ..Config::default()
        });
        host.facts |= Facts::HAP_1GB;
        assert!(host.populate(Gfn(0), Order::GIB, false));
        let mut broken_and_healed = |meddle: fn(&mut Host)| {
            for gfn in [Gfn(5), Gfn(600), Gfn(5)] {
                assert!(host.balloon_out(gfn) && host.populate(gfn, Order::PAGE, false));
            }
            assert_eq!(host.lock().lookup(Gfn(5)).order, Order::PAGE);
            meddle(&mut host);
            host.heal_all();
            host.dirty_ranges.clear();
            host.facts -= Facts::IOMMU;
            host.facts |= Facts::HAP_1GB;
            host.check();
            host.lock().lookup(Gfn(5)).order
        };
        assert_eq!(broken_and_healed(|_| ()), Order::GIB);
        assert_eq!(
            broken_and_healed(|host| host.facts -= Facts::HAP_1GB),
            Order::REGION
        );
        assert_eq!(
            broken_and_healed(|host| host.facts |= Facts::IOMMU),
            Order::REGION
        );
        assert_eq!(
            broken_and_healed(|host| {
                host.dirty_ranges.insert(300);
            }),
            Order::REGION
        );
        assert_eq!(broken_and_healed(|_| ()), Order::GIB);
        assert_eq!(host.account.count(Counter::PromotedGib), 2);

        // The frame is another's.
        assert!(host.balloon_out(Gfn(700)));
        host.other_alloc();
        host.config.alloc_at = false;
        assert!(host.populate(Gfn(700), Order::PAGE, false));
        host.config.alloc_at = true;
        host.heal_all();
        let first = host.mfn(Gfn(512));
        if first != Some(Mfn(512)) {
            assert_eq!(host.lock().lookup(Gfn(700)).order, Order::REGION);
        }
        host.finish();
    }
}

/// A leaf of 1 GiB is broken no further than is needed, and what was broken is
/// healed.
#[test]
fn a_leaf_of_a_gib() {
    for format in [Format::Npt, Format::Ept] {
        let mut host = Host::new(Config {
            format,
            blocks: 512 + 8,
            ..Config::default()
        });
        assert!(host.populate(Gfn(0), Order::GIB, false));
        assert_eq!(host.lock().lookup(Gfn(5)).order, Order::GIB);
        assert_eq!(host.shape(Region(3)), Shape::Whole);

        let in_place = |gfns: Vec<u64>| Lists::new(gfns.clone(), gfns);
        assert_eq!(host.exchange(9, 9, in_place(vec![1024]), 0), (1, Ok(())));
        assert_eq!(host.lock().lookup(Gfn(5)).order, Order::REGION);
        assert_eq!(host.exchange(0, 0, in_place(vec![5, 9]), 0), (2, Ok(())));
        assert_eq!(host.lock().lookup(Gfn(5)).order, Order::PAGE);
        assert_eq!(host.lock().lookup(Gfn(600)).order, Order::REGION);
        host.check();
        host.heal_all();
        assert_eq!(host.lock().lookup(Gfn(5)).order, Order::REGION);
        host.finish();
    }
}
