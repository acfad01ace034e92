// SPDX-License-Identifier: GPL-2.0-only
//! Operations of the core and of the program that reads traces, one for each run: `core-cost NAME`;
//! without a name, their names.
//!
//! What is to be counted happens within [`measured`], so that
//! `valgrind --tool=callgrind --toggle-collect='*measured*'` counts it and nothing else (the lab's
//! `bench` does). The numbers are instructions, and the same in each run.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use arch::{ACCESS_RWX, Entry, Format, Table};
use p2m::account::{Account, Outcome, Reason};
use p2m::addr::{Mfn, REGION_PAGES, Region};
use p2m::ledger::{Book, LEAF_REGIONS, Leaf, Ledger, Next, REACH_MAX, Slot};
use p2m::machine::View;
use p2m::placement::wanted;
use p2m::plan::{Scratch, Slots};
use p2m::region::{State, judge, shape, unchanged};
use xen_coalesce::analysis::Analysis;
use xen_coalesce::scan::scan;
use xen_coalesce::trace::busy::Round;

/// What is counted.
#[inline(never)]
fn measured<T>(operation: impl FnOnce() -> T) -> T {
    black_box(operation())
}

const BASE: Mfn = Mfn(0x80000);
const REGION: Region = Region(7);

fn ram(format: Format, mfn: Mfn) -> Entry {
    let bits = match format {
        // Present, writable, user, accessed, dirty.
        Format::Npt => 0x67,
        // Readable, writable, executable, write-back.
        Format::Ept => u64::from(ACCESS_RWX) << 59 | 0x37,
    };
    Entry(mfn.0 << 12 | bits)
}

/// A table of RAM whose slot `n` leads to the frame that `frame` says.
fn table(format: Format, frame: impl Fn(u64) -> Mfn) -> Box<Table> {
    let table = Box::new(Table([const { AtomicU64::new(0) }; REGION_PAGES as usize]));
    for (slot, entry) in (0..).zip(&table.0) {
        entry.store(ram(format, frame(slot)).0, Ordering::Relaxed);
    }
    table
}

fn in_order(slot: u64) -> Mfn {
    BASE.add(slot)
}

fn one_astray(slot: u64) -> Mfn {
    if slot == 100 {
        Mfn(0x1234)
    } else {
        BASE.add(slot)
    }
}

/// In no block are two of them.
fn scattered(slot: u64) -> Mfn {
    Mfn(0x100000 + (slot * 4999 + 17) % 512 * 512 + (slot * 7 + 3) % 512)
}

/// What a look at a region takes.
fn read(format: Format, frame: fn(u64) -> Mfn, want: fn(&State) -> bool) {
    let table = table(format, frame);
    let mut scratch = Box::new(Scratch::new());
    let state = measured(|| judge(REGION, View::Table(format, &table), &mut scratch));
    assert!(want(&state), "{state:?}");
}

/// What a look at one takes that was listed before.
fn read_again() {
    let table = table(Format::Npt, scattered);
    let mut scratch = Box::new(Scratch::new());
    judge(REGION, View::Table(Format::Npt, &table), &mut scratch);
    // The list is the scratch's own; this one is the same.
    let mut list = p2m::frames::List::new();
    for slot in 0..REGION_PAGES {
        list.push(REGION.start().add(slot), scratch.frame(slot));
    }
    let same = measured(|| unchanged(View::Table(Format::Npt, &table), &list, &Slots::ALL));
    assert!(same);
}

/// Which pages have to move for a region to lie in a block.
fn aim() {
    let table = table(Format::Npt, scattered);
    let mut scratch = Box::new(Scratch::new());
    judge(REGION, View::Table(Format::Npt, &table), &mut scratch);
    measured(|| scratch.aim(BASE));
    assert_eq!(scratch.astray().count(), REGION_PAGES);
}

