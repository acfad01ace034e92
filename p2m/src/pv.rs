// SPDX-License-Identifier: GPL-2.0-only
//! XENMEM_exchange for a paravirtualised domain.
//!
//! Such a domain has no second-stage table and no p2m lock: a gfn is a machine
//! frame, and who may map it is a matter of reference and type counts. A frame
//! is *stolen* (`arch/x86/mm.c: steal_page()`): nobody but the domain itself has
//! a reference, and then nobody has.
//!
//! Chunks and batches are those of [`exchange`](crate::exchange), and a chunk is
//! exchanged wholly or not at all here too:
//! 1. the inputs are stolen. A frame named twice cannot be stolen twice;
//! 2. the outputs are allocated;
//! 3. their frame numbers are written over the caller's list, the last step
//!    that the caller can make fail, and each frame's M2P entry keeps what was
//!    there, so that it can be put back;
//! 4. the outputs become the domain's, which fails only if it dies;
//! 5. the heap gets what was stolen, as pages that had an owner: it has TLBs flushed
//!    before anybody gets them (XSA-217).

use crate::addr::{Mfn, Order, REGION_PAGES};
use crate::exchange::{Batch, End, Request, Side, Work, serve};
use crate::machine::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Why a block could not be made the domain's in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unassigned {
    /// The domain is dying, and the block is still nobody's.
    Dying,
    /// The block is the domain's, but its IOMMU does not map it.
    Unmapped,
}

/// A paravirtualised domain while an exchange is served. It keeps two sets: the
/// frames that were *stolen* and the blocks that are *fresh*, in the order in
/// which they were allocated. Both are empty between batches.
pub trait Paravirt {
    /// Read the gfns of the extents of `side`, from number `first` on, as many
    /// as there is room for.
    fn read(&mut self, side: Side, first: u64, gfns: &mut [u64]) -> Result<(), Errno>;

    /// Write the list of outputs, from number `first` on. If it fails, the
    /// first part may have been written.
    fn write(&mut self, first: u64, frames: &[u64]) -> Result<(), Errno>;

    /// Take the domain's frame `mfn` away: it is stolen.
    fn steal(&mut self, mfn: Mfn) -> Result<(), Errno>;

    /// One more fresh block, as the call wants its outputs; `false`: there is
    /// no memory.
    fn alloc(&mut self, order: Order) -> bool;

    /// The fresh block that follows `block`, or the first.
    fn next(&self, block: Option<Mfn>) -> Option<Mfn>;

    /// The same; the M2P entry of its first page is `gpfn` from now on.
    fn name_next(&mut self, block: Option<Mfn>, gpfn: u64) -> Option<Mfn>;

    /// The M2P entry of a fresh block's first page.
    fn m2p(&self, block: Mfn) -> u64;

    /// The first fresh block becomes the domain's, behind the gpfn that its M2P
    /// entry has.
    fn assign(&mut self, order: Order) -> Result<(), Unassigned>;

    /// What is fresh goes back to the heap.
    fn free(&mut self, order: Order);

    /// What was stolen is the domain's again.
    fn restore(&mut self);

    /// What was stolen goes to the heap, as pages of the domain, so that TLBs are flushed
    /// before anybody gets them.
    fn release(&mut self);

    /// The same for a domain that is dying: `pages` of what was stolen are to
    /// be counted to it no more.
    fn died(&mut self, pages: u64);

    /// Somebody more important wants this CPU.
    fn preempt(&mut self) -> bool;
}

/// Frame numbers on their way from and to the caller's lists.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Window([u64; REGION_PAGES as usize]);

impl Default for Window {
    fn default() -> Self {
        Window([0; REGION_PAGES as usize])
    }
}

impl Window {
    /// So many of `left` as there is room for.
    fn some(&mut self, left: u64) -> &mut [u64] {
        let take = left.min(REGION_PAGES) as usize;
        self.0.get_mut(..take).unwrap_or(&mut [])
    }
}

