// SPDX-License-Identifier: GPL-2.0-only
//! Reads one region once and says what it is.

use crate::account::Reason;
use crate::addr::{Mfn, Order, REGION_PAGES, Region};
use crate::frames::List;
use crate::machine::View;
use crate::plan::{Scratch, Slots};
use arch::{ENTRIES, Leaf, SW_TYPE_RAM_LOGDIRTY, SW_TYPE_RAM_RW, Slot};

/// What a region looks like from outside (`XEN_DOMCTL_COALESCE_REGION_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// Nothing mapped.
    Empty = 0,
    /// One RAM leaf of 2 MiB or more.
    Whole = 1,
    /// 512 RAM entries of 4 KiB.
    Broken = 2,
    /// RAM and holes.
    Holes = 3,
    /// Something besides RAM and holes.
    Other = 4,
}

/// What can be done for a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// 512 entries say what one leaf would say.
    InOrder {
        /// The first frame.
        base: Mfn,
    },
    /// 512 entries of plain RAM with equal attributes, not in order. The scratch
    /// lists them, and aims at the machine block that holds more than half of
    /// them in their right place; if there is none, at a block that holds some of
    /// them, if possible in their place.
    Astray,
    /// Not now.
    Not(Reason),
}

/// Judge a region, and list its machine frames in `scratch` where they are not in
/// order. One pass over the table, then one over the list.
pub fn judge(region: Region, view: View<'_>, scratch: &mut Scratch) -> State {
    let (format, table) = match view {
        View::Nothing => return State::Not(Reason::Empty),
        View::Big(Slot::Leaf(_)) => return State::Not(Reason::WholeAlready),
        View::Big(_) => return State::Not(Reason::Empty),
        View::Table(format, table) => (format, table),
    };

    let list = &mut scratch.pages;
    list.clear();
    let first = table.entry(0);
    let leaf = match plain(format.decode(first, 1)) {
        Ok(leaf) => leaf,
        Err(reason) => return State::Not(reason),
    };
    let base = Mfn(leaf.frame);

    // The hot path: most entries differ from the first in the frame only.
    if base.is_aligned(Order::REGION) {
        let in_order = (base.0..u64::MAX)
            .zip(table.entries())
            .all(|(frame, entry)| entry.frame() == frame && format.alike(first, entry));
        if in_order {
            return State::InOrder { base };
        }
    }
    // Some say the same though they are not alike: then it may be in order all the same.
    let mut unlike = false;
    // Majority vote (Boyer and Moore 1981): after the pass `home` is the only
    // block that can hold more than half of the pages in their place.
    let (mut home, mut votes) = (Mfn(0), 0u64);
    let listed = list.list(
        region.start(),
        (0..REGION_PAGES).zip(table.entries()).map(|(slot, entry)| {
            let mfn = if format.alike(first, entry) {
                Mfn(entry.frame())
            } else {
                let other = plain(format.decode(entry, 1))?;
                unlike = true;
                if other.attributes != leaf.attributes {
                    return Err(Reason::Access);
                }
                Mfn(other.frame)
            };
            if mfn.slot() == slot {
                let block = mfn.align(Order::REGION);
                if block == home {
                    votes = votes.wrapping_add(1);
                } else if votes == 0 {
                    (home, votes) = (block, 1);
                } else {
                    votes = votes.wrapping_sub(1);
                }
            }
            Ok(mfn)
        }),
    );

    if let Err(reason) = listed {
        return State::Not(reason);
    }
    if unlike && base.is_aligned(Order::REGION) {
        scratch.aim(base);
        if scratch.astray().is_empty() {
            return State::InOrder { base };
        }
    }
    scratch.aim(home);
    if scratch.astray() == Slots::ALL {
        // No page is in its place in any block. Most may be in one block all the
        // same.
        let home = majority(&scratch.pages);
        scratch.aim(home);
    }
    State::Astray
}

