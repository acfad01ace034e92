// SPDX-License-Identifier: GPL-2.0-only
//! The C functions of `helpers/*.c`, as `include/xen-rs.h` declares them.
//!
//! A `&Domain` is a domain that cannot be freed while the reference lives: the
//! caller of the hypercall, an RCU-locked one, or one whose p2m lock is held.
//! A function is safe here when that is all it needs.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, AtomicU64};

use p2m::frames::Pair;

use crate::hypercall::{DomctlCoalesce, MemoryExchange};

/// `struct domain`: only C looks inside.
#[repr(C)]
pub struct Domain(UnsafeCell<[u8; 0]>);

/// `struct page_info`, of which only the two reference counts are ours to
/// see. Its size and the offsets are checked by `contract.rs`.
#[repr(C)]
pub struct PageInfo {
    list: UnsafeCell<u64>,
    pub count_info: AtomicU64,
    pub type_info: AtomicU64,
    rest: UnsafeCell<u64>,
}

/// `struct xrs_pv`: two lists of pages, of which C knows the form; empty where all
/// is zero (`xen/mm.h: PAGE_LIST_HEAD_INIT`).
#[derive(Default)]
#[repr(C)]
pub struct PvLists([u64; 4]);

/// `struct xrs_knobs`, which C writes to at any time.
#[repr(C)]
pub struct Knobs {
    pub mode: AtomicU32,
    pub budget: AtomicU32,
    pub batch: AtomicU32,
    pub watermark: AtomicU32,
    pub cool_down: AtomicU32,
    pub share: AtomicU32,
    pub room: AtomicU32,
}

