// SPDX-License-Identifier: GPL-2.0-only
//! The background coalescer, one region at a time and the cheapest sufficient
//! act first: promote in place, complete, migrate, or leave it and say why.

use crate::account::{Account, Counter, Outcome, Reason};
use crate::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use crate::frames::{Frozen, List, Loss, Pair, Pending, Retired};
use crate::ledger::Ledger;
use crate::machine::{Block, Facts, Holder, Locked, Machine, Purpose};
use crate::plan::{self, Slots, Stock, can_make_room};
use crate::region::{State, gib_in_order, judge, unchanged};
use crate::trace::{Event, Record};
use zerocopy::{FromZeros, Immutable, KnownLayout};

/// How far the coalescer may go (`coalesce=` on Xen's command line, or
/// `XEN_DOMCTL_COALESCE_set_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all.
    Off,
    /// Only what needs no copy.
    InPlace,
    /// Everything.
    Full,
}

/// What is wrong with the whole domain, if anything: for any act.
fn unfit(facts: Facts) -> Option<Reason> {
    if facts.contains(Facts::DYING) {
        Some(Reason::Dying)
    } else if !facts.contains(Facts::HAP_2MB | Facts::CREATED) {
        Some(Reason::NotReady)
    } else if facts.contains(Facts::ALTP2M) {
        Some(Reason::Altp2m)
    } else if facts.contains(Facts::NESTED) {
        Some(Reason::Nested)
    } else if facts.contains(Facts::SHARING) {
        Some(Reason::Sharing)
    } else if facts.contains(Facts::LOG_DIRTY) {
        Some(Reason::LogDirty)
    } else {
        None
    }
}

/// The same for acts that move frames.
pub(crate) fn unmovable(facts: Facts) -> Option<Reason> {
    if facts.contains(Facts::IOMMU) {
        Some(Reason::Iommu)
    } else if facts.contains(Facts::POD) {
        Some(Reason::PopulateOnDemand)
    } else {
        unfit(facts)
    }
}

/// What an act may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far to go.
    pub mode: Mode,
    /// Pages that are copied in one lock hold: guests that touch the region wait
    /// so long. [`BATCH_MIN`] to [`BATCH_MAX`].
    pub batch: u64,
    /// What takes copies is deferred, if others wait ([`Ledger::defer`]).
    pub defer: bool,
}

/// Smallest batch (8 pages): each has its costs.
pub const BATCH_MIN: u64 = REGION_PAGES.div_ceil(64);

/// Largest batch: a region at once.
pub const BATCH_MAX: u64 = REGION_PAGES;

/// The batch unless somebody says otherwise.
pub const BATCH_DEFAULT: u64 = 128;

impl Limits {
    fn batch(&self) -> u64 {
        self.batch.clamp(BATCH_MIN, BATCH_MAX)
    }
}

/// A way to bring pages to where one leaf can map them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The block in which most of them lie, or in which those lie that cannot
    /// move, has room for the others, or can be made to have.
    Complete {
        /// That block.
        home: Mfn,
    },
    /// All of them, to a fresh block.
    Migrate {
        /// On the node of this frame.
        near: Mfn,
    },
}

/// What a look at a region, with the lock held, ended in.
enum Look {
    Done(Outcome),
    Go(Way),
}

/// Room for one act, about 42 KiB: it is memory and nothing else.
#[derive(Debug, FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scratch {
    /// For one batch.
    pub plan: plan::Scratch,
    /// The frames that the batches before it have left, if they may wait.
    left: List,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Empty.
    pub const fn new() -> Self {
        Scratch {
            plan: plan::Scratch::new(),
            left: List::new(),
        }
    }
}

/// An act that was begun: what it has of the heap, and what it has done. One that is
/// interrupted is kept, so that it goes on into the block in which it began, whoever
/// takes memory meanwhile.
#[derive(Debug)]
#[must_use = "frames that are dropped are lost to the machine"]
pub struct Act {
    region: Region,
    way: Way,
    stock: Stock,
    /// For a page that has to make room.
    spare: Option<Block>,
    sums: Sums,
}

impl Act {
    /// The region.
    pub fn region(&self) -> Region {
        self.region
    }

    /// The frame is the heap's, and was taken for this.
    pub fn holds(&self, mfn: Mfn) -> bool {
        let stock =
            mfn.align(Order::REGION) == self.stock.home() && self.stock.slots().has(mfn.slot());

        stock || self.spare.as_ref().is_some_and(|block| block.mfn() == mfn)
    }

