// SPDX-License-Identifier: GPL-2.0-only
//! Which machine frame should stand behind a guest frame: prevention, which is
//! cheaper than any cure.
//!
//! When a ballooned page comes back, the frame that it had is often still free.
//! If exactly that frame is taken, the region's frames lie in order again and
//! one write makes it whole, with no copy. FreeBSD's reservations
//! (`sys/vm/vm_reserv.c`) keep such frames from being used by others; we only
//! look whether they were.

use crate::addr::{Gfn, Mfn, Order, REGION_PAGES};
use crate::machine::View;
use arch::{SW_TYPE_RAM_RW, Slot};

/// How far to look to each side, in pages. A hole is judged by its nearest
/// neighbours and not by its whole region, so that the look costs the same
/// little for each page that is populated.
const REACH: u64 = 4;

/// If all of these are holes, too: how many slots are looked at, all over the
/// region. A gap whose pages come from just anywhere takes the frames that other
/// gaps want.
const PROBES: u64 = 16;

/// The frame that `gfn`, a hole in a region of 4 KiB entries, should get: the
/// one that its neighbours leave a gap for. `None` if they do not agree, or if
/// there are none.
pub fn wanted(gfn: Gfn, view: View<'_>) -> Option<Mfn> {
    let View::Table(format, table) = view else {
        return None;
    };
    let ram = |slot: u64| match format.decode(table.entry(slot), 1) {
        Slot::Leaf(leaf) if leaf.sw_type == SW_TYPE_RAM_RW => Some(Mfn(leaf.frame)),
        _ => None,
    };
    let here = gfn.slot();
    let first = here.saturating_sub(REACH);
    let last = here.saturating_add(REACH).min(REGION_PAGES.wrapping_sub(1));
    let near = (first..=last).filter(|&slot| slot != here);
    let mut votes = Votes::default();

    for slot in near {
        votes.count(slot, ram(slot));
    }
    if votes.none() {
        // It lies within a wide gap.
        for probe in 0..PROBES {
            let slot = probe.wrapping_mul(REGION_PAGES / PROBES);
            votes.count(slot, ram(slot));
        }
    }
    votes.base().map(|base| base.add(here))
}

/// Which block the frames of a region's pages lie in, each in its place.
#[derive(Default)]
struct Votes {
    base: Option<Mfn>,
    agree: u32,
    differ: u32,
}

impl Votes {
    fn count(&mut self, slot: u64, frame: Option<Mfn>) {
        let Some(mfn) = frame else {
            return;
        };
        let own = (mfn.slot() == slot).then(|| mfn.align(Order::REGION));

        match (self.base, own) {
            (None, Some(_)) => {
                self.base = own;
                self.agree = 1;
            }
            (Some(_), _) if own == self.base => self.agree = self.agree.wrapping_add(1),
            _ => self.differ = self.differ.wrapping_add(1),
        }
    }

    /// There were no pages.
    fn none(&self) -> bool {
        self.base.is_none() && self.differ == 0
    }

    fn base(self) -> Option<Mfn> {
        self.base.filter(|_| self.agree > self.differ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::{ENTRIES, Format, Table};
    use core::sync::atomic::{AtomicU64, Ordering};

    const RAM: u64 = 0x67;

    fn table(frame: impl Fn(u64) -> Option<u64>) -> Table {
        let t = Table([const { AtomicU64::new(0) }; ENTRIES]);
        for (i, e) in (0u64..).zip(&t.0) {
            if let Some(f) = frame(i) {
                e.store(f << 12 | RAM, Ordering::Relaxed);
            }
        }
        t
    }

    fn want(slot: u64, t: &Table) -> Option<Mfn> {
        wanted(Gfn(0x1000 + slot), View::Table(Format::Npt, t))
    }

    #[test]
    fn the_gap_is_filled_at_every_slot() {
        for hole in 0..512 {
            let t = table(|i| (i != hole).then_some(0x8000 + i));
            assert_eq!(want(hole, &t), Some(Mfn(0x8000 + hole)));
        }
    }

    #[test]
    fn a_wide_gap_is_filled_from_its_first_page_on() {
        for gap in [0..100, 100..300, 40..512, 0..480] {
            let t = table(|i| (!gap.contains(&i)).then_some(0x8000 + i));
            for hole in gap {
                assert_eq!(want(hole, &t), Some(Mfn(0x8000 + hole)));
            }
        }
    }

    #[test]
    fn neighbours_out_of_place_want_nothing() {
        let t = table(|i| (i != 9).then_some(0x8001 + i));
        assert_eq!(want(9, &t), None);
    }

    #[test]
    fn an_empty_region_wants_nothing() {
        assert_eq!(want(9, &table(|_| None)), None);
        assert_eq!(wanted(Gfn(0), View::Nothing), None);
    }

    #[test]
    fn one_stranger_among_neighbours_is_outvoted() {
        let t = table(|i| match i {
            9 => None,
            8 => Some(0x123),
            _ => Some(0x8000 + i),
        });
        assert_eq!(want(9, &t), Some(Mfn(0x8009)));
    }

    #[test]
    fn the_nearest_decide_and_nobody_further_off() {
        // All that is not near is of another block, and in its place.
        let t = table(|i| match i {
            9 => None,
            5..=13 => Some(0x8000 + i),
            _ => Some(0x9000 + i),
        });
        assert_eq!(want(9, &t), Some(Mfn(0x8009)));
    }

    #[test]
    fn what_is_no_ram_has_no_vote() {
        let read_only = u64::from(arch::SW_TYPE_RAM_RO) << 52;
        let t = table(|i| (i != 9).then_some(0x8000 + i));
        for e in &t.0 {
            e.fetch_or(read_only, Ordering::Relaxed);
        }
        assert_eq!(want(9, &t), None);
    }

    #[test]
    fn as_many_for_as_against_want_nothing() {
        for strangers in 0..8 {
            let t = table(|i| match i {
                9 => None,
                5..=8 if i - 5 < strangers => Some(0x100 + 2 * i),
                10..=13 if i - 6 < strangers => Some(0x100 + 2 * i),
                _ => Some(0x8000 + i),
            });
            let wanted = (strangers < 4).then_some(Mfn(0x8009));
            assert_eq!(want(9, &t), wanted, "{strangers}");
        }
        // The first is in place, and nobody agrees with it.
        let t = table(|i| match i {
            9 => None,
            5 => Some(0x8005),
            _ => Some(0x9001 + i),
        });
        assert_eq!(want(9, &t), None);
    }
}