/// Where a page that comes back belongs.
fn place() {
    let table = table(Format::Npt, in_order);
    let hole = REGION.start().add(200);
    table.set(200, Entry(0));
    let mfn = measured(|| wanted(hole, View::Table(Format::Npt, &table)));
    assert_eq!(mfn, Some(BASE.add(200)));
}

type Ledgers = Book<Box<[Slot<Box<Leaf>>]>>;

/// The ledger of a domain of so many GiB, each with a leaf and nothing to do.
fn book(gib: u64) -> Ledgers {
    let mut book = Ledgers::new((0..gib).map(|_| Slot::default()).collect(), 0);
    for gib in 0..gib {
        assert!(book.survey(gib, Box::default()).is_none());
    }
    book
}

/// The last region of the last of `gib` GiB.
fn last(gib: u64) -> Region {
    Region(gib * LEAF_REGIONS as u64 - 1)
}

/// An event, which every change of a p2m entry is.
fn touch() {
    let mut book = book(12);
    measured(|| book.touch(last(12), 5));
    assert_eq!(book.queued(), 1);
}

/// To find the only region that waits, in the last place that is looked at.
fn next(gib: u64) {
    let mut book = book(gib);
    book.touch(last(gib), 5);
    let next = measured(|| book.next(5));
    assert_eq!(next, Next::Look(last(gib)));
}

/// That there is nothing to do, in the largest domain.
fn idle() {
    let mut book = book(REACH_MAX);
    assert_eq!(measured(|| book.next(5)), Next::Idle);
}

fn settle() {
    let account = Account::new();
    measured(|| account.settle(Outcome::Refused(Reason::Hole)));
    assert_eq!(account.refused(Reason::Hole), 1);
}

/// To read so many MiB of a trace, and gather what it says.
fn read_trace(mib: usize) {
    let mut trace = vec![];
    let mut round = Round::default();
    while trace.len() < mib << 20 {
        trace.extend_from_slice(&round.bytes);
        round.advance();
    }
    trace.truncate(mib << 20);
    let mut analysis = Analysis::new(true);
    let read = measured(|| scan(&trace[..], false, |timed| analysis.take(timed)));
    assert_eq!(read.bytes, trace.len() as u64);
}

/// One of them, to be counted.
type Operation = (&'static str, fn());

const OPERATIONS: &[Operation] = &[
    ("read_in_order_npt", || {
        read(Format::Npt, in_order, |s| {
            matches!(s, State::InOrder { .. })
        });
    }),
    ("read_in_order_ept", || {
        read(Format::Ept, in_order, |s| {
            matches!(s, State::InOrder { .. })
        });
    }),
    ("read_one_astray", || {
        read(Format::Npt, one_astray, |s| *s == State::Astray);
    }),
    ("read_scattered", || {
        read(Format::Npt, scattered, |s| *s == State::Astray);
    }),
    ("read_again", read_again),
    ("shape_of_a_region", || {
        let table = table(Format::Npt, scattered);
        measured(|| shape(View::Table(Format::Npt, &table)));
    }),
    ("plan_aim", aim),
    ("place_a_page", place),
    ("ledger_touch", touch),
    ("ledger_next_1_gib", || next(1)),
    ("ledger_next_1_tib", || next(1 << 10)),
    ("ledger_idle_16_tib", idle),
    ("account_settle", settle),
    ("read_trace_4_mib", || read_trace(4)),
    ("read_trace_12_mib", || read_trace(12)),
    // What it takes to be counted, which is in all of the others.
    ("nothing", || measured(|| {})),
];

fn main() -> ExitCode {
    let Some(wanted) = std::env::args().nth(1) else {
        for (name, _) in OPERATIONS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((_, operation)) = OPERATIONS.iter().find(|(name, _)| *name == wanted) else {
        eprintln!("core-cost: there is no operation {wanted}");
        return ExitCode::FAILURE;
    };
    operation();
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_operation_does_what_it_is_to_do() {
        for (name, operation) in super::OPERATIONS {
            println!("{name}");
            operation();
        }
    }
}
