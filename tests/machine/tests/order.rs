// SPDX-License-Identifier: GPL-2.0-only
//! What takes few copies is done first, and what takes many is done all the same.

use machine::host::{Config, Host};
use p2m::account::{Counter, Outcome, Reason};
use p2m::addr::{Order, Region};
use p2m::ledger::{CHEAP, Ledger};

/// Regions of which so many pages lie elsewhere, and nobody has looked yet.
fn host(astray: &[u64]) -> Host {
    let mut host = Host::new(Config {
        blocks: 16,
        ..Config::default()
    });

    host.now = 1000;
    for (r, &pages) in (0..).zip(astray) {
        let start = Region(r).start();
        assert!(host.populate(start, Order::REGION, false));
        // So that the pages do not come to lie in their places in another block.
        host.other_alloc();
        for slot in 0..pages {
            let gfn = start.add(slot);
            assert!(host.balloon_out(gfn));
            host.other_alloc();
            host.config.alloc_at = false;
            assert!(host.populate(gfn, Order::PAGE, false));
            host.config.alloc_at = true;
        }
        if pages == 0 {
            // Broken, and put back.
            assert!(host.balloon_out(start) && host.populate(start, Order::PAGE, false));
        }
    }
    while host.other_pages() > 0 {
        host.other_free(0);
    }
    host
}

#[test]
fn few_copies_first() {
    let astray = [400, 20, 0, 100, CHEAP];
    let mut host = host(&astray);
    let (mut acts, mut deferred) = (Vec::new(), 0);

    while let Some((region, outcome)) = host.heal_one() {
        host.check();
        match outcome {
            Outcome::Refused(reason) => {
                assert_eq!(reason, Reason::Deferred);
                deferred += 1;
            }
            _ => acts.push(astray[region.0 as usize]),
        }
    }
    // What is cheap is done when it is seen; the last is not deferred for nobody.
    assert_eq!(acts, [0, CHEAP, 20, 100, 400]);
    assert_eq!(host.account.refused(Reason::Deferred), deferred);
    assert_eq!((deferred, host.book.queued()), (3, 0));
    host.finish();
}

/// A guest that breaks what can be mended cheaply, again and again, does not keep a
/// region that takes many copies from being mended.
#[test]
fn its_turn_comes() {
    let mut host = host(&[450, 0, 0, 0]);
    let (mut looks, since) = (0, host.now);

    loop {
        let before = host.account.count(Counter::PagesCopied);
        let (region, outcome) = host.heal_one().expect("something always waits");
        looks += 1;
        if region == Region(0) && outcome != Outcome::Refused(Reason::Deferred) {
            let copied = host.account.count(Counter::PagesCopied) - before;
            break assert_eq!((outcome, copied), (Outcome::Completed, 450));
        }
        // Two of the others wait, without a cool-down.
        for r in [1 + looks % 3, 1 + (looks + 1) % 3] {
            host.book.executed(Region(r));
            host.book.settled(Region(r));
            let gfn = Region(r).start();
            assert!(host.balloon_out(gfn) && host.populate(gfn, Order::PAGE, false));
        }
        host.now += 5;
        assert!(host.now - since < 60_000, "{looks} looks");
    }
    assert!(host.now - since > 1000, "{looks} looks");
    host.finish();
}
