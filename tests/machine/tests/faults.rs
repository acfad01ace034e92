// SPDX-License-Identifier: GPL-2.0-only
//! Each call that may fail, failing at each of its occurrences; and a guest that
//! starts to die at each call there is. What was begun is then finished, or
//! never was: nothing lies between.
//!
//! Of many occurrences some are tried, spread over all: `FAULTS` says how many.

use arch::Format;
use machine::heap::Policy;
use machine::host::{Act, Config, Fallible, Host, Seen, Snapshot};
use machine::script::{Build, Exchange, Op, Pattern, Script, exchange_and_compare, play};
use p2m::addr::{Gfn, Order, REGION_PAGES};

/// What is done last, and watched.
#[derive(Clone, Debug)]
enum Deed {
    Exchange(Exchange),
    Heal,
    /// All pages leave the block in which the guest's first page lies.
    Vacate,
}

fn exchange(in_order: u32, out_order: u32, chunks: u8, ins: Pattern, outs: Pattern) -> Exchange {
    Exchange {
        in_order,
        out_order,
        chunks,
        ins,
        outs: Some(outs),
        hostile: Vec::new(),
        twice: Vec::new(),
        fault: None,
        preempt_every: 0,
    }
}

fn corpus() -> Vec<(&'static str, Script, Deed)> {
    use Build::{Empty, Pages, Split, Whole};
    use Pattern::{Down, Run, Stride};
    let scatter = |pages, step, free| Op::Scatter {
        region: 1,
        pages,
        step,
        free,
    };
    let swap = |a, b, pages, step| Op::Swap { a, b, pages, step };
    let out = |gfn, pages| Op::BalloonOut {
        gfn,
        pages,
        step: 0,
    };
    let deeds = [
        ("promote", vec![Empty, Split], vec![], Deed::Heal),
        (
            "complete one",
            vec![Empty, Split],
            vec![scatter(1, 0, true)],
            Deed::Heal,
        ),
        (
            "complete some",
            vec![Empty, Split],
            vec![scatter(60, 3, true)],
            Deed::Heal,
        ),
        (
            "migrate few",
            vec![Empty, Split],
            vec![scatter(20, 3, false)],
            Deed::Heal,
        ),
        (
            "migrate most",
            vec![Empty, Split],
            vec![scatter(500, 0, true)],
            Deed::Heal,
        ),
        (
            "complete two that are in each other's place",
            vec![Empty, Split],
            vec![swap(515, 600, 1, 0)],
            Deed::Heal,
        ),
        (
            "complete a permutation, in small batches",
            vec![Empty, Split],
            vec![Op::Batch(8), swap(512, 600, 40, 3)],
            Deed::Heal,
        ),
        (
            "complete by making another region make room",
            vec![Split, Split],
            vec![Op::Batch(9), swap(3, 515, 12, 2)],
            Deed::Heal,
        ),
        (
            "complete around a page that stays, far from most",
            vec![Split, Split],
            vec![swap(0, 512, 511, 0), Op::Pin(1023)],
            Deed::Heal,
        ),
        (
            "migrate two that are mixed up, in batches",
            vec![Split, Split],
            vec![Op::Batch(200), swap(0, 512, 512, 6), swap(3, 517, 300, 4)],
            Deed::Heal,
        ),
        (
            "make room, in batches",
            vec![Split, Empty],
            vec![Op::Batch(8), out(12, 500)],
            Deed::Vacate,
        ),
        (
            "4K out of leaves, in place",
            vec![Whole, Whole],
            vec![],
            Deed::Exchange(exchange(0, 0, 8, Stride(3, 100), Stride(3, 100))),
        ),
        (
            "4K into new tables",
            vec![Whole, Pages],
            vec![],
            Deed::Exchange(exchange(0, 0, 8, Run(508), Stride(1500, 300))),
        ),
        (
            "leaf for leaf",
            vec![Whole, Split, Empty],
            vec![],
            Deed::Exchange(exchange(9, 9, 2, Run(0), Run(1024))),
        ),
        (
            "leaf in place",
            vec![Whole, Pages],
            vec![],
            Deed::Exchange(exchange(9, 9, 2, Run(0), Run(0))),
        ),
        (
            "pages for a leaf",
            vec![Pages, Whole],
            vec![],
            Deed::Exchange(exchange(0, 9, 1, Down(511), Run(1024))),
        ),
        (
            "pages of a region for a leaf in place",
            vec![Pages, Whole],
            vec![],
            Deed::Exchange(exchange(0, 9, 1, Run(512), Run(512))),
        ),
        (
            "a leaf for pages here and there",
            vec![Whole, Pages],
            vec![out(512, 512)],
            Deed::Exchange(exchange(9, 0, 1, Run(0), Stride(256, 2))),
        ),
        (
            "unaligned 2M",
            vec![Whole, Whole, Pages],
            vec![],
            Deed::Exchange(exchange(9, 9, 1, Run(700), Run(2000))),
        ),
        (
            "middle orders, overlapping outputs",
            vec![Whole, Pages],
            vec![],
            Deed::Exchange(exchange(3, 5, 6, Run(64), Run(1020))),
        ),
        (
            "outputs over other pages",
            vec![Pages, Pages],
            vec![],
            Deed::Exchange(exchange(0, 0, 8, Run(0), Run(600))),
        ),
        (
            "batch of which one chunk cannot be done",
            vec![Whole, Pages],
            vec![Op::Pin(20)],
            Deed::Exchange(exchange(2, 1, 8, Run(0), Run(1024))),
        ),
    ];

    deeds
        .into_iter()
        .map(|(name, build, ops, deed)| {
            let script = Script {
                config: Config::default(),
                build,
                ops,
            };
            (name, script, deed)
        })
        .collect()
}