    /// What was done stays; `free` gets what is left of the memory.
    pub fn abandon(self, mut free: impl FnMut(Block)) {
        self.stock.free(&mut free);
        if let Some(block) = self.spare {
            free(block);
        }
    }
}

/// Look at `region` and do for it what can be done; `now` in ms, as for the
/// ledger. Each lock hold is as long as the copy of a batch and a look at 512
/// entries.
///
/// `kept` is an act that was interrupted: if it was for this region it goes on, else it
/// is abandoned. If this one is interrupted, it is there afterwards.
pub fn heal<M: Machine>(
    machine: &mut M,
    scratch: &mut Scratch,
    kept: &mut Option<Act>,
    region: Region,
    limits: Limits,
    now: u64,
) -> Outcome {
    let Scratch {
        plan: scratch,
        left,
    } = scratch;
    let mut gib = false;
    let begun = kept.take().and_then(|act| {
        if act.region == region {
            return Some(act);
        }
        act.abandon(|block| machine.free(block));
        None
    });
    let look = {
        let since = machine.ticks();
        let mut locked = machine.lock();
        let look = look(&mut locked, scratch, region, begun.as_ref(), limits, now);
        if let Look::Done(outcome) = &look {
            gib = note(&mut locked, region, *outcome, now);
        }
        drop(locked);
        if let Look::Done(Outcome::Promoted) = look {
            let held = machine.ticks().wrapping_sub(since);
            machine.account().hold(held);
            let record = Record::new(0, 0, region.start(), None).held(held);
            machine.trace(Event::Promote, record);
        }
        look
    };
    let outcome = match look {
        Look::Done(outcome) => {
            if let Some(act) = begun {
                act.abandon(|block| machine.free(block));
            }
            outcome
        }
        Look::Go(way) => {
            let act = begun.map_or_else(|| begin(machine, region, way), Ok);
            let mut outcome = go(machine, scratch, left, kept, act, limits);
            if let Outcome::Refused(reason) = outcome {
                let other = second_way(&mut machine.lock(), scratch, region, way, reason);
                if let Some(way) = other {
                    let act = begin(machine, region, way);
                    outcome = go(machine, scratch, left, kept, act, limits);
                }
            }
            gib = note(&mut machine.lock(), region, outcome, now);
            outcome
        }
    };

    if let Outcome::Refused(reason) = outcome {
        let record = Record::new(0, reason as u8, region.start(), None);
        machine.trace(Event::Refuse, record);
    }
    if gib {
        machine.account().add(Counter::PromotedGib, 1);
    }
    machine.account().settle(outcome);
    outcome
}

/// Tell the ledger. `true`: the region was the last of its GiB, which is one leaf
/// now.
fn note<L: Locked>(locked: &mut L, region: Region, outcome: Outcome, now: u64) -> bool {
    match outcome {
        Outcome::Promoted | Outcome::Completed | Outcome::Migrated => {
            locked.ledger().healed(region);
            return promote_gib(locked, region.start().align(Order::GIB));
        }
        // What was done counts for nothing yet.
        Outcome::Refused(Reason::Interrupted) => locked.ledger().touch(region, now),
        // These go away without anything happening in the region's entries.
        Outcome::Refused(
            Reason::Pinned
            | Reason::TypePinned
            | Reason::NoMemory
            | Reason::Vanished
            | Reason::Recalc
            | Reason::PopulateOnDemand
            | Reason::LogDirty
            | Reason::Access
            | Reason::MemAccess
            | Reason::Cacheability,
        ) => locked.ledger().retry(region, now),
        Outcome::Refused(_) => {}
    }
    false
}

fn state<L: Locked>(locked: &mut L, scratch: &mut plan::Scratch, region: Region) -> State {
    if let Some(reason) = unfit(locked.facts()) {
        return State::Not(reason);
    }
    if locked.ledger().is_executed(region) {
        return State::Not(Reason::ExecSp);
    }
    let mut state = locked.view(region, |view| judge(region, view, scratch));
    if state == State::Not(Reason::Recalc) {
        locked.recalculate(region);
        state = locked.view(region, |view| judge(region, view, scratch));
    }
    let block = match state {
        State::InOrder { base } => Some(base),
        // Where it goes to is looked at when that is known.
        State::Astray => None,
        State::Not(_) => return state,
    };
    if locked.log_dirty_range(region) {
        State::Not(Reason::LogDirty)
    } else if locked.lookup(region.start()).access != locked.default_access() {
        State::Not(Reason::MemAccess)
    } else if block.is_some_and(|block| !one_type(locked, region, block)) {
        State::Not(Reason::Cacheability)
    } else {
        state
    }
}

