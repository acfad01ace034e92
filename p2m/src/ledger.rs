// SPDX-License-Identifier: GPL-2.0-only
//! What is remembered of each region: one byte, in leaves of one GiB.
//!
//! The ledger is fed by events. Whoever writes a p2m entry holds the p2m lock,
//! which protects the ledger too, so an event costs a few instructions and no
//! other lock. Memory is never swept for work; a GiB is walked once, when it is
//! first seen ([`Next::Survey`]), because a domain may have been built, or
//! restored, of 4 KiB pages.
//!
//! A byte is `QDDDEEEE`: Q, the region waits to be looked at; D, the time
//! slot at which it is due, modulo 8; E, its cool-down. A slot lasts
//! [`SLOT`] × 2^E milliseconds, and a region that was healed before waits for
//! between one and two slots of its own before it is looked at again. Each
//! heal adds one to E: a guest that breaks the same regions again and again
//! has them healed half as often each time. Eight bits cannot tell a region
//! that is due from one that has been due for six or seven slots; that one
//! waits for two slots more. The largest E is no cool-down: the region was broken
//! because code in it is executed (XSA-304), and is not made whole again.

use crate::addr::Region;
use core::ops::DerefMut;
use static_assertions::const_assert;
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// Regions in one leaf.
pub const LEAF_REGIONS: usize = 512;

/// How many GiB a ledger reaches at most: 16 TiB, a root of 256 KiB. Regions
/// above are not coalesced; a guest could ask for any length of root by mapping
/// one page there.
pub const REACH_MAX: u64 = 16 << 10;

/// log2 of the length of a slot of a region with no cool-down, in ms.
const SLOT_LOG2: u32 = 3;

/// The length of a slot of a region with no cool-down, in ms.
pub const SLOT: u64 = 1 << SLOT_LOG2;

/// Largest exponent: a slot of 131 s.
const COOL_MAX: u8 = 14;

/// In the place of the exponent: not to be made whole at all.
const EXECUTED: u8 = 15;

const QUEUED: u8 = 0x80;
const DUE_SHIFT: u32 = 4;
const DUE_MASK: u8 = 0x70;
const COOL_MASK: u8 = 0x0f;

/// What is remembered of one GiB. All zero is a good first state.
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Leaf {
    /// How many bytes have `QUEUED` set.
    queued: u16,
    /// Where the last search ended.
    cursor: u16,
    regions: [u8; LEAF_REGIONS],
}

// SPEC: at most 0.6 KiB per GiB of guest, the slot in the root included.
const_assert!(core::mem::size_of::<Leaf>() + core::mem::size_of::<Slot<&mut Leaf>>() <= 614);

impl Default for Leaf {
    fn default() -> Self {
        Leaf {
            queued: 0,
            cursor: 0,
            regions: [0; LEAF_REGIONS],
        }
    }
}

/// One GiB in the root.
#[derive(Clone, Debug, Default)]
pub enum Slot<L> {
    /// Nothing has happened there that would need remembering.
    #[default]
    Quiet,
    /// Something has happened, or it was never looked at: a leaf is needed.
    Wanted,
    /// Known.
    Known(L),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look at this region; it is not queued any more.
    Look(Region),
    /// Get a leaf for this GiB and walk it once.
    Survey(u64),
    /// The root is too short for this GiB.
    Grow(u64),
    /// Something is cooling: try again after so many milliseconds.
    Wait(u64),
    /// Nothing at all.
    Idle,
}

/// What the core does with a ledger, whatever memory it lives in.
pub trait Ledger {
    /// A 4 KiB RAM entry was written in `region` at `now` (ms).
    fn touch(&mut self, region: Region, now: u64);
    /// `region` became one leaf, or empty, without our doing.
    fn settled(&mut self, region: Region);
    /// We made `region` whole: it cools longer, should it break again.
    fn healed(&mut self, region: Region);
    /// `region` could not be healed for a reason that may go away without an
    /// event: look again later, and later each time.
    fn retry(&mut self, region: Region, now: u64);
    /// The next thing to do at `now` (ms).
    fn next(&mut self, now: u64) -> Next;
    /// Regions waiting.
    fn queued(&self) -> u64;
    /// `region` was broken because code in it is executed, and would be again.
    fn executed(&mut self, region: Region);
    /// The same was told before, and `region` did not become one leaf or empty since.
    fn is_executed(&mut self, region: Region) -> bool;
}

