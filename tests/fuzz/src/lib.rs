// SPDX-License-Identifier: GPL-2.0-only
//! What hostile bytes are made into: calls of XENMEM_exchange on a machine in
//! memory, and page tables.
//!
//! The targets are in `tests/`: with `cargo test` they try the corpus and some more,
//! and `cargo bolero test` drives them with libFuzzer or AFL where that is
//! installed.

use arch::{ENTRIES, Format, Slot, Table};
use machine::host::{Act, Config, Host, Lists};
use machine::script::{Build, Exchange, Op, Pattern, Script, exchange_and_compare, play};
use p2m::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use p2m::exchange::Request;
use p2m::machine::View;
use p2m::placement::wanted;
use p2m::plan::Scratch;
use p2m::region::{Shape, State, judge, shape};
use std::sync::atomic::AtomicU64;

/// Bytes, taken one after the other; zeros where there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.u8()))
    }

    fn bool(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn host(bytes: &mut Bytes<'_>) -> Host {
    let shape = bytes.u8();
    let build = |bytes: &mut Bytes<'_>| match bytes.u8() % 4 {
        0 => Build::Empty,
        1 => Build::Whole,
        2 => Build::Pages,
        _ => Build::Split,
    };
    let script = Script {
        config: Config {
            format: if shape & 1 == 0 {
                Format::Ept
            } else {
                Format::Npt
            },
            eager_flush: shape & 3 == 3,
            exec_sp: shape & 4 == 0,
            alloc_at: shape & 8 == 0,
            max_order: if shape & 16 == 0 { 9 } else { 0 },
            ..Config::default()
        },
        build: (0..3).map(|_| build(bytes)).collect(),
        ops: Vec::new(),
    };
    script.build()
}

/// A machine, and exchanges of any sizes and gfns, with others in between: what
/// is reported is what was done, and nothing is lost (`Host::check()`).
pub fn exchanges(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut host = host(&mut bytes);

    for _ in 0..8 {
        if bytes.is_empty() {
            break;
        }
        match bytes.u8() % 6 {
            // Any numbers and any gfns at all.
            0 => raw(&mut host, &mut bytes),
            1 | 2 => {
                let exchange = exchange(&mut bytes);
                let _ = exchange_and_compare(&mut host, &exchange);
            }
            3 => play(
                &mut host,
                &Op::BalloonOut {
                    gfn: bytes.u16(),
                    pages: bytes.u16() % 600,
                    step: bytes.u8(),
                },
            ),
            4 => host.act(Act::Map { gfn: bytes.u16() }),
            _ => play(
                &mut host,
                &Op::Heal {
                    looks: bytes.u8() % 4,
                    ms: bytes.u16(),
                },
            ),
        }
        host.check();
    }
    host.finish();
}

fn raw(host: &mut Host, bytes: &mut Bytes<'_>) {
    let small = |b: &mut Bytes<'_>| u32::from(b.u8() % 12);
    let (in_order, out_order) = (small(bytes), small(bytes));
    let gfn = |b: &mut Bytes<'_>| match b.u8() % 4 {
        0 => b.u64(),
        _ => u64::from(b.u16() % 2048),
    };
    // No more pages than one large chunk has, so that all outputs can be named.
    let count = u64::from(bytes.u8() % 32).min((REGION_PAGES >> in_order).max(1));
    let ins: Vec<u64> = (0..count).map(|_| gfn(bytes)).collect();
    let order = in_order.max(out_order);
    let pages = (ins.len() as u64) << in_order;
    let outs: Vec<u64> = (0..pages >> out_order).map(|_| gfn(bytes)).collect();
    let lists = Lists {
        ins,
        outs,
        fault: bytes.bool().then(|| usize::from(bytes.u8())),
    };
    // The caller (memory_exchange()) has compared the sizes.
    let fits = pages % (1 << order) == 0 && (lists.outs.len() as u64) << out_order == pages;
    let done = if bytes.bool() { bytes.u64() } else { 0 };
    let new = Request::new(in_order, out_order, lists.ins.len() as u64, done, 9);

    match new {
        Ok(request) => {
            assert!(fits && request.done() == done && done <= lists.ins.len() as u64);
            let (now, _) = host.exchange(in_order, out_order, lists, done);
            assert!(now >= done, "progress is lost");
        }
        Err(_) => {
            let wrong = !fits || done > lists.ins.len() as u64;
            let chunk = 1 << order.saturating_sub(in_order);
            assert!(wrong || done % chunk != 0, "a good call is refused");
        }
    }
}

fn exchange(bytes: &mut Bytes<'_>) -> Exchange {
    let (in_order, out_order) = (u32::from(bytes.u8() % 10), u32::from(bytes.u8() % 10));
    let pattern = |b: &mut Bytes<'_>| match b.u8() % 3 {
        0 => Pattern::Run(b.u16() % 4096),
        1 => Pattern::Stride(b.u16() % 4096, b.u16() % 600),
        _ => Pattern::Down(b.u16() % 4096),
    };
    let max = if in_order.max(out_order) > 6 { 2 } else { 8 };
    let hostile = |b: &mut Bytes<'_>| (b.u16(), b.u64());

    Exchange {
        in_order,
        out_order,
        chunks: bytes.u8() % max + 1,
        ins: pattern(bytes),
        outs: bytes.bool().then(|| pattern(bytes)),
        hostile: (0..bytes.u8() % 3).map(|_| hostile(bytes)).collect(),
        twice: (0..bytes.u8() % 2)
            .map(|_| (bytes.u16(), bytes.u16()))
            .collect(),
        fault: (bytes.u8() == 255).then(|| bytes.u16()),
        preempt_every: u64::from(bytes.u8() % 3),
    }
}

/// A table of any entries: what is said of it is true of each entry.
pub fn entries(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let format = if bytes.bool() {
        Format::Npt
    } else {
        Format::Ept
    };
    let (first, step) = (bytes.u64(), bytes.u64());
    let mut raw: [u64; ENTRIES] =
        std::array::from_fn(|i| first.wrapping_add(step.wrapping_mul(i as u64)));

    while !bytes.is_empty() {
        let at = usize::from(bytes.u16()) % ENTRIES;
        raw[at] = bytes.u64();
    }
    let table = Table(raw.map(AtomicU64::new));
    let view = || View::Table(format, &table);
    let leaf = |slot: u64| match format.decode(table.entry(slot), 1) {
        Slot::Leaf(leaf) => Some(leaf),
        _ => None,
    };
    let mut scratch = Scratch::default();

    match judge(Region(3), view(), &mut scratch) {
        State::InOrder { base } => {
            for slot in 0..REGION_PAGES {
                let leaf = leaf(slot).expect("all are leaves");
                assert_eq!(Mfn(leaf.frame), base.add(slot));
                assert!(leaf.cacheable && !leaf.recalc && leaf.sw_type == 0);
            }
            assert!(base.is_aligned(Order::REGION));
            assert_eq!(shape(view()), Shape::Broken);
        }
        State::Astray => {
            let (home, astray) = (scratch.home(), scratch.astray());
            assert!(!astray.is_empty());
            for slot in 0..REGION_PAGES {
                let frame = Mfn(leaf(slot).expect("all are leaves").frame);
                assert_eq!(scratch.frame(slot), frame);
                assert_eq!(astray.has(slot), frame != home.add(slot));
            }
        }
        State::Not(_) => {}
    }
    for slot in 0..REGION_PAGES {
        if let Some(frame) = wanted(Gfn(slot), view()) {
            assert_eq!(frame.slot(), slot);
        }
    }
}
