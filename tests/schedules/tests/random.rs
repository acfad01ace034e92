// SPDX-License-Identifier: GPL-2.0-only
//! Everybody is a thread, and shuttle chooses who goes on at each call of the
//! core.
//!
//! `SCHEDULES` sets how many schedules there are in all, `SHUTTLE_RANDOM_SEED` the
//! seed; it is printed, and the same seed gives the same schedules. A schedule
//! that fails is printed too: `SCENE='name@machine:cast' SCHEDULE=text` plays it again.

use machine::host::{Act, Host};
use schedules::{Deed, End, MACHINES, Others, PAGES, Scene};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::sync::Mutex;
use shuttle::{Config, FailurePersistence, Runner, thread};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Who is at work besides the core.
fn cast(n: usize) -> Vec<Vec<Act>> {
    let [a, b, ..] = PAGES;
    let write = |vcpu, gfn| Act::Write { vcpu, gfn };
    let read = |vcpu, gfn| Act::Read { vcpu, gfn };
    let vcpus = [
        vec![write(0, a), read(0, b), write(0, b)],
        vec![read(1, a), write(1, a), read(1, b)],
    ];
    let mapper = vec![
        Act::Map { gfn: a },
        Act::MapperWrite { which: 0 },
        Act::Unmap { which: 0 },
    ];
    let other = vec![Act::OtherAlloc, Act::OtherFree { which: 1 }];
    let iommu = 0;
    let device = vec![
        Act::Fact {
            fact: iommu,
            on: true,
        },
        Act::Dma {
            gfn: a,
            write: true,
        },
        Act::Dma {
            gfn: b,
            write: false,
        },
    ];
    let toolstack = vec![
        Act::Die,
        Act::Relinquish { pages: 1 },
        Act::Relinquish { pages: 255 },
    ];
    let renew = vec![
        Act::Renew { gfn: PAGES[2] },
        Act::Evict { vcpu: 0, which: 0 },
    ];

    match n {
        0 => vcpus.to_vec(),
        1 => vec![vcpus[0].clone(), mapper, other],
        2 => vec![vcpus[1].clone(), device, renew],
        _ => vec![vcpus[0].clone(), mapper, toolstack],
    }
}

const CASTS: usize = 4;

/// One execution.
fn execute(scene: &Scene, cast: &[Vec<Act>], calls: u8) -> End {
    let mut host = scene.host.clone();
    let others = Others(vec![VecDeque::new(); cast.len()]);
    let others = Arc::new(Mutex::new(others));
    let at_a_call = Arc::clone(&others);

    host.between = Some(Arc::new(move |host: &mut Host| {
        thread::yield_now();
        at_a_call.lock().unwrap().act(host);
    }));
    let threads: Vec<_> = (0..)
        .zip(cast.to_vec())
        .map(|(who, acts): (usize, Vec<Act>)| {
            let others = Arc::clone(&others);
            thread::spawn(move || {
                let mut random = shuttle::rand::thread_rng();
                // Begin at any of the core's calls, and go on before long.
                let mut patience = calls;
                for act in acts {
                    let calls = random.gen_range(0..patience);
                    patience = calls / 4 + 2;
                    others.lock().unwrap().0[who].push_back((calls, act));
                }
            })
        })
        .collect();

    let end = scene.play(&mut host);
    for thread in threads {
        thread.join().unwrap();
    }
    host.between = None;
    others.lock().unwrap().finish(&mut host);
    host.check();
    end
}

fn run(
    scheduler: impl Scheduler + 'static,
    scene: &Scene,
    n: usize,
    ends: &Arc<std::sync::Mutex<BTreeMap<String, u64>>>,
) -> usize {
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    config.silence_warnings = true;
    config.failure_persistence = FailurePersistence::Print;
    let (scene, cast, ends) = (scene.clone(), cast(n), Arc::clone(ends));
    let calls = scene.calls();

    Runner::new(scheduler, config).run(move || {
        let end = execute(&scene, &cast, calls);
        let mut ends = ends.lock().unwrap();
        *ends.entry(format!("{end:?}")).or_default() += 1;
    })
}

