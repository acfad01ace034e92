// SPDX-License-Identifier: GPL-2.0-only
//! Which page goes where: the moves that bring the pages of a region to their
//! places in one block of machine memory.
//!
//! The place of a page may be one of our own frames (the *stock*: taken from the
//! heap for this), or hold another page of the same domain. That page has to
//! make room first. If it belongs to the region, its turn comes: following the
//! frames that become free, a path of pages costs one copy for each, and a
//! cycle one more. If it belongs elsewhere it moves to a spare frame, and the
//! frame that the page of the region leaves is the next spare one.
//!
//! Planning changes nothing but the lists; it is done under the p2m lock, so what
//! it saw is so.

use crate::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use crate::frames::List;
use crate::machine::{Block, Holder, Kind, Locked, Machine};
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// A set of numbers below 512: slots of a region, or places in a [`List`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Slots([u64; 8]);

impl Slots {
    /// None of them.
    pub const NONE: Slots = Slots([0; 8]);

    /// All slots of a region.
    pub const ALL: Slots = Slots::below(REGION_PAGES);

    /// The numbers below `end`.
    const fn below(end: u64) -> Slots {
        let mut words = [0; 8];
        let mut first = 0u64;
        let mut rest: &mut [u64] = &mut words;

        while let Some((word, more)) = rest.split_first_mut() {
            let left = end.saturating_sub(first);
            *word = if left >= 64 {
                u64::MAX
            } else {
                1u64.wrapping_shl(left as u32).wrapping_sub(1)
            };
            first = first.wrapping_add(64);
            rest = more;
        }
        Slots(words)
    }

