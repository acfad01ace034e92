// SPDX-License-Identifier: GPL-2.0-only
//! A long live trace: memory stays flat, and what is told at the end is of all of it.

mod common;

use std::fs;
use std::io::Write;
use std::process::Stdio;

use common::tool;
use xen_coalesce::trace::events::Kind;
use xen_coalesce::trace::format::{Writer, encode};

const CPUS: u32 = 4;
/// Regions of each CPU, which break and heal in each round.
const REGIONS: u32 = 512;

/// One round of xentrace over all CPUs, and where in it the timestamps are.
struct Round {
    bytes: Vec<u8>,
    stamps: Vec<usize>,
    /// Ticks from one round to the next.
    length: u64,
    /// Acts that heal.
    healed: u64,
}

impl Round {
    fn new() -> Round {
        let mut round = Round {
            bytes: vec![],
            stamps: vec![],
            length: 10_000_000,
            healed: 0,
        };
        for cpu in 0..CPUS {
            let mut records: Vec<Vec<u8>> = vec![];
            for n in 0..REGIONS {
                let gfn = (cpu * REGIONS + n) << 9;
                let time = u64::from(1000 + n * 10_000 + cpu * 7);
                let act = |kind: Kind, at: u64, pages: u32, hold: u32| {
                    encode(
                        kind.event(),
                        Some(at),
                        &[1 | 5 << 16, gfn, 0, 0x800, 0, pages, hold],
                    )
                };
                // Not of interest: scheduling.
                for k in 0..6 {
                    records.push(encode(0x2f000 + k, Some(time + u64::from(k)), &[5, k, n]));
                }
                records.push(encode(0x10f005, None, &[gfn + 7, 0, 5, 0]));
                records.push(encode(0x10f004, None, &[gfn + 7, 0, !0, !0, 1, 5]));
                records.push(act(Kind::Split, time + 10, 0, 0));
                records.push(encode(0x10f004, None, &[gfn + 7, 0, 0x99, 0, 0, 5]));
                records.push(encode(0x10f004, None, &[gfn, 0, 0x800, 0, 0, 5 | 9 << 16]));
                records.push(act(Kind::Complete, time + 5000, 1 | 1 << 16, 3000 + n));
                round.healed += 1;
            }
            let mut at = round.bytes.len() + 12;
            for record in &records {
                if record[3] & 0x80 != 0 {
                    round.stamps.push(at + 4);
                }
                at += record.len();
            }
            let pieces: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let mut writer = Writer::default();
            writer.window(cpu, &pieces);
            round.bytes.extend(writer.bytes);
        }
        round
    }

    /// Time goes on.
    fn next(&mut self) {
        for stamp in &self.stamps {
            let stamp = &mut self.bytes[*stamp..*stamp + 8];
            let time = u64::from_le_bytes(stamp.try_into().unwrap()) + self.length;
            stamp.copy_from_slice(&time.to_le_bytes());
        }
    }
}

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
    let mut round = Round::new();
    let (mut sent, mut rounds, mut early) = (0, 0, None);
    while sent < BYTES {
        pipe.write_all(&round.bytes).unwrap();
        sent += round.bytes.len();
        rounds += 1;
        round.next();
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
