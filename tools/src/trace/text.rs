// SPDX-License-Identifier: GPL-2.0-only
//! A trace for a person to read.

use std::io::{self, Write};

use super::events::{self, Event};
use super::order::Timed;

/// Prints a line for each record of ours and each change of the p2m, or for every record.
#[derive(Debug)]
pub struct Printer<W> {
    out: W,
    all: bool,
    start: Option<u64>,
}

impl<W: Write> Printer<W> {
    pub fn new(out: W, all: bool) -> Printer<W> {
        Printer {
            out,
            all,
            start: None,
        }
    }

    /// Prints the next record in the order of time; times count from the first one that has one.
    pub fn print(&mut self, record: &Timed) -> io::Result<()> {
        let start = match self.start {
            Some(start) => start,
            None if record.time == 0 => 0,
            None => *self.start.insert(record.time),
        };
        let event = Event::decode(record.event, record.extra());
        let mut text = event.to_string();
        if event == Event::Other {
            if !self.all {
                return Ok(());
            }
            let words: Vec<_> = words(record.extra()).map(|w| format!("{w:#x}")).collect();
            text = words.join(" ");
        }
        // A record without a time of its own happened after the one before it on its CPU.
        let mark = if record.stamped { ' ' } else { '>' };
        writeln!(
            self.out,
            "{mark}{:>14} cpu{} {:<14} {text}",
            record.time.saturating_sub(start),
            record.cpu,
            events::name(record.event),
        )
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn words(extra: &[u8]) -> impl Iterator<Item = u32> + '_ {
    extra
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::scan;
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
        let mut text = vec![];
        for all in [false, true] {
            let mut printer = Printer::new(&mut text, all);
            scan(&writer.bytes[..], all, |timed| {
                printer.print(timed).unwrap()
            });
            text.extend(b"---\n");
        }
        insta::assert_snapshot!(String::from_utf8(text).unwrap());
    }
}
