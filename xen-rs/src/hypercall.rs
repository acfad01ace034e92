// SPDX-License-Identifier: GPL-2.0-only
//! The hypercalls: XENMEM_exchange, and
//! XEN_DOMCTL_coalesce.

use core::ffi::c_int;
use core::mem::size_of_val;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use arch::PAGE_SHIFT;
use p2m::account::{Cause, Counter, ENTRIES};
use p2m::addr::{Gfn, Order, Region};
use p2m::audit::{Audit, FINDINGS};
use p2m::coalesce::{self, Mode, heal};
use p2m::exchange::{Desk, End, Larger, Largest, Request, Scratch, run};
use p2m::ledger::Ledger;
use p2m::machine::{Locked, Machine};
use p2m::region::shape;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::domain::{MEMF_BITS, State, XenDomain, free, ledger_time, state, tunables};
use crate::ffi::{self, Domain, PvLists};
use crate::memory::XBox;
use crate::pv::PvDomain;

pub const MODE_DEFAULT: u32 = 0;
pub const MODE_OFF: u32 = 1;
pub const MODE_IN_PLACE: u32 = 2;
pub const MODE_FULL: u32 = 3;

pub const OP_SET_MODE: u32 = 0;
pub const OP_GET_INFO: u32 = 1;
pub const OP_GET_MAP: u32 = 2;
pub const OP_AUDIT: u32 = 3;
pub const OP_NOW: u32 = 4;

pub const EFAULT: i32 = -14;
pub const EINVAL: i32 = -22;
pub const ENODEV: i32 = -19;
pub const ENOMEM: i32 = -12;
pub const ESRCH: i32 = -3;
/// Xen's own: the hypercall is to be continued.
pub const ERESTART: i32 = -85;

/// `struct xen_memory_reservation` (public/memory.h).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reservation {
    pub extent_start: u64,
    pub nr_extents: u64,
    pub extent_order: u32,
    pub mem_flags: u32,
    pub domid: u16,
    pad: [u8; 6],
}

/// `struct xen_memory_exchange` (public/memory.h).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryExchange {
    pub input: Reservation,
    pub output: Reservation,
    pub nr_exchanged: u64,
}

/// `struct xen_domctl_coalesce` (public/domctl.h).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomctlCoalesce {
    pub op: u32,
    pub mode: u32,
    pub first_gfn: u64,
    pub nr: u32,
    pub pad: u32,
    pub buffer: u64,
}

/// Serve XENMEM_exchange for `d`; `nr_exchanged` is
/// advanced. 0, `-ERESTART`, or another `-errno`.
pub fn exchange(d: &Domain, call: &mut MemoryExchange, memflags: u32, max_order: u32) -> c_int {
    if !ffi::xrs_domain_translated(d) {
        return exchange_pv(d, call, memflags);
    }
    let memflags = within_memory(memflags);
    let request = Request::new(
        call.input.extent_order,
        call.output.extent_order,
        call.input.nr_extents,
        call.nr_exchanged,
        max_order,
    );
    let mut request = match request {
        Ok(request) => request,
        Err(errno) => return negative(errno as u16),
    };
    let mut machine = XenDomain {
        d,
        memflags,
        call: Some(call),
        background: None,
    };
    let pages = request.chunk_pages();
    let mut run = |desk: Desk<'_>| run(&mut machine, &mut request, desk);
    let end = match pages {
        ..=512 => take_scratch().map(|mut scratch| {
            let end = run(scratch.room.desk());
            keep_scratch(scratch);
            end
        }),
        // Larger chunks are for those whom `memop-max-order` lets have them.
        513..=4096 => XBox::<Larger>::zeroed().map(|mut room| run(room.desk())),
        _ => XBox::<Largest>::zeroed().map(|mut room| run(room.desk())),
    };
    let Some(end) = end else {
        return ENOMEM;
    };

    call.nr_exchanged = request.done();
    result(end)
}

/// The same flags for the heap, but for address bits that no frame has: it looks in
/// each zone that those allow (`common/page_alloc.c: get_free_buddy()`), and on most
/// machines much of what it costs to allocate a page would go into empty ones.
fn within_memory(memflags: u32) -> u32 {
    let last = ffi::xrs_page_end().saturating_sub(1);
    let most = (u64::BITS.wrapping_add(PAGE_SHIFT)).saturating_sub(last.leading_zeros());
    let wanted = match memflags >> MEMF_BITS {
        0 => most,
        some => some.min(most),
    };

    memflags & !(!0 << MEMF_BITS) | wanted << MEMF_BITS
}

fn result(end: End) -> c_int {
    match end {
        End::Done => 0,
        End::Preempted => ERESTART,
        End::Failed(errno) => negative(errno as u16),
    }
}

