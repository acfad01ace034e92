// SPDX-License-Identifier: GPL-2.0-only
//! Reads a guest's nested page table in the machine's memory, as the processor would: what is
//! found there is the truth that counters, maps and traces are held against.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use arch::{ENTRIES, Entry, Format, LEVEL_BITS, SW_TYPE_RAM_RW, Slot};

use crate::ram::{PAGE, Ram};
use crate::verdict::Region;

/// Levels of a nested page table.
const LEVELS: u32 = 4;
/// Levels of the guest's own table, in long mode.
const GUEST_LEVELS: u64 = 4;

/// One region: 2 MiB of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Region,
    /// Pages of plain memory.
    pub pages: u16,
}

/// A guest's memory as the processor sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// From the first region to the last that has something.
    pub regions: Vec<Seen>,
    /// Entries that map plain memory, by size.
    pub ram_4k: u64,
    pub ram_2m: u64,
    pub ram_1g: u64,
}

impl Walk {
    pub fn count(&self, kind: Region) -> usize {
        self.regions.iter().filter(|seen| seen.kind == kind).count()
    }

    /// Regions that consist of memory only: they could be one entry each.
    pub fn full(&self) -> usize {
        self.count(Region::Whole) + self.count(Region::Broken)
    }

    /// Of the regions that have memory, the percentage of those that are one entry.
    pub fn percent_whole(&self) -> f64 {
        self.percent_of(self.full() + self.count(Region::Holes))
    }

    /// The same of the regions that could be one.
    pub fn percent_of_full(&self) -> f64 {
        self.percent_of(self.full())
    }

    fn percent_of(&self, regions: usize) -> f64 {
        self.count(Region::Whole) as f64 * 100.0 / regions.max(1) as f64
    }

    /// Pages of plain memory.
    pub fn pages(&self) -> u64 {
        self.ram_4k + (self.ram_2m << LEVEL_BITS) + (self.ram_1g << (2 * LEVEL_BITS))
    }

    /// Memory references for a translation that is in no cache, on average over the guest's
    /// memory: each of the guest's levels has to be translated itself, and then the page.
    pub fn references(&self) -> f64 {
        let cost = |levels: u64| (GUEST_LEVELS + 1) * (levels + 1) - 1;
        let pages = |order: u64, n: u64| n << order;
        let parts = [
            (pages(0, self.ram_4k), cost(4)),
            (pages(9, self.ram_2m), cost(3)),
            (pages(18, self.ram_1g), cost(2)),
        ];
        let all: u64 = parts.iter().map(|(pages, _)| pages).sum();
        let sum: u64 = parts.iter().map(|(pages, cost)| pages * cost).sum();
        if all == 0 {
            0.0
        } else {
            sum as f64 / all as f64
        }
    }
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (g, m, k) = (self.ram_1g, self.ram_2m, self.ram_4k);
        if g != 0 {
            write!(f, "{g} x 1G + ")?;
        }
        write!(f, "{m} x 2M + {k} x 4K")
    }
}

/// Walks the table whose root is at the machine address `root`.
pub fn walk(ram: &Ram, root: u64) -> Result<Walk> {
    ensure!(root % PAGE == 0, "the root {root:#x} is no page's address");
    let mut walk = Walk::default();
    table(ram, root / PAGE, LEVELS, 0, &mut walk)?;
    Ok(walk)
}

fn entries(ram: &Ram, frame: u64) -> Result<Vec<Entry>> {
    let mut bytes = vec![0; PAGE as usize];
    ram.read(frame * PAGE, &mut bytes)
        .context("a page table is outside of memory")?;
    let entries: Vec<Entry> = bytes
        .chunks_exact(8)
        .map(|b| Entry(b.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))))
        .collect();
    ensure!(entries.len() == ENTRIES);
    Ok(entries)
}

fn table(ram: &Ram, frame: u64, level: u32, first: u64, walk: &mut Walk) -> Result<()> {
    if level == 1 {
        return last_table(ram, frame, first, walk);
    }
    let shift = LEVEL_BITS * (level - 1);
    for (entry, n) in entries(ram, frame)?.into_iter().zip(0u64..) {
        let gfn = first + (n << shift);
        match Format::Npt.decode(entry, level) {
            Slot::Absent { .. } => {}
            Slot::Table { frame, .. } => table(ram, frame, level - 1, gfn, walk)?,
            Slot::Leaf(leaf) => {
                let ram_rw = leaf.sw_type == SW_TYPE_RAM_RW;
                match level {
                    2 if ram_rw => walk.ram_2m += 1,
                    3 if ram_rw => walk.ram_1g += 1,
                    2 | 3 => {}
                    _ => bail!("a leaf at level {level}, gfn {gfn:#x}"),
                }
                let seen = Seen {
                    kind: if ram_rw { Region::Whole } else { Region::Other },
                    pages: if ram_rw { ENTRIES as u16 } else { 0 },
                };
                for region in 0..1u64 << (LEVEL_BITS * (level - 2)) {
                    put(walk, (gfn >> LEVEL_BITS) + region, seen);
                }
            }
        }
    }
    Ok(())
}

