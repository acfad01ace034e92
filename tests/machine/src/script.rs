// SPDX-License-Identifier: GPL-2.0-only
//! Random scripts: what a guest, its toolstack and the coalescer do one after
//! the other, and what others do at any time between.

use crate::heap::{Dom, Policy, State};
use crate::host::{Act, Config, GFN_MAX, Host, Lists, Seen, fact_of};
use crate::reference::{Call, Memory, Page};
use crate::tables::{ACCESS_RWX, GFN_END, kind};
use arch::Format;
use p2m::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use p2m::coalesce::Mode;
use p2m::machine::{Errno, Facts};
use proptest::collection::vec;
use proptest::prelude::*;

/// How the extents of one side of an exchange are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// One after the other.
    Run(u16),
    /// With gaps, or overlapping: the step in pages.
    Stride(u16, u16),
    /// One after the other, downwards.
    Down(u16),
}

impl Pattern {
    fn at(self, i: u64, order: u32) -> u64 {
        let size = 1u64 << order;

        match self {
            Pattern::Run(base) => u64::from(base) + i * size,
            Pattern::Stride(base, step) => u64::from(base) + i * u64::from(step),
            Pattern::Down(base) => u64::from(base).wrapping_sub(i * size),
        }
    }
}

/// An exchange to be.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub in_order: u32,
    pub out_order: u32,
    pub chunks: u8,
    pub ins: Pattern,
    /// `None`: the outputs are the gfns of the inputs.
    pub outs: Option<Pattern>,
    /// Entries to overwrite, and with what.
    pub hostile: Vec<(u16, u64)>,
    /// Entries to overwrite with what others are.
    pub twice: Vec<(u16, u16)>,
    pub fault: Option<u16>,
    pub preempt_every: u64,
}

impl Exchange {
    /// The two lists.
    pub fn lists(&self) -> Lists {
        let order = self.in_order.max(self.out_order);
        let n = |own: u32| u64::from(self.chunks) << (order - own);
        let list = |pattern: Pattern, own: u32| -> Vec<u64> {
            (0..n(own)).map(|i| pattern.at(i, own)).collect()
        };
        let mut ins = list(self.ins, self.in_order);
        let mut outs = match self.outs {
            Some(pattern) => list(pattern, self.out_order),
            None => {
                let base = self.ins.at(0, self.in_order);
                (0..n(self.out_order))
                    .map(|i| base + (i << self.out_order))
                    .collect()
            }
        };
        let total = ins.len() + outs.len();
        for &(which, gfn) in &self.hostile {
            let which = usize::from(which) % total;
            match which.checked_sub(ins.len()) {
                None => ins[which] = gfn,
                Some(out) => outs[out] = gfn,
            }
        }
        for &(which, as_what) in &self.twice {
            for list in [&mut ins, &mut outs] {
                let (to, from) = (usize::from(which), usize::from(as_what));
                let n = list.len();
                list[to % n] = list[from % n];
            }
        }
        Lists {
            fault: self.fault.map(|f| usize::from(f) % total),
            ins,
            outs,
        }
    }
}

/// One thing to do. gfns are taken modulo [`GFN_MAX`], regions modulo its
/// regions.
#[derive(Clone, Debug)]
pub enum Op {
    Populate {
        region: u8,
        one_by_one: bool,
    },
    FillHoles {
        gfn: u16,
        pages: u16,
    },
    BalloonOut {
        gfn: u16,
        pages: u16,
        step: u8,
    },
    /// Some pages of a region come to lie elsewhere; the frames that they had
    /// are free again, or not.
    Scatter {
        region: u8,
        pages: u16,
        step: u8,
        free: bool,
    },
    /// Pages trade places: `pages` of them from `a` on with those from `b` on.
    Swap {
        a: u16,
        b: u16,
        pages: u16,
        step: u8,
    },
    /// Pages that are copied in one lock hold.
    Batch(u16),
    Exchange(Exchange),
    Pin(u16),
    UnpinAll,
    Special(u16, bool),
    Heal {
        looks: u8,
        ms: u16,
    },
    /// Up to so many pages of the guest leave a block of the machine.
    Vacate {
        block: u8,
        pages: u16,
    },
    Mode(u8),
    Fact(u8, bool),
    Retype {
        gfn: u16,
        ro: bool,
        access: u8,
    },
    Paged(u16, bool),
    Track {
        region: u8,
        on: bool,
        above: bool,
    },
    Pool(u8),
    OtherTakes(u16),
    OtherGives(u16),
    Act(Act),
    Schedule(Vec<(u8, Act)>),
}

