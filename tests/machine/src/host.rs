// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor: the core's traits, and everybody who acts while the core
//! does.

use crate::heap::{Data, Dom, Heap, Policy, State};
use crate::tables::{ACCESS_RWX, Effect, Failed, GFN_END, New, Tables, kind, order_of};
use arch::{Format, Slot};
use p2m::account::{Account, Outcome, Reason};
use p2m::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use p2m::coalesce::{self, Limits, Mode};
use p2m::exchange::{Caller, End, Larger, Request, Scratch, Side};
use p2m::frames::{Detached, Flushed, Loss, Pair, Pending};
use p2m::ledger::{self, Book, Ledger, Next};
use p2m::machine::{Block, Errno, Facts, Holder, Kind, Locked, Lookup, Machine, Purpose, View};
use p2m::plan::{Slots, Stock};
use p2m::region::{Shape, shape};
use p2m::room;
use p2m::trace::{Event, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// RAM is populated below this gfn only.
pub const GFN_MAX: u64 = 8 * REGION_PAGES;

/// vCPUs of the guest.
pub const VCPUS: usize = 2;

/// The kinds of call that may fail, for injecting failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fallible {
    Alloc,
    AllocAt,
    Freeze,
    Split,
    Reserve,
    Detach,
    Conclude,
    Promote,
    /// Fails for a domain that has started to die only.
    Assign,
    Read,
}

impl Fallible {
    pub const ALL: [Fallible; 10] = [
        Fallible::Alloc,
        Fallible::AllocAt,
        Fallible::Freeze,
        Fallible::Split,
        Fallible::Reserve,
        Fallible::Detach,
        Fallible::Conclude,
        Fallible::Promote,
        Fallible::Assign,
        Fallible::Read,
    ];
}

/// What somebody else does meanwhile. Numbers choose by remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A vCPU reads.
    Read { vcpu: u8, gfn: u16 },
    /// A vCPU writes.
    Write { vcpu: u8, gfn: u16 },
    /// A mapper takes a reference to what is behind a gfn, by mfn.
    Map { gfn: u16 },
    /// A mapper tries any mfn.
    MapAny { mfn: u16 },
    /// It drops one, and leaves the translation in its TLB.
    Unmap { which: u8 },
    /// It writes through one.
    MapperWrite { which: u8 },
    /// The other domain takes a page.
    OtherAlloc,
    /// It frees one.
    OtherFree { which: u8 },
    /// A vCPU's TLB forgets a translation, as it may at any time.
    Evict { vcpu: u8, which: u8 },
    /// Xen makes a page one of its own, if nobody has frozen it.
    Special { gfn: u16 },
    /// A device reads or writes through its IOTLB, if there is one.
    Dma { gfn: u16, write: bool },
    /// Unless the core has the lock: the guest gives a page back and gets
    /// another, or fills a hole.
    Renew { gfn: u16 },
    /// Unless the core has the lock: something becomes true of the domain, or
    /// ceases to be.
    Fact { fact: u8, on: bool },
    /// Unless the core has the lock: log-dirty tracking of a region.
    Track { region: u8, on: bool },
    /// The guest starts to die.
    Die,
    /// Its teardown frees some pages.
    Relinquish { pages: u8 },
}

/// What a machine is like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub format: Format,
    /// Every write of a present entry flushes at once (NPT up to Xen 4.21).
    pub eager_flush: bool,
    pub exec_sp: bool,
    pub hap_2mb: bool,
    /// Page tables.
    pub pool: usize,
    /// Memory, in blocks of 2 MiB.
    pub blocks: u64,
    pub policy: Policy,
    /// Pages that no migration may use.
    pub watermark: u64,
    /// A frame can be had by its number.
    pub alloc_at: bool,
    /// Largest order that the guest may allocate.
    pub max_order: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            format: Format::Ept,
            eager_flush: false,
            exec_sp: true,
            hap_2mb: true,
            pool: 40,
            blocks: 10,
            policy: Policy::Lowest,
            watermark: 0,
            alloc_at: true,
            max_order: 9,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Translation {
    gfn: Gfn,
    mfn: Mfn,
    order: Order,
    write: bool,
}

impl Translation {
    fn has_mfn(&self, mfn: Mfn) -> bool {
        mfn.align(self.order) == self.mfn
    }
}

/// Arguments of the exchange that is going on.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    pub ins: Vec<u64>,
    pub outs: Vec<u64>,
    /// Reading this entry (of `ins`, then `outs`) faults.
    pub fault: Option<usize>,
}

impl Lists {
    /// Nothing faults.
    pub fn new(ins: impl IntoIterator<Item = u64>, outs: impl IntoIterator<Item = u64>) -> Self {
        Lists {
            ins: ins.into_iter().collect(),
            outs: outs.into_iter().collect(),
            fault: None,
        }
    }
}

type Root = Box<[ledger::Slot<Box<ledger::Leaf>>]>;

/// What a copy of a machine begins anew with: counters, and room to work in.
#[derive(Default)]
pub struct Anew<T>(T);

impl<T: Default> Clone for Anew<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> Deref for Anew<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A hash of numbers, quick rather than hard to forge.
#[derive(Clone, Default)]
pub struct Digest(u64);

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        // The finalizer of MurmurHash3, on what was there and what comes.
        let mut h = (self.0.rotate_left(5) ^ n).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 33;
        self.0 = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

/// Called wherever somebody else may act.
pub type Between = Arc<dyn Fn(&mut Host) + Send + Sync>;

/// The machine, with one guest that the core works for.
#[derive(Clone)]
pub struct Host {
    pub config: Config,
    pub heap: Heap,
    pub tables: Tables,
    pub facts: Facts,
    pub mode: Mode,
    /// Milliseconds.
    pub now: u64,
    /// How long the ledger said last that the worker should wait, in ms.
    wait: u64,
    pub account: Anew<Account>,
    pub book: Book<Root>,
    /// Regions in which log-dirty tracking is on.
    pub dirty_ranges: BTreeSet<u64>,
    /// Regions of which one entry could not say how they are cached.
    pub odd_ranges: BTreeSet<u64>,
    /// Blocks of 2 MiB of which no leaf can say how they are cached, by number.
    pub odd_blocks: BTreeSet<u64>,
    /// What the guest expects to read at each gfn.
    pub expect: BTreeMap<u64, u64>,
    /// gfns about which it cannot know: its own exchange is going on.
    flux: BTreeSet<u64>,
    /// gfns that [`Act::Renew`] came by since the last exchange began.
    pub renewed: BTreeSet<u64>,
    tlbs: [Vec<Translation>; VCPUS],
    /// What a device's translations are, by gfn.
    iotlb: BTreeMap<u64, Mfn>,
    mapper_tlb: BTreeSet<u64>,
    mapper_refs: Vec<Mfn>,
    other: Vec<(Mfn, u64)>,
    limbo: Vec<Mfn>,
    lists: Lists,
    locked: bool,
    need_flush: bool,
    /// The core has changed translations since it last flushed.
    unflushed: bool,
    /// Calls of the core so far.
    pub calls: u64,
    /// What others do, and how many calls of the core pass before.
    pub schedule: VecDeque<(u8, Act)>,
    gap: u8,
    /// Somebody acts at this call.
    pub meddle_at: Option<(u64, Act)>,
    /// The guest starts to die at this call.
    pub die_at: Option<u64>,
    /// How many pages the teardown of a dying guest gets through between two
    /// calls.
    pub teardown: u64,
    /// Say that somebody wants the CPU at every so many'th question.
    pub preempt_every: u64,
    /// How often the core asked.
    pub preempts: u64,
    /// Leaves broken so far, by whomever.
    pub splits: u64,
    /// Log2 of the largest block that may be given out as it comes.
    largest: u32,
    /// Fail the n'th call of a kind.
    pub inject: Option<(Fallible, u64)>,
    /// How often each was called.
    pub counts: BTreeMap<Fallible, u64>,
    /// Whether the injected failure happened.
    pub injected: bool,
    pattern: u64,
    /// How many values the guest writes in turn; 0: each is another.
    pub values: u64,
    /// Somebody who acts at the calls of the core, and the only slots that they
    /// have to do with (empty: all). Calls that are about others are of no
    /// interest to them: it makes no difference which comes first.
    pub between: Option<Between>,
    pub watched: Vec<u64>,
    /// A digest of all that the core was ever told.
    pub answers: u64,
    bench: Anew<coalesce::Scratch>,
    /// An act that was interrupted.
    kept: Anew<Option<coalesce::Act>>,
    /// Pages that the coalescer copies in one lock hold.
    pub batch: u64,
    scratch: Anew<Scratch>,
    /// For chunks of more pages than a region has.
    larger: Anew<Option<Box<Larger>>>,
    /// Trace records written.
    pub traced: Vec<(Event, Record)>,
}

/// What the host does with values that the core lost.
#[derive(Debug)]
pub struct Panics;

impl Loss for Panics {
    fn lost(what: &'static str) {
        if !std::thread::panicking() {
            panic!("the core dropped {what}");
        }
    }
}

