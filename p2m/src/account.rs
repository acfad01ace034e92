// SPDX-License-Identifier: GPL-2.0-only
//! What was done, and why the rest was left: counters and reasons.
//!
//! The law that holds at every moment that no region is being worked on:
//! `looked_at = promoted + completed + migrated + Σ refused(reason)`.
//! [`Account::settle`] is the only way to count a look, so the law cannot be
//! broken by forgetting one side of it.

use core::sync::atomic::{AtomicU64, Ordering};
use static_assertions::const_assert;

/// Why a region was left as it is. The numbers are public
/// (`XEN_DOMCTL_COALESCE_REASON_*`) and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// One leaf of 2 MiB or more maps it already.
    WholeAlready = 0,
    /// Nothing is mapped there.
    Empty = 1,
    /// At least one page is ballooned out.
    Hole = 2,
    /// Somebody besides the domain holds a reference to a page: a grant or
    /// foreign mapping, a vcpu_info page, an emulator.
    Pinned = 3,
    /// A page is not ordinary RAM.
    MemType = 4,
    /// The pages do not all have the same permissions or attributes.
    Access = 5,
    /// A page belongs to Xen or has a special role (`PGC_xen_heap`,
    /// `PGC_extra`); also a page whose M2P entry names another gfn.
    Special = 6,
    /// No free 2 MiB block above the watermark.
    NoMemory = 7,
    /// The domain is being destroyed.
    Dying = 8,
    /// The frames are mapped in an IOMMU: a device may write to them.
    Iommu = 9,
    /// altp2m is in use.
    Altp2m = 10,
    /// The domain runs guests of its own.
    Nested = 11,
    /// Populate-on-demand entries exist.
    PopulateOnDemand = 12,
    /// Sharing or paging is enabled.
    Sharing = 13,
    /// Log-dirty tracking is on (live migration, VRAM).
    LogDirty = 14,
    /// A type recalculation is pending.
    Recalc = 15,
    /// It broke again soon after it was healed.
    Cooling = 16,
    /// The operator allowed only what needs no copy.
    Mode = 17,
    /// Not a HAP domain with 2 MiB entries, or not yet completely built.
    NotReady = 18,
    /// It changed while we were about to work on it.
    Vanished = 19,
    /// The CPU was wanted before all pages were moved; those that were stay.
    Interrupted = 20,
    /// Somebody uses a page as more than plain memory (its type count is not 0).
    TypePinned = 21,
    /// One entry could not say the memory type of all pages (MTRRs).
    Cacheability = 22,
    /// Somebody watches accesses to it (mem_access): its permissions are not those
    /// that the domain's pages have.
    MemAccess = 23,
    /// Code in it is executed, on a processor on which superpages must not be
    /// executable (XSA-304): Xen would break it again.
    ExecSp = 24,
    /// To make it whole takes copies, and others wait that may take fewer: its turn
    /// comes.
    Deferred = 25,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = 26;
}

/// What broke a leaf. The numbers are public (`XEN_DOMCTL_COALESCE_CAUSE_*`) and
/// are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// Nothing of what follows: populate-on-demand, paging, sharing, …
    Other = 0,
    /// A page was ballooned out (`XENMEM_decrease_reservation`).
    Balloon = 1,
    /// `XENMEM_exchange`.
    Exchange = 2,
    /// Something was mapped or moved: `XENMEM_add_to_physmap`, a grant, a
    /// device's memory, another domain's page.
    Map = 3,
    /// Type, access or cacheability of a part of it was changed.
    Type = 4,
    /// Writes to a part of it are tracked.
    LogDirty = 5,
    /// It was executed, and superpages must not be (XSA-304).
    Exec = 6,
}

impl Cause {
    /// All of them, by number.
    pub const ALL: [Cause; 7] = [
        Cause::Other,
        Cause::Balloon,
        Cause::Exchange,
        Cause::Map,
        Cause::Type,
        Cause::LogDirty,
        Cause::Exec,
    ];

    /// The cause with this number; [`Cause::Other`] if there is none.
    pub fn from_number(number: u32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|n| Self::ALL.get(n).copied())
            .unwrap_or(Cause::Other)
    }
}

/// Counters that are not refusals. The numbers are public
/// (`XEN_DOMCTL_COALESCE_COUNT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Regions judged; see the law in the module's head.
    LookedAt = 0,
    /// Made whole with no copy.
    Promoted = 1,
    /// Made whole by fetching the few pages that were astray.
    Completed = 2,
    /// Made whole by moving all of it.
    Migrated = 3,
    /// 4 KiB pages copied for it: its own, and others' that made room.
    PagesCopied = 4,
    /// Leaves broken, by whomever: the sum of all [`Cause`]s.
    Splits = 5,
    /// Leaves that an exchange could replace without breaking them.
    SplitsAvoided = 6,
    /// XENMEM_exchange calls that were let through to the p2m.
    ExchangeCalls = 7,
    /// 4 KiB pages exchanged.
    ExchangedPages = 8,
    /// The longest time that the p2m lock was held for one act, in TSC ticks.
    LongestHold = 9,
    /// Regions waiting now. Filled in when the counters are read.
    Queued = 10,
    /// TSC ticks for which the p2m lock was held for acts.
    HoldTicks = 11,
    /// TSC ticks spent copying pages.
    CopyTicks = 12,
    /// GiB of which 512 leaves became one again, with no copy. (What made the last of
    /// the 512 is counted besides.)
    PromotedGib = 13,
    /// Blocks of 2 MiB that were emptied for it ([`crate::room`]).
    BlocksMade = 14,
}

