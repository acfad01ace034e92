// SPDX-License-Identifier: GPL-2.0-only
//! A domain of Xen as the core's [`Machine`], and its p2m lock as a guard.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use arch::device::DeviceFormat;
use arch::{Entry, Format, LEVEL_BITS, Slot as PteSlot, Table};
use bitflags::bitflags;
use p2m::account::{Account, Reason};
use p2m::addr::{Gfn, Mfn, Order, Region};
use p2m::audit::{Books, Page, Root};
use p2m::coalesce::Mode;
use p2m::frames::{Detached, Flushed, Loss, Pair, Pending};
use p2m::ledger::{Book, Leaf, Ledger, Slot};
use p2m::machine::{Block, Errno, Facts, Holder, Kind, Locked, Lookup, Machine, Purpose, View};
use p2m::pace::Tunables;
use p2m::plan::Slots;
use p2m::room::Tenant;
use p2m::trace::{Event, Record, TRC_MEM_BASE};
use zerocopy::IntoBytes;

use crate::ffi::{self, Domain, PageInfo};
use crate::hypercall::{self, ENOMEM, MODE_DEFAULT, MODE_FULL, MODE_IN_PLACE, MODE_OFF};
use crate::memory::{XBox, XSlice};
use crate::worker;

pub const P2M_RAM_RW: u8 = 0;
pub const P2M_INVALID: u8 = 1;
pub const P2M_MMIO_DM: u8 = 4;
pub const P2M_POD: u8 = 6;
pub const INVALID_M2P: u64 = u64::MAX;
pub const PGT_COUNT_MASK: u64 = (1 << 55) - 1;
pub const MEMF_NO_DMA: u32 = 1 << 3;
/// Where the flags have the most bits that a frame's address may have; 0: any.
pub const MEMF_BITS: u32 = 24;
pub const MEMF_NO_SCRUB: u32 = 1 << 8;

const INVALID_MFN: u64 = u64::MAX;

bitflags! {
    /// `count_info` of a page (`asm/mm.h`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageCount: u64 {
        /// The domain's own reference, dropped when it gives the page up.
        const ALLOCATED = 1 << 63;
        const XEN_HEAP = 1 << 62;
        const EXTRA = 1 << 61;
        const STATE = crate::contract::PGC_STATE;
        const COUNT = crate::contract::PGC_COUNT_MASK;
        const _ = !0;
    }
}

/// Exactly one reference, the domain's own: what can be frozen.
const SOLE: u64 = PageCount::ALLOCATED.bits() | 1;

pub type XenBook = Book<XSlice<Slot<XBox<Leaf>>>>;

/// What is remembered of a domain; hangs on `d->arch.coalesce`.
pub struct State {
    pub account: Account,
    /// `MODE_*`.
    pub mode: AtomicU32,
    domid: u16,
    /// Protected by the domain's p2m lock.
    book: UnsafeCell<XenBook>,
}

/// For a domain for which there was no memory for a [`State`].
static NOBODY: Account = Account::new();

impl State {
    /// Of `d`.
    pub fn new(d: &Domain, root: XSlice<Slot<XBox<Leaf>>>) -> Self {
        State {
            account: Account::new(),
            mode: AtomicU32::new(MODE_DEFAULT),
            domid: ffi::xrs_domain_id(d),
            book: UnsafeCell::new(Book::new(root, ledger_time())),
        }
    }

    /// The ledger.
    ///
    /// # Safety
    /// This CPU holds the p2m lock of the state's domain, and no other
    /// reference to the ledger exists.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn book(&self) -> &mut XenBook {
        // SAFETY: the p2m lock protects it, says the caller.
        unsafe { &mut *self.book.get() }
    }

    /// There is something to do: have an idle CPU look at it soon.
    pub fn alert(&self) {
        worker::alert(self.domid);
    }

    /// How far the coalescer may go.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            MODE_DEFAULT => tunables().mode,
            own => named(own),
        }
    }

    /// The same, or as `mode` (`MODE_*`) says; `None`: it says nothing.
    pub fn mode_or(&self, mode: u32) -> Option<Mode> {
        match mode {
            MODE_DEFAULT => Some(self.mode()),
            MODE_OFF..=MODE_FULL => Some(named(mode)),
            _ => None,
        }
    }
}

/// What the operator has set.
pub fn tunables() -> Tunables {
    let knobs = &ffi::xrs_knobs;
    let value = |knob: &AtomicU32| u64::from(knob.load(Ordering::Relaxed));

    Tunables {
        mode: named(knobs.mode.load(Ordering::Relaxed)),
        budget_us: value(&knobs.budget),
        batch: value(&knobs.batch),
        watermark_pages: value(&knobs.watermark) / 4,
        cooldown_ms: value(&knobs.cool_down),
        busy_share_percent: value(&knobs.share),
        room_pages: value(&knobs.room),
    }
}

fn named(mode: u32) -> Mode {
    match mode {
        MODE_FULL => Mode::Full,
        MODE_IN_PLACE => Mode::InPlace,
        _ => Mode::Off,
    }
}

