// SPDX-License-Identifier: GPL-2.0-only
//! Cost grows as events do, not as memory does; and more is whole than with a
//! sweep or with nothing.

use simulation::{Figures, Host, Policy, Sweep, run, spread, storm, trace};

fn figures(gib: u64, policy: Policy) -> Figures {
    let host = Host {
        hours: 1,
        ..Host::of(gib)
    };
    run(&host, &trace(&host), policy)
}

/// The same events, in 512 regions that lie next to each other or as far from each other
/// as there is room.
#[test]
fn work_per_event_is_flat() {
    let small = Host {
        hours: 1,
        ..Host::of(1)
    };
    let events = trace(&small);
    let all: Vec<(u64, Figures)> = [1, 12, 120, 1200, 12 * 1024]
        .into_iter()
        .map(|gib| {
            let large = Host {
                hours: 1,
                ..Host::of(gib)
            };
            let events = spread(&events, &small, &large);
            (gib, run(&large, &events, Policy::Ledger))
        })
        .collect();

    for (gib, f) in &all {
        println!(
            "{gib:>6} GiB: {:.3} per event: {} wakes, {} domains asked, {} leaves visited, {} looks, for {} events",
            f.work_per_event(),
            f.wakes,
            f.asks,
            f.leaves,
            f.looks,
            f.events
        );
    }
    let work = || all.iter().map(|(_, f)| f.work_per_event());
    let ratio = work().fold(0.0, f64::max) / work().fold(f64::MAX, f64::min);
    println!("most to least: {ratio:.3}");
    assert!(ratio <= 1.1, "{ratio}");
}

/// Of all that waits, what takes few copies is made whole first: more is whole at any time,
/// for fewer copies, and in the end it is the same.
#[test]
fn few_copies_go_first() {
    let host = Host {
        hours: 0,
        speed: 100,
        ..Host::of(12)
    };
    let events = storm(&host);
    let [ordered, in_turn] =
        [Policy::Ledger, Policy::InTurn].map(|policy| run(&host, &events, policy));
    let acts = ordered.by_act.len();

    assert_eq!(acts as u64, host.regions());
    assert_eq!(
        (in_turn.by_act.len(), in_turn.copied),
        (acts, ordered.copied)
    );
    for part in [4, 2, 1] {
        let n = acts / part;
        println!(
            "{n} regions: {:.1} pages copied for each, in turn {:.1}",
            ordered.by_act[n - 1] as f64 / n as f64,
            in_turn.by_act[n - 1] as f64 / n as f64
        );
    }
    println!(
        "broken, mean ppm: {:.0}, in turn {:.0}; {} looks, in turn {}",
        ordered.broken(),
        in_turn.broken(),
        ordered.looks,
        in_turn.looks
    );
    assert!(4 * ordered.by_act[acts / 2] < in_turn.by_act[acts / 2]);
    assert!(ordered.broken() < 0.75 * in_turn.broken());
    // (But for what a second look at each costs.)
    for (one, other) in ordered.coverage.iter().zip(&in_turn.coverage) {
        assert!(one.1 + 5000 >= other.1, "{one:?} {other:?}");
    }
    assert!(ordered.looks <= 2 * in_turn.looks);
}

#[test]
fn memory_is_what_was_promised() {
    for gib in [12, 1200] {
        let figures = figures(gib, Policy::Ledger);
        assert!(
            figures.memory <= gib * 614,
            "{} bytes for {gib} GiB",
            figures.memory
        );
    }
}

#[test]
fn more_is_whole_for_less() {
    let gib = 1200;
    let [nothing, sweep, ledger] = [
        Policy::Nothing,
        Policy::Sweep(Sweep {
            holes: 0,
            ..Sweep::default()
        }),
        Policy::Ledger,
    ]
    .map(|policy| figures(gib, policy));

    println!(
        "{} {} {}",
        nothing.broken(),
        sweep.broken(),
        ledger.broken()
    );
    assert!(ledger.broken() < sweep.broken());
    assert!(sweep.broken() <= nothing.broken());
    // What was broken and filled again is whole in the end.
    let last = |f: &Figures| f.coverage.last().map(|&(_, c)| c);
    assert_eq!(last(&ledger), Some(1_000_000));
    assert!(
        ledger.copied <= ledger.events,
        "{} pages copied",
        ledger.copied
    );
}

#[test]
fn the_same_seed_gives_the_same() {
    let copied = || figures(12, Policy::Ledger).copied;
    assert_eq!(copied(), copied());
}