/// The ledger of one domain: `R` owns the root, `L` a leaf.
#[derive(Clone, Debug)]
pub struct Book<R> {
    root: R,
    /// Regions queued in all leaves.
    queued: u64,
    /// Slots `Wanted`.
    wanted: u64,
    /// The largest GiB that an event wanted and that the root does not reach.
    beyond: u64,
    /// Where the next search begins, for fairness among the leaves.
    cursor: u64,
}

impl<R, L> Book<R>
where
    R: DerefMut<Target = [Slot<L>]>,
    L: DerefMut<Target = Leaf>,
{
    /// A ledger over `root`, in which every GiB is to be surveyed.
    pub fn new(mut root: R) -> Self {
        let mut wanted = 0u64;

        for slot in root.iter_mut() {
            *slot = Slot::Wanted;
            wanted = wanted.wrapping_add(1);
        }
        Book {
            root,
            queued: 0,
            wanted,
            beyond: 0,
            cursor: 0,
        }
    }

    /// Move to a longer root; the old one is returned, empty. A shorter one is
    /// returned as it came.
    pub fn grow(&mut self, mut root: R) -> R {
        if root.len() > self.root.len() {
            for (new, old) in root.iter_mut().zip(self.root.iter_mut()) {
                core::mem::swap(new, old);
            }
            core::mem::swap(&mut root, &mut self.root);
            // The events that wanted it were not only in its last GiB.
            let from = root.len();
            let to = usize::try_from(self.beyond).unwrap_or(usize::MAX);
            for slot in self.root.iter_mut().take(to.saturating_add(1)).skip(from) {
                *slot = Slot::Wanted;
                self.wanted = self.wanted.wrapping_add(1);
            }
            self.beyond = 0;
        }
        root
    }

    /// Everything has to be surveyed again: events may have been missed.
    pub fn forget(&mut self) {
        for slot in self.root.iter_mut() {
            *slot = Slot::Wanted;
        }
        self.queued = 0;
        self.wanted = self.reach();
    }

    /// Length of the root, in GiB.
    pub fn reach(&self) -> u64 {
        self.root.len() as u64
    }

    /// Install the leaf that [`Next::Survey`] asked for. It is given back if
    /// it is not wanted any more.
    pub fn survey(&mut self, gib: u64, leaf: L) -> Option<L> {
        match self.slot(gib) {
            Some(slot @ Slot::Wanted) => {
                *slot = Slot::Known(leaf);
                self.wanted = self.wanted.saturating_sub(1);
                None
            }
            _ => Some(leaf),
        }
    }

    /// The survey of `gib` found nothing to remember.
    pub fn quiet(&mut self, gib: u64) {
        if let Some(slot @ Slot::Wanted) = self.slot(gib) {
            *slot = Slot::Quiet;
            self.wanted = self.wanted.saturating_sub(1);
        }
    }

    fn slot(&mut self, gib: u64) -> Option<&mut Slot<L>> {
        self.root.get_mut(usize::try_from(gib).ok()?)
    }

    /// Change the byte of `region`, if it is known, keeping the counts right.
    fn change(&mut self, region: Region, f: impl FnOnce(u8) -> u8) {
        let Some(Slot::Known(leaf)) = self.slot(gib_of(region)) else {
            return;
        };
        let Some(byte) = leaf.regions.get_mut(index_of(region)) else {
            return;
        };
        let old = *byte;
        let new = f(old);

        *byte = new;
        match (old & QUEUED != 0, new & QUEUED != 0) {
            (false, true) => {
                leaf.queued = leaf.queued.wrapping_add(1);
                self.queued = self.queued.wrapping_add(1);
            }
            (true, false) => {
                leaf.queued = leaf.queued.wrapping_sub(1);
                self.queued = self.queued.wrapping_sub(1);
            }
            _ => {}
        }
    }

    fn find(&mut self, now: u64) -> Next {
        let len = self.reach();
        let mut coolest = u8::MAX;

        for step in 0..len {
            let gib = self.cursor.wrapping_add(step).checked_rem(len).unwrap_or(0);
            match self.slot(gib) {
                Some(Slot::Wanted) => return Next::Survey(gib),
                Some(Slot::Known(leaf)) if leaf.queued > 0 => match leaf.find(now) {
                    Ok(index) => {
                        self.cursor = gib;
                        let region = Region(gib.wrapping_shl(9).wrapping_add(index));
                        self.change(region, |b| b & !QUEUED);
                        return Next::Look(region);
                    }
                    Err(cool) => coolest = coolest.min(cool),
                },
                _ => {}
            }
        }
        if coolest == u8::MAX {
            Next::Idle
        } else {
            Next::Wait(SLOT.wrapping_shl(coolest.into()))
        }
    }
}