/// The state of `d`, if it has one.
pub fn state(d: &Domain) -> Option<&State> {
    let p = ffi::xrs_domain_state(d).cast_const().cast::<State>();

    // SAFETY: it was set by `domain_start` and is freed after the last
    // reference to the domain is gone.
    unsafe { p.as_ref() }
}

/// The time as the ledger counts it.
pub fn ledger_time() -> u64 {
    tunables().ledger_time(ffi::xrs_sched_us() / 1000)
}

/// What is dropped instead of ended must not exist: nothing defines this
/// symbol, so the link fails if the compiler cannot prove that no path leads
/// here.
pub struct Unreachable;

impl Loss for Unreachable {
    fn lost(_: &'static str) {
        unsafe extern "C" {
            safe fn xrs_frames_or_flush_dropped_without_being_ended();
        }
        xrs_frames_or_flush_dropped_without_being_ended();
    }
}

/// A domain, its p2m not locked.
pub struct XenDomain<'d> {
    pub d: &'d Domain,
    /// Flags for the outputs of an exchange.
    pub memflags: u32,
    /// The call that is served, if it is one.
    pub call: Option<&'d hypercall::MemoryExchange>,
    /// This is the worker's, up to that time (µs) at most: everything else comes
    /// first.
    pub background: Option<u64>,
}

impl<'d> XenDomain<'d> {
    pub fn new(d: &'d Domain) -> Self {
        XenDomain {
            d,
            memflags: 0,
            call: None,
            background: None,
        }
    }

    /// For the worker, up to the time `stop` (µs).
    pub fn in_background(d: &'d Domain, stop: u64) -> Self {
        XenDomain {
            background: Some(stop),
            ..Self::new(d)
        }
    }
}

impl XenDomain<'_> {
    /// The allocator's flags for a block of `order`; `None` where the heap is
    /// too low for that purpose.
    fn flags(&self, order: Order, purpose: Purpose) -> Option<u32> {
        match purpose {
            Purpose::Expose => Some(self.memflags),
            Purpose::Overwrite(near) => self.flags_near(near, order.pages()),
        }
    }

    /// The same for `pages` that will be overwritten.
    fn flags_near(&self, near: Mfn, pages: u64) -> Option<u32> {
        if !tunables().may_take(pages, ffi::xrs_heap_available()) || page(near).is_none() {
            return None;
        }
        // SAFETY: `near` is a valid frame, as was just seen.
        let node = unsafe { ffi::xrs_heap_node_flags(near.0) };
        Some(MEMF_NO_DMA | MEMF_NO_SCRUB | node)
    }
}

impl Machine for XenDomain<'_> {
    type Loss = Unreachable;
    type Locked<'a>
        = P2mGuard<'a>
    where
        Self: 'a;

    fn lock(&mut self) -> P2mGuard<'_> {
        ffi::xrs_p2m_lock(self.d);
        P2mGuard {
            d: self.d,
            tables: Tables::default(),
        }
    }

    fn alloc(&mut self, order: Order, purpose: Purpose) -> Option<Block> {
        let flags = self.flags(order, purpose)?;
        let mfn = ffi::xrs_heap_alloc(self.d, order.log2(), flags);

        (mfn != INVALID_MFN).then(|| Block::from_allocator(Mfn(mfn), order))
    }

    fn alloc_at(&mut self, mfn: Mfn, purpose: Purpose) -> Option<Block> {
        let flags = self.flags(Order::PAGE, purpose)?;
        let mfn = ffi::xrs_heap_alloc_at(self.d, mfn.0, flags & !MEMF_NO_DMA);

        (mfn != INVALID_MFN).then(|| Block::from_allocator(Mfn(mfn), Order::PAGE))
    }

    fn alloc_places(&mut self, home: Mfn, slots: Slots) -> Slots {
        let mut got = Slots::default();

        if slots.is_empty() {
            return got;
        }
        // Once for all of them.
        if let Some(flags) = self.flags_near(home, slots.count()) {
            for slot in slots.iter() {
                let frame = home.add(slot).0;
                if ffi::xrs_heap_alloc_at(self.d, frame, flags & !MEMF_NO_DMA) == frame {
                    got.insert(slot);
                }
            }
        }
        got
    }

    fn places(&self) -> bool {
        state(self.d).is_some_and(|s| s.mode() != Mode::Off)
    }

    fn free(&mut self, block: Block) {
        free(block);
    }

    fn free_retired(&mut self, mfn: Mfn, order: Order) {
        // SAFETY: frozen, unmapped and flushed, as `Retired` proves.
        unsafe { ffi::xrs_heap_free_frozen(mfn.0, order.log2()) }
    }

    fn free_retired_pages(&mut self, pages: &[Pair]) {
        // SAFETY: frozen, unmapped and flushed, as `Retired` proves; and there are
        // so many.
        unsafe { ffi::xrs_heap_free_frozen_list(self.d, pages.as_ptr(), pages.len() as u32) }
    }

    fn preempt(&mut self) -> bool {
        ffi::xrs_sched_preempt()
    }

    fn interrupted(&mut self) -> bool {
        // A hypercall looks between regions, which are small enough.
        self.background
            .is_some_and(|stop| ffi::xrs_sched_softirq_pending() || ffi::xrs_sched_us() >= stop)
    }

    fn trace(&mut self, event: Event, record: Record) {
        trace(self.d, event, record);
    }

    fn account(&self) -> &Account {
        state(self.d).map_or(&NOBODY, |s| &s.account)
    }

    fn ticks(&self) -> u64 {
        ffi::xrs_sched_ticks()
    }
}

