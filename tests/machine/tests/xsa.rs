// SPDX-License-Identifier: GPL-2.0-only
//! One test for what each of Xen's security advisories has taught about memory
//! that changes hands; `docs/xsa.md` says which, and why. Each has a mutation
//! in `tests/mutations` that makes it fail, so each is quick and leaves nothing
//! to chance.

use arch::{ENTRIES, Ept, Format, Npt, Table};
use machine::heap::Policy;
use machine::host::{Act, Config, Fallible, Host, Lists, Snapshot};
use machine::script::{Build, Script, exchange_and_check};
use machine::tables::{ACCESS_RWX, kind};
use p2m::account::{Outcome, Reason};
use p2m::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use p2m::exchange::Request;
use p2m::machine::{Errno, Facts, View};
use p2m::plan::Scratch;
use p2m::region::{State, judge};
use std::sync::atomic::AtomicU64;

fn machines() -> impl Iterator<Item = Config> {
    [
        (Format::Npt, true),
        (Format::Npt, false),
        (Format::Ept, false),
    ]
    .into_iter()
    .map(|(format, eager_flush)| Config {
        format,
        eager_flush,
        policy: Policy::Highest,
        exec_sp: false,
        ..Config::default()
    })
}

/// A guest whose vCPUs have translations of its first four regions.
fn guest(config: Config, build: &[Build]) -> Host {
    let script = Script {
        config,
        build: build.to_vec(),
        ops: Vec::new(),
    };
    let mut host = script.build();

    warm(&mut host);
    host
}

fn warm(host: &mut Host) {
    for gfn in 0..2048 {
        if host.mfn(Gfn(gfn)).is_some() && (gfn % 7 == 0 || gfn % 512 < 16) {
            let gfn = gfn as u16;
            host.act(Act::Write { vcpu: 0, gfn });
            host.act(Act::Read { vcpu: 1, gfn });
        }
    }
}

/// A guest whose second region is of pages that lie anywhere, but for their order
/// in the region.
fn scattered(config: Config) -> Host {
    let mut host = Host::new(config);

    host.other_alloc();
    assert!(host.populate(Gfn(512), Order::REGION, true));
    warm(&mut host);
    host.surveyed(Region(1));
    host
}

/// A guest whose second region lacks one page in its place, which is free.
fn one_astray(config: Config) -> Host {
    let mut host = guest(config, &[Build::Empty, Build::Split]);
    let page = host.mfn(Gfn(515)).unwrap();

    host.balloon_out(Gfn(515));
    while host.heap.at(page).state == machine::heap::State::Free {
        host.other_alloc();
    }
    host.config.alloc_at = false;
    assert!(host.populate(Gfn(515), Order::PAGE, false));
    host.config.alloc_at = true;
    while host.other_pages() > 0 {
        host.other_free(0);
    }
    warm(&mut host);
    host.surveyed(Region(1));
    host
}

/// An exchange, and nothing at all may have changed.
#[track_caller]
fn refused(host: &mut Host, orders: (u32, u32), lists: Lists, errno: Errno) {
    let before = host.snapshot();

    assert_eq!(exchange_and_check(host, orders, lists), (0, Err(errno)));
    assert_eq!(before, host.snapshot());
}

/// Look at the one region that waits, and see that no contents have changed.
#[track_caller]
fn heal(host: &mut Host) -> Outcome {
    let before = contents(&host.snapshot());
    let (region, outcome) = host.heal_one().expect("a region waits");

    host.check();
    assert_eq!(region, Region(1));
    if !host.dying() {
        assert_eq!(before, contents(&host.snapshot()));
    }
    outcome
}

fn contents(snapshot: &Snapshot) -> String {
    let content = |seen: &machine::host::Seen| match seen {
        machine::host::Seen::Ram(_, content) => *content,
        machine::host::Seen::Other => 0,
    };
    let pages: Vec<_> = snapshot
        .pages
        .iter()
        .map(|(g, s)| (g, content(s)))
        .collect();

    format!("{pages:?} {} {}", snapshot.tot, snapshot.free)
}

