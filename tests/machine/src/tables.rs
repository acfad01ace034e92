// SPDX-License-Identifier: GPL-2.0-only
//! Second-stage page tables as Xen builds them, in the processors' formats:
//! `p2m-pt.c` (NPT) and `p2m-ept.c` (EPT).

use arch::{ENTRIES, Entry, Ept, Format, LEVEL_BITS, Npt, PAGE_SHIFT, Slot, Table};
use p2m::addr::{Gfn, Mfn, Order};
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Xen's `p2m_type_t`, as far as it occurs here.
pub mod kind {
    pub const RAM_RW: u8 = 0;
    pub const INVALID: u8 = 1;
    pub const RAM_LOGDIRTY: u8 = 2;
    pub const RAM_RO: u8 = 3;
    pub const MMIO_DM: u8 = 4;
    /// The mark of `reserve` and `hide`: populate on demand.
    pub const MARK: u8 = 6;
    pub const PAGED: u8 = 10;
}

/// `p2m_access_rwx`.
pub const ACCESS_RWX: u8 = 7;

/// The top level of the walk.
const TOP: u32 = 4;

/// The first gfn that a walk of four levels cannot reach.
pub const GFN_END: u64 = 1 << (LEVEL_BITS * TOP);

/// Tables live in frames of their own, out of reach of any domain.
const POOL_BASE: u64 = 1 << 32;

/// A new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum New {
    /// Nothing, but for a type.
    Absent(u8),
    /// A mapping, its type and its `p2m_access_t`.
    Map(Mfn, u8, u8),
}

/// The end of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// The table that the entry is in.
    table: usize,
    /// Its index there.
    index: usize,
    /// Its level.
    pub level: u32,
    /// What it says.
    pub slot: Slot,
    /// An entry on the way says that the type is not to be believed.
    pub recalc: bool,
}

/// What a write did, for those who have to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effect {
    /// The guest could see the old entry: TLBs may hold it.
    pub was_present: bool,
    /// A leaf was broken.
    pub split: bool,
    /// A table is not reachable any more.
    pub dropped_table: bool,
}

impl Effect {
    fn or(&mut self, other: Effect) {
        self.was_present |= other.was_present;
        self.split |= other.split;
        self.dropped_table |= other.dropped_table;
    }
}

/// Why an entry could not be written: the pool is empty, or the gfn is beyond
/// the reach of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    NoTable,
    Beyond,
}

/// One domain's tables and the pool that they come from.
pub struct Tables {
    pub format: Format,
    /// Superpages keep their execute permission (no CVE-2018-12207).
    pub exec_sp: bool,
    /// 2 MiB leaves may be used.
    pub hap_2mb: bool,
    // Tables are small in tests/model only.
    #[allow(clippy::vec_box)]
    pool: Vec<Box<Table>>,
    free: Vec<usize>,
    /// Kept out of the pool by [`Tables::set_pool_left`].
    held: Vec<usize>,
    /// Not reachable from the root any more, but perhaps from a TLB.
    dropped: Vec<usize>,
    root: usize,
    /// gfns that a mark stands at.
    pub marks: BTreeSet<u64>,
}

impl Clone for Tables {
    fn clone(&self) -> Self {
        let copy = |table: &Table| {
            let entries = std::array::from_fn(|i| AtomicU64::new(table.0[i].load(Relaxed)));
            Box::new(Table(entries))
        };
        Tables {
            format: self.format,
            exec_sp: self.exec_sp,
            hap_2mb: self.hap_2mb,
            pool: self.pool.iter().map(|table| copy(table)).collect(),
            free: self.free.clone(),
            held: self.held.clone(),
            dropped: self.dropped.clone(),
            root: self.root,
            marks: self.marks.clone(),
        }
    }
}

/// What the tables say: that the same is kept in other tables of the pool makes
/// no difference.
impl Hash for Tables {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash_table(self.root, TOP, state);
        (self.free.len(), self.dropped.len()).hash(state);
        self.marks.hash(state);
    }
}

fn index(gfn: Gfn, level: u32) -> usize {
    (gfn.0 >> (LEVEL_BITS * (level - 1))) as usize % ENTRIES
}

/// The order of an entry of `level`.
pub fn order_of(level: u32) -> Order {
    // Holes may be larger than any order that the core knows.
    Order::new(LEVEL_BITS * (level - 1)).unwrap_or(Order::MAX)
}

