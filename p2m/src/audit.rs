// SPDX-License-Identifier: GPL-2.0-only
//! Checks that the books agree: what a page table maps against the machine's
//! frame table and M2P, and against what an IOMMU lets devices see.
//!
//! Xen has an audit of its own (`p2m.c: audit_p2m()`), in debug builds, for NPT,
//! and where nothing is mapped but RAM in entries of up to 2 MiB. This one reads
//! both formats, and so does what the changes of this crate are about; it takes
//! one region at a time, so that it can be interrupted, and changes nothing.
//!
//! What it cannot see: an entry that is right and that some TLB knows otherwise.

use crate::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use arch::device::{DeviceFormat, DeviceSlot};
use arch::{
    Entry, Format, LEVEL_BITS, SW_TYPE_RAM_LOGDIRTY, SW_TYPE_RAM_RO, SW_TYPE_RAM_RW, Slot, Table,
};

/// Elements of an [`Audit`]; the numbers are those of
/// `XEN_DOMCTL_COALESCE_AUDIT_*` and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Finding {
    /// RAM pages mapped that count as the domain's (`tot_pages`).
    Pages = 0,
    /// RAM pages mapped that are Xen's own, shared with the domain.
    XenPages = 1,
    /// Pages mapped that are not RAM, holes not among them.
    Others = 2,
    /// Pages that were compared with what devices see.
    Compared = 3,
    /// There is no such frame, or not at the start of so large an entry.
    WrongFrame = 4,
    /// The frame is not the domain's.
    WrongOwner = 5,
    /// The domain has no reference to the frame: it is, or can be, free.
    WrongCount = 6,
    /// The M2P has another gfn for the frame: it is mapped twice, or lost.
    WrongM2p = 7,
    /// A table that is no table: guest memory, a frame that is not there, a
    /// level that cannot be.
    WrongTable = 8,
    /// Devices see another frame, or none, or one that the domain does not have.
    WrongDevice = 9,
}

/// Number of [`Finding`]s.
pub const FINDINGS: usize = 10;

/// How often what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit(pub [u64; FINDINGS]);

impl Audit {
    fn note(&mut self, finding: Finding) {
        if let Some(n) = self.0.get_mut(finding as usize) {
            *n = n.wrapping_add(1);
        }
    }

    /// How often `finding` was made.
    pub fn get(&self, finding: Finding) -> u64 {
        self.0.get(finding as usize).copied().unwrap_or(0)
    }
}

/// What the frame table and the M2P say of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The domain owns it.
    pub owned: bool,
    /// The owner has a reference of its own (`PGC_allocated`), and the count is
    /// not 0.
    pub allocated: bool,
    /// It is part of Xen's heap and counts to no domain (`PGC_xen_heap`).
    pub xen_heap: bool,
    /// The M2P entry.
    pub gfn: Option<Gfn>,
}

/// Where a tree of tables starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root<F> {
    /// Frame of the topmost table.
    pub frame: u64,
    /// Its level.
    pub level: u32,
    /// How its entries read.
    pub format: F,
}

/// What is audited. Whoever calls [`region`] sees to it that nothing changes
/// meanwhile: the p2m is locked.
pub trait Books {
    /// The second-stage tables; `None`: there are none yet.
    fn tables(&self) -> Option<Root<Format>>;

    /// The tables that devices use; `None`: none, or they are the same ones.
    fn device_tables(&self) -> Option<Root<DeviceFormat>>;

    /// Run `f` on a table; `None`: there is no such frame.
    fn read<R>(&self, frame: u64, f: impl FnOnce(&Table) -> R) -> Option<R>;

    /// What is known of a frame; `None`: there is no such frame.
    fn page(&self, mfn: Mfn) -> Option<Page>;
}

/// What one entry means, in either kind of table.
enum Step<L> {
    Absent,
    Table { frame: u64, level: u32 },
    Leaf { frame: u64, what: L },
}