/// One leaf that maps `block` would be cached as each of its pages is.
fn one_type<L: Locked>(locked: &mut L, region: Region, block: Mfn) -> bool {
    locked.one_memory_type(region.start(), block, Order::REGION)
}

/// The slots `which` of the region are what the last look listed, and it may be worked
/// on.
fn still<L: Locked>(locked: &mut L, list: &List, region: Region, which: &Slots) -> bool {
    unfit(locked.facts()).is_none()
        && locked.view(region, |view| unchanged(view, list, which))
        && !locked.log_dirty_range(region)
}

fn look<L: Locked>(
    locked: &mut L,
    scratch: &mut plan::Scratch,
    region: Region,
    begun: Option<&Act>,
    limits: Limits,
    now: u64,
) -> Look {
    let refused = |reason| Look::Done(Outcome::Refused(reason));

    if limits.mode == Mode::Off {
        return refused(Reason::Mode);
    }
    match state(locked, scratch, region) {
        State::Not(reason) => return refused(reason),
        State::InOrder { base } => return Look::Done(promote(locked, region, base)),
        State::Astray if limits.mode != Mode::Full => return refused(Reason::Mode),
        State::Astray => {}
    }
    if let Some(reason) = unmovable(locked.facts()) {
        return refused(reason);
    }
    if let Some(act) = begun {
        scratch.aim(act.stock.home());
        return Look::Go(act.way);
    }
    match way(locked, scratch, region) {
        Ok((_, cost)) if limits.defer && locked.ledger().defer(region, cost / COST_COPY, now) => {
            refused(Reason::Deferred)
        }
        Ok((way, _)) => Look::Go(way),
        Err(reason) => refused(reason),
    }
}

/// 512 entries say what one leaf would say: let one leaf say it. No frame
/// moves, so references, foreign mappings and the IOMMU do not matter.
fn promote<L: Locked>(locked: &mut L, region: Region, base: Mfn) -> Outcome {
    let access = locked.lookup(region.start()).access;
    let mut pending = Pending::new();
    let result = locked.promote(&mut pending, region.start(), base, Order::REGION, access);

    // Nobody frees a frame, but the walker may still be in the old table.
    let _ = locked.flush(pending);
    match result {
        Ok(()) => Outcome::Promoted,
        Err(_) => Outcome::Refused(Reason::NoMemory),
    }
}

/// The same a level higher: 512 leaves become one, if they happen to lie in order. What
/// was born so comes to lie so again; no frame is moved for it.
fn promote_gib<L: Locked>(locked: &mut L, gfn: Gfn) -> bool {
    let facts = locked.facts();
    // The tables of an IOMMU would be looked at page by page.
    if !facts.contains(Facts::HAP_1GB) || facts.intersects(Facts::IOMMU) || unfit(facts).is_some() {
        return false;
    }
    let Some(base) = locked.view_gib(gfn, gib_in_order) else {
        return false;
    };
    let access = locked.lookup(gfn).access;
    let tracked = (gfn.region().0..u64::MAX)
        .take(REGION_PAGES as usize)
        .any(|region| locked.log_dirty_range(Region(region)));
    if tracked
        || access != locked.default_access()
        || !locked.one_memory_type(gfn, base, Order::GIB)
    {
        return false;
    }
    let mut pending = Pending::new();
    let result = locked.promote(&mut pending, gfn, base, Order::GIB, access);

    let _ = locked.flush(pending);
    result.is_ok()
}

// Costs in eighths of the copy of a page, as they were measured (`coalesce-bench`).

/// To copy one.
const COST_COPY: u64 = 8;
/// To take one page from the heap by its number, and copy.
const COST_FREE: u64 = 10;
/// To copy, where the place holds a page of the same region: its turn comes.
const COST_OWN: u64 = 9;
/// Where a page of another region has to make room: two copies.
const COST_OTHER_REGION: u64 = 19;
/// To migrate all: one allocation, but a 2 MiB block less in the heap.
const COST_MIGRATE: u64 = REGION_PAGES * 9;