impl p2m::exchange::Caller for XenDomain<'_> {
    fn read(
        &mut self,
        side: p2m::exchange::Side,
        first: u64,
        gfns: &mut [u64],
    ) -> Result<(), Errno> {
        let Some(call) = self.call else {
            return Err(Errno::Fault);
        };
        let out = side == p2m::exchange::Side::Out;

        // SAFETY: room for so many; this is an unlocked machine.
        match unsafe {
            ffi::xrs_guest_read_extents(call, out, first, gfns.len() as u64, gfns.as_mut_ptr())
        } {
            0 => Ok(()),
            _ => Err(Errno::Fault),
        }
    }
}

/// Give `block`, which no domain ever owned, back to the heap.
pub fn free(block: Block) {
    // SAFETY: a block is what the allocator gave, until it is assigned.
    unsafe { ffi::xrs_heap_free(block.mfn().0, block.order().log2()) }
}

/// Write a trace record of `d`.
pub fn trace(d: &Domain, event: Event, record: Record) {
    let copied = match event {
        Event::Complete | Event::Migrate => record.copied.into(),
        _ => 0,
    };

    ffi::xrs_perfc(event as u32, copied);
    if ffi::xrs_trace_on() {
        let record = Record {
            domid: ffi::xrs_domain_id(d),
            ..record
        };
        let bytes = record.as_bytes();

        // SAFETY: the bytes of a record.
        unsafe {
            ffi::xrs_trace(
                TRC_MEM_BASE.wrapping_add(event as u32),
                bytes.as_ptr().cast(),
                bytes.len() as u32,
            );
        }
    }
}

/// The page at `mfn`.
pub fn page(mfn: Mfn) -> Option<&'static PageInfo> {
    // SAFETY: the frame table is never freed, and what we look at in it is
    // atomic.
    unsafe { ffi::xrs_page(mfn.0).as_ref() }
}

/// What the frame `mfn` is at a glance, and whose: to be compared, not to be used, for
/// nothing keeps it from going away.
pub fn tenant(mfn: Mfn) -> (Tenant, *const Domain) {
    let Some(page) = page(mfn) else {
        return (Tenant::Stuck, core::ptr::null());
    };
    let count = page.count_info.load(Ordering::Relaxed);

    if PageCount::from_bits_retain(count).contains(PageCount::STATE) {
        (Tenant::Free, core::ptr::null())
    } else if count == SOLE && page.type_info.load(Ordering::Relaxed) & PGT_COUNT_MASK == 0 {
        (Tenant::Movable, ffi::xrs_page_owner(page))
    } else {
        (Tenant::Stuck, core::ptr::null())
    }
}

/// Why a page with this `count_info` cannot be frozen.
fn immovable(count: u64) -> Reason {
    let special = PageCount::XEN_HEAP | PageCount::EXTRA;

    match count {
        0 => Reason::Vanished,
        count if PageCount::from_bits_retain(count).intersects(special) => Reason::Special,
        _ => Reason::Pinned,
    }
}

/// A page table page, mapped.
///
/// # Invariants
/// `va` came from `xrs_page_map`; the p2m lock is held, so the table stays.
struct Mapped<'a>(&'a Table);

impl Mapped<'_> {
    /// # Safety
    /// The p2m lock is held, and `frame` was found in the page table just now.
    unsafe fn new(frame: u64) -> Self {
        // SAFETY: page tables consist of valid frames, of 512 entries each.
        Mapped(unsafe { &*ffi::xrs_page_map(frame).cast::<Table>() })
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // SAFETY: the type's invariants.
        unsafe { ffi::xrs_page_unmap((&raw const *self.0).cast()) }
    }
}

/// The p2m write lock of a domain; dropping it unlocks.
///
/// # Invariants
/// This CPU holds the lock.
pub struct P2mGuard<'d> {
    d: &'d Domain,
    tables: Tables,
}

/// Where the tables of some regions were found in this hold of the lock, so
/// that a look at one page after another of them need not start from the root.
///
/// # Invariants
/// A table that is noted is in use: whatever could replace one, [`P2mGuard::set`] and
/// [`Locked::conclude`], forgets them all.
#[derive(Default)]
struct Tables([Option<(Region, u64)>; 8]);

impl Tables {
    fn place(&mut self, region: Region) -> Option<&mut Option<(Region, u64)>> {
        let places = self.0.len() as u64;

        self.0.get_mut(region.0.checked_rem(places)? as usize)
    }
}