unsafe extern "C" {
    pub safe fn xrs_domain_translated(d: &Domain) -> bool;
    pub safe fn xrs_domain_facts(d: &Domain) -> u64;
    pub safe fn xrs_domain_id(d: &Domain) -> u16;
    pub safe fn xrs_domain_dying(d: &Domain) -> bool;
    pub safe fn xrs_domain_state(d: &Domain) -> *mut c_void;
    /// `state` outlives the domain's last lookup.
    pub fn xrs_domain_set_state(d: &Domain, state: *mut c_void);
    pub safe fn xrs_domain_set_events(d: &Domain, on: bool);
    pub safe fn xrs_domain_lock(domid: u32) -> *const Domain;
    pub safe fn xrs_domain_lock_from(domid: u32) -> *const Domain;
    pub safe fn xrs_domain_lock_owner(page: &PageInfo) -> *const Domain;
    /// `d` came from one of these and is not used again.
    pub fn xrs_domain_unlock(d: *const Domain);
    pub safe fn xrs_domain_crash(d: &Domain);

    /// `gfns` has room for `count`; not under the p2m lock.
    pub fn xrs_guest_read_extents(
        exch: *const MemoryExchange,
        out: bool,
        first: u64,
        count: u64,
        gfns: *mut u64,
    ) -> c_int;
    /// `frames` has `count`; no lock is held.
    pub fn xrs_guest_write_extents(
        exch: *const MemoryExchange,
        first: u64,
        count: u64,
        frames: *const u64,
    ) -> c_int;
    /// `from` has `bytes`; not under the p2m lock.
    pub fn xrs_guest_write(
        op: *const DomctlCoalesce,
        offset: u64,
        from: *const c_void,
        bytes: u64,
    ) -> c_int;

    pub safe fn xrs_heap_alloc(d: &Domain, order: u32, memflags: u32) -> u64;
    pub safe fn xrs_heap_alloc_at(d: &Domain, mfn: u64, memflags: u32) -> u64;
    /// A block that `xrs_heap_alloc` gave and that nobody owns.
    pub fn xrs_heap_free(mfn: u64, order: u32);
    /// Frozen frames of one owner that nothing maps, no TLB either.
    pub fn xrs_heap_free_frozen(mfn: u64, order: u32);
    /// The same for single pages of `d`, of which there are `nr`.
    pub fn xrs_heap_free_frozen_list(d: &Domain, pages: *const Pair, nr: u32);
    /// A block that `xrs_heap_alloc` gave and that nobody owns.
    pub fn xrs_heap_assign(d: &Domain, mfn: u64, order: u32) -> c_int;
    /// The same for single frames, of which `slots`, so many words, has a bit for each; none is
    /// assigned if it fails.
    pub fn xrs_heap_assign_places(d: &Domain, home: u64, slots: *const u64, words: u32) -> c_int;
    pub safe fn xrs_heap_account(d: &Domain, pages: u64);
    pub safe fn xrs_heap_available() -> u64;
    /// `mfn` is a valid frame.
    pub fn xrs_heap_node_flags(mfn: u64) -> u32;
    pub safe fn xrs_xzalloc(size: u64, align: u64) -> *mut c_void;
    /// `p` came from `xrs_xzalloc`.
    pub fn xrs_xfree(p: *mut c_void);

    /// `level` and `amd` have room; the p2m lock is held.
    pub fn xrs_iommu_root(d: &Domain, level: *mut u32, amd: *mut bool) -> u64;

    pub safe fn xrs_p2m_lock(d: &Domain);
    // The rest of p2m.c: this CPU holds the p2m lock.
    pub fn xrs_p2m_unlock(d: &Domain);
    pub fn xrs_p2m_flush_sync(d: &Domain);
    pub fn xrs_p2m_want_flush(d: &Domain);
    /// `table` is a table of this p2m that nothing leads to.
    pub fn xrs_p2m_free_table(d: &Domain, table: u64);
    pub fn xrs_p2m_get(d: &Domain, gfn: u64, p2mt: *mut u8, access: *mut u8, order: *mut u8)
    -> u64;
    pub fn xrs_p2m_set(d: &Domain, gfn: u64, mfn: u64, order: u32, p2mt: u8, access: u8) -> c_int;
    pub fn xrs_p2m_recalc(d: &Domain, gfn: u64) -> c_int;
    pub fn xrs_p2m_log_dirty_range(d: &Domain, first: u64, last: u64) -> bool;
    pub fn xrs_p2m_one_memory_type(d: &Domain, gfn: u64, mfn: u64, order: u32) -> bool;
    pub fn xrs_p2m_default_access(d: &Domain) -> u8;
    pub fn xrs_p2m_root(d: &Domain) -> u64;
    pub fn xrs_p2m_mark_dirty(d: &Domain, gfn: u64);
    pub safe fn xrs_p2m_max_gfn(d: &Domain) -> u64;
    pub safe fn xrs_p2m_is_ept() -> bool;
    pub safe fn xrs_p2m_exec_superpages(d: &Domain) -> bool;
    pub safe fn xrs_p2m_invalidate_mapcache(d: &Domain);
    /// `bad` has room for three; the p2m lock is not held.
    pub fn xrs_p2m_audit(d: &Domain, bad: *mut u64) -> c_int;

    pub safe static xrs_knobs: Knobs;

    pub safe fn xrs_page(mfn: u64) -> *const PageInfo;
    pub safe fn xrs_page_of(d: &Domain, mfn: u64, gfn: u64) -> *const PageInfo;
    pub safe fn xrs_page_end() -> u64;
    pub safe fn xrs_page_owner(page: &PageInfo) -> *const Domain;
    /// The caller has a reference and gives it up.
    pub fn xrs_page_put(page: &PageInfo);
    /// The caller has a reference, besides the one of PGC_allocated.
    pub fn xrs_page_put_alloc_ref(page: &PageInfo);
    pub safe fn xrs_page_m2p(mfn: u64) -> u64;
    /// If `mfn` is a frame, the p2m lock of its owner is held.
    pub fn xrs_page_set_m2p(mfn: u64, gfn: u64);
    // `nr` valid frames, the p2m lock of whose owner is held.
    pub fn xrs_page_freeze_all(d: &Domain, pages: *const Pair, nr: u32) -> u32;
    pub fn xrs_page_movable(d: &Domain, pages: *const Pair, nr: u32) -> u32;
    pub fn xrs_page_write_m2p(pages: *const Pair, nr: u32);
    pub fn xrs_page_clear_m2p(pages: *const Pair, nr: u32);
    /// Both are valid frames; nobody else writes to `to`.
    pub fn xrs_page_copy(to: u64, from: u64);
    /// The same for the places of `nr` pages in a block; nobody else writes to those.
    pub fn xrs_page_copy_to_places(home: u64, pages: *const Pair, nr: u32);
    /// `mfn` is a valid frame.
    pub fn xrs_page_map(mfn: u64) -> *const c_void;
    /// `va` came from `xrs_page_map`.
    pub fn xrs_page_unmap(va: *const c_void);

    pub safe fn xrs_pv_steal(d: &Domain, lists: &mut PvLists, mfn: u64) -> c_int;
    pub safe fn xrs_pv_restore(d: &Domain, lists: &mut PvLists);
    pub safe fn xrs_pv_release(d: &Domain, lists: &mut PvLists);
    pub safe fn xrs_pv_alloc(d: &Domain, lists: &mut PvLists, order: u32, memflags: u32) -> bool;
    /// All fresh blocks have this order.
    pub fn xrs_pv_free(lists: &mut PvLists, order: u32);
    /// `mfn` is INVALID_MFN or a fresh block.
    pub fn xrs_pv_next(lists: &PvLists, mfn: u64) -> u64;
    /// The same.
    pub fn xrs_pv_name_next(lists: &PvLists, mfn: u64, gpfn: u64) -> u64;
    /// All fresh blocks have this order.
    pub fn xrs_pv_assign(d: &Domain, lists: &mut PvLists, order: u32) -> c_int;
    pub safe fn xrs_pv_died(d: &Domain, lists: &mut PvLists, pages: u64);

    pub safe fn xrs_sched_preempt() -> bool;
    pub safe fn xrs_sched_softirq_pending() -> bool;
    pub safe fn xrs_sched_us() -> u64;
    pub safe fn xrs_sched_ticks() -> u64;
    pub safe fn xrs_sched_set_pending(pending: bool);
    pub safe fn xrs_sched_is_pending() -> bool;
    pub safe fn xrs_sched_wake(ms: u64);
    pub safe fn xrs_sched_sleep();

    pub safe fn xrs_check(holds: bool);
    pub safe fn xrs_perfc(event: u32, copied: u32);
    pub safe fn xrs_trace_on() -> bool;
    /// `words` has `bytes`.
    pub fn xrs_trace(event: u32, words: *const c_void, bytes: u32);
    #[cfg(target_os = "none")]
    pub safe fn xrs_bug() -> !;
}
