// SPDX-License-Identifier: GPL-2.0-only
use super::*;
use proptest::prelude::*;

/// `P2M_BASE_FLAGS | _PAGE_RW` of Xen: present, writable, user, accessed, dirty.
const NPT_RAM: u64 = 0x67;

/// Read, write, execute, write-back, accessed, dirty, access rwx, no #VE.
const EPT_RAM: u64 = 0x7 | 6 << 3 | 0x300 | 7 << 59 | 1 << 63;

fn leaf(slot: Slot) -> Leaf {
    match slot {
        Slot::Leaf(leaf) => leaf,
        other => panic!("not a leaf: {other:?}"),
    }
}

#[test]
fn npt_ram_is_a_cacheable_leaf() {
    let l = leaf(Format::Npt.decode(Entry(0x1234 << 12 | NPT_RAM), 1));

    assert_eq!(
        (l.frame, l.sw_type, l.recalc, l.cacheable),
        (0x1234, 0, false, true)
    );
}

#[test]
fn npt_user_bit_clear_asks_for_recalculation() {
    let l = leaf(Format::Npt.decode(Entry(0x1234 << 12 | (NPT_RAM & !0x24)), 1));

    assert!(l.recalc);
}

#[test]
fn npt_accessed_and_dirty_do_not_distinguish() {
    let a = leaf(Format::Npt.decode(Entry(NPT_RAM), 1));
    let b = leaf(Format::Npt.decode(Entry(NPT_RAM & !0x40), 1));

    assert_eq!(a.attributes, b.attributes);
}

#[test]
fn npt_pat_bit_is_elsewhere_in_a_superpage() {
    assert!(!leaf(Format::Npt.decode(Entry(NPT_RAM | 1 << 7), 1)).cacheable);
    assert!(leaf(Format::Npt.decode(Entry(NPT_RAM | 1 << 7), 2)).cacheable);
    let l = leaf(Format::Npt.decode(Entry(0x200 << 12 | NPT_RAM | 1 << 7 | 1 << 12), 2));
    assert!(!l.cacheable);
    assert_eq!(l.frame, 0x200);
}

#[test]
fn npt_table_and_typed_hole() {
    assert_eq!(
        Format::Npt.decode(Entry(0x99 << 12 | NPT_RAM), 2),
        Slot::Table {
            frame: 0x99,
            recalc: false
        }
    );
    assert_eq!(
        Format::Npt.decode(Entry(6 << 52 | 1 << 63), 1),
        Slot::Absent { sw_type: 6 }
    );
}

#[test]
fn ept_ram_and_its_executable_parts_compare_equal() {
    let small = leaf(Format::Ept.decode(Entry(0x400 << 12 | EPT_RAM), 1));
    let big = leaf(Format::Ept.decode(Entry(0x400 << 12 | (EPT_RAM & !4) | 1 << 7), 2));

    assert_eq!(small.attributes, big.attributes);
    assert!(small.cacheable && !small.recalc);
}

#[test]
fn ept_misconfigured_entry_is_not_believed() {
    let l = leaf(Format::Ept.decode(Entry(EPT_RAM | 7 << 3), 1));

    assert!(l.recalc && !l.cacheable);
}

#[test]
fn ept_access_differs() {
    let a = leaf(Format::Ept.decode(Entry(EPT_RAM), 1));
    let b = leaf(Format::Ept.decode(Entry(EPT_RAM & !(1 << 59)), 1));

    assert_ne!(a.attributes, b.attributes);
}

proptest! {
    /// Whatever bits a table holds, decoding ends and keeps the frame number
    /// within what the hardware can address.
    #[test]
    fn decode_is_total(raw: u64, level in 1u32..4, ept: bool) {
        let format = if ept { Format::Ept } else { Format::Npt };
        if let Slot::Leaf(l) = format.decode(Entry(raw), level) {
            prop_assert!(l.frame < 1 << 40);
            prop_assert!(l.sw_type < 0x80);
        }
    }

    #[test]
    fn entry_takes_any_index(index: u64) {
        let t = Table([const { core::sync::atomic::AtomicU64::new(0) }; ENTRIES]);
        t.0[(index % 512) as usize].store(7, core::sync::atomic::Ordering::Relaxed);
        prop_assert_eq!(t.entry(index), Entry(7));
    }
}

#[test]
fn access_and_emptiness() {
    let ept = |bits| {
        (
            Format::Ept.access(Entry(bits)),
            Format::Ept.is_empty(Entry(bits)),
        )
    };
    let npt = |bits| {
        (
            Format::Npt.access(Entry(bits)),
            Format::Npt.is_empty(Entry(bits)),
        )
    };

    assert_eq!(ept(0), (0, true));
    assert_eq!(ept(1 << 63), (0, true));
    assert_eq!(ept(5 << 59 | 7), (5, false));
    assert_eq!(ept(4 << 52), (0, false));
    assert_eq!(npt(0), (ACCESS_RWX, true));
    assert_eq!(npt(1 << 63), (ACCESS_RWX, false));
    assert_eq!(npt(0x67), (ACCESS_RWX, false));
}

