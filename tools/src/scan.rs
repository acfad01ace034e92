// SPDX-License-Identifier: GPL-2.0-only
//! From a file or pipe to records in the order of time, and what was wrong on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::trace::events;
use crate::trace::format::{Item, Reader};
use crate::trace::order::{Order, ROOM, Timed};

/// Damages that are told one by one.
const TOLD: usize = 8;
/// Different events that are counted one by one: Xen has fewer, a damaged trace may have more.
const EVENTS: usize = 4096;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scan {
    pub bytes: u64,
    pub windows: u64,
    pub records: u64,
    pub cpus: u64,
    /// Records that Xen says it had no room for.
    pub lost: u64,
    /// Records that came too late to be put in order.
    pub late: u64,
    /// Records of which the CPU's clock had been later already.
    pub backwards: u64,
    /// How often something was wrong.
    pub damages: u64,
    /// Bytes that were damaged, or behind damage.
    pub skipped: u64,
    /// The first damages in words, each with its offset.
    pub damage: Vec<String>,
    /// The time of the first and the last record, in ticks.
    pub first: u64,
    pub last: u64,
    /// How often which event was seen, by name.
    pub events: BTreeMap<String, u64>,
}

impl Scan {
    /// Nothing is wrong with the trace itself.
    pub fn sound(&self) -> bool {
        self.damages == 0
    }

    /// Ticks from the first record to the last.
    pub fn ticks(&self) -> u64 {
        self.last.saturating_sub(self.first)
    }

    fn damaged(&mut self, words: String) {
        self.damages += 1;
        if self.damage.len() < TOLD {
            self.damage.push(words);
        }
    }
}

/// How often which event was seen.
#[derive(Default)]
struct Counts {
    known: FxHashMap<u32, u64>,
    other: u64,
}

impl Counts {
    fn add(&mut self, event: u32) {
        if let Some(n) = self.known.get_mut(&event) {
            *n += 1;
        } else if self.known.len() < EVENTS {
            self.known.insert(event, 1);
        } else {
            self.other += 1;
        }
    }
}

/// Reads all of a trace, and hands out the records of interest, or with `all` each, in the order of
/// time. A source that cannot be read on is damage like any other: what was read counts.
pub fn scan<R: Read>(source: R, all: bool, mut sink: impl FnMut(&Timed)) -> Scan {
    let mut reader = Reader::new(source);
    let mut order = Order::new(ROOM, all);
    let mut scan = Scan::default();
    let mut counts = Counts::default();
    let mut cpus = BTreeSet::new();
    let mut last_cpu = None;
    let (mut first, mut last) = (u64::MAX, 0);

    loop {
        match reader.advance() {
            Ok(Some(Item::Record(record))) => {
                scan.records += 1;
                counts.add(record.event);
                if last_cpu != Some(record.cpu) {
                    last_cpu = Some(record.cpu);
                    cpus.insert(record.cpu);
                }
                if let Some(tsc) = record.tsc {
                    first = first.min(tsc);
                    last = last.max(tsc);
                }
                order.push(&record, &mut sink);
            }
            Ok(Some(Item::Damage(error))) => scan.damaged(error.to_string()),
            Ok(None) => break,
            Err(error) => {
                let at = reader.offset();
                scan.damaged(format!("offset {at:#x}: cannot be read: {error}"));
                break;
            }
        }
    }
    order.finish(&mut sink);

    scan.bytes = reader.offset();
    scan.windows = reader.windows();
    scan.lost = reader.lost();
    scan.skipped = reader.skipped();
    scan.cpus = cpus.len() as u64;
    scan.late = order.late();
    scan.backwards = order.backwards();
    (scan.first, scan.last) = (first.min(last), last);
    for (event, n) in counts.known {
        *scan.events.entry(events::name(event)).or_insert(0) += n;
    }
    if counts.other != 0 {
        scan.events.insert("others".to_owned(), counts.other);
    }
    scan
}