/// The slots `which` of a region are still what [`judge`] listed.
pub fn unchanged(view: View<'_>, list: &List, which: &Slots) -> bool {
    let View::Table(format, table) = view else {
        return false;
    };
    let first = table.entry(0);

    list.len() == REGION_PAGES
        && plain(format.decode(first, 1)).is_ok()
        && which.stretches(list.as_slice()).all(|pairs| {
            let slot = pairs.first().map_or(0, |pair| pair.gfn().slot());
            let entries = table.entries_from(slot as usize);

            entries
                .take(pairs.len())
                .zip(pairs)
                .all(|(entry, pair)| pair.mfn() == Mfn(entry.frame()) && format.alike(first, entry))
        })
}

/// Ordinary RAM, or what is wrong with it.
fn plain(slot: Slot) -> Result<Leaf, Reason> {
    match slot {
        Slot::Leaf(leaf) if leaf.recalc => Err(Reason::Recalc),
        // No event tells of the end of that.
        Slot::Leaf(leaf) if leaf.sw_type == SW_TYPE_RAM_LOGDIRTY => Err(Reason::LogDirty),
        Slot::Leaf(leaf) if leaf.sw_type != SW_TYPE_RAM_RW => Err(Reason::MemType),
        Slot::Leaf(leaf) if !leaf.cacheable => Err(Reason::Cacheability),
        Slot::Leaf(leaf) => Ok(leaf),
        Slot::Absent { sw_type } if is_hole(sw_type) => Err(Reason::Hole),
        _ => Err(Reason::MemType),
    }
}

/// The first frame of a GiB of which the 512 entries of 2 MiB say what one of 1 GiB
/// would say.
pub fn gib_in_order(view: View<'_>) -> Option<Mfn> {
    let View::Table(format, table) = view else {
        return None;
    };
    let mut leaves = table
        .entries()
        .map(|entry| plain(format.decode(entry, 2)).ok());
    let first = leaves.next()??;
    let base = Mfn(first.frame);
    let mut want = base;

    (base.is_aligned(Order::GIB)
        && leaves.all(|leaf| {
            want = want.add(REGION_PAGES);
            leaf.is_some_and(|leaf| Mfn(leaf.frame) == want && leaf.attributes == first.attributes)
        }))
    .then_some(base)
}

/// The block that has more than half of the frames, if one has; else some
/// block that has one.
fn majority(list: &List) -> Mfn {
    let (mut home, mut votes) = (Mfn(0), 0u64);

    for pair in list.as_slice() {
        let block = pair.mfn().align(Order::REGION);

        if home == block {
            votes = votes.wrapping_add(1);
        } else if votes > 0 {
            votes = votes.wrapping_sub(1);
        } else {
            (home, votes) = (block, 1);
        }
    }
    home
}

/// An entry that maps nothing and stands for nothing: never written (0),
/// `p2m_invalid` (1) or `p2m_mmio_dm` (4).
fn is_hole(sw_type: u8) -> bool {
    matches!(sw_type, 0 | 1 | 4)
}