struct Served<'a, P> {
    domain: &'a mut P,
    window: &'a mut Window,
}

/// Serve a call until it is done, fails or has to give way. Between two checks
/// for that lies one chunk, or a batch of chunks of together 512 pages at most.
pub fn run<P: Paravirt>(domain: &mut P, request: &mut Request, window: &mut Window) -> End {
    serve(&mut Served { domain, window }, request)
}

impl<P: Paravirt> Work for Served<'_, P> {
    fn preempt(&mut self) -> bool {
        self.domain.preempt()
    }

    fn batch(&mut self, request: &Request, chunks: u64) -> Result<Batch, Errno> {
        let (first_in, count_in) = request.extents(Side::In, chunks);
        let (first_out, count_out) = request.extents(Side::Out, chunks);
        let order = request.order(Side::Out);

        let prepared = self
            .steal(first_in, count_in, request.order(Side::In))
            .and_then(|()| self.alloc(count_out, order))
            .and_then(|()| self.publish(first_out, count_out));
        if let Err(errno) = prepared {
            self.domain.restore();
            self.domain.free(order);
            return Err(errno);
        }

        let mut failed = None;
        for done in 0..count_out {
            match self.domain.assign(order) {
                Ok(()) => {}
                Err(Unassigned::Unmapped) => failed = Some(Errno::Inval),
                Err(Unassigned::Dying) => {
                    let left = count_out.saturating_sub(done);
                    self.domain.died(order.pages_in(left));
                    self.domain.free(order);
                    return Err(Errno::Inval);
                }
            }
        }
        self.domain.release();
        Ok(Batch { chunks, failed })
    }
}

impl<P: Paravirt> Served<'_, P> {
    fn steal(&mut self, first: u64, count: u64, order: Order) -> Result<(), Errno> {
        let mut done = 0;

        while done < count {
            let gfns = self.window.some(count.saturating_sub(done));
            let taken = gfns.len() as u64;

            self.domain.read(Side::In, first.wrapping_add(done), gfns)?;
            for &mut gfn in gfns {
                for i in 0..order.pages() {
                    self.domain.steal(Mfn(gfn).add(i))?;
                }
            }
            done = done.wrapping_add(taken);
        }
        Ok(())
    }

    fn alloc(&mut self, count: u64, order: Order) -> Result<(), Errno> {
        for _ in 0..count {
            if !self.domain.alloc(order) {
                return Err(Errno::Nomem);
            }
        }
        Ok(())
    }

    /// Write the fresh frames' numbers over the caller's list, or leave that as
    /// it was.
    fn publish(&mut self, first: u64, count: u64) -> Result<(), Errno> {
        let mut block = None;
        let mut done = 0;

        while done < count {
            let words = self.window.some(count.saturating_sub(done));
            let at = first.wrapping_add(done);
            let taken = words.len() as u64;

            let read = self.domain.read(Side::Out, at, words);
            if read.is_ok() {
                for word in words.iter_mut() {
                    block = self.domain.name_next(block, *word);
                    if let Some(block) = block {
                        *word = block.0;
                    }
                }
            }
            let reached = done.wrapping_add(if read.is_ok() { taken } else { 0 });
            if let Err(errno) = read.and_then(|()| self.domain.write(at, words)) {
                self.unpublish(first, reached);
                return Err(errno);
            }
            done = reached;
        }
        Ok(())
    }

    /// What could be written once can be written again; if not, the caller has
    /// taken the memory away and does not want it.
    fn unpublish(&mut self, first: u64, count: u64) {
        let mut block = None;
        let mut done = 0;

        while done < count {
            let words = self.window.some(count.saturating_sub(done));

            for word in words.iter_mut() {
                block = self.domain.next(block);
                if let Some(block) = block {
                    *word = self.domain.m2p(block);
                }
            }
            let _ = self.domain.write(first.wrapping_add(done), words);
            done = done.wrapping_add(words.len() as u64);
        }
    }
}
