// SPDX-License-Identifier: GPL-2.0-only
//! The part of xen-coalesce that is linked into Xen: entry points, and the
//! core's traits implemented on Xen's interfaces. All unsafe code is here.
//!
//! C calls the `rs_*` functions below through `helpers/entry.c`, which aligns
//! the stack. They are called with the arguments that `include/xen-rs.h`
//! promises; nothing is checked twice.
#![cfg_attr(not(test), no_std)]

mod contract;
mod domain;
mod ffi;
mod hypercall;
mod memory;
mod pv;
mod room;
mod worker;

use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

use crate::domain::State;
use crate::ffi::Domain;
use crate::hypercall::{DomctlCoalesce, MemoryExchange};
use crate::memory::XBox;
use p2m::account::Cause;
use p2m::addr::Gfn;
use p2m::coalesce::books_balance;

/// While booting, before there is any domain.
#[unsafe(no_mangle)]
extern "C" fn rs_start() {
    hypercall::provide_scratch();
}

/// Idle vCPU context, no lock held.
#[unsafe(no_mangle)]
extern "C" fn rs_work() -> bool {
    worker::work()
}

/// Idle vCPU context of a CPU that a guest had to leave, no lock held.
#[unsafe(no_mangle)]
extern "C" fn rs_work_busy() {
    worker::work_busy();
}

/// Any context: may a guest be made to leave its CPU for us?
#[unsafe(no_mangle)]
extern "C" fn rs_disturbs() -> bool {
    worker::disturbs()
}

/// No lock held; nobody else uses the domain's state yet.
#[unsafe(no_mangle)]
extern "C" fn rs_domain_start(d: &Domain) {
    worker::domain_start(d);
}

/// The last reference to the domain is gone.
///
/// # Safety
/// `state` is what `rs_domain_start` hung on the domain.
#[unsafe(no_mangle)]
unsafe extern "C" fn rs_domain_destroy(state: *mut c_void) {
    // SAFETY: as the caller says; nobody looks at it any more.
    let state = unsafe { XBox::<State>::from_raw(state.cast()) };

    // Nobody is between the two sides of a law any more, either.
    if let Some(state) = &state {
        let account = &state.account;
        ffi::xrs_check(books_balance(account) && account.splits_balance());
    }
}

/// # Safety
/// `state` is the state of a domain whose p2m lock this CPU holds.
#[unsafe(no_mangle)]
unsafe extern "C" fn rs_event(state: &State, gfn: u64, order: u32, p2mt: u32) {
    // SAFETY: as the caller says.
    unsafe { hypercall::event(state, Gfn(gfn), order, p2mt as u8) }
}

/// # Safety
/// `state` is the state of `d`, whose p2m lock this CPU holds.
#[unsafe(no_mangle)]
unsafe extern "C" fn rs_split(d: &Domain, state: &State, gfn: u64, level: u32, cause: u32) {
    // SAFETY: as the caller says.
    unsafe { hypercall::split(d, state, Gfn(gfn), level, Cause::from_number(cause)) }
}

/// Hypercall context, no lock held, `d` referenced.
#[unsafe(no_mangle)]
extern "C" fn rs_place(d: &Domain, gfn: u64) -> u64 {
    hypercall::place(d, Gfn(gfn))
}

/// Hypercall context, no lock held, sizes checked, `d` referenced.
#[unsafe(no_mangle)]
extern "C" fn rs_exchange(
    d: &Domain,
    call: &mut MemoryExchange,
    memflags: u32,
    max_order: u32,
) -> c_int {
    hypercall::exchange(d, call, memflags, max_order)
}

/// Hypercall context, no lock held, `d` referenced.
#[unsafe(no_mangle)]
extern "C" fn rs_domctl(d: &Domain, op: &mut DomctlCoalesce) -> c_int {
    hypercall::domctl(d, op)
}

/// `state` is the state of `d`; the p2m lock is not held.
#[unsafe(no_mangle)]
extern "C" fn rs_count(d: &Domain, state: &State, index: u32) -> u64 {
    hypercall::count(d, state, index as usize)
}

/// `MODE_*`.
#[unsafe(no_mangle)]
extern "C" fn rs_get_mode(state: &State) -> u32 {
    state.mode.load(Ordering::Relaxed)
}

/// `state` is the state of `d`; the p2m lock is not held.
#[unsafe(no_mangle)]
extern "C" fn rs_set_mode(d: &Domain, state: &State, mode: u32) -> c_int {
    hypercall::set_mode(d, state, mode).err().unwrap_or(0)
}

/// No p2m lock held.
#[unsafe(no_mangle)]
extern "C" fn rs_mode_changed() {
    worker::mode_changed();
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    ffi::xrs_bug()
}
