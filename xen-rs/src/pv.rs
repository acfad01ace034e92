// SPDX-License-Identifier: GPL-2.0-only
//! A paravirtualised domain while it exchanges pages.

use p2m::addr::{Mfn, Order};
use p2m::exchange::Side;
use p2m::machine::Errno;
use p2m::pv::{Paravirt, Unassigned};

use crate::ffi::{self, Domain, PvLists};
use crate::hypercall::{ENOMEM, ESRCH, MemoryExchange};

/// # Invariants
/// All blocks that are fresh have the order of the call's outputs, which is what
/// [`p2m::pv::run`] passes.
pub struct PvDomain<'d> {
    pub d: &'d Domain,
    /// Flags for the outputs.
    pub memflags: u32,
    pub call: &'d MemoryExchange,
    pub lists: PvLists,
}

fn valid(mfn: u64) -> Option<Mfn> {
    Some(Mfn(mfn)).filter(|&mfn| mfn != Mfn::INVALID)
}

impl Paravirt for PvDomain<'_> {
    fn read(&mut self, side: Side, first: u64, gfns: &mut [u64]) -> Result<(), Errno> {
        let (out, room) = (side == Side::Out, gfns.len() as u64);

        // SAFETY: room for so many; no lock is held.
        match unsafe { ffi::xrs_guest_read_extents(self.call, out, first, room, gfns.as_mut_ptr()) }
        {
            0 => Ok(()),
            _ => Err(Errno::Fault),
        }
    }

    fn write(&mut self, first: u64, frames: &[u64]) -> Result<(), Errno> {
        // SAFETY: so many are there; no lock is held.
        match unsafe {
            ffi::xrs_guest_write_extents(self.call, first, frames.len() as u64, frames.as_ptr())
        } {
            0 => Ok(()),
            _ => Err(Errno::Fault),
        }
    }

    fn steal(&mut self, mfn: Mfn) -> Result<(), Errno> {
        match ffi::xrs_pv_steal(self.d, &mut self.lists, mfn.0) {
            0 => Ok(()),
            // An IOMMU's tables.
            ENOMEM => Err(Errno::Nomem),
            _ => Err(Errno::Inval),
        }
    }

    fn alloc(&mut self, order: Order) -> bool {
        ffi::xrs_pv_alloc(self.d, &mut self.lists, order.log2(), self.memflags)
    }

    fn next(&self, block: Option<Mfn>) -> Option<Mfn> {
        let mfn = block.unwrap_or(Mfn::INVALID).0;
        // SAFETY: what comes from here is a fresh block, and nothing else is
        // asked for.
        valid(unsafe { ffi::xrs_pv_next(&self.lists, mfn) })
    }

    fn name_next(&mut self, block: Option<Mfn>, gpfn: u64) -> Option<Mfn> {
        let mfn = block.unwrap_or(Mfn::INVALID).0;
        // SAFETY: as above; and nobody owns it, so that nobody else can write the
        // entry.
        valid(unsafe { ffi::xrs_pv_name_next(&self.lists, mfn, gpfn) })
    }

    fn m2p(&self, block: Mfn) -> u64 {
        ffi::xrs_page_m2p(block.0)
    }

    fn assign(&mut self, order: Order) -> Result<(), Unassigned> {
        // SAFETY: the type's invariants.
        match unsafe { ffi::xrs_pv_assign(self.d, &mut self.lists, order.log2()) } {
            0 => Ok(()),
            ESRCH => Err(Unassigned::Dying),
            _ => Err(Unassigned::Unmapped),
        }
    }

    fn free(&mut self, order: Order) {
        // SAFETY: the type's invariants.
        unsafe { ffi::xrs_pv_free(&mut self.lists, order.log2()) }
    }

    fn restore(&mut self) {
        ffi::xrs_pv_restore(self.d, &mut self.lists);
    }

    fn release(&mut self) {
        ffi::xrs_pv_release(self.d, &mut self.lists);
    }

    fn died(&mut self, pages: u64) {
        ffi::xrs_pv_died(self.d, &mut self.lists, pages);
    }

    fn preempt(&mut self) -> bool {
        ffi::xrs_sched_preempt()
    }
}
