// SPDX-License-Identifier: GPL-2.0-only
//! Every order of events, for few pages: stateright tries at each call of the
//! core whatever others could do there.
//!
//! The core's functions are the shipped ones, and run from their beginning to
//! their end; they cannot be stopped half way. So a state is remembered by the
//! moves that lead to it, and is reached again by playing them from the start.
//! Two states are the same if the machine is, and if the core is: that is a
//! function of what it was told so far (`Host::fingerprint()`).
//!
//! TLBs are among the adversaries: an entry may be filled by any access, stay
//! until it is flushed, or be forgotten at any time.
//!
//! This file is built twice: as it stands, with regions of 512 pages of which others
//! have to do with few, and in `tests/model` with regions of four pages, where
//! all of them count and a state costs so little that many can be tried. In both the
//! core is the shipped source; see `arch::LEVEL_BITS`.
//!
//! The vCPUs may do the same things, so which of them has a TLB makes no difference.
//!
//! `MODEL_PAGES` and `MODEL_MOVES` make it larger: pages that others have to do with,
//! and how often others may act.

use machine::host::{Act, Digest, Host};
#[cfg(small_tables)]
use model as schedules;
use p2m::addr::REGION_PAGES;
use schedules::{End, Ending, MACHINES, PAGES, Scene};
use stateright::{Checker, Model, Property};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Move {
    /// The core goes on to its next call.
    Core,
    /// Somebody else acts.
    Other(Act),
}

#[derive(Clone)]
struct State {
    moves: Arc<Vec<Move>>,
    /// Others may act so often still.
    left: usize,
    /// What distinguishes it.
    print: u64,
    /// Acts that have to wait for the lock are not possible now.
    possible: Arc<Vec<Act>>,
    end: Option<End>,
    broken: Option<Arc<String>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.moves, self.end, self.broken)
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        (self.print, self.left) == (other.print, other.left)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.print, self.left).hash(state);
    }
}

struct Region {
    scene: Scene,
    menu: Vec<Act>,
    moves: usize,
}

/// How far a play has come: set by what is called at each call of the core.
#[derive(Default)]
struct Progress {
    /// The next move.
    at: usize,
    /// The machine when the moves had been made.
    reached: Option<(Host, u64)>,
}

impl Region {
    /// Play `moves`, and then let the core come to its end undisturbed: the
    /// machine as the moves left it, or as the core did, if that was before.
    fn play(&self, moves: &Arc<Vec<Move>>) -> (Host, u64, Option<End>) {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let (at_a_call, script) = (Arc::clone(&progress), Arc::clone(moves));
        let mut host = self.scene.host.clone();

        host.between = Some(Arc::new(move |host: &mut Host| {
            let mut progress = at_a_call.lock().unwrap();
            if progress.reached.is_some() {
                return;
            }
            loop {
                match script.get(progress.at) {
                    Some(Move::Core) => {
                        progress.at += 1;
                        return;
                    }
                    Some(&Move::Other(act)) => {
                        progress.at += 1;
                        host.act(act);
                    }
                    None => {
                        let mut print = Digest::default();
                        host.fingerprint(&mut print);
                        let mut copy = host.clone();
                        copy.between = None;
                        progress.reached = Some((copy, print.finish()));
                        return;
                    }
                }
            }
        }));
        let end = self.scene.play(&mut host);
        host.between = None;
        host.check();

        let mut progress = progress.lock().unwrap();
        match progress.reached.take() {
            Some((host, print)) => (host, print, None),
            None => {
                // The core is done; nobody is at work any more.
                let mut print = Digest::default();
                (0xe4du64, end).hash(&mut print);
                host.fingerprint(&mut print);
                self.scene.quiet(host.clone());
                (host, print.finish(), Some(end))
            }
        }
    }

    fn state(&self, moves: Arc<Vec<Move>>, left: usize) -> State {
        let played = catch_unwind(AssertUnwindSafe(|| self.play(&moves)));

        match played {
            Ok((host, print, end)) => {
                let possible = self.menu.iter().copied();
                State {
                    possible: Arc::new(possible.filter(|&act| !host.waits(act)).collect()),
                    moves,
                    left,
                    print,
                    end,
                    broken: None,
                }
            }
            Err(why) => {
                let why = why
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                    .unwrap_or_default();
                State {
                    print: moves.len() as u64,
                    moves,
                    left,
                    possible: Arc::default(),
                    end: None,
                    broken: Some(Arc::new(why)),
                }
            }
        }
    }
}