/// A machine, what is in it at first, and what happens.
#[derive(Clone, Debug)]
pub struct Script {
    pub config: Config,
    /// How each of the first regions is built.
    pub build: Vec<Build>,
    pub ops: Vec<Op>,
}

/// How a region is built.
#[derive(Clone, Copy, Debug)]
pub enum Build {
    Empty,
    Whole,
    /// 512 pages in the order of the heap.
    Pages,
    /// A leaf that one split has broken.
    Split,
}

fn region_of(n: u8) -> Region {
    Region(u64::from(n) % (GFN_MAX / REGION_PAGES))
}

fn gfn_of(n: u16) -> Gfn {
    Gfn(u64::from(n) % GFN_MAX)
}

impl Script {
    /// A host with the guest built.
    pub fn build(&self) -> Host {
        let mut host = Host::new(self.config);

        for (r, build) in (0..).zip(&self.build) {
            let gfn = Region(r).start();
            match build {
                Build::Empty => {}
                Build::Whole => {
                    host.populate(gfn, Order::REGION, false);
                }
                Build::Pages => {
                    host.populate(gfn, Order::REGION, true);
                }
                Build::Split => {
                    host.populate(gfn, Order::REGION, false);
                    host.retype(gfn, kind::RAM_RW, ACCESS_RWX);
                }
            }
        }
        for gfn in (0..GFN_MAX).step_by(37) {
            host.act(Act::Write {
                vcpu: 0,
                gfn: gfn as u16,
            });
        }
        host.check();
        host
    }

    /// Carry it out, checking all the way; the host as it is at the end.
    pub fn play(&self) -> Host {
        let mut host = self.build();

        for op in &self.ops {
            play(&mut host, op);
            host.check();
        }
        host
    }
}

