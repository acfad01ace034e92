// SPDX-License-Identifier: GPL-2.0-only
//! XENMEM_exchange of a paravirtualised domain (`p2m/src/pv.rs`), on a machine in
//! memory: each call that may fail, failing at each of its occurrences, and a domain
//! that starts to die at each call there is, torn down meanwhile or later.
//!
//! The machine finds frames that leak, that are two domains', that reach the heap
//! while a TLB leads to them, page counts that are off, and lists of which a part
//! says what is not true.

use p2m::addr::{Mfn, Order};
use p2m::exchange::{End, Request, Side};
use p2m::machine::Errno;
use p2m::pv::{Paravirt, Unassigned, Window, run};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const FRAMES: u64 = 8192;
/// The guest's are these, and the pseudo-physical frame of each is the same number
/// and `GPFN`.
const OWN: std::ops::Range<u64> = 1024..3072;
const GPFN: u64 = 0x10_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Own,
    Stolen,
    Fresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fallible {
    Steal,
    Alloc,
    Read,
    Write,
    /// The domain gets it, but its IOMMU does not map it.
    Map,
}

struct Pv {
    state: Vec<State>,
    m2p: Vec<u64>,
    /// Frames that somebody else holds.
    pinned: BTreeSet<u64>,
    /// Frames that TLBs of the domain's CPUs lead to.
    tlb: BTreeSet<u64>,
    stolen: Vec<u64>,
    fresh: VecDeque<(u64, Order)>,
    /// `tot_pages`.
    tot: u64,
    ins: Vec<u64>,
    outs: Vec<u64>,
    /// Nothing can be written from here on.
    read_only: usize,
    dying: bool,
    calls: u64,
    die_at: Option<u64>,
    /// Pages that the teardown frees between two calls.
    teardown: usize,
    /// How far it has come; nothing becomes a dying domain's behind it.
    torn_down: u64,
    inject: Option<(Fallible, u64)>,
    counts: BTreeMap<Fallible, u64>,
    injected: bool,
    preempt_every: u64,
    asked: u64,
}

impl Pv {
    fn new(ins: Vec<u64>, outs: Vec<u64>) -> Self {
        let own = |m: &u64| OWN.contains(m);
        Pv {
            state: (0..FRAMES)
                .map(|m| if own(&m) { State::Own } else { State::Free })
                .collect(),
            m2p: (0..FRAMES)
                .map(|m| if own(&m) { GPFN + m } else { u64::MAX })
                .collect(),
            pinned: BTreeSet::new(),
            tlb: OWN.collect(),
            stolen: Vec::new(),
            fresh: VecDeque::new(),
            tot: OWN.end - OWN.start,
            ins,
            outs,
            read_only: usize::MAX,
            dying: false,
            calls: 0,
            die_at: None,
            teardown: 0,
            torn_down: 0,
            inject: None,
            counts: BTreeMap::new(),
            injected: false,
            preempt_every: 0,
            asked: 0,
        }
    }

    fn tick(&mut self) {
        self.calls += 1;
        if self.die_at == Some(self.calls) {
            // Its CPUs run it no more.
            self.dying = true;
            self.tlb.clear();
        }
        if self.dying {
            self.relinquish(self.teardown);
        }
    }

    fn relinquish(&mut self, most: usize) {
        let mut left = most;

        while left > 0 && self.torn_down < FRAMES {
            let mfn = self.torn_down;
            self.torn_down += 1;
            if self.state[mfn as usize] == State::Own && !self.pinned.contains(&mfn) {
                self.put(mfn, State::Own);
                self.tot = self
                    .tot
                    .checked_sub(1)
                    .expect("a page that was not counted");
                left -= 1;
            }
        }
    }

    /// To the heap.
    #[track_caller]
    fn put(&mut self, mfn: u64, from: State) {
        assert_eq!(self.state[mfn as usize], from, "{mfn:#x} is freed");
        assert!(
            from == State::Fresh || !self.tlb.contains(&mfn) || self.dying,
            "{mfn:#x} is freed while a TLB leads to it"
        );
        self.state[mfn as usize] = State::Free;
    }

    fn fails(&mut self, what: Fallible) -> bool {
        let count = self.counts.entry(what).or_default();
        *count += 1;
        let fail = self.inject == Some((what, *count));
        self.injected |= fail;
        fail
    }