fn ended(state: &State, ending: Ending) -> bool {
    state.end == Some(End::Healed(ending))
}

impl Model for Region {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        vec![self.state(Arc::default(), self.moves)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Move>) {
        if state.end.is_some() || state.broken.is_some() {
            return;
        }
        actions.push(Move::Core);
        if state.left > 0 {
            actions.extend(state.possible.iter().map(|&act| Move::Other(act)));
        }
    }

    fn next_state(&self, last: &State, action: Move) -> Option<State> {
        let mut moves = (*last.moves).clone();
        moves.push(action);
        let left = last.left - usize::from(action != Move::Core);
        let next = self.state(Arc::new(moves), left);

        (next.print != last.print).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("safe, and what is quiet becomes whole", |_, s: &State| {
                s.broken.is_none()
            }),
            Property::eventually("it comes to an end", |_, s: &State| {
                s.end.is_some() || s.broken.is_some()
            }),
            Property::sometimes("it is done", |_, s: &State| {
                matches!(s.end, Some(End::Exchanged(_, true)))
                    || [Ending::Promoted, Ending::Completed, Ending::Migrated]
                        .into_iter()
                        .any(|ending| ended(s, ending))
            }),
            Property::sometimes("it is left", |model, s: &State| {
                model.scene.name == "promote"
                    || matches!(s.end, Some(End::Exchanged(_, false)))
                    || matches!(s.end, Some(End::Healed(Ending::Refused(_))))
            }),
        ]
    }
}

/// Two vCPUs that may do the same things, a mapper and a device.
fn menu(pages: &[u16]) -> Vec<Act> {
    let mut menu = vec![
        Act::MapperWrite { which: 0 },
        Act::Unmap { which: 0 },
        Act::Fact { fact: 0, on: true },
    ];
    for &gfn in pages {
        for vcpu in 0..2 {
            menu.push(Act::Write { vcpu, gfn });
            menu.push(Act::Read { vcpu, gfn });
        }
        menu.push(Act::Dma { gfn, write: true });
    }
    for &gfn in pages.iter().take(2) {
        menu.push(Act::Map { gfn });
    }
    menu.extend((0..2).map(|vcpu| Act::Evict { vcpu, which: 0 }));
    menu
}

#[test]
fn every_order() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse::<usize>().ok())
    };
    let (some, few) = if REGION_PAGES > 4 { (2, 1) } else { (4, 3) };
    let pages = number("MODEL_PAGES").unwrap_or(some);
    let moves = number("MODEL_MOVES").unwrap_or(few);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (mut states, start) = (0, Instant::now());

    // What goes wrong on purpose is not to be printed; see the assertion.
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = None;
    for machine in MACHINES {
        for mut scene in Scene::all(machine, pages) {
            scene.host.values = 2;
            let name = scene.name;
            let since = Instant::now();
            let model = Region {
                scene,
                menu: menu(&PAGES[..pages]),
                moves,
            };
            let checker = model.checker().threads(threads).spawn_bfs().join();
            let unique = checker.unique_state_count();
            println!(
                "model: {name} on {machine:?}: {unique} states, {} transitions, depth {}, {:.1} s",
                checker.state_count(),
                checker.max_depth(),
                since.elapsed().as_secs_f64()
            );
            states += unique;
            for (property, path) in checker.discoveries() {
                if property.starts_with("safe") || property.ends_with("an end") {
                    let last = path.last_state().clone();
                    failed = Some(format!(
                        "{name} on {machine:?}: {:?}, by {:?}",
                        last.broken, last.moves
                    ));
                }
            }
            for property in ["it is done", "it is left"] {
                if checker.discovery(property).is_none() && failed.is_none() {
                    failed = Some(format!("{name} on {machine:?}: never {property:?}"));
                }
            }
            if failed.is_some() {
                break;
            }
        }
    }
    let _ = std::panic::take_hook();
    if let Some(failed) = failed {
        panic!("{failed}");
    }
    println!(
        "model: {states} states in all, regions of {REGION_PAGES} pages, others at {pages} of them, {moves} moves of others, {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
