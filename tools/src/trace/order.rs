// SPDX-License-Identifier: GPL-2.0-only
//! Puts the records of all CPUs in the order of time, while they are read.
//!
//! A trace holds windows of records of one CPU after the other, as xentrace(8) came by, round after
//! round. Within a CPU they are in order. A queue for each CPU holds records back; of the oldest of
//! each queue the oldest of all comes first. Whatever is found in a round happened after the round
//! before it began, so when a round is over all that was known before it can be handed out: this
//! follows a live trace. Where windows are larger than the room for what is held back, records come
//! out less well ordered, and that is counted.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::collections::binary_heap::{BinaryHeap, PeekMut};

use super::events::of_interest;
use super::format::{EXTRA_MAX, RecordRef};

/// Records that are held back: 48 bytes each.
pub const ROOM: usize = 1 << 20;

/// A record of interest, with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// Ticks of the TSC: its own, or else of the record before it on its CPU.
    pub time: u64,
    pub cpu: u16,
    /// Its time is its own.
    pub stamped: bool,
    length: u8,
    pub event: u32,
    extra: [u8; 4 * EXTRA_MAX],
}

impl Timed {
    pub fn extra(&self) -> &[u8] {
        self.extra.get(..usize::from(self.length)).unwrap_or(&[])
    }
}

/// What is held back of a CPU.
#[derive(Clone, Debug, Default)]
struct Lane {
    queue: VecDeque<Timed>,
    /// The time of the last record that had one, or 0.
    clock: u64,
}

/// Holds records back until their turn comes.
#[derive(Debug)]
pub struct Order {
    room: usize,
    /// Every record is of interest.
    all: bool,
    held: usize,
    /// By CPU.
    lanes: Vec<Lane>,
    /// Of each queue that is not empty: the time of its front, and the CPU.
    fronts: BinaryHeap<Reverse<(u64, u16)>>,
    /// The window that is being read: its number and CPU.
    window: (u64, u16),
    /// The latest time before this round, and with it.
    before_round: u64,
    latest: u64,
    /// The time of what was handed out last.
    now: u64,
    /// Records that came when their turn was over.
    late: u64,
    /// Records of which the CPU's clock had been later already.
    backwards: u64,
}

impl Default for Order {
    fn default() -> Self {
        Order::new(ROOM, false)
    }
}

impl Order {
    /// With `all` every record is handed out, otherwise those of interest.
    pub fn new(room: usize, all: bool) -> Order {
        Order {
            room,
            all,
            held: 0,
            lanes: vec![],
            fronts: BinaryHeap::new(),
            window: (0, u16::MAX),
            before_round: 0,
            latest: 0,
            now: 0,
            late: 0,
            backwards: 0,
        }
    }

    pub fn late(&self) -> u64 {
        self.late
    }

    pub fn backwards(&self) -> u64 {
        self.backwards
    }

    /// Takes a record; hands out what has to make room for it.
    pub fn push(&mut self, record: &RecordRef<'_>, out: &mut impl FnMut(&Timed)) {
        // The reader lets no other number pass.
        let cpu = record.cpu as u16;
        if record.window != self.window.0 {
            if cpu <= self.window.1 {
                self.pop_until(self.before_round, out);
                self.before_round = self.latest;
            }
            self.window = (record.window, cpu);
        }
        let index = usize::from(cpu);
        if index >= self.lanes.len() {
            self.lanes.resize_with(index + 1, Lane::default);
        }
        let lane = &mut self.lanes[index];
        if let Some(tsc) = record.tsc {
            if tsc < lane.clock {
                self.backwards += 1;
            }
            lane.clock = tsc;
            self.latest = self.latest.max(tsc);
        }
        if !self.all && !of_interest(record.event) {
            return;
        }

        let mut timed = Timed {
            time: lane.clock,
            cpu,
            stamped: record.tsc.is_some(),
            length: record.extra.len().min(4 * EXTRA_MAX) as u8,
            event: record.event,
            extra: [0; 4 * EXTRA_MAX],
        };
        for (to, from) in timed.extra.iter_mut().zip(record.extra) {
            *to = *from;
        }
        if lane.queue.is_empty() {
            self.fronts.push(Reverse((timed.time, cpu)));
        }
        lane.queue.push_back(timed);
        self.held += 1;
        if self.held > self.room {
            self.pop(out);
        }
    }

