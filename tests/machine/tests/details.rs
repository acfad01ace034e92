// SPDX-License-Identifier: GPL-2.0-only
//! What can be told of an exchange and of a completion from outside, and of
//! which nothing else depends: figures, records, and where frames come from.

use arch::Format;
use machine::heap::{Policy, State};
use machine::host::{Act, Config, Host, Lists};
use machine::script::{Build, Op, Script};
use p2m::account::{Counter, Outcome, Reason};
use p2m::addr::{Gfn, Mfn, Order, Region};
use p2m::frames::{Frozen, Pair, Pairs, Pending};
use p2m::machine::{Errno, Facts, Locked, Machine};
use p2m::trace::Event;

fn machines() -> impl Iterator<Item = Config> {
    [Format::Npt, Format::Ept]
        .map(|format| Config {
            format,
            ..Config::default()
        })
        .into_iter()
}

fn guest(config: Config, build: &[Build], ops: &[Op]) -> Host {
    let script = Script {
        config,
        build: build.to_vec(),
        ops: ops.to_vec(),
    };
    script.play()
}

#[test]
fn an_output_gets_the_frame_that_its_region_lacks() {
    // Whichever the heap would give out first.
    for policy in [Policy::Lowest, Policy::Highest, Policy::Next] {
        for config in machines() {
            let config = Config { policy, ..config };
            let mut host = guest(config, &[Build::Pages, Build::Split], &[]);
            let frame = host.mfn(Gfn(600));
            assert!(host.balloon_out(Gfn(600)));
            assert_eq!(host.exchange(0, 0, Lists::new([5], [600]), 0), (1, Ok(())));
            assert_eq!(host.mfn(Gfn(600)), frame);
            let healed: Vec<_> = std::iter::from_fn(|| host.heal_one()).collect();
            let whole = (Region(1), Outcome::Promoted);
            assert!(healed.contains(&whole), "{healed:?}");
            host.finish();
        }
    }
}

#[test]
fn only_leaves_are_counted_as_kept() {
    for config in machines() {
        for (build, kept) in [(Build::Whole, 1), (Build::Split, 0), (Build::Pages, 0)] {
            let mut host = guest(config, &[Build::Pages, build], &[]);
            let lists = || Lists::new([512], [2048]);
            assert_eq!(host.exchange(9, 9, lists(), 0), (1, Ok(())));
            assert_eq!(
                host.account.count(Counter::SplitsAvoided),
                kept,
                "{build:?}"
            );
            assert_eq!(host.account.count(Counter::ExchangedPages), 512);
            host.finish();
        }
        let mut host = guest(config, &[Build::Pages, Build::Whole], &[]);
        assert_eq!(
            host.exchange(0, 0, Lists::new([5, 6], [2048, 2049]), 0),
            (2, Ok(()))
        );
        assert_eq!(host.account.count(Counter::SplitsAvoided), 0);
        host.finish();
    }
}

#[test]
fn a_record_has_both_orders() {
    for config in machines() {
        let mut host = guest(config, &[Build::Pages, Build::Pages], &[]);
        host.traced.clear();
        let lists = Lists::new([0, 2, 4, 6], [2048]);
        assert_eq!(host.exchange(1, 3, lists, 0), (4, Ok(())));
        let (event, record) = host.traced[0];
        assert_eq!((event, record.code), (Event::Exchange, 0x13));
        assert_eq!((record.gfn, record.mfn), ([0, 0], [2048, 0]));
        assert_eq!(record.copied, 8);
        host.finish();
    }
}

#[test]
fn outputs_that_lie_across_each_other_are_found() {
    for config in machines() {
        let mut host = guest(config, &[Build::Pages, Build::Pages], &[]);
        for gfn in 600..604 {
            assert!(host.balloon_out(Gfn(gfn)));
        }
        // Different gfns, and still one page is asked for twice.
        let lists = Lists::new([0, 1, 2, 3], [600, 601]);
        assert_eq!(host.exchange(0, 1, lists, 0), (2, Err(Errno::Exist)));
        host.finish();
    }
}

#[test]
fn facts_that_forbid_an_exchange() {
    for fact in [
        Facts::ALTP2M,
        Facts::NESTED,
        Facts::POD,
        Facts::SHARING,
        Facts::LOG_DIRTY,
    ] {
        let mut host = guest(Config::default(), &[Build::Pages], &[]);
        host.facts |= fact;
        let result = host.exchange(0, 0, Lists::new([3], [3]), 0);
        assert_eq!(result, (0, Err(Errno::Opnotsupp)), "{fact:?}");
        host.check();
        host.facts -= fact;
        host.finish();
    }
}

/// Nearly all pages are in another block, but the one that is pinned.
#[test]
fn a_page_that_stays_is_found_at_every_place() {
    for config in machines() {
        for stays in [0, 1, 2, 254, 255, 510, 511] {
            let below = Op::Swap {
                a: 0,
                b: 512,
                pages: stays as u16,
                step: 0,
            };
            let above = Op::Swap {
                a: stays as u16 + 1,
                b: 512 + stays as u16 + 1,
                pages: 511 - stays as u16,
                step: 0,
            };
            let mut host = guest(config, &[Build::Split, Build::Split], &[below, above]);
            let frame = host.mfn(Gfn(512 + stays)).unwrap();
            host.pin(Gfn(512 + stays));
            host.heal_all();
            host.check();
            assert_eq!(host.mfn(Gfn(512 + stays)), Some(frame), "{stays}");
            assert_eq!(host.mfn(Gfn(512)), Some(Mfn(frame.0 - stays)), "{stays}");
            assert!(host.tables.last_table(Gfn(512)).is_none(), "{stays}");
            host.unpin_all();
            host.finish();
        }
    }
}

