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