/// Of all bits of a leaf these make a difference, and those that the processor sets
/// do not.
#[test]
fn what_distinguishes_leaves() {
    let npt = 1 << 1 | 3 << 3 | 0x7f << 52 | 1 << 63;
    let ept = 3 | 7 << 3 | 1 << 6 | 1 << 11 | 0x3f << 52 | 0xf << 59 | 1 << 63;
    let frame = 0x000f_ffff_ffff_f000u64;

    for (format, ram, attributes, touched) in [
        (Format::Npt, NPT_RAM, npt, 1u64 << 5 | 1 << 6),
        (Format::Ept, EPT_RAM, ept, 1 << 8 | 1 << 9),
    ] {
        let plain = leaf(format.decode(Entry(ram), 1));
        for bit in (0..64).map(|n| 1u64 << n) {
            let other = Entry(ram ^ bit);
            let alike = (touched | frame) & bit != 0;
            assert_eq!(
                format.alike(Entry(ram), other),
                alike,
                "{format:?} {bit:#x}"
            );
            assert_eq!(
                format.alike(other, Entry(ram)),
                alike,
                "{format:?} {bit:#x}"
            );
            if let Slot::Leaf(leaf) = format.decode(other, 1) {
                let same = attributes & bit == 0;
                assert_eq!(
                    leaf.attributes == plain.attributes,
                    same,
                    "{format:?} {bit:#x}"
                );
            }
        }
    }
}

/// Each bit alone makes an EPT entry present.
#[test]
fn ept_is_present_with_any_permission() {
    for permission in [1, 2, 4] {
        leaf(Format::Ept.decode(Entry(permission | 6 << 3), 1));
    }
    let none = Entry(EPT_RAM & !7 | 9 << 52);
    assert_eq!(Format::Ept.decode(none, 1), Slot::Absent { sw_type: 9 });
}

#[test]
fn npt_uncached_in_either_way() {
    for uncached in [1 << 3, 1 << 4] {
        assert!(!leaf(Format::Npt.decode(Entry(NPT_RAM | uncached), 1)).cacheable);
    }
}

/// Only the frame is another, whatever it was.
#[test]
fn with_frame_changes_the_frame_only() {
    let all = Entry(u64::MAX);

    assert_eq!(all.with_frame(0), Entry(!0x000f_ffff_ffff_f000));
    assert_eq!(Entry(0).with_frame(u64::MAX), Entry(0x000f_ffff_ffff_f000));
    assert_eq!(all.with_frame(0x1234).frame(), 0x1234);
    assert_eq!(
        Entry(0x55 << 12 | NPT_RAM).with_frame(0x42),
        Entry(0x42 << 12 | NPT_RAM)
    );
}

/// It decodes as a leaf that says what the first entry did; only EPT's may lose the
/// permission to execute.
#[test]
fn a_superpage_says_what_its_first_entry_said() {
    for (format, ram) in [(Format::Npt, NPT_RAM), (Format::Ept, EPT_RAM)] {
        let first = Entry(0x600 << 12 | ram);
        for executable in [false, true] {
            let whole = format.superpage(first, executable);
            assert_eq!(leaf(format.decode(whole, 2)), leaf(format.decode(first, 1)));
            let lost = first.0 & !whole.0;
            let expected = match format {
                Format::Ept if !executable => 1 << 2,
                _ => 0,
            };
            assert_eq!(lost, expected, "{format:?}");
            assert_eq!(whole.0 & !first.0, 1 << 7, "{format:?}");
        }
    }
}

/// Bit 7 of a small entry means something else, or nothing: a superpage never becomes a
/// pointer to a table, which the guest would write itself.
#[test]
fn a_superpage_is_a_leaf_whatever_bit_7_was() {
    for (format, ram) in [(Format::Npt, NPT_RAM), (Format::Ept, EPT_RAM)] {
        for first in [0, 1 << 7].map(|bit| Entry(0x600 << 12 | ram | bit)) {
            for executable in [false, true] {
                let whole = format.superpage(first, executable);
                assert_eq!(leaf(format.decode(whole, 2)).frame, 0x600, "{format:?}");
            }
        }
    }
}

/// Xen's own: bit 63 and type 6 (`p2m_populate_on_demand`), nothing else.
#[test]
fn the_mark_maps_nothing() {
    assert_eq!(Entry::WAIT, Entry(6 << 52 | 1 << 63));
    for format in [Format::Npt, Format::Ept] {
        assert_eq!(format.decode(Entry::WAIT, 2), Slot::Absent { sw_type: 6 });
        assert!(!format.is_empty(Entry::WAIT));
    }
}

#[test]
fn tables_are_read_whole_and_written_at_one_place() {
    let t = Table([const { core::sync::atomic::AtomicU64::new(0) }; ENTRIES]);

    t.set(513, Entry(5));
    t.set(511, Entry(6));
    assert_eq!(
        (t.entry(1), t.entry(511), t.entry(0)),
        (Entry(5), Entry(6), Entry(0))
    );
    assert_eq!(t.entries().count(), ENTRIES);
    assert_eq!(t.entries().filter(|e| e.0 != 0).count(), 2);
}
