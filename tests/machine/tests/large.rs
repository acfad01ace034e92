// SPDX-License-Identifier: GPL-2.0-only
//! Chunks of more pages than a region has: what is true of small ones is true of
//! them, and what fails leaves nothing behind.

use arch::Format;
use machine::host::{Act, Config, Fallible, Host, Lists};
use machine::script::{Build, Script, exchange_and_check};
use p2m::addr::{Gfn, Order, REGION_PAGES, Region};
use p2m::exchange::{LARGEST, Request};
use p2m::machine::Errno;

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
        blocks: 16,
        max_order: 12,
        ..Config::default()
    })
}

/// A guest of four regions, the first a leaf and the second pages.
fn guest(config: Config) -> Host {
    let script = Script {
        config,
        build: vec![Build::Whole, Build::Pages, Build::Split, Build::Whole],
        ops: Vec::new(),
    };
    let mut host = script.build();

    for gfn in (0..2048).step_by(5) {
        host.act(Act::Write { vcpu: 0, gfn });
        host.act(Act::Read { vcpu: 1, gfn });
    }
    host
}

fn is_leaf(host: &Host, region: u64) -> bool {
    host.mfn(Region(region).start()).is_some()
        && host.tables.last_table(Region(region).start()).is_none()
}

/// Orders of inputs and outputs, and the lists.
type Way = ((u32, u32), Lists);

/// Every way to name the 2048 pages of the guest, and where they can go to.
fn ways() -> Vec<Way> {
    let pages = || 0..2048u64;
    let shuffled = || pages().map(|i| i * 1021 % 2048);

    vec![
        ((11, 11), Lists::new([0], [2048])),
        ((11, 11), Lists::new([0], [0])),
        // Half of it over the first half of what is given.
        ((11, 11), Lists::new([0], [1024])),
        ((11, 9), Lists::new([0], [1536, 0, 3072, 512])),
        ((9, 11), Lists::new([1536, 0, 1024, 512], [2048])),
        ((0, 11), Lists::new(shuffled(), [2048])),
        ((0, 11), Lists::new(shuffled(), [0])),
        ((11, 0), Lists::new([0], shuffled())),
        ((11, 0), Lists::new([0], shuffled().map(|gfn| gfn + 1000))),
        ((10, 1), Lists::new([0], (0..512).rev().map(|i| 2 * i))),
        ((3, 10), Lists::new((0..128).map(|i| 8 * (i ^ 5)), [2048])),
        // Neither begins where a region does.
        ((10, 10), Lists::new([300], [2700])),
        ((10, 10), Lists::new([1000], [2700])),
        ((10, 10), Lists::new([1024], [1300])),
    ]
}

/// Each way on one of the machines.
fn shared() -> impl Iterator<Item = (Config, Vec<Way>)> {
    machines().enumerate().map(|(i, config)| {
        let ways = ways().into_iter().skip(i).step_by(3);
        (config, ways.collect())
    })
}

#[test]
fn all_of_it() {
    for config in machines() {
        for (orders, lists) in ways() {
            let mut host = guest(config);
            let nr = lists.ins.len() as u64;
            assert_eq!(
                exchange_and_check(&mut host, orders, lists.clone()),
                (nr, Ok(())),
                "{orders:?} {lists:?}"
            );
            host.finish();
        }
    }
}

#[test]
fn large_extents_come_in_large_entries() {
    for config in machines() {
        let mut host = guest(config);
        assert_eq!(
            exchange_and_check(&mut host, (0, 11), Lists::new((0..2048).rev(), [2048])),
            (2048, Ok(()))
        );
        assert!((4..8).all(|region| is_leaf(&host, region)));
        // All frames in one row.
        let first = host.mfn(Gfn(2048)).unwrap();
        assert!(first.is_aligned(Order::new(11).unwrap()));
        assert_eq!(host.mfn(Gfn(4095)), Some(first.add(2047)));
        // And go as they came, with no table made for it.
        host.tables.set_pool_left(0);
        assert_eq!(
            exchange_and_check(&mut host, (11, 11), Lists::new([2048], [0])),
            (1, Ok(()))
        );
        assert!((0..4).all(|region| is_leaf(&host, region)));
        host.finish();
    }
}

/// Regions named page by page, region after region, are given and got with one write
/// each: no table is needed for that, nor is one where a region is given in part.
#[test]
fn regions_page_by_page() {
    let by_region = |first: u64| {
        let shuffled = |region: u64| (0..512).map(move |i| region * 512 + i * 77 % 512);
        [3, 1, 2, 0]
            .into_iter()
            .flat_map(move |i| shuffled(first + i))
    };
    for config in machines() {
        // Got. The second region of the guest becomes a leaf on the way.
        let mut host = guest(config);
        assert_eq!(
            exchange_and_check(&mut host, (11, 0), Lists::new([0], by_region(0))),
            (1, Ok(()))
        );
        assert!((0..4).all(|region| is_leaf(&host, region)));
        // Given, and nothing has to be broken for it.
        host.tables.set_pool_left(0);
        assert_eq!(
            exchange_and_check(&mut host, (0, 11), Lists::new(by_region(0), [2048])),
            (2048, Ok(()))
        );
        assert!((4..8).all(|region| is_leaf(&host, region)));
        host.finish();
    }
}

