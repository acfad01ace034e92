// SPDX-License-Identifier: GPL-2.0-only
//! Takes a serial console apart.
//!
//! Xen and the hardware domain share one serial line. Xen writes `(XEN) ` at the start of each of
//! its lines; the hardware domain's bytes are passed on as they are, in pieces of up to 127 bytes.
//! So a message of Xen can start in the middle of a line of the guest, which then goes on after
//! it: `@map all WWWW(XEN) message` / `WWWW`. [`Assembler`] puts such lines together again.

use std::fmt;
use std::time::Duration;

/// Longest line that is kept in one piece: a console that never ends its line must not fill the
/// host's memory.
const LONGEST_LINE: usize = 1 << 16;

/// What Xen puts before each line of its own.
const XEN_PREFIX: &str = "(XEN) ";

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Xen,
    Guest,
}

/// A line of the console, without its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was complete, counted from the start of the emulator.
    pub at: Duration,
    pub source: Source,
    pub text: String,
}

impl Line {
    pub fn from_xen(&self) -> bool {
        self.source == Source::Xen
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.from_xen() { XEN_PREFIX } else { "" };
        write!(f, "{prefix}{}", self.text)
    }
}

/// A line as it came over the wire, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLine {
    pub at: Duration,
    pub text: String,
}

/// Bytes in, lines out.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    /// The start of a guest's line that a message of Xen cut in two.
    fragment: String,
}

impl Assembler {
    pub fn new() -> Assembler {
        Assembler::default()
    }

    /// Takes what was read at the time `at`; hands each complete line on, first as it came, then
    /// as who said what.
    pub fn feed(
        &mut self,
        at: Duration,
        bytes: &[u8],
        raw: &mut Vec<RawLine>,
        lines: &mut Vec<Line>,
    ) {
        for &byte in bytes {
            if byte != b'\n' {
                self.bytes.push(byte);
            }
            if byte == b'\n' || self.bytes.len() >= LONGEST_LINE {
                self.end_line(at, raw, lines);
            }
        }
    }

    /// The console has ended: what is left counts as a line.
    pub fn finish(&mut self, at: Duration, raw: &mut Vec<RawLine>, lines: &mut Vec<Line>) {
        if !self.bytes.is_empty() {
            self.end_line(at, raw, lines);
        }
        if !self.fragment.is_empty() {
            let text = std::mem::take(&mut self.fragment);
            push_guest(at, &text, lines);
        }
    }

    fn end_line(&mut self, at: Duration, raw: &mut Vec<RawLine>, lines: &mut Vec<Line>) {
        // Xen and the test framework each make \r\n of \n, which gives \r\r\n.
        let text = String::from_utf8_lossy(&self.bytes).replace('\r', "");
        self.bytes.clear();
        raw.push(RawLine {
            at,
            text: text.clone(),
        });

        match text.find(XEN_PREFIX) {
            Some(start) => {
                self.fragment.push_str(&text[..start]);
                lines.push(Line {
                    at,
                    source: Source::Xen,
                    text: without_stamp(&text[start + XEN_PREFIX.len()..]).to_owned(),
                });
            }
            None => {
                let whole = std::mem::take(&mut self.fragment) + &text;
                push_guest(at, &whole, lines);
            }
        }
    }
}

fn push_guest(at: Duration, text: &str, lines: &mut Vec<Line>) {
    lines.push(Line {
        at,
        source: Source::Guest,
        text: without_domain(text).to_owned(),
    });
}

/// Takes the time stamp of `console_timestamps=` off, if there is one: `[    1.234567] text`.
fn without_stamp(text: &str) -> &str {
    let stamped = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .filter(|(stamp, _)| {
            !stamp.is_empty()
                && stamp
                    .chars()
                    .all(|c| c.is_ascii_digit() || " .:-".contains(c))
        });
    stamped.map_or(text, |(_, rest)| rest)
}

/// Takes a domain's prefix off: `(d0) text`.
fn without_domain(text: &str) -> &str {
    let named = text
        .strip_prefix("(d")
        .and_then(|rest| rest.split_once(") "))
        .filter(|(id, _)| !id.is_empty() && id.chars().all(|c| c.is_ascii_digit()));
    named.map_or(text, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&str]) -> Vec<String> {
        let (mut raw, mut lines) = (vec![], vec![]);
        let mut assembler = Assembler::new();
        for piece in pieces {
            assembler.feed(Duration::ZERO, piece.as_bytes(), &mut raw, &mut lines);
        }
        assembler.finish(Duration::ZERO, &mut raw, &mut lines);
        lines
            .iter()
            .map(|l| format!("{:?}: {}", l.source, l.text))
            .collect()
    }

    #[test]
    fn prefixes_are_taken_off() {
        assert_eq!(
            lines_of(&[
                "(XEN) [    1.5] Xen speaks\r\n(XEN) [ 2026-01-02 03:04:05] again\n",
                "(d0) @phase one\r\r\n@pha",
                "se two\n(XEN) [x] no stamp\nno end"
            ]),
            [
                "Xen: Xen speaks",
                "Xen: again",
                "Guest: @phase one",
                "Guest: @phase two",
                "Xen: [x] no stamp",
                "Guest: no end"
            ]
        );
    }

    #[test]
    fn a_guest_line_cut_by_xen_is_whole_again() {
        assert_eq!(
            lines_of(&["@map all WW(XEN) one\r\n(XEN) two\r\nWWbb\r\nnext\n"]),
            [
                "Xen: one",
                "Xen: two",
                "Guest: @map all WWWWbb",
                "Guest: next"
            ]
        );
    }

    #[test]
    fn an_endless_line_is_cut() {
        let long = "x".repeat(LONGEST_LINE + 10);
        let lines = lines_of(&[&long]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn broken_utf8_is_no_obstacle() {
        let (mut raw, mut lines) = (vec![], vec![]);
        Assembler::new().feed(Duration::ZERO, b"a\xff\xfeb\n", &mut raw, &mut lines);
        assert!(lines[0].text.starts_with('a') && lines[0].text.ends_with('b'));
    }
}