impl Drop for P2mGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: the type's invariants.
        unsafe { ffi::xrs_p2m_unlock(self.d) }
    }
}

fn format() -> Format {
    if ffi::xrs_p2m_is_ept() {
        Format::Ept
    } else {
        Format::Npt
    }
}

impl P2mGuard<'_> {
    fn set(&mut self, gfn: Gfn, mfn: u64, order: Order, p2mt: u8, access: u8) -> Result<(), Errno> {
        if order > Order::PAGE {
            self.tables = Tables::default();
        }
        // SAFETY: the lock is held.
        match unsafe { ffi::xrs_p2m_set(self.d, gfn.0, mfn, order.log2(), p2mt, access) } {
            0 => Ok(()),
            ENOMEM => Err(Errno::Nomem),
            // A gfn that the table cannot hold.
            _ => Err(Errno::Inval),
        }
    }

    /// The same where failing would mean that memory was already taken away.
    fn must_set(&mut self, gfn: Gfn, mfn: u64, order: Order, p2mt: u8, access: u8) {
        if self.set(gfn, mfn, order, p2mt, access).is_err() {
            ffi::xrs_domain_crash(self.d);
        }
    }

    fn recalc(&mut self, gfn: Gfn) {
        // SAFETY: the lock is held. An error leaves the mark in place, which
        // the next look at the entry finds.
        let _ = unsafe { ffi::xrs_p2m_recalc(self.d, gfn.0) };
    }

    /// The slot of `level` that leads to `gfn`, and whether a recalculation is
    /// pending above it; or the larger leaf or hole that it lies in.
    fn walk(&self, gfn: Gfn, level: u32) -> Option<(PteSlot, bool)> {
        // SAFETY: the lock is held.
        let mut frame = unsafe { ffi::xrs_p2m_root(self.d) };
        let mut pending = false;
        let mut at = 4;

        if frame == INVALID_MFN {
            return None;
        }
        loop {
            // SAFETY: the lock is held, and the frame was found just now.
            let table = unsafe { Mapped::new(frame) };
            let shift = LEVEL_BITS.wrapping_mul(u32::wrapping_sub(at, 1));
            let slot = format().decode(table.0.entry(gfn.0.wrapping_shr(shift)), at);

            match slot {
                PteSlot::Table {
                    frame: next,
                    recalc,
                } if at > level => {
                    pending |= recalc;
                    frame = next;
                    at = u32::wrapping_sub(at, 1);
                }
                _ => return Some((slot, pending)),
            }
        }
    }

    /// The table of a region of 4 KiB entries of which no type has to be
    /// recalculated.
    fn table(&mut self, region: Region) -> Option<Mapped<'_>> {
        let found = self.tables.place(region).and_then(|p| *p);
        let frame = match found {
            Some((there, frame)) if there == region => frame,
            _ => {
                // A walk takes no more bits than the table has levels for.
                if region.start().0 > ffi::xrs_p2m_max_gfn(self.d) {
                    return None;
                }
                let (PteSlot::Table { frame, recalc }, pending) = self.walk(region.start(), 2)?
                else {
                    return None;
                };
                if recalc || pending {
                    return None;
                }
                if let Some(place) = self.tables.place(region) {
                    *place = Some((region, frame));
                }
                frame
            }
        };
        // SAFETY: the lock is held, and the frame was found in this hold of it.
        Some(unsafe { Mapped::new(frame) })
    }

    /// What [`Locked::lookup`] says, if it is plain to see: RAM or nothing, in a
    /// table of 4 KiB entries.
    fn glance(&mut self, gfn: Gfn) -> Option<Lookup> {
        let entry = self.table(gfn.region())?.0.entry(gfn.0);
        let kind = match format().decode(entry, 1) {
            PteSlot::Leaf(leaf) if leaf.sw_type == P2M_RAM_RW && !leaf.recalc => {
                Kind::Ram(Mfn(leaf.frame))
            }
            PteSlot::Absent { .. } if format().is_empty(entry) => Kind::Hole,
            _ => return None,
        };

        Some(Lookup {
            kind,
            order: Order::PAGE,
            access: format().access(entry),
        })
    }

    /// The 2 MiB slots of a GiB, if it has a table of them.
    fn slots(&self, gib: u64, mut found: impl FnMut(Region, PteSlot)) {
        let first = Region(gib.wrapping_shl(LEVEL_BITS));

        if let Some((PteSlot::Table { frame, .. }, _)) = self.walk(first.start(), 3) {
            // SAFETY: the lock is held, and the frame was found just now.
            let table = unsafe { Mapped::new(frame) };

            for (i, entry) in (0..arch::ENTRIES as u64).zip(table.0.entries()) {
                found(Region(first.0.wrapping_add(i)), format().decode(entry, 2));
            }
        }
    }

    /// Does any 2 MiB entry of this GiB lead to a table?
    pub fn broken_regions(&self, gib: u64, mut found: impl FnMut(Region)) {
        self.slots(gib, |region, slot| {
            if matches!(slot, PteSlot::Table { .. }) {
                found(region);
            }
        });
    }

    /// Xen's auditor can cope with this table. The one for NPT asserts that every
    /// entry maps a valid frame, which MMIO is not, and that none maps 1 GiB
    /// (`p2m-pt.c: p2m_pt_audit_p2m()`); for EPT there is none.
    pub fn auditable_by_xen(&self) -> bool {
        if format() == Format::Ept {
            return true;
        }
        let last = ffi::xrs_p2m_max_gfn(self.d);
        let gibs = 0..=last.wrapping_shr(Order::GIB.log2());

        gibs.into_iter().all(|gib| {
            let gfn = Gfn(gib.wrapping_shl(Order::GIB.log2()));
            let mut fine = !matches!(self.walk(gfn, 3), Some((PteSlot::Leaf(_), _)));

            self.slots(gib, |_, slot| match slot {
                PteSlot::Leaf(leaf) => fine &= page(Mfn(leaf.frame)).is_some(),
                PteSlot::Absent { .. } => (),
                PteSlot::Table { frame, .. } => {
                    // SAFETY: the lock is held, and the frame was found just now.
                    let table = unsafe { Mapped::new(frame) };

                    fine &= table.0.entries().all(|e| match format().decode(e, 1) {
                        PteSlot::Leaf(leaf) => page(Mfn(leaf.frame)).is_some(),
                        _ => true,
                    });
                }
            });
            fine
        })
    }

    /// The page at `mfn`, if it is an ordinary one of this domain, and there is
    /// nothing about it that only time could change.
    fn plain(&mut self, gfn: Gfn, mfn: Mfn) -> Result<&'static PageInfo, Reason> {
        // SAFETY: the frame table is never freed, and what we look at in it is
        // atomic.
        let page = unsafe { ffi::xrs_page_of(self.d, mfn.0, gfn.0).as_ref() };
        let page = page.ok_or(Reason::Special)?;

        if page.type_info.load(Ordering::Acquire) & PGT_COUNT_MASK != 0 {
            // One of Xen's own has a type, too.
            return Err(match immovable(page.count_info.load(Ordering::Relaxed)) {
                Reason::Special => Reason::Special,
                _ => Reason::TypePinned,
            });
        }
        Ok(page)
    }

    /// The ledger, if the domain has one.
    pub fn book(&mut self) -> Option<&mut XenBook> {
        // SAFETY: the lock is held, and we are borrowed for as long as the
        // ledger is.
        state(self.d).map(|s| unsafe { s.book() })
    }
}