    /// A bit for each, 64 in a word.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    fn word(slot: u64) -> usize {
        (slot / 64) as usize
    }

    fn bit(slot: u64) -> u64 {
        1u64.wrapping_shl((slot % 64) as u32)
    }

    /// `slot` is one of them.
    pub fn has(&self, slot: u64) -> bool {
        self.0
            .get(Self::word(slot))
            .is_some_and(|word| word & Self::bit(slot) != 0)
    }

    /// Add `slot`.
    pub fn insert(&mut self, slot: u64) {
        if let Some(word) = self.0.get_mut(Self::word(slot)) {
            *word |= Self::bit(slot);
        }
    }

    /// Take `slot` out.
    pub fn remove(&mut self, slot: u64) {
        if let Some(word) = self.0.get_mut(Self::word(slot)) {
            *word &= !Self::bit(slot);
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().fold(0, |any, word| any | word) == 0
    }

    /// Take out `count` from `first` on, all in one word or in whole words.
    fn remove_run(&mut self, first: u64, count: u64) {
        let mask = match count {
            64.. => u64::MAX,
            _ => 1u64.wrapping_shl(count as u32).wrapping_sub(1),
        };
        let words = Self::word(first)..Self::word(first.wrapping_add(count).wrapping_add(63));

        for word in self.0.get_mut(words).unwrap_or(&mut []) {
            *word &= !mask.wrapping_shl((first % 64) as u32);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |n, word| n.wrapping_add(word.count_ones().into()))
    }

    /// Those and `other`.
    pub fn with(mut self, other: Slots) -> Slots {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        self
    }

    /// Those but not `other`.
    pub fn without(mut self, other: Slots) -> Slots {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= !other;
        }
        self
    }

    /// The lowest `n`.
    pub fn lowest(mut self, n: u64) -> Slots {
        let mut left = n;

        for word in &mut self.0 {
            let mut count = u64::from(word.count_ones());
            if left == 0 {
                *word = 0;
            }
            while count > left && left > 0 {
                // Without its highest.
                *word &= !(1u64 << 63).wrapping_shr(word.leading_zeros());
                count = count.wrapping_sub(1);
            }
            left = left.saturating_sub(count);
        }
        self
    }

    /// The lowest.
    pub fn first(&self) -> Option<u64> {
        (0..8u64)
            .zip(&self.0)
            .find(|(_, word)| **word != 0)
            .map(|(i, word)| {
                i.wrapping_mul(64)
                    .wrapping_add(word.trailing_zeros().into())
            })
    }

    /// Each, from the lowest on.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        (0..8u64).zip(self.0).flat_map(|(i, mut word)| {
            core::iter::from_fn(move || {
                let bit = u64::from(word.trailing_zeros());
                word &= word.wrapping_sub(1);
                (bit < 64).then(|| i.wrapping_mul(64).wrapping_add(bit))
            })
        })
    }

    /// The stretches of `all`, one item for each slot, that these slots are.
    pub fn stretches<'l, T>(&self, all: &'l [T]) -> impl Iterator<Item = &'l [T]> {
        let (mut rest, mut word) = (*self, 0);

        core::iter::from_fn(move || {
            let (first, count) = rest.take_stretch(&mut word)?;
            let from = all.get(first as usize..).unwrap_or(&[]);

            Some(from.get(..count as usize).unwrap_or(from))
        })
    }

    /// How many there are in a row from the lowest, `first`, on.
    fn row(&self, first: u64) -> u64 {
        let mut end = first;

        while let Some(word) = self.0.get(Self::word(end)) {
            let ones = word.wrapping_shr((end % 64) as u32).trailing_ones();
            end = end.wrapping_add(ones.into());
            if ones == 0 || end % 64 != 0 {
                break;
            }
        }
        end.wrapping_sub(first)
    }

    /// Take out the longest stretch that begins with the lowest: the first, and
    /// how many. All words before `from` are empty, and will be.
    fn take_stretch(&mut self, from: &mut u64) -> Option<(u64, u64)> {
        let mut stretch = None;
        let words = self.0.get_mut(*from as usize..).unwrap_or(&mut []);

        for (i, word) in (*from..8).zip(words) {
            let base = i.wrapping_mul(64);
            *from = i;
            let (first, count) = match stretch {
                None if *word == 0 => continue,
                None => (base.wrapping_add(word.trailing_zeros().into()), 0),
                Some(begun) => begun,
            };
            // It ends in this word, or goes on in the next.
            let at = if count > 0 { 0 } else { word.trailing_zeros() };
            let ones = word.wrapping_shr(at).trailing_ones();
            *word &= word.wrapping_add(1u64.wrapping_shl(at));
            stretch = Some((first, u64::wrapping_add(count, ones.into())));
            if u32::wrapping_add(at, ones) < 64 {
                break;
            }
        }
        stretch
    }

    /// Take out the largest aligned run that begins with the lowest.
    pub fn take_run(&mut self) -> Option<(u64, Order)> {
        let first = self.first()?;
        let row = self.row(first);
        let log2 = row.checked_ilog2().unwrap_or(0).min(first.trailing_zeros());
        let order = Order::new(log2).map_or(Order::PAGE, |order| order.min(Order::REGION));

        self.remove_run(first, order.pages());
        Some((first, order))
    }
}

/// Frames of one aligned block of 2 MiB that the allocator gave us and that
/// belong to no domain yet. They have to be given to a domain or freed.
#[derive(Debug)]
#[must_use = "frames that are dropped are lost to the machine"]
pub struct Stock {
    home: Mfn,
    slots: Slots,
}

impl Stock {
    /// No frame of the block that begins at `home`.
    pub fn none(home: Mfn) -> Self {
        Stock {
            home,
            slots: Slots::default(),
        }
    }

    /// All of `block`, which is of [`Order::REGION`].
    pub fn all(block: Block) -> Self {
        Stock {
            home: block.into_list(),
            slots: Slots::ALL,
        }
    }

    /// The first frame of the block, ours or not.
    pub fn home(&self) -> Mfn {
        self.home
    }

    /// Which frames are ours.
    pub fn slots(&self) -> Slots {
        self.slots
    }