/// What it costs to bring the pages that [`judge`] has just listed to their
/// places in the block that is aimed at; or why it cannot be done. More than
/// `limit` is not looked into.
fn cost_to_complete<L: Locked>(
    locked: &mut L,
    scratch: &plan::Scratch,
    region: Region,
    limit: u64,
) -> Result<u64, Reason> {
    let home = scratch.home();
    if !one_type(locked, region, home) {
        return Err(Reason::Cacheability);
    }
    // What the pages that were not looked at yet will cost at least.
    let mut rest = scratch.astray().count().saturating_mul(COST_OWN);

    scratch.astray().iter().try_fold(0u64, |cost, slot| {
        if cost.saturating_add(rest) > limit {
            return Err(Reason::NoMemory);
        }
        rest = rest.saturating_sub(COST_OWN);
        let frame = home.add(slot);
        let more = match locked.holder(frame) {
            Holder::Free => COST_FREE,
            Holder::Own(gfn) if gfn.region() == region => COST_OWN,
            Holder::Own(gfn) if can_make_room(locked, gfn, frame, None) => {
                locked.movable(gfn, frame)?;
                COST_OTHER_REGION
            }
            _ => return Err(Reason::NoMemory),
        };
        locked.movable(region.start().add(slot), scratch.frame(slot))?;
        Ok(cost.saturating_add(more))
    })
}

/// The way that costs least, and what it costs. Nothing is begun that a page that
/// cannot move would end, as far as can be told now.
fn way<L: Locked>(
    locked: &mut L,
    scratch: &mut plan::Scratch,
    region: Region,
) -> Result<(Way, u64), Reason> {
    let near = scratch.home();

    if let Ok(cost) = cost_to_complete(locked, scratch, region, COST_MIGRATE) {
        return Ok((Way::Complete { home: near }, cost));
    }
    // Or where an act has brought some that could not be ended.
    let in_place = |pair: &Pair| pair.mfn().slot() == pair.gfn().slot();
    if let Some((home, cost)) = cheapest(locked, scratch, region, COST_MIGRATE, in_place) {
        return Ok((Way::Complete { home }, cost));
    }
    match anchor(locked, &scratch.pages)? {
        None => Ok((Way::Migrate { near }, COST_MIGRATE)),
        Some((home, reason)) => {
            scratch.aim(home);
            match cost_to_complete(locked, scratch, region, u64::MAX) {
                Ok(cost) => Ok((Way::Complete { home }, cost)),
                Err(_) => Err(reason),
            }
        }
    }
}

/// The block that pages which cannot move lie in, in their places; `None` if all
/// can. An error if they lie elsewhere, or here and there. The reason is that of
/// the first.
fn anchor<L: Locked>(locked: &mut L, list: &List) -> Result<Option<(Mfn, Reason)>, Reason> {
    let mut anchor = None;
    let mut rest = list.as_slice();

    while let Some((pair, others)) = rest
        .get(locked.movable_pages(rest) as usize..)
        .and_then(<[_]>::split_first)
    {
        // (Or it has become so meanwhile.)
        if let Err(reason) = locked.movable(pair.gfn(), pair.mfn()) {
            let block = pair.mfn().align(Order::REGION);
            let (home, reason) = *anchor.get_or_insert((block, reason));
            if home != block || pair.mfn().slot() != pair.gfn().slot() {
                return Err(reason);
            }
        }
        rest = others;
    }
    Ok(anchor)
}

/// The first way failed for `reason`, which may have to do with what is in that
/// way only: is there another?
fn second_way<L: Locked>(
    locked: &mut L,
    scratch: &mut plan::Scratch,
    region: Region,
    first: Way,
    reason: Reason,
) -> Option<Way> {
    if !matches!(
        reason,
        Reason::Pinned | Reason::TypePinned | Reason::Special | Reason::NoMemory
    ) || unmovable(locked.facts()).is_some()
    {
        return None;
    }
    if state(locked, scratch, region) != State::Astray {
        return None;
    }
    let home = scratch.home();
    let second = match first {
        // There was no block: what the first look found too dear may do.
        Way::Migrate { .. } if reason == Reason::NoMemory => Way::Complete {
            home: make_block(locked, scratch, region)?,
        },
        // What was to be free, or to make room, was not.
        Way::Complete { .. } if reason == Reason::NoMemory => {
            anchor(locked, &scratch.pages)
                .ok()?
                .is_none()
                .then_some(())?;
            Way::Migrate { near: home }
        }
        _ => way(locked, scratch, region).ok()?.0,
    };
    (second != first).then_some(second)
}

