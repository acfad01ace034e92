// SPDX-License-Identifier: GPL-2.0-only
//! The auditor on made-up tables of each format: nothing is found in good ones,
//! and each fault that is planted is found, as what it is.

use super::*;
use core::sync::atomic::{AtomicU64, Ordering};
use proptest::prelude::*;
use std::collections::BTreeMap;

const FORMATS: [Format; 2] = [Format::Npt, Format::Ept];
const DEVICES: [Option<DeviceFormat>; 3] = [None, Some(DeviceFormat::Amd), Some(DeviceFormat::Vtd)];

/// Frames of the tables; guest memory lies elsewhere.
const ROOT: u64 = 0x10_0000;
const DEVICE_ROOT: u64 = 0x20_0000;

/// First region of the guest: broken. The second is whole, the third of a type
/// that devices may only read, and in a later GiB there is one large entry.
const BROKEN: Region = Region(3);
const WHOLE: Region = Region(4);
const READ_ONLY: Region = Region(5);
const HUGE: Region = Region(1024);

#[derive(Clone)]
struct Made {
    format: Format,
    device: Option<DeviceFormat>,
    tables: BTreeMap<u64, Vec<u64>>,
    pages: BTreeMap<u64, Page>,
}

fn leaf(format: Format, frame: u64, level: u32, kind: u8) -> u64 {
    let large = if level > 1 { 1 << 7 } else { 0 };
    match format {
        Format::Npt => frame << 12 | 0x67 | large | u64::from(kind) << 52,
        Format::Ept => {
            frame << 12 | 0x7 | 6 << 3 | 0x300 | large | (u64::from(kind) & 0x3f) << 52 | 1 << 63
        }
    }
}

fn link(format: Format, frame: u64) -> u64 {
    match format {
        Format::Npt => frame << 12 | 0x67,
        Format::Ept => frame << 12 | 0x7,
    }
}

fn device_leaf(format: DeviceFormat, frame: u64, level: u32, write: bool) -> u64 {
    match format {
        DeviceFormat::Amd => frame << 12 | 1 | 1 << 61 | u64::from(write) << 62,
        DeviceFormat::Vtd => {
            frame << 12 | 1 | u64::from(write) << 1 | if level > 1 { 1 << 7 } else { 0 }
        }
    }
}

fn device_link(format: DeviceFormat, frame: u64, level: u32) -> u64 {
    match format {
        DeviceFormat::Amd => frame << 12 | 1 | u64::from(level) << 9 | 3 << 61,
        DeviceFormat::Vtd => frame << 12 | 3,
    }
}

impl Made {
    fn good(format: Format, device: Option<DeviceFormat>) -> Made {
        let mut made = Made {
            format,
            device,
            tables: BTreeMap::new(),
            pages: BTreeMap::new(),
        };
        for i in 0..512 {
            // In the broken one every third page is a hole, and they lie astray.
            if i % 3 != 0 {
                made.ram(BROKEN.start().add(i), 0x7000 - 7 * i);
            }
            made.ram(WHOLE.start().add(i), 0x8000 + i);
            made.ram(READ_ONLY.start().add(i), 0x8200 + i);
        }
        for i in 0..1 << 18 {
            made.ram(HUGE.start().add(i), 0x40_0000 + i);
        }
        // Xen's own, like the shared info page; and a page that is no RAM.
        made.put(ROOT, 4, BROKEN.start(), 1, leaf(format, 0x7fff, 1, 0));
        made.pages.insert(
            0x7fff,
            Page {
                owned: true,
                allocated: true,
                xen_heap: true,
                gfn: Some(BROKEN.start()),
            },
        );
        made.put(
            ROOT,
            4,
            BROKEN.start().add(3),
            1,
            leaf(format, 0xfee00, 1, 5),
        );

        for i in 0..512 {
            if i % 3 != 0 {
                let l = leaf(format, 0x7000 - 7 * i, 1, 0);
                made.put(ROOT, 4, BROKEN.start().add(i), 1, l);
            }
        }
        made.put(ROOT, 4, WHOLE.start(), 2, leaf(format, 0x8000, 2, 0));
        made.put(ROOT, 4, READ_ONLY.start(), 2, leaf(format, 0x8200, 2, 3));
        made.put(ROOT, 4, HUGE.start(), 3, leaf(format, 0x40_0000, 3, 0));

        if let Some(device) = device {
            for i in 0..512 {
                let gfn = BROKEN.start().add(i);
                if i % 3 != 0 {
                    let l = device_leaf(device, 0x7000 - 7 * i, 1, true);
                    made.put(DEVICE_ROOT, 3, gfn, 1, l);
                }
            }
            let gfn = BROKEN.start();
            made.put(DEVICE_ROOT, 3, gfn, 1, device_leaf(device, 0x7fff, 1, true));
            for (region, frame, write) in [(WHOLE, 0x8000, true), (READ_ONLY, 0x8200, false)] {
                let l = device_leaf(device, frame, 2, write);
                made.put(DEVICE_ROOT, 3, region.start(), 2, l);
            }
            let l = device_leaf(device, 0x40_0000, 3, true);
            made.put(DEVICE_ROOT, 3, HUGE.start(), 3, l);
        }
        made
    }