/// What leads to one region.
#[derive(Clone, Copy)]
enum Lead<L> {
    Nothing,
    /// One entry; the frame is that of the region's first page.
    One {
        frame: u64,
        what: L,
    },
    /// The frame of a table of 4 KiB entries.
    Table(u64),
}

/// The type of a mapping of the domain; holes and what has no frame are absent.
type Kind = u8;

#[derive(Clone, Copy)]
struct Rights {
    read: bool,
    write: bool,
}

fn second_stage(format: Format, entry: Entry, level: u32) -> Step<Kind> {
    match format.decode(entry, level) {
        Slot::Absent { .. } => Step::Absent,
        Slot::Table { frame, .. } => Step::Table {
            frame,
            level: level.saturating_sub(1),
        },
        Slot::Leaf(leaf) => Step::Leaf {
            frame: leaf.frame,
            what: leaf.sw_type,
        },
    }
}

fn devices(format: DeviceFormat, entry: Entry, level: u32) -> Step<Rights> {
    match format.decode(entry, level) {
        DeviceSlot::Absent => Step::Absent,
        DeviceSlot::Table { frame, level } => Step::Table { frame, level },
        DeviceSlot::Leaf { frame, read, write } => Step::Leaf {
            frame,
            what: Rights { read, write },
        },
    }
}

const fn bits(level: u32) -> u32 {
    LEVEL_BITS.wrapping_mul(level.saturating_sub(1))
}

/// Pages that an entry of a table of `level` maps.
const fn span(level: u32) -> u64 {
    1u64.wrapping_shl(bits(level))
}

/// Follow the tables to a region. Also how many pages, aligned, the answer holds
/// for.
fn walk<B: Books, F: Copy, L: Copy>(
    books: &B,
    root: Root<F>,
    region: Region,
    decode: impl Fn(F, Entry, u32) -> Step<L>,
    audit: &mut Audit,
) -> (Lead<L>, u64) {
    let gfn = region.start().0;
    let (mut frame, mut level) = (root.frame, root.level);

    // A table of level 7 would span more than there are addresses.
    if !(2..=6).contains(&level) || gfn.wrapping_shr(bits(level.wrapping_add(1))) != 0 {
        return (Lead::Nothing, span(level.clamp(2, 6)));
    }
    loop {
        // No domain has a table in its own memory: it could write to it.
        let sound = books.page(Mfn(frame)).is_some_and(|p| !p.allocated);
        let entry = books.read(frame, |t| t.entry(gfn.wrapping_shr(bits(level))));

        let Some(entry) = entry.filter(|_| sound) else {
            audit.note(Finding::WrongTable);
            return (Lead::Nothing, span(level.saturating_add(1)));
        };
        match decode(root.format, entry, level) {
            Step::Absent => return (Lead::Nothing, span(level)),
            Step::Leaf { frame, what } => {
                if frame & span(level).wrapping_sub(1) != 0 {
                    audit.note(Finding::WrongFrame);
                }
                let inside = gfn & span(level).wrapping_sub(1);
                let frame = frame.wrapping_add(inside);
                return (Lead::One { frame, what }, Order::REGION.pages());
            }
            Step::Table {
                frame: next,
                level: lower,
            } => {
                if lower == 0 || lower >= level {
                    audit.note(Finding::WrongTable);
                    return (Lead::Nothing, span(level));
                }
                frame = next;
                level = lower;
            }
        }
        if level == 1 {
            // Its entries are the caller's business.
            if books.page(Mfn(frame)).is_some_and(|p| !p.allocated) {
                return (Lead::Table(frame), Order::REGION.pages());
            }
            audit.note(Finding::WrongTable);
            return (Lead::Nothing, Order::REGION.pages());
        }
    }
}

/// The mapping of page `i` of a region.
fn at<F, L: Copy>(
    lead: Lead<L>,
    table: Option<&Table>,
    format: F,
    i: u64,
    decode: impl Fn(F, Entry, u32) -> Step<L>,
) -> Option<(Mfn, L)> {
    match lead {
        Lead::Nothing => None,
        Lead::One { frame, what } => Some((Mfn(frame.wrapping_add(i)), what)),
        Lead::Table(_) => match decode(format, table?.entry(i), 1) {
            Step::Leaf { frame, what } => Some((Mfn(frame), what)),
            Step::Absent | Step::Table { .. } => None,
        },
    }
}

