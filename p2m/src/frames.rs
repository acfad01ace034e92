// SPDX-License-Identifier: GPL-2.0-only
//! Frames on their way out of a domain, as types that cannot be misused.
//!
//! ```text
//!   List ──freeze──▶ Frozen ──thaw──▶ (as before)
//!                      │
//!                      └─retire(Flushed)──▶ Retired ──free(&mut Machine)──▶ heap
//! ```
//!
//! [`Frozen::retire`] asks for a [`Flushed`], which only [`Locked::flush`]
//! makes, out of the [`Pending`] of the same lock hold: freeing before the
//! flush (XSA-217, XSA-480) does not compile. [`Retired::free`] asks for
//! the unlocked machine: freeing under the lock does not compile either. A
//! [`Frozen`], [`Pending`] or [`Retired`] that is dropped instead of ended
//! calls [`Loss::lost`].

use crate::account::Reason;
use crate::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use crate::machine::{Block, Locked, Machine};
use arch::Entry;
use core::marker::PhantomData;
use core::mem;
use core::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What happens to a value that had to be ended and was dropped.
pub trait Loss {
    /// `what` was dropped. In Xen this calls a symbol that does not exist: if
    /// it can be reached, the link fails. In tests it panics.
    fn lost(what: &'static str);
}

/// A guest frame and the machine frame that is, was or will be behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pair {
    gfn: u64,
    mfn: u64,
}

impl Pair {
    /// Where the machine frame stands in it: C reads it.
    pub const MFN_OFFSET: usize = mem::offset_of!(Pair, mfn);

    /// The guest frame.
    pub fn gfn(&self) -> Gfn {
        Gfn(self.gfn)
    }

    /// The machine frame.
    pub fn mfn(&self) -> Mfn {
        Mfn(self.mfn)
    }

    /// Note `mfn` as the machine frame.
    pub(crate) fn set_mfn(&mut self, mfn: Mfn) {
        self.mfn = mfn.0;
    }

    /// Note `block` as what shall be behind this guest frame.
    pub fn stock(&mut self, block: Block) {
        self.mfn = block.into_list().0;
    }
}

/// Pairs, and room for so many as there is memory. It is memory and nothing else,
/// and does not live on Xen's stack.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pairs<T: ?Sized = [Pair]> {
    len: u64,
    items: T,
}

/// Room for one batch: up to 512 pairs, 8 KiB.
pub type List = Pairs<[Pair; REGION_PAGES as usize]>;

impl<const N: usize> Default for Pairs<[Pair; N]> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Pairs<[Pair; N]> {
    /// Empty.
    pub const fn new() -> Self {
        Pairs {
            len: 0,
            items: [Pair { gfn: 0, mfn: 0 }; N],
        }
    }
}

impl<const N: usize> Deref for Pairs<[Pair; N]> {
    type Target = Pairs;

    fn deref(&self) -> &Pairs {
        self
    }
}

impl<const N: usize> DerefMut for Pairs<[Pair; N]> {
    fn deref_mut(&mut self) -> &mut Pairs {
        self
    }
}

impl Pairs {
    /// Forget what is in it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Add a pair; `false` when there is no room.
    pub fn push(&mut self, gfn: Gfn, mfn: Mfn) -> bool {
        match self.items.get_mut(self.len as usize) {
            Some(item) => {
                *item = Pair {
                    gfn: gfn.0,
                    mfn: mfn.0,
                };
                self.len = self.len.wrapping_add(1);
                true
            }
            None => false,
        }
    }

    /// Add `pairs`, as many as there is room for.
    pub(crate) fn append(&mut self, pairs: &[Pair]) {
        let room = self.items.get_mut(self.len as usize..).unwrap_or(&mut []);
        let added = room.len().min(pairs.len());

        for (item, pair) in room.iter_mut().zip(pairs) {
            *item = *pair;
        }
        self.len = self.len.wrapping_add(added as u64);
    }

