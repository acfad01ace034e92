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
//!
//! Without Q, D is the class of a region that is *deferred*: a look found that
//! to make it whole takes copies, and others wait that may take fewer. The
//! classes are octaves of that number. A deferred region is handed out when nobody
//! waits who was not looked at yet, those of the lower classes first; each class
//! has a patience, and who has waited for so long goes before those who came
//! later, whatever they take.
//!
//! Which leaf has somebody who is due is not searched for: they take part in two
//! tournaments ([`crate::due`]), one for those who wait and one for the deferred. So
//! what an event costs does not depend on how much memory there is.

use crate::addr::{REGION_PAGES, Region};
use crate::due::{self, Due, Entrant, Place};
use core::ops::DerefMut;
use static_assertions::const_assert;
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// Regions in one leaf.
pub const LEAF_REGIONS: usize = 512;

/// How many GiB a ledger reaches at most: 16 TiB, a root of 384 KiB. Regions
/// above are not coalesced; a guest could ask for any length of root by mapping
/// one page there.
pub const REACH_MAX: u64 = 16 << 10;

/// log2 of the length of a slot of a region with no cool-down, in ms.
const SLOT_LOG2: u32 = 3;

/// The length of a slot of a region with no cool-down, in ms; and the unit of
/// [`Due`].
pub const SLOT: u64 = 1 << SLOT_LOG2;

/// Largest exponent: a slot of 131 s.
const COOL_MAX: u8 = 14;

/// In the place of the exponent: not to be made whole at all.
const EXECUTED: u8 = 15;

const QUEUED: u8 = 0x80;
const DUE_SHIFT: u32 = 4;
const DUE_MASK: u8 = 0x70;
const COOL_MASK: u8 = 0x0f;

/// Classes of regions that are deferred.
const CLASSES: usize = 7;

/// An act with so many copies is carried out at once: to look again would cost as
/// much. (8; the classes are the octaves above.)
pub const CHEAP: u64 = REGION_PAGES.div_ceil(64);

/// The patience of class n is 2^n times this, in units of [`SLOT`]: 256 ms to 16 s.
const PATIENCE: u64 = 16;

/// Leaves that are looked into in one go, where none has what it promised.
const TRIES: u32 = 8;

/// What is remembered of one GiB. All zero is a good first state.
#[derive(Clone, Debug, FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Leaf {
    /// How many bytes have `QUEUED` set.
    queued: u16,
    /// How many have a class.
    deferred: u16,
    /// Where the next search for one that waits begins.
    cursor: u16,
    /// The same for one that is deferred.
    late_cursor: u16,
    /// For each class since when somebody of it waits; and a unit later for each
    /// that was served, so that who comes again and again does not keep others
    /// from their turn.
    since: [Due; CLASSES],
    regions: [u8; LEAF_REGIONS],
}

// SPEC: at most 0.6 KiB per GiB of guest, the slot in the root included.
const_assert!(core::mem::size_of::<Leaf>() + core::mem::size_of::<Slot<&mut Leaf>>() <= 614);

impl Default for Leaf {
    fn default() -> Self {
        Leaf {
            queued: 0,
            deferred: 0,
            cursor: 0,
            late_cursor: 0,
            since: [Due::NEVER; CLASSES],
            regions: [0; LEAF_REGIONS],
        }
    }
}

/// The tournament of those who wait, and the number of that of the deferred.
const WAITING: usize = 0;
const LATE: usize = 1;

/// One GiB in the root. Without a leaf it is quiet: nothing has happened there
/// that would need remembering; or wanted, when it is due: something has
/// happened, or it was never looked at.
#[derive(Clone, Debug)]
pub struct Slot<L> {
    leaf: Option<L>,
    /// When the first of those who wait is due, or earlier.
    waiting: Place,
    /// When the patience of the first of the deferred ends, or earlier.
    late: Place,
}

impl<L> Default for Slot<L> {
    fn default() -> Self {
        Slot {
            leaf: None,
            waiting: Place::default(),
            late: Place::default(),
        }
    }
}

impl<L> Slot<L> {
    fn is_wanted(&self) -> bool {
        self.leaf.is_none() && !self.waiting.due().is_never()
    }
}

impl<L> Entrant<WAITING> for Slot<L> {
    fn place(&self) -> &Place {
        &self.waiting
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.waiting
    }
}

impl<L> Entrant<LATE> for Slot<L> {
    fn place(&self) -> &Place {
        &self.late
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.late
    }
}