    /// What is true between two calls.
    fn check(&self) {
        assert!(self.stolen.is_empty(), "frames stayed stolen");
        assert!(self.fresh.is_empty(), "blocks stayed fresh");
        let own = self.state.iter().filter(|&&s| s == State::Own).count() as u64;
        assert_eq!(self.tot, own, "the page count");
        let odd = self
            .state
            .iter()
            .find(|s| matches!(s, State::Stolen | State::Fresh));
        assert_eq!(odd, None, "a frame is lost");
        if !self.dying {
            assert_eq!(own, OWN.end - OWN.start, "pages of the domain");
            let gpfns: BTreeSet<u64> = (0..FRAMES as usize)
                .filter(|&m| self.state[m] == State::Own)
                .map(|m| self.m2p[m])
                .collect();
            assert_eq!(
                gpfns,
                OWN.map(|m| GPFN + m).collect(),
                "pseudo-physical frames"
            );
        }
    }

    fn finish(mut self) {
        self.check();
        self.dying = true;
        self.tlb.clear();
        self.pinned.clear();
        self.torn_down = 0;
        self.relinquish(usize::MAX);
        assert_eq!(self.tot, 0, "the page count at the end");
        assert!(
            self.state.iter().all(|&s| s == State::Free),
            "frames are lost"
        );
    }
}

impl Paravirt for Pv {
    fn read(&mut self, side: Side, first: u64, gfns: &mut [u64]) -> Result<(), Errno> {
        self.tick();
        if self.fails(Fallible::Read) {
            return Err(Errno::Fault);
        }
        let list = if side == Side::In {
            &self.ins
        } else {
            &self.outs
        };
        for (i, gfn) in (first as usize..).zip(gfns) {
            *gfn = *list.get(i).ok_or(Errno::Fault)?;
        }
        Ok(())
    }

    fn write(&mut self, first: u64, frames: &[u64]) -> Result<(), Errno> {
        self.tick();
        // Some of it may be there already when it fails.
        let fails = self.fails(Fallible::Write);
        for (i, &frame) in (first as usize..).zip(frames) {
            if i >= self.read_only || fails && i > first as usize {
                return Err(Errno::Fault);
            }
            *self.outs.get_mut(i).ok_or(Errno::Fault)? = frame;
        }
        if fails { Err(Errno::Fault) } else { Ok(()) }
    }

    fn steal(&mut self, mfn: Mfn) -> Result<(), Errno> {
        self.tick();
        let fails = self.fails(Fallible::Steal);
        match self.state.get_mut(mfn.0 as usize) {
            Some(State::Own) if fails => Err(Errno::Nomem),
            Some(state @ State::Own) if !self.pinned.contains(&mfn.0) => {
                *state = State::Stolen;
                self.stolen.push(mfn.0);
                Ok(())
            }
            _ => Err(Errno::Inval),
        }
    }

    fn alloc(&mut self, order: Order) -> bool {
        self.tick();
        if self.fails(Fallible::Alloc) {
            return false;
        }
        let size = order.pages() as usize;
        let free = |block: &[State]| block.iter().all(|&s| s == State::Free);
        let Some(i) = self.state.chunks_exact(size).position(free) else {
            return false;
        };
        for state in &mut self.state[i * size..(i + 1) * size] {
            *state = State::Fresh;
        }
        self.fresh.push_back(((i * size) as u64, order));
        true
    }

    fn next(&self, block: Option<Mfn>) -> Option<Mfn> {
        let at = match block {
            None => 0,
            Some(block) => 1 + self.fresh.iter().position(|&(m, _)| m == block.0)?,
        };
        self.fresh.get(at).map(|&(mfn, _)| Mfn(mfn))
    }

    fn m2p(&self, block: Mfn) -> u64 {
        assert_eq!(self.state[block.0 as usize], State::Fresh);
        self.m2p[block.0 as usize]
    }

    fn name_next(&mut self, block: Option<Mfn>, gpfn: u64) -> Option<Mfn> {
        let block = self.next(block)?;
        assert_eq!(self.state[block.0 as usize], State::Fresh);
        self.m2p[block.0 as usize] = gpfn;
        Some(block)
    }