fn exchange_pv(d: &Domain, call: &mut MemoryExchange, memflags: u32) -> c_int {
    let request = Request::paravirt(
        call.input.extent_order,
        call.output.extent_order,
        call.input.nr_extents,
        call.nr_exchanged,
    );
    let mut request = match request {
        Ok(request) => request,
        Err(errno) => return negative(errno as u16),
    };
    let Some(mut scratch) = take_scratch() else {
        return ENOMEM;
    };
    let mut domain = PvDomain {
        d,
        memflags: within_memory(memflags),
        call,
        lists: PvLists::default(),
    };
    let end = p2m::pv::run(&mut domain, &mut request, &mut scratch.window);

    keep_scratch(scratch);
    call.nr_exchanged = request.done();
    result(end)
}

/// Memory for the next call, whichever domain it is of: to get it anew would
/// cost more than to exchange a page. Null while it is in use.
static SPARE: AtomicPtr<Scratch> = AtomicPtr::new(ptr::null_mut());

/// Before there is anybody to call: from then on there is one for them all, and
/// no call takes memory that it does not give back.
pub fn provide_scratch() {
    if SPARE.load(Ordering::Relaxed).is_null() {
        if let Some(scratch) = XBox::zeroed() {
            keep_scratch(scratch);
        }
    }
}

fn take_scratch() -> Option<XBox<Scratch>> {
    let spare = SPARE.swap(ptr::null_mut(), Ordering::Acquire);

    // SAFETY: it came from `keep_scratch`, and nobody else can have taken it.
    unsafe { XBox::from_raw(spare) }.or_else(XBox::zeroed)
}

fn keep_scratch(scratch: XBox<Scratch>) {
    let before = SPARE.swap(scratch.into_raw(), Ordering::AcqRel);

    // SAFETY: as above.
    drop(unsafe { XBox::<Scratch>::from_raw(before) });
}

/// The frame that would make the region around the hole `gfn` whole, or
/// INVALID_MFN.
pub fn place(d: &Domain, gfn: Gfn) -> u64 {
    XenDomain::new(d)
        .lock()
        .view(gfn.region(), |view| p2m::placement::wanted(gfn, view))
        .map_or(u64::MAX, |mfn| mfn.0)
}

fn negative(errno: u16) -> c_int {
    0i32.wrapping_sub(i32::from(errno))
}

/// Serve XEN_DOMCTL_coalesce. 0 or `-errno`.
pub fn domctl(d: &Domain, op: &mut DomctlCoalesce) -> c_int {
    let Some(state) = state(d) else {
        return ENODEV;
    };
    if op.pad != 0 {
        return EINVAL;
    }
    let result = match op.op {
        OP_SET_MODE => set_mode(d, state, op.mode),
        OP_GET_INFO => get_info(d, state, op),
        OP_GET_MAP => get_map(d, op),
        OP_AUDIT => audit(d, op),
        OP_NOW => now(d, state, op),
        _ => Err(EINVAL),
    };

    result.err().unwrap_or(0)
}

/// How far the coalescer may go with `d`: `MODE_*`.
pub fn set_mode(d: &Domain, state: &State, mode: u32) -> Result<(), c_int> {
    if mode > MODE_FULL {
        return Err(EINVAL);
    }
    state.mode.store(mode, Ordering::Relaxed);
    listen(d, state);
    Ok(())
}

/// Hear of p2m changes, or do not, as the mode has it. What happened while
/// nobody listened is found by surveying the domain anew.
pub fn listen(d: &Domain, state: &State) {
    let on = state.mode() != Mode::Off;
    let mut machine = XenDomain::new(d);
    let mut locked = machine.lock();

    ffi::xrs_domain_set_events(d, on);
    if let (true, Some(book)) = (on, locked.book()) {
        book.forget(ledger_time());
        state.alert();
    }
}

/// The counter at the public index `index`.
pub fn count(d: &Domain, state: &State, index: usize) -> u64 {
    if index == Counter::Queued as usize {
        XenDomain::new(d).lock().ledger().queued()
    } else {
        state.account.get(index)
    }
}

fn get_info(d: &Domain, state: &State, op: &mut DomctlCoalesce) -> Result<(), c_int> {
    let mut values = [0u64; ENTRIES];

    for (i, value) in values.iter_mut().enumerate() {
        *value = count(d, state, i);
    }
    let wanted = values.get(..op.nr as usize).unwrap_or(&values);
    write(op, 0, wanted.as_bytes())?;
    op.mode = state.mode.load(Ordering::Relaxed);
    op.nr = ENTRIES as u32;
    Ok(())
}