/// One step.
pub fn play(host: &mut Host, op: &Op) {
    match op {
        Op::Populate { region, one_by_one } => {
            host.populate(region_of(*region).start(), Order::REGION, *one_by_one);
        }
        Op::FillHoles { gfn, pages } => {
            for i in 0..u64::from(*pages) {
                let gfn = Gfn((gfn_of(*gfn).0 + i) % GFN_MAX);
                if host.mfn(gfn).is_none() {
                    host.populate(gfn, Order::PAGE, false);
                }
            }
        }
        Op::BalloonOut { gfn, pages, step } => {
            for i in 0..u64::from(*pages) {
                let gfn = Gfn((gfn_of(*gfn).0 + i * (u64::from(*step) + 1)) % GFN_MAX);
                host.balloon_out(gfn);
            }
        }
        Op::Scatter {
            region,
            pages,
            step,
            free,
        } => {
            let start = region_of(*region).start();
            let gone: Vec<Gfn> = (0..u64::from(*pages))
                .map(|i| start.add(i * (u64::from(*step) + 1) % REGION_PAGES))
                .filter(|&gfn| host.balloon_out(gfn))
                .collect();
            let at = host.config.alloc_at;
            let before = host.other_pages();
            for _ in &gone {
                host.other_alloc();
            }
            host.config.alloc_at = false;
            for &gfn in &gone {
                host.populate(gfn, Order::PAGE, false);
            }
            host.config.alloc_at = at;
            while *free && host.other_pages() > before {
                host.other_free(before);
            }
        }
        Op::Swap { a, b, pages, step } => {
            for i in 0..u64::from(*pages) {
                let a = Gfn((gfn_of(*a).0 + i) % GFN_MAX);
                let b = Gfn((gfn_of(*b).0 + i * (u64::from(*step) + 1)) % GFN_MAX);
                host.swap(a, b);
            }
        }
        Op::Batch(pages) => host.batch = u64::from(*pages),
        Op::Exchange(exchange) => {
            let _ = exchange_and_compare(host, exchange);
        }
        Op::Pin(gfn) => {
            host.pin(gfn_of(*gfn));
        }
        Op::UnpinAll => host.unpin_all(),
        Op::Special(gfn, on) => host.set_special(gfn_of(*gfn), *on),
        Op::Heal { looks, ms } => {
            host.now += u64::from(*ms);
            for _ in 0..*looks {
                if host.heal_one().is_none() {
                    break;
                }
                host.check();
            }
        }
        Op::Vacate { block, pages } => {
            let block = u64::from(*block) % host.config.blocks;
            host.vacate(Mfn(block * REGION_PAGES), u64::from(*pages));
        }
        Op::Mode(n) => host.set_mode(match n % 3 {
            0 => Mode::Off,
            1 => Mode::InPlace,
            _ => Mode::Full,
        }),
        Op::Fact(n, on) => {
            host.set_facts(fact_of(*n), *on);
        }
        Op::Retype { gfn, ro, access } => {
            let sw_type = if *ro { kind::RAM_RO } else { kind::RAM_RW };
            host.retype(gfn_of(*gfn), sw_type, (access % 8) | 1);
        }
        Op::Paged(gfn, on) => host.set_paged(gfn_of(*gfn), *on),
        Op::Track { region, on, above } => host.track(region_of(*region), *on, *above),
        Op::Pool(left) => host.tables.set_pool_left(usize::from(*left)),
        Op::OtherTakes(pages) => {
            for _ in 0..*pages {
                host.other_alloc();
            }
        }
        Op::OtherGives(pages) => {
            for i in 0..*pages {
                host.other_free(usize::from(i) * 7);
            }
        }
        Op::Act(act) => host.act(*act),
        Op::Schedule(acts) => host.schedule.extend(acts),
    }
}

/// Take away all that may keep a region from being healed, and let the
/// coalescer work: every region of RAM has to end whole.
pub fn quiet_regions_end_whole(host: &mut Host) {
    host.schedule.clear();
    host.unpin_all();
    host.set_facts(
        Facts::all() - Facts::CREATED - Facts::HAP - Facts::HAP_2MB,
        false,
    );
    host.tables.set_pool_left(usize::MAX);
    host.config.watermark = 0;
    host.heap.plug(GFN_MAX / REGION_PAGES);
    for r in 0..GFN_MAX / REGION_PAGES {
        host.track(Region(r), false, true);
    }
    for gfn in 0..GFN_MAX {
        host.set_special(Gfn(gfn), false);
        host.set_paged(Gfn(gfn), false);
        if let Some((_, sw_type, access)) = host.tables.translate(Gfn(gfn)) {
            if (sw_type, access) != (kind::RAM_RW, ACCESS_RWX) {
                host.retype(Gfn(gfn), kind::RAM_RW, ACCESS_RWX);
            }
        }
    }
    host.set_mode(Mode::Full);
    host.heal_all();
    host.check();
    if !host.config.hap_2mb {
        return;
    }
    for r in 0..GFN_MAX / REGION_PAGES {
        let region = Region(r);
        let all_ram = (0..REGION_PAGES).all(|i| host.mfn(region.start().add(i)).is_some());
        assert!(
            !all_ram || host.tables.last_table(region.start()).is_none(),
            "{region:?} is {:?}, and could be whole",
            host.shape(region)
        );
    }
}