/// For the auditor: nothing of this changes while the lock is held. What maps
/// memory for devices is changed along with the p2m only.
impl Books for P2mGuard<'_> {
    fn tables(&self) -> Option<Root<Format>> {
        // SAFETY: the lock is held.
        let frame = unsafe { ffi::xrs_p2m_root(self.d) };

        (frame != INVALID_MFN).then_some(Root {
            frame,
            level: 4,
            format: format(),
        })
    }

    fn device_tables(&self) -> Option<Root<DeviceFormat>> {
        let (mut level, mut amd) = (0, false);
        // SAFETY: the lock is held, and there is room.
        let frame = unsafe { ffi::xrs_iommu_root(self.d, &mut level, &mut amd) };

        (frame != INVALID_MFN).then_some(Root {
            frame,
            level,
            format: if amd {
                DeviceFormat::Amd
            } else {
                DeviceFormat::Vtd
            },
        })
    }

    fn read<R>(&self, frame: u64, f: impl FnOnce(&Table) -> R) -> Option<R> {
        page(Mfn(frame))?;
        // SAFETY: a valid frame, and while the lock is held no table goes away.
        let table = unsafe { Mapped::new(frame) };

        Some(f(table.0))
    }

    fn page(&self, mfn: Mfn) -> Option<Page> {
        let found = page(mfn)?;
        let count = PageCount::from_bits_retain(found.count_info.load(Ordering::Relaxed));
        let gfn = ffi::xrs_page_m2p(mfn.0);

        Some(Page {
            owned: core::ptr::eq(ffi::xrs_page_owner(found), self.d),
            allocated: count.contains(PageCount::ALLOCATED) && count.intersects(PageCount::COUNT),
            xen_heap: count.contains(PageCount::XEN_HEAP),
            gfn: (gfn != INVALID_M2P).then_some(Gfn(gfn)),
        })
    }
}

