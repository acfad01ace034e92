// SPDX-License-Identifier: GPL-2.0-only
//! What the core asks of a hypervisor.
//!
//! Two traits: [`Machine`] is a domain whose p2m is *not* locked, [`Locked`]
//! the same while this CPU holds its p2m lock for writing. The lock guard
//! borrows the machine mutably, so what must not happen under the lock (memory
//! allocation, freeing to the heap, guest copies, preemption) cannot be called
//! while it is held: it does not compile.

use crate::account::{Account, Reason};
use crate::addr::{Gfn, Mfn, Order};
use crate::frames::{Detached, Flushed, Loss, Pair, Pending};
use crate::ledger::Ledger;
use crate::plan::Slots;
use crate::trace::{Event, Record};
use arch::{Format, Table};
use bitflags::bitflags;

bitflags! {
    /// What is true of a domain now. Read without the lock it is a hint; read
    /// through [`Locked::facts`] it holds until the lock is dropped, except
    /// that a domain may start to die at any time.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Facts: u64 {
        /// HAP, and 2 MiB entries may be used.
        const HAP_2MB = 1 << 0;
        /// The toolstack has finished building it.
        const CREATED = 1 << 1;
        /// It is being destroyed.
        const DYING = 1 << 2;
        /// A device may do DMA to its frames.
        const IOMMU = 1 << 3;
        /// altp2m views exist.
        const ALTP2M = 1 << 4;
        /// Nested HVM is enabled.
        const NESTED = 1 << 5;
        /// Populate-on-demand entries exist.
        const POD = 1 << 6;
        /// Memory sharing or paging is enabled.
        const SHARING = 1 << 7;
        /// Log-dirty tracking of the whole domain is on.
        const LOG_DIRTY = 1 << 8;
        /// HAP: nothing shadows its page tables.
        const HAP = 1 << 9;
        /// 1 GiB entries may be used.
        const HAP_1GB = 1 << 10;
    }
}

/// An error number of the hypercall interface, positive (Xen's `errno.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Errno {
    /// The caller may not do that.
    Perm = 1,
    /// A gfn is not mapped.
    Noent = 2,
    /// The heap or the p2m pool has no page.
    Nomem = 12,
    /// A guest address cannot be read or written.
    Fault = 14,
    /// A page is referenced by somebody else.
    Busy = 16,
    /// There is a page already.
    Exist = 17,
    /// The arguments do not fit together.
    Inval = 22,
    /// Not with this kind of domain.
    Opnotsupp = 95,
}

/// A block of machine frames that the allocator gave out and that belongs to
/// no domain yet. It has to be given to a domain or back to the heap.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is lost to the machine"]
pub struct Block {
    mfn: Mfn,
    order: Order,
}

impl Block {
    /// For the implementor of [`Machine::alloc`]: take over `mfn`.
    pub const fn from_allocator(mfn: Mfn, order: Order) -> Self {
        Block { mfn, order }
    }

    /// It is kept in a list from now on.
    pub(crate) fn into_list(self) -> Mfn {
        self.mfn
    }

    /// It belongs to a domain now ([`Locked::assign`]).
    pub(crate) fn given(self) {}

    /// The first frame.
    pub const fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Its size.
    pub const fn order(&self) -> Order {
        self.order
    }
}

/// What is to become of the memory that [`Machine::alloc`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The guest will see it as it comes: it must be clean.
    Expose,
    /// All of it will be overwritten before the guest can see it; take it from
    /// the node of this frame, above the watermark only.
    Overwrite(Mfn),
}

/// A domain, its p2m not locked by this CPU.
pub trait Machine {
    /// What happens to frames and flushes that are dropped.
    type Loss: Loss;

    /// The same with the p2m lock held for writing.
    type Locked<'a>: Locked<Loss = Self::Loss>
    where
        Self: 'a;

    /// Take the p2m lock for writing.
    fn lock(&mut self) -> Self::Locked<'_>;

    /// A block of exactly `order`, owned by nobody. May flush TLBs.
    fn alloc(&mut self, order: Order, purpose: Purpose) -> Option<Block>;

    /// Exactly the frame `mfn`, owned by nobody, if it is free. May flush TLBs.
    /// A machine whose allocator cannot do that never has it.
    fn alloc_at(&mut self, _mfn: Mfn, _purpose: Purpose) -> Option<Block> {
        None
    }

    /// The frames at `slots` of the block that begins at `home`, those that are
    /// free and may be overwritten.
    fn alloc_places(&mut self, home: Mfn, slots: Slots) -> Slots {
        let mut got = Slots::default();

        for slot in slots.iter() {
            let block = self.alloc_at(home.add(slot), Purpose::Overwrite(home));
            if let Some(block) = block {
                got.insert(block.into_list().slot());
            }
        }
        got
    }

    /// Placement is worth its cost: the domain's superpages are looked after.
    fn places(&self) -> bool {
        true
    }

    /// Give `block`, which no domain ever owned, back to the heap.
    fn free(&mut self, block: Block);

