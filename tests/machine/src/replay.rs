// SPDX-License-Identifier: GPL-2.0-only
//! Scripts that a guest can replay on Xen (`tests/xtf/tests/coalesce-replay`): of a
//! [`Script`], what a guest can do by itself, with what each exchange has to
//! come to. That is asked of the [reference model](crate::reference), so a
//! script that the core fails on can be exported as well.
//!
//! As text a step is a line, `NAME, number of arguments, arguments,`: what a C array
//! is initialized with.

use crate::host::{Config, GFN_MAX, Host};
use crate::reference::Call;
use crate::script::{Build, Op, Script, memory};
use crate::tables::GFN_END;
use p2m::addr::{Gfn, Order, REGION_PAGES, Region};
use p2m::coalesce::BATCH_DEFAULT;
use std::sync::{Arc, Mutex};

/// What a guest does; pages count from the start of the memory that it plays
/// with, of as many regions as this machine's guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// One of [`NAMES`].
    pub name: &'static str,
    pub args: Vec<u64>,
}

/// What a step can be.
pub const NAMES: [&str; 9] = [
    // region, one by one: fill an empty region.
    "POPULATE", // page, pages: fill the holes.
    "FILL",     // page, pages, step less one: give back what is there.
    "OUT",      // The same, and get them again in another order.
    "SCATTER",  // page, page, pages, step less one of the second.
    "SWAP",
    // in_order, out_order, inputs, outputs, inputs done, errno, and the lists.
    "EXCHANGE", // page: somebody holds a reference.
    "PIN", "UNPIN", // Have all regions made whole that can be.
    "HEAL",
];

/// A machine on which nothing fails for want of memory, as the guest's does not.
fn roomy(config: Config) -> Config {
    Config {
        hap_2mb: true,
        pool: 64,
        blocks: 3 * GFN_MAX / REGION_PAGES,
        watermark: 0,
        alloc_at: true,
        max_order: 9,
        ..config
    }
}

fn step(name: &'static str, args: impl Into<Vec<u64>>) -> Step {
    assert!(NAMES.contains(&name));
    Step {
        name,
        args: args.into(),
    }
}

/// Add to `steps` what of `script` a guest can do. Each step is there before it is
/// played, so that one on which the core fails is the last.
pub fn export(script: &Script, steps: &Mutex<Vec<Step>>) {
    let mut host = Host::new(roomy(script.config));
    let mut pin = None;
    let add = |host: &mut Host, step: Step| {
        steps.lock().expect("nobody failed").push(step.clone());
        play(host, &step);
    };

    for (region, build) in (0..).zip(&script.build) {
        match build {
            Build::Empty => {}
            Build::Whole | Build::Split => add(&mut host, step("POPULATE", [region, 0])),
            Build::Pages => add(&mut host, step("POPULATE", [region, 1])),
        }
    }
    for op in &script.ops {
        let gfn = |n: u16| u64::from(n) % GFN_MAX;
        let next = match op {
            Op::Populate { region, one_by_one } => {
                let region = u64::from(*region) % (GFN_MAX / REGION_PAGES);
                let start = Region(region).start();
                let empty = (0..REGION_PAGES).all(|i| host.mfn(start.add(i)).is_none());
                if !empty {
                    continue;
                }
                step("POPULATE", [region, u64::from(*one_by_one)])
            }
            Op::FillHoles { gfn: at, pages } => step("FILL", [gfn(*at), u64::from(*pages)]),
            Op::BalloonOut {
                gfn: at,
                pages,
                step: by,
            } => step("OUT", [gfn(*at), u64::from(*pages), u64::from(*by)]),
            Op::Scatter {
                region,
                pages,
                step: by,
                ..
            } => {
                let region = u64::from(*region) % (GFN_MAX / REGION_PAGES);
                let start = Region(region).start().0;
                step("SCATTER", [start, u64::from(*pages), u64::from(*by)])
            }
            Op::Swap {
                a,
                b,
                pages,
                step: by,
            } => step(
                "SWAP",
                [gfn(*a), gfn(*b), u64::from(*pages), u64::from(*by)],
            ),
            Op::Pin(at) => {
                // Until the next step is done: Xen holds one page for a guest.
                pin = Some(gfn(*at)).filter(|&at| host.mfn(Gfn(at)).is_some());
                continue;
            }
            Op::Heal { .. } => step("HEAL", []),
            Op::Exchange(exchange) => {
                let lists = exchange.lists();
                let inside = |gfns: &[u64], order: u32| {
                    gfns.iter()
                        .all(|&gfn| gfn < GFN_MAX && gfn + (1 << order) <= GFN_MAX)
                };
                if !inside(&lists.ins, exchange.in_order)
                    || !inside(&lists.outs, exchange.out_order)
                {
                    continue;
                }
                if let Some(at) = pin {
                    add(&mut host, step("PIN", [at]));
                }
                let call = Call {
                    in_order: exchange.in_order,
                    out_order: exchange.out_order,
                    ins: &lists.ins,
                    outs: &lists.outs,
                    fault: None,
                    gfn_end: GFN_END,
                };
                let (done, result) = call.run(&mut memory(&host));
                let mut args = vec![
                    exchange.in_order.into(),
                    exchange.out_order.into(),
                    lists.ins.len() as u64,
                    lists.outs.len() as u64,
                    done,
                    result.err().map_or(0, |errno| errno as u64),
                ];
                args.extend(&lists.ins);
                args.extend(&lists.outs);
                step("EXCHANGE", args)
            }
            // What others do, and what only a toolstack can.
            _ => continue,
        };
        let pins = next.name == "HEAL";
        if let Some(at) = pin.filter(|_| pins) {
            add(&mut host, step("PIN", [at]));
        }
        let held = matches!(next.name, "HEAL" | "EXCHANGE");
        add(&mut host, next);
        if pin.take().is_some() && held {
            add(&mut host, step("UNPIN", []));
        }
    }
}

