// SPDX-License-Identifier: GPL-2.0-only
//! Random scripts: what the core promises holds whatever happens. The machine
//! checks after each step, and while the core is at work; see
//! `Host::check()`.
//!
//! `PROPTEST_CASES` sets how many scripts each property is tried with.

use machine::replay;
use machine::script::{self, Script, quiet_regions_end_whole};
use p2m::account::{self, Counter, Outcome, Reason};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::sync::atomic::{AtomicU64, Ordering};

/// Says how much was tried when each property is done.
struct Tried(AtomicU64);

static TRIED: Tried = Tried(AtomicU64::new(0));

impl Tried {
    fn count(&self) {
        let tried = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        if tried % 1000 == 0 {
            println!("properties: 1000 scripts more, {tried} so far");
        }
    }
}

/// Leaves a script on which a property fails in a file, as a guest can replay it.
/// proptest tries smaller ones, and the last that fails is the smallest.
struct Kept<'a>(&'static str, &'a Script);

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = format!("{}/{}.inc", env!("CARGO_TARGET_TMPDIR"), self.0);
            let text = replay::text(&replay::exported(self.1));
            if std::fs::write(&path, text).is_ok() {
                eprintln!("properties: for tests/xtf/tests/coalesce-replay: {path}");
            }
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    let env = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();

    ProptestConfig {
        cases: if env { default.cases } else { cases },
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config(96))]

    /// Nobody else acts: what an exchange does and reports is exactly what the
    /// reference model says.
    #[test]
    fn alone(script in script::script(false, false)) {
        TRIED.count();
        let _kept = Kept("alone", &script);
        script.play().finish();
    }

    /// vCPUs, mappers and another domain act at every call of the core.
    #[test]
    fn among_others(script in script::script(true, false)) {
        TRIED.count();
        let _kept = Kept("among_others", &script);
        script.play().finish();
    }

    /// The guest may die at every call of the core, and its teardown goes on
    /// meanwhile.
    #[test]
    fn dying(script in script::script(true, true)) {
        TRIED.count();
        let _kept = Kept("dying", &script);
        script.play().finish();
    }

    /// When nothing is in the way any more, every region of RAM ends whole.
    #[test]
    fn quiet_regions(script in script::script(true, false)) {
        TRIED.count();
        let _kept = Kept("quiet_regions", &script);
        let mut host = script.play();
        quiet_regions_end_whole(&mut host);
        host.finish();
    }
}

/// The scripts come to every act of the core, and to reasons not to act that come
/// and go: properties of what never happens are worth nothing. (Each reason is
/// brought about deliberately in `reasons.rs`.)
#[test]
fn scripts_reach_everything() {
    let mut runner = TestRunner::deterministic();
    let strategy = script::script(true, false);
    let mut counters = [0u64; account::ENTRIES];

    let wanted = [
        Counter::Promoted as usize,
        Counter::Completed as usize,
        Counter::Migrated as usize,
        Counter::SplitsAvoided as usize,
        Counter::ExchangedPages as usize,
        Outcome::Refused(Reason::Hole).index(),
        Outcome::Refused(Reason::Pinned).index(),
        Outcome::Refused(Reason::Special).index(),
        Outcome::Refused(Reason::MemType).index(),
        Outcome::Refused(Reason::Access).index(),
        Outcome::Refused(Reason::NoMemory).index(),
        Outcome::Refused(Reason::LogDirty).index(),
        Outcome::Refused(Reason::Mode).index(),
        Outcome::Refused(Reason::Iommu).index(),
        Outcome::Refused(Reason::Altp2m).index(),
        Outcome::Refused(Reason::Nested).index(),
        Outcome::Refused(Reason::PopulateOnDemand).index(),
        Outcome::Refused(Reason::Sharing).index(),
    ];
    let missing = |counters: &[u64]| wanted.iter().find(|&&i| counters[i] == 0).copied();

    for tried in 1..=2000 {
        let script = strategy.new_tree(&mut runner).unwrap().current();
        let mut host = script.play();
        quiet_regions_end_whole(&mut host);
        for (index, sum) in counters.iter_mut().enumerate() {
            *sum += host.account.get(index);
        }
        if missing(&counters).is_none() {
            println!("everything was reached by {tried} scripts");
            return;
        }
    }
    panic!("no script counted anything at {:?}", missing(&counters));
}
