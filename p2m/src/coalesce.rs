// SPDX-License-Identifier: GPL-2.0-only
//! The background coalescer, one region at a time and the cheapest sufficient
//! act first: promote in place, complete, migrate, or leave it and say why.

use crate::account::{Account, Counter, Outcome, Reason};
use crate::addr::{Mfn, Order, REGION_PAGES, Region};
use crate::frames::{Frozen, List, Loss, Pending, Retired};
use crate::ledger::Ledger;
use crate::machine::{Block, Facts, Locked, Machine, Purpose};
use crate::region::{State, judge};
use crate::trace::{Event, Record};

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
fn unmovable(facts: Facts) -> Option<Reason> {
    if facts.contains(Facts::IOMMU) {
        Some(Reason::Iommu)
    } else if facts.contains(Facts::POD) {
        Some(Reason::PopulateOnDemand)
    } else {
        unfit(facts)
    }
}

/// What a look at a region, with the lock held, ended in.
enum Look {
    Done(Outcome),
    /// It could be completed, if all the frames that it lacks in this block are
    /// free, or migrated to near it.
    Complete(Mfn),
    /// It could be migrated; its frames come mostly from near this one.
    Migrate(Mfn),
}

/// Look at `region`, which the ledger has just handed out, and do for it what
/// can be done; `now` in ms, as for the ledger. At most two lock holds, the
/// second as long as the copy of 2 MiB.
pub fn heal<M: Machine>(
    machine: &mut M,
    list: &mut List,
    region: Region,
    mode: Mode,
    now: u64,
) -> Outcome {
    let look = {
        let since = machine.ticks();
        let mut locked = machine.lock();
        let look = look(&mut locked, list, region, mode);
        if let Look::Done(outcome) = &look {
            note(&mut locked, region, *outcome, now);
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
        Look::Done(outcome) => outcome,
        Look::Complete(home) => match complete(machine, list, region, home) {
            Some(outcome) => outcome,
            None => fetch_block_and_migrate(machine, list, region, home),
        },
        Look::Migrate(near) => fetch_block_and_migrate(machine, list, region, near),
    };
    if !matches!(look, Look::Done(_)) {
        note(&mut machine.lock(), region, outcome, now);
    }

    if let Outcome::Refused(reason) = outcome {
        let record = Record::new(0, reason as u8, region.start(), None);
        machine.trace(Event::Refuse, record);
    }
    machine.account().settle(outcome);
    outcome
}

fn fetch_block_and_migrate<M: Machine>(
    machine: &mut M,
    list: &mut List,
    region: Region,
    near: Mfn,
) -> Outcome {
    match machine.alloc(Order::REGION, Purpose::Overwrite(near)) {
        None => Outcome::Refused(Reason::NoMemory),
        Some(block) => migrate(machine, list, region, block),
    }
}

/// Tell the ledger.
fn note<L: Locked>(locked: &mut L, region: Region, outcome: Outcome, now: u64) {
    match outcome {
        Outcome::Promoted | Outcome::Completed | Outcome::Migrated => {
            locked.ledger().healed(region)
        }
        // These go away without anything happening in the region's entries.
        Outcome::Refused(
            Reason::Pinned
            | Reason::NoMemory
            | Reason::Vanished
            | Reason::Recalc
            | Reason::PopulateOnDemand
            | Reason::LogDirty,
        ) => locked.ledger().retry(region, now),
        Outcome::Refused(_) => {}
    }
}

fn state<L: Locked>(locked: &mut L, list: &mut List, region: Region) -> State {
    if let Some(reason) = unfit(locked.facts()) {
        return State::Not(reason);
    }
    let mut state = locked.view(region, |view| judge(region, view, list));
    if state == State::Not(Reason::Recalc) {
        locked.recalculate(region);
        state = locked.view(region, |view| judge(region, view, list));
    }
    if matches!(state, State::InOrder { .. } | State::Astray { .. })
        && locked.log_dirty_range(region)
    {
        return State::Not(Reason::LogDirty);
    }
    state
}

fn look<L: Locked>(locked: &mut L, list: &mut List, region: Region, mode: Mode) -> Look {
    if mode == Mode::Off {
        return Look::Done(Outcome::Refused(Reason::Mode));
    }
    match state(locked, list, region) {
        State::Not(reason) => Look::Done(Outcome::Refused(reason)),
        State::InOrder { base } => Look::Done(promote(locked, region, base)),
        State::Astray { .. } if mode != Mode::Full => Look::Done(Outcome::Refused(Reason::Mode)),
        State::Astray { home, astray } => match unmovable(locked.facts()) {
            Some(reason) => Look::Done(Outcome::Refused(reason)),
            None if astray <= COMPLETE_MAX => Look::Complete(home),
            None => Look::Migrate(home),
        },
    }
}

/// 512 entries say what one leaf would say: let one leaf say it. No frame
/// moves, so references, foreign mappings and the IOMMU do not matter.
fn promote<L: Locked>(locked: &mut L, region: Region, base: Mfn) -> Outcome {
    let access = locked.lookup(region.start()).access;
    let mut pending = Pending::new();
    let result = locked.promote(&mut pending, region.start(), base, access);

    // Nobody frees a frame, but the walker may still be in the old table.
    let _ = locked.flush(pending);
    match result {
        Ok(()) => Outcome::Promoted,
        Err(_) => Outcome::Refused(Reason::NoMemory),
    }
}

/// Most pages that are worth fetching one by one: each costs an allocation
/// besides its copy, but no free 2 MiB block.
const COMPLETE_MAX: u64 = REGION_PAGES / 2;

/// A set of slots of one region.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Slots([u64; 8]);

impl Slots {
    fn of(list: &List) -> Self {
        let mut slots = Slots::default();

        for pair in list.as_slice() {
            let slot = pair.gfn().slot();
            if let Some(word) = slots.0.get_mut((slot / 64) as usize) {
                *word |= 1u64.wrapping_shl((slot % 64) as u32);
            }
        }
        slots
    }

    fn iter(self) -> impl Iterator<Item = u64> {
        (0..REGION_PAGES).filter(move |slot| {
            self.0
                .get((slot / 64) as usize)
                .is_some_and(|word| word.wrapping_shr((slot % 64) as u32) & 1 != 0)
        })
    }
}

/// Give back the frames of `home` at `slots`, but for the first `keep`.
fn release<M: Machine>(machine: &mut M, home: Mfn, slots: Slots, keep: u64, end: u64) {
    for (i, slot) in (0..REGION_PAGES).zip(slots.iter()) {
        if (keep..end).contains(&i) {
            machine.free(Block::from_allocator(home.add(slot), Order::PAGE));
        }
    }
}

/// Most pages of `region` lie in their places in `home`: take the free frames
/// at the places of the others, and copy only those. Pages that lie right may be
/// pinned. `list` holds the region's pairs from the look before. `None`: one
/// of the frames is not free, so this cannot be done.
fn complete<M: Machine>(
    machine: &mut M,
    list: &mut List,
    region: Region,
    home: Mfn,
) -> Option<Outcome> {
    list.retain(|pair| pair.mfn() != home.add(pair.gfn().slot()));
    let slots = Slots::of(list);
    let mut taken = 0;

    for slot in slots.iter() {
        let frame = home.add(slot);
        match machine.alloc_at(frame, Purpose::Overwrite(frame)) {
            Some(block) => block.given(),
            None => {
                release(machine, home, slots, 0, taken);
                return None;
            }
        }
        taken = u64::wrapping_add(taken, 1);
    }

    let since = machine.ticks();
    let filled = fill(&mut machine.lock(), list, region, home, slots);
    let held = machine.ticks().wrapping_sub(since);

    machine.account().hold(held);
    Some(match filled {
        Ok(retired) => {
            retired.free(machine, Order::PAGE);
            machine.account().add(Counter::PagesCopied, taken);
            let record = Record::new(0, 0, region.start(), Some(home))
                .pages(taken, taken)
                .held(held);
            machine.trace(Event::Complete, record);
            Outcome::Completed
        }
        Err(Unfilled { reason, assigned }) => {
            release(machine, home, slots, assigned, taken);
            Outcome::Refused(reason)
        }
    })
}

struct Unfilled {
    reason: Reason,
    /// Frames that belong to the (dying) domain all the same.
    assigned: u64,
}

/// What [`complete`] does under the lock.
fn fill<'l, L: Locked>(
    locked: &mut L,
    list: &'l mut List,
    region: Region,
    home: Mfn,
    slots: Slots,
) -> Result<Retired<'l, L::Loss>, Unfilled> {
    let gfn = region.start();
    let not = |reason| Unfilled {
        reason,
        assigned: 0,
    };

    // Everything is judged again: the lock was dropped for the allocation.
    if let Some(reason) = unmovable(locked.facts()) {
        return Err(not(reason));
    }
    match state(locked, list, region) {
        State::Not(reason) => return Err(not(reason)),
        State::Astray { home: now, .. } if now == home => {
            list.retain(|pair| pair.mfn() != home.add(pair.gfn().slot()));
        }
        _ => return Err(not(Reason::Vanished)),
    }
    if Slots::of(list) != slots {
        return Err(not(Reason::Vanished));
    }
    let access = locked.lookup(gfn).access;

    let frozen = Frozen::freeze_all(locked, list).map_err(not)?;
    let mut pending = Pending::new();
    if locked.hide(&mut pending, gfn).is_err() {
        pending.unused();
        frozen.thaw(locked);
        return Err(not(Reason::NoMemory));
    }
    let flushed = locked.flush(pending);

    for pair in frozen.pairs() {
        locked.copy(pair.mfn(), home.add(pair.gfn().slot()));
    }
    let mut pending = Pending::new();
    for (assigned, pair) in (0..REGION_PAGES).zip(frozen.pairs()) {
        if locked
            .assign(home.add(pair.gfn().slot()), Order::PAGE)
            .is_err()
        {
            locked.account_assigned(assigned);
            locked.zap(&mut pending, gfn, Order::REGION);
            let _ = locked.flush(pending);
            frozen.thaw(locked);
            return Err(Unfilled {
                reason: Reason::Dying,
                assigned,
            });
        }
    }
    for pair in frozen.pairs() {
        locked.set_m2p(pair.mfn(), None);
    }
    locked.install(&mut pending, gfn, home, Order::REGION, access);
    let _ = locked.flush(pending);

    Ok(frozen.retire(&flushed))
}

