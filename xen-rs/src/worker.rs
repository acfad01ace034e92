// SPDX-License-Identifier: GPL-2.0-only
//! The worker: one at a time in the whole machine, one region at a time, as long
//! as nobody else wants the CPU; or, where the operator allows it, for a small
//! share of the time of a CPU that a guest never leaves.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use p2m::account::{Counter, Outcome, Reason};
use p2m::addr::{Gfn, Order};
use p2m::coalesce::{Act, Limits, Mode, Scratch, heal};
use p2m::ledger::{Ledger, Next, REACH_MAX, reach_for};
use p2m::machine::Machine;
use p2m::pace::{Alerts, Roster, Seat, Step, Turn};

use crate::domain::{State, XenDomain, free, ledger_time, state, tunables};
use crate::ffi::{self, Domain, PageInfo};
use crate::hypercall::{MODE_DEFAULT, listen};
use crate::memory::{XBox, XSlice};
use crate::room::make_room;

/// How long to wait when there was no memory for a piece of ledger, in ms.
const NO_MEMORY_WAIT: u64 = 1000;

/// How long idle time is waited for before a busy CPU gives of its own, in ms.
const REST_MAX: u64 = 20;

/// Pages of one GiB, log2.
const GIB_SHIFT: u32 = Order::GIB.log2();

/// What the worker works with.
struct Bench {
    scratch: Scratch,
    /// An act for this domain that was interrupted. It goes on before anything else
    /// is begun.
    kept: Option<(u32, Act)>,
    /// Whose turn it is.
    roster: Roster<XSlice<Seat>>,
}

/// The worker's; whoever has the worker has it.
struct Shared(UnsafeCell<Bench>);

// SAFETY: used only between winning and releasing `BUSY`.
unsafe impl Sync for Shared {}

static BENCH: Shared = Shared(UnsafeCell::new(Bench {
    scratch: Scratch::new(),
    kept: None,
    roster: Roster::new(XSlice::empty()),
}));
static BUSY: AtomicBool = AtomicBool::new(false);
/// The domains for which something has happened.
static ALERTS: Alerts = Alerts::new();

/// There is something to do for the domain `domid`: have an idle CPU look at it soon.
pub fn alert(domid: u16) {
    ALERTS.raise(domid.into());
    if !ffi::xrs_sched_is_pending() {
        ffi::xrs_sched_set_pending(true);
        ffi::xrs_sched_wake(1);
    }
}

/// A domain that cannot be freed while this lives.
pub struct RcuDomain(*const Domain);

impl RcuDomain {
    /// The domain with the lowest number from `domid` on that has state.
    fn from(domid: u32) -> Option<Self> {
        Self::locked(ffi::xrs_domain_lock_from(domid))
    }

    /// The domain with this number, if it has state.
    fn with(domid: u32) -> Option<Self> {
        Self::locked(ffi::xrs_domain_lock(domid))
    }

    /// The owner of a page, if that is a domain that has state.
    pub fn owner(page: &PageInfo) -> Option<Self> {
        Self::locked(ffi::xrs_domain_lock_owner(page))
    }

    fn locked(d: *const Domain) -> Option<Self> {
        // Made only if it is one: dropping it unlocks.
        (!d.is_null()).then(|| RcuDomain(d))
    }

