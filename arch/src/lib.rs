// SPDX-License-Identifier: GPL-2.0-only
//! Facts about x86 second-stage (HAP) page tables: AMD NPT and Intel EPT.
//!
//! Both formats keep 512 eight-byte entries in a 4 KiB table. Hardware sets
//! the accessed and dirty bits of a live table behind our back, so a live
//! [`Table`] is read with atomic loads and an [`Entry`] is what *one* load saw.
//!
//! Xen keeps the p2m type of a mapping in bits that the hardware ignores, and
//! marks entries whose type has to be recalculated before it may be believed
//! (`p2m-pt.c: do_recalc()`, `p2m-ept.c: resolve_misconfig()`). Both belong to
//! what an entry says, and are decoded here, so that nothing above this crate
//! has to know about bits.
//!
//! Sources: AMD APM volume 2, 15.25; Intel SDM volume 3, 29.3; Xen
//! `arch/x86/mm/p2m-pt.c` and `arch/x86/include/asm/hvm/vmx/vmx.h`.
#![no_std]
#![forbid(unsafe_code)]

pub mod device;

use core::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;
use static_assertions::{assert_eq_size, const_assert_eq};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// log2 of [`ENTRIES`]: each level of the walk resolves so many bits of a gfn.
#[cfg(not(small_tables))]
pub const LEVEL_BITS: u32 = 9;

/// For `tests/model`, which tries every order of events: no processor has such
/// tables.
#[cfg(small_tables)]
pub const LEVEL_BITS: u32 = 2;

/// Entries in one table.
pub const ENTRIES: usize = 1 << LEVEL_BITS;

/// log2 of the 4 KiB page size, in bytes.
pub const PAGE_SHIFT: u32 = 12;

/// Frame number bits of an entry, both formats: physical bits 51..12.
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// The number that both Xen and this crate give to ordinary guest RAM
/// (`p2m_ram_rw`).
pub const SW_TYPE_RAM_RW: u8 = 0;

/// RAM whose next write is to be noticed (`p2m_ram_logdirty`).
pub const SW_TYPE_RAM_LOGDIRTY: u8 = 2;

/// RAM to which writes are dropped (`p2m_ram_ro`).
pub const SW_TYPE_RAM_RO: u8 = 3;

bitflags! {
    /// Bits of an AMD nested page table entry that we look at.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Npt: u64 {
        const PRESENT = 1 << 0;
        const WRITE = 1 << 1;
        /// Must be set for every guest access. Xen clears it to ask for a
        /// recalculation of the p2m type (`RECALC_FLAGS`).
        const USER = 1 << 2;
        const UNCACHED = 1 << 3 | 1 << 4;
        const ACCESSED = 1 << 5;
        const DIRTY = 1 << 6;
        /// A leaf above level 1; the PAT bit at level 1.
        const LEAF_OR_PAT = 1 << 7;
        /// Bits 58..52: the p2m type (`p2m_type_to_flags()`).
        const SW_TYPE = 0x7f << 52;
        const NO_EXECUTE = 1 << 63;
        /// What the processor sets.
        const TOUCHED = Self::ACCESSED.bits() | Self::DIRTY.bits();
        /// See [`Leaf::attributes`].
        const ATTRIBUTES = Self::WRITE.bits()
            | Self::UNCACHED.bits()
            | Self::SW_TYPE.bits()
            | Self::NO_EXECUTE.bits();
        const _ = !0;
    }

    /// Bits of an Intel extended page table entry that we look at.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Ept: u64 {
        const READ = 1 << 0;
        const WRITE = 1 << 1;
        const EXECUTE = 1 << 2;
        const MEMORY_TYPE = 0x7 << 3;
        const IGNORE_PAT = 1 << 6;
        const LEAF = 1 << 7;
        const ACCESSED = 1 << 8;
        const DIRTY = 1 << 9;
        /// Software: the p2m type has to be recalculated.
        const RECALC = 1 << 10;
        const SNOOP = 1 << 11;
        /// Bits 57..52: the p2m type (`sa_p2mt`).
        const SW_TYPE = 0x3f << 52;
        /// Bits 62..59: `p2m_access_t`.
        const SW_ACCESS = 0xf << 59;
        const SUPPRESS_VE = 1 << 63;
        /// What the processor sets.
        const TOUCHED = Self::ACCESSED.bits() | Self::DIRTY.bits();
        /// One of them makes an entry present.
        const PRESENT = Self::READ.bits() | Self::WRITE.bits() | Self::EXECUTE.bits();
        /// See [`Leaf::attributes`]. Execute is left out: Xen takes it from every
        /// superpage where the processor has CVE-2018-12207, and gives it to their
        /// parts.
        const ATTRIBUTES = Self::READ.bits()
            | Self::WRITE.bits()
            | Self::MEMORY_TYPE.bits()
            | Self::IGNORE_PAT.bits()
            | Self::SNOOP.bits()
            | Self::SW_TYPE.bits()
            | Self::SW_ACCESS.bits()
            | Self::SUPPRESS_VE.bits();
        const _ = !0;
    }
}

