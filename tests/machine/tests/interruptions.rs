// SPDX-License-Identifier: GPL-2.0-only
//! An act may be interrupted after every batch, for as long as anybody likes: it goes
//! on in the block in which it began, so a region is not copied twice.

use arch::Format;
use machine::heap::{Policy, State};
use machine::host::{Config, Host};
use p2m::account::{Counter, Outcome, Reason};
use p2m::addr::{Gfn, Order, REGION_PAGES, Region};
use p2m::machine::Facts;
use proptest::collection::vec;
use proptest::prelude::*;

const REGION: Region = Region(1);

/// What happens between two looks at the region.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    /// The worker comes back, as soon as it may.
    Nothing,
    /// Or does not, and looks anew some time.
    Away,
    /// Others take memory.
    Take(u16),
    Give(u16),
    Pin(u16),
    Unpin,
    Track(bool),
    Fact(bool),
}

/// A guest with two regions, pages of which have traded places, or lie elsewhere.
#[derive(Clone, Debug)]
struct Start {
    format: Format,
    policy: Policy,
    batch: u16,
    one_by_one: bool,
    swaps: Vec<(u16, u16)>,
    renewed: Vec<u16>,
}

fn start() -> impl Strategy<Value = Start> {
    (
        prop_oneof![Just(Format::Npt), Just(Format::Ept)],
        prop_oneof![
            Just(Policy::Lowest),
            Just(Policy::Highest),
            Just(Policy::Next)
        ],
        8u16..200,
        any::<bool>(),
        vec((0u16..512, 0u16..512), 0..300),
        vec(0u16..512, 0..100),
    )
        .prop_map(
            |(format, policy, batch, one_by_one, swaps, renewed)| Start {
                format,
                policy,
                batch,
                one_by_one,
                swaps,
                renewed,
            },
        )
}

impl Start {
    fn host(&self) -> Host {
        let mut host = Host::new(Config {
            format: self.format,
            policy: self.policy,
            blocks: 12,
            ..Config::default()
        });

        for region in [Region(0), REGION] {
            if self.one_by_one {
                host.other_alloc();
            }
            assert!(host.populate(region.start(), Order::REGION, self.one_by_one));
        }
        for &(a, b) in &self.swaps {
            host.swap(Gfn(a.into()), Gfn(512 + u64::from(b)));
        }
        for &slot in &self.renewed {
            let gfn = REGION.start().add(slot.into());
            assert!(host.balloon_out(gfn));
            host.other_alloc();
            host.config.alloc_at = false;
            assert!(host.populate(gfn, Order::PAGE, false));
            host.config.alloc_at = true;
        }
        host.batch = self.batch.into();
        host.check();
        host
    }
}

fn meanwhile(host: &mut Host, what: Meanwhile) {
    match what {
        Meanwhile::Nothing => {}
        Meanwhile::Away => host.abandon(),
        Meanwhile::Take(n) => (0..n).for_each(|_| host.other_alloc()),
        Meanwhile::Give(n) => (0..n).for_each(|i| host.other_free(usize::from(i) * 7)),
        Meanwhile::Pin(slot) => {
            host.pin(REGION.start().add(u64::from(slot) % REGION_PAGES));
        }
        Meanwhile::Unpin => host.unpin_all(),
        Meanwhile::Track(on) => host.track(REGION, on, false),
        Meanwhile::Fact(on) => host.set_facts(Facts::LOG_DIRTY, on),
    }
}

/// Look at the region, again and again, each look ending after a batch: what is copied
/// until it is whole. `None`: it is not.
fn healed(host: &mut Host, between: impl Iterator<Item = Meanwhile>) -> Option<u64> {
    host.preempt_every = 1;
    for what in between {
        meanwhile(host, what);
        let outcome = host.heal_now(REGION);
        host.check();
        match outcome {
            Outcome::Refused(Reason::WholeAlready) => break,
            Outcome::Refused(_) => {}
            _ => break,
        }
    }
    let whole = host.tables.last_table(REGION.start()).is_none();
    whole.then(|| host.account.count(Counter::PagesCopied))
}

fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    let env = std::env::var_os("PROPTEST_CASES").is_some();

    ProptestConfig {
        cases: if env { default.cases } else { 48 },
        failure_persistence: None,
        ..default
    }
}

/// A page of the region and one of another that makes room for it: more than this is
/// never worth it, for a fresh block costs less.
const MOST: u64 = REGION_PAGES * 9 / 8;

/// Most pages that lie in their places do so in a block of which others have the rest. It
/// goes on in the one in which it began all the same, even if the worker forgets it.
#[test]
fn into_the_block_that_it_began() {
    for format in [Format::Npt, Format::Ept] {
        let mut host = Host::new(Config {
            format,
            policy: Policy::Lowest,
            ..Config::default()
        });
        assert!(host.populate(REGION.start(), Order::REGION, false));
        // So that no page comes to lie in its place in the next block.
        host.other_alloc();
        for slot in 0..300 {
            let gfn = REGION.start().add(slot);
            let place = host.mfn(gfn).unwrap();
            assert!(host.balloon_out(gfn));
            while host.heap.at(place).state == State::Free {
                host.other_alloc();
            }
            host.config.alloc_at = false;
            assert!(host.populate(gfn, Order::PAGE, false));
            host.config.alloc_at = true;
        }
        let copied = healed(&mut host, std::iter::repeat_n(Meanwhile::Away, 50));
        assert_eq!(copied, Some(REGION_PAGES), "{format:?}: pages copied");
        host.finish();
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Others take what memory they like meanwhile.
    #[test]
    fn by_whoever_wants_the_cpu(
        start in start(),
        between in vec(
            prop_oneof![
                3 => Just(Meanwhile::Nothing),
                2 => (1u16..600).prop_map(Meanwhile::Take),
                1 => (1u16..600).prop_map(Meanwhile::Give),
            ],
            200,
        ),
    ) {
        let mut host = start.host();
        let first = [Meanwhile::Nothing];
        let copied = healed(&mut host, first.into_iter().chain(between));
        prop_assert!(copied.is_some_and(|copied| copied <= MOST), "{copied:?} pages copied");
        host.finish();
    }

    /// And pages are pinned, writes are tracked, and the worker has other things to
    /// do; but what is free stays free.
    #[test]
    fn by_anything(
        start in start(),
        between in vec(
            prop_oneof![
                4 => Just(Meanwhile::Nothing),
                2 => Just(Meanwhile::Away),
                2 => any::<u16>().prop_map(Meanwhile::Pin),
                3 => Just(Meanwhile::Unpin),
                1 => any::<bool>().prop_map(Meanwhile::Track),
                1 => any::<bool>().prop_map(Meanwhile::Fact),
            ],
            200,
        ),
    ) {
        let mut host = start.host();
        let end = [Meanwhile::Unpin, Meanwhile::Track(false), Meanwhile::Fact(false)];
        let quiet = std::iter::repeat_n(Meanwhile::Nothing, 100);
        let between = between.into_iter().chain(end).chain(quiet);
        let copied = healed(&mut host, between);
        prop_assert!(copied.is_some_and(|copied| copied <= 2 * MOST), "{copied:?} pages copied");
        host.finish();
    }
}