/// How many blocks [`cheapest`] looks into.
const BLOCKS_TRIED: usize = 4;

/// No block is free. One in which pages of the region lie already, and besides them
/// nothing but free pages and pages of this domain that can make room, is as
/// good.
fn make_block<L: Locked>(
    locked: &mut L,
    scratch: &mut plan::Scratch,
    region: Region,
) -> Option<Mfn> {
    let home = scratch.home();
    let cost = cost_to_complete(locked, scratch, region, u64::MAX);
    let limit = cost.unwrap_or(u64::MAX);
    let other = cheapest(locked, scratch, region, limit, |_| true);

    match other {
        Some((other, _)) => Some(other),
        None => cost.ok().map(|_| home),
    }
}

/// Of the first few blocks in which there are `such` pages, besides the one that is
/// aimed at: the one to complete which costs least, and less than `limit`.
fn cheapest<L: Locked>(
    locked: &mut L,
    scratch: &mut plan::Scratch,
    region: Region,
    limit: u64,
    such: impl Fn(&Pair) -> bool,
) -> Option<(Mfn, u64)> {
    let mut tried = [scratch.home(); BLOCKS_TRIED];
    let mut best = None;
    let mut limit = limit;
    let mut slot = 0;

    for i in 1..BLOCKS_TRIED {
        // The next page that lies in one that was not looked into.
        let pages = scratch.pages.as_slice().get(slot..).unwrap_or(&[]);
        let found = (slot..)
            .zip(pages)
            .filter(|(_, pair)| such(pair))
            .map(|(at, pair)| (at, pair.mfn().align(Order::REGION)))
            .find(|(_, block)| !tried.contains(block));
        let Some((at, block)) = found else {
            break;
        };
        slot = at.wrapping_add(1);
        if let Some(place) = tried.get_mut(i) {
            *place = block;
        }
        scratch.aim(block);
        if let Ok(cost) = cost_to_complete(locked, scratch, region, limit) {
            if cost < limit {
                (best, limit) = (Some((block, cost)), cost);
            }
        }
    }
    best
}

/// What one lock hold has done.
enum Batch<'l, X: Loss> {
    /// Pages were moved; `whole` says that the region is whole now.
    Moved {
        retired: Retired<'l, X>,
        whole: bool,
    },
    /// It had come to lie in order, and was promoted.
    Promoted,
    /// Nothing was changed.
    Not(Reason),
}

/// Sums over the batches of one act, since it was begun or went on.
#[derive(Debug, Default)]
struct Sums {
    copied: u64,
    astray: u64,
    longest: u64,
}

/// Get what it takes to go one way.
fn begin<M: Machine>(machine: &mut M, region: Region, way: Way) -> Result<Act, Reason> {
    let stock = match way {
        Way::Complete { home } => Stock::none(home),
        Way::Migrate { near } => match machine.alloc(Order::REGION, Purpose::Overwrite(near)) {
            Some(block) if !one_type(&mut machine.lock(), region, block.mfn()) => {
                machine.free(block);
                return Err(Reason::Cacheability);
            }
            Some(block) => Stock::all(block),
            None => return Err(Reason::NoMemory),
        },
    };
    Ok(Act {
        region,
        way,
        stock,
        spare: None,
        sums: Sums::default(),
    })
}