    /// Become the list of the `count` gfns that `read` writes, in its own
    /// memory. It is empty if that fails or if there is no room.
    pub fn fill<E>(
        &mut self,
        count: u64,
        read: impl FnOnce(&mut [u64]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.len = 0;
        let Ok(words) = <[u64]>::mut_from_bytes(self.items.as_mut_bytes()) else {
            return Ok(());
        };
        // They are read into the upper half, and spread out from below: no
        // pair reaches a gfn that was not spread yet.
        let half = words.len() / 2;
        let Some(gfns) = words
            .get_mut(half..)
            .and_then(|w| w.get_mut(..count as usize))
        else {
            return Ok(());
        };

        read(gfns)?;
        for i in 0..count as usize {
            let Some(&gfn) = words.get(half.wrapping_add(i)) else {
                break;
            };
            if let Some([first, second, ..]) = words.get_mut(i.wrapping_mul(2)..) {
                *first = gfn;
                *second = Mfn::INVALID.0;
            }
        }
        self.len = count;
        Ok(())
    }

    /// Let it be what `mfns` says of the gfns from `first` on; empty if it fails.
    pub(crate) fn list<E>(
        &mut self,
        first: Gfn,
        mfns: impl Iterator<Item = Result<Mfn, E>>,
    ) -> Result<(), E> {
        let mut gfn = first.0;

        self.len = 0;
        for (item, mfn) in self.items.iter_mut().zip(mfns) {
            *item = Pair { gfn, mfn: mfn?.0 };
            gfn = gfn.wrapping_add(1);
        }
        self.len = gfn.wrapping_sub(first.0);
        Ok(())
    }

    /// The same, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [Pair] {
        self.items.get_mut(..self.len as usize).unwrap_or(&mut [])
    }

    /// Forget the pairs for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&Pair) -> bool) {
        let mut kept = 0;

        for i in 0..self.len {
            let Some(pair) = self.items.get(i as usize).copied() else {
                break;
            };
            if keep(&pair) {
                if let Some(slot) = self.items.get_mut(kept as usize) {
                    *slot = pair;
                }
                kept = u64::wrapping_add(kept, 1);
            }
        }
        self.len = kept;
    }

    /// Become the list of the regions whose parts it names, 2^`parts` for each: what
    /// the first of them has behind it is what the region has.
    pub(crate) fn be_regions(&mut self, parts: Order) {
        let regions = parts.blocks_in(self.len);

        for i in 0..regions {
            let first = self.items.get(parts.pages_in(i) as usize).copied();
            if let (Some(part), Some(pair)) = (first, self.items.get_mut(i as usize)) {
                *pair = part;
                pair.gfn = part.gfn().region().start().0;
            }
        }
        self.len = regions;
    }

    /// Forget all but the first `len` pairs.
    pub fn truncate(&mut self, len: u64) {
        self.len = self.len.min(len);
    }

    /// What is in it.
    pub fn as_slice(&self) -> &[Pair] {
        self.items.get(..self.len as usize).unwrap_or(&[])
    }

    /// How many pairs.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How many can be added.
    fn room(&self) -> u64 {
        (self.items.len() as u64).saturating_sub(self.len)
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Translations were changed, and TLBs may still hold the old ones.
#[must_use = "stale translations may exist until this is flushed"]
pub struct Pending<X: Loss>(PhantomData<fn(X)>);

impl<X: Loss> Pending<X> {
    /// Nothing is pending yet: to be handed to what changes translations.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Pending(PhantomData)
    }

    /// For the implementor of [`Locked::flush`]: the flush is complete.
    pub fn flushed(self) -> Flushed {
        mem::forget(self);
        Flushed(())
    }

    /// End it without a flush, on a path on which no translation was changed.
    pub fn unused(self) {
        mem::forget(self);
    }
}

impl<X: Loss> Drop for Pending<X> {
    fn drop(&mut self) {
        X::lost("a pending TLB flush");
    }
}

/// Proof that a flush has completed in this lock hold.
pub struct Flushed(());

/// The table of 4 KiB entries of a region, out of the tree: guests that touch
/// the region wait for the lock. It has to be put back ([`Locked::attach`]) or
/// replaced by a leaf ([`Locked::conclude`]) before the lock is dropped.
#[must_use = "the region is not mapped until this is ended"]
pub struct Detached<X: Loss> {
    region: Region,
    entry: Entry,
    loss: PhantomData<fn(X)>,
}

impl<X: Loss> Detached<X> {
    /// For the implementor of [`Locked::detach`]: `entry` led to the table.
    pub fn new(region: Region, entry: Entry) -> Self {
        Detached {
            region,
            entry,
            loss: PhantomData,
        }
    }

    /// The region.
    pub fn region(&self) -> Region {
        self.region
    }

    /// What led to the table.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// For the implementor of [`Locked`]: the region is mapped again.
    pub fn ended(self) {
        mem::forget(self);
    }
}

impl<X: Loss> Drop for Detached<X> {
    fn drop(&mut self) {
        X::lost("a page table");
    }
}

/// The pairs of a list, their machine frames frozen.
#[must_use = "frozen frames have to be thawed or retired"]
pub struct Frozen<'l, X: Loss> {
    /// `None` once ended.
    list: Option<&'l mut Pairs>,
    loss: PhantomData<fn(X)>,
}

impl<'l, X: Loss> Frozen<'l, X> {
    fn new(list: &'l mut Pairs) -> Self {
        Frozen {
            list: Some(list),
            loss: PhantomData,
        }
    }