impl Tables {
    /// A pool of `pool` tables, one of them the root.
    pub fn new(format: Format, pool: usize, exec_sp: bool, hap_2mb: bool) -> Self {
        let empty = || Box::new(Table([const { AtomicU64::new(0) }; ENTRIES]));
        let mut tables = Tables {
            format,
            exec_sp,
            hap_2mb,
            pool: (0..pool).map(|_| empty()).collect(),
            free: (0..pool).rev().collect(),
            held: Vec::new(),
            dropped: Vec::new(),
            root: 0,
            marks: BTreeSet::new(),
        };

        tables.root = tables.free.pop().expect("a pool needs a root");
        tables
    }

    fn hash_table<H: Hasher>(&self, table: usize, level: u32, state: &mut H) {
        for i in 0..ENTRIES {
            match self.read(table, i, level) {
                Slot::Table { frame, .. } => {
                    i.hash(state);
                    self.hash_table((frame - POOL_BASE) as usize, level - 1, state);
                }
                _ => match self.raw(table, i) {
                    0 => {}
                    raw => (i, raw).hash(state),
                },
            }
        }
    }

    /// Tables that are left.
    pub fn pool_left(&self) -> usize {
        self.free.len()
    }

    /// Let the pool have `left` tables, if there are so many that are free.
    pub fn set_pool_left(&mut self, left: usize) {
        self.free.append(&mut self.held);
        let left = left.min(self.free.len());
        self.held = self.free.split_off(left);
    }

    fn read(&self, table: usize, index: usize, level: u32) -> Slot {
        self.format
            .decode(self.pool[table].entry(index as u64), level)
    }

    fn write(&self, table: usize, index: usize, bits: u64) {
        self.pool[table].0[index].store(bits, Relaxed);
    }

    fn raw(&self, table: usize, index: usize) -> u64 {
        self.pool[table].0[index].load(Relaxed)
    }

    fn pointer(&self, table: usize) -> u64 {
        let frame = (POOL_BASE + table as u64) << PAGE_SHIFT;

        frame
            | match self.format {
                Format::Npt => {
                    (Npt::PRESENT | Npt::WRITE | Npt::USER | Npt::ACCESSED | Npt::DIRTY).bits()
                }
                Format::Ept => (Ept::READ | Ept::WRITE | Ept::EXECUTE).bits(),
            }
    }

    fn encode(&self, new: New, level: u32) -> u64 {
        match (self.format, new) {
            (_, New::Absent(kind)) => u64::from(kind) << 52,
            (Format::Npt, New::Map(mfn, kind, _)) => {
                let mut bits = Npt::PRESENT | Npt::USER | Npt::ACCESSED | Npt::DIRTY;
                bits.set(Npt::WRITE, kind == self::kind::RAM_RW);
                bits.set(Npt::LEAF_OR_PAT, level > 1);
                bits.bits() | u64::from(kind) << 52 | mfn.0 << PAGE_SHIFT
            }
            (Format::Ept, New::Map(mfn, kind, access)) => {
                let mut bits = Ept::ACCESSED | Ept::DIRTY | Ept::SUPPRESS_VE;
                bits.set(Ept::READ, access & 1 != 0);
                bits.set(Ept::WRITE, access & 2 != 0 && kind == self::kind::RAM_RW);
                bits.set(
                    Ept::EXECUTE,
                    access & 4 != 0 && (level == 1 || self.exec_sp),
                );
                bits.set(Ept::LEAF, level > 1);
                let write_back = 6 << 3;
                bits.bits()
                    | write_back
                    | u64::from(kind) << 52
                    | u64::from(access) << 59
                    | mfn.0 << PAGE_SHIFT
            }
        }
    }

    /// The `p2m_access_t` of a leaf.
    fn access(&self, bits: u64) -> u8 {
        match self.format {
            // Not kept in the entry.
            Format::Npt => ACCESS_RWX,
            Format::Ept => ((bits & Ept::SW_ACCESS.bits()) >> 59) as u8,
        }
    }

    /// Walk to what decides about `gfn`.
    pub fn walk(&self, gfn: Gfn) -> Option<Hit> {
        if gfn.0 >= GFN_END {
            return None;
        }
        let (mut table, mut level, mut above) = (self.root, TOP, false);

        loop {
            let index = index(gfn, level);
            let slot = self.read(table, index, level);
            match slot {
                Slot::Table { frame, recalc } => {
                    assert!(level > 1, "a table below level 1");
                    above |= recalc;
                    table = (frame - POOL_BASE) as usize;
                    level -= 1;
                }
                _ => {
                    let own = matches!(slot, Slot::Leaf(leaf) if leaf.recalc);
                    return Some(Hit {
                        table,
                        index,
                        level,
                        slot,
                        recalc: above | own,
                    });
                }
            }
        }
    }