    /// Give a frame (of `order`) that a guest has owned back to the heap: its
    /// count stays frozen and its owner set until the heap has it, so that the
    /// heap stamps it for a TLB flush; it is scrubbed; the domain's page count
    /// is not changed. Called by [`crate::frames::Retired::free`] only, when
    /// nothing can reach the frame any more.
    fn free_retired(&mut self, mfn: Mfn, order: Order);

    /// The same for single pages of the domain.
    fn free_retired_pages(&mut self, pages: &[Pair]) {
        for page in pages {
            self.free_retired(page.mfn(), Order::PAGE);
        }
    }

    /// Somebody more important wants this CPU.
    fn preempt(&mut self) -> bool;

    /// The same between two batches of one region: should the rest of it wait?
    fn interrupted(&mut self) -> bool {
        self.preempt()
    }

    /// Write a record to the trace buffer; the domain's number is filled in.
    fn trace(&mut self, event: Event, record: Record);

    /// The domain's counters.
    fn account(&self) -> &Account;

    /// TSC.
    fn ticks(&self) -> u64;
}

/// What [`Locked::lookup`] found at a gfn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// What it is.
    pub kind: Kind,
    /// Size of the entry that says so: [`Order::PAGE`] only if a table of 4 KiB
    /// entries is there.
    pub order: Order,
    /// Opaque permissions (`p2m_access_t`), to be handed back unchanged.
    pub access: u8,
}

/// Who has a machine frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The heap.
    Free,
    /// This domain, at that gfn.
    Own(Gfn),
    /// Somebody else, or nobody can say.
    Other,
}

/// The kinds of p2m entry that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary RAM of the domain (`p2m_ram_rw`).
    Ram(Mfn),
    /// Nothing (`p2m_invalid`, `p2m_mmio_dm`).
    Hole,
    /// [`Locked::reserve`] was here.
    Reserved,
    /// Anything else: MMIO, grant, foreign, paged, shared, log-dirty…
    Other,
}

/// A region as the page table has it.
#[derive(Debug)]
pub enum View<'a> {
    /// No table leads here.
    Nothing,
    /// One leaf of 2 MiB or more, or one empty entry with a type.
    Big(arch::Slot),
    /// 512 entries: of 4 KiB, or where a GiB is looked at, of 2 MiB.
    Table(Format, &'a Table),
}

/// A domain, its p2m locked for writing by this CPU. Dropping it unlocks.
///
/// Nothing here sleeps, allocates from the heap or touches guest virtual
/// memory. What can fail says so; the rest cannot fail by construction, given
/// the state in which it may be called.
pub trait Locked: Sized {
    /// See [`Machine::Loss`].
    type Loss: Loss;

    /// Eligibility, as the lock holder sees it.
    fn facts(&self) -> Facts;

    /// What is mapped at `gfn`, after any pending type recalculation.
    fn lookup(&mut self, gfn: Gfn) -> Lookup;