/// Carry out `act` to the end, batch by batch. After each, what was moved is the
/// domain's like any other page, and the rest may wait for another time: then the
/// act is put into `kept`. In `left` is room for the frames that they leave.
fn go<M: Machine>(
    machine: &mut M,
    scratch: &mut plan::Scratch,
    left: &mut List,
    kept: &mut Option<Act>,
    act: Result<Act, Reason>,
    limits: Limits,
) -> Outcome {
    let mut act = match act {
        Ok(act) => act,
        Err(reason) => return Outcome::Refused(reason),
    };
    let (region, home) = (act.region, act.stock.home());
    let done = match act.way {
        Way::Complete { .. } => Outcome::Completed,
        Way::Migrate { .. } => Outcome::Migrated,
    };
    if Slots::ALL.without(act.stock.slots()).is_empty() {
        scratch.aim_at_free(home);
    } else if scratch.home() != home {
        scratch.aim(home);
    }
    act.sums = Sums::default();
    let mut outcome = Outcome::Refused(Reason::Vanished);
    let mut left = Retired::none(left);

    // Each batch that does anything puts a page in its place, so this is enough;
    // who interferes for so long is left alone.
    for _ in 0..REGION_PAGES {
        act.stock_up(machine, scratch, limits.batch());
        match step(machine, scratch, &mut act, limits.batch()) {
            Batch::Moved { retired, whole } => {
                match act.way {
                    // One of them may be the place of a page of the next batch.
                    Way::Complete { .. } => retired.free(machine, Order::PAGE),
                    // All together they cost the heap less.
                    Way::Migrate { .. } => left.join(machine, retired),
                }
                if whole {
                    outcome = done;
                    break;
                }
            }
            Batch::Promoted => {
                outcome = if act.sums.copied > 0 {
                    done
                } else {
                    Outcome::Promoted
                };
                break;
            }
            Batch::Not(reason) => {
                outcome = Outcome::Refused(reason);
                break;
            }
        }
        if machine.interrupted() {
            outcome = Outcome::Refused(Reason::Interrupted);
            break;
        }
    }
    left.free(machine, Order::PAGE);
    let (copied, astray, longest) = (act.sums.copied, act.sums.astray, act.sums.longest);

    if outcome == Outcome::Refused(Reason::Interrupted) {
        // All of it that is free: nobody is to have it meanwhile.
        act.stock.fetch(machine, scratch.astray());
        *kept = Some(act);
    } else {
        act.abandon(|block| machine.free(block));
    }
    machine.account().add(Counter::PagesCopied, copied);
    let event = match outcome {
        Outcome::Promoted => Some(Event::Promote),
        Outcome::Completed => Some(Event::Complete),
        Outcome::Migrated => Some(Event::Migrate),
        Outcome::Refused(_) => None,
    };
    if let Some(event) = event {
        let to = (event != Event::Promote).then_some(home);
        let record = Record::new(0, 0, region.start(), to)
            .pages(copied, astray)
            .held(longest);
        machine.trace(event, record);
    }
    outcome
}

impl Act {
    /// Take the frames from the heap that the next batch may need. Those that are
    /// not there are held by pages that have to make room, for which one spare
    /// frame is enough. It comes from elsewhere: whatever is free in the block is
    /// taken first, or it might be some page's place.
    fn stock_up<M: Machine>(&mut self, machine: &mut M, scratch: &plan::Scratch, batch: u64) {
        let wanted = scratch.astray().lowest(batch);

        if !self.stock.fetch(machine, wanted) && self.spare.is_none() {
            self.stock.fetch(machine, scratch.astray());
            self.spare = machine.alloc(Order::PAGE, Purpose::Overwrite(self.stock.home()));
        }
    }
}

/// Whose entries the next batch has to do with: those of the pages that move, if all of them
/// go to places that are ours; and all of them before they become one leaf.
#[inline(never)]
fn concerned(scratch: &plan::Scratch, stock: &Stock, most: u64) -> Slots {
    let next = scratch.astray().lowest(most);
    let last = scratch.astray().without(next).is_empty();

    if last || !next.without(stock.slots()).is_empty() {
        Slots::ALL
    } else {
        next
    }
}

/// One batch of up to so many copies.
fn step<'l, M: Machine>(
    machine: &mut M,
    scratch: &'l mut plan::Scratch,
    act: &mut Act,
    most: u64,
) -> Batch<'l, M::Loss> {
    let since = machine.ticks();
    let (batch, copying) = {
        let mut locked = machine.lock();
        batch(&mut locked, scratch, act, most)
    };
    let held = machine.ticks().wrapping_sub(since);

    machine.account().hold(held);
    machine.account().add(Counter::CopyTicks, copying);
    act.sums.longest = act.sums.longest.max(held);
    batch
}