    fn ram(&mut self, gfn: Gfn, mfn: u64) {
        let page = Page {
            owned: true,
            allocated: true,
            xen_heap: false,
            gfn: Some(gfn),
        };
        assert!(self.pages.insert(mfn, page).is_none());
    }

    /// Write an entry of `level`, and the tables above it that are not there.
    fn put(&mut self, root: u64, top: u32, gfn: Gfn, level: u32, entry: u64) {
        let (mut frame, mut at) = (root, top);
        loop {
            self.tables.entry(frame).or_insert_with(|| vec![0; 512]);
            self.pages.entry(frame).or_insert(Page {
                owned: true,
                allocated: false,
                xen_heap: false,
                gfn: None,
            });
            let slot = (gfn.0 >> (9 * (at - 1)) & 511) as usize;
            if at == level {
                self.tables.get_mut(&frame).unwrap()[slot] = entry;
                return;
            }
            let next = self.tables[&frame][slot] >> 12 & 0xff_ffff_ffff;
            frame = if next != 0 {
                next
            } else {
                let new = root + self.tables.len() as u64 * 4;
                let l = match self.device {
                    Some(device) if root == DEVICE_ROOT => device_link(device, new, at - 1),
                    _ => link(self.format, new),
                };
                self.tables.get_mut(&frame).unwrap()[slot] = l;
                new
            };
            at -= 1;
        }
    }

    fn audit(&self) -> Audit {
        let (mut audit, mut at, mut steps) = (Audit::default(), Region(0), 0);
        while at.0 < 1 << 18 {
            let next = region(self, at, &mut audit);
            assert!(next > at);
            at = next;
            steps += 1;
        }
        // What is empty is passed over, not walked through.
        assert!(steps < 4096, "{steps} steps");
        audit
    }

    /// Only this was found, so often, besides what the counts of a good one are.
    #[track_caller]
    fn finds(&self, finding: Finding, times: u64) {
        let audit = self.audit();
        for fault in FAULTS {
            let want = if fault == finding { times } else { 0 };
            assert_eq!(audit.get(fault), want, "{fault:?} of {audit:?}");
        }
    }
}

const FAULTS: [Finding; 6] = [
    Finding::WrongFrame,
    Finding::WrongOwner,
    Finding::WrongCount,
    Finding::WrongM2p,
    Finding::WrongTable,
    Finding::WrongDevice,
];

impl Books for Made {
    fn tables(&self) -> Option<Root<Format>> {
        Some(Root {
            frame: ROOT,
            level: 4,
            format: self.format,
        })
    }

    fn device_tables(&self) -> Option<Root<DeviceFormat>> {
        self.device.map(|format| Root {
            frame: DEVICE_ROOT,
            level: 3,
            format,
        })
    }

    fn read<R>(&self, frame: u64, f: impl FnOnce(&Table) -> R) -> Option<R> {
        let entries = self.tables.get(&frame)?;
        let table = Box::new(Table([const { AtomicU64::new(0) }; arch::ENTRIES]));
        for (to, from) in table.0.iter().zip(entries) {
            to.store(*from, Ordering::Relaxed);
        }
        Some(f(&table))
    }

    fn page(&self, mfn: Mfn) -> Option<Page> {
        self.pages.get(&mfn.0).copied()
    }
}

fn each(test: impl Fn(Made)) {
    for format in FORMATS {
        for device in DEVICES {
            test(Made::good(format, device));
        }
    }
}