const SW_TYPE_SHIFT: u32 = 52;

const EPT_ACCESS_SHIFT: u32 = 59;

/// The number of `p2m_access_rwx`.
pub const ACCESS_RWX: u8 = 7;

/// The memory type that Xen writes to have the next access fault, when it
/// cannot tell the real one yet (`MTRR_NUM_TYPES`).
const EPT_MISCONFIGURED: u64 = 7;

/// The two table formats that Xen runs HAP guests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// AMD nested page tables.
    Npt,
    /// Intel extended page tables.
    Ept,
}

/// One entry as a single load saw it; its meaning depends on the [`Format`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Entry(pub u64);

/// A live table, shared with the hardware walker.
#[derive(Debug)]
#[cfg_attr(not(small_tables), repr(C, align(4096)))]
pub struct Table(pub [AtomicU64; ENTRIES]);

assert_eq_size!(Table, [u64; ENTRIES]);
#[cfg(not(small_tables))]
const_assert_eq!(core::mem::align_of::<Table>(), 4096);
const_assert_eq!(core::mem::size_of::<Entry>() << 9, 4096);

impl Table {
    /// Every entry in turn, each read once.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.0.iter().map(|e| Entry(e.load(Ordering::Relaxed)))
    }

    /// The same from the one at `first` on.
    pub fn entries_from(&self, first: usize) -> impl Iterator<Item = Entry> + '_ {
        let entries = self.0.get(first..).unwrap_or(&[]);

        entries.iter().map(|e| Entry(e.load(Ordering::Relaxed)))
    }

    /// The entry at `index`, which only its lowest nine bits choose.
    pub fn entry(&self, index: u64) -> Entry {
        let i = (index % ENTRIES as u64) as usize;

        // The remainder is in range, so there is always an entry.
        Entry(self.0.get(i).map_or(0, |e| e.load(Ordering::Relaxed)))
    }

    /// Write the entry at `index`, in one store (XSA-321, XSA-328); the caller
    /// holds the lock that writers of this table take.
    pub fn set(&self, index: u64, entry: Entry) {
        let i = (index % ENTRIES as u64) as usize;

        if let Some(e) = self.0.get(i) {
            e.store(entry.0, Ordering::Release);
        }
    }
}

/// Xen's populate-on-demand type (`p2m_populate_on_demand`).
pub const SW_TYPE_POD: u8 = 6;

impl Entry {
    /// An entry, of any level and either format, that maps nothing and at which
    /// a guest access comes to wait for the p2m lock: of the type
    /// populate-on-demand. Bit 63 is NPT's no-execute, which Xen sets for that
    /// type, and EPT's suppress-#VE.
    pub const WAIT: Entry = Entry((SW_TYPE_POD as u64) << SW_TYPE_SHIFT | 1 << 63);

    /// The same 4 KiB leaf, but leading to `frame`.
    pub fn with_frame(self, frame: u64) -> Entry {
        Entry(self.0 & !FRAME_MASK | frame.wrapping_shl(PAGE_SHIFT) & FRAME_MASK)
    }

    /// The frame that the entry leads to, if it is a table or a 4 KiB leaf.
    pub fn frame(self) -> u64 {
        (self.0 & FRAME_MASK) >> PAGE_SHIFT
    }
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing is mapped, and the software type says that nothing is meant to
    /// be: the type is carried because populate-on-demand, paged-out and
    /// device-model entries are not present either.
    Absent {
        /// Xen's `p2m_type_t`.
        sw_type: u8,
    },
    /// Points to a table of the next lower level.
    Table {
        /// Frame number of that table.
        frame: u64,
        /// All types below need recalculation.
        recalc: bool,
    },
    /// Maps memory.
    Leaf(Leaf),
}

/// A present mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First machine frame.
    pub frame: u64,
    /// Xen's `p2m_type_t`; [`SW_TYPE_RAM_RW`] is what can be merged.
    pub sw_type: u8,
    /// All bits that have to be the same in entries that one leaf replaces:
    /// permissions, cacheability, `p2m_access_t`, #VE. Comparable only.
    pub attributes: u64,
    /// The type must not be believed before Xen has recalculated it.
    pub recalc: bool,
    /// The cacheability is the ordinary one of RAM. A mapping that is not
    /// (XSA-402) is neither copied nor merged.
    pub cacheable: bool,
}