/// The guest's memory as the reference model sees it.
pub fn memory(host: &Host) -> Memory {
    host.snapshot()
        .pages
        .into_iter()
        .map(|(gfn, seen)| {
            let page = match seen {
                Seen::Other => Page::NotRam,
                Seen::Ram(mfn, _) => {
                    let frame = host.heap.at(mfn);
                    let (_, sw_type, _) = host.tables.translate(Gfn(gfn)).expect("it is mapped");
                    let dirty = host.dirty_ranges.contains(&Gfn(gfn).region().0)
                        || host.facts.contains(Facts::LOG_DIRTY);
                    // What the type is once it is recalculated; a type that is
                    // not believed is not used.
                    let stale = host.tables.walk(Gfn(gfn)).is_some_and(|hit| hit.recalc);
                    let ram = match sw_type {
                        kind::RAM_RW if stale => !dirty,
                        kind::RAM_LOGDIRTY if stale => !dirty,
                        kind::RAM_RW => true,
                        _ => false,
                    };
                    if !ram {
                        Page::NotRam
                    } else if frame.special {
                        Page::Fixed
                    } else if frame.count != 1 || frame.types != 0 {
                        Page::Pinned
                    } else {
                        Page::Plain(mfn.0)
                    }
                }
            };
            (gfn, page)
        })
        .collect()
}

/// Exchange, in orders of inputs and outputs, and see that all is as it has to be.
pub fn exchange_and_check(
    host: &mut Host,
    orders: (u32, u32),
    lists: Lists,
) -> (u64, Result<(), Errno>) {
    let result = host.exchange(orders.0, orders.1, lists, 0);

    host.check();
    result
}

/// Exchange, and see that just the chunks that were reported were exchanged,
/// and, when nobody else acted and there was memory, that those were the right
/// ones. Returns what was reported.
pub fn exchange_and_compare(host: &mut Host, exchange: &Exchange) -> (u64, Result<(), Errno>) {
    let lists = exchange.lists();
    let call = Call {
        in_order: exchange.in_order,
        out_order: exchange.out_order,
        ins: &lists.ins,
        outs: &lists.outs,
        fault: lists.fault,
        gfn_end: GFN_END,
    };
    let excluded = Facts::ALTP2M | Facts::NESTED | Facts::POD | Facts::SHARING | Facts::LOG_DIRTY;
    let fit = !host.facts.intersects(excluded | Facts::DYING);
    let before = host.snapshot();
    let memory_before = memory(host);
    let quiet = host.schedule.is_empty() && host.meddle_at.is_none();
    let alone = quiet && host.inject.is_none();

    host.preempt_every = exchange.preempt_every;
    let (done, result) = host.exchange(exchange.in_order, exchange.out_order, lists.clone(), 0);
    host.preempt_every = 0;

    if host.dying() {
        return (done, result);
    }
    host.check();
    assert!(done <= lists.ins.len() as u64);
    assert_eq!(result.is_ok(), done == lists.ins.len() as u64, "{result:?}");

    if alone {
        let mut memory = memory_before.clone();
        let (expected, how) = if fit {
            call.run(&mut memory)
        } else {
            (0, Err(Errno::Opnotsupp))
        };
        // Memory that is short is short at a place that the model does not
        // know; where it is not, all is known.
        if result == Err(Errno::Nomem) {
            assert!(done <= expected, "{done} done, at most {expected} can be");
            let order = Order::new(exchange.out_order).expect("an order");
            let (_, chunk_out) = call.chunk();
            assert!(
                host.tables.pool_left() < 8 || host.heap.free_blocks(order) < chunk_out as u64,
                "{exchange:?} fails for want of memory, of which there is enough"
            );
        } else if result == Err(Errno::Fault) && !fit {
            assert_eq!(done, 0);
        } else {
            assert_eq!((done, result), (expected, how), "{exchange:?}");
        }
    }

    let mut memory = memory_before;
    call.force(&mut memory, done);
    memory.retain(|gfn, _| !host.renewed.contains(gfn));
    let mut after = host.snapshot();
    after.pages.retain(|gfn, _| !host.renewed.contains(gfn));
    // What others did meanwhile to pages that are not part of this is theirs.
    for (gfn, page) in &memory {
        let seen = after.pages.get(gfn);
        match page {
            Page::Fresh => {
                let Some(&Seen::Ram(mfn, content)) = seen else {
                    panic!("{gfn:#x} is {seen:?} after the exchange");
                };
                let frame = host.heap.at(mfn);
                assert_eq!(frame.state, State::Owned(Dom::Guest));
                assert!(
                    content == 0 || !quiet,
                    "what was in {mfn:?} before is shown at {gfn:#x}"
                );
            }
            _ if quiet => assert_eq!(seen, before.pages.get(gfn), "at {gfn:#x}"),
            _ => {
                let mfn = |seen: Option<&Seen>| match seen {
                    Some(Seen::Ram(mfn, _)) => Some(*mfn),
                    _ => None,
                };
                assert_eq!(mfn(seen), mfn(before.pages.get(gfn)), "at {gfn:#x}");
            }
        }
    }
    assert_eq!(
        after.pages.keys().collect::<Vec<_>>(),
        memory.keys().collect::<Vec<_>>(),
        "gfns that are mapped"
    );
    if quiet {
        assert_eq!(after.tot, before.tot, "the page count");
        assert_eq!(after.free, before.free, "free memory");
    }
    (done, result)
}