impl<R, L> Ledger for Book<R>
where
    R: DerefMut<Target = [Slot<L>]>,
    L: DerefMut<Target = Leaf>,
{
    fn touch(&mut self, region: Region, now: u64) {
        let gib = gib_of(region);
        match self.slot(gib) {
            Some(Slot::Known(_)) => self.change(region, |byte| {
                if byte & QUEUED != 0 {
                    byte
                } else {
                    enqueue(byte, now)
                }
            }),
            Some(slot @ Slot::Quiet) => {
                *slot = Slot::Wanted;
                self.wanted = self.wanted.wrapping_add(1);
            }
            Some(Slot::Wanted) => {}
            None if gib < REACH_MAX => self.beyond = self.beyond.max(gib),
            None => {}
        }
    }

    fn settled(&mut self, region: Region) {
        self.change(region, |byte| match byte & COOL_MASK {
            EXECUTED => 0,
            _ => byte & !QUEUED,
        });
    }

    fn executed(&mut self, region: Region) {
        self.change(region, |_| EXECUTED);
    }

    fn is_executed(&mut self, region: Region) -> bool {
        match self.slot(gib_of(region)) {
            Some(Slot::Known(leaf)) => leaf
                .regions
                .get(index_of(region))
                .is_some_and(|byte| byte & COOL_MASK == EXECUTED),
            _ => false,
        }
    }

    fn healed(&mut self, region: Region) {
        self.change(region, |byte| hotter(byte) & !QUEUED);
    }

    fn retry(&mut self, region: Region, now: u64) {
        self.change(region, |byte| enqueue(hotter(byte), now));
    }

    fn next(&mut self, now: u64) -> Next {
        if self.beyond >= self.reach() && self.beyond != 0 {
            Next::Grow(self.beyond)
        } else if self.queued == 0 && self.wanted == 0 {
            Next::Idle
        } else {
            self.find(now)
        }
    }

    fn queued(&self) -> u64 {
        self.queued.wrapping_add(self.wanted)
    }
}

impl Leaf {
    /// The index of a region that is due, or the smallest cool-down of those
    /// that wait.
    fn find(&mut self, now: u64) -> Result<u64, u8> {
        let mut coolest = u8::MAX;
        let (head, tail) = self
            .regions
            .split_at_checked(usize::from(self.cursor))
            .unwrap_or((&[], &self.regions));
        let from_cursor = (u64::from(self.cursor)..LEAF_REGIONS as u64)
            .zip(tail)
            .chain((0..LEAF_REGIONS as u64).zip(head));

        for (index, &byte) in from_cursor {
            if byte & QUEUED != 0 {
                if ripe(byte, now) {
                    self.cursor = index as u16;
                    return Ok(index);
                }
                coolest = coolest.min(byte & COOL_MASK);
            }
        }
        Err(coolest)
    }
}

fn gib_of(region: Region) -> u64 {
    region.0 >> 9
}

fn index_of(region: Region) -> usize {
    (region.0 % LEAF_REGIONS as u64) as usize
}

/// The number of the time slot, modulo 8, for a region as cool as `byte` says.
fn slot_number(byte: u8, now: u64) -> u8 {
    let log2 = SLOT_LOG2.wrapping_add(u32::from(byte & COOL_MASK));

    (now.wrapping_shr(log2) & 7) as u8
}

fn enqueue(byte: u8, now: u64) -> u8 {
    let due = slot_number(byte, now).wrapping_add(2) & 7;

    QUEUED | due.wrapping_shl(DUE_SHIFT) | (byte & COOL_MASK)
}

fn ripe(byte: u8, now: u64) -> bool {
    let due = (byte & DUE_MASK) >> DUE_SHIFT;
    let left = due.wrapping_sub(slot_number(byte, now)) & 7;

    matches!(byte & COOL_MASK, 0 | EXECUTED) || !matches!(left, 1 | 2)
}