/// What may become true of a domain, and cease to be, one of each.
pub const FACTS: [Facts; 6] = [
    Facts::IOMMU,
    Facts::ALTP2M,
    Facts::NESTED,
    Facts::POD,
    Facts::SHARING,
    Facts::LOG_DIRTY,
];

/// The fact that a number chooses.
pub fn fact_of(n: u8) -> Facts {
    FACTS[usize::from(n) % FACTS.len()]
}

/// What is at a gfn, for comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Ram(Mfn, u64),
    Other,
}

/// Everything that an operation that fails must not change, but for the sizes
/// of the leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub pages: BTreeMap<u64, Seen>,
    pub tot: i64,
    pub free: u64,
}

impl Host {
    pub fn new(config: Config) -> Self {
        let root: Root = (0..1).map(|_| ledger::Slot::default()).collect();

        Host {
            config,
            heap: Heap::new(config.blocks, config.policy),
            tables: Tables::new(config.format, config.pool, config.exec_sp, config.hap_2mb),
            facts: Facts::CREATED
                | Facts::HAP
                | if config.hap_2mb {
                    Facts::HAP | Facts::HAP_2MB
                } else {
                    Facts::empty()
                },
            mode: Mode::Full,
            now: 0,
            wait: 1,
            account: Anew::default(),
            book: Book::new(root, 0),
            dirty_ranges: BTreeSet::new(),
            odd_ranges: BTreeSet::new(),
            odd_blocks: BTreeSet::new(),
            expect: BTreeMap::new(),
            flux: BTreeSet::new(),
            renewed: BTreeSet::new(),
            tlbs: Default::default(),
            iotlb: BTreeMap::new(),
            mapper_tlb: BTreeSet::new(),
            mapper_refs: Vec::new(),
            other: Vec::new(),
            limbo: Vec::new(),
            lists: Lists::default(),
            locked: false,
            need_flush: false,
            unflushed: false,
            calls: 0,
            schedule: VecDeque::new(),
            gap: 0,
            meddle_at: None,
            die_at: None,
            teardown: 0,
            preempt_every: 0,
            preempts: 0,
            splits: 0,
            largest: u32::MAX,
            inject: None,
            counts: BTreeMap::new(),
            injected: false,
            pattern: 0,
            values: 0,
            between: None,
            watched: Vec::new(),
            answers: 0,
            bench: Anew::default(),
            kept: Anew::default(),
            batch: coalesce::BATCH_DEFAULT,
            scratch: Anew::default(),
            larger: Anew::default(),
            traced: Vec::new(),
        }
    }

    pub fn dying(&self) -> bool {
        self.facts.contains(Facts::DYING)
    }

    fn fresh_pattern(&mut self) -> u64 {
        self.pattern += 1;
        if self.values > 0 {
            self.pattern %= self.values;
        }
        0xc0de_0000_0000_0000 | self.pattern
    }

    // ---- TLBs ----------------------------------------------------------

    fn flush_guest(&mut self) {
        for tlb in &mut self.tlbs {
            tlb.clear();
        }
        self.need_flush = false;
        self.tables.flushed();
    }

    fn effect(&mut self, effect: Effect) {
        self.splits += u64::from(effect.split);
        if effect.was_present || effect.dropped_table {
            if self.config.eager_flush {
                self.flush_guest();
            } else {
                self.need_flush = true;
            }
        }
    }

    /// No TLB may lead to a frame that goes to the heap; the mappers' may if
    /// the heap knows that it has to flush.
    #[track_caller]
    fn nobody_reaches(&self, mfn: Mfn, mappers_too: bool) {
        for (vcpu, tlb) in self.tlbs.iter().enumerate() {
            if let Some(t) = tlb.iter().find(|t| t.has_mfn(mfn)) {
                panic!("{mfn:?} is let go while the TLB of vCPU {vcpu} has {t:?}");
            }
        }
        if let Some((gfn, _)) = self.iotlb.iter().find(|&(_, &m)| m == mfn) {
            panic!("{mfn:?} is let go while a device reaches it at {gfn:#x}");
        }
        if mappers_too && self.mapper_tlb.contains(&mfn.0) {
            panic!("{mfn:?} is given out while a mapper's TLB leads to it");
        }
    }

    // ---- heap ----------------------------------------------------------

    fn take(&mut self, order: Order) -> Option<Mfn> {
        let (mfn, stamped) = self.heap.take(order)?;
        self.given_out(mfn, order, stamped);
        Some(mfn)
    }

    fn given_out(&mut self, mfn: Mfn, order: Order, stamped: bool) {
        if stamped {
            self.mapper_tlb.clear();
        }
        for i in 0..order.pages() {
            self.nobody_reaches(mfn.add(i), true);
        }
    }

    fn take_clean(&mut self, order: Order) -> Option<Mfn> {
        let mfn = self.take(order)?;
        for i in 0..order.pages() {
            self.heap.scrub(mfn.add(i));
        }
        Some(mfn)
    }

    /// `put_page()`.
    fn put_page(&mut self, mfn: Mfn) {
        let frame = self.heap.at_mut(mfn);
        frame.count = frame
            .count
            .checked_sub(1)
            .expect("put_page without a reference");
        if frame.count == 0 {
            self.free_owned(mfn);
        }
    }

    /// `free_domheap_page()` of a page with an owner.
    fn free_owned(&mut self, mfn: Mfn) {
        let State::Owned(dom) = self.heap.at(mfn).state else {
            panic!("{mfn:?} is not owned");
        };
        if dom == Dom::Guest {
            self.nobody_reaches(mfn, false);
        }
        self.heap.put(mfn, true);
        *self.heap.tot_mut(dom) -= 1;
    }

    /// Take a reference by mfn, as grant mapping does.
    fn get_page(&mut self, mfn: Mfn) -> bool {
        let frame = self.heap.at_mut(mfn);
        let ok = frame.state == State::Owned(Dom::Guest) && frame.count > 0;
        if ok {
            frame.count += 1;
        }
        ok
    }

    // ---- writing the p2m, as Xen does it for itself ---------------------

    fn write(&mut self, gfn: Gfn, new: New, order: Order) -> Result<(), Failed> {
        for at in [gfn, gfn.add(order.pages() - 1)] {
            if self.tables.walk(at).is_some_and(|hit| hit.recalc) {
                self.recalc(at);
            }
        }
        let (effect, result) = self.tables.set(gfn, new, order);
        self.effect(effect);
        // p2m_set_entry() returns when the IOTLB has forgotten.
        let range = gfn.0..gfn.0.saturating_add(order.pages());
        self.iotlb.retain(|gfn, _| !range.contains(gfn));
        self.event(gfn, new, order);
        result
    }

    /// Tell the ledger, as the hook in Xen's p2m code does.
    fn event(&mut self, gfn: Gfn, new: New, order: Order) {
        if self.mode == Mode::Off {
            return;
        }
        let mut at = gfn;
        let end = gfn.0.wrapping_add(order.pages());

        while at.0 < end {
            let whole = at.is_aligned(Order::REGION) && end - at.0 >= REGION_PAGES;
            let leaf = self.tables.walk(at).is_some_and(|hit| hit.level > 1);
            match new {
                _ if whole && leaf => self.book.settled(at.region()),
                New::Map(_, kind::RAM_RW, _) => self.book.touch(at.region(), self.now),
                _ => {}
            }
            at = Gfn(at.align(Order::REGION).0.saturating_add(REGION_PAGES));
        }
    }

    fn recalc(&mut self, gfn: Gfn) {
        self.tables.push_recalc(gfn);
        let start = gfn.align(Order::REGION);
        for i in 0..REGION_PAGES {
            self.recalc_one(start.add(i));
        }
    }

    fn recalc_one(&mut self, gfn: Gfn) {
        let all = self.facts.contains(Facts::LOG_DIRTY);
        let ranges = self.dirty_ranges.clone();
        // No event tells of that.
        self.tables
            .recalculate(gfn, |g| all || ranges.contains(&g.region().0));

        // Permissions may have been taken away.
        self.effect(Effect {
            was_present: true,
            ..Effect::default()
        });
    }

    // ---- the guest and its toolstack, outside the core ------------------

    /// Map fresh memory at a hole, a leaf of `order`, or its pages one by one
    /// in the order in which the heap gives them. `false`: no room.
    pub fn populate(&mut self, gfn: Gfn, order: Order, one_by_one: bool) -> bool {
        self.populate_with(gfn, order, one_by_one, true)
    }