/// Entries of the public array: counters first, reasons from
/// [`REASON_BASE`] on.
pub const ENTRIES: usize = 64;

/// Index of the first reason in the public array.
pub const REASON_BASE: usize = 16;

/// Index of the first cause of a split in the public array.
pub const CAUSE_BASE: usize = 48;

const_assert!(REASON_BASE + Reason::COUNT <= CAUSE_BASE);
const_assert!(CAUSE_BASE + Cause::ALL.len() <= ENTRIES);

/// What became of a region that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One leaf replaced 512 entries that lay in order.
    Promoted,
    /// The pages that were astray were fetched.
    Completed,
    /// All pages were copied to a fresh block.
    Migrated,
    /// Left as it is.
    Refused(Reason),
}

impl Outcome {
    /// Index in the public array of the counter that counts it.
    pub const fn index(self) -> usize {
        match self {
            Outcome::Promoted => Counter::Promoted as usize,
            Outcome::Completed => Counter::Completed as usize,
            Outcome::Migrated => Counter::Migrated as usize,
            Outcome::Refused(reason) => REASON_BASE.wrapping_add(reason as usize),
        }
    }
}

/// The counters of one domain. Any CPU may add to them at any time.
#[derive(Debug)]
pub struct Account {
    counts: [AtomicU64; ENTRIES],
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

impl Account {
    /// All zero.
    pub const fn new() -> Self {
        Account {
            counts: [const { AtomicU64::new(0) }; ENTRIES],
        }
    }

    /// The value at the public index `index`; 0 where there is none.
    pub fn get(&self, index: usize) -> u64 {
        self.counts
            .get(index)
            .map_or(0, |c| c.load(Ordering::Relaxed))
    }

    /// The value of `counter`.
    pub fn count(&self, counter: Counter) -> u64 {
        self.get(counter as usize)
    }

    /// How often `reason` was the outcome.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.get(REASON_BASE.wrapping_add(reason as usize))
    }

    /// Count `n` more.
    pub fn add(&self, counter: Counter, n: u64) {
        self.bump(counter as usize, n);
    }

    /// The lock was held for `ticks`.
    pub fn hold(&self, ticks: u64) {
        self.add(Counter::HoldTicks, ticks);
        if let Some(c) = self.counts.get(Counter::LongestHold as usize) {
            c.fetch_max(ticks, Ordering::Relaxed);
        }
    }

    /// A leaf was broken.
    pub fn split(&self, cause: Cause) {
        self.add(Counter::Splits, 1);
        self.bump(CAUSE_BASE.wrapping_add(cause as usize), 1);
    }

    /// Each split has a cause.
    pub fn splits_balance(&self) -> bool {
        let by_cause = Cause::ALL
            .iter()
            .map(|&cause| self.get(CAUSE_BASE.wrapping_add(cause as usize)))
            .fold(0u64, u64::wrapping_add);

        self.count(Counter::Splits) == by_cause
    }

    /// Count one look and its outcome.
    pub fn settle(&self, outcome: Outcome) {
        self.add(Counter::LookedAt, 1);
        self.bump(outcome.index(), 1);
    }

    fn bump(&self, index: usize, n: u64) {
        if let Some(c) = self.counts.get(index) {
            c.fetch_add(n, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_by_their_numbers() {
        for (number, cause) in (0..).zip(Cause::ALL) {
            assert_eq!(Cause::from_number(number), cause);
            assert_eq!(cause as u32, number);
        }
        for unknown in [Cause::ALL.len() as u32, 48, u32::MAX] {
            assert_eq!(Cause::from_number(unknown), Cause::Other);
        }
    }

    #[test]
    fn each_split_has_a_cause() {
        let account = Account::new();

        for cause in Cause::ALL {
            account.split(cause);
            assert!(account.splits_balance());
            assert_eq!(account.get(CAUSE_BASE + cause as usize), 1);
        }
        assert_eq!(account.count(Counter::Splits), Cause::ALL.len() as u64);
        account.add(Counter::Splits, 1);
        assert!(!account.splits_balance());
    }

    #[test]
    fn holds_are_summed_and_the_longest_is_kept() {
        let account = Account::new();

        for ticks in [5, 9, 2] {
            account.hold(ticks);
        }
        assert_eq!(account.count(Counter::HoldTicks), 16);
        assert_eq!(account.count(Counter::LongestHold), 9);
    }

    #[test]
    fn a_refusal_is_counted_as_what_it_is() {
        let account = Account::new();

        account.settle(Outcome::Refused(Reason::Hole));
        account.settle(Outcome::Refused(Reason::Hole));
        assert_eq!(account.refused(Reason::Hole), 2);
        assert_eq!(account.refused(Reason::Pinned), 0);
        assert_eq!(account.count(Counter::LookedAt), 2);
        assert_eq!(account.get(ENTRIES), 0);
    }
}