// ---- strategies -------------------------------------------------------------

fn gfn() -> impl Strategy<Value = u16> {
    let end = GFN_MAX as u16;
    prop_oneof![
        4 => 0..end,
        2 => (0..end / 512).prop_map(|r| r * 512),
        1 => (0..end / 512).prop_map(|r| r * 512 + 511),
    ]
}

/// A base that makes extents of `order` aligned, most often.
fn base(order: u32) -> impl Strategy<Value = u16> {
    (gfn(), 0..8u8).prop_map(move |(gfn, odd)| {
        if odd == 0 {
            gfn
        } else {
            gfn & !((1u16 << order) - 1)
        }
    })
}

fn pattern(order: u32) -> impl Strategy<Value = Pattern> {
    let size = 1u16 << order;
    prop_oneof![
        6 => base(order).prop_map(Pattern::Run),
        1 => (base(order), prop_oneof![Just(2 * size), Just(size / 2), 0..600u16])
            .prop_map(|(base, step)| Pattern::Stride(base, step)),
        1 => base(order).prop_map(Pattern::Down),
    ]
}

fn hostile() -> impl Strategy<Value = (u16, u64)> {
    let value = prop_oneof![
        8 => 0..GFN_MAX,
        1 => Just(u64::MAX),
        1 => Just(u64::MAX - 511),
        1 => Just(GFN_END - 1),
        1 => Just(GFN_END),
        1 => Just(1 << 52),
    ];
    (any::<u16>(), value)
}

/// An exchange; most of them are such that they can succeed.
pub fn exchange() -> impl Strategy<Value = Exchange> {
    let order = || prop_oneof![6 => Just(0u32), 4 => Just(9u32), 6 => 1..9u32, 1 => 10..12u32];
    (order(), order()).prop_flat_map(|(in_order, out_order)| {
        let max = match in_order.max(out_order) {
            ..=6 => 8u8,
            7..=9 => 2,
            _ => 1,
        };
        let outs = prop_oneof![
            2 => Just(None),
            3 => pattern(out_order).prop_map(Some),
        ];
        (
            1..=max,
            pattern(in_order),
            outs,
            prop_oneof![4 => Just(Vec::new()), 1 => vec(hostile(), 1..3)],
            prop_oneof![6 => Just(Vec::new()), 1 => vec(any::<(u16, u16)>(), 1..3)],
            prop_oneof![12 => Just(None), 1 => any::<u16>().prop_map(Some)],
            prop_oneof![2 => Just(0u64), 1 => 1..3u64],
        )
            .prop_map(
                move |(chunks, ins, outs, hostile, twice, fault, preempt_every)| Exchange {
                    in_order,
                    out_order,
                    chunks,
                    ins,
                    outs,
                    hostile,
                    twice,
                    fault,
                    preempt_every,
                },
            )
    })
}