    fn populate_with(&mut self, gfn: Gfn, order: Order, one_by_one: bool, place: bool) -> bool {
        assert!(gfn.0 + order.pages() <= GFN_MAX.max(Order::GIB.pages()));
        if self.dying() || (0..order.pages()).any(|i| !self.is_hole(gfn.add(i))) {
            return false;
        }
        let piece = if one_by_one { Order::PAGE } else { order };
        let mut done = 0;
        while done < order.pages() {
            let at = gfn.add(done);
            let placed = if piece == Order::PAGE && place {
                p2m::exchange::place(self, at).map(|block| block.mfn())
            } else {
                None
            };
            let Some(mfn) = placed.or_else(|| self.take_clean(piece)) else {
                self.sync();
                return false;
            };
            if (0..piece.pages()).any(|i| !self.is_hole(at.add(i))) || self.dying() {
                // Somebody was faster.
                for i in 0..piece.pages() {
                    self.heap.put(mfn.add(i), false);
                }
                self.sync();
                return false;
            }
            if self
                .write(at, New::Map(mfn, kind::RAM_RW, ACCESS_RWX), piece)
                .is_err()
            {
                // As Xen: what was written is unwritten again.
                let _ = self.write(at, New::Absent(kind::INVALID), piece);
                self.sync();
                for i in 0..piece.pages() {
                    self.heap.put(mfn.add(i), false);
                }
                return false;
            }
            for i in 0..piece.pages() {
                self.heap.assign(mfn.add(i), Dom::Guest);
                self.heap.m2p[(mfn.0 + i) as usize] = Some(at.add(i));
                self.expect.insert(at.0 + i, 0);
            }
            *self.heap.tot_mut(Dom::Guest) += piece.pages() as i64;
            done += piece.pages();
        }
        self.sync();
        true
    }

    /// The guest gives a page back (`guest_remove_page()`).
    pub fn balloon_out(&mut self, gfn: Gfn) -> bool {
        if self.dying() {
            return false;
        }
        let Some((mfn, _, _)) = self.tables.translate(gfn) else {
            return false;
        };
        if self.heap.at(mfn).special
            || self
                .write(gfn, New::Absent(kind::INVALID), Order::PAGE)
                .is_err()
        {
            self.sync();
            return false;
        }
        self.heap.m2p[mfn.0 as usize] = None;
        self.sync();
        self.expect.remove(&gfn.0);
        let frame = self.heap.at_mut(mfn);
        assert!(
            frame.allocated,
            "{gfn:?} was mapped to a page not allocated"
        );
        frame.allocated = false;
        self.put_page(mfn);
        true
    }

    /// The guest lets two pages trade places (`XENMEM_add_to_physmap` by way of a
    /// hole). `false`: they are not both RAM.
    pub fn swap(&mut self, a: Gfn, b: Gfn) -> bool {
        let (Some((ma, kind::RAM_RW, _)), Some((mb, kind::RAM_RW, _))) =
            (self.tables.translate(a), self.tables.translate(b))
        else {
            return false;
        };
        let special = self.heap.at(ma).special || self.heap.at(mb).special;
        if a == b || special || self.dying() {
            return false;
        }
        // The tables first, so that nothing fails half way.
        for gfn in [a, b] {
            if self.tables.split(gfn, Order::PAGE).1.is_err() {
                return false;
            }
        }
        for (gfn, mfn) in [(a, mb), (b, ma)] {
            let new = New::Map(mfn, kind::RAM_RW, ACCESS_RWX);
            assert!(
                self.write(gfn, new, Order::PAGE).is_ok(),
                "a table is there"
            );
            self.heap.m2p[mfn.0 as usize] = Some(gfn);
        }
        self.flush_guest();
        let (ea, eb) = (self.expect.remove(&a.0), self.expect.remove(&b.0));
        self.expect.extend(eb.map(|e| (a.0, e)));
        self.expect.extend(ea.map(|e| (b.0, e)));
        true
    }

    /// Flush what is pending, as `p2m_unlock()` does.
    pub fn sync(&mut self) {
        if self.need_flush {
            self.flush_guest();
        }
    }

    fn is_hole(&self, gfn: Gfn) -> bool {
        matches!(
            self.tables.walk(gfn).map(|hit| hit.slot),
            None | Some(Slot::Absent {
                sw_type: kind::RAM_RW | kind::INVALID | kind::MMIO_DM
            })
        )
    }

    /// Change type or access of a RAM page. `false`: it is not one.
    pub fn retype(&mut self, gfn: Gfn, sw_type: u8, access: u8) -> bool {
        let access = match self.config.format {
            Format::Npt => ACCESS_RWX,
            Format::Ept => access,
        };
        let Some((mfn, kind::RAM_RW | kind::RAM_RO, _)) = self.tables.translate(gfn) else {
            return false;
        };
        let ok = !self.dying()
            && self
                .write(gfn, New::Map(mfn, sw_type, access), Order::PAGE)
                .is_ok();
        self.sync();
        ok
    }

    /// Put an entry that is neither RAM nor a hole into a hole, or take it
    /// away.
    pub fn set_paged(&mut self, gfn: Gfn, on: bool) {
        let paged = matches!(
            self.tables.walk(gfn).map(|hit| hit.slot),
            Some(Slot::Absent {
                sw_type: kind::PAGED
            })
        );
        if on && self.is_hole(gfn) && gfn.0 < GFN_END || !on && paged {
            let new = if on { kind::PAGED } else { kind::INVALID };
            let _ = self.write(gfn, New::Absent(new), Order::PAGE);
        }
        self.sync();
    }

    /// Turn log-dirty tracking of a region on or off.
    pub fn track(&mut self, region: Region, on: bool, above: bool) {
        let changed = if on {
            self.dirty_ranges.insert(region.0)
        } else {
            self.dirty_ranges.remove(&region.0)
        };
        if changed {
            self.tables.want_recalc(region.start(), above);
            self.effect(Effect {
                was_present: true,
                ..Effect::default()
            });
            self.sync();
        }
    }

    /// The mfn behind a gfn of the guest.
    pub fn mfn(&self, gfn: Gfn) -> Option<Mfn> {
        self.tables.translate(gfn).map(|(mfn, _, _)| mfn)
    }

    /// A mapper takes a reference to what is behind `gfn`.
    pub fn pin(&mut self, gfn: Gfn) -> bool {
        match self.mfn(gfn) {
            Some(mfn) if self.get_page(mfn) => {
                self.mapper_refs.push(mfn);
                self.mapper_tlb.insert(mfn.0);
                true
            }
            _ => false,
        }
    }

    /// A mapper drops all references, without a flush.
    pub fn unpin_all(&mut self) {
        while let Some(mfn) = self.mapper_refs.pop() {
            self.put_page(mfn);
        }
    }

    /// Mark a page of the guest as one of Xen's own, or not any more.
    pub fn set_special(&mut self, gfn: Gfn, on: bool) {
        if let Some(mfn) = self.mfn(gfn) {
            self.heap.at_mut(mfn).special = on;
        }
    }

    /// The mapper has references.
    pub fn mapper_holds(&self) -> usize {
        self.mapper_refs.len()
    }

    /// How many pages the other domain has.
    pub fn other_pages(&self) -> usize {
        self.other.len()
    }

    /// The other domain takes a page.
    pub fn other_alloc(&mut self) {
        if let Some(mfn) = self.take_clean(Order::PAGE) {
            let content = self.fresh_pattern() | 1 << 63;
            self.heap.assign(mfn, Dom::Other);
            self.heap.at_mut(mfn).content = content;
            self.heap.m2p[mfn.0 as usize] = Some(Gfn(1 << 40 | mfn.0));
            *self.heap.tot_mut(Dom::Other) += 1;
            self.other.push((mfn, content));
        }
    }

    /// The other domain frees a page.
    pub fn other_free(&mut self, which: usize) {
        if !self.other.is_empty() {
            let (mfn, content) = self.other.swap_remove(which % self.other.len());
            self.check_other(mfn, content);
            self.heap.m2p[mfn.0 as usize] = None;
            self.heap.at_mut(mfn).allocated = false;
            self.put_page(mfn);
        }
    }

    #[track_caller]
    fn check_other(&self, mfn: Mfn, content: u64) {
        let frame = self.heap.at(mfn);
        assert_eq!(
            frame.state,
            State::Owned(Dom::Other),
            "{mfn:?} of the other domain was taken"
        );
        assert_eq!(
            frame.content, content,
            "{mfn:?} of the other domain was written to"
        );
        assert_eq!(
            self.heap.m2p[mfn.0 as usize],
            Some(Gfn(1 << 40 | mfn.0)),
            "the M2P entry of {mfn:?}, of the other domain, was changed"
        );
    }

    /// A vCPU reads, or writes `value`.
    pub fn access(&mut self, vcpu: usize, gfn: Gfn, value: Option<u64>) {
        if self.dying() {
            return;
        }
        let hit = self.tlbs[vcpu]
            .iter()
            .find(|t| gfn.align(t.order) == t.gfn && (t.write || value.is_none()))
            .copied();
        let translation = match hit {
            Some(t) => t,
            None => match self.fill(gfn, value.is_some()) {
                Some(t) => {
                    self.tlbs[vcpu].push(t);
                    self.tlbs[vcpu].sort_unstable();
                    t
                }
                None => return,
            },
        };
        let mfn = translation.mfn.add(gfn.0 & (translation.order.pages() - 1));
        let frame = self.heap.at_mut(mfn);

        // A page that the guest gave up may be reached until the flush.
        assert_eq!(
            frame.state,
            State::Owned(Dom::Guest),
            "vCPU {vcpu} reaches {mfn:?} through {gfn:?} ({translation:?})"
        );
        if self.flux.contains(&gfn.0) {
            return;
        }
        match value {
            Some(value) => {
                frame.content = value;
                self.expect.insert(gfn.0, value);
            }
            None => {
                let expected = self.expect.get(&gfn.0).copied();
                assert_eq!(
                    Some(frame.content),
                    expected,
                    "vCPU {vcpu} reads something else at {gfn:?} ({translation:?})"
                );
            }
        }
    }