/// The same where one of the regions is named twice, where one lies over memory that is
/// not given, and where there is no block of 2 MB for the last: then each page is one.
#[test]
fn regions_page_by_page_and_not() {
    let named = |regions: [u64; 2]| regions.into_iter().flat_map(|r| r * 512..(r + 1) * 512);

    for config in machines() {
        for regions in [[6, 6], [6, 3]] {
            let mut host = guest(config);
            let before = host.snapshot();
            assert_eq!(
                exchange_and_check(&mut host, (10, 0), Lists::new([0], named(regions))),
                (0, Err(Errno::Exist)),
                "{regions:?}"
            );
            assert_eq!(before, host.snapshot());
            host.finish();
        }
        let mut host = guest(config);
        host.counts.clear();
        host.inject = Some((Fallible::Alloc, 2));
        assert_eq!(
            exchange_and_check(&mut host, (10, 0), Lists::new([0], named([6, 5]))),
            (1, Ok(()))
        );
        assert!(host.injected);
        assert!((5..7).all(|region| !is_leaf(&host, region)));
        host.finish();
    }
}

/// One page that cannot be had, wherever it is, and nothing has changed.
#[test]
fn all_or_nothing() {
    for (config, ways) in shared() {
        for (orders, lists) in ways {
            for at in [0, 1023, 2047] {
                let mut host = guest(config);
                let named = lists.ins.iter().any(|&gfn| {
                    let end = gfn + (1u64 << orders.0);
                    (gfn..end).contains(&at)
                });
                if !named {
                    host.finish();
                    continue;
                }
                assert!(host.pin(Gfn(at)));
                let before = host.snapshot();
                assert_eq!(
                    exchange_and_check(&mut host, orders, lists.clone()),
                    (0, Err(Errno::Busy)),
                    "{orders:?} {lists:?}, {at} is pinned"
                );
                assert_eq!(before, host.snapshot());
                host.unpin_all();
                host.finish();
            }
        }
    }
}

#[test]
fn outputs_twice_or_over_other_pages() {
    for config in machines() {
        let taken = (0..1024).map(|i| if i == 700 { 1500 } else { 3000 + i });
        let twice = (0..1024).map(|i| 3000 + if i == 900 { 17 } else { i });
        for outs in [taken.collect::<Vec<u64>>(), twice.collect()] {
            let mut host = guest(config);
            let before = host.snapshot();
            assert_eq!(
                exchange_and_check(&mut host, (10, 0), Lists::new([0], outs)),
                (0, Err(Errno::Exist))
            );
            assert_eq!(before, host.snapshot());
            host.finish();
        }
    }
}

/// Each kind of call fails, early and late; and the guest dies, at many calls.
#[test]
fn failures_and_death() {
    let mut runs = 0;

    for (config, ways) in shared() {
        for (orders, lists) in ways {
            let mut host = guest(config);
            host.counts.clear();
            let first = host.calls;
            let nr = lists.ins.len() as u64;
            assert_eq!(
                exchange_and_check(&mut host, orders, lists.clone()),
                (nr, Ok(()))
            );
            let (counts, calls) = (host.counts.clone(), host.calls - first);
            host.finish();

            for (&kind, &n) in &counts {
                for nth in [1, n] {
                    let mut host = guest(config);
                    host.counts.clear();
                    host.inject = Some((kind, nth));
                    let before = host.snapshot();
                    let (done, result) = exchange_and_check(&mut host, orders, lists.clone());
                    assert!(host.injected, "{kind:?} {nth}");
                    // A frame that cannot be had by its number is had otherwise, and so
                    // are blocks for several of the outputs.
                    let fails = match kind {
                        Fallible::AllocAt => false,
                        Fallible::Alloc => n == lists.outs.len() as u64,
                        _ => true,
                    };
                    assert_eq!(result.is_err(), fails, "{orders:?} {kind:?} {nth}");
                    assert_eq!(done, if fails { 0 } else { nr });
                    if fails && !host.dying() {
                        assert_eq!(before, host.snapshot());
                    }
                    host.finish();
                    runs += 1;
                }
            }
            for call in (1..calls).step_by(calls as usize / 5 + 1) {
                for teardown in [0, 100_000] {
                    let mut host = guest(config);
                    host.die_at = Some(host.calls + call);
                    host.teardown = teardown;
                    let _ = exchange_and_check(&mut host, orders, lists.clone());
                    assert!(host.dying());
                    host.finish();
                    runs += 1;
                }
            }
        }
    }
    println!("large: {runs} runs with a failure or a death");
}

#[test]
fn what_is_larger_than_any_room() {
    let over = LARGEST.log2() + 1;

    for (i, o) in [(over, 0), (0, over), (over, over)] {
        assert_eq!(Request::new(i, o, 1, 0, 20), Err(Errno::Opnotsupp));
    }
    let most = Request::new(LARGEST.log2(), 0, 1, 0, 20).expect("it fits together");
    assert_eq!(most.chunk_pages(), REGION_PAGES * REGION_PAGES);
}
