// SPDX-License-Identifier: GPL-2.0-only
//! Room for a region that needs a block of 2 MiB where none is free: the few pages
//! that lie in one that is nearly free are moved elsewhere, whichever domains they
//! belong to. (Linux has a thread for that, `kcompactd`.)
//!
//! Which block that is, is decided at a glance, without a lock ([`cheapest`]). Then
//! each domain's pages leave it under that domain's own lock ([`vacate`]), so never
//! are two p2m locks held at once. What is free in the block is taken from the
//! heap first: else the pages that leave it might come to lie in it again. What
//! a page leaves behind goes to the heap as any frame that a domain has owned,
//! and is fetched from there. In the end all of the block is ours, and is given
//! back whole.

use crate::account::{Counter, Reason};
use crate::addr::{Mfn, Order, REGION_PAGES};
use crate::coalesce::{BATCH_MAX, BATCH_MIN, unmovable};
use crate::frames::{Frozen, List, Pending, Retired};
use crate::machine::{Block, Holder, Locked, Machine, Purpose};
use crate::plan::{Scratch, Slots, Stock, can_make_room};

/// What a glance at a machine frame tells. By the time that it is looked at under
/// a lock it may be something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenant {
    /// The heap has it.
    Free,
    /// It belongs to a domain whose pages may be moved, and nobody else has a
    /// reference.
    Movable,
    /// Anything else.
    Stuck,
}

/// Of `blocks`, the one with the fewest pages that would have to move, if that is
/// not more than `limit`; and how many. A block in which there is nothing to move is
/// none: the heap has it already.
pub fn cheapest(
    blocks: impl IntoIterator<Item = Mfn>,
    limit: u64,
    mut tenant: impl FnMut(Mfn) -> Tenant,
) -> Option<(Mfn, u64)> {
    let mut best = None;
    let mut most = limit;

    for block in blocks {
        let pages = (0..REGION_PAGES).try_fold(0u64, |pages, slot| match tenant(block.add(slot)) {
            Tenant::Free => Some(pages),
            Tenant::Movable if pages < most => Some(pages.wrapping_add(1)),
            _ => None,
        });
        if let Some(pages) = pages.filter(|pages| *pages > 0) {
            best = Some((block, pages));
            // Only one with fewer is better.
            most = pages.wrapping_sub(1);
        }
    }
    best
}

/// Have pages of this domain leave the block of `stock`, `limit` at most and `batch`
/// in one hold of the lock, and fetch what is free in it: how many were moved.
/// Pages that cannot be moved stay; so do all if there is no memory for them
/// elsewhere.
pub fn vacate<M: Machine>(
    machine: &mut M,
    scratch: &mut Scratch,
    stock: &mut Stock,
    batch: u64,
    limit: u64,
) -> u64 {
    let batch = batch.clamp(BATCH_MIN, BATCH_MAX);
    let mut moved = 0u64;

    // Each round that does anything moves a page.
    while moved < limit && !stock.fetch(machine, Slots::ALL) {
        let most = limit.wrapping_sub(moved).min(batch);
        match round(machine, scratch, stock, most) {
            0 => break,
            pages => moved = moved.wrapping_add(pages),
        }
        if machine.interrupted() {
            break;
        }
    }
    // What was left last.
    let _ = stock.fetch(machine, Slots::ALL);
    moved
}

/// Up to `most` pages in one hold of the lock; how many were moved.
fn round<M: Machine>(machine: &mut M, scratch: &mut Scratch, stock: &Stock, most: u64) -> u64 {
    let Scratch {
        frozen, evicted, ..
    } = scratch;

    list(&mut machine.lock(), frozen, stock, most);
    evicted.clear();
    for pair in frozen.as_slice() {
        match machine.alloc(Order::PAGE, Purpose::Overwrite(stock.home())) {
            Some(block) => evicted.push(pair.gfn(), block.into_list()),
            None => break,
        };
    }
    frozen.truncate(evicted.len());
    if frozen.is_empty() {
        return 0;
    }

    let since = machine.ticks();
    let mut copying = 0;
    let (given, result) = leave(&mut machine.lock(), frozen, evicted, &mut copying);
    let held = machine.ticks().wrapping_sub(since);

    machine.account().hold(held);
    machine.account().add(Counter::CopyTicks, copying);
    for pair in evicted.as_slice().iter().skip(given as usize) {
        machine.free(Block::from_allocator(pair.mfn(), Order::PAGE));
    }
    match result {
        Ok(retired) => {
            retired.free(machine, Order::PAGE);
            given
        }
        Err(_) => 0,
    }
}