/// Says, should it come to that, in which scene it was.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("schedules: it was in {}", self.0);
        }
    }
}

fn scenes() -> Vec<(String, Scene)> {
    let mut all = Vec::new();

    for (m, machine) in (0..).zip(MACHINES) {
        for scene in Scene::all(machine, 3) {
            all.push((format!("{}@{m}", scene.name), scene));
        }
    }
    all
}

#[test]
fn schedules() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let total = number("SCHEDULES").unwrap_or(1_000_000);
    let seed = number("SHUTTLE_RANDOM_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_nanos() as u64)
    });
    println!("schedules: seed {seed} (SHUTTLE_RANDOM_SEED={seed} tries the same ones)");

    let scenes = scenes();
    let each = (total as usize).div_ceil(scenes.len() * CASTS * 2);
    let work: Vec<_> = scenes
        .iter()
        .flat_map(|(name, scene)| (0..CASTS).map(move |n| (name, scene, n)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let start = Instant::now();
    let order = std::sync::atomic::Ordering::Relaxed;

    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some(&(name, scene, n)) = work.get(next.fetch_add(1, order)) {
                    let since = Instant::now();
                    let ends = Arc::default();
                    let _scene = Named(format!("SCENE='{name}:{n}'"));
                    let random = RandomScheduler::new_from_seed(seed, each);
                    let pct = PctScheduler::new_from_seed(seed, 3, each);
                    let ran = run(random, scene, n, &ends) + run(pct, scene, n, &ends);
                    done.fetch_add(ran, order);
                    let ends = ends.lock().unwrap();
                    if std::env::var_os("VERBOSE").is_some() {
                        let seconds = since.elapsed().as_secs_f64();
                        println!("schedules: {name}:{n}: {ran} in {seconds:.1} s: {ends:?}");
                    }
                    // A guest that is killed is no more of use.
                    assert!(n < 3 || ends.len() > 1, "{name} {n}: {ends:?}");
                }
            });
        }
    });
    let done = done.into_inner();
    println!(
        "schedules: {done} schedules, seed {seed}, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(done as u64 >= total);
}

/// Play one schedule again, as shuttle printed it.
#[test]
fn replay() {
    let (Ok(which), Ok(schedule)) = (std::env::var("SCENE"), std::env::var("SCHEDULE")) else {
        // Nothing to play again: the way there is tried instead.
        let (_, scene) = scenes().swap_remove(0);
        let first = Arc::default();
        run(RandomScheduler::new_from_seed(7, 50), &scene, 1, &first);
        let second = Arc::default();
        run(RandomScheduler::new_from_seed(7, 50), &scene, 1, &second);
        assert_eq!(
            *first.lock().unwrap(),
            *second.lock().unwrap(),
            "a seed tells it all"
        );
        return;
    };
    let (name, n) = which.rsplit_once(':').expect("SCENE=name@machine:cast");
    let (_, scene) = scenes()
        .into_iter()
        .find(|(other, _)| other == name)
        .expect("there is such a scene");
    let scheduler = ReplayScheduler::new_from_encoded(&schedule);
    run(
        scheduler,
        &scene,
        n.parse().expect("a number"),
        &Arc::default(),
    );
}

/// Each scene is what it says: with nobody else, it comes to its own end.
#[test]
fn alone() {
    for (name, scene) in scenes() {
        let mut host = scene.host.clone();
        let calls = host.calls;
        let end = scene.play(&mut host);
        host.check();
        println!(
            "{name}: {end:?}, {} calls, {} of interest",
            host.calls - calls,
            scene.calls()
        );
        match scene.deed {
            Deed::Heal => assert!(!format!("{end:?}").contains("Refused"), "{name}: {end:?}"),
            Deed::Exchange(..) => assert_eq!(end, End::Exchanged(2, true), "{name}"),
        }
        scene.quiet(host);
    }
}
