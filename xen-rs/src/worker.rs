// SPDX-License-Identifier: GPL-2.0-only
//! The worker: one at a time in the whole machine, one region at a time, as long
//! as nobody else wants the CPU; or, where the operator allows it, for a small
//! share of the time of a CPU that a guest never leaves.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use p2m::account::Counter;
use p2m::addr::{Gfn, Order};
use p2m::coalesce::{Mode, Scratch, heal};
use p2m::ledger::{Ledger, Next, REACH_MAX, Slot};
use p2m::machine::Machine;
use p2m::pace::Credit;

use crate::domain::{State, XenDomain, ledger_time, state, tunables};
use crate::ffi::{self, Domain};
use crate::hypercall::{MODE_DEFAULT, listen};
use crate::memory::{XBox, XSlice};

/// How long to wait when there was no memory for a piece of ledger, in ms.
const NO_MEMORY_WAIT: u64 = 1000;

/// How long idle time is waited for before a busy CPU gives of its own, in ms.
const REST_MAX: u64 = 20;

/// Pages of one GiB, log2.
const GIB_SHIFT: u32 = Order::GIB.log2();

/// The worker's memory; whoever has the worker has it.
struct Bench(UnsafeCell<Scratch>);

// SAFETY: used only between winning and releasing `BUSY`.
unsafe impl Sync for Bench {}

static BENCH: Bench = Bench(UnsafeCell::new(Scratch::new()));
static BUSY: AtomicBool = AtomicBool::new(false);
/// The domain whose turn it is.
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
    let until = ffi::xrs_sched_us().wrapping_add(tunables().budget_us);

    // A region that has been begun is finished, unless the CPU is wanted.
    let more = work_until(until, u64::MAX);

    if more && disturbs() {
        // Should there be no idle time again.
        ffi::xrs_sched_wake(REST_MAX);
    }
    more
}

fn work_until(until: u64, stop: u64) -> bool {
    if BUSY.swap(true, Ordering::Acquire) {
        return false;
    }
    // SAFETY: `BUSY` was won.
    let more = rounds(unsafe { &mut *BENCH.0.get() }, until, stop);

    BUSY.store(false, Ordering::Release);
    more
}

/// The same on a CPU that a guest had to leave for it. How long it may have it
/// again for is for the timer to say.
pub fn work_busy() {
    let since = ffi::xrs_sched_us();
    let until = since.wrapping_add(tunables().budget_us);

    if work_until(until, until) {
        let worked = ffi::xrs_sched_us().wrapping_sub(since);
        if let Some(rest) = tunables().rest_us(worked) {
            ffi::xrs_sched_wake(rest.div_ceil(1000).max(1));
        }
    }
}

/// A guest may be made to leave its CPU for us.
pub fn disturbs() -> bool {
    tunables().rest_us(0).is_some()
}

/// No region is begun after `until`, and no batch after `stop` (µs).
fn rounds(scratch: &mut Scratch, until: u64, stop: u64) -> bool {
    loop {
        // An event from here on sets it again.
        ffi::xrs_sched_set_pending(false);
        match round(scratch, stop) {
            Step::Worked => ffi::xrs_sched_set_pending(true),
            Step::Wait(ms) => {
                ffi::xrs_sched_wake(ms);
                break false;
            }
            Step::Idle => {
                if disturbs() {
                    ffi::xrs_sched_sleep();
                    // An event may have come meanwhile.
                    if ffi::xrs_sched_is_pending() {
                        ffi::xrs_sched_wake(1);
                    }
                }
                break false;
            }
        }
        if ffi::xrs_sched_softirq_pending() || ffi::xrs_sched_us() >= until {
            break true;
        }
    }
}

/// One step for the domain whose turn it is; if that is over, or it has nothing to
/// do, for the next that has.
fn round(scratch: &mut Scratch, stop: u64) -> Step {
    let last = LAST.load(Ordering::Relaxed);
    let mut wait = u64::MAX;
    let mut owing = false;

    // From it on to the highest, and from 0 to it, when its next turn comes.
    for (from, to) in [(last, u32::MAX), (0, last)] {
        let mut from = from;

        while let Some(domain) = RcuDomain::from(from) {
            let d = domain.get();
            let domid = u32::from(ffi::xrs_domain_id(d));

            if domid > to {
                break;
            }
            from = domid.saturating_add(1);
            let Some(state) = state(d) else { continue };
            let next = to == last || domid != last;
            let mut credit = state.credit();
            if next {
                credit = credit.turn();
            }
            if !credit.has() {
                // Its turn is over; or an act of its has taken more than a turn, and
                // it has to wait for another.
                owing |= next && state.hint.load(Ordering::Relaxed);
                state.set_credit(credit);
                continue;
            }
            let before = state.account.count(Counter::PagesCopied);
            match step(d, state, scratch, stop) {
                Step::Worked => {
                    let after = state.account.count(Counter::PagesCopied);
                    state.set_credit(credit.spend(after.wrapping_sub(before)));
                    LAST.store(domid, Ordering::Relaxed);
                    return Step::Worked;
                }
                // Nothing is saved up by having nothing to do.
                Step::Wait(ms) => wait = wait.min(ms),
                Step::Idle => {}
            }
            state.set_credit(Credit::default());
        }
    }
    if owing {
        // Another round of turns pays for it.
        Step::Worked
    } else if wait == u64::MAX {
        Step::Idle
    } else {
        Step::Wait(wait)
    }
}

fn step(d: &Domain, state: &State, scratch: &mut Scratch, stop: u64) -> Step {
    let mode = state.mode();

    if !state.hint.load(Ordering::Relaxed) || mode == Mode::Off {
        return Step::Idle;
    }
    let now = ledger_time();
    let mut machine = XenDomain::in_background(d, stop);
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