#[test]
fn a_list_without_room_freezes_nothing() {
    let mut host = guest(Config::default(), &[Build::Pages], &[]);
    let (first, second) = (host.mfn(Gfn(1)).unwrap(), host.mfn(Gfn(2)).unwrap());
    let mut list = Pairs::<[Pair; 1]>::new();
    let mut locked = host.lock();
    let mut frozen = Frozen::none(&mut list);

    assert!(frozen.freeze(&mut locked, Gfn(1), first).is_ok());
    assert!(frozen.freeze(&mut locked, Gfn(2), second).is_err());
    assert_eq!(frozen.pairs().len(), 1);
    assert!(locked.movable(Gfn(2), second).is_ok());
    frozen.thaw(&mut locked);
    drop(locked);
    host.finish();
}

#[test]
#[should_panic(expected = "dropped a page table")]
fn a_table_is_dropped() {
    let mut host = guest(Config::default(), &[Build::Pages], &[]);
    let mut pending = Pending::new();
    let mut locked = host.lock();
    let table = locked.detach(&mut pending, Region(0));

    pending.unused();
    drop(table);
}

/// A guest whose second region lacks `astray` pages in their places, which are the
/// first free ones that the heap would give out.
fn astray(config: Config, astray: &[u64]) -> Host {
    let config = Config {
        policy: Policy::Highest,
        ..config
    };
    let mut host = guest(config, &[Build::Empty, Build::Split], &[]);

    for &gfn in astray {
        let frame = host.mfn(Gfn(gfn)).unwrap();
        host.balloon_out(Gfn(gfn));
        while host.heap.at(frame).state == State::Free {
            host.other_alloc();
        }
        host.config.alloc_at = false;
        assert!(host.populate(Gfn(gfn), Order::PAGE, false));
        host.config.alloc_at = true;
    }
    while host.other_pages() > 0 {
        host.other_free(0);
    }
    host.surveyed(Region(1));
    host.traced.clear();
    host
}

#[test]
fn what_comes_to_lie_in_order_meanwhile_is_promoted() {
    let pages: Vec<u64> = (0..9).map(|i| 515 + 40 * i).collect();

    for config in machines() {
        for astray_pages in [&pages[8..], &pages[..]] {
            let mut seen = Vec::new();
            for call in 1..80 {
                let mut host = astray(config, astray_pages);
                host.batch = 8;
                let gfn = pages[8] as u16;
                host.meddle_at = Some((host.calls + call, Act::Renew { gfn }));
                let (region, outcome) = host.heal_one().unwrap();
                host.check();
                assert_eq!(region, Region(1));
                let copied = host.account.count(Counter::PagesCopied);
                if outcome == Outcome::Refused(Reason::Deferred) {
                    // Somebody was before the look: it waits.
                    host.finish();
                    continue;
                }
                let expected = if copied > 0 {
                    Outcome::Completed
                } else {
                    Outcome::Promoted
                };
                assert_eq!(outcome, expected, "{copied} copied, call {call}");
                seen.push(copied);
                host.finish();
            }
            assert!(seen.iter().any(|&copied| copied > 0), "{seen:?}");
        }
    }
}

#[test]
fn what_is_tracked_meanwhile_is_left() {
    let act = Act::Track {
        region: 1,
        on: true,
    };
    for config in machines() {
        let mut seen = Vec::new();
        for call in 1..80 {
            let mut host = astray(config, &[515, 600]);
            host.meddle_at = Some((host.calls + call, act));
            let (_, outcome) = host.heal_one().unwrap();
            let tracked = host.dirty_ranges.contains(&1);
            seen.push((tracked, outcome, host.account.count(Counter::PagesCopied)));
            host.finish();
        }
        let left = |s: &(bool, Outcome, u64)| s.0 && s.1 != Outcome::Completed && s.2 == 0;
        let done = |s: &(bool, Outcome, u64)| s.1 == Outcome::Completed;
        assert!(seen.iter().any(left) && seen.iter().any(done), "{seen:?}");
    }
}

#[test]
fn a_record_of_a_completion_has_its_block_and_its_pages() {
    for config in machines() {
        let mut host = astray(config, &[515, 600, 777]);
        host.batch = 512;
        let first = host.mfn(Gfn(512)).unwrap();
        assert_eq!(host.heal_one(), Some((Region(1), Outcome::Completed)));
        let (event, record) = *host.traced.last().unwrap();
        assert_eq!(event, Event::Complete);
        assert_eq!((record.copied, record.astray), (3, 3));
        assert_eq!(record.gfn, [512, 0]);
        assert_eq!(record.mfn, [first.0 as u32, 0]);
        host.finish();
    }
}

/// 512 pages, each in another's place: just as dear as to copy all of them to a new
/// block, and takes none.
#[test]
fn a_completion_is_as_dear_as_a_migration_at_most() {
    for config in machines() {
        let mut host = guest(config, &[Build::Empty, Build::Split], &[]);
        for i in (512..1024).step_by(2) {
            host.swap(Gfn(i), Gfn(i + 1));
        }
        host.surveyed(Region(1));
        host.batch = 512;
        assert_eq!(host.heal_one(), Some((Region(1), Outcome::Completed)));
        host.finish();
    }
}
