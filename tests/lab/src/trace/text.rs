// SPDX-License-Identifier: GPL-2.0-only
//! A trace for a person to read.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};

use super::events::{self, Act, Event, Kind};
use super::format::Trace;

/// The acts of a trace, in the order of time.
pub fn acts(trace: &Trace) -> Vec<Act> {
    trace
        .by_time()
        .into_iter()
        .filter_map(|(_, record)| match Event::decode(record) {
            Event::Act(act) => Some(act),
            _ => None,
        })
        .collect()
}

/// One line for each record of ours and each change of the p2m; with `all`, for every record.
pub fn print_records(trace: &Trace, all: bool, out: &mut impl Write) -> io::Result<()> {
    let records = trace.by_time();
    let start = trace.records.iter().find_map(|r| r.tsc);
    let start = records
        .iter()
        .filter_map(|(_, r)| r.tsc)
        .min()
        .or(start)
        .unwrap_or(0);

    for (time, record) in records {
        let event = Event::decode(record);
        let mut text = event.to_string();
        if event == Event::Other {
            if !all {
                continue;
            }
            let words: Vec<_> = record.words().map(|w| format!("{w:#x}")).collect();
            text = words.join(" ");
        }
        // A record without a time of its own happened after the one before it on its CPU.
        let mark = if record.tsc.is_some() { ' ' } else { '>' };
        writeln!(
            out,
            "{mark}{:>14} cpu{} {:<14} {text}",
            time.saturating_sub(start),
            record.cpu,
            events::name(record.event),
        )?;
    }
    Ok(())
}

/// How often what happened.
pub fn table(trace: &Trace) -> String {
    #[derive(Default)]
    struct Row {
        records: u64,
        pages: u64,
        hold: u32,
        ours: bool,
    }

    let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
    for record in &trace.records {
        let row = rows.entry(record.event).or_default();
        row.records += 1;
        if let Event::Act(act) = Event::decode(record) {
            row.ours = true;
            row.pages += match act.kind {
                Kind::Split | Kind::Refuse => 0,
                _ => u64::from(act.low),
            };
            row.hold = row.hold.max(act.hold);
        }
    }

    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "event",
        "records",
        "pages",
        "longest lock hold (ticks)",
    ]);
    for (event, row) in &rows {
        let ours = |value: String| if row.ours { value } else { String::new() };
        table.add_row([
            events::name(*event),
            row.records.to_string(),
            ours(row.pages.to_string()),
            ours(row.hold.to_string()),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }

    let mut text = table.to_string();
    let cpus: std::collections::BTreeSet<_> = trace.records.iter().map(|r| r.cpu).collect();
    text += &format!(
        "\n{} records of {} CPUs in {} windows",
        trace.records.len(),
        cpus.len(),
        trace.windows
    );
    if trace.lost != 0 {
        text += &format!(
            "; Xen had no room for {} more: give it a larger tbuf_size=",
            trace.lost
        );
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::format::{TRC_LOST_RECORDS, Writer, encode};

    #[test]
    fn a_trace_as_text() {
        let mut writer = Writer::default();
        writer.window(
            0,
            &[
                &encode(0x10f004, None, &[0x200, 0, 0x800, 0, 0, 9 << 16]),
                &encode(0x10f020, Some(1000), &[0x101, 0x200, 0, 0x800, 0, 0, 77]),
                &encode(0x10f004, None, &[0x201, 0, 0x9999, 0, 0, 0]),
                &encode(TRC_LOST_RECORDS, Some(4000), &[5, 0, 0, 0]),
            ],
        );
        writer.window(
            1,
            &[
                &encode(
                    0x10f022,
                    Some(3000),
                    &[1, 0x200, 0, 0x800, 0, 1 | 1 << 16, 999],
                ),
                &encode(0x21001, Some(3100), &[1, 2]),
            ],
        );
        let trace = Trace::parse(&writer.bytes).unwrap();
        let mut text = vec![];
        print_records(&trace, false, &mut text).unwrap();
        text.extend(b"--- all\n");
        print_records(&trace, true, &mut text).unwrap();
        text.extend(table(&trace).as_bytes());
        insta::assert_snapshot!(String::from_utf8(text).unwrap());
        assert_eq!(acts(&trace).len(), 2);
    }
}