    /// Hands out all that is left.
    pub fn finish(&mut self, out: &mut impl FnMut(&Timed)) {
        while self.held != 0 {
            self.pop(out);
        }
    }

    fn pop_until(&mut self, time: u64, out: &mut impl FnMut(&Timed)) {
        while self.fronts.peek().is_some_and(|front| front.0.0 <= time) {
            self.pop(out);
        }
    }

    fn pop(&mut self, out: &mut impl FnMut(&Timed)) {
        let Some(mut front) = self.fronts.peek_mut() else {
            self.held = 0;
            return;
        };
        let cpu = front.0.1;
        let queue = &mut self.lanes[usize::from(cpu)].queue;
        let timed = queue
            .pop_front()
            .expect("only queues with a front are listed");
        match queue.front() {
            Some(next) => *front = Reverse((next.time, cpu)),
            None => {
                PeekMut::pop(front);
            }
        }
        self.held -= 1;
        if timed.time < self.now && timed.time != 0 {
            self.late += 1;
        }
        self.now = self.now.max(timed.time);
        out(&timed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(room: usize, records: &[(u32, Option<u64>)]) -> (Vec<(u16, u64)>, u64) {
        let mut order = Order::new(room, false);
        let mut seen = vec![];
        let mut out = |timed: &Timed| seen.push((timed.cpu, timed.time));
        for &(cpu, tsc) in records {
            let record = RecordRef {
                offset: 0,
                cpu,
                window: 1,
                event: 0x10f020,
                tsc,
                extra: &[1, 2, 3],
            };
            order.push(&record, &mut out);
        }
        order.finish(&mut out);
        (seen, order.late())
    }

    #[test]
    fn cpus_are_merged() {
        let records = [
            (1, None),
            (1, Some(10)),
            (1, None),
            (1, Some(30)),
            (0, Some(5)),
            (0, Some(20)),
            (1, Some(40)),
        ];
        let sorted = [(1, 0), (0, 5), (1, 10), (1, 10), (0, 20), (1, 30), (1, 40)];
        assert_eq!(times(100, &records), (sorted.to_vec(), 0));
        // Without room they come as they are, and it is known how many came late.
        let (seen, late) = times(0, &records);
        assert_eq!((seen.len(), late), (7, 2));
    }

    #[test]
    fn only_what_is_of_interest_is_held() {
        let mut order = Order::new(10, false);
        let mut record = RecordRef {
            offset: 0,
            cpu: 0,
            window: 1,
            event: 0x21001,
            tsc: Some(7),
            extra: &[],
        };
        let mut seen = vec![];
        order.push(&record, &mut |timed| seen.push(timed.time));
        record.event = 0x10f004;
        record.tsc = None;
        order.push(&record, &mut |timed| seen.push(timed.time));
        record.tsc = Some(3);
        order.push(&record, &mut |timed| seen.push(timed.time));
        order.finish(&mut |timed| seen.push(timed.time));
        // The time of the one before it counts, even of a kind that is not looked into.
        assert_eq!(seen, [7, 3]);
        assert_eq!((order.backwards(), order.late()), (1, 1));
    }

    /// Rounds over two CPUs: what one round found is handed out when the next one is over.
    #[test]
    fn a_live_trace_is_followed() {
        let mut order = Order::default();
        let mut seen = vec![];
        let windows = [
            (0, [10, 11]),
            (1, [9, 14]),
            (0, [12, 20]),
            (1, [15, 22]),
            (0, [21, 30]),
            (1, [23, 33]),
        ];
        let mut held = vec![];
        for (n, (cpu, times)) in windows.into_iter().enumerate() {
            for tsc in times {
                let record = RecordRef {
                    offset: 0,
                    cpu,
                    window: n as u64 + 1,
                    event: 0x10f020,
                    tsc: Some(tsc),
                    extra: &[],
                };
                order.push(&record, &mut |timed| seen.push(timed.time));
            }
            held.push(seen.len());
        }
        assert_eq!(held, [0, 0, 0, 0, 5, 5]);
        order.finish(&mut |timed| seen.push(timed.time));
        assert_eq!(seen, [9, 10, 11, 12, 14, 15, 20, 21, 22, 23, 30, 33]);
        assert_eq!(order.late(), 0);
    }
}