/// Where there is no state there is no ledger, and nothing to remember.
impl Ledger for P2mGuard<'_> {
    fn touch(&mut self, region: Region, now: u64) {
        if let Some(book) = self.book() {
            book.touch(region, now);
        }
    }

    fn settled(&mut self, region: Region) {
        if let Some(book) = self.book() {
            book.settled(region);
        }
    }

    fn healed(&mut self, region: Region) {
        if let Some(book) = self.book() {
            book.healed(region);
        }
    }

    fn retry(&mut self, region: Region, now: u64) {
        if let Some(book) = self.book() {
            book.retry(region, now);
        }
    }

    fn defer(&mut self, region: Region, copies: u64, now: u64) -> bool {
        self.book()
            .is_some_and(|book| book.defer(region, copies, now))
    }

    fn next(&mut self, now: u64) -> p2m::ledger::Next {
        self.book().map_or(p2m::ledger::Next::Idle, |b| b.next(now))
    }

    fn executed(&mut self, region: Region) {
        if let Some(book) = self.book() {
            book.executed(region);
        }
    }

    fn is_executed(&mut self, region: Region) -> bool {
        self.book().is_some_and(|book| book.is_executed(region))
    }

    fn queued(&self) -> u64 {
        // SAFETY: the lock is held, and the reference does not leave.
        state(self.d).map_or(0, |s| unsafe { s.book() }.queued())
    }
}