#[test]
fn xsa_29_212_numbers_that_do_not_fit() {
    for (nr, done) in [(8, 9), (0, 1), (8, u64::MAX), (8, u64::MAX - 7)] {
        assert_eq!(Request::new(0, 3, nr, done, 9), Err(Errno::Inval));
        assert_eq!(Request::new(3, 3, nr, done, 9), Err(Errno::Inval));
    }
    for (nr, done) in [(16, 4), (12, 8), (u64::MAX, 0)] {
        assert_eq!(Request::new(0, 3, nr, done, 9), Err(Errno::Inval));
    }
    for order in [19, 20, 32, 64, u32::MAX] {
        assert_eq!(Request::new(order, 0, 1, 0, 9), Err(Errno::Opnotsupp));
        assert_eq!(Request::new(0, order, 1, 0, 9), Err(Errno::Opnotsupp));
    }
    // As many as there can be: nothing overflows, nothing is done.
    let mut host = guest(Config::default(), &[Build::Whole]);
    let far = Lists::new([u64::MAX, 1 << 52], [0, 1]);
    refused(&mut host, (0, 0), far, Errno::Inval);
    host.finish();
}

#[test]
fn xsa_150_a_long_exchange_gives_way() {
    let mut host = guest(
        Config::default(),
        &[Build::Whole, Build::Whole, Build::Pages],
    );
    // Downwards, so that it is not one large extent.
    let gfns = || (0..1536).rev();

    assert_eq!(
        exchange_and_check(&mut host, (0, 0), Lists::new(gfns(), gfns())),
        (1536, Ok(()))
    );
    assert!(host.preempts >= 2, "asked {} times", host.preempts);
    host.finish();
}

#[test]
fn xsa_158_no_larger_block_than_the_caller_may_have() {
    let config = Config {
        max_order: 0,
        ..Config::default()
    };
    let mut host = guest(config, &[Build::Pages, Build::Pages]);
    let outs = 2048..2048 + 512;

    assert_eq!(
        exchange_and_check(&mut host, (0, 0), Lists::new(0..512, outs)),
        (512, Ok(()))
    );
    host.finish();
}

#[test]
fn xsa_159_a_domain_that_dies_gets_nothing() {
    for nth in 1..=4 {
        for config in machines() {
            let mut host = guest(config, &[Build::Whole, Build::Pages]);
            host.inject = Some((Fallible::Assign, nth));
            let lists = Lists::new([3, 5, 7, 9], [3, 5, 1024, 1030]);
            assert_eq!(
                exchange_and_check(&mut host, (0, 0), lists),
                (0, Err(Errno::Inval))
            );
            host.finish();
        }
    }
}

#[test]
fn xsa_214_a_page_in_use_by_its_type_stays() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole]);
        let mfn = host.mfn(Gfn(5)).unwrap();
        host.heap.at_mut(mfn).types = 1;
        let lists = Lists::new([3, 5, 7, 9], [3, 5, 7, 9]);
        let (done, result) = exchange_and_check(&mut host, (0, 0), lists);
        assert_eq!((done, result), (1, Err(Errno::Busy)));
        assert_eq!(host.mfn(Gfn(5)), Some(mfn));
        host.heap.at_mut(mfn).types = 0;
        host.finish();
    }
}

#[test]
fn xsa_217_no_tlb_leads_to_what_is_let_go() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole, Build::Pages]);
        for lists in [
            Lists::new([0, 7, 14, 21], [0, 7, 14, 21]),
            Lists::new([512, 519], [1024, 1030]),
        ] {
            let nr = lists.ins.len() as u64;
            assert_eq!(exchange_and_check(&mut host, (0, 0), lists), (nr, Ok(())));
        }
        host.finish();
    }
}

#[test]
fn xsa_222_a_leaf_that_cannot_be_broken() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole, Build::Whole, Build::Pages]);
        // Leaves a hole that has a table.
        let moved = exchange_and_check(&mut host, (0, 0), Lists::new([1024], [2048]));
        assert_eq!(moved, (1, Ok(())));
        host.tables.set_pool_left(0);
        // A leaf for its own pages, the other way round, but for one.
        let own = Lists::new([0], (1..512).rev().chain([1024]));
        refused(&mut host, (9, 0), own, Errno::Nomem);
        refused(&mut host, (0, 0), Lists::new([5], [5]), Errno::Nomem);
        host.finish();
    }
}

