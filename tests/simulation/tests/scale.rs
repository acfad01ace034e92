// SPDX-License-Identifier: GPL-2.0-only
//! Cost grows as events do, not as memory does; and more is whole than with a
//! sweep or with nothing.

use simulation::{Figures, Host, Policy, Sweep, run, trace};

fn figures(gib: u64, policy: Policy) -> Figures {
    let host = Host {
        hours: 1,
        ..Host::of(gib)
    };
    run(&host, &trace(&host), policy)
}

#[test]
fn work_per_event_is_flat() {
    let per_event: Vec<(u64, f64)> = [1, 12, 120, 1200, 12 * 1024]
        .into_iter()
        .map(|gib| (gib, figures(gib, Policy::Ledger).work_per_event()))
        .collect();
    let (small, large) = (per_event[0].1, per_event[4].1);

    println!("work per event, by GiB: {per_event:?}");
    // The same events on 12,288 times the memory. On one GiB several of them
    // meet in a region and are worth one look; where they no longer do it
    // does not grow any more.
    assert!(large < 2.5 * small, "{per_event:?}");
    assert!(large < 1.15 * per_event[3].1, "{per_event:?}");
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