fn machines() -> impl Iterator<Item = Config> {
    [
        (Format::Npt, true, Policy::Lowest),
        (Format::Npt, false, Policy::Highest),
        (Format::Ept, false, Policy::Next),
    ]
    .into_iter()
    .map(|(format, eager_flush, policy)| Config {
        format,
        eager_flush,
        policy,
        exec_sp: eager_flush,
        ..Config::default()
    })
}

fn prepare(script: &Script) -> Host {
    let mut host = script.play();
    // Let every vCPU have translations, so that there is something to flush.
    for gfn in (0..2048).step_by(61) {
        play(&mut host, &Op::Act(Act::Write { vcpu: 1, gfn }));
        play(&mut host, &Op::Act(Act::Read { vcpu: 0, gfn }));
    }
    host.counts.clear();
    host
}

fn contents(snapshot: &Snapshot) -> Vec<(u64, Option<u64>)> {
    let content = |seen: &Seen| match seen {
        Seen::Ram(_, content) => Some(*content),
        Seen::Other => None,
    };
    snapshot
        .pages
        .iter()
        .map(|(&g, s)| (g, content(s)))
        .collect()
}

/// Do it, and see that what is to stay the same does.
fn act(host: &mut Host, deed: &Deed) {
    match deed {
        Deed::Exchange(exchange) => {
            let _ = exchange_and_compare(host, exchange);
        }
        Deed::Heal | Deed::Vacate => {
            let before = host.snapshot();
            match deed {
                Deed::Vacate => {
                    let block = host.mfn(Gfn(0)).map(|mfn| mfn.align(Order::REGION));
                    host.vacate(block.expect("the guest has memory"), REGION_PAGES);
                }
                _ => while host.heal_one().is_some() {},
            }
            if !host.dying() && host.meddle_at.is_none() {
                let after = host.snapshot();
                assert_eq!(contents(&before), contents(&after));
                assert_eq!((before.tot, before.free), (after.tot, after.free));
            }
        }
    }
    host.check();
}