/// Run `f` on the table that `lead` is, if it is one.
fn with<B: Books, L, R>(books: &B, lead: &Lead<L>, f: impl FnOnce(Option<&Table>) -> R) -> R
where
    R: Default,
{
    match lead {
        Lead::Table(frame) => books.read(*frame, |t| f(Some(t))).unwrap_or_default(),
        _ => f(None),
    }
}

/// Audit the region `at`; the next one at which there may be something.
pub fn region<B: Books>(books: &B, here: Region, audit: &mut Audit) -> Region {
    let (lead, mut same) = match books.tables() {
        Some(root) => walk(books, root, here, second_stage, audit),
        None => (Lead::Nothing, span(6)),
    };
    let device_root = books.device_tables();
    let (device_lead, device_same) = match device_root {
        Some(root) => walk(books, root, here, devices, audit),
        None => (Lead::Nothing, span(6)),
    };

    same = same.min(device_same);
    if !matches!((lead, device_lead), (Lead::Nothing, Lead::Nothing)) {
        let format = books.tables().map_or(Format::Npt, |root| root.format);
        let device_format = device_root.map_or(DeviceFormat::Amd, |root| root.format);

        with(books, &lead, |table| {
            with(books, &device_lead, |device_table| {
                for i in 0..REGION_PAGES {
                    let gfn = here.start().add(i);
                    let mapped = at(lead, table, format, i, second_stage);

                    check(books, gfn, mapped, audit);
                    if device_root.is_some() {
                        let seen = at(device_lead, device_table, device_format, i, devices);

                        compare(mapped, seen, audit);
                    }
                }
            });
        });
    }

    let step = Order::REGION.blocks_in(same.max(REGION_PAGES));
    // `step` is a power of two.
    Region((here.0 | step.wrapping_sub(1)).wrapping_add(1))
}

fn is_ram(kind: Kind) -> bool {
    matches!(kind, SW_TYPE_RAM_RW | SW_TYPE_RAM_LOGDIRTY | SW_TYPE_RAM_RO)
}

/// One page against the frame table and the M2P.
fn check<B: Books>(books: &B, gfn: Gfn, mapped: Option<(Mfn, Kind)>, audit: &mut Audit) {
    let Some((mfn, kind)) = mapped else {
        return;
    };
    if !is_ram(kind) {
        return audit.note(Finding::Others);
    }
    let Some(page) = books.page(mfn) else {
        return audit.note(Finding::WrongFrame);
    };
    audit.note(if page.xen_heap {
        Finding::XenPages
    } else {
        Finding::Pages
    });
    if !page.owned {
        audit.note(Finding::WrongOwner);
    }
    if !page.allocated {
        audit.note(Finding::WrongCount);
    }
    if page.gfn != Some(gfn) {
        audit.note(Finding::WrongM2p);
    }
}

/// What the domain sees against what its devices do.
fn compare(mapped: Option<(Mfn, Kind)>, seen: Option<(Mfn, Rights)>, audit: &mut Audit) {
    let fine = match (mapped, seen) {
        (None, None) => return,
        (Some((mfn, kind)), Some((device, rights))) => {
            device == mfn
                && match kind {
                    SW_TYPE_RAM_RW | SW_TYPE_RAM_LOGDIRTY => rights.read && rights.write,
                    SW_TYPE_RAM_RO => rights.read && !rights.write,
                    // Xen decides by what it is, which we do not know.
                    _ => true,
                }
        }
        (Some((_, kind)), None) => !is_ram(kind),
        // A frame that the domain may have given up.
        (None, Some(_)) => false,
    };

    audit.note(Finding::Compared);
    if !fine {
        audit.note(Finding::WrongDevice);
    }
}

#[cfg(test)]
mod tests;