#[test]
fn xsa_241_a_mapper_that_did_not_flush() {
    for config in machines() {
        let mut host = guest(config, &[Build::Pages]);
        for gfn in 0..8 {
            host.act(Act::Map { gfn });
        }
        host.unpin_all();
        assert_eq!(
            exchange_and_check(&mut host, (0, 0), Lists::new(0..8, 0..8)),
            (8, Ok(()))
        );
        // All of the heap changes hands.
        while host.heap.free_pages() > 0 {
            host.other_alloc();
        }
        host.finish();
    }
}

#[test]
fn xsa_246_an_attempt_that_fails_ends() {
    for config in machines() {
        let mut host = scattered(config);
        host.inject = Some((Fallible::Detach, 1));
        assert_eq!(heal(&mut host), Outcome::Refused(Reason::Vanished));
        assert!(host.injected);
        host.finish();
    }
}

#[test]
fn xsa_247_no_table_for_an_output() {
    for config in machines() {
        let mut host = guest(config, &[Build::Pages, Build::Pages]);
        host.tables.set_pool_left(0);
        refused(&mut host, (0, 0), Lists::new([3], [2048]), Errno::Nomem);
        host.finish();
    }
}

#[test]
fn xsa_275_merged_is_only_what_is_equal() {
    let config = Config::default();
    let mut host = guest(config, &[Build::Empty, Build::Split]);
    host.retype(Gfn(900), kind::RAM_RW, 5);
    assert_eq!(heal(&mut host), Outcome::Refused(Reason::Access));
    host.retype(Gfn(900), kind::RAM_RW, ACCESS_RWX);
    host.now += 1000;
    assert_eq!(heal(&mut host), Outcome::Promoted);
    host.finish();
}

#[test]
fn xsa_277_what_is_locked_is_unlocked() {
    for config in machines() {
        let mut host = guest(config, &[Build::Empty, Build::Split]);
        assert_eq!(heal(&mut host), Outcome::Promoted);
        assert!(host.heal_one().is_none());
        host.finish();
    }
}

/// All pages are to be moved, and somebody acts on the way.
fn moved_meanwhile(act: Act) -> Vec<Outcome> {
    let mut seen = Vec::new();

    for config in machines() {
        for call in (1..2600).step_by(13) {
            let mut host = scattered(config);
            host.meddle_at = Some((host.calls + call, act));
            seen.push(heal(&mut host));
            host.set_special(Gfn(700), false);
            host.finish();
        }
    }
    assert!(seen.contains(&Outcome::Migrated), "{seen:?}");
    seen
}

#[test]
fn xsa_284_287_references_are_given_back() {
    for config in machines() {
        let mut pinned = 0;
        // Before the look, between the looks, and while others are frozen.
        for call in (1..1600).step_by(53) {
            let mut host = scattered(config);
            host.batch = 512;
            // One that does not lie right, so that it cannot stay.
            let gfn = (512..1024u16)
                .rev()
                .find(|&g| host.mfn(Gfn(g.into())).unwrap().slot() != u64::from(g % 512))
                .expect("the region is not in order");
            host.meddle_at = Some((host.calls + call, Act::Map { gfn }));
            pinned += u32::from(heal(&mut host) == Outcome::Refused(Reason::Pinned));
            host.check();
            host.unpin_all();
            host.now += 1000;
            host.heal_all();
            host.finish();
        }
        assert!(pinned > 0, "the page was never in the way");
    }
}

#[test]
fn xsa_304_what_breaks_again_and_again_is_healed_less_often() {
    let mut host = guest(Config::default(), &[Build::Empty, Build::Split]);
    let mut waits = Vec::new();

    for _ in 0..8 {
        let since = host.now;
        while host.heal_one().is_none() {
            host.now += 1;
            assert!(host.now - since < 100_000, "it is not healed any more");
        }
        waits.push(host.now - since);
        // As an instruction fetch breaks it on a processor with CVE-2018-12207.
        host.retype(Gfn(600), kind::RAM_RW, ACCESS_RWX);
    }
    assert!(waits[7] >= 16 * waits[1].max(1), "{waits:?}");
    host.finish();
}

#[test]
fn xsa_321_328_a_live_entry_is_written_at_once() {
    for config in machines() {
        let mut host = scattered(config);
        host.tables.set_pool_left(0);
        assert_eq!(heal(&mut host), Outcome::Migrated);
        host.finish();
    }
}

