// SPDX-License-Identifier: GPL-2.0-only
//! Making a free block of 2 MiB of one that is nearly free ([`p2m::room`]), for a
//! domain that waits for one: which frames there are, and whose they are.

use core::sync::atomic::{AtomicU64, Ordering};

use p2m::account::Counter;
use p2m::addr::{Mfn, Order, REGION_PAGES};
use p2m::coalesce::Mode;
use p2m::machine::Machine;
use p2m::plan::{Scratch, Slots, Stock};
use p2m::room::{Tenant, cheapest, vacate};

use crate::domain::{State, XenDomain, free, page, state, tenant, tunables};
use crate::ffi::{self, Domain};
use crate::worker::RcuDomain;

/// Most blocks that one search looks into: half a GiB.
const SEARCH: u64 = 256;

/// The block with which the next search begins.
static CURSOR: AtomicU64 = AtomicU64::new(0);

/// The block that could not be emptied the last time.
static SPOILT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Pages of this domain may be moved.
fn is_movable(owner: &RcuDomain) -> bool {
    state(owner.get()).is_some_and(|state| state.mode() == Mode::Full)
}

/// The domain that owns a frame, if its pages may be moved.
fn owner(mfn: Mfn) -> Option<RcuDomain> {
    RcuDomain::owner(page(mfn)?).filter(is_movable)
}

/// A nearly free block, and how many pages have to leave it.
fn search(limit: u64) -> Option<(Mfn, u64)> {
    let blocks = Order::REGION.blocks_in(ffi::xrs_page_end());
    let first = CURSOR.load(Ordering::Relaxed);
    // Of whom was asked last, and what was said: for comparison only.
    let mut last = (core::ptr::null::<Domain>(), false);

    let number = |i| first.wrapping_add(i).checked_rem(blocks);
    let spoilt = SPOILT.load(Ordering::Relaxed);
    let some = (0..blocks.min(SEARCH))
        .filter_map(number)
        .filter(|block| *block != spoilt)
        .map(|block| Mfn(Order::REGION.pages_in(block)));
    let found = cheapest(some, limit, |mfn| {
        let (what, who) = tenant(mfn);
        if what == Tenant::Movable && who != last.0 {
            last = (who, owner(mfn).is_some());
        }
        match what {
            Tenant::Movable if !last.1 => Tenant::Stuck,
            what => what,
        }
    });
    CURSOR.store(number(SEARCH).unwrap_or(0), Ordering::Relaxed);
    found
}

/// Have pages, of whichever domains, leave a nearly free block, if the operator allows
/// that and one is found; up to the time `stop` (µs). `true`: it is free. The
/// domain for which it is done is `d`.
#[inline(never)]
pub fn make_room(d: &Domain, asks: &State, scratch: &mut Scratch, stop: u64) -> bool {
    let tunables = tunables();
    let limit = tunables.room_pages;
    let wanted = REGION_PAGES.wrapping_add(limit);

    // Else it is the watermark that is in the way, not that no block is free.
    if limit == 0 || !tunables.may_take(wanted, ffi::xrs_heap_available()) {
        return false;
    }
    let Some((block, _)) = search(limit) else {
        return false;
    };
    let mut machine = XenDomain::in_background(d, stop);
    let mut stock = Stock::none(block);
    let mut moved = 0u64;

    // One domain after the other, and never two locks at once. What has left the block
    // by the time that the CPU is wanted need not leave it again.
    while !stock.fetch(&mut machine, Slots::ALL) {
        let held = Slots::ALL.without(stock.slots());
        let Some(tenant) = held.first().and_then(|slot| owner(block.add(slot))) else {
            break;
        };
        let left = limit.saturating_sub(moved);
        let mut theirs = XenDomain::in_background(tenant.get(), stop);
        match vacate(&mut theirs, scratch, &mut stock, tunables.batch, left) {
            0 => break,
            pages => moved = moved.wrapping_add(pages),
        }
        if machine.interrupted() {
            break;
        }
    }
    let made = stock.fetch(&mut machine, Slots::ALL);
    let spoilt = if made || machine.interrupted() {
        u64::MAX
    } else {
        Order::REGION.blocks_in(block.0)
    };

    stock.free(free);
    SPOILT.store(spoilt, Ordering::Relaxed);
    asks.account.add(Counter::PagesCopied, moved);
    if made {
        asks.account.add(Counter::BlocksMade, 1);
    }
    made
}