/// The slot that is first in a tournament, and its time.
type First = Option<(usize, Due)>;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look at this region; it is not queued any more.
    Look(Region),
    /// The same, and it is not to be deferred again.
    Act(Region),
    /// Get a leaf for this GiB and walk it once.
    Survey(u64),
    /// The root is too short for this GiB; see [`reach_for`].
    Grow(u64),
    /// Ask again, there may be more.
    Again,
    /// Something is cooling: try again after so many milliseconds.
    Wait(u64),
    /// Nothing at all.
    Idle,
}

/// How long, in GiB, to make a root that has to reach `gib`: somewhat longer, so that a
/// domain that grows GiB by GiB does not have it copied each time.
pub fn reach_for(gib: u64) -> u64 {
    gib.saturating_add(1).saturating_add(gib / 8).min(REACH_MAX)
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
    /// To make `region` whole takes so many copies. `true`: it is deferred, for
    /// others wait that may take fewer.
    fn defer(&mut self, region: Region, copies: u64, now: u64) -> bool;
    /// The next thing to do at `now` (ms).
    fn next(&mut self, now: u64) -> Next;
    /// Regions waiting.
    fn queued(&self) -> u64;
    /// `region` was broken because code in it is executed, and would be again.
    fn executed(&mut self, region: Region);
    /// The same was told before, and `region` did not become one leaf or empty since.
    fn is_executed(&mut self, region: Region) -> bool;
}

/// Time that does not go back, even if what it is told does (where the operator
/// changes how fast it goes).
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    last: u64,
    offset: u64,
}

impl Clock {
    fn at(&mut self, now: u64) -> u64 {
        let back = self.last.saturating_sub(now);

        self.offset = self.offset.wrapping_add(back);
        self.last = now;
        now.wrapping_add(self.offset)
    }
}

/// The ledger of one domain: `R` owns the root, `L` a leaf.
#[derive(Clone, Debug)]
pub struct Book<R> {
    root: R,
    clock: Clock,
    /// Regions queued or deferred in all leaves.
    queued: u64,
    /// Slots that are wanted.
    wanted: u64,
    /// The largest GiB that an event wanted and that the root did not reach.
    beyond: u64,
}