    /// Take those of `slots` that are free from the heap. `false`: some are not.
    pub fn fetch<M: Machine>(&mut self, machine: &mut M, slots: Slots) -> bool {
        let lacking = slots.without(self.slots);
        let got = machine.alloc_places(self.home, lacking);

        self.slots = self.slots.with(got);
        lacking.without(got).is_empty()
    }

    /// Make the frames at `used` the domain's. On failure, which means that it
    /// is dying, some may be: those are not ours any more, and are returned.
    pub fn assign<L: Locked>(&mut self, locked: &mut L, used: Slots) -> Result<(), u64> {
        let result = locked.assign_places(self.home, used);
        let assigned = result.map_or_else(|assigned| assigned, |()| used);

        self.slots = self.slots.without(assigned);
        result.map_err(|assigned| assigned.count())
    }

    /// Give what is left back to the heap: `free` gets it.
    pub fn free(mut self, mut free: impl FnMut(Block)) {
        while let Some((slot, order)) = self.slots.take_run() {
            free(Block::from_allocator(self.home.add(slot), order));
        }
    }
}

/// One copy.
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Move {
    from: u64,
    to: u64,
}

/// Most copies of one plan.
const MOVES_MAX: usize = REGION_PAGES as usize;

/// Copies to be made, one after the other.
#[derive(Debug, FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Moves {
    len: u64,
    items: [Move; MOVES_MAX],
}

impl Moves {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn push(&mut self, from: Mfn, to: Mfn) {
        if let Some(m) = self.items.get_mut(self.len as usize) {
            *m = Move {
                from: from.0,
                to: to.0,
            };
            self.len = self.len.wrapping_add(1);
        }
    }

    /// From and to.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Mfn, Mfn)> + '_ {
        self.items
            .iter()
            .take(self.len as usize)
            .map(|m| (Mfn(m.from), Mfn(m.to)))
    }
}

/// A page of the region is parked in the spare block.
const IN_BLOCK: u16 = u16::MAX;

/// Room for one batch of one region, about 34 KiB: it is memory and nothing else.
#[derive(Debug, FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scratch {
    /// The region's pages by slot: where they are, and after planning where
    /// they are to be.
    pub(crate) pages: List,
    home: u64,
    astray: Slots,
    /// Pages that move, and where they were.
    pub(crate) frozen: List,
    /// Pages of other regions that make room, and where they go.
    pub(crate) evicted: List,
    /// The copies, in the order in which they have to be made.
    pub(crate) moves: Moves,
    /// For a page of the region that was parked, which of `frozen` it lies in.
    parked_in: [u16; REGION_PAGES as usize],
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What a plan comes to; the moves themselves are in [`Scratch`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// Frames of the stock that get a page.
    pub used: Slots,
    /// Slots of the region whose frame changes.
    pub touched: Slots,
    /// Which of the frozen frames get another page and so stay the domain's.
    pub kept: Slots,
    /// Each frozen page goes to its place, and nobody had to make room: there is no list
    /// of moves.
    pub straight: bool,
    /// The spare block got a page and becomes the domain's.
    pub spare_used: bool,
    /// Pages of the region that sit in a spare frame meanwhile.
    parked: Slots,
}

/// A frame with nothing of value in it: the block that was given for this, or
/// the n'th of the frozen ones.
#[derive(Clone, Copy)]
struct Spare {
    mfn: Mfn,
    index: Option<u64>,
}

impl Plan {
    /// `spare` gets a page.
    fn take(&mut self, spare: Spare) {
        match spare.index {
            Some(index) => self.kept.insert(index),
            None => self.spare_used = true,
        }
    }

    /// The page is gone again.
    fn leave(&mut self, spare: Spare) {
        match spare.index {
            Some(index) => self.kept.remove(index),
            None => self.spare_used = false,
        }
    }
}

impl Scratch {
    /// Empty.
    pub const fn new() -> Self {
        Scratch {
            pages: List::new(),
            home: 0,
            astray: Slots::NONE,
            frozen: List::new(),
            evicted: List::new(),
            moves: Moves {
                len: 0,
                items: [Move { from: 0, to: 0 }; MOVES_MAX],
            },
            parked_in: [0; REGION_PAGES as usize],
        }
    }

