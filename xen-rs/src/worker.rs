// SPDX-License-Identifier: GPL-2.0-only
//! The idle-time worker: one at a time in the whole machine, one region at a
//! time, as long as nobody else wants the CPU.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use p2m::addr::{Gfn, Order};
use p2m::coalesce::{Mode, Scratch, heal};
use p2m::ledger::{Ledger, Next, REACH_MAX, Slot};
use p2m::machine::Machine;

use crate::domain::{State, XenDomain, ledger_time, state, tunables};
use crate::ffi::{self, Domain};
use crate::hypercall::{MODE_DEFAULT, listen};
use crate::memory::{XBox, XSlice};

/// How long to wait when there was no memory for a piece of ledger, in ms.
const NO_MEMORY_WAIT: u64 = 1000;

/// Pages of one GiB, log2.
const GIB_SHIFT: u32 = Order::GIB.log2();

/// The worker's memory; whoever has the worker has it.
struct Bench(UnsafeCell<Scratch>);

// SAFETY: used only between winning and releasing `BUSY`.
unsafe impl Sync for Bench {}

static BENCH: Bench = Bench(UnsafeCell::new(Scratch::new()));
static BUSY: AtomicBool = AtomicBool::new(false);
/// The domain that was served last.
static LAST: AtomicU32 = AtomicU32::new(0);

/// A domain that cannot be freed while this lives.
struct RcuDomain(*const Domain);

impl RcuDomain {
    /// The domain with the lowest number from `domid` on that has state.
    fn from(domid: u32) -> Option<Self> {
        let d = ffi::xrs_domain_lock_from(domid);

        // Made only if it is one: dropping it unlocks.
        (!d.is_null()).then(|| RcuDomain(d))
    }

    fn get(&self) -> &Domain {
        // SAFETY: not null, and locked against being freed.
        unsafe { &*self.0 }
    }
}

impl Drop for RcuDomain {
    fn drop(&mut self) {
        // SAFETY: it was locked when it was made.
        unsafe { ffi::xrs_domain_unlock(self.0) }
    }
}

/// What a step came to.
enum Step {
    /// Something was done, and there may be more.
    Worked,
    /// Nothing to do before so many ms.
    Wait(u64),
    /// Nothing to do.
    Idle,
}

/// Work until the budget is spent, the CPU is wanted or nothing is left.
/// `true`: there is more.
pub fn work() -> bool {
    if BUSY.swap(true, Ordering::Acquire) {
        return false;
    }
    // SAFETY: `BUSY` was won.
    let scratch = unsafe { &mut *BENCH.0.get() };
    let until = ffi::xrs_sched_us().wrapping_add(tunables().budget_us);
    let more = loop {
        // An event from here on sets it again.
        ffi::xrs_sched_set_pending(false);
        match round(scratch) {
            Step::Worked => ffi::xrs_sched_set_pending(true),
            Step::Wait(ms) => {
                ffi::xrs_sched_wake(ms);
                break false;
            }
            Step::Idle => break false,
        }
        if ffi::xrs_sched_softirq_pending() || ffi::xrs_sched_us() >= until {
            break true;
        }
    };

    BUSY.store(false, Ordering::Release);
    more
}

/// One step for the next domain that has something to do.
fn round(scratch: &mut Scratch) -> Step {
    let last = LAST.load(Ordering::Relaxed);
    let mut wait = u64::MAX;

    // From the one after the last to the highest, and from 0 to the last.
    for (from, to) in [(last.saturating_add(1), u32::MAX), (0, last)] {
        let mut from = from;

        while let Some(domain) = RcuDomain::from(from) {
            let d = domain.get();
            let domid = u32::from(ffi::xrs_domain_id(d));

            if domid > to {
                break;
            }
            if let Some(state) = state(d) {
                match step(d, state, scratch) {
                    Step::Worked => {
                        LAST.store(domid, Ordering::Relaxed);
                        return Step::Worked;
                    }
                    Step::Wait(ms) => wait = wait.min(ms),
                    Step::Idle => {}
                }
            }
            from = domid.saturating_add(1);
        }
    }
    if wait == u64::MAX {
        Step::Idle
    } else {
        Step::Wait(wait)
    }
}