impl<R, L> Book<R>
where
    R: DerefMut<Target = [Slot<L>]>,
    L: DerefMut<Target = Leaf>,
{
    /// A ledger over `root`, in which every GiB is to be surveyed.
    pub fn new(root: R, now: u64) -> Self {
        let mut book = Book {
            root,
            clock: Clock::default(),
            queued: 0,
            wanted: 0,
            beyond: 0,
        };
        book.forget(now);
        book
    }

    /// Move to a longer root; the old one is returned, empty. A shorter one is
    /// returned as it came.
    pub fn grow(&mut self, mut root: R, now: u64) -> R {
        let now = Due::at(self.clock.at(now) / SLOT);

        if root.len() > self.root.len() {
            for (new, old) in root.iter_mut().zip(self.root.iter_mut()) {
                core::mem::swap(new, old);
            }
            core::mem::swap(&mut root, &mut self.root);
            // The events that wanted it were not only in its last GiB.
            let from = root.len();
            let to = usize::try_from(self.beyond).unwrap_or(usize::MAX);
            let wanted = to.saturating_add(1).min(self.root.len());
            let more = (wanted.saturating_sub(from)) as u64;
            let mut slot = 0usize;

            due::replay::<WAITING, _>(&mut self.root, |old| {
                let new = (from..wanted).contains(&slot);
                slot = slot.wrapping_add(1);
                if new { now } else { old.waiting.due() }
            });
            due::replay::<LATE, _>(&mut self.root, |old| old.late.due());
            self.wanted = self.wanted.wrapping_add(more);
        }
        root
    }

    /// Everything has to be surveyed again: events may have been missed.
    pub fn forget(&mut self, now: u64) {
        let now = Due::at(self.clock.at(now) / SLOT);

        for slot in self.root.iter_mut() {
            slot.leaf = None;
        }
        due::replay::<WAITING, _>(&mut self.root, |_| now);
        due::replay::<LATE, _>(&mut self.root, |_| Due::NEVER);
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
            Some(slot) if slot.is_wanted() => {
                slot.leaf = Some(leaf);
                self.not_wanted(gib);
                None
            }
            _ => Some(leaf),
        }
    }

    /// The survey of `gib` found nothing to remember.
    pub fn quiet(&mut self, gib: u64) {
        if self.slot(gib).is_some_and(|slot| slot.is_wanted()) {
            self.not_wanted(gib);
        }
    }

    fn not_wanted(&mut self, gib: u64) {
        self.set::<WAITING>(gib, Due::NEVER);
        self.wanted = self.wanted.saturating_sub(1);
    }

    fn slot(&mut self, gib: u64) -> Option<&mut Slot<L>> {
        self.root.get_mut(usize::try_from(gib).ok()?)
    }

    fn set<const N: usize>(&mut self, gib: u64, due: Due)
    where
        Slot<L>: Entrant<N>,
    {
        if let Ok(slot) = usize::try_from(gib) {
            due::set::<N, _>(&mut self.root, slot, due);
        }
    }

    /// Change the byte of `region`, if it is known, keeping the counts right: what
    /// it is, and what the tournaments say of its leaf.
    fn change(&mut self, region: Region, f: impl FnOnce(u8) -> u8) -> Option<u8> {
        let gib = gib_of(region);
        let slot = self.slot(gib)?;
        let (waiting, late) = (slot.waiting.due(), slot.late.due());
        let leaf: &mut Leaf = slot.leaf.as_mut()?;
        let byte = leaf.regions.get_mut(index_of(region))?;
        let old = *byte;
        let new = f(old);

        *byte = new;
        if old == new {
            return Some(new);
        }
        let count = |count: u16, was: bool, is: bool| {
            count
                .wrapping_sub(u16::from(was))
                .wrapping_add(u16::from(is))
        };
        leaf.queued = count(leaf.queued, is_waiting(old), is_waiting(new));
        leaf.deferred = count(leaf.deferred, class(old) > 0, class(new) > 0);
        let (nobody, nobody_late) = (leaf.queued == 0, leaf.deferred == 0);
        if nobody_late {
            leaf.since = [Due::NEVER; CLASSES];
        }
        self.queued = self
            .queued
            .wrapping_sub(u64::from(old > COOL_MASK))
            .wrapping_add(u64::from(new > COOL_MASK));
        if nobody && !waiting.is_never() {
            self.set::<WAITING>(gib, Due::NEVER);
        }
        if nobody_late && !late.is_never() {
            self.set::<LATE>(gib, Due::NEVER);
        }
        Some(new)
    }

    /// Have `region` wait, if it does not yet, to be looked at when it has cooled.
    fn wait(&mut self, region: Region, now: u64, f: impl FnOnce(u8) -> u8) {
        let gib = gib_of(region);
        let Some(byte) = self.change(region, f).filter(|b| is_waiting(*b)) else {
            return;
        };
        let due = due_at(byte, now);

        if self.slot(gib).is_some_and(|s| due.before(s.waiting.due())) {
            self.set::<WAITING>(gib, due);
        }
    }

    /// One of those who wait in `gib` and are due; it does not wait any more.
    fn take_waiting(&mut self, gib: u64, now: u64) -> Option<Region> {
        let slot = self.slot(gib)?;
        let (found, due) = slot.leaf.as_mut()?.find(slot.waiting.due(), now);
        let region = found.map(|index| region_at(gib, index));

        self.set::<WAITING>(gib, due);
        region.inspect(|&region| {
            self.change(region, |byte| byte & COOL_MASK);
        })
    }

    /// One of the deferred in `gib`; it is not any more.
    fn take_late(&mut self, gib: u64) -> Option<Region> {
        let leaf: &mut Leaf = self.slot(gib)?.leaf.as_mut()?;
        let found = leaf.find_late();
        let due = leaf.late();
        let region = found.map(|index| region_at(gib, index));

        self.set::<LATE>(gib, due);
        region.inspect(|&region| {
            self.change(region, |byte| byte & COOL_MASK);
        })
    }

    /// Who is first of those who wait, if due, and of the deferred.
    fn first(&self, now: Due) -> (First, First) {
        let due = |&(_, due): &(usize, Due)| !now.before(due);

        (
            due::first::<WAITING, _>(&self.root).filter(due),
            due::first::<LATE, _>(&self.root),
        )
    }
}