/// What others may do. With `dying`, the guest may be killed.
pub fn act(dying: bool) -> impl Strategy<Value = Act> {
    let only = move |act| if dying { act } else { Act::OtherAlloc };
    prop_oneof![
        12 => (any::<u8>(), gfn()).prop_map(|(vcpu, gfn)| Act::Read { vcpu, gfn }),
        12 => (any::<u8>(), gfn()).prop_map(|(vcpu, gfn)| Act::Write { vcpu, gfn }),
        3 => gfn().prop_map(|gfn| Act::Map { gfn }),
        1 => any::<u16>().prop_map(|mfn| Act::MapAny { mfn }),
        4 => any::<u8>().prop_map(|which| Act::Unmap { which }),
        2 => any::<u8>().prop_map(|which| Act::MapperWrite { which }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(vcpu, which)| Act::Evict { vcpu, which }),
        3 => (gfn(), any::<bool>()).prop_map(|(gfn, write)| Act::Dma { gfn, write }),
        2 => gfn().prop_map(|gfn| Act::Renew { gfn }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(fact, on)| Act::Fact { fact, on: on && fact > 128 }),
        1 => (any::<u8>(), any::<bool>())
            .prop_map(|(region, on)| Act::Track { region, on }),
        4 => Just(Act::OtherAlloc),
        4 => any::<u8>().prop_map(|which| Act::OtherFree { which }),
        1 => Just(only(Act::Die)),
        2 => any::<u8>().prop_map(move |pages| only(Act::Relinquish { pages })),
    ]
}

fn acts(concurrent: bool, dying: bool) -> impl Strategy<Value = Vec<(u8, Act)>> {
    let gap = prop_oneof![2 => 0..4u8, 1 => any::<u8>()];
    vec((gap, act(dying)), if concurrent { 1..60 } else { 0..1 })
}

fn op(concurrent: bool, dying: bool) -> impl Strategy<Value = Op> {
    let schedule = if concurrent { 6 } else { 1 };
    prop_oneof![
        2 => (any::<u8>(), any::<bool>())
            .prop_map(|(region, one_by_one)| Op::Populate { region, one_by_one }),
        3 => (gfn(), 1..600u16).prop_map(|(gfn, pages)| Op::FillHoles { gfn, pages }),
        4 => (gfn(), prop_oneof![1..4u16, 1..600u16], prop_oneof![3 => Just(0u8), 1 => 0..4u8])
            .prop_map(|(gfn, pages, step)| Op::BalloonOut { gfn, pages, step }),
        4 => (any::<u8>(), prop_oneof![1..4u16, 1..600u16], 0..4u8, any::<bool>())
            .prop_map(|(region, pages, step, free)| Op::Scatter { region, pages, step, free }),
        4 => (gfn(), gfn(), prop_oneof![1..4u16, 1..600u16], 0..8u8)
            .prop_map(|(a, b, pages, step)| Op::Swap { a, b, pages, step }),
        1 => prop_oneof![0..600u16, Just(512)].prop_map(Op::Batch),
        10 => exchange().prop_map(Op::Exchange),
        2 => gfn().prop_map(Op::Pin),
        2 => Just(Op::UnpinAll),
        1 => (gfn(), prop_oneof![1 => Just(true), 2 => Just(false)])
            .prop_map(|(gfn, on)| Op::Special(gfn, on)),
        8 => (1..12u8, 0..2000u16).prop_map(|(looks, ms)| Op::Heal { looks, ms }),
        2 => (any::<u8>(), prop_oneof![1..20u16, 1..600u16])
            .prop_map(|(block, pages)| Op::Vacate { block, pages }),
        1 => any::<u8>().prop_map(Op::Mode),
        1 => (any::<u8>(), prop_oneof![1 => Just(true), 3 => Just(false)])
            .prop_map(|(n, on)| Op::Fact(n, on)),
        1 => (gfn(), any::<bool>(), any::<u8>())
            .prop_map(|(gfn, ro, access)| Op::Retype { gfn, ro, access }),
        1 => (gfn(), any::<bool>()).prop_map(|(gfn, on)| Op::Paged(gfn, on)),
        1 => (any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(region, on, above)| Op::Track { region, on, above }),
        1 => prop_oneof![0..3u8, Just(255)].prop_map(Op::Pool),
        2 => (1..400u16).prop_map(Op::OtherTakes),
        2 => (1..400u16).prop_map(Op::OtherGives),
        2 => act(false).prop_map(Op::Act),
        schedule => acts(concurrent, dying).prop_map(Op::Schedule),
    ]
}