    /// What `gfn` is translated to, whatever the type; and the access.
    pub fn translate(&self, gfn: Gfn) -> Option<(Mfn, u8, u8)> {
        let hit = self.walk(gfn)?;
        let Slot::Leaf(leaf) = hit.slot else {
            return None;
        };
        let offset = gfn.0 & (order_of(hit.level).pages() - 1);

        Some((
            Mfn(leaf.frame).add(offset),
            leaf.sw_type,
            self.access(self.raw(hit.table, hit.index)),
        ))
    }

    /// The table with the 4 KiB entries of the region of `gfn`, if there is
    /// one, and whether an entry above asks for recalculation.
    fn last_level(&self, gfn: Gfn) -> Option<(usize, bool)> {
        if gfn.0 >= GFN_END {
            return None;
        }
        let (mut table, mut above) = (self.root, false);

        for level in (2..=TOP).rev() {
            match self.read(table, index(gfn, level), level) {
                Slot::Table { frame, recalc } => {
                    table = (frame - POOL_BASE) as usize;
                    above |= recalc;
                }
                _ => return None,
            }
        }
        Some((table, above))
    }

    /// The table with the 4 KiB entries of the region of `gfn`.
    pub fn last_table(&self, gfn: Gfn) -> Option<&Table> {
        self.last_level(gfn).map(|(table, _)| &*self.pool[table])
    }

    /// The table of `level` that leads to `gfn`, if there is one.
    pub fn table_of(&self, gfn: Gfn, level: u32) -> Option<&Table> {
        let mut table = self.root;

        for above in (level + 1..=TOP).rev() {
            let Slot::Table { frame, .. } = self.read(table, index(gfn, above), above) else {
                return None;
            };
            table = (frame - POOL_BASE) as usize;
        }
        Some(&*self.pool[table])
    }

    /// Write entries as `p2m_set_entry()` does: in the largest pieces that the
    /// alignment allows. Returns what was done before a failure, too.
    pub fn set(&mut self, gfn: Gfn, new: New, order: Order) -> (Effect, Result<(), Failed>) {
        let mut effect = Effect::default();
        let mut done = 0;

        while done < order.pages() {
            let at = gfn.add(done);
            let (new, aligned) = match new {
                New::Absent(_) => (new, at.0),
                New::Map(mfn, kind, access) => {
                    let mfn = mfn.add(done);
                    (New::Map(mfn, kind, access), at.0 | mfn.0)
                }
            };
            let left = order.pages() - done;
            let fits = |o: Order| self.hap_2mb && o.aligns(aligned) && left >= o.pages();
            let piece = if fits(Order::GIB) {
                Order::GIB
            } else if fits(Order::REGION) {
                Order::REGION
            } else {
                Order::PAGE
            };

            match self.set_one(at, new, piece) {
                Ok(one) => effect.or(one),
                Err(e) => return (effect, Err(e)),
            }
            done += piece.pages();
        }
        (effect, Ok(()))
    }

    fn set_one(&mut self, gfn: Gfn, new: New, order: Order) -> Result<Effect, Failed> {
        if gfn.0 >= GFN_END {
            return Err(Failed::Beyond);
        }
        let target = order.log2() / LEVEL_BITS + 1;
        let mut effect = Effect::default();
        let mut table = self.root;

        for level in (target + 1..=TOP).rev() {
            let index = index(gfn, level);
            table = match self.read(table, index, level) {
                Slot::Table { frame, .. } => (frame - POOL_BASE) as usize,
                slot => {
                    let below = self.free.pop().ok_or(Failed::NoTable)?;
                    self.fill(below, slot, level, self.raw(table, index));
                    self.write(table, index, self.pointer(below));
                    if matches!(slot, Slot::Leaf(_)) {
                        effect.split = true;
                        effect.was_present = true;
                    }
                    below
                }
            };
        }

        let index = index(gfn, target);
        let old = self.read(table, index, target);
        let end = gfn.0 + order.pages();
        let marked: Vec<u64> = self.marks.range(gfn.0..end).copied().collect();

        for mark in marked {
            self.marks.remove(&mark);
        }
        if new == New::Absent(kind::MARK) {
            self.marks.extend(gfn.0..end);
        }
        self.write(table, index, self.encode(new, target));
        effect.was_present |= !matches!(old, Slot::Absent { .. });
        if let Slot::Table { frame, .. } = old {
            self.drop_table((frame - POOL_BASE) as usize, target - 1);
            effect.dropped_table = true;
        }
        Ok(effect)
    }

