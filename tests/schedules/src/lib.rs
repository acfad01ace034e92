// SPDX-License-Identifier: GPL-2.0-only
//! The core's real code under every order of events.
//!
//! A [`Scene`] is a machine, something that the core is to do there, and others
//! who are at work meanwhile: vCPUs, a mapper, a device, another domain, a
//! toolstack that kills the guest. `tests/random.rs` lets each of them be a thread
//! and has shuttle choose who goes on at each call of the core;
//! `tests/exhaustive.rs` has stateright try every choice.
//!
//! The pages that the others have to do with are few, so that they meet. A call
//! of the core that is about another page makes no difference to them, nor they
//! to it: which comes first is not tried (`Host::watched`).

use arch::Format;
use machine::heap::{Policy, State};
use machine::host::{Act, Config, Host, Lists};
use machine::script::{Build, Script};
use p2m::account::Outcome;
use p2m::addr::{Gfn, Order, REGION_PAGES, Region};
use p2m::ledger::Ledger;
use p2m::machine::{Errno, Facts};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The region in which everything happens.
pub const REGION: Region = Region(1);

/// The first pages of it that the others have to do with: of a small region,
/// all.
pub const PAGES: [u16; 4] = [page(3), page(6), page(4), page(9)];

const fn page(n: u16) -> u16 {
    REGION_PAGES as u16 + n % REGION_PAGES as u16
}

/// What the core is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Look at the region.
    Heal,
    /// Exchange pages of 4 KiB: given, and wanted.
    Exchange(Vec<u64>, Vec<u64>),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Healed(Ending),
    /// Pages exchanged, and whether that was all.
    Exchanged(u64, bool),
}

/// The outcome of a look, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    Promoted,
    Completed,
    Migrated,
    /// For this reason, by its public number.
    Refused(u8),
}

/// A machine and a deed.
#[derive(Clone)]
pub struct Scene {
    pub name: &'static str,
    pub host: Host,
    pub deed: Deed,
}

/// The machines that a deed is tried on: a format, and whether each change of a
/// live entry is flushed at once.
pub const MACHINES: [(Format, bool); 3] = [
    (Format::Ept, false),
    (Format::Npt, true),
    (Format::Npt, false),
];

fn built(build: Build, (format, eager_flush): (Format, bool)) -> Host {
    let script = Script {
        config: Config {
            format,
            eager_flush,
            blocks: 4,
            pool: 8,
            policy: Policy::Highest,
            ..Config::default()
        },
        build: vec![Build::Empty, build],
        ops: Vec::new(),
    };
    let mut host = script.build();

    // A mapper in its own right, who could get anything else that is free.
    host.other_alloc();
    host
}

/// One page comes to lie elsewhere, and its place is free.
fn lead_astray(host: &mut Host, gfn: Gfn) {
    let place = host.mfn(gfn).expect("a page to lead astray");
    let before = host.other_pages();

    host.balloon_out(gfn);
    while host.heap.at(place).state == State::Free {
        host.other_alloc();
    }
    host.config.alloc_at = false;
    assert!(
        host.populate(gfn, Order::PAGE, false),
        "no page for {gfn:?}"
    );
    host.config.alloc_at = true;
    while host.other_pages() > before {
        host.other_free(before);
    }
}