fn last_table(ram: &Ram, frame: u64, first: u64, walk: &mut Walk) -> Result<()> {
    let (mut pages, mut other) = (0, false);
    for entry in entries(ram, frame)? {
        match Format::Npt.decode(entry, 1) {
            Slot::Leaf(leaf) if leaf.sw_type == SW_TYPE_RAM_RW => pages += 1,
            Slot::Leaf(_) => other = true,
            Slot::Absent { .. } => {}
            Slot::Table { .. } => bail!("a table at the last level, gfn {first:#x}"),
        }
    }
    walk.ram_4k += u64::from(pages);
    let kind = match pages {
        _ if other => Region::Other,
        0 => Region::Empty,
        512 => Region::Broken,
        _ => Region::Holes,
    };
    if kind != Region::Empty {
        put(walk, first >> LEVEL_BITS, Seen { kind, pages });
    }
    Ok(())
}

fn put(walk: &mut Walk, region: u64, seen: Seen) {
    let empty = Seen {
        kind: Region::Empty,
        pages: 0,
    };
    let index = region as usize;
    if walk.regions.len() <= index {
        walk.regions.resize(index + 1, empty);
    }
    walk.regions[index] = seen;
}

/// Xen's own description of a domain, in runs: `W127h1.1912o2`.
pub fn parse_runs(text: &str) -> Result<Vec<Region>> {
    let mut regions = vec![];
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let kind = Region::from_char(c).with_context(|| format!("no kind of region: {c:?}"))?;
        let digits = &rest[c.len_utf8()..];
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        let count: usize = digits[..end]
            .parse()
            .with_context(|| format!("{text}: not a number: {:?}", &digits[..end]))?;
        ensure!(count <= 1 << 24, "{text}: that is too much memory");
        regions.resize(regions.len() + count, kind);
        rest = &digits[end..];
    }
    while regions.last() == Some(&Region::Empty) {
        regions.pop();
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::Layout;
    use std::os::unix::fs::FileExt;

    const LAYOUT: Layout = Layout {
        size: 1 << 20,
        low: 1 << 20,
    };
    const PRESENT: u64 = 0x7;
    const LEAF: u64 = 0x80;

    fn machine(tables: &[(u64, usize, u64)]) -> Ram {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LAYOUT.size).unwrap();
        for &(frame, index, entry) in tables {
            let at = frame * PAGE + 8 * index as u64;
            file.write_all_at(&entry.to_le_bytes(), at).unwrap();
        }
        Ram::from_file(file, LAYOUT).unwrap()
    }

    #[test]
    fn leaves_of_each_size() {
        let mut tables = vec![
            (1, 0, (2 * PAGE) | PRESENT),
            (2, 0, (3 * PAGE) | PRESENT),
            (2, 1, 1 << 30 | PRESENT | LEAF),
            (3, 0, (4 * PAGE) | PRESENT),
            (3, 1, 1 << 21 | PRESENT | LEAF),
            (3, 2, (5 * PAGE) | PRESENT),
            // A type that is not plain memory.
            (3, 4, 2 << 21 | PRESENT | LEAF | 5 << 52),
        ];
        tables.extend((0..512).map(|n| (4, n, (n as u64 + 9) << 12 | PRESENT)));
        tables.extend((0..511).map(|n| (5, n, (n as u64 + 9) << 12 | PRESENT)));
        let seen = walk(&machine(&tables), PAGE).unwrap();
        assert_eq!((seen.ram_1g, seen.ram_2m, seen.ram_4k), (1, 1, 1023));
        let kinds: String = seen.regions[..6].iter().map(|s| s.kind.to_char()).collect();
        assert_eq!(kinds, "bWh.o.");
        assert_eq!(seen.regions.len(), 1024);
        assert_eq!(seen.count(Region::Whole), 1 + 512);
        assert_eq!(seen.full(), 2 + 512);
        assert_eq!(seen.percent_whole(), 513.0 * 100.0 / 515.0);
        assert_eq!(seen.percent_of_full(), 513.0 * 100.0 / 514.0);
        assert_eq!(seen.pages(), (1 << 18) + 512 + 1023);
        assert_eq!(seen.to_string(), "1 x 1G + 1 x 2M + 1023 x 4K");
    }

    #[test]
    fn references_for_a_miss() {
        let only = |ram_4k, ram_2m, ram_1g| Walk {
            regions: vec![],
            ram_4k,
            ram_2m,
            ram_1g,
        };
        assert_eq!(only(7, 0, 0).references(), 24.0);
        assert_eq!(only(0, 7, 0).references(), 19.0);
        assert_eq!(only(0, 0, 7).references(), 14.0);
        assert_eq!(only(512, 1, 0).references(), 21.5);
        assert_eq!(only(0, 0, 0).references(), 0.0);
    }

    #[test]
    fn what_is_no_page_table_is_an_error() {
        assert!(walk(&machine(&[(1, 0, 0x1000_0000 | PRESENT)]), PAGE).is_err());
        assert!(walk(&machine(&[(1, 0, (2 * PAGE) | PRESENT | LEAF)]), PAGE).is_err());
        assert!(walk(&machine(&[]), 12).is_err());
        assert_eq!(walk(&machine(&[]), PAGE).unwrap(), Walk::default());
    }

    #[test]
    fn runs_are_read() {
        let text = "W2h1.3b1.100";
        let regions: String = parse_runs(text)
            .unwrap()
            .iter()
            .map(|r| r.to_char())
            .collect();
        assert_eq!(regions, "WWh...b");
        assert!(parse_runs("W").is_err() && parse_runs("x3").is_err());
        assert!(parse_runs("W99999999999").is_err());
    }
}