    /// Take the table of 4 KiB entries of a region out of the tree, with a mark in
    /// its place; what led to it.
    pub fn detach(&mut self, gfn: Gfn) -> Option<Entry> {
        let (parent, index) = self.parent(gfn)?;
        let bits = self.raw(parent, index);

        self.write(parent, index, Entry::WAIT.0);
        self.marks.extend(gfn.0..gfn.0 + order_of(2).pages());
        Some(Entry(bits))
    }

    /// Put it back.
    pub fn attach(&mut self, gfn: Gfn, entry: Entry) {
        let hit = self.walk(gfn).expect("a region of a table");

        assert_eq!(hit.level, 2, "{gfn:?} is mapped by a table already");
        for g in gfn.0..gfn.0 + order_of(2).pages() {
            self.marks.remove(&g);
        }
        self.write(hit.table, hit.index, entry.0);
    }

    /// Have an entry of a detached table lead to `mfn`.
    pub fn redirect(&mut self, table: Entry, gfn: Gfn, mfn: Mfn) {
        let table = (table.frame() - POOL_BASE) as usize;
        let entry = self.pool[table].entry(gfn.0);

        self.pool[table].set(gfn.0, entry.with_frame(mfn.0));
    }

    /// A detached table is not needed any more.
    pub fn drop_detached(&mut self, table: Entry) {
        self.dropped.push((table.frame() - POOL_BASE) as usize);
    }

    /// The table and the place in it of the entry that leads to the 4 KiB entries
    /// of a region.
    fn parent(&self, gfn: Gfn) -> Option<(usize, usize)> {
        self.last_level(gfn)?;
        let mut table = self.root;

        for level in (3..=TOP).rev() {
            if let Slot::Table { frame, .. } = self.read(table, index(gfn, level), level) {
                table = (frame - POOL_BASE) as usize;
            }
        }
        Some((table, index(gfn, 2)))
    }

    /// Let a new table say what one entry of `level` said.
    fn fill(&self, table: usize, slot: Slot, level: u32, bits: u64) {
        let step = order_of(level - 1).pages();

        for i in 0..ENTRIES {
            let entry = match slot {
                Slot::Leaf(leaf) => {
                    let mfn = Mfn(leaf.frame + i as u64 * step);
                    let new = New::Map(mfn, leaf.sw_type, self.access(bits));
                    self.with_recalc(self.encode(new, level - 1), leaf.recalc)
                }
                Slot::Absent { sw_type } => self.encode(New::Absent(sw_type), level - 1),
                Slot::Table { .. } => unreachable!("a table is not broken"),
            };
            self.write(table, i, entry);
        }
    }

    fn drop_table(&mut self, table: usize, level: u32) {
        if level > 1 {
            for i in 0..ENTRIES {
                if let Slot::Table { frame, .. } = self.read(table, i, level) {
                    self.drop_table((frame - POOL_BASE) as usize, level - 1);
                }
            }
        }
        self.dropped.push(table);
    }

    /// No TLB remembers the tables that were dropped.
    pub fn flushed(&mut self) {
        for table in self.dropped.drain(..) {
            for entry in &self.pool[table].0 {
                entry.store(0, Relaxed);
            }
            self.free.push(table);
        }
    }

    /// Break the leaf that maps `gfn` down to `order`.
    pub fn split(&mut self, gfn: Gfn, order: Order) -> (Effect, Result<(), Failed>) {
        let (mfn, kind, access) = self.translate(gfn).expect("what is split is mapped");
        let effect = self.set_one(
            gfn.align(order),
            New::Map(mfn.align(order), kind, access),
            order,
        );

        match effect {
            Ok(effect) => (effect, Ok(())),
            Err(e) => (Effect::default(), Err(e)),
        }
    }

    fn with_recalc(&self, bits: u64, on: bool) -> u64 {
        match (self.format, on) {
            (_, false) => bits,
            (Format::Npt, true) => bits & !Npt::USER.bits(),
            (Format::Ept, true) => bits | Ept::RECALC.bits() | Ept::MEMORY_TYPE.bits(),
        }
    }

