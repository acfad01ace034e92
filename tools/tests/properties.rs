// SPDX-License-Identifier: GPL-2.0-only
//! What holds for every trace: what is written is read, noise is no crash, and figures add up.

use proptest::collection::vec;
use proptest::prelude::*;
use xen_coalesce::analysis::Analysis;
use xen_coalesce::perfetto::Exporter;
use xen_coalesce::report::{self, Look, Stats};
use xen_coalesce::scan::{Scan, scan};
use xen_coalesce::trace::Trace;
use xen_coalesce::trace::events::Kind;
use xen_coalesce::trace::format::{EXTRA_MAX, TRC_LOST_RECORDS, Writer, encode};
use xen_coalesce::words::Clock;
use xen_coalesce::{analysis::View, plot};

/// Everything that the tool can make of a trace.
fn all_of_it(bytes: &[u8]) -> (Scan, View) {
    let clock = Clock {
        tsc_mhz: Some(1000.0),
    };
    let mut analysis = Analysis::new(true);
    let read = scan(bytes, false, |timed| analysis.take(timed));
    let view = analysis.finish(read.first, read.last);
    let look = Look {
        blocks: true,
        bold: false,
        width: 80,
    };
    let page = report::page("noise", &read, &view, clock, look);
    assert!(page.lines().count() < 500);
    assert!(!plot::page("<noise>", &read, &view, Clock::default()).contains("NaN"));
    serde_json::to_vec(&Stats::new(&read, &view, clock)).expect("figures are JSON");

    let mut file = vec![];
    let mut exporter = Exporter::new(&mut file, clock);
    let again = scan(bytes, false, |timed| exporter.take(timed).expect("room"));
    exporter.finish(&again).expect("room");
    assert_eq!(again, read);
    (read, view)
}

#[derive(Clone, Debug)]
struct Said {
    cpu: u32,
    event: u32,
    tsc: Option<u64>,
    extra: Vec<u32>,
}

fn said() -> impl Strategy<Value = Said> {
    let event = prop_oneof![
        3 => (0u32..40).prop_map(|n| 0x10f000 + n),
        1 => 1u32..0x1000_0000,
    ];
    let extra = vec(
        prop_oneof![0u32..4, 0u32..2048, any::<u32>()],
        0..=EXTRA_MAX,
    );
    (0u32..4, event, proptest::option::of(1u64..1 << 40), extra).prop_map(
        |(cpu, event, tsc, extra)| Said {
            cpu,
            event,
            tsc,
            extra,
        },
    )
}

/// A record of the coalescer that can be.
fn act() -> impl Strategy<Value = Vec<u8>> {
    let kind = (0..Kind::ALL.len()).prop_map(|n| Kind::ALL[n]);
    let numbers = (0u32..3, 0u32..64, 0u32..20, 0u32..513, any::<u32>());
    (kind, numbers, 1u64..1 << 32).prop_map(|(kind, (domid, region, code, pages, hold), tsc)| {
        let first = 1 | code << 8 | domid << 16;
        let words = [first, region << 9, 0, 0x800, 0, pages, hold];
        encode(kind.event(), Some(tsc), &words)
    })
}

proptest! {
    #[test]
    fn noise_is_no_crash(bytes in vec(any::<u8>(), 0..4096)) {
        all_of_it(&bytes);
    }

    /// Records of any content in sound windows.
    #[test]
    fn what_is_written_is_read(windows in vec(vec(said(), 0..20), 0..20)) {
        let mut writer = Writer::default();
        let mut sent = vec![];
        let mut lost = 0u64;
        for window in &windows {
            let mut pieces = vec![];
            let cpu = window.first().map_or(0, |said| said.cpu);
            for said in window {
                // Xen's own marks are no records.
                if said.event & 0xffff_ff00 == 0x1f000 {
                    continue;
                }
                sent.push((cpu, said.event, said.tsc, said.extra.clone()));
                pieces.push(encode(said.event, said.tsc, &said.extra));
            }
            lost += 3;
            pieces.push(encode(TRC_LOST_RECORDS, None, &[3, 0]));
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            writer.window(cpu, &pieces);
        }
        let trace = Trace::parse(&writer.bytes).expect("a sound trace");
        let read: Vec<_> = trace
            .records
            .iter()
            .map(|record| {
                let words = record.extra.chunks_exact(4);
                let words = words.map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
                (record.cpu, record.event, record.tsc, words.collect::<Vec<u32>>())
            })
            .collect();
        prop_assert_eq!(read, sent);
        prop_assert_eq!((trace.lost, trace.windows), (lost, windows.len() as u64));

        let (scan, _) = all_of_it(&writer.bytes);
        prop_assert!(scan.sound());
        prop_assert_eq!(scan.records, trace.records.len() as u64);
        prop_assert_eq!(scan.events.values().sum::<u64>(), scan.records);
    }

    /// One byte of a sound trace is another: it is read to the end, and no record comes up that is
    /// not there.
    #[test]
    fn damage_is_survived(acts in vec(act(), 1..60), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut writer = Writer::default();
        for (n, some) in acts.chunks(7).enumerate() {
            let pieces: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
            writer.window(n as u32 % 3, &pieces);
        }
        let mut bytes = writer.bytes;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (scan, _) = all_of_it(&bytes);
        prop_assert_eq!(scan.bytes, bytes.len() as u64);
        // A header that changes can make one record two or more, but none of less than a word.
        prop_assert!(scan.records * 4 <= scan.bytes);
    }

    /// Acts in any order: regions are counted once, shares are shares, and what is told of the whole
    /// is the sum of what is told of the parts.
    #[test]
    fn figures_add_up(acts in vec(act(), 0..300)) {
        let mut writer = Writer::default();
        for (n, some) in acts.chunks(11).enumerate() {
            let pieces: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
            writer.window(n as u32 % 3, &pieces);
        }
        let (scan, view) = all_of_it(&writer.bytes);
        prop_assert!(scan.sound());
        let mut records = 0;
        for domain in &view.domains {
            let counts = &domain.counts;
            records += counts.healed() + counts.all_splits() + counts.splits_1g + counts.all_refused()
                + counts.exchange_batches;
            for step in &domain.steps {
                for tally in [step.start, step.low, step.end] {
                    prop_assert!(tally.0.iter().all(|n| *n >= 0), "{step:?}");
                    prop_assert!(tally.0.iter().sum::<i64>() as u64 <= domain.regions);
                }
            }
            let steps: u64 = domain.steps.iter().flat_map(|s| s.acts).map(u64::from).sum();
            prop_assert_eq!(
                steps,
                counts.healed() + counts.all_splits() + counts.splits_1g + counts.all_refused()
                    + counts.exchange_batches
            );
            let map = domain.map.as_ref().expect("few domains");
            let rows: u64 = map.rows.iter().map(|row| {
                let last = row.cells.last().expect("a column");
                last.0.iter().map(|n| u64::from(*n)).sum::<u64>()
            }).sum();
            let last = domain.steps.last().expect("a step").end;
            prop_assert_eq!(rows, last.0.iter().sum::<i64>() as u64);
        }
        prop_assert_eq!(records, acts.len() as u64);
    }
}