    fn assign(&mut self, order: Order) -> Result<(), Unassigned> {
        self.tick();
        let fails = self.fails(Fallible::Map);
        if self.dying {
            return Err(Unassigned::Dying);
        }
        let (mfn, of) = self.fresh.pop_front().expect("a block to assign");
        assert_eq!(of, order);
        let gpfn = self.m2p[mfn as usize];
        for i in 0..order.pages() {
            self.state[(mfn + i) as usize] = State::Own;
            self.m2p[(mfn + i) as usize] = gpfn + i;
            // It may use it at once.
            self.tlb.insert(mfn + i);
        }
        if fails {
            Err(Unassigned::Unmapped)
        } else {
            Ok(())
        }
    }

    fn free(&mut self, order: Order) {
        self.tick();
        while let Some((mfn, of)) = self.fresh.pop_front() {
            assert_eq!(of, order);
            for i in 0..order.pages() {
                self.put(mfn + i, State::Fresh);
            }
        }
    }

    fn restore(&mut self) {
        self.tick();
        for mfn in std::mem::take(&mut self.stolen) {
            if self.dying {
                self.put(mfn, State::Stolen);
                self.tot -= 1;
            } else {
                self.state[mfn as usize] = State::Own;
            }
        }
    }

    fn release(&mut self) {
        self.tick();
        for mfn in &self.stolen {
            self.tlb.remove(mfn);
        }
        for mfn in std::mem::take(&mut self.stolen) {
            self.put(mfn, State::Stolen);
        }
    }

    fn died(&mut self, pages: u64) {
        assert!(self.dying);
        self.release();
        self.tot -= pages;
    }

    fn preempt(&mut self) -> bool {
        self.tick();
        assert!(self.stolen.is_empty() && self.fresh.is_empty());
        self.asked += 1;
        self.preempt_every != 0 && self.asked % self.preempt_every == 0
    }
}

/// A call of so many chunks.
fn call(in_order: u32, out_order: u32, chunks: u64) -> (Request, Pv) {
    let order = in_order.max(out_order);
    let pages = chunks << order;
    let first = OWN.start;
    let ins = (0..pages >> in_order).map(|i| first + (i << in_order));
    let outs = (0..pages >> out_order).map(|i| GPFN + first + (i << out_order));
    let pv = Pv::new(ins.collect(), outs.collect());
    let request = Request::paravirt(in_order, out_order, pv.ins.len() as u64, 0);

    (request.expect("it fits together"), pv)
}

fn calls() -> impl Iterator<Item = (u32, u32, u64)> {
    [
        (0, 0, 1),
        (0, 0, 9),
        (0, 0, 700),
        (0, 3, 3),
        (3, 0, 3),
        (2, 2, 4),
        (0, 10, 1),
        (10, 0, 1),
        (10, 10, 2),
        (9, 1, 2),
    ]
    .into_iter()
}

/// Do it to its end; what is in the list then is true.
fn play(request: &mut Request, pv: &mut Pv, orders: (u32, u32)) -> End {
    play_counted(request, pv, orders, &mut 0)
}

fn play_counted(
    request: &mut Request,
    pv: &mut Pv,
    orders: (u32, u32),
    given_way: &mut u64,
) -> End {
    let asked = pv.outs.clone();
    let mut window = Window::default();
    let end = loop {
        match run(pv, request, &mut window) {
            End::Preempted => {
                *given_way += 1;
                pv.check();
            }
            end => break end,
        }
    };
    pv.check();
    let done = (request.done() << orders.0 >> orders.1) as usize;
    for (i, (&got, &asked)) in pv.outs.iter().zip(&asked).enumerate() {
        if pv.dying {
            // Nobody reads it any more.
        } else if i >= done {
            assert_eq!(got, asked, "entry {i} of which nothing was exchanged");
        } else {
            for k in 0..1u64 << orders.1 {
                let frame = (got + k) as usize;
                assert_eq!(pv.state[frame], State::Own, "entry {i}");
                assert_eq!(pv.m2p[frame], asked + k, "entry {i}");
            }
        }
    }
    end
}