    /// The hardware walk, and the fault handler when that fails.
    fn fill(&mut self, gfn: Gfn, write: bool) -> Option<Translation> {
        let hit = self.tables.walk(gfn)?;
        if hit.recalc {
            if self.locked {
                return None;
            }
            self.recalc(gfn);
            self.sync();
        }
        if let Some((mfn, kind::RAM_LOGDIRTY, access)) = self.tables.translate(gfn) {
            if write && !self.locked {
                // The fault is how the write is noticed.
                let new = New::Map(mfn, kind::RAM_RW, access);
                let _ = self.write(gfn, new, Order::PAGE);
                self.sync();
            }
        }
        let hit = self.tables.walk(gfn)?;
        match hit.slot {
            Slot::Leaf(leaf) => {
                let writable = leaf.sw_type == kind::RAM_RW
                    && self
                        .tables
                        .translate(gfn)
                        .is_some_and(|(_, _, a)| a & 2 != 0);
                if write && !writable {
                    return None;
                }
                let order = order_of(hit.level);
                Some(Translation {
                    gfn: gfn.align(order),
                    mfn: Mfn(leaf.frame),
                    order,
                    write: writable,
                })
            }
            Slot::Absent { sw_type } => {
                assert!(
                    self.locked || sw_type != kind::MARK,
                    "a guest access at {gfn:?} waits for a lock that nobody holds"
                );
                // With the lock held by the core the access waits.
                None
            }
            Slot::Table { .. } => unreachable!("a walk does not end at a table"),
        }
    }

    /// A device's access. Devices do not wait: what is not mapped is aborted.
    fn dma(&mut self, gfn: Gfn, write: bool) {
        if self.dying() || !self.facts.contains(Facts::IOMMU) {
            return;
        }
        let mapped = match self.tables.translate(gfn) {
            Some((mfn, kind::RAM_RW, _)) => Some(mfn),
            _ => None,
        };
        let Some(mfn) = self.iotlb.get(&gfn.0).copied().or(mapped) else {
            return;
        };
        self.iotlb.insert(gfn.0, mfn);
        let owner = self.heap.at(mfn).state;
        assert_eq!(
            owner,
            State::Owned(Dom::Guest),
            "a device reaches {mfn:?} through {gfn:?}"
        );
        if self.flux.contains(&gfn.0) {
            return;
        }
        if write {
            let value = self.fresh_pattern();
            self.heap.at_mut(mfn).content = value;
            self.expect.insert(gfn.0, value);
        } else {
            assert_eq!(
                Some(&self.heap.at(mfn).content),
                self.expect.get(&gfn.0),
                "a device reads something else at {gfn:?}"
            );
        }
    }

    /// Something becomes true of the domain, or ceases to be: with an IOMMU go its
    /// TLB entries.
    pub fn set_facts(&mut self, facts: Facts, on: bool) {
        self.facts.set(facts, on);
        if !self.facts.contains(Facts::IOMMU) {
            self.iotlb.clear();
        }
    }

    /// The guest starts to die: its vCPUs do not run any more.
    pub fn die(&mut self) {
        self.facts |= Facts::DYING;
        self.iotlb.clear();
        for tlb in &mut self.tlbs {
            tlb.clear();
        }
    }

    /// Teardown of some pages, which does not take the p2m lock. References are
    /// dropped now, and the pages are freed a moment later.
    fn relinquish(&mut self, pages: u64) {
        let mut left = pages;

        for m in 0..self.heap.len() {
            let frame = &mut self.heap.frames[m as usize];
            if left > 0 && frame.state == State::Owned(Dom::Guest) && frame.allocated {
                frame.allocated = false;
                frame.count -= 1;
                if frame.count == 0 {
                    frame.limbo = true;
                    self.limbo.push(Mfn(m));
                }
                left -= 1;
            }
        }
    }

    fn end_limbo(&mut self) {
        while let Some(mfn) = self.limbo.pop() {
            self.heap.at_mut(mfn).limbo = false;
            self.free_owned(mfn);
        }
    }

    /// One act of somebody else.
    pub fn act(&mut self, act: Act) {
        let gfn_of = |g: u16| Gfn(u64::from(g) % GFN_MAX);

        match act {
            Act::Read { vcpu, gfn } => self.access(vcpu as usize % VCPUS, gfn_of(gfn), None),
            Act::Write { vcpu, gfn } => {
                let value = self.fresh_pattern();
                self.access(vcpu as usize % VCPUS, gfn_of(gfn), Some(value));
            }
            Act::Evict { vcpu, which } => {
                let tlb = &mut self.tlbs[usize::from(vcpu) % VCPUS];
                if !tlb.is_empty() {
                    tlb.remove(usize::from(which) % tlb.len());
                }
            }
            Act::Special { gfn } => {
                let mfn = self.mfn(gfn_of(gfn));
                if mfn.is_some_and(|mfn| self.heap.at(mfn).count == 1) && !self.dying() {
                    self.set_special(gfn_of(gfn), true);
                }
            }
            Act::Dma { gfn, write } => self.dma(gfn_of(gfn), write),
            Act::Map { gfn } => {
                if !self.dying() {
                    self.pin(gfn_of(gfn));
                }
            }
            Act::MapAny { mfn } => {
                let mfn = Mfn(u64::from(mfn) % self.heap.len());
                if !self.dying() && self.get_page(mfn) {
                    self.mapper_refs.push(mfn);
                    self.mapper_tlb.insert(mfn.0);
                }
            }
            Act::Unmap { which } => {
                if !self.mapper_refs.is_empty() {
                    let n = which as usize % self.mapper_refs.len();
                    let mfn = self.mapper_refs.swap_remove(n);
                    self.put_page(mfn);
                }
            }
            Act::MapperWrite { which } => {
                if !self.mapper_refs.is_empty() {
                    let n = which as usize % self.mapper_refs.len();
                    self.mapper_write(self.mapper_refs[n]);
                }
            }
            Act::OtherAlloc => self.other_alloc(),
            Act::OtherFree { which } => self.other_free(which as usize),
            Act::Renew { gfn } => {
                let gfn = gfn_of(gfn);
                let special = self.mfn(gfn).is_some_and(|mfn| self.heap.at(mfn).special);
                if !self.locked && !self.flux.contains(&gfn.0) && !special {
                    self.balloon_out(gfn);
                    self.populate_with(gfn, Order::PAGE, false, false);
                    self.renewed.insert(gfn.0);
                }
            }
            Act::Fact { fact, on } => {
                if !self.locked {
                    self.set_facts(fact_of(fact), on);
                }
            }
            Act::Track { region, on } => {
                if !self.locked {
                    let region = Region(u64::from(region) % (GFN_MAX / REGION_PAGES));
                    self.track(region, on, false);
                }
            }
            Act::Die => self.die(),
            Act::Relinquish { pages } => {
                if self.dying() {
                    self.relinquish(u64::from(pages) * 8);
                }
            }
        }
    }

    fn mapper_write(&mut self, mfn: Mfn) {
        let Some(gfn) = self.heap.m2p[mfn.0 as usize] else {
            return;
        };
        if self.flux.contains(&gfn.0) || !self.heap.at(mfn).allocated {
            return;
        }
        let value = self.fresh_pattern();
        self.heap.at_mut(mfn).content = value;
        self.expect.insert(gfn.0, value);
    }

    /// Every call of the core passes here: time goes on, others act.
    fn tick(&mut self) {
        self.time_passes();
        self.others_act();
    }

    /// The same for a call about one frame.
    fn tick_at(&mut self, mfn: Mfn) {
        self.time_passes();
        if self.watched.is_empty() || self.watched.contains(&mfn.slot()) {
            self.others_act();
        }
    }

    /// The core is told something.
    fn tell(&mut self, what: impl Hash) {
        let mut digest = Digest(self.answers ^ self.facts.bits());
        what.hash(&mut digest);
        self.answers = digest.finish();
    }

    fn others_act(&mut self) {
        if let Some(between) = self.between.clone() {
            between(self);
        }
    }

    /// A vCPU that did this now would have to wait for the lock.
    pub fn waits(&self, act: Act) -> bool {
        let (vcpu, gfn, write) = match act {
            Act::Read { vcpu, gfn } => (vcpu, gfn, false),
            Act::Write { vcpu, gfn } => (vcpu, gfn, true),
            _ => return false,
        };
        let gfn = Gfn(u64::from(gfn) % GFN_MAX);
        let known = self.tlbs[usize::from(vcpu) % VCPUS]
            .iter()
            .any(|t| gfn.align(t.order) == t.gfn && (t.write || !write));
        let marked = matches!(
            self.tables.walk(gfn).map(|hit| hit.slot),
            Some(Slot::Absent {
                sw_type: kind::MARK
            })
        );
        marked && !known && !self.dying()
    }