/// Somebody else is at work between the look and the act that it leads to.
fn meddled_with(act: Act, mut check: impl FnMut(&Host, Outcome)) {
    for config in machines() {
        for call in 1..24 {
            let mut host = one_astray(config);
            // A page that is given up is not the next one that is given out.
            host.heap.policy = Policy::Lowest;
            host.meddle_at = Some((host.calls + call, act));
            let (_, outcome) = host.heal_one().expect("a region waits");
            host.check();
            check(&host, outcome);
            host.finish();
        }
    }
}

#[test]
fn xsa_345_a_look_counts_under_the_lock() {
    let mut seen = Vec::new();

    // What has changed since the look is part of the plan that is carried out.
    meddled_with(Act::Renew { gfn: 600 }, |_, outcome| seen.push(outcome));
    assert!(seen.contains(&Outcome::Completed), "{seen:?}");
}

#[test]
fn eligibility_counts_under_the_lock() {
    let mut seen = Vec::new();
    let act = Act::Fact { fact: 0, on: true };

    meddled_with(act, |host, outcome| {
        assert!(host.facts.contains(Facts::IOMMU) || outcome == Outcome::Completed);
        seen.push(outcome);
    });
    assert!(seen.contains(&Outcome::Refused(Reason::Iommu)), "{seen:?}");
    for config in machines() {
        for call in 1..12 {
            let mut host = scattered(config);
            host.meddle_at = Some((host.calls + call, act));
            let _ = heal(&mut host);
            host.finish();
        }
    }
}

#[test]
fn xsa_378_only_ram_is_merged() {
    for config in machines() {
        let mut host = guest(config, &[Build::Empty, Build::Split]);
        host.retype(Gfn(900), kind::RAM_RO, ACCESS_RWX);
        assert_eq!(heal(&mut host), Outcome::Refused(Reason::MemType));
        host.finish();
    }
}

#[test]
fn xsa_379_one_output_for_a_gfn() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole, Build::Pages]);
        assert!(host.balloon_out(Gfn(600)));
        // A chunk of two pages, and both want the same place.
        let twice = Lists::new([2], [600, 600]);
        refused(&mut host, (1, 0), twice, Errno::Exist);
        host.finish();
    }
}

#[test]
fn xsa_384_a_frame_is_given_once() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole, Build::Pages]);
        let twice = Lists::new([3, 3], [2048]);
        refused(&mut host, (0, 1), twice, Errno::Inval);
        host.set_special(Gfn(5), true);
        refused(&mut host, (0, 0), Lists::new([5], [5]), Errno::Inval);
        host.set_special(Gfn(5), false);
        host.finish();
    }
}

#[test]
fn xsa_388_odd_orders_and_places() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole, Build::Whole, Build::Pages]);
        for ((i, o), ins, outs) in [((9, 9), 700, 2000), ((3, 5), 65, 3001), ((5, 3), 129, 3333)] {
            let n = |own: u32| 1u64 << (std::cmp::max(i, o) - own);
            let list = |base: u64, own: u32| (0..n(own)).map(move |k| base + (k << own));
            let lists = Lists::new(list(ins, i), list(outs, o));
            assert_eq!(exchange_and_check(&mut host, (i, o), lists), (n(i), Ok(())));
        }
        host.finish();
    }
}

#[test]
fn xsa_389_half_of_an_extent() {
    for config in machines() {
        let mut host = guest(config, &[Build::Whole, Build::Empty]);
        assert!(host.populate(Gfn(512 + 20), Order::PAGE, false));
        // Twenty holes, and then a page that is in the way.
        refused(&mut host, (5, 5), Lists::new([0], [512]), Errno::Exist);
        host.finish();
    }
}

#[test]
fn xsa_400_what_a_device_may_write_to_is_not_moved() {
    for config in machines() {
        let mut host = scattered(config);
        host.facts |= Facts::IOMMU;
        assert_eq!(heal(&mut host), Outcome::Refused(Reason::Iommu));
        host.finish();
    }
}