#[test]
fn alone() {
    for (i, o, chunks) in calls() {
        for preempt_every in [0, 1] {
            let (mut request, mut pv) = call(i, o, chunks);
            pv.preempt_every = preempt_every;
            let mut given_way = 0;
            let end = play_counted(&mut request, &mut pv, (i, o), &mut given_way);
            assert_eq!(end, End::Done);
            assert_eq!(request.done(), pv.ins.len() as u64);
            // It gives way between two batches, if it is asked to, and not else.
            let batches = (chunks << i.max(o)).div_ceil(512).min(chunks);
            assert_eq!(pv.asked + 1, batches, "{i} {o} {chunks}");
            assert_eq!(given_way, if preempt_every == 1 { pv.asked } else { 0 });
            pv.finish();
        }
    }
}

#[test]
fn what_cannot_be_stolen_ends_the_call_there() {
    for (i, o, chunks) in calls() {
        let order = i.max(o);
        for page in [0, (chunks << order) / 2, (chunks << order) - 1] {
            let chunk = page >> order;
            let (mut request, mut pv) = call(i, o, chunks);
            pv.pinned.insert(OWN.start + page);
            let end = play(&mut request, &mut pv, (i, o));
            assert_eq!(end, End::Failed(Errno::Inval));
            assert_eq!(request.done(), chunk << (order - i));
            pv.finish();
        }
        // Named twice.
        let (mut request, mut pv) = call(i, o, chunks);
        if let [.., before, last] = &mut pv.ins[..] {
            *last = *before;
            let end = play(&mut request, &mut pv, (i, o));
            assert_eq!(end, End::Failed(Errno::Inval));
        }
        pv.finish();
    }
}

#[test]
fn a_list_that_cannot_be_written() {
    for (i, o, chunks) in calls() {
        let (_, pv) = call(i, o, chunks);
        let nr = pv.outs.len();
        for from in [0, nr / 2, nr - 1] {
            let (mut request, mut pv) = call(i, o, chunks);
            pv.read_only = from;
            let end = play(&mut request, &mut pv, (i, o));
            assert_eq!(end, End::Failed(Errno::Fault));
            pv.finish();
        }
    }
}

#[test]
fn every_failure() {
    let mut runs = 0;

    for (i, o, chunks) in calls() {
        let (mut request, mut pv) = call(i, o, chunks);
        play(&mut request, &mut pv, (i, o));
        for (what, n) in pv.counts {
            for nth in (1..=n).step_by(n as usize / 40 + 1).chain([n]) {
                let (mut request, mut pv) = call(i, o, chunks);
                pv.inject = Some((what, nth));
                let end = play(&mut request, &mut pv, (i, o));
                assert!(pv.injected, "{what:?} {nth}");
                match (what, end) {
                    // What it got is its own all the same.
                    (Fallible::Map, End::Failed(Errno::Inval)) => {
                        assert!(request.done() > 0);
                    }
                    // A batch that failed is done again, chunk by chunk.
                    (_, End::Done) if chunks > 1 => {}
                    (Fallible::Steal | Fallible::Alloc, End::Failed(Errno::Nomem))
                    | (Fallible::Read | Fallible::Write, End::Failed(Errno::Fault)) => {}
                    other => panic!("{other:?} with {i} {o} {chunks}"),
                }
                pv.finish();
                runs += 1;
            }
        }
    }
    println!("paravirt: {runs} runs with a failure");
}

#[test]
fn dying_at_every_call() {
    let mut runs = 0;

    for (i, o, chunks) in calls() {
        let (mut request, mut pv) = call(i, o, chunks);
        play(&mut request, &mut pv, (i, o));
        let all = pv.calls;
        for at in (1..=all)
            .step_by(all as usize / 60 + 1)
            .chain(all.saturating_sub(3)..=all)
        {
            for teardown in [0, 5, usize::MAX] {
                let (mut request, mut pv) = call(i, o, chunks);
                pv.die_at = Some(at);
                pv.teardown = teardown;
                let end = play(&mut request, &mut pv, (i, o));
                assert!(pv.dying, "call {at} did not happen");
                assert!(
                    matches!(end, End::Done | End::Failed(Errno::Inval)),
                    "{end:?}"
                );
                pv.finish();
                runs += 1;
            }
        }
    }
    println!("paravirt: {runs} runs of domains that die");
}
