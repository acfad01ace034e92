// SPDX-License-Identifier: GPL-2.0-only
//! What XENMEM_exchange does to a translated guest, written down anew from its
//! interface: one chunk after another, no batches, no page tables.

use p2m::machine::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// A gfn of the guest that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// RAM that can be given away.
    Plain(u64),
    /// RAM that somebody else has a reference to.
    Pinned,
    /// RAM that cannot be given away, or no RAM.
    Fixed,
    /// RAM that this call gave.
    Fresh,
    /// Not RAM.
    NotRam,
}

/// A guest's memory by gfn.
pub type Memory = BTreeMap<u64, Page>;

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub in_order: u32,
    pub out_order: u32,
    pub ins: &'a [u64],
    pub outs: &'a [u64],
    /// This entry (of `ins`, then `outs`) cannot be read.
    pub fault: Option<usize>,
    /// No gfn from here on can be mapped.
    pub gfn_end: u64,
}

impl Call<'_> {
    /// Input and output extents of a chunk.
    pub fn chunk(&self) -> (usize, usize) {
        let order = self.in_order.max(self.out_order);

        (1 << (order - self.in_order), 1 << (order - self.out_order))
    }

    /// Do one chunk, or leave `memory` alone.
    pub fn one(&self, memory: &mut Memory, chunk: usize) -> Result<(), Errno> {
        let (n_in, n_out) = self.chunk();
        let ins = chunk * n_in..(chunk + 1) * n_in;
        let outs = chunk * n_out..(chunk + 1) * n_out;
        let faults = |from: usize, range: &std::ops::Range<usize>| {
            self.fault
                .is_some_and(|f| f >= from && range.contains(&(f - from)))
        };

        if faults(0, &ins) || faults(self.ins.len(), &outs) {
            return Err(Errno::Fault);
        }
        let mut given = BTreeSet::new();
        for gfn in pages(&self.ins[ins], self.in_order) {
            match memory.get(&gfn) {
                Some(Page::Plain(_) | Page::Fresh) if given.insert(gfn) => {}
                Some(Page::Pinned) => return Err(Errno::Busy),
                _ => return Err(Errno::Inval),
            }
        }
        let mut got = BTreeSet::new();
        for gfn in pages(&self.outs[outs], self.out_order) {
            let free = match memory.get(&gfn) {
                None if gfn >= self.gfn_end => return Err(Errno::Inval),
                None => true,
                Some(Page::NotRam) => return Err(Errno::Inval),
                Some(_) => given.contains(&gfn),
            };
            if !free || !got.insert(gfn) {
                return Err(Errno::Exist);
            }
        }
        for gfn in &given {
            memory.remove(gfn);
        }
        for gfn in got {
            memory.insert(gfn, Page::Fresh);
        }
        Ok(())
    }

    /// The whole call: input extents done, and how it ended.
    pub fn run(&self, memory: &mut Memory) -> (u64, Result<(), Errno>) {
        let (n_in, _) = self.chunk();
        let mut done = 0;

        while done < self.ins.len() {
            if let Err(errno) = self.one(memory, done / n_in) {
                return (done as u64, Err(errno));
            }
            done += n_in;
        }
        (done as u64, Ok(()))
    }

    /// The first `done` input extents are known to have been exchanged,
    /// whatever else was in the way then.
    pub fn force(&self, memory: &mut Memory, done: u64) {
        let (n_in, n_out) = self.chunk();

        assert_eq!(done % n_in as u64, 0, "{done} is not a number of chunks");
        for chunk in 0..done as usize / n_in {
            for gfn in pages(&self.ins[chunk * n_in..(chunk + 1) * n_in], self.in_order) {
                let gone = memory.remove(&gfn);
                assert!(gone.is_some(), "a hole at {gfn:#x} was exchanged");
            }
            for gfn in pages(
                &self.outs[chunk * n_out..(chunk + 1) * n_out],
                self.out_order,
            ) {
                let there = memory.insert(gfn, Page::Fresh);
                assert_eq!(there, None, "a page at {gfn:#x} was overwritten");
            }
        }
    }
}

fn pages(extents: &[u64], order: u32) -> impl Iterator<Item = u64> + '_ {
    extents
        .iter()
        .flat_map(move |&gfn| (0..1u64 << order).map(move |i| gfn.wrapping_add(i)))
}