    /// The core has the lock.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    fn time_passes(&mut self) {
        self.calls += 1;
        self.end_limbo();
        if self.die_at == Some(self.calls) {
            self.die();
        }
        match self.meddle_at {
            Some((call, act)) if call == self.calls => self.act(act),
            _ => {}
        }
        if self.dying() && self.teardown > 0 {
            self.relinquish(self.teardown);
        }
        while let Some(&(gap, act)) = self.schedule.front() {
            if self.gap < gap {
                self.gap += 1;
                break;
            }
            self.gap = 0;
            self.schedule.pop_front();
            self.act(act);
        }
    }

    /// A call that may fail: does it?
    fn fails(&mut self, what: Fallible) -> bool {
        let count = self.counts.entry(what).or_default();
        *count += 1;
        let fail = self.inject == Some((what, *count));
        self.injected |= fail;
        fail
    }

    // ---- using the core --------------------------------------------------

    /// The guest exchanges memory, in as many calls as it takes. Returns the
    /// input extents done.
    pub fn exchange(
        &mut self,
        in_order: u32,
        out_order: u32,
        lists: Lists,
        done: u64,
    ) -> (u64, Result<(), Errno>) {
        let nr = lists.ins.len() as u64;
        let new = |done| Request::new(in_order, out_order, nr, done, self.config.max_order);
        let mut request = match new(done) {
            Ok(request) => request,
            Err(errno) => return (done, Err(errno)),
        };
        for (list, order) in [(&lists.ins, in_order), (&lists.outs, out_order)] {
            for &gfn in list {
                for i in 0..1u64 << order {
                    self.flux.insert(gfn.wrapping_add(i));
                }
            }
        }
        self.lists = lists;
        self.renewed.clear();
        self.largest = out_order.max(self.config.max_order);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut larger = std::mem::take(&mut self.larger);
        let large = request.chunk_pages() > REGION_PAGES;
        let new = |host: &Self, done| {
            Request::new(in_order, out_order, nr, done, host.config.max_order)
                .expect("a preempted call can be continued")
        };
        let (mut before, mut in_vain) = (done, 0);
        let result = loop {
            let desk = if large {
                larger.0.get_or_insert_default().desk()
            } else {
                scratch.0.room.desk()
            };
            match p2m::exchange::run(self, &mut request, desk) {
                End::Done => break Ok(()),
                End::Failed(errno) => break Err(errno),
                End::Preempted => {
                    let done = request.done();
                    in_vain = if done > before { 0 } else { in_vain + 1 };
                    assert!(in_vain < 16, "continued again and again in vain at {done}");
                    before = done;
                    self.settle_flux();
                    self.check();
                    request = new(self, done);
                }
            }
        };
        self.scratch = scratch;
        self.larger = larger;
        self.largest = u32::MAX;
        self.lists = Lists::default();
        self.settle_flux();
        self.flux.clear();
        (request.done(), result)
    }

    /// What the guest finds at the gfns of its exchange is what it expects from
    /// now on. (The caller compares it with what it should be.)
    fn settle_flux(&mut self) {
        for &gfn in &self.flux {
            match self.tables.translate(Gfn(gfn)) {
                Some((mfn, _, _)) => self.expect.insert(gfn, self.heap.at(mfn).content),
                None => self.expect.remove(&gfn),
            };
        }
    }

    /// One look of the background coalescer at what is due now. `None`: there
    /// is nothing to do at this time.
    pub fn heal_one(&mut self) -> Option<(Region, Outcome)> {
        if let Some(act) = &self.kept.0 {
            let region = act.region();
            return Some((region, self.heal_now(region)));
        }
        if self.mode == Mode::Off {
            return None;
        }
        loop {
            let now = self.now;
            let next = self.lock().ledger().next(now);
            match next {
                Next::Look(region) | Next::Act(region) => {
                    let deferrable = matches!(next, Next::Look(_));
                    return Some((region, self.heal_or_defer(region, deferrable)));
                }
                Next::Survey(gib) => self.survey(gib),
                Next::Grow(gib) => {
                    let slots = 0..ledger::reach_for(gib);
                    let root: Root = slots.map(|_| ledger::Slot::default()).collect();
                    self.book.grow(root, now);
                }
                Next::Again => {}
                Next::Wait(ms) => {
                    self.wait = ms;
                    return None;
                }
                Next::Idle => return None,
            }
        }
    }

    /// The coalescer has walked the first GiB before, and `region` alone waits.
    pub fn surveyed(&mut self, region: Region) {
        self.book.survey(0, Box::default());
        self.book.touch(region, self.now);
    }

    /// Look at a region now, whether it is due or not.
    pub fn heal_now(&mut self, region: Region) -> Outcome {
        self.heal_or_defer(region, false)
    }

    fn heal_or_defer(&mut self, region: Region, defer: bool) -> Outcome {
        let mut bench = std::mem::take(&mut self.bench);
        let mut kept = std::mem::take(&mut self.kept);
        let limits = Limits {
            mode: self.mode,
            batch: self.batch,
            defer,
        };
        let now = self.now;
        let outcome = coalesce::heal(self, &mut bench.0, &mut kept.0, region, limits, now);

        self.bench = bench;
        self.kept = kept;
        outcome
    }

    /// The worker goes away: what was interrupted is abandoned.
    pub fn abandon(&mut self) {
        if let Some(act) = self.kept.0.take() {
            act.abandon(|block| self.free(block));
        }
    }

    /// Have up to `limit` pages of the guest leave a block of the machine: how many did,
    /// and whether all of it was free then.
    pub fn vacate(&mut self, block: Mfn, limit: u64) -> (u64, bool) {
        let mut bench = std::mem::take(&mut self.bench);
        let mut stock = Stock::none(block);
        let batch = self.batch;
        let moved = room::vacate(self, &mut bench.0.plan, &mut stock, batch, limit);
        let empty = stock.slots() == Slots::ALL;

        self.bench = bench;
        assert!(moved <= limit, "{moved} of {limit} pages were moved");
        stock.free(|block| self.free(block));
        (moved, empty)
    }

    fn survey(&mut self, gib: u64) {
        let now = self.now;
        self.book.survey(gib, Box::default());
        let mut locked = self.lock();

        for r in gib * 512..(gib + 1) * 512 {
            let region = Region(r);
            if locked.view(region, |view| matches!(view, View::Table(..))) {
                locked.ledger().touch(region, now);
            }
        }
    }

    /// Set how far the coalescer may go, as `XEN_DOMCTL_COALESCE_set_mode`.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        if mode != Mode::Off {
            self.book.forget(self.now);
        }
    }

    /// Let the coalescer work until nothing waits any more, or for as long as
    /// any cool-down lasts.
    pub fn heal_all(&mut self) {
        for _ in 0..4096 {
            let mut looks = 0;
            while let Some((region, outcome)) = self.heal_one() {
                looks += 1;
                assert!(
                    looks < 4096,
                    "{region:?} is looked at for ever: {outcome:?}"
                );
            }
            if self.book.queued() == 0 {
                return;
            }
            // At the times that it says: a slot's number has three bits, so one
            // who comes at every eighth slot sees always the same.
            self.now += self.wait;
        }
    }

    /// What a region looks like.
    pub fn shape(&mut self, region: Region) -> Shape {
        self.lock().view(region, shape)
    }

    /// All that decides what can happen next: the machine, and what the core
    /// knows, which is how often it has called and what it was told.
    pub fn fingerprint<H: Hasher>(&self, state: &mut H) {
        for frame in &self.heap.frames {
            (frame.state, frame.count, frame.allocated, frame.special).hash(state);
            (frame.types, frame.stamped, frame.data, frame.limbo).hash(state);
            if frame.state != State::Free {
                frame.content.hash(state);
            }
        }
        self.heap.m2p.hash(state);
        self.heap.tot.hash(state);
        self.tables.hash(state);
        // One vCPU is like another.
        let mut tlbs: Vec<_> = self.tlbs.iter().collect();
        tlbs.sort_unstable();
        tlbs.hash(state);
        (
            &self.mapper_tlb,
            &self.mapper_refs,
            &self.other,
            &self.limbo,
        )
            .hash(state);
        (&self.expect, &self.dirty_ranges, self.facts.bits()).hash(state);
        (self.locked, self.need_flush, self.pattern).hash(state);
        (self.calls, self.answers).hash(state);
    }

    // ---- checks ------------------------------------------------------------

    /// What the guest has.
    pub fn snapshot(&self) -> Snapshot {
        let mut pages = BTreeMap::new();

        self.tables.each_leaf(|gfn, mfn, order, _| {
            for i in 0..order.pages() {
                let content = self.heap.at(mfn.add(i)).content;
                pages.insert(gfn.0 + i, Seen::Ram(mfn.add(i), content));
            }
        });
        for gfn in 0..GFN_MAX {
            if !pages.contains_key(&gfn) && !self.is_hole(Gfn(gfn)) {
                pages.insert(gfn, Seen::Other);
            }
        }
        Snapshot {
            pages,
            tot: self.heap.tot[Dom::Guest as usize],
            free: self.heap.free_pages(),
        }
    }

    /// Everything that has to be true whenever the core is not at work.
    pub fn check(&mut self) {
        self.end_limbo();
        assert!(!self.locked, "the lock was never dropped");
        assert!(!self.need_flush, "the lock was dropped without a flush");
        assert!(
            coalesce::books_balance(&self.account),
            "the counters do not add up: {:?}",
            *self.account
        );
        for &(mfn, content) in &self.other {
            self.check_other(mfn, content);
        }
        self.check_frames();
        self.tables.check();
        if self.dying() {
            return;
        }
        assert!(
            self.tables.marks.is_empty(),
            "marks stayed behind: {:?}",
            self.tables.marks.first()
        );
        self.check_mappings();
        self.check_tlbs();
    }

    fn is_kept(&self, mfn: Mfn) -> bool {
        self.kept.0.as_ref().is_some_and(|act| act.holds(mfn))
    }

    fn check_frames(&self) {
        let mut owned = [0i64; 2];

        for (m, frame) in self.heap.frames.iter().enumerate() {
            match frame.state {
                State::Free => {}
                State::Anonymous if self.is_kept(Mfn(m as u64)) => {}
                State::Anonymous => panic!("{:?} leaked: it is nobody's", Mfn(m as u64)),
                State::Owned(dom) => {
                    owned[dom as usize] += 1;
                    assert!(frame.count > 0, "{:?} stayed frozen", Mfn(m as u64));
                }
            }
        }
        assert_eq!(owned, self.heap.tot, "page counts are off (guest, other)");
    }

    fn check_mappings(&self) {
        let mut behind = BTreeMap::new();

        self.tables.each_leaf(|gfn, mfn, order, _| {
            for i in 0..order.pages() {
                let (gfn, mfn) = (gfn.add(i), mfn.add(i));
                let frame = self.heap.at(mfn);
                assert!(
                    frame.state == State::Owned(Dom::Guest) && frame.allocated,
                    "{gfn:?} is mapped to {mfn:?}, which is {:?}",
                    frame.state
                );
                if let Some(other) = behind.insert(mfn.0, gfn) {
                    panic!("{mfn:?} is behind {gfn:?} and {other:?}");
                }
                assert_eq!(
                    self.heap.m2p[mfn.0 as usize],
                    Some(gfn),
                    "the M2P entry of {mfn:?}"
                );
                assert_eq!(
                    self.expect.get(&gfn.0),
                    Some(&frame.content),
                    "the contents at {gfn:?} ({mfn:?}) changed"
                );
            }
        });
        assert_eq!(
            behind.len(),
            self.expect.len(),
            "pages of the guest vanished or appeared"
        );
        for (m, frame) in self.heap.frames.iter().enumerate() {
            if frame.state == State::Owned(Dom::Guest) && frame.allocated {
                assert!(
                    behind.contains_key(&(m as u64)),
                    "{:?} of the guest is not mapped anywhere",
                    Mfn(m as u64)
                );
            }
            if frame.state == State::Free {
                assert_eq!(self.heap.m2p[m], None, "{:?} is free", Mfn(m as u64));
            }
        }
    }

    fn check_tlbs(&self) {
        for (vcpu, tlb) in self.tlbs.iter().enumerate() {
            for t in tlb {
                for i in [0, t.order.pages() - 1] {
                    assert_eq!(
                        self.mfn(t.gfn.add(i)),
                        Some(t.mfn.add(i)),
                        "the TLB of vCPU {vcpu} has {t:?}, which is stale"
                    );
                }
            }
        }
        for &mfn in &self.mapper_tlb {
            let frame = self.heap.at(Mfn(mfn));
            assert!(
                frame.state == State::Owned(Dom::Guest) || frame.stamped,
                "a mapper's TLB leads to {:?}, which is {:?} and not stamped",
                Mfn(mfn),
                frame.state
            );
        }
    }

    /// The guest and the other domain die, and everything is in the heap again.
    pub fn finish(mut self) {
        self.abandon();
        self.schedule.clear();
        self.die_at = None;
        self.check();
        self.die();
        self.relinquish(u64::MAX);
        self.end_limbo();
        self.unpin_all();
        while !self.other.is_empty() {
            self.other_free(0);
        }
        assert_eq!(self.heap.tot, [0, 0], "page counts after the end");
        assert_eq!(
            self.heap.free_pages(),
            self.heap.len(),
            "frames are missing from the heap"
        );
    }
}