fn step(d: &Domain, state: &State, scratch: &mut Scratch) -> Step {
    let mode = state.mode();

    if !state.hint.load(Ordering::Relaxed) || mode == Mode::Off {
        return Step::Idle;
    }
    let now = ledger_time();
    let mut machine = XenDomain::in_background(d);
    let next = {
        let mut locked = machine.lock();
        let next = if ffi::xrs_domain_dying(d) {
            Next::Idle
        } else {
            locked.next(now)
        };
        if next == Next::Idle {
            // Under the lock, so no event is missed.
            state.hint.store(false, Ordering::Relaxed);
        }
        next
    };

    match next {
        Next::Look(region) => {
            heal(&mut machine, scratch, region, tunables().limits(mode), now);
            Step::Worked
        }
        Next::Survey(gib) => survey(&mut machine, gib, now),
        Next::Grow(gib) => grow(&mut machine, gib),
        Next::Wait(time) => Step::Wait(tunables().until(time)),
        Next::Idle => Step::Idle,
    }
}

/// See a GiB for the first time: which of its regions are broken?
fn survey(machine: &mut XenDomain<'_>, gib: u64, now: u64) -> Step {
    let Some(leaf) = XBox::zeroed() else {
        return Step::Wait(NO_MEMORY_WAIT);
    };
    let spare = {
        let mut locked = machine.lock();
        let mut broken = false;

        locked.broken_regions(gib, |_| broken = true);
        match locked.book() {
            Some(book) if broken => {
                let spare = book.survey(gib, leaf);
                // A second walk, because the first must not touch the ledger.
                let mut todo = [0u64; 8];
                locked.broken_regions(gib, |region| {
                    let (word, bit) = ((region.0 % 512) / 64, region.0 % 64);
                    if let Some(word) = todo.get_mut(word as usize) {
                        *word |= 1u64.wrapping_shl(bit as u32);
                    }
                });
                for (i, word) in (0..8u64).zip(todo) {
                    for bit in (0..64).filter(|&b| word.wrapping_shr(b) & 1 != 0) {
                        let index = i.wrapping_mul(64).wrapping_add(bit.into());
                        let region = gib.wrapping_shl(9).wrapping_add(index);
                        locked.touch(p2m::addr::Region(region), now);
                    }
                }
                spare
            }
            Some(book) => {
                book.quiet(gib);
                Some(leaf)
            }
            None => Some(leaf),
        }
    };

    drop(spare);
    Step::Worked
}

/// Make the ledger's root long enough for `gib`.
fn grow(machine: &mut XenDomain<'_>, gib: u64) -> Step {
    let Some(root) = root(gib) else {
        return Step::Wait(NO_MEMORY_WAIT);
    };
    let old = machine.lock().book().map(|book| book.grow(root));

    drop(old);
    Step::Worked
}

/// A root that reaches `gib`, as far as roots go.
fn root(gib: u64) -> Option<XSlice<Slot<XBox<p2m::ledger::Leaf>>>> {
    XSlice::new(gib.saturating_add(1).min(REACH_MAX) as usize)
}

/// The mode of all domains that have none of their own has changed.
pub fn mode_changed() {
    let mut from = 0;

    while let Some(domain) = RcuDomain::from(from) {
        let d = domain.get();

        if let Some(state) = state(d) {
            if state.mode.load(Ordering::Relaxed) == MODE_DEFAULT {
                listen(d, state);
            }
        }
        from = u32::from(ffi::xrs_domain_id(d)).saturating_add(1);
    }
}

/// `d` is complete: begin to remember it.
pub fn domain_start(d: &Domain) {
    let last = Gfn(ffi::xrs_p2m_max_gfn(d));
    let gib = last.0.wrapping_shr(GIB_SHIFT);

    if let Some(state) = root(gib).and_then(|root| XBox::new(State::new(root))) {
        let raw = state.into_raw();
        // SAFETY: it lives until `domain_destroy`, which comes after the last
        // lookup.
        let state = unsafe {
            ffi::xrs_domain_set_state(d, raw.cast());
            &*raw
        };
        listen(d, state);
    }
}