impl<R, L> Ledger for Book<R>
where
    R: DerefMut<Target = [Slot<L>]>,
    L: DerefMut<Target = Leaf>,
{
    fn touch(&mut self, region: Region, now: u64) {
        let now = self.clock.at(now);
        let gib = gib_of(region);

        match self.slot(gib) {
            Some(Slot { leaf: Some(_), .. }) => self.wait(region, now, |byte| {
                // (Or it is deferred, and will be looked at in its turn.)
                if byte > COOL_MASK {
                    byte
                } else {
                    enqueue(byte, now)
                }
            }),
            Some(slot) if slot.is_wanted() => {}
            Some(_) => {
                self.set::<WAITING>(gib, Due::at(now / SLOT));
                self.wanted = self.wanted.wrapping_add(1);
            }
            None if gib < REACH_MAX => self.beyond = self.beyond.max(gib),
            None => {}
        }
    }

    fn settled(&mut self, region: Region) {
        self.change(region, |byte| match byte & COOL_MASK {
            EXECUTED => 0,
            cool => cool,
        });
    }

    fn executed(&mut self, region: Region) {
        self.change(region, |_| EXECUTED);
    }

    fn is_executed(&mut self, region: Region) -> bool {
        self.slot(gib_of(region))
            .and_then(|slot| slot.leaf.as_ref()?.regions.get(index_of(region)))
            .is_some_and(|byte| byte & COOL_MASK == EXECUTED)
    }

    fn healed(&mut self, region: Region) {
        self.change(region, hotter);
    }

    fn retry(&mut self, region: Region, now: u64) {
        let now = self.clock.at(now);

        self.wait(region, now, |byte| enqueue(hotter(byte), now));
    }

    fn defer(&mut self, region: Region, copies: u64, now: u64) -> bool {
        let now = self.clock.at(now) / SLOT;
        let gib = gib_of(region);
        let Some(number) = class_of(copies) else {
            return false;
        };
        let due = Due::at(now).later(patience(number));
        let (waiting, late) = self.first(Due::at(now));

        if waiting.is_none() && !late.is_some_and(|(_, first)| first.before(due)) {
            return false;
        }
        let changed = self.change(region, |byte| {
            number.wrapping_shl(DUE_SHIFT) | (byte & COOL_MASK)
        });
        let (Some(_), Some(leaf)) = (changed, self.slot(gib).and_then(|s| s.leaf.as_mut())) else {
            // Nothing is remembered there.
            return false;
        };
        let leaf: &mut Leaf = leaf;
        if let Some(since) = leaf.since.get_mut(usize::from(number).wrapping_sub(1)) {
            if since.is_never() {
                *since = Due::at(now);
            }
        }
        let due = leaf.late();
        self.set::<LATE>(gib, due);
        true
    }

    fn next(&mut self, now: u64) -> Next {
        if self.beyond >= self.reach() && self.beyond != 0 {
            return Next::Grow(self.beyond);
        }
        let now = self.clock.at(now);

        for _ in 0..TRIES {
            let found = match self.first(Due::at(now / SLOT)) {
                (Some((slot, due)), late) if late.is_none_or(|(_, l)| !l.before(due)) => {
                    let gib = slot as u64;
                    match self.root.get(slot) {
                        Some(slot) if slot.is_wanted() => return Next::Survey(gib),
                        _ => self.take_waiting(gib, now).map(Next::Look),
                    }
                }
                (_, Some((slot, _))) => self.take_late(slot as u64).map(Next::Act),
                (_, None) => {
                    let first = due::first::<WAITING, _>(&self.root);
                    let left = first.and_then(|(_, due)| due.left(Due::at(now / SLOT)));
                    return match left {
                        Some(units) => {
                            Next::Wait(units.wrapping_mul(SLOT).saturating_sub(now % SLOT).max(1))
                        }
                        None => Next::Idle,
                    };
                }
            };
            if let Some(next) = found {
                return next;
            }
        }
        Next::Again
    }

    fn queued(&self) -> u64 {
        self.queued.wrapping_add(self.wanted)
    }
}

impl Leaf {
    /// The index of a region that is due, and when the next of those that wait is:
    /// `due`, as it was, until the search, which goes on from where the last
    /// one ended, has come to the end of the leaf. Then others have their turn.
    fn find(&mut self, due: Due, now: u64) -> (Option<u64>, Due) {
        let from = u64::from(self.cursor);
        let tail = self.regions.get(usize::from(self.cursor)..).unwrap_or(&[]);
        let mut rest = (from..LEAF_REGIONS as u64)
            .zip(tail)
            .filter(|(_, byte)| is_waiting(**byte) && is_ripe(**byte, now))
            .map(|(index, _)| index);
        let found = rest.next();

        if let Some(next) = rest.next() {
            self.cursor = next as u16;
            return (found, due);
        }
        self.cursor = 0;
        let due = (0..LEAF_REGIONS as u64)
            .zip(&self.regions)
            .filter(|(index, byte)| is_waiting(**byte) && Some(*index) != found)
            .fold(Due::NEVER, |due, (_, byte)| due.or(due_at(*byte, now)));
        (found, due)
    }

    /// When the first patience ends.
    fn late(&self) -> Due {
        self.classes()
            .fold(Due::NEVER, |first, (_, due)| first.or(due))
    }

    /// The classes, and when the patience of each ends.
    fn classes(&self) -> impl Iterator<Item = (u8, Due)> {
        (1..=CLASSES as u8)
            .zip(&self.since)
            .map(|(class, since)| (class, since.later(patience(class))))
    }