    /// No frame yet; `list` is cleared.
    pub fn none(list: &'l mut Pairs) -> Self {
        list.clear();
        Self::new(list)
    }

    /// Freeze the frame `mfn`, which is mapped at `gfn`. A second try at the
    /// same frame fails: this is how duplicates are found.
    pub fn freeze<L>(&mut self, locked: &mut L, gfn: Gfn, mfn: Mfn) -> Result<(), Reason>
    where
        L: Locked<Loss = X>,
    {
        match &mut self.list {
            Some(list) if list.room() > 0 => {
                locked.freeze(gfn, mfn)?;
                list.push(gfn, mfn);
                Ok(())
            }
            _ => Err(Reason::Vanished),
        }
    }

    /// Freeze every frame of `list`, or none.
    pub fn freeze_all<L>(locked: &mut L, list: &'l mut Pairs) -> Result<Self, Reason>
    where
        L: Locked<Loss = X>,
    {
        let (done, failed) = locked.freeze_all(list.as_slice());

        list.truncate(done);
        let frozen = Self::new(list);
        match failed {
            Ok(()) => Ok(frozen),
            Err(reason) => {
                frozen.thaw(locked);
                Err(reason)
            }
        }
    }

    /// The pairs.
    pub fn pairs(&self) -> &[Pair] {
        self.list.as_deref().map_or(&[], Pairs::as_slice)
    }

    /// Give those frames their reference back whose place in the list `stays`
    /// names: they hold another page now, and stay the domain's.
    pub fn thaw_some<L>(&mut self, locked: &mut L, stays: impl Fn(u64) -> bool)
    where
        L: Locked<Loss = X>,
    {
        if let Some(list) = &mut self.list {
            let mut index = 0;

            list.retain(|pair| {
                let stays = stays(index);
                if stays {
                    locked.thaw(pair.mfn());
                }
                index = u64::wrapping_add(index, 1);
                !stays
            });
        }
    }

    /// Give each frame its reference back.
    pub fn thaw<L: Locked<Loss = X>>(mut self, locked: &mut L) {
        if let Some(list) = self.list.take() {
            for pair in list.as_slice() {
                locked.thaw(pair.mfn());
            }
        }
    }

    /// Nothing maps these frames any more and no TLB remembers them.
    pub fn retire(mut self, _: &Flushed) -> Retired<'l, X> {
        Retired {
            list: self.list.take(),
            loss: PhantomData,
        }
    }
}

impl<X: Loss> Drop for Frozen<'_, X> {
    fn drop(&mut self) {
        if self.list.is_some() {
            X::lost("frozen frames");
        }
    }
}

/// Frames that are only waiting for the lock to be dropped.
#[must_use = "retired frames have to be freed"]
pub struct Retired<'l, X: Loss> {
    /// `None` once ended.
    list: Option<&'l mut Pairs>,
    loss: PhantomData<fn(X)>,
}

impl<'l, X: Loss> Retired<'l, X> {
    /// No frame yet; `list` is cleared.
    pub fn none(list: &'l mut Pairs) -> Self {
        list.clear();
        Retired {
            list: Some(list),
            loss: PhantomData,
        }
    }

    /// Wait for `others`, to be freed with them; if there is no room for so many,
    /// these are freed now.
    pub fn join<M: Machine<Loss = X>>(&mut self, machine: &mut M, mut others: Retired<'_, X>) {
        let (Some(list), Some(more)) = (&mut self.list, others.list.take()) else {
            return;
        };

        if list.room() < more.len() {
            free(machine, list.as_slice(), Order::PAGE);
            list.clear();
        }
        list.append(more.as_slice());
    }

    /// Give them to the heap, in blocks of up to `order` where frames stand in the
    /// list in order and aligned.
    pub fn free<M: Machine<Loss = X>>(mut self, machine: &mut M, order: Order) {
        if let Some(list) = self.list.take() {
            free(machine, list.as_slice(), order);
        }
    }
}

/// What [`Retired::free`] does.
fn free<M: Machine>(machine: &mut M, list: &[Pair], order: Order) {
    let mut rest = list;

    while !rest.is_empty() {
        let (pages, others) = singles(rest, order);

        for some in pages.chunks(REGION_PAGES as usize) {
            machine.free_retired_pages(some);
        }
        rest = others;
        if let Some(first) = rest.first() {
            let block = block(rest, order);

            machine.free_retired(first.mfn(), block);
            rest = rest.get(block.pages() as usize..).unwrap_or(&[]);
        }
    }
}