#[test]
fn good_books() {
    each(|made| {
        let audit = made.audit();
        made.finds(Finding::WrongFrame, 0);
        let plain = 341 + 512 + 512 + (1 << 18);
        assert_eq!(audit.get(Finding::Pages), plain);
        assert_eq!(audit.get(Finding::XenPages), 1);
        assert_eq!(audit.get(Finding::Others), 1);
        let compared = if made.device.is_some() { plain + 2 } else { 0 };
        assert_eq!(audit.get(Finding::Compared), compared);
    });
}

#[test]
fn a_page_that_was_freed_too_early() {
    each(|mut made| {
        made.pages.get_mut(&0x8123).unwrap().allocated = false;
        made.finds(Finding::WrongCount, 1);
    });
}

#[test]
fn a_page_of_somebody_else() {
    each(|mut made| {
        made.pages.get_mut(&(0x7000 - 7 * 100)).unwrap().owned = false;
        made.finds(Finding::WrongOwner, 1);
    });
}

#[test]
fn a_frame_at_two_gfns() {
    each(|mut made| {
        // At a place that was a hole before; the devices see it there, too.
        let gfn = BROKEN.start().add(6);
        made.put(ROOT, 4, gfn, 1, leaf(made.format, 0x8006, 1, 0));
        if let Some(device) = made.device {
            made.put(DEVICE_ROOT, 3, gfn, 1, device_leaf(device, 0x8006, 1, true));
        }
        made.finds(Finding::WrongM2p, 1);
    });
}

#[test]
fn a_superpage_one_page_off() {
    each(|mut made| {
        // Not aligned, and so each page is another's.
        let gfn = WHOLE.start();
        made.put(ROOT, 4, gfn, 2, leaf(made.format, 0x8001, 2, 0));
        if made.format == Format::Npt {
            // Bit 12 of a large entry is its PAT bit there.
            return;
        }
        let audit = made.audit();
        assert!(audit.get(Finding::WrongFrame) >= 1);
        assert_eq!(audit.get(Finding::WrongM2p), 512);
    });
}

#[test]
fn a_superpage_over_another_block() {
    each(|mut made| {
        made.put(ROOT, 4, WHOLE.start(), 2, leaf(made.format, 0x8200, 2, 0));
        let audit = made.audit();
        assert_eq!(audit.get(Finding::WrongM2p), 512);
        let seen = if made.device.is_some() { 512 } else { 0 };
        assert_eq!(audit.get(Finding::WrongDevice), seen);
    });
}

#[test]
fn an_m2p_entry_that_was_not_written() {
    each(|mut made| {
        made.pages.get_mut(&0x8000).unwrap().gfn = None;
        made.pages.get_mut(&0x40_1234).unwrap().gfn = Some(Gfn(1));
        made.finds(Finding::WrongM2p, 2);
    });
}

#[test]
fn a_frame_that_is_not_there() {
    each(|mut made| {
        made.pages.remove(&0x8044);
        made.finds(Finding::WrongFrame, 1);
    });
}

#[test]
fn a_table_in_the_guests_own_memory() {
    each(|mut made| {
        for frame in made
            .tables
            .clone()
            .into_keys()
            .filter(|f| (ROOT..DEVICE_ROOT).contains(f))
        {
            let mut made = made.clone();
            made.pages.get_mut(&frame).unwrap().allocated = true;
            let audit = made.audit();
            assert!(audit.get(Finding::WrongTable) >= 1, "table {frame:#x}");
        }
        // A link to nowhere.
        let nowhere = link(made.format, 0xdead);
        made.put(ROOT, 4, Gfn(1 << 26), 2, nowhere);
        made.finds(Finding::WrongTable, 1);
    });
}

#[test]
fn devices_that_see_what_they_should_not() {
    for format in FORMATS {
        for device in [DeviceFormat::Amd, DeviceFormat::Vtd] {
            let good = Made::good(format, Some(device));
            let with = |gfn: Gfn, level, entry, times| {
                let mut made = good.clone();
                made.put(DEVICE_ROOT, 3, gfn, level, entry);
                made.finds(Finding::WrongDevice, times);
            };
            let page = |frame, write| device_leaf(device, frame, 1, write);

            // Still there after it was taken from the domain.
            with(BROKEN.start().add(9), 1, page(0x9999, true), 1);
            with(Gfn(1 << 20), 1, page(0x9999, true), 1);
            // Gone, though the domain has it.
            with(BROKEN.start().add(1), 1, 0, 1);
            // Another frame: the old one of a page that was moved.
            with(BROKEN.start().add(2), 1, page(0x9999, true), 1);
            // Not allowed to write, though it should be, and the reverse.
            with(BROKEN.start().add(4), 1, page(0x7000 - 28, false), 1);
            with(
                READ_ONLY.start(),
                2,
                device_leaf(device, 0x8200, 2, true),
                512,
            );
        }
    }
}