    /// The index of a deferred region: of the class of which the patience ends first,
    /// from where the last search ended on.
    fn find_late(&mut self) -> Option<u64> {
        let (wanted, _) = self
            .classes()
            .filter(|(_, due)| !due.is_never())
            .reduce(|one, other| if other.1.before(one.1) { other } else { one })?;
        let (head, tail) = self
            .regions
            .split_at_checked(usize::from(self.late_cursor))
            .unwrap_or((&[], &self.regions));
        let mut those = (u64::from(self.late_cursor)..LEAF_REGIONS as u64)
            .zip(tail)
            .chain((0..LEAF_REGIONS as u64).zip(head))
            .filter(|(_, byte)| class(**byte) == wanted)
            .map(|(index, _)| index);
        let found = those.next();
        let more = those.next().is_some();

        if let Some(since) = self.since.get_mut(usize::from(wanted).wrapping_sub(1)) {
            *since = if more { since.later(1) } else { Due::NEVER };
        }
        self.late_cursor = found.map_or(0, |index| index.wrapping_add(1) as u16);
        found
    }
}

fn gib_of(region: Region) -> u64 {
    region.0 >> 9
}

fn index_of(region: Region) -> usize {
    (region.0 % LEAF_REGIONS as u64) as usize
}

fn region_at(gib: u64, index: u64) -> Region {
    Region(gib.wrapping_shl(9).wrapping_add(index))
}

fn is_waiting(byte: u8) -> bool {
    byte & QUEUED != 0
}

/// The class of a deferred region; 0 if it is not deferred.
fn class(byte: u8) -> u8 {
    if is_waiting(byte) {
        0
    } else {
        byte >> DUE_SHIFT
    }
}

/// The class of an act with so many copies, if it has one.
fn class_of(copies: u64) -> Option<u8> {
    let octave = copies.checked_sub(1)?.checked_div(CHEAP)?.checked_ilog2()?;

    Some(octave.saturating_add(1).min(CLASSES as u32) as u8)
}

/// How long a class waits before it goes first, in units of [`SLOT`].
const fn patience(class: u8) -> u64 {
    PATIENCE.wrapping_shl(class as u32)
}

/// The number of the time slot for a region as cool as `byte` says.
fn slot_at(byte: u8, now: u64) -> u64 {
    now.wrapping_shr(SLOT_LOG2.wrapping_add(u32::from(byte & COOL_MASK)))
}

/// The slots of its own that a region still has to wait for.
fn slots_left(byte: u8, now: u64) -> u64 {
    let due = u64::from((byte & DUE_MASK) >> DUE_SHIFT);

    match due.wrapping_sub(slot_at(byte, now)) & 7 {
        left @ 1..=2 if !matches!(byte & COOL_MASK, 0 | EXECUTED) => left,
        _ => 0,
    }
}

fn enqueue(byte: u8, now: u64) -> u8 {
    let due = (slot_at(byte, now).wrapping_add(2) & 7) as u8;

    QUEUED | due.wrapping_shl(DUE_SHIFT) | (byte & COOL_MASK)
}

fn is_ripe(byte: u8, now: u64) -> bool {
    slots_left(byte, now) == 0
}

/// When a region that waits is due: now, if it was before.
fn due_at(byte: u8, now: u64) -> Due {
    match slots_left(byte, now) {
        0 => Due::at(now / SLOT),
        left => {
            let slot = slot_at(byte, now).wrapping_add(left);
            Due::at(slot.wrapping_shl(u32::from(byte & COOL_MASK)))
        }
    }
}