fn hotter(byte: u8) -> u8 {
    let cool = (byte & COOL_MASK).saturating_add(1).min(COOL_MAX);

    (byte & !COOL_MASK) | cool
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn book(gib: usize) -> Book<Box<[Slot<Box<Leaf>>]>> {
        let mut book = Book::new((0..gib).map(|_| Slot::Quiet).collect());
        for g in 0..gib as u64 {
            assert!(book.survey(g, Box::default()).is_none());
        }
        book
    }

    #[test]
    fn new_book_asks_for_a_survey_of_everything() {
        let mut b: Book<Box<[Slot<Box<Leaf>>]>> = Book::new((0..2).map(|_| Slot::Quiet).collect());

        assert_eq!(b.next(0), Next::Survey(0));
        b.quiet(0);
        assert_eq!(b.next(0), Next::Survey(1));
        b.quiet(1);
        assert_eq!(b.next(0), Next::Idle);
        b.touch(Region(3), 0);
        assert_eq!(b.next(0), Next::Survey(0));
    }

    #[test]
    fn first_look_is_at_once_and_once() {
        let mut b = book(1);

        b.touch(Region(7), 0);
        b.touch(Region(7), 0);
        assert_eq!(b.queued(), 1);
        assert_eq!(b.next(0), Next::Look(Region(7)));
        assert_eq!(b.next(0), Next::Idle);
    }

    #[test]
    fn cool_down_doubles() {
        let mut b = book(1);
        let mut last = 0;

        for round in 0..8 {
            b.touch(Region(1), 0);
            let mut now = 0;
            while b.next(now) != Next::Look(Region(1)) {
                now += 1;
                assert!(now < 1 << 20);
            }
            assert!(round == 0 && now == 0 || now >= 2 * last, "{now} {last}");
            last = now;
            b.healed(Region(1));
        }
    }

    #[test]
    fn event_beyond_the_root_makes_it_grow() {
        let mut b = book(1);

        b.touch(Region(512 * 5), 0);
        assert_eq!(b.next(0), Next::Grow(5));
        let old = b.grow((0..6).map(|_| Slot::Quiet).collect());
        assert_eq!(old.len(), 1);
        b.quiet(1);
        b.quiet(2);
        b.quiet(3);
        b.quiet(4);
        assert_eq!(b.next(0), Next::Survey(5));
    }

    #[test]
    fn growing_forgets_no_event() {
        let mut b = book(1);

        b.touch(Region(512 * 2), 0);
        b.touch(Region(512 * 5), 0);
        b.grow((0..6).map(|_| Slot::Quiet).collect());
        for gib in 1..6 {
            assert_eq!(b.next(0), Next::Survey(gib));
            b.quiet(gib);
        }
        assert_eq!(b.next(0), Next::Idle);
    }

    #[test]
    fn the_root_does_not_grow_without_end() {
        let mut b = book(1);

        b.touch(Region(512 * REACH_MAX), 0);
        assert_eq!(b.next(0), Next::Idle);
        b.touch(Region(512 * REACH_MAX - 1), 0);
        assert_eq!(b.next(0), Next::Grow(REACH_MAX - 1));
    }

    #[test]
    fn what_is_executed_is_remembered_until_it_is_one_leaf_again() {
        let mut b = book(1);

        b.touch(Region(9), 0);
        b.executed(Region(9));
        assert_eq!((b.queued(), b.is_executed(Region(9))), (0, true));
        for now in 0..9 {
            // An event has it looked at, so that it can be counted.
            b.touch(Region(9), now << 20);
            assert_eq!(b.next(now << 20), Next::Look(Region(9)));
            assert!(b.is_executed(Region(9)) && !b.is_executed(Region(8)));
        }
        b.settled(Region(9));
        assert!(!b.is_executed(Region(9)));
    }

    #[test]
    fn settled_regions_do_not_wait() {
        let mut b = book(1);

        b.touch(Region(9), 0);
        b.settled(Region(9));
        assert_eq!((b.queued(), b.next(0)), (0, Next::Idle));
    }

    proptest! {
        /// Every touched region is handed out exactly once, whatever the order.
        #[test]
        fn nothing_is_lost(touched in proptest::collection::btree_set(0u64..2048, 0..200)) {
            let mut b = book(4);
            for &r in &touched { b.touch(Region(r), 0); }
            let mut seen = std::collections::BTreeSet::new();
            while let Next::Look(r) = b.next(0) { prop_assert!(seen.insert(r.0)); }
            prop_assert_eq!(seen, touched);
            prop_assert_eq!(b.queued(), 0);
        }

        /// A region that waits is never forgotten: at some time it is ripe.
        #[test]
        fn cooling_ends(byte in 0u8..15, from in 0u64..1 << 40) {
            let queued = enqueue(byte, from);
            let slot = SLOT << byte;
            prop_assert!((0..=3).any(|n| ripe(queued, from + n * slot)));
        }
    }
}