/// A domain without tables: nobody may look for more.
struct Nothing;
impl Books for Nothing {
    fn tables(&self) -> Option<Root<Format>> {
        None
    }
    fn device_tables(&self) -> Option<Root<DeviceFormat>> {
        None
    }
    fn read<R>(&self, _: u64, _: impl FnOnce(&Table) -> R) -> Option<R> {
        panic!("there is nothing to read")
    }
    fn page(&self, _: Mfn) -> Option<Page> {
        panic!("there are no pages")
    }
}

#[test]
fn no_tables_at_all() {
    let mut audit = Audit::default();
    assert!(region(&Nothing, Region(0), &mut audit) > Region(0));
    assert_eq!(audit, Audit::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is in a table, the audit comes to its end; and where a bit of an
    /// address is wrong, that is found.
    #[test]
    fn any_one_bit(ept: bool, device in 0usize..3, table: prop::sample::Index,
                   slot in 0usize..512, bit in 0u32..64) {
        let format = if ept { Format::Ept } else { Format::Npt };
        let good = Made::good(format, DEVICES[device]);
        let mut made = good.clone();
        let frames: Vec<u64> = made.tables.keys().copied().collect();
        let frame = *table.get(&frames);
        let before = made.tables[&frame][slot];
        made.tables.get_mut(&frame).unwrap()[slot] = before ^ 1 << bit;
        let audit = made.audit();
        if before != 0 && before >> 52 & 0x3f != 5 && (13..40).contains(&bit) {
            let faults: u64 = FAULTS.iter().map(|&f| audit.get(f)).sum();
            prop_assert!(faults > 0, "{before:#x} bit {bit}: {audit:?}");
        }
    }
}

/// One table, at frame 1; nobody may look at another frame.
struct One {
    level: u32,
    entry: u64,
    devices: bool,
}

impl Books for One {
    fn tables(&self) -> Option<Root<Format>> {
        (!self.devices).then_some(Root {
            frame: 1,
            level: self.level,
            format: Format::Npt,
        })
    }

    fn device_tables(&self) -> Option<Root<DeviceFormat>> {
        self.devices.then_some(Root {
            frame: 1,
            level: self.level,
            format: DeviceFormat::Amd,
        })
    }

    fn read<R>(&self, frame: u64, f: impl FnOnce(&Table) -> R) -> Option<R> {
        assert_eq!(frame, 1);
        let table = Table([const { AtomicU64::new(0) }; arch::ENTRIES]);
        for entry in &table.0 {
            entry.store(self.entry, Ordering::Relaxed);
        }
        Some(f(&table))
    }

    fn page(&self, mfn: Mfn) -> Option<Page> {
        assert_eq!(mfn, Mfn(1));
        Some(Page {
            owned: false,
            allocated: false,
            xen_heap: false,
            gfn: None,
        })
    }
}

#[test]
fn a_root_of_no_level_leads_nowhere() {
    for (level, here) in [(0, 0), (1, 0), (7, 0), (4, 1 << 27), (3, 1 << 18)] {
        // A leaf, if anybody looked.
        let one = One {
            level,
            entry: leaf(Format::Npt, 0, level, 0),
            devices: false,
        };
        let mut audit = Audit::default();
        let next = region(&one, Region(here), &mut audit);
        assert!(next > Region(here));
        assert_eq!(audit, Audit::default(), "level {level}, region {here:#x}");
    }
}

#[test]
fn a_table_that_leads_to_its_own_level_or_higher_is_none() {
    for lower in [4, 5, 6] {
        let one = One {
            level: 4,
            entry: device_link(DeviceFormat::Amd, 1, lower),
            devices: true,
        };
        let mut audit = Audit::default();
        region(&one, Region(0), &mut audit);
        assert_eq!(audit.get(Finding::WrongTable), 1, "level {lower} below 4");
    }
}

#[test]
fn the_next_region_is_beyond_what_is_known() {
    let step = 1 << 36;

    for here in [0, 1, 5, step - 1] {
        let next = region(&Nothing, Region(here), &mut Audit::default());
        assert_eq!(next, Region(step), "from {here:#x}");
    }
    let next = region(&Nothing, Region(step), &mut Audit::default());
    assert_eq!(next, Region(2 * step));
}