    /// The frame of the region's page at `slot`.
    pub fn frame(&self, slot: u64) -> Mfn {
        self.pages
            .as_slice()
            .get(slot as usize)
            .map_or(Mfn(u64::MAX), |pair| pair.mfn())
    }

    fn set_frame(&mut self, slot: u64, mfn: Mfn) {
        if let Some(pair) = self.pages.as_mut_slice().get_mut(slot as usize) {
            pair.set_mfn(mfn);
        }
        // Even a spare frame may happen to be the right place.
        if mfn == self.home().add(slot) {
            self.astray.remove(slot);
        } else {
            self.astray.insert(slot);
        }
    }

    /// Note which pages do not lie in their places in `home`.
    pub fn aim(&mut self, home: Mfn) {
        let mut at = home;

        for (word, pages) in self
            .astray
            .0
            .iter_mut()
            .zip(self.pages.as_slice().chunks(64))
        {
            let mut bit = 1u64;
            *word = 0;
            for pair in pages {
                if pair.mfn() != at {
                    *word |= bit;
                }
                bit = bit.wrapping_shl(1);
                at = at.add(1);
            }
        }
        self.home = home.0;
    }

    /// The same for a block that was free up to now: no page lies in it.
    pub fn aim_at_free(&mut self, home: Mfn) {
        self.astray = Slots::ALL;
        self.home = home.0;
    }

    /// How many copies a plan comes to.
    pub(crate) fn copies(&self, plan: &Plan) -> u64 {
        if plan.straight {
            self.frozen.len()
        } else {
            self.moves.len()
        }
    }

    /// The block that was last aimed at.
    pub fn home(&self) -> Mfn {
        Mfn(self.home)
    }

    /// Slots of pages that do not lie, or after planning will not lie, in their
    /// places in it.
    pub fn astray(&self) -> Slots {
        self.astray
    }

    /// There is no room for `more` copies.
    fn full(&self, more: u64, limit: u64) -> bool {
        self.moves.len().saturating_add(more) > limit.min(MOVES_MAX as u64)
            || self.frozen.len().saturating_add(more) > REGION_PAGES
    }

    /// Plan up to `limit` copies that bring pages of `region`, which
    /// [`crate::region::judge`] has just listed, to their places in the block of
    /// `stock`. `spare` is a frame of ours, for pages that have to make room;
    /// `access` the permissions of the region's pages. (Not inlined, to keep the stack
    /// frames small.)
    #[inline(never)]
    pub fn plan<L: Locked>(
        &mut self,
        locked: &mut L,
        region: Region,
        stock: &Stock,
        spare: Option<Mfn>,
        access: u8,
        limit: u64,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut spare = spare.map(|mfn| Spare { mfn, index: None });
        let home = stock.home();

        self.frozen.clear();
        self.evicted.clear();
        self.moves.len = 0;
        let batch = self.astray.lowest(limit);
        if batch.without(stock.slots()).is_empty() {
            return self.straight(batch, home);
        }
        for slot in self.astray.iter() {
            if self.frame(slot) == home.add(slot) {
                // A path has led here.
                continue;
            }
            if stock.slots().has(slot) {
                if self.full(1, limit) {
                    break;
                }
                plan.used.insert(slot);
            } else {
                if self.full(2, limit) {
                    break;
                }
                let Some(room) = spare else { continue };
                if !self.evict(&mut plan, locked, region, home.add(slot), room, access) {
                    continue;
                }
                spare = None;
            }
            let left = self.follow(&mut plan, region, home, slot, limit);
            spare = spare.or(left);
        }
        plan
    }