impl Machine for Host {
    type Loss = Panics;
    type Locked<'a> = Guard<'a>;

    fn lock(&mut self) -> Guard<'_> {
        self.tick();
        assert!(!self.locked, "the lock is taken twice");
        self.locked = true;
        Guard { host: self }
    }

    fn alloc(&mut self, order: Order, purpose: Purpose) -> Option<Block> {
        self.tick();
        assert!(!self.locked, "allocation under the lock");
        if self.fails(Fallible::Alloc) {
            return None;
        }
        let mfn = match purpose {
            Purpose::Expose => {
                assert!(
                    order.log2() <= self.largest,
                    "{order:?} is more than the caller may allocate"
                );
                self.take_clean(order)?
            }
            Purpose::Overwrite(near) => {
                assert!(near.0 < self.heap.len(), "{near:?} is on no node");
                if self.heap.free_pages() < self.config.watermark + order.pages() {
                    return None;
                }
                self.take(order)?
            }
        };
        self.tell(mfn);
        Some(Block::from_allocator(mfn, order))
    }

    fn alloc_at(&mut self, mfn: Mfn, purpose: Purpose) -> Option<Block> {
        self.tick();
        assert!(!self.locked, "allocation under the lock");
        if !self.config.alloc_at || self.fails(Fallible::AllocAt) {
            return None;
        }
        if purpose != Purpose::Expose && self.heap.free_pages() <= self.config.watermark {
            return None;
        }
        let stamped = self.heap.take_at(mfn)?;
        self.given_out(mfn, Order::PAGE, stamped);
        if purpose == Purpose::Expose {
            self.heap.scrub(mfn);
        }
        self.tell(mfn);
        Some(Block::from_allocator(mfn, Order::PAGE))
    }

    fn free(&mut self, block: Block) {
        self.tick();
        assert!(!self.locked, "freeing under the lock");
        for i in 0..block.order().pages() {
            let mfn = block.mfn().add(i);
            assert_eq!(
                self.heap.at(mfn).state,
                State::Anonymous,
                "{mfn:?} is freed as if nobody had owned it"
            );
            self.nobody_reaches(mfn, true);
            self.heap.put(mfn, false);
        }
    }

    fn free_retired(&mut self, mfn: Mfn, order: Order) {
        self.tick_at(mfn);
        assert!(!self.locked, "freeing under the lock");
        assert!(mfn.is_aligned(order), "a block at {mfn:?} of {order:?}");
        for i in 0..order.pages() {
            let mfn = mfn.add(i);
            assert!(self.heap.at(mfn).is_frozen(), "{mfn:?} is not frozen");
            assert_eq!(
                self.heap.m2p[mfn.0 as usize], None,
                "{mfn:?} is freed with an M2P entry"
            );
            self.nobody_reaches(mfn, false);
            self.heap.put(mfn, true);
        }
    }

    fn preempt(&mut self) -> bool {
        self.tick();
        assert!(!self.locked, "preemption under the lock");
        self.preempts += 1;
        self.preempt_every != 0 && self.preempts % self.preempt_every == 0
    }

    fn trace(&mut self, event: Event, record: Record) {
        self.tick();
        self.traced.push((event, record));
    }

    fn account(&self) -> &Account {
        &self.account
    }

    fn ticks(&self) -> u64 {
        self.calls
    }
}

impl Caller for Host {
    fn read(&mut self, side: Side, first: u64, gfns: &mut [u64]) -> Result<(), Errno> {
        self.tick();
        assert!(!self.locked, "a guest copy under the lock");
        if self.fails(Fallible::Read) {
            return Err(Errno::Fault);
        }
        let (from, base) = match side {
            Side::In => (&self.lists.ins, 0),
            Side::Out => (&self.lists.outs, self.lists.ins.len()),
        };
        for (i, gfn) in (first as usize..).zip(gfns) {
            if self.lists.fault == Some(base + i) {
                return Err(Errno::Fault);
            }
            *gfn = from.get(i).copied().expect("reads beyond the list");
        }
        Ok(())
    }
}

/// The host, its p2m locked.
pub struct Guard<'a> {
    host: &'a mut Host,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.host.locked = false;
        if !std::thread::panicking() {
            assert!(
                self.host.tables.marks.is_empty() || self.host.dying(),
                "the lock is dropped while {:?} is marked",
                self.host.tables.marks.first()
            );
            assert!(
                !self.host.unflushed,
                "the lock is dropped before a flush: frames or tables may be in use"
            );
            // The lock is gone before the deferred flush is done.
            self.host.tick();
            self.host.sync();
        }
    }
}

