// SPDX-License-Identifier: GPL-2.0-only
//! A long live trace: memory stays flat, and what is told at the end is of all of it.

mod common;

use std::fs;
use std::io::Write;
use std::process::Stdio;

use common::tool;
use xen_coalesce::trace::busy::{CPUS, REGIONS, Round};

/// The most memory that a process has had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .expect("a size")
}

fn stays_flat(args: &[&str]) -> Vec<u8> {
    const BYTES: usize = 320 << 20;
    const EARLY: usize = 32 << 20;

    let mut child = tool(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![];
        std::io::Read::read_to_end(&mut out, &mut bytes).map(|_| bytes)
    });
    let mut pipe = child.stdin.take().unwrap();
    let mut round = Round::default();
    let (mut sent, mut rounds, mut early) = (0, 0, None);
    while sent < BYTES {
        pipe.write_all(&round.bytes).unwrap();
        sent += round.bytes.len();
        rounds += 1;
        round.advance();
        if sent >= EARLY {
            early.get_or_insert_with(|| peak(child.id()));
        }
    }
    let (early, late) = (early.unwrap(), peak(child.id()));
    drop(pipe);
    assert!(child.wait().unwrap().success());
    assert!(early < 48 << 10, "{early} KiB");
    assert!(
        late <= early + (2 << 10),
        "{early} KiB after a tenth, {late} KiB after all"
    );

    let output = reader.join().unwrap().unwrap();
    assert!(rounds > 100, "{rounds} rounds");
    if args[0] == "stats" {
        let stats: serde_json::Value = serde_json::from_slice(&output).unwrap();
        let counts = &stats["domains"][0]["counts"];
        assert_eq!(counts["completed"], rounds * round.healed);
        assert_eq!(counts["splits"]["balloon"], rounds * round.healed);
        assert_eq!(stats["trace"]["late"], 0);
        assert_eq!(stats["trace"]["bytes"], sent);
        assert_eq!(stats["domains"][0]["regions"], CPUS * REGIONS);
    }
    output
}

#[test]
fn figures_in_flat_memory() {
    stays_flat(&["stats"]);
}

#[test]
fn a_page_in_flat_memory() {
    let page = stays_flat(&["plot", "-o", "-"]);
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
}