/// What is done under the lock; and how long it took to copy. (Not inlined, to keep
/// the stack frames small.)
#[inline(never)]
fn batch<'l, L: Locked>(
    locked: &mut L,
    scratch: &'l mut plan::Scratch,
    act: &mut Act,
    most: u64,
) -> (Batch<'l, L::Loss>, u64) {
    let not = |reason| (Batch::Not(reason), 0);
    let Act {
        region,
        stock,
        spare,
        sums,
        ..
    } = act;
    let region = *region;

    // Everything is judged again: the lock was dropped for the allocations.
    if let Some(reason) = unmovable(locked.facts()) {
        return not(reason);
    }
    let which = concerned(scratch, stock, most);
    if !still(locked, &scratch.pages, region, &which) {
        match state(locked, scratch, region) {
            State::Not(reason) => return not(reason),
            State::InOrder { base } => {
                return match promote(locked, region, base) {
                    Outcome::Promoted => (Batch::Promoted, 0),
                    _ => not(Reason::NoMemory),
                };
            }
            State::Astray => {}
        }
        scratch.aim(stock.home());
    }
    let home = stock.home();
    let access = locked.lookup(region.start()).access;
    let spare_mfn = spare.as_ref().map(Block::mfn);
    if sums.copied == 0 {
        sums.astray = scratch.astray().count();
    }
    let plan = scratch.plan(locked, region, stock, spare_mfn, access, most);
    let copies = scratch.copies(&plan);
    if copies == 0 {
        return not(Reason::NoMemory);
    }

    let in_order = scratch.astray().is_empty();
    let pages = &scratch.pages;
    let mut frozen = match Frozen::freeze_all(locked, &mut scratch.frozen) {
        Ok(frozen) => frozen,
        Err(reason) => return not(reason),
    };
    let mut pending = Pending::new();
    let Some(table) = locked.detach(&mut pending, region) else {
        pending.unused();
        frozen.thaw(locked);
        return not(Reason::Vanished);
    };
    for pair in scratch.evicted.as_slice() {
        locked.hide_page(&mut pending, pair.gfn());
    }
    let flushed = locked.flush(pending);

    // From here on no processor can read or write these pages.
    let since = locked.ticks();
    if plan.straight {
        locked.copy_to_places(frozen.pairs(), home);
    } else {
        for (from, to) in scratch.moves.iter() {
            locked.copy(from, to);
        }
    }
    let copying = locked.ticks().wrapping_sub(since);

    let mut pending = Pending::new();
    let assigned = stock.assign(locked, plan.used).and_then(|()| {
        let block = spare.take_if(|_| plan.spare_used);
        match block {
            Some(block) if locked.assign(block.mfn(), Order::PAGE).is_err() => {
                *spare = Some(block);
                Err(plan.used.count())
            }
            Some(block) => {
                block.given();
                Ok(())
            }
            None => Ok(()),
        }
    });
    if let Err(assigned) = assigned {
        // Dying: its memory is read by nobody any more, only counted. What was
        // assigned already is on its page list, for the teardown to free.
        locked.account_assigned(assigned);
        locked.attach(table);
        for pair in scratch.evicted.as_slice() {
            locked.zap(&mut pending, pair.gfn(), Order::PAGE);
        }
        let _ = locked.flush(pending);
        frozen.thaw(locked);
        return (Batch::Not(Reason::Dying), copying);
    }

    if !plan.kept.is_empty() {
        frozen.thaw_some(locked, |index| plan.kept.has(index));
    }
    locked.clear_m2p(frozen.pairs());
    locked.redirect(&table, pages.as_slice(), &plan.touched);
    for pair in scratch.evicted.as_slice() {
        locked.install(&mut pending, pair.gfn(), pair.mfn(), Order::PAGE, access);
    }
    let whole = if in_order {
        locked.conclude(&mut pending, table, home, access).is_ok()
    } else {
        locked.attach(table);
        false
    };
    let _ = locked.flush(pending);
    sums.copied = sums.copied.wrapping_add(copies);

    let retired = frozen.retire(&flushed);
    (Batch::Moved { retired, whole }, copying)
}

/// The law of [`crate::account`]; checked by debug builds when nothing is
/// being worked on.
pub fn books_balance(account: &Account) -> bool {
    let refused = (0..Reason::COUNT)
        .map(|r| account.get(crate::account::REASON_BASE.wrapping_add(r)))
        .fold(0u64, u64::wrapping_add);

    account.count(Counter::LookedAt)
        == account
            .count(Counter::Promoted)
            .wrapping_add(account.count(Counter::Completed))
            .wrapping_add(account.count(Counter::Migrated))
            .wrapping_add(refused)
}