fn errno(failed: Failed) -> Errno {
    match failed {
        Failed::NoTable => Errno::Nomem,
        Failed::Beyond => Errno::Inval,
    }
}

impl Guard<'_> {
    /// A region may be worked on.
    #[track_caller]
    fn fit(&self, what: &str, gfn: Gfn, no: Facts) {
        let facts = self.host.facts - Facts::DYING;
        assert!(!facts.intersects(no), "{gfn:?} is {what} with {facts:?}");
        assert!(
            !self.host.dirty_ranges.contains(&gfn.region().0),
            "{gfn:?} is {what} in a range that is tracked"
        );
        assert!(
            !self.host.odd_ranges.contains(&gfn.region().0),
            "{gfn:?} is {what}, and is not cached as one entry could say"
        );
    }

    /// A write that must not need a page table.
    #[track_caller]
    fn must(&mut self, what: &str, gfn: Gfn, new: New, order: Order) {
        let before = self.host.tables.pool_left();
        let result = self.host.write(gfn, new, order);

        assert_eq!(result, Ok(()), "{what} at {gfn:?} of {order:?} fails");
        assert!(
            self.host.tables.pool_left() >= before,
            "{what} at {gfn:?} of {order:?} needs a page table"
        );
    }

    /// A frame that gets mapped is the guest's.
    #[track_caller]
    fn own_page(&self, what: &str, mfn: Mfn) {
        let frame = *self.host.heap.at(mfn);

        assert!(
            // A dying domain's page may be on its way out already.
            frame.state == State::Owned(Dom::Guest) && frame.allocated || self.host.dying(),
            "{what}: {mfn:?} is mapped, and is {frame:?}"
        );
        if frame.state == State::Owned(Dom::Guest) {
            assert_eq!(frame.data, Data::Of(Dom::Guest), "{mfn:?}");
        }
    }

    /// The frame is an ordinary one of the guest, with nobody else's reference.
    fn plain(&self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason> {
        let host = &*self.host;
        let m2p = host.heap.m2p[mfn.0 as usize];
        let frame = host.heap.at(mfn);

        // An mfn comes from the table, so a frame of somebody else can only be
        // one that the teardown of the guest has freed.
        if frame.state != State::Owned(Dom::Guest) {
            assert!(
                host.facts.contains(Facts::DYING),
                "{gfn:?} leads to {mfn:?}, {frame:?}"
            );
            return Err(Reason::Special);
        }
        if m2p != Some(gfn) || frame.special {
            return Err(Reason::Special);
        }
        if frame.count == 0 {
            return Err(Reason::Vanished);
        }
        if frame.types != 0 {
            return Err(Reason::TypePinned);
        }
        if !frame.allocated || frame.count != 1 {
            return Err(Reason::Pinned);
        }
        Ok(())
    }

    /// What is overwritten is a mark, a hole, or a frame on its way out.
    #[track_caller]
    fn nothing_is_lost(&self, what: &str, gfn: Gfn, order: Order) {
        for i in 0..order.pages() {
            if let Some(mfn) = self.host.mfn(gfn.add(i)) {
                let frame = self.host.heap.at(mfn);
                assert!(
                    frame.is_frozen() && self.host.heap.m2p[mfn.0 as usize].is_none()
                        || self.host.dying(),
                    "{what} at {gfn:?} orphans {mfn:?}, {frame:?}"
                );
            }
        }
    }
}