/// How a migration ended under the lock.
enum Moved<'l, X: Loss> {
    /// The block is in place; these frames are free now.
    Done(Retired<'l, X>, u64),
    /// Nothing was changed; here is the block.
    Not(Block, Reason),
    /// On a second look it had come to lie in order, and was promoted.
    Promoted(Block),
}

/// Move all pages of `region` to `block`.
fn migrate<M: Machine>(machine: &mut M, list: &mut List, region: Region, block: Block) -> Outcome {
    let to = block.mfn();
    let since = machine.ticks();
    let moved = replace(&mut machine.lock(), list, region, block);
    let held = machine.ticks().wrapping_sub(since);

    machine.account().hold(held);
    match moved {
        Moved::Done(retired, astray) => {
            retired.free(machine, Order::PAGE);
            machine.account().add(Counter::PagesCopied, REGION_PAGES);
            let record = Record::new(0, 0, region.start(), Some(to))
                .pages(REGION_PAGES, astray)
                .held(held);
            machine.trace(Event::Migrate, record);
            Outcome::Migrated
        }
        Moved::Promoted(block) => {
            machine.free(block);
            let record = Record::new(0, 0, region.start(), None).held(held);
            machine.trace(Event::Promote, record);
            Outcome::Promoted
        }
        Moved::Not(block, reason) => {
            machine.free(block);
            Outcome::Refused(reason)
        }
    }
}

