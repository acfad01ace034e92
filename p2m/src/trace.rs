// SPDX-License-Identifier: GPL-2.0-only
//! The records that are written to Xen's trace buffers.
//!
//! All are of one layout, seven little-endian 32-bit words, the most that a
//! trace record holds; its first byte is the version of the layout.

use crate::addr::{Gfn, Mfn};
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of [`Record`].
pub const VERSION: u8 = 2;

/// First of our numbers in Xen's trace class `TRC_MEM`.
pub const TRC_MEM_BASE: u32 = 0x0010_f000 + 32;

/// What happened; the number is added to [`TRC_MEM_BASE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A leaf was broken; `code` is the number of the level that it was at,
    /// less one (1: 2M to 4K, 2: 1G to 2M), `copied` the
    /// [`crate::account::Cause`] (version 1 has none).
    Split = 0,
    /// 512 entries became one leaf, nothing was copied.
    Promote = 1,
    /// Pages astray were fetched and the leaf was made.
    Complete = 2,
    /// The region was copied to a fresh block.
    Migrate = 3,
    /// The region was left; `code` is the [`crate::account::Reason`].
    Refuse = 4,
    /// A batch of XENMEM_exchange: `code` is input order << 4 | output order,
    /// `mfn` is the first output *gfn*, `copied` the pages exchanged, `astray`
    /// the splits avoided.
    Exchange = 5,
}

/// One record as it stands in the trace buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// [`VERSION`].
    pub version: u8,
    /// Depends on the event.
    pub code: u8,
    /// The domain.
    pub domid: u16,
    /// First guest frame concerned, low half first.
    pub gfn: [u32; 2],
    /// First machine frame after the act, low half first; all ones: none.
    pub mfn: [u32; 2],
    /// 4 KiB pages copied.
    pub copied: u16,
    /// 4 KiB pages that did not lie where one leaf would want them.
    pub astray: u16,
    /// TSC ticks for which the p2m lock was held, saturating.
    pub hold: u32,
}

const_assert_eq!(core::mem::size_of::<Record>(), 28);

const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

fn saturate(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

impl Record {
    /// A record of version [`VERSION`]; counts and ticks saturate.
    pub fn new(domid: u16, code: u8, gfn: Gfn, mfn: Option<Mfn>) -> Self {
        Record {
            version: VERSION,
            code,
            domid,
            gfn: halves(gfn.0),
            mfn: halves(mfn.map_or(u64::MAX, |m| m.0)),
            copied: 0,
            astray: 0,
            hold: 0,
        }
    }

    /// The same with page counts.
    pub fn pages(self, copied: u64, astray: u64) -> Self {
        Record {
            copied: saturate(copied),
            astray: saturate(astray),
            ..self
        }
    }

    /// The same with the length of the lock hold in TSC ticks.
    pub fn held(self, ticks: u64) -> Self {
        Record {
            hold: u32::try_from(ticks).unwrap_or(u32::MAX),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_it_was_given() {
        let (gfn, mfn) = (Gfn(0x1234_5678_9abc_def0), Mfn(0xfedc_ba98_7654_3210));
        let record = Record::new(7, 9, gfn, Some(mfn)).pages(100, 3).held(5000);

        assert_eq!((record.version, record.code, record.domid), (VERSION, 9, 7));
        assert_eq!(record.gfn, [0x9abc_def0, 0x1234_5678]);
        assert_eq!(record.mfn, [0x7654_3210, 0xfedc_ba98]);
        assert_eq!((record.copied, record.astray, record.hold), (100, 3, 5000));
    }

    #[test]
    fn what_does_not_fit_is_the_most_there_is() {
        let record = Record::new(0, 0, Gfn(0), None)
            .pages(1 << 16, u64::MAX)
            .held(1 << 32);

        assert_eq!(record.mfn, [u32::MAX; 2]);
        assert_eq!((record.copied, record.astray), (u16::MAX, u16::MAX));
        assert_eq!(record.hold, u32::MAX);
    }
}