/// All of `1..=last`, or the first and last and some between.
fn some(last: u64) -> Vec<u64> {
    let most = std::env::var("FAULTS").ok().and_then(|n| n.parse().ok());
    let most: u64 = most.unwrap_or(8).max(1);

    if last < 100.max(most) {
        return (1..=last).collect();
    }
    let step = (last / most).max(1);
    let mut some: Vec<u64> = (1..=last).step_by(step as usize).collect();
    some.extend([2, 3, last - 1, last]);
    some.sort_unstable();
    some.dedup();
    some
}

#[test]
fn every_failure() {
    let mut runs = 0u64;
    for (name, script, deed) in corpus() {
        for config in machines() {
            let script = Script {
                config,
                ..script.clone()
            };
            let mut host = prepare(&script);
            act(&mut host, &deed);
            let counts = host.counts.clone();
            host.finish();

            for kind in Fallible::ALL {
                for n in some(counts.get(&kind).copied().unwrap_or(0)) {
                    let mut host = prepare(&script);
                    host.inject = Some((kind, n));
                    act(&mut host, &deed);
                    assert!(host.injected, "{name}: {kind:?} {n} did not happen");
                    host.finish();
                    runs += 1;
                }
            }
        }
    }
    println!("faults: {runs} runs with a failure");
}

/// How many calls there were before the deed, and how many it makes if nobody
/// interferes.
fn undisturbed(script: &Script, deed: &Deed) -> (u64, u64) {
    let mut host = prepare(script);
    let first = host.calls;

    act(&mut host, deed);
    let count = host.calls - first;
    host.finish();
    (first, count)
}

#[test]
fn dying_at_every_call() {
    let mut runs = 0u64;
    for (name, script, deed) in corpus() {
        for config in machines() {
            let script = Script {
                config,
                ..script.clone()
            };
            let (first, count) = undisturbed(&script, &deed);

            for call in some(count) {
                for teardown in [0, 7, 100_000] {
                    let mut host = prepare(&script);
                    host.die_at = Some(first + call);
                    host.teardown = teardown;
                    act(&mut host, &deed);
                    assert!(host.dying(), "{name}: call {call} did not happen");
                    host.finish();
                    runs += 1;
                }
            }
        }
    }
    println!("faults: {runs} runs of guests that die");
}

/// Somebody comes between at each call: between a look and the second look it
/// is that counts, under the lock it is what the flush is for.
#[test]
fn meddling_at_every_call() {
    let acts = [
        Act::Renew { gfn: 512 },
        Act::Renew { gfn: 512 + 300 },
        Act::Write { vcpu: 0, gfn: 512 },
        Act::Write { vcpu: 1, gfn: 1023 },
        Act::Map { gfn: 512 },
        Act::Map { gfn: 515 },
        Act::Map { gfn: 1023 },
        Act::Fact { fact: 0, on: true },
        Act::Fact { fact: 3, on: true },
        Act::Track {
            region: 1,
            on: true,
        },
        Act::OtherAlloc,
        Act::OtherFree { which: 3 },
    ];
    let mut runs = 0u64;
    for (_, script, deed) in corpus() {
        for config in machines() {
            let script = Script {
                config,
                ..script.clone()
            };
            let (first, count) = undisturbed(&script, &deed);

            for call in some(count) {
                for meddle in acts {
                    let mut host = prepare(&script);
                    host.meddle_at = Some((first + call, meddle));
                    act(&mut host, &deed);
                    host.finish();
                    runs += 1;
                }
            }
        }
    }
    println!("faults: {runs} runs with somebody between");
}

/// The corpus comes to each kind of failure.
#[test]
fn corpus_reaches_every_fallible_call() {
    for kind in Fallible::ALL {
        let reached = corpus().iter().any(|(_, script, deed)| {
            let mut host = prepare(script);
            act(&mut host, deed);
            host.counts.get(&kind).is_some_and(|&n| n > 0)
        });
        assert!(reached, "nothing in the corpus calls {kind:?}");
    }
}