fn replace<'l, L: Locked>(
    locked: &mut L,
    list: &'l mut List,
    region: Region,
    block: Block,
) -> Moved<'l, L::Loss> {
    let gfn = region.start();

    // Everything is judged again: the lock was dropped for the allocation.
    if let Some(reason) = unmovable(locked.facts()) {
        return Moved::Not(block, reason);
    }
    let astray = match state(locked, list, region) {
        State::Not(reason) => return Moved::Not(block, reason),
        State::InOrder { base } => {
            return match promote(locked, region, base) {
                Outcome::Promoted => Moved::Promoted(block),
                _ => Moved::Not(block, Reason::NoMemory),
            };
        }
        State::Astray { astray, .. } => astray,
    };
    let access = locked.lookup(gfn).access;

    let frozen = match Frozen::freeze_all(locked, list) {
        Ok(frozen) => frozen,
        Err(reason) => return Moved::Not(block, reason),
    };
    let mut pending = Pending::new();
    if locked.hide(&mut pending, gfn).is_err() {
        pending.unused();
        frozen.thaw(locked);
        return Moved::Not(block, Reason::NoMemory);
    }
    let flushed = locked.flush(pending);

    // From here on no processor can read or write the region.
    for pair in frozen.pairs() {
        locked.copy(pair.mfn(), block.mfn().add(pair.gfn().slot()));
    }

    let mut pending = Pending::new();
    if locked.assign(block.mfn(), Order::REGION).is_err() {
        // Dying: its memory is read by nobody any more, only counted.
        locked.zap(&mut pending, gfn, Order::REGION);
        let _ = locked.flush(pending);
        frozen.thaw(locked);
        return Moved::Not(block, Reason::Dying);
    }
    for pair in frozen.pairs() {
        locked.set_m2p(pair.mfn(), None);
    }
    locked.install(&mut pending, gfn, block.mfn(), Order::REGION, access);
    let _ = locked.flush(pending);
    block.given();

    Moved::Done(frozen.retire(&flushed), astray)
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