    /// The places of `batch` are all ours: each page goes there, and nobody has to
    /// make room.
    fn straight(&mut self, batch: Slots, home: Mfn) -> Plan {
        let (mut rest, mut word) = (batch, 0);

        while let Some((first, count)) = rest.take_stretch(&mut word) {
            let slots = first as usize..first.wrapping_add(count) as usize;
            let pages = self.pages.as_mut_slice().get_mut(slots).unwrap_or(&mut []);

            self.frozen.append(pages);
            for (slot, pair) in (first..u64::MAX).zip(pages) {
                pair.set_mfn(home.add(slot));
            }
        }
        self.astray = self.astray.without(batch);
        Plan {
            used: batch,
            touched: batch,
            straight: true,
            ..Plan::default()
        }
    }

    /// Have the page in `frame` move to `room`. `false`: it cannot.
    fn evict<L: Locked>(
        &mut self,
        plan: &mut Plan,
        locked: &mut L,
        region: Region,
        frame: Mfn,
        room: Spare,
        access: u8,
    ) -> bool {
        let Holder::Own(gfn) = locked.holder(frame) else {
            return false;
        };
        if gfn.region() == region {
            let slot = gfn.slot();
            if self.frame(slot) != frame || plan.parked.has(slot) {
                return false;
            }
            if let Some(index) = self.parked_in.get_mut(slot as usize) {
                *index = room.index.map_or(IN_BLOCK, |index| index as u16);
            }
            self.set_frame(slot, room.mfn);
            plan.parked.insert(slot);
            plan.touched.insert(slot);
        } else {
            if !can_make_room(locked, gfn, frame, Some(access)) {
                return false;
            }
            self.evicted.push(gfn, room.mfn);
        }
        plan.take(room);
        plan.kept.insert(self.frozen.len());
        self.frozen.push(gfn, frame);
        self.moves.push(frame, room.mfn);
        true
    }

    /// Move the page at `slot` to its place, which is free; then the one whose
    /// place became free by that, and so on. What is left in the end is a spare
    /// frame.
    fn follow(
        &mut self,
        plan: &mut Plan,
        region: Region,
        home: Mfn,
        slot: u64,
        limit: u64,
    ) -> Option<Spare> {
        let mut slot = slot;

        loop {
            let from = self.frame(slot);
            let left = if plan.parked.has(slot) {
                let index = self.parked_in.get(slot as usize).copied();
                let left = Spare {
                    mfn: from,
                    index: index.filter(|i| *i != IN_BLOCK).map(u64::from),
                };
                plan.parked.remove(slot);
                plan.leave(left);
                left
            } else {
                let index = self.frozen.len();
                self.frozen.push(region.start().add(slot), from);
                Spare {
                    mfn: from,
                    index: Some(index),
                }
            };
            self.moves.push(from, home.add(slot));
            self.set_frame(slot, home.add(slot));
            plan.touched.insert(slot);

            let next = from.slot();
            if from.align(Order::REGION) != home {
                return Some(left);
            }
            if left.index.is_none() || self.full(1, limit) {
                return None;
            }
            plan.take(left);
            slot = next;
        }
    }
}