/// The pages that come before the first block of more than one.
fn singles(list: &[Pair], order: Order) -> (&[Pair], &[Pair]) {
    let pairs = list.windows(2);
    let first = match order {
        Order::PAGE => None,
        _ => pairs
            .into_iter()
            .position(|pair| is_pair_of(pair, Order::PAGE)),
    };

    first
        .and_then(|first| list.split_at_checked(first))
        .unwrap_or((list, &[]))
}

/// The largest block of up to `order` with which the list begins.
fn block(list: &[Pair], order: Order) -> Order {
    let mut block = Order::PAGE;

    while block < order && is_pair_of(list, block) {
        block = block.larger();
    }
    block
}

/// The list begins with a block of twice `order`, if it begins with one of
/// `order`.
fn is_pair_of(list: &[Pair], order: Order) -> bool {
    let (first, size) = (list.first().map(Pair::mfn), order.pages());
    let upper = list.get(size as usize..order.larger().pages() as usize);

    match (first, upper) {
        (Some(first), Some(upper)) => {
            first.is_aligned(order.larger())
                && (size..u64::MAX)
                    .zip(upper)
                    .all(|(i, p)| p.mfn() == first.add(i))
        }
        _ => false,
    }
}

impl<X: Loss> Drop for Retired<'_, X> {
    fn drop(&mut self) {
        if self.list.is_some() {
            X::lost("retired frames");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_filled_in_its_own_memory() {
        for count in [0, 1, 2, 255, 256, 257, 511, 512] {
            let mut list = List::new();
            let read = |gfns: &mut [u64]| {
                for (i, gfn) in (0..).zip(gfns) {
                    *gfn = 1000 + i * i;
                }
                Ok::<(), ()>(())
            };

            list.fill(count, read).unwrap();
            assert_eq!(list.len(), count);
            for (i, pair) in (0..).zip(list.as_slice()) {
                assert_eq!((pair.gfn(), pair.mfn()), (Gfn(1000 + i * i), Mfn::INVALID));
            }
        }
    }

    #[test]
    fn what_cannot_be_read_or_has_no_room_leaves_an_empty_list() {
        let mut list = List::new();

        list.push(Gfn(1), Mfn(1));
        assert_eq!(list.fill(3, |_| Err(5)), Err(5));
        assert!(list.is_empty());
        list.push(Gfn(1), Mfn(1));
        assert_eq!(list.fill(513, |_| Ok::<(), ()>(())), Ok(()));
        assert!(list.is_empty());
    }

    fn list(mfns: impl IntoIterator<Item = u64>) -> List {
        let mut list = List::new();

        for (gfn, mfn) in (0..).zip(mfns) {
            assert!(list.push(Gfn(gfn), Mfn(mfn)));
        }
        list
    }

    #[test]
    fn a_list_is_empty_or_not() {
        assert!(List::new().is_empty());
        assert!(!list([7]).is_empty());
        let mut full = list(0..REGION_PAGES);
        assert!(full.room() == 0 && !full.push(Gfn(0), Mfn(0)));
        full.truncate(REGION_PAGES - 1);
        assert_eq!(full.room(), 1);
    }

    #[test]
    fn blocks_are_as_large_as_frames_and_the_call_allow() {
        let order = |n| Order::new(n).unwrap();
        let of =
            |mfns: &[u64], most| block(list(mfns.iter().copied()).as_slice(), order(most)).log2();

        assert_eq!(
            block(list(512..1024).as_slice(), Order::REGION),
            Order::REGION
        );
        assert_eq!(
            block(list(513..1025).as_slice(), Order::REGION),
            Order::PAGE
        );
        assert_eq!(of(&[8, 9, 10, 11, 12, 13, 14, 15], 9), 3);
        assert_eq!(of(&[8, 9, 10, 11, 12, 13, 14, 15], 2), 2);
        assert_eq!(of(&[8, 9, 10, 11, 12, 13, 14, 15], 0), 0);
        // Not aligned, or with a gap.
        assert_eq!(of(&[4, 5, 6, 7, 8, 9, 10, 11], 9), 2);
        assert_eq!(of(&[8, 9, 10, 12], 9), 1);
        assert_eq!(of(&[8, 10], 9), 0);
        assert_eq!(of(&[8], 9), 0);
    }

    #[test]
    fn single_pages_come_before_the_first_block() {
        let all = list([3, 5, 8, 9, 10, 11, 1]);
        let (pages, rest) = singles(all.as_slice(), Order::REGION);
        assert_eq!((pages.len(), rest.len()), (2, 5));
        // All are, where only pages are wanted.
        let (pages, rest) = singles(all.as_slice(), Order::PAGE);
        assert_eq!((pages.len(), rest.len()), (7, 0));
        let none = list([3, 5, 9, 10]);
        assert_eq!(singles(none.as_slice(), Order::REGION).0.len(), 4);
    }
}
