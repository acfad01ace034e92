// SPDX-License-Identifier: GPL-2.0-only
//! Reads one region once and says what it is.

use crate::account::Reason;
use crate::addr::{Mfn, Order, REGION_PAGES, Region};
use crate::frames::List;
use crate::machine::View;
use crate::plan::{Scratch, Slots};
use arch::{ENTRIES, Leaf, SW_TYPE_RAM_RW, Slot};

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
    let mut in_order = base.is_aligned(Order::REGION);
    let mut at = base;
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
                if other.attributes != leaf.attributes {
                    return Err(Reason::Access);
                }
                Mfn(other.frame)
            };
            in_order &= mfn == at;
            at = at.add(1);
            if mfn.slot() == slot {
                let block = mfn.align(Order::REGION);
                if votes == 0 {
                    home = block;
                }
                votes = if home == block {
                    votes.wrapping_add(1)
                } else {
                    votes.wrapping_sub(1)
                };
            }
            Ok(mfn)
        }),
    );

    if let Err(reason) = listed {
        return State::Not(reason);
    }
    if in_order {
        return State::InOrder { base };
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

/// The region is still what [`judge`] listed.
pub fn unchanged(view: View<'_>, list: &List) -> bool {
    let View::Table(format, table) = view else {
        return false;
    };
    let first = table.entry(0);

    list.len() == REGION_PAGES
        && plain(format.decode(first, 1)).is_ok()
        && list
            .as_slice()
            .iter()
            .zip(table.entries())
            .all(|(pair, entry)| pair.mfn() == Mfn(entry.frame()) && format.alike(first, entry))
}

/// Ordinary RAM, or what is wrong with it.
fn plain(slot: Slot) -> Result<Leaf, Reason> {
    match slot {
        Slot::Leaf(leaf) if leaf.recalc => Err(Reason::Recalc),
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
        if votes == 0 {
            home = block;
        }
        votes = if home == block {
            votes.wrapping_add(1)
        } else {
            votes.wrapping_sub(1)
        };
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
