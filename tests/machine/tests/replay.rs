// SPDX-License-Identifier: GPL-2.0-only
//! What a guest replays on Xen is what this machine plays.
//!
//! `REPLAY_SEED=n cargo test -p machine --test replay write -- --nocapture` prints a
//! script of random choices.

use arch::Format;
use machine::host::Config;
use machine::replay::{NAMES, Step, exported, parse, replay, text};
use machine::script;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config as Runs, RngAlgorithm, TestRng, TestRunner};

/// The one that `make -f build.mk check-lab` replays.
const COMMITTED: &str = include_str!("../../xtf/tests/coalesce-replay/script.inc");

#[test]
fn the_committed_script_holds_here() {
    let steps = parse(COMMITTED);

    assert_eq!(text(&steps), COMMITTED);
    for name in NAMES {
        assert!(
            steps.iter().any(|step| step.name == name),
            "no {name} in it"
        );
    }
    let exchanged = |step: &&Step| step.name == "EXCHANGE";
    let errnos: Vec<u64> = steps
        .iter()
        .filter(exchanged)
        .map(|step| step.args[5])
        .collect();
    assert!(
        errnos.contains(&0) && errnos.iter().any(|&errno| errno != 0),
        "{errnos:?}"
    );
    for format in [Format::Npt, Format::Ept] {
        let config = Config {
            format,
            ..Config::default()
        };
        replay(config, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any script can be exported, read, and replayed.
    #[test]
    fn scripts_are_exported(script in script::script(true, false)) {
        let steps = exported(&script);

        prop_assert_eq!(&parse(&text(&steps)), &steps);
        replay(script.config, &steps);
    }
}

/// Print one with all kinds of steps in it, that is not too long.
#[test]
fn write() {
    let seed: u64 = std::env::var("REPLAY_SEED").map_or(1, |n| n.parse().expect("a number"));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Runs::default(), random);
    let strategy = proptest::collection::vec(script::script(false, false), 8);

    for _ in 0..64 {
        let scripts = strategy.new_tree(&mut runner).expect("a script").current();
        let mut whole = scripts[0].clone();
        whole.ops = scripts.into_iter().flat_map(|script| script.ops).collect();
        let steps = exported(&whole);
        let has = |name: &str| steps.iter().any(|step| step.name == name);
        let exchange = |bad: bool| {
            let found = |step: &Step| step.name == "EXCHANGE" && (step.args[5] != 0) == bad;
            steps.iter().filter(|step| found(step)).count()
        };
        if NAMES.into_iter().all(has) && exchange(false) > 1 && exchange(true) > 1 {
            println!("{}", text(&steps));
            return;
        }
    }
    panic!("no script has all kinds of steps");
}
