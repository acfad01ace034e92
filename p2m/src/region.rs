// SPDX-License-Identifier: GPL-2.0-only
//! Reads one region once and says what it is.

use crate::account::Reason;
use crate::addr::{Mfn, Order, REGION_PAGES, Region};
use crate::frames::List;
use crate::machine::View;
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
    /// 512 entries of plain RAM with equal attributes, not in order.
    Astray {
        /// The machine block that holds more than half of the region's pages in
        /// their right place; if there is none, a block that holds some.
        home: Mfn,
        /// Pages that are not in their right place in `home`.
        astray: u64,
    },
    /// Not now.
    Not(Reason),
}

/// Judge a region, and list its machine frames in `list` where they are not in
/// order. One pass over the table, then one over the list.
pub fn judge(region: Region, view: View<'_>, list: &mut List) -> State {
    let (format, table) = match view {
        View::Nothing => return State::Not(Reason::Empty),
        View::Big(Slot::Leaf(_)) => return State::Not(Reason::WholeAlready),
        View::Big(_) => return State::Not(Reason::Empty),
        View::Table(format, table) => (format, table),
    };

    list.clear();
    let mut common: Option<Leaf> = None;
    let mut in_order = true;
    // Majority vote (Boyer and Moore 1981): after the pass `home` is the only
    // block that can hold more than half of the pages in their place.
    let (mut home, mut votes) = (Mfn(0), 0u64);
    let mut gfn = region.start();

    for entry in table.entries() {
        let leaf = match format.decode(entry, 1) {
            Slot::Leaf(leaf) => leaf,
            Slot::Table { .. } => return State::Not(Reason::MemType),
            Slot::Absent { sw_type } if is_hole(sw_type) => return State::Not(Reason::Hole),
            Slot::Absent { .. } => return State::Not(Reason::MemType),
        };
        let first = *common.get_or_insert(leaf);

        if leaf.recalc {
            return State::Not(Reason::Recalc);
        }
        if leaf.sw_type != SW_TYPE_RAM_RW || !leaf.cacheable {
            return State::Not(Reason::MemType);
        }
        if leaf.attributes != first.attributes {
            return State::Not(Reason::Access);
        }

        let mfn = Mfn(leaf.frame);
        in_order &= mfn == Mfn(first.frame).add(gfn.slot());
        if mfn.slot() == gfn.slot() {
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
        list.push(gfn, mfn);
        gfn = gfn.add(1);
    }

    let Some(leaf) = common else {
        return State::Not(Reason::Empty);
    };
    let base = Mfn(leaf.frame);
    if in_order && base.is_aligned(Order::REGION) {
        return State::InOrder { base };
    }

    let at_home = list
        .as_slice()
        .iter()
        .filter(|pair| pair.mfn() == home.add(pair.gfn().slot()))
        .fold(0u64, |n, _| n.wrapping_add(1));
    State::Astray {
        home: if at_home > 0 { home } else { base },
        astray: REGION_PAGES.saturating_sub(at_home),
    }
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