/// The page at `gfn`, outside the region that is worked on, is one that may be
/// moved out of `frame`: its leaf is a small one, and nothing is special about
/// it. (That nobody has a reference is found when it is frozen.)
pub fn can_make_room<L: Locked>(locked: &mut L, gfn: Gfn, frame: Mfn, access: Option<u8>) -> bool {
    let found = locked.lookup(gfn);

    found.kind == Kind::Ram(frame)
        && found.order == Order::PAGE
        && access.is_none_or(|access| access == found.access)
        && !locked.log_dirty_range(gfn.region())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn slots(of: &BTreeSet<u64>) -> Slots {
        let mut slots = Slots::NONE;
        of.iter().for_each(|&slot| slots.insert(slot));
        slots
    }

    /// Sets with long rows in them, as frames have them.
    fn some() -> impl Strategy<Value = BTreeSet<u64>> {
        proptest::collection::vec((0u64..512, 1u64..200), 0..12).prop_map(|rows| {
            rows.iter()
                .flat_map(|&(first, count)| first..(first + count).min(512))
                .collect()
        })
    }

    /// Those from `first` on, up to `end`.
    fn row(first: u64, end: u64) -> Slots {
        Slots::below(end).without(Slots::below(first))
    }

    #[test]
    fn a_word_has_a_bit_for_each() {
        assert_eq!(Slots::ALL.words(), [u64::MAX; 8]);
        for slot in 0..512 {
            let mut one = Slots::NONE;
            one.insert(slot);
            let words = one.words().iter().copied();
            let expected = (0..8u64).map(|i| if i == slot / 64 { 1 << (slot % 64) } else { 0 });
            assert!(words.eq(expected), "{slot}");
        }
    }

    #[test]
    fn the_largest_run_that_fits_is_taken() {
        for first in 0..512u64 {
            for end in first + 1..=512 {
                let mut slots = row(first, end);
                let (at, order) = slots.take_run().unwrap();
                let fits = |order: Order| order.aligns(first) && first + order.pages() <= end;
                assert!(at == first && fits(order), "{first}..{end}: {order:?}");
                let larger = order < Order::REGION && fits(order.larger());
                assert!(!larger, "{first}..{end}: {order:?}");
                assert_eq!(slots, row(first + order.pages(), end));
            }
        }
        // What comes after a gap does not count.
        let mut slots = row(64, 320).without(row(200, 201));
        assert_eq!(slots.take_run(), Some((64, Order::new(6).unwrap())));
        assert_eq!(slots.take_run(), Some((128, Order::new(6).unwrap())));
        assert_eq!(slots.take_run(), Some((192, Order::new(3).unwrap())));
        assert_eq!(slots.take_run(), Some((201, Order::PAGE)));
    }

    #[test]
    fn a_plan_is_full_when_it_has_as_many_copies_as_it_may_and_pages_as_it_can() {
        let mut scratch = Scratch::new();
        for i in 0..REGION_PAGES {
            for (limit, most) in [(8, 8), (100, 100), (512, 512), (9999, 512)] {
                assert_eq!(scratch.full(1, limit), i + 1 > most, "{i} of {limit}");
                assert_eq!(scratch.full(2, limit), i + 2 > most, "{i} of {limit}");
            }
            scratch.moves.push(Mfn(i), Mfn(1024 + i));
        }
        assert!(scratch.full(1, 512));
        scratch.moves.len = 0;
        for i in 0..=REGION_PAGES {
            assert_eq!(scratch.full(1, 512), i + 1 > 512, "{i} pages");
            assert_eq!(scratch.full(2, 512), i + 2 > 512, "{i} pages");
            scratch.frozen.push(Gfn(i), Mfn(i));
        }
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(of in some(), other in some(), n in 0u64..600) {
            let (a, b) = (slots(&of), slots(&other));

            prop_assert_eq!(a.iter().collect::<Vec<_>>(), of.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(a.count(), of.len() as u64);
            prop_assert_eq!(a.is_empty(), of.is_empty());
            prop_assert_eq!(a.first(), of.first().copied());
            prop_assert_eq!(a.with(b), slots(&(&of | &other)));
            prop_assert_eq!(a.without(b), slots(&(&of - &other)));
            prop_assert_eq!(a.lowest(n), slots(&of.iter().copied().take(n as usize).collect()));
        }

        #[test]
        fn runs_and_stretches_are_all_of_it(of in some()) {
            let all: Vec<u64> = (0..512).collect();
            let mut rest = slots(&of);
            let mut seen = Vec::new();
            while let Some((first, order)) = rest.take_run() {
                prop_assert!(order.aligns(first));
                seen.extend(first..first + order.pages());
            }
            prop_assert!(rest.is_empty());
            prop_assert!(seen.iter().eq(of.iter()));

            let stretches: Vec<&[u64]> = slots(&of).stretches(&all).collect();
            for pair in stretches.windows(2) {
                prop_assert!(pair[0].last().unwrap() + 1 < pair[1][0]);
            }
            prop_assert!(stretches.iter().copied().flatten().eq(of.iter()));
        }
    }
}