/// All that can be exported, or that was when the core failed.
pub fn exported(script: &Script) -> Vec<Step> {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (script, to) = (script.clone(), Arc::clone(&steps));

    // A thread of its own: the caller may be panicking already.
    let _ = std::thread::spawn(move || export(&script, &to)).join();
    let steps = steps
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    steps.clone()
}

fn play(host: &mut Host, step: &Step) {
    let args = &step.args;

    match (step.name, args.as_slice()) {
        ("POPULATE", &[region, one_by_one]) => {
            let done = host.populate(Region(region).start(), Order::REGION, one_by_one != 0);
            assert!(done, "{step:?}");
        }
        ("FILL", &[gfn, pages]) => {
            for i in 0..pages {
                let gfn = Gfn((gfn + i) % GFN_MAX);
                if host.mfn(gfn).is_none() {
                    assert!(host.populate(gfn, Order::PAGE, false), "{step:?}");
                }
            }
        }
        ("OUT" | "SCATTER", &[gfn, pages, by]) => {
            let gone: Vec<Gfn> = (0..pages)
                .map(|i| place(step.name, gfn, i * (by + 1)))
                .filter(|&gfn| host.balloon_out(gfn))
                .collect();
            if step.name == "SCATTER" {
                for &gfn in gone.iter().rev() {
                    assert!(host.populate(gfn, Order::PAGE, false), "{step:?}");
                }
            }
        }
        ("SWAP", &[a, b, pages, by]) => {
            for i in 0..pages {
                host.swap(Gfn((a + i) % GFN_MAX), Gfn((b + i * (by + 1)) % GFN_MAX));
            }
        }
        ("PIN", &[gfn]) => assert!(host.pin(Gfn(gfn)), "{step:?}"),
        ("UNPIN", &[]) => host.unpin_all(),
        ("HEAL", &[]) => {
            host.batch = BATCH_DEFAULT;
            for region in 0..GFN_MAX / REGION_PAGES {
                host.heal_now(Region(region));
            }
        }
        ("EXCHANGE", &[in_order, out_order, ins, outs, done, errno, ref lists @ ..]) => {
            assert_eq!(lists.len() as u64, ins + outs, "{step:?}");
            let (ins, outs) = lists.split_at(ins as usize);
            let lists = crate::host::Lists {
                ins: ins.to_vec(),
                outs: outs.to_vec(),
                fault: None,
            };
            let (was, result) = host.exchange(in_order as u32, out_order as u32, lists, 0);
            let result = result.err().map_or(0, |errno| errno as u64);
            assert_eq!((was, result), (done, errno), "{step:?}");
        }
        _ => panic!("{step:?}"),
    }
    host.check();
}

/// The n'th page from `first` on: of its region, for one that is scattered.
fn place(name: &str, first: u64, n: u64) -> Gfn {
    match name {
        "SCATTER" => Gfn(first + n % REGION_PAGES),
        _ => Gfn((first + n) % GFN_MAX),
    }
}

/// Replay on this machine; at the end, as in the guest, every region is whole.
pub fn replay(config: Config, steps: &[Step]) {
    let mut host = Host::new(roomy(config));

    for step in steps {
        play(&mut host, step);
    }
    play(&mut host, &step("FILL", [0, GFN_MAX]));
    for step in [step("UNPIN", []), step("HEAL", []), step("HEAL", [])] {
        play(&mut host, &step);
    }
    crate::script::quiet_regions_end_whole(&mut host);
    host.finish();
}

/// As it stands in a file.
pub fn text(steps: &[Step]) -> String {
    let mut text = String::from("/* SPDX-License-Identifier: GPL-2.0-only */\n");

    for step in steps {
        text.push_str(&format!("{}, {},", step.name, step.args.len()));
        for (i, arg) in (0..).zip(&step.args) {
            // Lists are long.
            text.push_str(if i % 16 == 15 { "\n    " } else { " " });
            text.push_str(&format!("{arg},"));
        }
        text.push('\n');
    }
    text
}

/// The reverse. Panics at what is none.
pub fn parse(text: &str) -> Vec<Step> {
    let lines = text.lines().filter(|line| !line.starts_with("/*"));
    let words: Vec<&str> = lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    let mut words = words.into_iter();
    let mut steps = Vec::new();

    while let Some(name) = words.next() {
        let known = NAMES.into_iter().find(|known| *known == name);
        let mut number = || words.next().and_then(|n| n.parse().ok()).expect("a number");
        let count = number();
        steps.push(Step {
            name: known.unwrap_or_else(|| panic!("{name} is no step")),
            args: (0..count).map(|_| number()).collect(),
        });
    }
    steps
}
