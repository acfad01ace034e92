// SPDX-License-Identifier: GPL-2.0-only
//! A trace of a host on which regions break and heal without end: what reading a long one takes, in
//! time and memory, is measured with it.

use super::events::Kind;
use super::format::{Writer, encode};

pub const CPUS: u32 = 4;
/// Regions of each CPU, which break and heal in each round.
pub const REGIONS: u32 = 512;

/// One round of xentrace over all CPUs: 2,048 regions, and 12 records for each.
pub struct Round {
    pub bytes: Vec<u8>,
    /// Where in it the timestamps are.
    stamps: Vec<usize>,
    /// Ticks from one round to the next.
    length: u64,
    /// Acts that heal.
    pub healed: u64,
}

impl Default for Round {
    fn default() -> Round {
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
}

impl Round {
    /// Time goes on.
    pub fn advance(&mut self) {
        for stamp in &self.stamps {
            let stamp = &mut self.bytes[*stamp..*stamp + 8];
            let time = u64::from_le_bytes(stamp.try_into().unwrap_or_default()) + self.length;
            stamp.copy_from_slice(&time.to_le_bytes());
        }
    }
}
