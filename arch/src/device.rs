// SPDX-License-Identifier: GPL-2.0-only
//! Entries of the tables through which devices see a domain's memory: AMD's I/O
//! page tables and VT-d's second-level tables. Read only by the auditor.
//!
//! Sources: AMD I/O Virtualization Technology (IOMMU) Specification, 2.2.3;
//! Intel VT-d Specification, 9.8; Xen `drivers/passthrough/amd/iommu-defs.h:
//! union amd_iommu_pte` and `drivers/passthrough/vtd/iommu.h: struct dma_pte`.

use crate::{Entry, FRAME_MASK, PAGE_SHIFT};
use bitflags::bitflags;

bitflags! {
    /// Bits of an AMD I/O page table entry that we look at.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Amd: u64 {
        const PRESENT = 1 << 0;
        /// Level of the table that the entry points to; 0: it is a leaf.
        const NEXT_LEVEL = 7 << 9;
        const READ = 1 << 61;
        const WRITE = 1 << 62;
        const _ = !0;
    }

    /// Bits of a VT-d second-level entry that we look at.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Vtd: u64 {
        const READ = 1 << 0;
        const WRITE = 1 << 1;
        /// A leaf above level 1.
        const LEAF = 1 << 7;
        /// One of them makes an entry present.
        const PRESENT = Self::READ.bits() | Self::WRITE.bits();
        const _ = !0;
    }
}

/// The two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFormat {
    /// AMD-Vi.
    Amd,
    /// Intel VT-d.
    Vtd,
}

/// What one entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSlot {
    /// A device that touches it is refused.
    Absent,
    /// Points to a table.
    Table {
        /// Frame number of that table.
        frame: u64,
        /// Its level, which has to be lower than this one's.
        level: u32,
    },
    /// Maps memory.
    Leaf {
        /// First machine frame.
        frame: u64,
        /// Devices may read it.
        read: bool,
        /// Devices may write to it.
        write: bool,
    },
}

impl DeviceFormat {
    /// Decode `entry`, found in a table of `level` (1 maps 4 KiB pages).
    pub fn decode(self, entry: Entry, level: u32) -> DeviceSlot {
        let frame = (entry.0 & FRAME_MASK) >> PAGE_SHIFT;

        match self {
            DeviceFormat::Amd => {
                let bits = Amd::from_bits_retain(entry.0);
                let next = ((bits & Amd::NEXT_LEVEL).bits() >> 9) as u32;

                if !bits.contains(Amd::PRESENT) {
                    DeviceSlot::Absent
                } else if next != 0 {
                    DeviceSlot::Table { frame, level: next }
                } else {
                    DeviceSlot::Leaf {
                        frame,
                        read: bits.contains(Amd::READ),
                        write: bits.contains(Amd::WRITE),
                    }
                }
            }
            DeviceFormat::Vtd => {
                let bits = Vtd::from_bits_retain(entry.0);

                if !bits.intersects(Vtd::PRESENT) {
                    DeviceSlot::Absent
                } else if level > 1 && !bits.contains(Vtd::LEAF) {
                    DeviceSlot::Table {
                        frame,
                        level: level.saturating_sub(1),
                    }
                } else {
                    DeviceSlot::Leaf {
                        frame,
                        read: bits.contains(Vtd::READ),
                        write: bits.contains(Vtd::WRITE),
                    }
                }
            }
        }
    }
}