/// Something comes in the way of a region that is not in order, it is looked at, and
/// most often the way is free again after that.
fn obstructed() -> impl Strategy<Value = Vec<Op>> {
    let way = (
        0..14u8,
        any::<bool>(),
        prop_oneof![4 => Just(true), 1 => Just(false)],
    );

    ((0..4u8, 0..512u16, way), (1..40u16, any::<bool>())).prop_map(
        |((region, slot, (what, above, ends)), (pages, free))| {
            let gfn = u16::from(region) * 512 + slot;
            let retype = |ro, access| Op::Retype { gfn, ro, access };
            let (on, off) = match what {
                0 => (Op::Pin(gfn), Op::UnpinAll),
                1 => (Op::Special(gfn, true), Op::Special(gfn, false)),
                2 => (retype(true, 7), retype(false, 7)),
                3 => (retype(false, 5), retype(false, 7)),
                4 => {
                    let track = |on| Op::Track { region, on, above };
                    (track(true), track(false))
                }
                5 => (Op::Mode(1), Op::Mode(2)),
                6 => (Op::OtherTakes(4000), Op::OtherGives(4000)),
                7 => {
                    let out = Op::BalloonOut {
                        gfn,
                        pages: 1,
                        step: 0,
                    };
                    (out, Op::FillHoles { gfn, pages: 1 })
                }
                n => (Op::Fact(n - 8, true), Op::Fact(n - 8, false)),
            };
            let scatter = Op::Scatter {
                region,
                pages,
                step: 1,
                free,
            };
            let heal = Op::Heal {
                looks: 11,
                ms: 1999,
            };
            let mut ops = vec![scatter, on, heal];
            ops.extend(ends.then_some(off));
            ops
        },
    )
}

/// A machine.
pub fn config() -> impl Strategy<Value = Config> {
    (
        prop_oneof![
            Just((Format::Npt, true)),
            Just((Format::Npt, false)),
            Just((Format::Ept, false))
        ],
        any::<bool>(),
        prop_oneof![9 => Just(true), 1 => Just(false)],
        prop_oneof![3 => Just(40usize), 1 => 8..14usize],
        prop_oneof![3 => Just(10u64), 1 => 6..10u64],
        prop_oneof![
            Just(Policy::Lowest),
            Just(Policy::Highest),
            Just(Policy::Next)
        ],
        prop_oneof![3 => Just(0u64), 1 => 0..2048u64],
        prop_oneof![3 => Just((true, 9)), 1 => any::<(bool, bool)>()
            .prop_map(|(at, large)| (at, if large { 9 } else { 0 }))],
    )
        .prop_map(
            |(
                (format, eager_flush),
                exec_sp,
                hap_2mb,
                pool,
                blocks,
                policy,
                watermark,
                (alloc_at, max_order),
            )| Config {
                format,
                eager_flush,
                exec_sp,
                hap_2mb,
                pool,
                blocks,
                policy,
                watermark,
                alloc_at,
                max_order,
            },
        )
}

/// A script; with `concurrent`, others act while the core works, and with
/// `dying` the guest may die of it.
pub fn script(concurrent: bool, dying: bool) -> impl Strategy<Value = Script> {
    let build = prop_oneof![
        1 => Just(Build::Empty),
        3 => Just(Build::Whole),
        2 => Just(Build::Pages),
        2 => Just(Build::Split),
    ];
    (
        config(),
        vec(build, 1..5),
        vec(
            prop_oneof![
                8 => op(concurrent, dying).prop_map(|op| vec![op]),
                1 => obstructed(),
            ],
            1..16,
        ),
    )
        .prop_map(|(config, build, ops)| Script {
            config,
            build,
            ops: ops.into_iter().flatten().collect(),
        })
}