    /// Have the types of a region recalculated when they are next needed: by
    /// its 4 KiB entries, or by the one entry above them.
    pub fn want_recalc(&mut self, gfn: Gfn, above: bool) {
        if let Some((table, _)) = self.last_level(gfn).filter(|_| !above) {
            for i in 0..ENTRIES {
                if matches!(self.read(table, i, 1), Slot::Leaf(_)) {
                    self.write(table, i, self.with_recalc(self.raw(table, i), true));
                }
            }
            return;
        }
        let mut table = self.root;
        for level in (2..=TOP).rev() {
            let index = index(gfn, level);
            match self.read(table, index, level) {
                Slot::Absent { .. } => return,
                Slot::Table { frame, .. } if level > 2 => table = (frame - POOL_BASE) as usize,
                _ => {
                    self.write(table, index, self.with_recalc(self.raw(table, index), true));
                    return;
                }
            }
        }
    }

    /// Pass recalculation that is pending above the 4 KiB entries of a region
    /// on to them. `true`: there was some.
    pub fn push_recalc(&mut self, gfn: Gfn) -> bool {
        match self.last_level(gfn) {
            Some((table, true)) => {
                self.want_recalc(gfn, false);
                let mut up = self.root;
                for level in (3..=TOP).rev() {
                    if let Slot::Table { frame, .. } = self.read(up, index(gfn, level), level) {
                        up = (frame - POOL_BASE) as usize;
                    }
                }
                self.write(up, index(gfn, 2), self.pointer(table));
                true
            }
            _ => false,
        }
    }

    /// Carry out the recalculation of the entry that maps `gfn`, when one is
    /// asked for by itself; `dirty` says whether log-dirty tracking covers a
    /// gfn. `true`: a 4 KiB entry became ordinary RAM.
    pub fn recalculate(&mut self, gfn: Gfn, dirty: impl Fn(Gfn) -> bool) -> bool {
        let Some(hit) = self.walk(gfn) else {
            return false;
        };
        let Slot::Leaf(leaf) = hit.slot else {
            return false;
        };
        if !leaf.recalc {
            return false;
        }
        let sw_type = match leaf.sw_type {
            kind::RAM_RW | kind::RAM_LOGDIRTY if dirty(gfn) => kind::RAM_LOGDIRTY,
            kind::RAM_LOGDIRTY => kind::RAM_RW,
            other => other,
        };
        let access = self.access(self.raw(hit.table, hit.index));
        let new = New::Map(Mfn(leaf.frame), sw_type, access);

        self.write(hit.table, hit.index, self.encode(new, hit.level));
        hit.level == 1 && sw_type == kind::RAM_RW && leaf.sw_type != sw_type
    }

    /// Call `f` for every leaf: gfn, mfn, order, type.
    pub fn each_leaf(&self, mut f: impl FnMut(Gfn, Mfn, Order, u8)) {
        self.each(self.root, TOP, 0, &mut f);
    }

    fn each(&self, table: usize, level: u32, at: u64, f: &mut impl FnMut(Gfn, Mfn, Order, u8)) {
        for i in 0..ENTRIES {
            let gfn = at + ((i as u64) << (LEVEL_BITS * (level - 1)));
            match self.read(table, i, level) {
                Slot::Table { frame, .. } => {
                    self.each((frame - POOL_BASE) as usize, level - 1, gfn, f)
                }
                Slot::Leaf(leaf) => f(Gfn(gfn), Mfn(leaf.frame), order_of(level), leaf.sw_type),
                Slot::Absent { .. } => {}
            }
        }
    }

    /// Every table is reachable once, or free, or waits for a flush.
    pub fn check(&self) {
        let mut seen = vec![0u32; self.pool.len()];

        for &table in self.free.iter().chain(&self.held).chain(&self.dropped) {
            seen[table] += 1;
        }
        self.count(self.root, TOP, &mut seen);
        for (table, n) in seen.into_iter().enumerate() {
            assert_eq!(n, 1, "page table {table} leaked, or is used twice");
        }
    }

    fn count(&self, table: usize, level: u32, seen: &mut [u32]) {
        seen[table] += 1;
        if level > 1 {
            for i in 0..ENTRIES {
                if let Slot::Table { frame, .. } = self.read(table, i, level) {
                    self.count((frame - POOL_BASE) as usize, level - 1, seen);
                }
            }
        }
    }
}