/// What a part of the p2m that was not interrupted looks like to the auditor; and
/// with the last part what Xen's own says, where it can be had.
fn audit(d: &Domain, op: &mut DomctlCoalesce) -> Result<(), c_int> {
    if !Order::REGION.aligns(op.first_gfn) {
        return Err(EINVAL);
    }
    let mut machine = XenDomain::new(d);
    let mut found = Audit::default();
    let mut values = [u64::MAX; FINDINGS + 3];
    let last = Gfn(ffi::xrs_p2m_max_gfn(d)).region();
    let mut at = Gfn(op.first_gfn).region();
    let mut looked = 0;

    while at <= last && looked < AUDIT_MAX && !(looked > 0 && machine.preempt()) {
        at = p2m::audit::region(&machine.lock(), at, &mut found);
        looked = u32::wrapping_add(looked, 1);
    }
    let done = at > last;

    for (value, count) in values.iter_mut().zip(found.0) {
        *value = count;
    }
    if done && machine.lock().auditable_by_xen() {
        let mut bad = [0u64; 3];
        // SAFETY: room for three; no lock is held.
        if unsafe { ffi::xrs_p2m_audit(d, bad.as_mut_ptr()) } == 0 {
            for (value, count) in values.iter_mut().skip(FINDINGS).zip(bad) {
                *value = count;
            }
        }
    }
    let wanted = values.get(..op.nr as usize).unwrap_or(&values);
    write(op, 0, wanted.as_bytes())?;
    op.nr = values.len() as u32;
    op.first_gfn = if done { u64::MAX } else { at.start().0 };
    Ok(())
}

/// Most regions for one call: 8 GiB of guest.
const REGIONS_MAX: u32 = 4096;

/// Most regions for one call of the auditor, each of up to 512 pages.
const AUDIT_MAX: u32 = 512;

fn check_range(op: &DomctlCoalesce) -> Result<(), c_int> {
    if op.nr == 0 || op.nr > REGIONS_MAX || !Order::REGION.aligns(op.first_gfn) {
        return Err(EINVAL);
    }
    Ok(())
}

/// Do at once what the worker would do in time, whatever cools down; and say for
/// each region what came of it.
fn now(d: &Domain, state: &State, op: &mut DomctlCoalesce) -> Result<(), c_int> {
    check_range(op)?;
    let mode = state.mode_or(op.mode).ok_or(EINVAL)?;
    let mut scratch = XBox::<coalesce::Scratch>::zeroed().ok_or(ENOMEM)?;
    let limits = tunables().limits(mode);
    let mut machine = XenDomain::new(d);
    let first = Gfn(op.first_gfn).region();
    let mut done = 0;

    while done < op.nr {
        let region = Region(first.0.wrapping_add(done.into()));
        let now = ledger_time();
        let mut kept = None;
        let outcome = heal(&mut machine, &mut scratch, &mut kept, region, limits, now);
        if let Some(act) = kept {
            act.abandon(free);
        }

        write(op, done.into(), &[outcome.index() as u8])?;
        done = done.wrapping_add(1);
        if machine.preempt() {
            break;
        }
    }
    op.nr = done;
    Ok(())
}

fn get_map(d: &Domain, op: &mut DomctlCoalesce) -> Result<(), c_int> {
    check_range(op)?;
    let mut machine = XenDomain::new(d);
    let first = Gfn(op.first_gfn).region();
    let mut shapes = [0u8; 64];
    let mut done = 0;

    while done < op.nr {
        let take = op.nr.saturating_sub(done).min(size_of_val(&shapes) as u32);
        let here = first.0.wrapping_add(done.into());

        for (region, out) in (here..u64::MAX).zip(shapes.iter_mut().take(take as usize)) {
            *out = machine.lock().view(Region(region), shape) as u8;
        }
        write(op, done.into(), shapes.get(..take as usize).unwrap_or(&[]))?;
        done = done.wrapping_add(take);
        if machine.preempt() {
            break;
        }
    }
    op.nr = done;
    Ok(())
}

fn write(op: &DomctlCoalesce, offset: u64, bytes: &[u8]) -> Result<(), c_int> {
    // SAFETY: the bytes are there; no lock is held.
    match unsafe { ffi::xrs_guest_write(op, offset, bytes.as_ptr().cast(), bytes.len() as u64) } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

/// A leaf was broken; the p2m lock is held.
///
/// # Safety
/// This CPU holds the p2m lock of `d`, of which `state` is.
pub unsafe fn split(d: &Domain, state: &State, gfn: Gfn, level: u32, cause: Cause) {
    use p2m::trace::{Event, Record};

    state.account.split(cause);
    // SAFETY: as the caller says.
    let book = unsafe { state.book() };
    match cause {
        Cause::Exec => book.executed(gfn.region()),
        // Not by an entry that is written, which would be told of; nor is its end.
        Cause::Type | Cause::LogDirty if level == 1 && state.mode() != Mode::Off => {
            book.touch(gfn.region(), ledger_time());
            state.alert();
        }
        _ => {}
    }
    let order = Order::new(level.wrapping_mul(arch::LEVEL_BITS)).unwrap_or(Order::PAGE);
    crate::domain::trace(
        d,
        Event::Split,
        Record::new(0, level as u8, gfn.align(order), None).pages(cause as u64, 0),
    );
}

/// An entry of `order` was written; the p2m lock is held.
///
/// # Safety
/// This CPU holds the p2m lock of the domain that `state` is of.
pub unsafe fn event(state: &State, gfn: Gfn, order: u32, p2mt: u8) {
    // SAFETY: as the caller says.
    let book = unsafe { state.book() };

    if order >= Order::REGION.log2() {
        book.settled(gfn.region());
    } else if p2mt == crate::domain::P2M_RAM_RW {
        book.touch(gfn.region(), ledger_time());
        state.alert();
    }
}