    /// The domain.
    pub fn get(&self) -> &Domain {
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
fn rounds(bench: &mut Bench, until: u64, stop: u64) -> bool {
    loop {
        // An event from here on sets it again.
        ffi::xrs_sched_set_pending(false);
        match round(bench, stop) {
            Turn::Serve(_) => ffi::xrs_sched_set_pending(true),
            Turn::Wait(ms) => {
                ffi::xrs_sched_wake(ms);
                break false;
            }
            Turn::Idle => {
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

/// One step for the domain whose turn it is.
fn round(bench: &mut Bench, stop: u64) -> Turn {
    let roster = &mut bench.roster;
    let mut unseated = false;

    ALERTS.drain(|domid| {
        if !seat(roster, domid) {
            ALERTS.raise(domid);
            unseated = true;
        }
    });
    let turn = match bench.kept {
        Some((domid, _)) => Turn::Serve(domid),
        None => roster.next(ms()),
    };
    match turn {
        Turn::Serve(domid) => {
            let step = serve(domid, bench, stop);
            bench.roster.done(domid, step, ms());
        }
        _ if unseated => return Turn::Wait(NO_MEMORY_WAIT),
        _ => {}
    }
    turn
}

fn ms() -> u64 {
    ffi::xrs_sched_us() / 1000
}

/// `false`: there is no memory for its seat.
fn reserve(roster: &mut Roster<XSlice<Seat>>, domid: u32) -> bool {
    if domid >= roster.reach() {
        // A few at a time.
        let Some(more) = XSlice::new((domid as usize | 63).wrapping_add(1)) else {
            return false;
        };
        drop(roster.grow(more));
    }
    true
}

/// It may have something to do. `false`: there is no memory for a seat.
fn seat(roster: &mut Roster<XSlice<Seat>>, domid: u32) -> bool {
    reserve(roster, domid) && roster.alert(domid)
}

/// Have a seat before the domain runs, so that the memory for it is taken when it is
/// made. (Where somebody is at work, or there is no memory, it is had with its first
/// event.)
fn expect(domid: u16) {
    if !BUSY.swap(true, Ordering::Acquire) {
        // SAFETY: `BUSY` was won.
        let bench = unsafe { &mut *BENCH.0.get() };
        reserve(&mut bench.roster, domid.into());
        BUSY.store(false, Ordering::Release);
        // For somebody who was kept from work by this.
        if ffi::xrs_sched_is_pending() {
            ffi::xrs_sched_wake(1);
        }
    }
}

/// A step for this domain. (Not inlined, to keep the stack frames small.)
#[inline(never)]
fn serve(domid: u32, bench: &mut Bench, stop: u64) -> Step {
    let mut kept = bench.kept.take().map(|(_, act)| act);
    let domain = RcuDomain::with(domid);
    let d = domain.as_ref().map(RcuDomain::get);
    let found = d.and_then(|d| Some((d, state(d)?)));
    let Some((d, state)) = found.filter(|(_, state)| state.mode() != Mode::Off) else {
        if let Some(act) = kept {
            act.abandon(free);
        }
        return Step::Idle;
    };
    let now = ledger_time();
    let before = state.account.count(Counter::PagesCopied);
    let mut machine = XenDomain::in_background(d, stop);
    let next = {
        let mut locked = machine.lock();
        match &kept {
            Some(act) => Next::Act(act.region()),
            None if ffi::xrs_domain_dying(d) => Next::Idle,
            None => locked.next(now),
        }
    };

    match next {
        Next::Look(region) | Next::Act(region) => {
            let limits = Limits {
                defer: matches!(next, Next::Look(_)),
                ..tunables().limits(state.mode())
            };
            let scratch = &mut bench.scratch;
            let outcome = heal(&mut machine, scratch, &mut kept, region, limits, now);

            // If a block is emptied for it, it is for this region.
            if outcome == Outcome::Refused(Reason::NoMemory)
                && make_room(d, state, &mut scratch.plan, stop)
            {
                heal(&mut machine, scratch, &mut kept, region, limits, now);
            }
            bench.kept = kept.map(|act| (domid, act));
        }
        Next::Survey(gib) if !survey(&mut machine, gib, now) => return Step::Wait(NO_MEMORY_WAIT),
        Next::Grow(gib) if !grow(&mut machine, gib, now) => return Step::Wait(NO_MEMORY_WAIT),
        Next::Survey(_) | Next::Grow(_) | Next::Again => {}
        Next::Wait(time) => return Step::Wait(tunables().until(time)),
        Next::Idle => return Step::Idle,
    }
    let after = state.account.count(Counter::PagesCopied);
    Step::Worked(after.wrapping_sub(before))
}

/// See a GiB for the first time: which of its regions are broken? `false`: there is no
/// memory for a leaf.
fn survey(machine: &mut XenDomain<'_>, gib: u64, now: u64) -> bool {
    let Some(leaf) = XBox::zeroed() else {
        return false;
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
    true
}

/// Make the ledger's root long enough for `gib`. `false`: there is no memory.
fn grow(machine: &mut XenDomain<'_>, gib: u64, now: u64) -> bool {
    let Some(root) = XSlice::new(reach_for(gib) as usize) else {
        return false;
    };
    let old = machine.lock().book().map(|book| book.grow(root, now));

    drop(old);
    true
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
    let reach = last.0.wrapping_shr(GIB_SHIFT).saturating_add(1);
    let root = XSlice::new(reach.min(REACH_MAX) as usize);

    if let Some(state) = root.and_then(|root| XBox::new(State::new(d, root))) {
        let raw = state.into_raw();
        // SAFETY: it lives until `domain_destroy`, which comes after the last
        // lookup.
        let state = unsafe {
            ffi::xrs_domain_set_state(d, raw.cast());
            &*raw
        };
        expect(ffi::xrs_domain_id(d));
        listen(d, state);
    }
}