/// How the region looks from outside.
pub fn shape(view: View<'_>) -> Shape {
    let (format, table) = match view {
        View::Nothing => return Shape::Empty,
        View::Big(Slot::Leaf(leaf)) if leaf.sw_type == SW_TYPE_RAM_RW => return Shape::Whole,
        View::Big(Slot::Absent { sw_type }) if is_hole(sw_type) => return Shape::Empty,
        View::Big(_) => return Shape::Other,
        View::Table(format, table) => (format, table),
    };
    let mut ram = 0usize;

    for entry in table.entries() {
        match format.decode(entry, 1) {
            Slot::Leaf(leaf) if leaf.sw_type == SW_TYPE_RAM_RW => ram = ram.wrapping_add(1),
            Slot::Absent { sw_type } if is_hole(sw_type) => {}
            _ => return Shape::Other,
        }
    }
    match ram {
        0 => Shape::Empty,
        ENTRIES => Shape::Broken,
        _ => Shape::Holes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gfn;
    use arch::{Entry, Format, SW_TYPE_RAM_RO, Table};
    use core::sync::atomic::{AtomicU64, Ordering};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const AT: Region = Region(5);
    const BASE: u64 = 0x8000;

    /// A 4 KiB leaf of EPT: RAM that may be read, written and executed, write-back.
    fn ram(frame: u64) -> u64 {
        frame << 12 | 7 | 6 << 3
    }

    fn of_type(entry: u64, sw_type: u8) -> u64 {
        entry | u64::from(sw_type) << 52
    }

    fn table(entry: impl Fn(u64) -> u64) -> Table {
        let table = Table([const { AtomicU64::new(0) }; ENTRIES]);

        for (i, place) in (0..).zip(&table.0) {
            place.store(entry(i), Ordering::Relaxed);
        }
        table
    }

    fn view(table: &Table) -> View<'_> {
        View::Table(Format::Ept, table)
    }

    fn big(entry: u64) -> View<'static> {
        View::Big(Format::Ept.decode(Entry(entry), 2))
    }

    /// The pages of a few blocks, in and out of their places.
    fn frames() -> impl Strategy<Value = Vec<u64>> {
        let run = (0u64..4, 0u64..3, 1usize..300);

        vec(run, 1..40).prop_map(|runs| {
            let all = runs
                .into_iter()
                .flat_map(|(block, off, n)| vec![(block, off); n]);
            let mut frames: Vec<u64> = (0..)
                .zip(all)
                .map(|(slot, (block, off))| BASE + block * 512 + (slot + off) % 512)
                .collect();
            let rest = frames.len() as u64..;
            frames.extend(rest.take(512).map(|slot| BASE + 512 * 3 + slot));
            frames.truncate(512);
            frames
        })
    }

    /// The frame that most say, if more than half of 512 do.
    fn most(all: impl Iterator<Item = u64>) -> Option<u64> {
        let mut count = BTreeMap::new();

        all.for_each(|block| *count.entry(block).or_insert(0) += 1);
        count.into_iter().find(|&(_, n)| n > 256).map(|(b, _)| b)
    }

    proptest! {
        #[test]
        fn what_a_table_is_said_to_be(frames in frames()) {
            let t = table(|i| ram(frames[i as usize]));
            let mut scratch = Scratch::default();
            let state = judge(AT, view(&t), &mut scratch);
            let ordered = frames[0] % 512 == 0 && (frames[0]..).zip(&frames).all(|(want, &f)| f == want);

            if ordered {
                prop_assert_eq!(state, State::InOrder { base: Mfn(frames[0]) });
                return Ok(());
            }
            prop_assert_eq!(state, State::Astray);
            prop_assert!(unchanged(view(&t), &scratch.pages, &Slots::ALL));
            let listed: Vec<_> = scratch.pages.as_slice().iter().map(|p| (p.gfn(), p.mfn())).collect();
            let real: Vec<_> = (0..).zip(&frames).map(|(i, &f)| (AT.start().add(i), Mfn(f))).collect();
            prop_assert_eq!(listed, real);

            let home = scratch.home().0;
            let in_place = |&(slot, frame): &(u64, u64)| frame % 512 == slot;
            let all = || (0u64..).zip(frames.iter().copied());
            for (slot, frame) in all() {
                prop_assert_eq!(scratch.astray().has(slot), frame != home + slot);
            }
            let placed: Vec<u64> = all().filter(in_place).map(|(slot, f)| f - slot).collect();
            if let Some(block) = most(placed.iter().copied()) {
                prop_assert_eq!(home, block);
            } else if placed.is_empty() {
                // At least one that has some of them.
                let blocks = || frames.iter().map(|f| f & !511);
                prop_assert!(blocks().any(|block| block == home));
                if let Some(block) = most(blocks()) {
                    prop_assert_eq!(home, block);
                }
            }
        }
    }

    #[test]
    fn what_differs_in_nothing_that_counts_is_in_order() {
        // One page was executed: a part of a superpage that must not be.
        let t = table(|i| ram(BASE + i) & !(if i == 300 { 1 << 2 } else { 0 }));
        let state = judge(AT, view(&t), &mut Scratch::default());

        assert_eq!(state, State::InOrder { base: Mfn(BASE) });
        // Nor is it for one page out of 512 that all is.
        let t =
            table(|i| ram(BASE + i + u64::from(i == 511)) & !(if i == 300 { 1 << 2 } else { 0 }));
        let mut scratch = Scratch::default();
        assert_eq!(judge(AT, view(&t), &mut scratch), State::Astray);
        assert_eq!(scratch.home(), Mfn(BASE));
        assert_eq!(scratch.astray().iter().collect::<Vec<_>>(), [511]);
        // Nor are pages in a row for which no leaf could begin.
        let t = table(|i| ram(BASE + 8 + i) & !(if i == 300 { 1 << 2 } else { 0 }));
        assert_eq!(judge(AT, view(&t), &mut scratch), State::Astray);
    }

    /// In whatever order they stand in the table.
    #[test]
    fn it_aims_at_where_most_are_in_their_places() {
        let blocks = [BASE, BASE + 512];
        // How many of each block, and how far from their places.
        let home = |[one, other]: [(u64, u64); 2], interleaved: bool| {
            let all = one.0 + other.0;
            let t = table(|slot| {
                let nth = slot % all;
                let first = if interleaved {
                    nth * one.0 / all != (nth + 1) * one.0 / all
                } else {
                    nth < one.0
                };
                let (block, off) = if first {
                    (blocks[0], one.1)
                } else {
                    (blocks[1], other.1)
                };
                ram(block + (slot + off) % 512)
            });
            let mut scratch = Scratch::default();
            assert_eq!(judge(AT, view(&t), &mut scratch), State::Astray);
            scratch.home().0
        };

        for interleaved in [false, true] {
            // Most are in the one, or in the other, in their places or not.
            for off in [0, 1] {
                let home = |one, other| home([(one, off), (other, off)], interleaved);
                assert_eq!(home(300, 212), blocks[0], "{interleaved} {off}");
                assert_eq!(home(212, 300), blocks[1], "{interleaved} {off}");
            }
            // A few in their places are better than many that are not.
            let home = |one, other| home([one, other], interleaved);
            assert_eq!(home((100, 0), (412, 1)), blocks[0], "{interleaved}");
            assert_eq!(home((412, 1), (100, 0)), blocks[1], "{interleaved}");
        }
    }

    #[test]
    fn a_change_is_seen_wherever_it_is() {
        let frame = |i: u64| BASE + (i ^ 1);
        let before = table(|i| ram(frame(i)));
        let mut scratch = Scratch::default();
        assert_eq!(judge(AT, view(&before), &mut scratch), State::Astray);
        let list = &scratch.pages;

        assert!(unchanged(view(&before), list, &Slots::ALL));
        assert!(!unchanged(View::Nothing, list, &Slots::ALL));
        assert!(!unchanged(big(ram(BASE) | 1 << 7), list, &Slots::ALL));
        for slot in [0, 1, 77, 511] {
            let other = |new: u64| table(move |i| if i == slot { new } else { ram(frame(i)) });
            let moved = other(ram(frame(slot) + 512));
            assert!(!unchanged(view(&moved), list, &Slots::ALL), "{slot}");
            // Whoever does not ask for that one does not mind.
            let (mut this, mut others) = (Slots::NONE, Slots::ALL);
            this.insert(slot);
            others.remove(slot);
            assert!(!unchanged(view(&moved), list, &this), "{slot}");
            assert!(unchanged(view(&moved), list, &others), "{slot}");
            let read_only = other(ram(frame(slot)) & !2);
            assert!(!unchanged(view(&read_only), list, &Slots::ALL), "{slot}");
            assert!(!unchanged(view(&other(0)), list, &Slots::ALL), "{slot}");
        }
        // All of it has become something else.
        let all = table(|i| of_type(ram(frame(i)), SW_TYPE_RAM_RO));
        assert!(!unchanged(view(&all), list, &Slots::ALL));
        // A list of a part of it is none.
        scratch.pages.truncate(511);
        assert!(!unchanged(view(&before), &scratch.pages, &Slots::ALL));
    }

    #[test]
    fn how_it_looks_from_outside() {
        assert_eq!(shape(View::Nothing), Shape::Empty);
        assert_eq!(shape(big(ram(BASE) | 1 << 7)), Shape::Whole);
        let other = of_type(ram(BASE) | 1 << 7, SW_TYPE_RAM_RO);
        assert_eq!(shape(big(other)), Shape::Other);
        for (sw_type, expected) in [
            (0, Shape::Empty),
            (1, Shape::Empty),
            (4, Shape::Empty),
            (2, Shape::Other),
            (5, Shape::Other),
            (arch::SW_TYPE_POD, Shape::Other),
        ] {
            assert_eq!(shape(big(of_type(0, sw_type))), expected, "{sw_type}");
            let holes = table(|_| of_type(0, sw_type));
            assert_eq!(shape(view(&holes)), expected, "{sw_type}");
            // One of them, among RAM.
            let mixed = table(|i| {
                if i == 9 {
                    of_type(0, sw_type)
                } else {
                    ram(BASE + i)
                }
            });
            let expected = match expected {
                Shape::Empty => Shape::Holes,
                other => other,
            };
            assert_eq!(shape(view(&mixed)), expected, "{sw_type}");
        }
        let broken = table(|i| ram(BASE + i));
        assert_eq!(shape(view(&broken)), Shape::Broken);
        let odd = table(|i| of_type(ram(BASE + i), if i == 511 { SW_TYPE_RAM_RO } else { 0 }));
        assert_eq!(shape(view(&odd)), Shape::Other);
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let ept_recalc = 1 << 10;
        let why = |slot: u64, new: u64| {
            let t = table(|i| if i == slot { new } else { ram(BASE + i) });
            judge(AT, view(&t), &mut Scratch::default())
        };

        for slot in [0, 1, 511] {
            let ram = ram(BASE + slot);
            for (entry, reason) in [
                (0, Reason::Hole),
                (of_type(0, 4), Reason::Hole),
                (of_type(0, arch::SW_TYPE_POD), Reason::MemType),
                (of_type(ram, SW_TYPE_RAM_RO), Reason::MemType),
                (of_type(ram, SW_TYPE_RAM_LOGDIRTY), Reason::LogDirty),
                (ram | ept_recalc, Reason::Recalc),
                (ram & !(7 << 3), Reason::Cacheability),
            ] {
                assert_eq!(why(slot, entry), State::Not(reason), "{slot} {entry:#x}");
            }
        }
        assert_eq!(why(3, ram(BASE + 3) & !2), State::Not(Reason::Access));
        let judged = |view| judge(AT, view, &mut Scratch::default());
        assert_eq!(judged(View::Nothing), State::Not(Reason::Empty));
        assert_eq!(judged(big(0)), State::Not(Reason::Empty));
        let whole = big(ram(BASE) | 1 << 7);
        assert_eq!(judged(whole), State::Not(Reason::WholeAlready));
        assert_eq!(AT.start(), Gfn(5 * 512));
    }

    #[test]
    fn a_gib_of_leaves_that_is_in_order() {
        const GIB: u64 = 3 << 18;
        let leaf = |i: u64| ram(GIB + i * 512) | 1 << 7;
        let first = |slot: u64, new: u64| {
            gib_in_order(view(&table(|i| if i == slot { new } else { leaf(i) })))
        };

        assert_eq!(gib_in_order(view(&table(leaf))), Some(Mfn(GIB)));
        assert_eq!(gib_in_order(View::Nothing), None);
        for slot in [0, 1, 511] {
            for odd in [
                0,
                leaf(slot) & !2,
                of_type(leaf(slot), SW_TYPE_RAM_RO),
                ram(GIB + (slot + 1) * 512) | 1 << 7,
                // A table.
                0x1234 << 12 | 7,
            ] {
                assert_eq!(first(slot, odd), None, "{slot} {odd:#x}");
            }
        }
        // One 2 MiB further on, all of it.
        assert_eq!(gib_in_order(view(&table(|i| leaf(i + 1)))), None);
    }
}