impl Locked for Guard<'_> {
    type Loss = Panics;

    fn facts(&self) -> Facts {
        self.host.facts
    }

    fn lookup(&mut self, gfn: Gfn) -> Lookup {
        self.host.tick();
        if self.host.tables.walk(gfn).is_some_and(|hit| hit.recalc) {
            self.host.recalc(gfn);
        }
        let told = self.host.tables.translate(gfn);
        self.host.tell(told);
        let Some(hit) = self.host.tables.walk(gfn) else {
            return Lookup {
                kind: Kind::Hole,
                order: Order::MAX,
                access: 0,
            };
        };
        let (kind, access) = match (hit.slot, self.host.tables.translate(gfn)) {
            (
                Slot::Absent {
                    sw_type: kind::MARK,
                },
                _,
            ) => (Kind::Reserved, 0),
            (_, Some((mfn, kind::RAM_RW, access))) => (Kind::Ram(mfn), access),
            _ if self.host.is_hole(gfn) => (Kind::Hole, 0),
            _ => (Kind::Other, 0),
        };
        Lookup {
            kind,
            order: order_of(hit.level),
            access,
        }
    }

    fn view<R>(&mut self, region: Region, f: impl FnOnce(View<'_>) -> R) -> R {
        self.host.tick();
        let gfn = region.start();
        // What is pending above the entries is passed on to them.
        if self.host.tables.push_recalc(gfn) {
            self.host.recalc_one(gfn);
        }
        let mut digest = Digest::default();
        if let Some(table) = self.host.tables.last_table(gfn) {
            table.entries().for_each(|entry| digest.write_u64(entry.0));
        }
        self.host.tell(digest.finish());
        let tables = &self.host.tables;

        match (tables.last_table(gfn), tables.walk(gfn)) {
            (Some(table), _) => f(View::Table(tables.format, table)),
            (None, Some(hit)) if hit.level == 2 || matches!(hit.slot, Slot::Leaf(_)) => {
                f(View::Big(hit.slot))
            }
            _ => f(View::Nothing),
        }
    }

    fn recalculate(&mut self, region: Region) {
        self.host.tick();
        self.host.recalc(region.start());
    }

    fn view_gib<R>(&mut self, gfn: Gfn, f: impl FnOnce(View<'_>) -> R) -> R {
        self.host.tick();
        let format = self.host.tables.format;

        match self.host.tables.table_of(gfn, 2) {
            Some(table) => f(View::Table(format, table)),
            None => f(View::Nothing),
        }
    }

    fn one_memory_type(&mut self, gfn: Gfn, mfn: Mfn, order: Order) -> bool {
        let among = |odd: &BTreeSet<u64>, first: u64| {
            let end = first + (order.pages() / REGION_PAGES).max(1);
            odd.range(first..end).next().is_some()
        };

        !among(&self.host.odd_ranges, gfn.region().0)
            && !among(&self.host.odd_blocks, mfn.0 / REGION_PAGES)
    }

    fn log_dirty_range(&mut self, region: Region) -> bool {
        self.host.dirty_ranges.contains(&region.0)
    }

    fn freeze(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason> {
        self.host.tick_at(mfn);
        let fails = self.host.fails(Fallible::Freeze);
        if let Err(reason) = self.plain(gfn, mfn) {
            self.host.tell(reason as u8);
            return Err(reason);
        }
        if fails {
            self.host.tell(Reason::Pinned as u8);
            return Err(Reason::Pinned);
        }
        let frame = self.host.heap.at_mut(mfn);
        frame.allocated = false;
        frame.count = 0;
        Ok(())
    }

    fn thaw(&mut self, mfn: Mfn) {
        self.host.tick_at(mfn);
        let dying = self.host.dying();
        let frame = self.host.heap.at_mut(mfn);

        assert!(frame.is_frozen(), "{mfn:?} is thawed, and is not frozen");
        frame.count = 1;
        frame.allocated = true;
        if dying {
            frame.allocated = false;
            self.host.put_page(mfn);
        }
    }

    fn default_access(&self) -> u8 {
        ACCESS_RWX
    }

    fn m2p(&mut self, mfn: Mfn) -> Option<Gfn> {
        let gfn = self.host.heap.m2p[mfn.0 as usize];
        self.host.tell(gfn);
        gfn
    }

    fn set_m2p(&mut self, mfn: Mfn, gfn: Option<Gfn>) {
        self.host.tick_at(mfn);
        assert!(
            self.host.heap.at(mfn).is_frozen(),
            "the M2P entry of {mfn:?} is set to {gfn:?}, and it is {:?}",
            self.host.heap.at(mfn)
        );
        self.host.heap.m2p[mfn.0 as usize] = gfn;
    }

    fn split(&mut self, gfn: Gfn, mfn: Mfn, order: Order, access: u8) -> Result<(), Errno> {
        self.host.tick();
        if self.host.fails(Fallible::Split) {
            return Err(Errno::Nomem);
        }
        let (is, sw_type, has) = self.host.tables.translate(gfn).expect("a leaf to split");
        assert_eq!((is, has), (mfn, access), "a split that changes {gfn:?}");
        assert_eq!(sw_type, kind::RAM_RW, "a split at {gfn:?}");
        let (effect, result) = self.host.tables.split(gfn, order);
        self.host.effect(effect);
        if effect.split {
            let new = New::Map(mfn, kind::RAM_RW, access);
            self.host.event(gfn, new, order);
        }
        result.map_err(errno)
    }

    fn reserve(&mut self, gfn: Gfn, order: Order) -> Result<(), Errno> {
        self.host.tick();
        if self.host.fails(Fallible::Reserve) {
            return Err(Errno::Nomem);
        }
        for i in 0..order.pages() {
            let at = gfn.add(i);
            assert!(self.host.is_hole(at), "a reservation at {at:?}: no hole");
        }
        let result = self.host.write(gfn, New::Absent(kind::MARK), order);
        if result.is_err() {
            let marked = self.host.tables.marks.contains(&gfn.0);
            assert!(!marked, "a reservation fails half way");
        }
        result.map_err(errno)
    }

    fn unreserve(&mut self, gfn: Gfn, order: Order) {
        self.host.tick();
        for i in 0..order.pages() {
            assert!(
                self.host.tables.marks.contains(&gfn.add(i).0),
                "{:?} is not reserved",
                gfn.add(i)
            );
        }
        self.must("unreserve", gfn, New::Absent(kind::INVALID), order);
    }

    fn zap(&mut self, _: &mut Pending<Panics>, gfn: Gfn, order: Order) {
        self.host.tick();
        self.nothing_is_lost("zap", gfn, order);
        self.host.unflushed = true;
        self.must("zap", gfn, New::Absent(kind::INVALID), order);
    }

    fn detach(&mut self, _: &mut Pending<Panics>, region: Region) -> Option<Detached<Panics>> {
        self.host.tick();
        if self.host.fails(Fallible::Detach) {
            return None;
        }
        let gfn = region.start();
        self.fit(
            "hidden",
            gfn,
            Facts::all() - Facts::CREATED - Facts::HAP - Facts::HAP_2MB - Facts::HAP_1GB,
        );
        for i in 0..REGION_PAGES {
            let mfn = self.host.mfn(gfn.add(i));
            assert!(mfn.is_some(), "{:?} is hidden, and is not RAM", gfn.add(i));
        }
        self.host.unflushed = true;
        let entry = self.host.tables.detach(gfn)?;
        self.host.effect(Effect {
            was_present: true,
            ..Effect::default()
        });
        Some(Detached::new(region, entry))
    }

    fn redirect(&mut self, table: &Detached<Panics>, pages: &[Pair], which: &Slots) {
        for pair in which.stretches(pages).flatten() {
            let (gfn, mfn) = (pair.gfn(), pair.mfn());
            self.host.tick_at(mfn);
            assert_eq!(gfn.region(), table.region());
            self.own_page("redirect", mfn);
            let frame = *self.host.heap.at(mfn);
            if frame.state == State::Owned(Dom::Guest) {
                self.host.heap.m2p[mfn.0 as usize] = Some(gfn);
            }
            self.host.tables.redirect(table.entry(), gfn, mfn);
        }
    }

    fn attach(&mut self, table: Detached<Panics>) {
        self.host.tick();
        self.host
            .tables
            .attach(table.region().start(), table.entry());
        table.ended();
    }

    fn conclude(
        &mut self,
        _: &mut Pending<Panics>,
        table: Detached<Panics>,
        mfn: Mfn,
        access: u8,
    ) -> Result<(), Errno> {
        self.host.tick();
        let (gfn, entry) = (table.region().start(), table.entry());

        self.host.tables.attach(gfn, entry);
        for i in 0..REGION_PAGES {
            assert_eq!(
                self.host.tables.translate(gfn.add(i)),
                Some((mfn.add(i), kind::RAM_RW, access)),
                "a leaf changes {:?}",
                gfn.add(i)
            );
        }
        if self.host.fails(Fallible::Conclude) {
            table.ended();
            return Err(Errno::Nomem);
        }
        self.host.unflushed = true;
        self.host.tables.detach(gfn);
        let new = New::Map(mfn, kind::RAM_RW, access);
        self.must("conclude", gfn, new, Order::REGION);
        self.host.tables.drop_detached(entry);
        self.host.effect(Effect {
            dropped_table: true,
            ..Effect::default()
        });
        table.ended();
        Ok(())
    }

    fn hide_page(&mut self, _: &mut Pending<Panics>, gfn: Gfn) {
        self.host.tick();
        self.fit(
            "hidden",
            gfn,
            Facts::all() - Facts::CREATED - Facts::HAP - Facts::HAP_2MB - Facts::HAP_1GB,
        );
        let mfn = self.host.mfn(gfn).expect("a page to hide");
        assert!(
            self.host.heap.at(mfn).is_frozen() || self.host.dying(),
            "{gfn:?} is hidden, and its frame is not frozen"
        );
        self.host.unflushed = true;
        self.must("hide", gfn, New::Absent(kind::MARK), Order::PAGE);
    }

    fn movable(&mut self, gfn: Gfn, mfn: Mfn) -> Result<(), Reason> {
        self.host.tick_at(mfn);
        let found = self.plain(gfn, mfn);
        self.host.tell(found.err().map(|reason| reason as u8));
        found
    }

    fn holder(&mut self, mfn: Mfn) -> Holder {
        if mfn.0 >= self.host.heap.len() {
            return Holder::Other;
        }
        let holder = match (
            self.host.heap.at(mfn).state,
            self.host.heap.m2p[mfn.0 as usize],
        ) {
            (State::Free, _) => Holder::Free,
            (State::Owned(Dom::Guest), Some(gfn)) => Holder::Own(gfn),
            _ => Holder::Other,
        };
        self.host.tell(match holder {
            Holder::Free => u64::MAX,
            Holder::Own(gfn) => gfn.0,
            Holder::Other => u64::MAX - 1,
        });
        holder
    }

    fn install(&mut self, _: &mut Pending<Panics>, gfn: Gfn, mfn: Mfn, order: Order, access: u8) {
        self.host.tick();
        self.nothing_is_lost("install", gfn, order);
        for i in 0..order.pages() {
            let at = gfn.add(i);
            let frame = *self.host.heap.at(mfn.add(i));
            let marked = self.host.tables.marks.contains(&at.0);
            let free = marked || self.host.is_hole(at) || self.host.mfn(at).is_some();

            assert!(free, "{at:?} is installed over something else");
            self.own_page("install", mfn.add(i));
            if frame.state == State::Owned(Dom::Guest) {
                self.host.heap.m2p[(mfn.0 + i) as usize] = Some(at);
            }
        }
        self.host.unflushed = true;
        let new = New::Map(mfn, kind::RAM_RW, access);
        self.must("install", gfn, new, order);
    }

    fn promote(
        &mut self,
        _: &mut Pending<Panics>,
        gfn: Gfn,
        mfn: Mfn,
        order: Order,
        access: u8,
    ) -> Result<(), Errno> {
        self.host.tick();
        if self.host.fails(Fallible::Promote) {
            return Err(Errno::Nomem);
        }
        assert!(gfn.is_aligned(order) && mfn.is_aligned(order) && order >= Order::REGION);
        let no = Facts::ALTP2M | Facts::NESTED | Facts::SHARING | Facts::LOG_DIRTY;
        for i in 0..Order::REGION.blocks_in(order.pages()) {
            self.fit("promoted", gfn.add(Order::REGION.pages_in(i)), no);
        }
        for i in 0..order.pages() {
            assert_eq!(
                self.host.tables.translate(gfn.add(i)),
                Some((mfn.add(i), kind::RAM_RW, access)),
                "a promotion changes {:?}",
                gfn.add(i)
            );
        }
        self.host.unflushed = true;
        self.must("promote", gfn, New::Map(mfn, kind::RAM_RW, access), order);
        Ok(())
    }

    fn assign(&mut self, mfn: Mfn, order: Order) -> Result<(), Reason> {
        self.host.tick();
        if self.host.fails(Fallible::Assign) {
            self.host.die();
        }
        let dying = self.host.dying();
        self.host.tell(dying);
        if dying {
            return Err(Reason::Dying);
        }
        for i in 0..order.pages() {
            self.host.heap.assign(mfn.add(i), Dom::Guest);
        }
        Ok(())
    }

    fn account_assigned(&mut self, pages: u64) {
        self.host.tick();
        assert!(self.host.dying(), "pages are counted twice");
        *self.host.heap.tot_mut(Dom::Guest) += pages as i64;
    }

    fn copy(&mut self, from: Mfn, to: Mfn) {
        self.host.tick_at(from);
        let source = *self.host.heap.at(from);

        // Or a page sits in a spare frame, where nobody has seen it yet.
        let parked = source.state == State::Anonymous && source.data == Data::Of(Dom::Guest);
        assert!(
            source.is_frozen() || parked,
            "{from:?} is copied, and is not frozen"
        );
        self.host.nobody_reaches(from, false);
        let target = self.host.heap.at_mut(to);
        assert!(
            target.state == State::Anonymous || target.is_frozen(),
            "{to:?} is overwritten, and is {target:?}"
        );
        target.content = source.content;
        target.data = source.data;
    }

    fn flush(&mut self, pending: Pending<Panics>) -> Flushed {
        self.host.tick();
        self.host.flush_guest();
        self.host.unflushed = false;
        pending.flushed()
    }

    fn ticks(&self) -> u64 {
        self.host.calls
    }

    fn ledger(&mut self) -> &mut impl Ledger {
        &mut self.host.book
    }
}