/// The next cool-down.
fn hotter(byte: u8) -> u8 {
    (byte & COOL_MASK).saturating_add(1).min(COOL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Books = Book<Box<[Slot<Box<Leaf>>]>>;

    fn book(gib: usize) -> Books {
        let mut book = Book::new((0..gib).map(|_| Slot::default()).collect(), 0);
        for g in 0..gib as u64 {
            assert!(book.survey(g, Box::default()).is_none());
        }
        book
    }

    #[test]
    fn new_book_asks_for_a_survey_of_everything() {
        let mut b: Books = Book::new((0..2).map(|_| Slot::default()).collect(), 0);

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
            let start = round << 20;
            b.touch(Region(1), start);
            let mut now = 0;
            loop {
                match b.next(start + now) {
                    Next::Look(Region(1)) => break,
                    // As long as it says, and no longer.
                    Next::Wait(ms) => now += ms,
                    other => panic!("{other:?}"),
                }
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
        let old = b.grow((0..6).map(|_| Slot::default()).collect(), 0);
        assert_eq!(old.len(), 1);
        b.quiet(1);
        b.quiet(2);
        b.quiet(3);
        b.quiet(4);
        assert_eq!(b.next(0), Next::Survey(5));
    }

    /// Which GiB are to be surveyed; nothing is found in any.
    fn surveyed(b: &mut Books) -> std::collections::BTreeSet<u64> {
        let mut surveyed = std::collections::BTreeSet::new();

        while let Next::Survey(gib) = b.next(0) {
            b.quiet(gib);
            surveyed.insert(gib);
        }
        surveyed
    }

    #[test]
    fn growing_forgets_no_event() {
        let mut b = book(1);

        b.touch(Region(512 * 2), 0);
        b.touch(Region(512 * 5), 0);
        b.grow((0..6).map(|_| Slot::default()).collect(), 0);
        assert!(surveyed(&mut b).into_iter().eq(1..6) && b.next(0) == Next::Idle);
    }

    /// A root is made without the lock: what is touched meanwhile may lie above it.
    #[test]
    fn growing_forgets_no_event_that_is_higher_still() {
        for higher in [6, 9] {
            let mut b = book(1);

            b.touch(Region(512 * 5), 0);
            assert_eq!(b.next(0), Next::Grow(5));
            b.touch(Region(512 * higher), 0);
            b.grow((0..6).map(|_| Slot::default()).collect(), 0);
            assert_eq!(b.next(0), Next::Grow(higher));
            b.grow((0..=higher).map(|_| Slot::default()).collect(), 0);
            assert!(surveyed(&mut b).into_iter().eq(1..=higher) && b.next(0) == Next::Idle);
        }
    }

    /// A root that is not longer changes nothing: a longer one is wanted still, and then
    /// who came first is first.
    #[test]
    fn only_a_longer_root_is_moved_to() {
        let mut b = book(2);

        b.touch(Region(7), 0);
        b.touch(Region(512 * 5), 0);
        for short in 0..=2 {
            b.grow((0..short).map(|_| Slot::default()).collect(), 0);
            assert_eq!((b.reach(), b.next(0)), (2, Next::Grow(5)));
        }
        b.grow((0..6).map(|_| Slot::default()).collect(), SLOT);
        assert_eq!((b.reach(), b.next(SLOT)), (6, Next::Look(Region(7))));
    }

    /// Having grown GiB by GiB it was copied a few times, and is little longer than it
    /// need be.
    #[test]
    fn a_root_is_made_somewhat_longer_than_it_need_be() {
        let (mut length, mut copied) = (1, 0);

        while length < REACH_MAX {
            let longer = reach_for(length);
            assert!(longer > length && longer <= REACH_MAX);
            assert!(longer <= length + 1 + length / 8, "{longer} for {length}");
            (length, copied) = (longer, copied + 1);
        }
        assert!(copied < 100, "{copied}");
    }

    /// A GiB that was never looked at is counted once, whatever happens in it, and for as
    /// long as nobody has looked.
    #[test]
    fn what_is_to_be_surveyed_is_counted() {
        let mut b: Books = Book::new((0..3).map(|_| Slot::default()).collect(), 0);

        b.touch(Region(3), 0);
        b.touch(Region(4), 0);
        assert_eq!(b.queued(), 3);
        b.quiet(0);
        assert_eq!(b.queued(), 2);
        b.touch(Region(3), 0);
        assert_eq!(b.queued(), 3);
        // Without a GiB there is nothing to look at.
        let mut none: Books = Book::new(Box::default(), 0);
        assert_eq!((none.queued(), none.next(0)), (0, Next::Idle));
    }

    /// What was remembered of a GiB is not lost to a second survey, nor does one that is
    /// quiet get a leaf.
    #[test]
    fn a_leaf_that_is_not_wanted_is_given_back() {
        let mut b = book(2);

        b.touch(Region(7), 0);
        assert!(b.survey(0, Box::default()).is_some());
        assert_eq!(b.next(0), Next::Look(Region(7)));
        b.forget(0);
        b.quiet(1);
        assert!(b.survey(1, Box::default()).is_some() && b.survey(2, Box::default()).is_some());
        assert_eq!((b.queued(), b.next(0)), (1, Next::Survey(0)));
    }

    /// However long the machine has run: a time is taken for one to come when it is a
    /// hundred days old.
    #[test]
    fn a_survey_that_is_wanted_is_asked_for_at_once() {
        const DAY: u64 = 86_400_000;

        for now in [1000, DAY, 150 * DAY, 300 * DAY, 1000 * DAY] {
            let mut b: Books = Book::new((0..2).map(|_| Slot::default()).collect(), now);
            assert_eq!(b.next(now), Next::Survey(0));
            b.quiet(0);
            b.quiet(1);
            b.touch(Region(512), now);
            assert_eq!(b.next(now), Next::Survey(1));
            b.quiet(1);
            b.touch(Region(512 * 2), now);
            b.grow((0..3).map(|_| Slot::default()).collect(), now);
            assert_eq!(b.next(now), Next::Survey(2));
            b.forget(now);
            assert!(matches!(b.next(now), Next::Survey(_)));
        }
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
            assert_eq!(b.queued(), 1);
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

    #[test]
    fn what_takes_few_copies_goes_first() {
        let mut b = book(2);
        let costs = [(1, 512), (2, 100), (3, 9), (600, 200), (601, 8), (602, 0)];
        let mut acts = Vec::new();

        for (region, _) in costs {
            b.touch(Region(region), 0);
        }
        loop {
            let (region, looked) = match b.next(0) {
                Next::Look(region) => (region, true),
                Next::Act(region) => (region, false),
                other => break assert_eq!(other, Next::Idle),
            };
            let copies = costs.iter().find(|c| c.0 == region.0).unwrap().1;
            if !looked || !b.defer(region, copies, 0) {
                acts.push(region.0);
                b.healed(region);
            }
        }
        assert_eq!(acts, [601, 602, 3, 2, 600, 1]);
        assert_eq!(b.queued(), 0);
    }

    #[test]
    fn nobody_is_deferred_for_nobody() {
        let mut b = book(2);

        for _ in 0..3 {
            b.touch(Region(5), 0);
            assert_eq!(b.next(0), Next::Look(Region(5)));
            assert!(!b.defer(Region(5), 512, 0));
        }
        // One that cools is nobody either.
        b.retry(Region(6), 0);
        assert!(!b.defer(Region(5), 512, 0));
        b.touch(Region(7), 0);
        assert!(!b.defer(Region(5), CHEAP, 0) && b.defer(Region(5), CHEAP + 1, 0));
        // Where nothing is remembered, nothing is put off.
        b.forget(0);
        assert!(!b.defer(Region(5), 512, 0));
    }

    /// Of those that became one leaf there is nothing left for which another would be put
    /// off, whether they waited or were deferred; and nothing is lost with them.
    #[test]
    fn nobody_is_deferred_for_who_is_settled() {
        let mut b = book(2);

        b.touch(Region(600), 0);
        for region in [5, 6, 7].map(Region) {
            assert!(b.defer(region, 9, 0));
        }
        b.settled(Region(600));
        // There are two others still.
        b.settled(Region(5));
        assert!(b.defer(Region(8), 512, 0));
        for region in [6, 7].map(Region) {
            assert_eq!(b.next(0), Next::Act(region));
        }
        b.settled(Region(8));
        assert!(!b.defer(Region(9), 512, SLOT));
        b.touch(Region(600), SLOT);
        b.settled(Region(600));
        assert!(!b.defer(Region(9), 512, SLOT));
        assert_eq!((b.queued(), b.next(SLOT)), (0, Next::Idle));
    }

    #[test]
    fn who_is_deferred_has_a_turn_however_much_comes() {
        for (copies, start) in [(9, 0), (512, 5000), (1024, 1 << 40)] {
            let mut b = book(3);
            let mut now = start;
            b.touch(Region(5), now);
            assert_eq!(b.next(now), Next::Look(Region(5)));
            b.touch(Region(600), now);
            assert!(b.defer(Region(5), copies, now));
            let most = patience(class_of(copies).unwrap()) * SLOT;
            let mut i = 0;
            loop {
                // There is always one more that was not looked at yet.
                b.touch(Region(600 + i % 500), now);
                match b.next(now) {
                    Next::Look(region) => assert!(region.0 >= 600),
                    other => break assert_eq!(other, Next::Act(Region(5))),
                }
                i += 1;
                now += 3;
                assert!(now - start <= most + 3 * SLOT, "{copies} copies, {now} ms");
            }
            assert!(now - start >= most - SLOT, "{copies} copies, {now} ms");
        }
    }

    #[test]
    fn who_comes_again_and_again_does_not_keep_the_others_back() {
        let mut b = book(3);
        let (mut served, mut now) = ([0; 3], 0);

        for i in 0..6 {
            b.touch(Region(512 * (i % 3) + i), 0);
        }
        for _ in 0..600 {
            let (region, deferred) = match b.next(now) {
                Next::Look(region) => (region, false),
                Next::Act(region) => (region, true),
                other => panic!("{other:?}"),
            };
            if deferred || !b.defer(region, 512, now) {
                // At once it is there again.
                served[(region.0 / 512) as usize] += 1;
                now += SLOT;
                b.touch(region, now);
            }
        }
        let (least, most) = (served.iter().min(), served.iter().max());
        assert!(least >= Some(&90) && most <= Some(&110), "{served:?}");
    }

    #[test]
    fn a_clock_that_is_put_back_stops_nothing() {
        let mut b = book(1);

        b.touch(Region(1), 1 << 30);
        b.touch(Region(2), 5);
        assert_eq!(b.next(5), Next::Look(Region(1)));
        assert_eq!(b.next(5), Next::Look(Region(2)));
        b.healed(Region(2));
        b.touch(Region(2), 6);
        let Next::Wait(ms) = b.next(6) else { panic!() };
        assert!(ms <= 4 * SLOT && b.next(6 + ms) == Next::Look(Region(2)));
    }

    /// A root as long as it may be, with something in each GiB, and nobody who is due: to
    /// ask what is next looks into no leaf. The one who is due is found in one.
    #[test]
    fn leaves_are_not_searched() {
        use std::cell::Cell;

        thread_local!(static VISITS: Cell<u32> = const { Cell::new(0) });
        #[derive(Default)]
        struct Counted(Box<Leaf>);
        impl core::ops::Deref for Counted {
            type Target = Leaf;
            fn deref(&self) -> &Leaf {
                VISITS.set(VISITS.get() + 1);
                &self.0
            }
        }
        impl DerefMut for Counted {
            fn deref_mut(&mut self) -> &mut Leaf {
                VISITS.set(VISITS.get() + 1);
                &mut self.0
            }
        }
        let slots = (0..REACH_MAX).map(|_| Slot::default()).collect();
        let mut b: Book<Box<[Slot<Counted>]>> = Book::new(slots, 0);
        for gib in 0..REACH_MAX {
            assert!(b.survey(gib, Counted::default()).is_none());
            b.retry(Region(gib * 512), 0);
        }
        VISITS.set(0);
        assert!(matches!(b.next(0), Next::Wait(_)));
        assert_eq!(VISITS.get(), 0);
        let region = Region(REACH_MAX * 256 + 7);
        b.touch(region, 0);
        VISITS.set(0);
        assert_eq!(b.next(0), Next::Look(region));
        assert!(VISITS.get() <= 4, "{}", VISITS.get());
    }

    proptest! {
        /// Whatever happens, who waits is handed out, and nobody else; the counts are
        /// right, and so are the tournaments.
        #[test]
        fn the_books_are_right(
            script in proptest::collection::vec((0u8..9, 0u64..1536, 0u64..2000), 0..300),
        ) {
            let mut b = book(3);
            let mut now = 0;
            let mut waits = std::collections::BTreeSet::new();
            for (what, r, n) in script {
                // Few of them, so that they meet.
                let region = Region(r / 512 * 512 + r % 8);
                match what {
                    0..=2 => { b.touch(region, now); waits.insert(region); }
                    3 => { b.settled(region); waits.remove(&region); }
                    4 => { b.healed(region); waits.remove(&region); }
                    5 => { b.retry(region, now); waits.insert(region); }
                    6 => if b.defer(region, n, now) { waits.insert(region); },
                    7 => now += n,
                    _ => match b.next(now) {
                        Next::Look(region) | Next::Act(region) => {
                            prop_assert!(waits.remove(&region), "{region:?} did not wait");
                        }
                        Next::Idle => prop_assert!(waits.is_empty()),
                        _ => {}
                    },
                }
                prop_assert_eq!(b.queued(), waits.len() as u64);
            }
            for _ in 0..20_000 {
                match b.next(now) {
                    Next::Look(region) | Next::Act(region) => {
                        prop_assert!(waits.remove(&region), "{region:?} did not wait");
                    }
                    Next::Wait(ms) => now += ms,
                    Next::Idle => break,
                    _ => {}
                }
            }
            prop_assert!(waits.is_empty() && b.queued() == 0, "{waits:?}");
        }

        /// Every touched region is handed out exactly once, whatever the order.
        #[test]
        fn nothing_is_lost(touched in proptest::collection::btree_set(0u64..2048, 0..200)) {
            let mut b = book(4);
            for &r in &touched { b.touch(Region(r), 0); }
            let mut seen = std::collections::BTreeSet::new();
            loop {
                match b.next(0) {
                    Next::Look(r) => prop_assert!(seen.insert(r.0)),
                    Next::Again => {}
                    other => break prop_assert_eq!(other, Next::Idle),
                }
            }
            prop_assert_eq!(seen, touched);
            prop_assert_eq!(b.queued(), 0);
        }

        /// A region that waits is never forgotten: at some time it is ripe.
        #[test]
        fn cooling_ends(byte in 0u8..15, from in 0u64..1 << 40) {
            let queued = enqueue(byte, from);
            let slot = SLOT << byte;
            prop_assert!((0..=3).any(|n| is_ripe(queued, from + n * slot)));
            prop_assert!(due_at(queued, from).left(Due::at(from / SLOT)) <= Some(2 * slot / SLOT));
        }
    }
}