impl Scene {
    /// All deeds on one machine; the others have to do with `pages` pages.
    pub fn all(machine: (Format, bool), pages: usize) -> Vec<Scene> {
        let first = u64::from(PAGES[0]);
        let second = u64::from(PAGES[1]);
        let mut astray = built(Build::Split, machine);
        lead_astray(&mut astray, Gfn(first));
        let mut scattered = Host::new(astray.config);
        scattered.other_alloc();
        scattered.populate(REGION.start(), Order::REGION, true);

        let mut elsewhere = built(Build::Split, machine);
        elsewhere.populate(Region(0).start(), Order::REGION, false);
        elsewhere.swap(Gfn(first), Region(0).start());

        let exchange = |ins: &[u64], outs: &[u64]| Deed::Exchange(ins.to_vec(), outs.to_vec());
        let mut scenes = vec![
            Scene {
                name: "promote",
                host: built(Build::Split, machine),
                deed: Deed::Heal,
            },
            Scene {
                name: "complete",
                host: astray,
                deed: Deed::Heal,
            },
            Scene {
                name: "migrate",
                host: scattered,
                deed: Deed::Heal,
            },
            Scene {
                name: "exchange in place",
                host: built(Build::Whole, machine),
                deed: exchange(&[first, second], &[first, second]),
            },
            Scene {
                name: "exchange elsewhere",
                host: built(Build::Split, machine),
                deed: exchange(
                    &[first, second],
                    &[first, 2 * REGION_PAGES + 5 % REGION_PAGES],
                ),
            },
            Scene {
                name: "make room",
                host: elsewhere,
                deed: Deed::Heal,
            },
        ];
        if REGION_PAGES < 8 {
            // Larger regions have too many calls for all orders of events.
            let mut batches = scenes[2].host.clone();
            batches.batch = REGION_PAGES / 2;
            scenes.push(Scene {
                name: "migrate in two batches",
                host: batches,
                deed: Deed::Heal,
            });
            let all = |region: Region| -> Vec<u64> {
                (0..REGION_PAGES).map(|i| region.start().add(i).0).collect()
            };
            scenes.push(Scene {
                name: "exchange a region",
                host: built(Build::Whole, machine),
                deed: exchange(&all(REGION), &all(Region(2))),
            });
        }
        for scene in &mut scenes {
            let host = &mut scene.host;
            for &gfn in &PAGES[..pages] {
                for vcpu in 0..2 {
                    host.act(Act::Read { vcpu, gfn });
                }
            }
            host.heap.policy = Policy::Next;
            host.surveyed(REGION);
            host.check();
            host.watched = PAGES[..pages]
                .iter()
                .flat_map(|&gfn| {
                    let gfn = Gfn(gfn.into());
                    let lies = host.mfn(gfn).map(|mfn| mfn.slot());
                    [Some(gfn.slot()), lies].into_iter().flatten()
                })
                .collect();
        }
        scenes
    }

    /// Let the core do it.
    pub fn play(&self, host: &mut Host) -> End {
        match &self.deed {
            Deed::Heal => {
                let (region, outcome) = host.heal_one().expect("a region waits");
                assert_eq!(region, REGION);
                End::Healed(match outcome {
                    Outcome::Promoted => Ending::Promoted,
                    Outcome::Completed => Ending::Completed,
                    Outcome::Migrated => Ending::Migrated,
                    Outcome::Refused(reason) => Ending::Refused(reason as u8),
                })
            }
            Deed::Exchange(ins, outs) => {
                let lists = Lists {
                    ins: ins.clone(),
                    outs: outs.clone(),
                    fault: None,
                };
                let (done, result) = host.exchange(0, 0, lists, 0);
                let known = matches!(result, Ok(()) | Err(Errno::Busy | Errno::Inval));
                assert!(known, "{result:?} after {done}");
                End::Exchanged(done, result.is_ok())
            }
        }
    }

    /// How many calls of the core there are at which others may act, when none
    /// does.
    pub fn calls(&self) -> u8 {
        let calls = Arc::new(AtomicU8::new(0));
        let count = Arc::clone(&calls);
        let mut host = self.host.clone();

        host.between = Some(Arc::new(move |_: &mut Host| {
            count.fetch_add(1, Relaxed);
        }));
        self.play(&mut host);
        calls.load(Relaxed)
    }

    /// Everybody else leaves: a region of RAM that can be made whole is, before
    /// long.
    pub fn quiet(&self, mut host: Host) {
        host.between = None;
        host.unpin_all();
        if host.dying() {
            host.finish();
            return;
        }
        if host.facts.contains(Facts::IOMMU) {
            // That goes away with an event only.
            host.set_facts(Facts::IOMMU, false);
            host.book.touch(REGION, host.now);
        }
        host.heal_all();
        host.check();
        if self.deed == Deed::Heal {
            assert!(
                host.tables.last_table(REGION.start()).is_none(),
                "{REGION:?} could be whole, and is {:?}, {} waiting, {:?}",
                host.shape(REGION),
                host.book.queued(),
                *host.account
            );
        }
        host.finish();
    }
}

/// Everybody else, and what they still want to do: how many calls of the core
/// pass before, and what. One that has to wait for the lock does nothing else
/// meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Others(pub Vec<VecDeque<(u8, Act)>>);

impl Others {
    /// All do what they can; what has to wait stays.
    pub fn act(&mut self, host: &mut Host) {
        for acts in &mut self.0 {
            while let Some((calls, act)) = acts.front_mut() {
                if *calls > 0 {
                    *calls -= 1;
                    break;
                }
                if host.waits(*act) {
                    break;
                }
                host.act(*act);
                acts.pop_front();
            }
        }
    }

    /// The core has nothing left to do: nobody waits any more.
    pub fn finish(&mut self, host: &mut Host) {
        for acts in &mut self.0 {
            acts.iter_mut().for_each(|(calls, _)| *calls = 0);
        }
        self.act(host);
        assert!(
            self.0.iter().all(VecDeque::is_empty),
            "somebody waits for ever: {self:?}"
        );
    }
}