/// Note in `pages` up to `most` pages of the domain that lie in the block, and could
/// be moved now.
fn list<L: Locked>(locked: &mut L, pages: &mut List, stock: &Stock, most: u64) {
    let access = locked.default_access();

    pages.clear();
    if unmovable(locked.facts()).is_some() {
        return;
    }
    for slot in Slots::ALL.without(stock.slots()).iter() {
        let frame = stock.home().add(slot);

        if pages.len() >= most {
            break;
        }
        if let Holder::Own(gfn) = locked.holder(frame) {
            if can_make_room(locked, gfn, frame, Some(access)) && locked.movable(gfn, frame).is_ok()
            {
                pages.push(gfn, frame);
            }
        }
    }
}

/// What is done under the lock: `pages` move to the frames of `to`. How many of those
/// belong to the domain now (if it is dying, they may be some without any page
/// being moved), and the frames that were left.
#[inline(never)]
fn leave<'l, L: Locked>(
    locked: &mut L,
    pages: &'l mut List,
    to: &List,
    copying: &mut u64,
) -> (u64, Result<Retired<'l, L::Loss>, Reason>) {
    let access = locked.default_access();

    // The lock was dropped for the allocations.
    if let Some(reason) = unmovable(locked.facts()) {
        return (0, Err(reason));
    }
    let same = pages
        .as_slice()
        .iter()
        .all(|pair| can_make_room(locked, pair.gfn(), pair.mfn(), Some(access)));
    if !same {
        return (0, Err(Reason::Vanished));
    }
    let frozen = match Frozen::freeze_all(locked, pages) {
        Ok(frozen) => frozen,
        Err(reason) => return (0, Err(reason)),
    };
    let mut pending = Pending::new();
    for pair in frozen.pairs() {
        locked.hide_page(&mut pending, pair.gfn());
    }
    let flushed = locked.flush(pending);

    // From here on no processor can read or write these pages.
    let since = locked.ticks();
    for (from, to) in frozen.pairs().iter().zip(to.as_slice()) {
        locked.copy(from.mfn(), to.mfn());
    }
    *copying = locked.ticks().wrapping_sub(since);

    let mut pending = Pending::new();
    let mut given = 0u64;
    for pair in to.as_slice() {
        if locked.assign(pair.mfn(), Order::PAGE).is_err() {
            // Dying: its memory is read by nobody any more, only counted. What was
            // assigned already is on its page list, for the teardown to free.
            locked.account_assigned(given);
            for pair in frozen.pairs() {
                locked.zap(&mut pending, pair.gfn(), Order::PAGE);
            }
            let _ = locked.flush(pending);
            frozen.thaw(locked);
            return (given, Err(Reason::Dying));
        }
        given = given.wrapping_add(1);
    }
    locked.clear_m2p(frozen.pairs());
    for pair in to.as_slice() {
        locked.install(&mut pending, pair.gfn(), pair.mfn(), Order::PAGE, access);
    }
    let _ = locked.flush(pending);

    (given, Ok(frozen.retire(&flushed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Tenant::{Free, Movable, Stuck};

    /// Blocks of which the first pages are as told, and the rest is free.
    fn find(blocks: &[(u64, Tenant)], limit: u64) -> Option<(u64, u64)> {
        let tenant = |mfn: Mfn| {
            let (pages, tenant) = blocks[(mfn.0 / REGION_PAGES) as usize];
            if mfn.slot() < pages { tenant } else { Free }
        };
        let firsts = (0..blocks.len() as u64).map(|i| Mfn(i * REGION_PAGES));

        cheapest(firsts, limit, tenant).map(|(block, pages)| (block.0 / REGION_PAGES, pages))
    }

    #[test]
    fn the_block_with_the_fewest_pages_is_the_cheapest() {
        let blocks = [
            (0, Free),
            (40, Movable),
            (1, Stuck),
            (12, Movable),
            (12, Movable),
            (512, Movable),
        ];
        assert_eq!(find(&blocks, 511), Some((3, 12)));
        assert_eq!(find(&blocks, 12), Some((3, 12)));
        assert_eq!(find(&blocks, 11), None);
        assert_eq!(find(&blocks[..3], 511), Some((1, 40)));
        assert_eq!(find(&blocks[5..], 511), None);
        assert_eq!(find(&blocks[5..], 512), Some((0, 512)));
        assert_eq!(find(&blocks, 0), None);
        assert_eq!(find(&[], 512), None);
    }
}