#[test]
fn xsa_402_nothing_uncached_is_copied() {
    let npt = (Npt::PRESENT | Npt::WRITE | Npt::USER).bits();
    let write_back = 6 << 3;
    let ept = (Ept::READ | Ept::WRITE | Ept::EXECUTE).bits() | write_back;
    let uncached = [
        (Format::Npt, npt, npt | Npt::UNCACHED.bits()),
        (Format::Npt, npt, npt | 1 << 3),
        (Format::Npt, npt, npt | Npt::LEAF_OR_PAT.bits()),
        (Format::Ept, ept, ept & !(7 << 3)),
        (Format::Ept, ept, (ept & !(7 << 3)) | 1 << 3),
    ];

    for (format, ram, odd) in uncached {
        // All of the region, or one page of it.
        for which in [None, Some(0), Some(300)] {
            let entry = |i: usize| {
                let bits = match which {
                    Some(page) if page != i => ram,
                    _ => odd,
                };
                AtomicU64::new((0x5003 + i as u64) << 12 | bits)
            };
            let table = Table(std::array::from_fn::<_, ENTRIES, _>(entry));
            let mut scratch = Scratch::default();
            let state = judge(Region(1), View::Table(format, &table), &mut scratch);
            assert!(
                matches!(state, State::Not(Reason::Cacheability | Reason::Access)),
                "{format:?} {which:?}: {state:?}"
            );
        }
    }
}

#[test]
fn xsa_410_dying_leaves_nothing_frozen() {
    for config in machines() {
        for build in [scattered, one_astray] {
            let mut host = build(config);
            host.inject = Some((Fallible::Assign, 1));
            assert_eq!(heal(&mut host), Outcome::Refused(Reason::Dying));
            host.finish();
        }
    }
}

#[test]
fn xsa_480_a_table_is_freed_after_the_flush() {
    for config in machines() {
        let mut host = guest(config, &[Build::Empty, Build::Split]);
        assert_eq!(heal(&mut host), Outcome::Promoted);
        host.finish();
    }
}

#[test]
fn xsa_507_special_pages_are_looked_for_under_the_lock() {
    let seen = moved_meanwhile(Act::Special { gfn: 700 });
    assert!(seen.contains(&Outcome::Refused(Reason::Special)));
}

#[test]
fn what_is_given_is_clean() {
    for config in machines() {
        let mut host = guest(config, &[Build::Pages, Build::Whole]);
        while host.heap.free_pages() > 0 {
            host.other_alloc();
        }
        while host.other_pages() > 0 {
            host.other_free(0);
        }
        let lists = Lists::new([3, 5], [1024, 1030]);
        assert_eq!(exchange_and_check(&mut host, (0, 0), lists), (2, Ok(())));
        for gfn in [1024, 1030] {
            assert_eq!(host.heap.at(host.mfn(Gfn(gfn)).unwrap()).content, 0);
        }
        host.finish();
    }
}

#[test]
fn progress_is_in_whole_chunks() {
    let mut host = guest(Config::default(), &[Build::Pages, Build::Pages]);
    host.preempt_every = 1;
    let ins = (0..1024u64).rev();
    let outs = (0..4).map(|i| 2048 + i * 256);
    assert_eq!(
        exchange_and_check(&mut host, (0, 8), Lists::new(ins, outs)),
        (1024, Ok(()))
    );
    host.finish();
}

#[test]
fn a_block_is_not_forgotten() {
    let seen = moved_meanwhile(Act::Map { gfn: 700 });
    assert!(seen.contains(&Outcome::Refused(Reason::Pinned)));
}

#[test]
fn the_watermark_is_honoured() {
    for build in [scattered, one_astray] {
        let mut host = build(Config::default());
        host.config.watermark = host.heap.free_pages();
        assert_eq!(heal(&mut host), Outcome::Refused(Reason::NoMemory));
        host.config.watermark = 0;
        host.finish();
    }
}

#[test]
fn contents_stay_with_their_gfn() {
    for config in machines() {
        for (build, outcome) in [
            (scattered as fn(Config) -> Host, Outcome::Migrated),
            (one_astray, Outcome::Completed),
        ] {
            let mut host = build(config);
            for gfn in 512..512 + REGION_PAGES as u16 {
                host.act(Act::Write { vcpu: 0, gfn });
            }
            assert_eq!(heal(&mut host), outcome);
            for gfn in 512..512 + REGION_PAGES as u16 {
                host.act(Act::Read { vcpu: 1, gfn });
            }
            let frame = host.mfn(Gfn(512)).unwrap();
            assert!(frame.is_aligned(Order::REGION));
            assert_eq!(host.mfn(Gfn(1023)), Some(Mfn(frame.0 + 511)));
            host.finish();
        }
    }
}