    /// Run `f` on the entries of the region that starts at `gfn`.
    fn view<R>(&mut self, region: crate::addr::Region, f: impl FnOnce(View<'_>) -> R) -> R;

    /// Carry out a pending type recalculation for the whole region.
    fn recalculate(&mut self, region: crate::addr::Region);

    /// A log-dirty range touches the region.
    fn log_dirty_range(&mut self, region: crate::addr::Region) -> bool;

    /// Run `f` on the entries of 2 MiB of the GiB that `gfn` is in.
    fn view_gib<R>(&mut self, gfn: Gfn, f: impl FnOnce(View<'_>) -> R) -> R;

    /// One entry of `order` at `gfn` could say how all of its memory is cached, if
    /// what begins at `mfn` were behind it.
    fn one_memory_type(&mut self, _gfn: Gfn, _mfn: Mfn, _order: Order) -> bool {
        true
    }

    /// Atomically take the domain's only reference away from the frame that
    /// is mapped at `gfn`: owner, M2P, type count and exactly one reference are
    /// as they have to be, and now the count is 0 and nobody can get another.
    /// Used through [`crate::frames`] only.
    fn freeze(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason>;

    /// Freeze one after the other, as far as it goes: how many were, and why the next
    /// was not. Used through [`crate::frames`] only.
    fn freeze_all(&mut self, pages: &[Pair]) -> (u64, Result<(), Reason>) {
        (0u64..)
            .zip(pages)
            .fold((0, Ok(())), |(done, result), (i, page)| {
                match result.and_then(|()| self.freeze(page.gfn(), page.mfn())) {
                    Ok(()) => (i.wrapping_add(1), Ok(())),
                    Err(reason) => (done, Err(reason)),
                }
            })
    }

    /// Undo [`freeze`](Self::freeze). If the domain started to die meanwhile,
    /// its teardown has already passed this frame by, and the frame is released
    /// in its stead.
    fn thaw(&mut self, mfn: Mfn);

    /// The permissions of a page that is newly mapped.
    fn default_access(&self) -> u8;

    /// The gfn that the M2P has for a frame of this domain.
    fn m2p(&mut self, mfn: Mfn) -> Option<Gfn>;

    /// Set the M2P entry; `None` is INVALID_M2P_ENTRY.
    fn set_m2p(&mut self, mfn: Mfn, gfn: Option<Gfn>);

    /// The M2P forgets frozen frames.
    fn clear_m2p(&mut self, pages: &[Pair]) {
        for page in pages {
            self.set_m2p(page.mfn(), None);
        }
    }

    /// Break the leaf that maps `gfn` down to 4 KiB entries (for
    /// `order` 0) or 2 MiB entries, changing no translation.
    fn split(&mut self, gfn: Gfn, mfn: Mfn, order: Order, access: u8) -> Result<(), Errno>;

    /// Put a mark into a hole of `order`: makes the page tables that a later
    /// [`install`](Self::install) needs, and is found by another lookup. A
    /// guest that touches it waits for the lock.
    fn reserve(&mut self, gfn: Gfn, order: Order) -> Result<(), Errno>;

    /// Undo [`reserve`](Self::reserve).
    fn unreserve(&mut self, gfn: Gfn, order: Order);

    /// Make a hole; the page tables needed are there.
    fn zap(&mut self, pending: &mut Pending<Self::Loss>, gfn: Gfn, order: Order);

    /// Take the region's table of 4 KiB entries out of the tree, and leave one
    /// mark in its place, so that guests that touch the region wait for the lock.
    /// `None`: there is no such table, and nothing was changed.
    fn detach(
        &mut self,
        pending: &mut Pending<Self::Loss>,
        region: crate::addr::Region,
    ) -> Option<Detached<Self::Loss>>;

    /// Have the entries of the slots `which` in a detached table lead to the mfns that
    /// `pages`, one for each slot of the region, have for them, changing nothing
    /// else in them; M2P included. What is read at a gfn does not change, so
    /// nothing becomes dirty.
    fn redirect(&mut self, table: &Detached<Self::Loss>, pages: &[Pair], which: &Slots);

    /// Put a detached table back.
    fn attach(&mut self, table: Detached<Self::Loss>);

    /// The 512 entries of a detached table say what one leaf would say: put the
    /// leaf in the place of the mark. If that fails the table is put back.
    fn conclude(
        &mut self,
        pending: &mut Pending<Self::Loss>,
        table: Detached<Self::Loss>,
        mfn: Mfn,
        access: u8,
    ) -> Result<(), Errno>;

    /// Put a mark in the place of one 4 KiB entry that maps a frozen frame.
    fn hide_page(&mut self, pending: &mut Pending<Self::Loss>, gfn: Gfn);

    /// What [`freeze`](Self::freeze) would say now.
    fn movable(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason>;

    /// How many of `pages`, from the first on, are [`movable`](Self::movable).
    fn movable_pages(&mut self, pages: &[Pair]) -> u64 {
        let stuck = |page: &Pair| self.movable(page.gfn(), page.mfn()).is_err();

        pages.iter().position(stuck).unwrap_or(pages.len()) as u64
    }

    /// Who has a frame. Of free frames it is a hint.
    fn holder(&mut self, mfn: Mfn) -> Holder;

    /// Map frames at `gfn`, M2P included, and mark them dirty. The page tables
    /// needed are there, so it cannot fail but for an IOMMU, in which case the
    /// domain is crashed.
    fn install(
        &mut self,
        pending: &mut Pending<Self::Loss>,
        gfn: Gfn,
        mfn: Mfn,
        order: Order,
        access: u8,
    );

    /// Replace 512 entries by the one leaf, of `order`, that says the same. Changes
    /// neither the M2P nor what is dirty.
    fn promote(
        &mut self,
        pending: &mut Pending<Self::Loss>,
        gfn: Gfn,
        mfn: Mfn,
        order: Order,
        access: u8,
    ) -> Result<(), Errno>;

    /// Make frames that belong to nobody the domain's own, leaving its page
    /// count as it is. Refused when the domain is dying.
    fn assign(&mut self, mfn: Mfn, order: Order) -> Result<(), Reason>;

    /// The same for the frames at `slots` of the block that begins at `home`. On failure
    /// those that were assigned all the same.
    fn assign_places(&mut self, home: Mfn, slots: Slots) -> Result<(), Slots> {
        let mut rest = slots;

        loop {
            let left = rest;
            let Some((slot, order)) = rest.take_run() else {
                return Ok(());
            };
            if self.assign(home.add(slot), order).is_err() {
                return Err(slots.without(left));
            }
        }
    }

    /// The domain is dying and owns `pages` more than were counted: count them.
    fn account_assigned(&mut self, pages: u64);

    /// Copy 4 KiB.
    fn copy(&mut self, from: Mfn, to: Mfn);

    /// Copy each of `pages` to its place in the block that begins at `home`.
    fn copy_to_places(&mut self, pages: &[Pair], home: Mfn) {
        for page in pages {
            self.copy(page.mfn(), home.add(page.gfn().slot()));
        }
    }

    /// Return when no translation that was changed is in any TLB or IOTLB any
    /// more.
    fn flush(&mut self, pending: Pending<Self::Loss>) -> Flushed;

    /// TSC.
    fn ticks(&self) -> u64;

    /// The domain's ledger, which the p2m lock protects.
    fn ledger(&mut self) -> &mut impl Ledger;
}