impl Locked for P2mGuard<'_> {
    type Loss = Unreachable;

    fn facts(&self) -> Facts {
        Facts::from_bits_truncate(ffi::xrs_domain_facts(self.d))
    }

    fn lookup(&mut self, gfn: Gfn) -> Lookup {
        if let Some(found) = self.glance(gfn) {
            return found;
        }

        let (mut p2mt, mut access, mut order) = (0, 0, 0);
        // SAFETY: the lock is held.
        let mfn = unsafe { ffi::xrs_p2m_get(self.d, gfn.0, &mut p2mt, &mut access, &mut order) };
        let kind = match p2mt {
            P2M_RAM_RW if mfn != INVALID_MFN => Kind::Ram(Mfn(mfn)),
            P2M_INVALID | P2M_MMIO_DM => Kind::Hole,
            P2M_POD => Kind::Reserved,
            _ => Kind::Other,
        };

        // Above the highest gfn ever mapped, get_entry() tells an order of 0
        // where there is no table at all.
        let order = if gfn.0 > ffi::xrs_p2m_max_gfn(self.d) {
            Order::GIB
        } else {
            Order::new(order.into()).unwrap_or(Order::PAGE)
        };

        Lookup {
            kind,
            order,
            access,
        }
    }

    fn view<R>(&mut self, region: Region, f: impl FnOnce(View<'_>) -> R) -> R {
        let gfn = region.start();
        let mut found = self.walk(gfn, 2);

        if let Some((_, true)) = found {
            self.recalc(gfn);
            found = self.walk(gfn, 2);
        }
        match found {
            None => f(View::Nothing),
            Some((PteSlot::Table { frame, .. }, _)) => {
                // SAFETY: the lock is held, and the frame was found just now.
                let table = unsafe { Mapped::new(frame) };
                f(View::Table(format(), table.0))
            }
            Some((slot, _)) => f(View::Big(slot)),
        }
    }

    fn recalculate(&mut self, region: Region) {
        for i in 0..p2m::addr::REGION_PAGES {
            self.recalc(region.start().add(i));
        }
    }

    fn log_dirty_range(&mut self, region: Region) -> bool {
        let first = region.start();
        let last = first.add(p2m::addr::REGION_PAGES.wrapping_sub(1));

        // SAFETY: the lock is held.
        unsafe { ffi::xrs_p2m_log_dirty_range(self.d, first.0, last.0) }
    }

    fn view_gib<R>(&mut self, gfn: Gfn, f: impl FnOnce(View<'_>) -> R) -> R {
        match self.walk(gfn, 3) {
            Some((PteSlot::Table { frame, .. }, false)) => {
                // SAFETY: the lock is held, and the frame was found just now.
                let table = unsafe { Mapped::new(frame) };
                f(View::Table(format(), table.0))
            }
            Some((slot, _)) => f(View::Big(slot)),
            None => f(View::Nothing),
        }
    }

    fn one_memory_type(&mut self, gfn: Gfn, mfn: Mfn, order: Order) -> bool {
        // SAFETY: the lock is held.
        unsafe { ffi::xrs_p2m_one_memory_type(self.d, gfn.0, mfn.0, order.log2()) }
    }

    fn freeze(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason> {
        let page = self.plain(gfn, mfn)?;

        match page
            .count_info
            .compare_exchange(SOLE, 0, Ordering::AcqRel, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(count) => Err(immovable(count)),
        }
    }

    fn freeze_all(&mut self, pages: &[Pair]) -> (u64, Result<(), Reason>) {
        let mut done = 0;

        loop {
            let rest = pages.get(done..).unwrap_or(&[]);
            // SAFETY: frames that the page table maps; the lock is held.
            let frozen = unsafe {
                ffi::xrs_page_freeze_all(self.d, rest.as_ptr(), rest.len() as u32) as usize
            };

            done = usize::wrapping_add(done, frozen);
            let Some(page) = pages.get(done) else {
                return (done as u64, Ok(()));
            };
            // Why not; or now it can be.
            if let Err(reason) = self.freeze(page.gfn(), page.mfn()) {
                return (done as u64, Err(reason));
            }
            done = usize::wrapping_add(done, 1);
        }
    }

    fn thaw(&mut self, mfn: Mfn) {
        if let Some(page) = page(mfn) {
            // One reference more than before, for what follows. Bits that say
            // that the page is to go offline may have come meanwhile.
            page.count_info
                .fetch_add(SOLE.wrapping_add(1), Ordering::SeqCst);

            // A full barrier lies between this and domain_kill()'s writing
            // of it, followed by its look at the count: if it found 0, we find
            // the domain dying.
            if ffi::xrs_domain_dying(self.d) {
                // SAFETY: we have a reference of our own.
                unsafe { ffi::xrs_page_put_alloc_ref(page) };
            }
            // SAFETY: it is the one that was added.
            unsafe { ffi::xrs_page_put(page) };
        }
    }

    fn default_access(&self) -> u8 {
        // SAFETY: the lock is held.
        unsafe { ffi::xrs_p2m_default_access(self.d) }
    }

    fn m2p(&mut self, mfn: Mfn) -> Option<Gfn> {
        let gfn = ffi::xrs_page_m2p(mfn.0);

        (gfn != INVALID_M2P).then_some(Gfn(gfn))
    }

    fn set_m2p(&mut self, mfn: Mfn, gfn: Option<Gfn>) {
        // SAFETY: it is a frame of this domain, whose lock is held.
        unsafe { ffi::xrs_page_set_m2p(mfn.0, gfn.map_or(INVALID_M2P, |g| g.0)) }
    }

    fn clear_m2p(&mut self, pages: &[Pair]) {
        // SAFETY: they are frames of this domain, whose lock is held.
        unsafe { ffi::xrs_page_clear_m2p(pages.as_ptr(), pages.len() as u32) }
    }

    fn split(&mut self, gfn: Gfn, mfn: Mfn, order: Order, access: u8) -> Result<(), Errno> {
        self.set(gfn, mfn.0, order, P2M_RAM_RW, access)
    }

    fn reserve(&mut self, gfn: Gfn, order: Order) -> Result<(), Errno> {
        let access = self.default_access();

        self.set(gfn, INVALID_MFN, order, P2M_POD, access)
    }

    fn unreserve(&mut self, gfn: Gfn, order: Order) {
        let access = self.default_access();

        self.must_set(gfn, INVALID_MFN, order, P2M_INVALID, access);
    }

    fn zap(&mut self, _: &mut Pending<Unreachable>, gfn: Gfn, order: Order) {
        self.unreserve(gfn, order);
    }

    fn detach(
        &mut self,
        _: &mut Pending<Unreachable>,
        region: Region,
    ) -> Option<Detached<Unreachable>> {
        let Some((PteSlot::Table { frame, .. }, _)) = self.walk(region.start(), 3) else {
            return None;
        };
        // SAFETY: the lock is held, and the frame was found just now.
        let table = unsafe { Mapped::new(frame) };
        let entry = table.0.entry(region.0);

        if !matches!(format().decode(entry, 2), PteSlot::Table { .. }) {
            return None;
        }
        table.0.set(region.0, Entry::WAIT);
        // SAFETY: the lock is held.
        unsafe { ffi::xrs_p2m_want_flush(self.d) };
        Some(Detached::new(region, entry))
    }

    fn redirect(&mut self, table: &Detached<Unreachable>, pages: &[Pair], which: &Slots) {
        // SAFETY: the lock is held; the table waits to be put back.
        let table = unsafe { Mapped::new(table.entry().frame()) };

        for pairs in which.stretches(pages) {
            for pair in pairs {
                let (slot, mfn) = (pair.gfn().0, pair.mfn());

                table.0.set(slot, table.0.entry(slot).with_frame(mfn.0));
            }
            // SAFETY: they are frames of this domain, whose lock is held.
            unsafe { ffi::xrs_page_write_m2p(pairs.as_ptr(), pairs.len() as u32) };
        }
    }

    fn attach(&mut self, table: Detached<Unreachable>) {
        let region = table.region();

        if let Some((PteSlot::Table { frame, .. }, _)) = self.walk(region.start(), 3) {
            // SAFETY: the lock is held, and the frame was found just now.
            unsafe { Mapped::new(frame) }.0.set(region.0, table.entry());
        } else {
            // Nobody could take it away, for the lock was held all the time.
            ffi::xrs_domain_crash(self.d);
        }
        table.ended();
    }

    fn conclude(
        &mut self,
        _: &mut Pending<Unreachable>,
        table: Detached<Unreachable>,
        mfn: Mfn,
        access: u8,
    ) -> Result<(), Errno> {
        let region = table.region();
        let gfn = region.start();
        let written = match self.walk(gfn, 3) {
            // What p2m_set_entry() would write, which looks at the type of each page of
            // the domain that has devices; here the entries tell.
            Some((PteSlot::Table { frame, .. }, _))
                if self.one_memory_type(gfn, mfn, Order::REGION) =>
            {
                // SAFETY: the lock is held; the table waits to be put back.
                let entries = unsafe { Mapped::new(table.entry().frame()) };
                let executable = ffi::xrs_p2m_exec_superpages(self.d);
                let first = entries.0.entry(0).with_frame(mfn.0);
                let leaf = format().superpage(first, executable);

                self.tables = Tables::default();
                // SAFETY: the lock is held, and the frame was found just now.
                unsafe { Mapped::new(frame) }.0.set(region.0, leaf);
                Ok(())
            }
            _ => self.set(gfn, mfn.0, Order::REGION, P2M_RAM_RW, access),
        };

        match written {
            Ok(()) => {
                // SAFETY: the lock is held, and nothing leads to the table.
                unsafe { ffi::xrs_p2m_free_table(self.d, table.entry().frame()) };
                table.ended();
                Ok(())
            }
            Err(errno) => {
                self.attach(table);
                Err(errno)
            }
        }
    }

    fn hide_page(&mut self, _: &mut Pending<Unreachable>, gfn: Gfn) {
        let access = self.default_access();

        self.must_set(gfn, INVALID_MFN, Order::PAGE, P2M_POD, access);
    }

    fn movable(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason> {
        match self.plain(gfn, mfn)?.count_info.load(Ordering::Relaxed) {
            SOLE => Ok(()),
            count => Err(immovable(count)),
        }
    }

    fn movable_pages(&mut self, pages: &[Pair]) -> u64 {
        // SAFETY: frames that the page table maps; the lock is held.
        unsafe { ffi::xrs_page_movable(self.d, pages.as_ptr(), pages.len() as u32) }.into()
    }

    fn holder(&mut self, mfn: Mfn) -> Holder {
        let Some(page) = page(mfn) else {
            return Holder::Other;
        };
        let count = PageCount::from_bits_retain(page.count_info.load(Ordering::Relaxed));

        if count & PageCount::STATE == PageCount::STATE {
            return Holder::Free;
        }
        // Of a page that changes hands meanwhile this may be nonsense; then it
        // is not what is mapped at that gfn, which is looked at next.
        match self.m2p(mfn) {
            Some(gfn) if core::ptr::eq(ffi::xrs_page_owner(page), self.d) => Holder::Own(gfn),
            _ => Holder::Other,
        }
    }

    fn install(
        &mut self,
        _: &mut Pending<Unreachable>,
        gfn: Gfn,
        mfn: Mfn,
        order: Order,
        access: u8,
    ) {
        self.must_set(gfn, mfn.0, order, P2M_RAM_RW, access);
        for i in 0..order.pages() {
            self.set_m2p(mfn.add(i), Some(gfn.add(i)));
            // SAFETY: the lock is held.
            unsafe { ffi::xrs_p2m_mark_dirty(self.d, gfn.add(i).0) };
        }
    }

    fn promote(
        &mut self,
        _: &mut Pending<Unreachable>,
        gfn: Gfn,
        mfn: Mfn,
        order: Order,
        access: u8,
    ) -> Result<(), Errno> {
        self.set(gfn, mfn.0, order, P2M_RAM_RW, access)
    }

    fn assign(&mut self, mfn: Mfn, order: Order) -> Result<(), Reason> {
        // SAFETY: the block is one that the allocator gave.
        match unsafe { ffi::xrs_heap_assign(self.d, mfn.0, order.log2()) } {
            0 => Ok(()),
            _ => Err(Reason::Dying),
        }
    }

    fn assign_places(&mut self, home: Mfn, slots: Slots) -> Result<(), Slots> {
        let words = slots.words();

        // SAFETY: frames that the allocator gave.
        match unsafe {
            ffi::xrs_heap_assign_places(self.d, home.0, words.as_ptr(), words.len() as u32)
        } {
            0 => Ok(()),
            _ => Err(Slots::NONE),
        }
    }

    fn account_assigned(&mut self, pages: u64) {
        if pages > 0 {
            ffi::xrs_heap_account(self.d, pages);
        }
    }

    fn copy(&mut self, from: Mfn, to: Mfn) {
        // SAFETY: `from` is frozen and `to` not visible to anybody yet.
        unsafe { ffi::xrs_page_copy(to.0, from.0) }
    }

    fn copy_to_places(&mut self, pages: &[Pair], home: Mfn) {
        // SAFETY: they are frozen, and their places not visible to anybody yet.
        unsafe { ffi::xrs_page_copy_to_places(home.0, pages.as_ptr(), pages.len() as u32) }
    }

    fn flush(&mut self, pending: Pending<Unreachable>) -> Flushed {
        // Nothing was flushed yet: EPT always defers, and NPT does while our
        // guard has the lock (`p2m->batch_flush`).
        // SAFETY: the lock is held.
        unsafe { ffi::xrs_p2m_flush_sync(self.d) };
        ffi::xrs_p2m_invalidate_mapcache(self.d);
        pending.flushed()
    }

    fn ticks(&self) -> u64 {
        ffi::xrs_sched_ticks()
    }

    fn ledger(&mut self) -> &mut impl Ledger {
        self
    }
}