impl Format {
    /// The two 4 KiB leaves, of which one was decoded and found to be ordinary
    /// RAM, say the same of different frames. (Entries that differ may say the
    /// same, too: decode them.) Hardware sets the accessed and dirty bits.
    #[inline]
    pub fn alike(self, a: Entry, b: Entry) -> bool {
        let ignored = match self {
            Format::Npt => Npt::TOUCHED.bits(),
            Format::Ept => Ept::TOUCHED.bits(),
        };

        (a.0 ^ b.0) & !ignored & !FRAME_MASK == 0
    }

    /// Decode `entry`, found in a table of `level` (1 maps 4 KiB pages, 2 maps
    /// 2 MiB, 3 maps 1 GiB).
    #[inline]
    pub fn decode(self, entry: Entry, level: u32) -> Slot {
        match self {
            Format::Npt => decode_npt(Npt::from_bits_retain(entry.0), level),
            Format::Ept => decode_ept(Ept::from_bits_retain(entry.0), level),
        }
    }

    /// The leaf of 2 MiB that says what the 512 entries of 4 KiB say of which `first` is
    /// the first, and ordinary RAM. `executable`: Xen lets code be run from superpages
    /// (`exec_sp`).
    #[inline]
    pub fn superpage(self, first: Entry, executable: bool) -> Entry {
        match self {
            Format::Npt => Entry(first.0 | Npt::LEAF_OR_PAT.bits()),
            Format::Ept if executable => Entry(first.0 | Ept::LEAF.bits()),
            Format::Ept => Entry((first.0 | Ept::LEAF.bits()) & !Ept::EXECUTE.bits()),
        }
    }

    /// The `p2m_access_t` that Xen reads in a leaf (`p2m_pt_get_entry()`,
    /// `ept_get_entry()`): only EPT keeps one.
    #[inline]
    pub fn access(self, entry: Entry) -> u8 {
        match self {
            Format::Npt => ACCESS_RWX,
            Format::Ept => ((entry.0 & Ept::SW_ACCESS.bits()) >> EPT_ACCESS_SHIFT) as u8,
        }
    }

    /// Nothing is there, not even a type (`is_epte_valid()`).
    #[inline]
    pub fn is_empty(self, entry: Entry) -> bool {
        match self {
            Format::Npt => entry.0 == 0,
            Format::Ept => entry.0 & !Ept::SUPPRESS_VE.bits() == 0,
        }
    }
}

#[inline]
fn decode_npt(bits: Npt, level: u32) -> Slot {
    let frame = (bits.bits() & FRAME_MASK) >> PAGE_SHIFT;
    let sw_type = ((bits & Npt::SW_TYPE).bits() >> SW_TYPE_SHIFT) as u8;
    let recalc = !bits.contains(Npt::USER);

    if !bits.contains(Npt::PRESENT) {
        return Slot::Absent { sw_type };
    }
    if level > 1 && !bits.contains(Npt::LEAF_OR_PAT) {
        return Slot::Table { frame, recalc };
    }

    // Above level 1 the PAT bit is bit 12, inside the frame number.
    let pat = if level > 1 {
        frame & 1 != 0
    } else {
        bits.contains(Npt::LEAF_OR_PAT)
    };

    Slot::Leaf(Leaf {
        frame: if level > 1 { frame & !1 } else { frame },
        sw_type,
        attributes: (bits & Npt::ATTRIBUTES).bits(),
        recalc,
        cacheable: !pat && !bits.intersects(Npt::UNCACHED),
    })
}

#[inline]
fn decode_ept(bits: Ept, level: u32) -> Slot {
    let frame = (bits.bits() & FRAME_MASK) >> PAGE_SHIFT;
    let sw_type = ((bits & Ept::SW_TYPE).bits() >> SW_TYPE_SHIFT) as u8;
    let memory_type = (bits & Ept::MEMORY_TYPE).bits() >> 3;
    // Xen writes an impossible memory type above the leaves, too.
    let misconfigured = memory_type == EPT_MISCONFIGURED;
    let recalc = bits.contains(Ept::RECALC) || misconfigured;

    // A leaf without any permission is still a mapping to Xen when it has a
    // type that maps memory; such leaves are not ours to merge.
    if !bits.intersects(Ept::PRESENT) {
        return Slot::Absent { sw_type };
    }
    if level > 1 && !bits.contains(Ept::LEAF) {
        return Slot::Table { frame, recalc };
    }

    Slot::Leaf(Leaf {
        frame,
        sw_type,
        attributes: (bits & Ept::ATTRIBUTES).bits(),
        recalc,
        cacheable: memory_type == 6,
    })
}

#[cfg(test)]
mod tests;
