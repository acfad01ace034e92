// SPDX-License-Identifier: GPL-2.0-only
//! The file format of xentrace(8), which xenalyze(1) reads too.
//!
//! A file is a sequence of windows. A window is a CPU-change record, which holds the number of a
//! CPU and of bytes, and that many bytes of records of that CPU. A record is a header of 32 bits
//! (event 27:0, number of extra words 30:28, has-a-timestamp 31), the timestamp if there is one,
//! and the extra words. Everything is little endian. See xen/include/public/trace.h.
//!
//! [`Reader`] reads a trace of any length from a file or a pipe, in memory that does not grow, and
//! goes on behind damage. [`Trace`] is a whole trace in memory, without any.

use std::io::{self, Read};

use thiserror::Error;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::events::{Act, Event};

pub const TRC_LOST_RECORDS: u32 = 0x0001_f001;
pub const TRC_TRACE_WRAP_BUFFER: u32 = 0x0001_f002;
pub const TRC_TRACE_CPU_CHANGE: u32 = 0x0001_f003;

const EXTRA_SHIFT: u32 = 28;
/// The most words that a record can have besides header and timestamp.
pub const EXTRA_MAX: usize = 7;
/// Bytes of the longest record.
pub const RECORD_MAX: u32 = 4 + 8 + 4 * EXTRA_MAX as u32;

/// The start of a window.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CpuChange {
    header: U32,
    cpu: U32,
    size: U32,
}

impl CpuChange {
    const HEADER: u32 = TRC_TRACE_CPU_CHANGE | 2 << EXTRA_SHIFT;
    const SIZE: usize = size_of::<CpuChange>();

    pub fn new(cpu: u32, size: u32) -> CpuChange {
        CpuChange {
            header: Self::HEADER.into(),
            cpu: cpu.into(),
            size: size.into(),
        }
    }
}

/// What a trace file can be wrong about. Offsets count from the start of the file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TraceError {
    #[error(
        "offset {offset:#x}: a window starts with {:#010x}, and here is {found:#010x}: {}",
        CpuChange::HEADER,
        foreign(*offset, *found)
    )]
    NoWindow { offset: u64, found: u32 },
    #[error(
        "offset {offset:#x}: the trace ends in the middle of a {what}: {wanted} bytes are needed and {left} are left"
    )]
    Truncated {
        offset: u64,
        what: &'static str,
        wanted: u64,
        left: u64,
    },
    #[error(
        "offset {offset:#x}: a record of {size} bytes crosses the end of its window at {end:#x}: the trace is damaged"
    )]
    Crosses { offset: u64, size: u64, end: u64 },
    #[error("offset {offset:#x}: a record without an event: the trace is damaged")]
    NoEvent { offset: u64 },
    #[error("offset {offset:#x}: a window inside a window: the trace is damaged")]
    Nested { offset: u64 },
    #[error("offset {offset:#x}: there is no CPU {cpu}: the trace is damaged")]
    Cpu { offset: u64, cpu: u32 },
}

/// What it is instead of a window, as far as the first bytes tell.
fn foreign(offset: u64, found: u32) -> &'static str {
    if found == CpuChange::HEADER.swap_bytes() {
        return "this is a trace of a big-endian machine, which this program does not read";
    }
    if offset != 0 {
        return "the trace is damaged";
    }
    match found.to_le_bytes() {
        [0x1f, 0x8b, ..] => "this is packed with gzip: pipe it through zcat",
        [0xfd, b'7', b'z', b'X'] => "this is packed with xz: pipe it through xzcat",
        [0x28, 0xb5, 0x2f, 0xfd] => "this is packed with zstd: pipe it through zstdcat",
        [0x7f, b'E', b'L', b'F'] => "this is an ELF file and no trace",
        bytes
            if bytes
                .iter()
                .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) =>
        {
            "this is text and no trace"
        }
        _ => "this is no trace, or a damaged one",
    }
}

/// One record where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Where it is in the file.
    pub offset: u64,
    pub cpu: u32,
    /// The number of its window, from 1 on.
    pub window: u64,
    pub event: u32,
    /// Ticks of the TSC, if it says when.
    pub tsc: Option<u64>,
    pub extra: &'a [u8],
}

/// What a [`Reader`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    Record(RecordRef<'a>),
    /// Something is wrong here. What comes next is from behind it.
    Damage(TraceError),
}

/// A window of which the start was read.
#[derive(Clone, Copy, Debug)]
struct Window {
    cpu: u32,
    start: u64,
    /// Where its last record ends.
    end: u64,
}

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Reads a trace from beginning to end, once.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    buffer: Box<[u8]>,
    /// What of the buffer was read and not yet looked at.
    from: usize,
    to: usize,
    /// Where in the file `buffer[from]` is.
    offset: u64,
    ended: bool,
    window: Option<Window>,
    windows: u64,
    lost: u64,
    /// Bytes that could not be made sense of.
    skipped: u64,
    /// The start of a window is searched for.
    searching: bool,
}

impl<R: Read> Reader<R> {
    pub fn new(source: R) -> Reader<R> {
        Reader {
            source,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            from: 0,
            to: 0,
            offset: 0,
            ended: false,
            window: None,
            windows: 0,
            lost: 0,
            skipped: 0,
            searching: false,
        }
    }

    /// Where it is in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Records that Xen says it had no room for.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes that were damaged, or in a window behind damage.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn left(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    /// Sees to it that `wanted` bytes are there, if the source has as many.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while self.to - self.from < wanted && !self.ended {
            if self.from != 0 {
                self.buffer.copy_within(self.from..self.to, 0);
                self.to -= self.from;
                self.from = 0;
            }
            match self.source.read(&mut self.buffer[self.to..]) {
                Ok(0) => self.ended = true,
                Ok(n) => self.to += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize) {
        self.from += bytes;
        self.offset += bytes as u64;
    }

    /// Passes over bytes; fewer where the source ends.
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes != 0 {
            self.fill(1)?;
            let some = bytes.min(self.left().len() as u64);
            if some == 0 {
                break;
            }
            self.take(some as usize);
            self.skipped += some;
            bytes -= some;
        }
        Ok(())
    }

    /// The next record or the next damage; `None` at the end.
    ///
    /// # Errors
    /// The source could not be read.
    pub fn advance(&mut self) -> io::Result<Option<Item<'_>>> {
        loop {
            let Some(window) = self.window else {
                match self.enter()? {
                    Entered::Window => continue,
                    Entered::End => return Ok(None),
                    Entered::Damage(error) => return Ok(Some(Item::Damage(error))),
                }
            };
            if self.offset >= window.end {
                self.window = None;
                continue;
            }
            if self.to - self.from < RECORD_MAX as usize {
                self.fill(RECORD_MAX as usize)?;
            }

            let room = window.end - self.offset;
            let at = self.offset;
            let bytes = self.left();
            let truncated = TraceError::Truncated {
                offset: window.start,
                what: "window",
                wanted: window.end - window.start,
                left: at + bytes.len() as u64 - window.start,
            };
            let crosses = |size| TraceError::Crosses {
                offset: at,
                size,
                end: window.end,
            };
            let Some((header, _)) = bytes.split_first_chunk::<4>() else {
                let rest = bytes.len();
                if rest as u64 >= room {
                    return self.damaged(crosses(4), room);
                }
                return self.damaged(truncated, rest as u64);
            };
            let header = u32::from_le_bytes(*header);
            let event = header & 0x0fff_ffff;
            let extra = (header >> EXTRA_SHIFT & 7) as usize * 4;
            let stamped = header >> 31 != 0;
            let start = if stamped { 12 } else { 4 };
            let size = start + extra;
            if room < 4 {
                return self.damaged(crosses(4), room);
            }
            if event == 0 {
                return self.damaged(TraceError::NoEvent { offset: at }, room);
            }
            if event == TRC_TRACE_CPU_CHANGE {
                // The window before was said to be longer than it is: here starts another.
                self.window = None;
                return Ok(Some(Item::Damage(TraceError::Nested { offset: at })));
            }
            if size as u64 > room {
                return self.damaged(crosses(size as u64), room);
            }
            if size > bytes.len() {
                let rest = bytes.len() as u64;
                return self.damaged(truncated, rest);
            }

            let place = self.from;
            self.take(size);
            match event {
                // Fills the end of Xen's ring.
                TRC_TRACE_WRAP_BUFFER => continue,
                TRC_LOST_RECORDS => {
                    let words = &self.buffer[place + start..place + size];
                    let lost = U32::read_from_prefix(words).map_or(0, |(n, _)| n.get());
                    self.lost = self.lost.saturating_add(u64::from(lost));
                    continue;
                }
                _ => {}
            }
            let record = &self.buffer[place..place + size];
            let tsc = match record.get(4..12).and_then(|b| b.first_chunk::<8>()) {
                Some(tsc) if stamped => Some(u64::from_le_bytes(*tsc)),
                _ => None,
            };
            return Ok(Some(Item::Record(RecordRef {
                offset: at,
                cpu: window.cpu,
                window: self.windows,
                event,
                tsc,
                extra: &record[start..],
            })));
        }
    }

    /// Reports damage inside a window, and passes over the window's rest.
    fn damaged(&mut self, error: TraceError, rest: u64) -> io::Result<Option<Item<'_>>> {
        self.skip(rest)?;
        self.window = None;
        Ok(Some(Item::Damage(error)))
    }

    /// Reads the start of the next window.
    fn enter(&mut self) -> io::Result<Entered> {
        loop {
            self.fill(CpuChange::SIZE)?;
            let at = self.offset;
            let left = self.left();
            if left.is_empty() {
                return Ok(Entered::End);
            }
            let change = CpuChange::read_from_prefix(left).ok().map(|(c, _)| c);
            let found = U32::read_from_prefix(left).ok().map(|(n, _)| n.get());

            let error = match (change, found) {
                (Some(change), _) if change.header.get() == CpuChange::HEADER => {
                    let cpu = change.cpu.get();
                    if cpu <= u32::from(u16::MAX) {
                        self.searching = false;
                        self.windows += 1;
                        self.window = Some(Window {
                            cpu,
                            start: at,
                            end: at + CpuChange::SIZE as u64 + u64::from(change.size.get()),
                        });
                        self.take(CpuChange::SIZE);
                        return Ok(Entered::Window);
                    }
                    TraceError::Cpu { offset: at, cpu }
                }
                (_, Some(found)) if found != CpuChange::HEADER => {
                    TraceError::NoWindow { offset: at, found }
                }
                _ => TraceError::Truncated {
                    offset: at,
                    what: "window's header",
                    wanted: CpuChange::SIZE as u64,
                    left: left.len() as u64,
                },
            };

            // Search: records are made of words, so a window starts where a word would.
            let step = match error {
                TraceError::Truncated { .. } => left.len(),
                _ => left.len().min(4),
            };
            self.take(step);
            self.skipped += step as u64;
            if !self.searching {
                self.searching = true;
                return Ok(Entered::Damage(error));
            }
        }
    }
}

enum Entered {
    Window,
    End,
    Damage(TraceError),
}

/// One record with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is in the file.
    pub offset: u64,
    pub cpu: u32,
    pub event: u32,
    pub tsc: Option<u64>,
    pub extra: Vec<u8>,
}

/// A whole trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In the order of the file.
    pub records: Vec<Record>,
    pub windows: u64,
    /// Records that Xen says it had no room for.
    pub lost: u64,
}

impl Trace {
    /// # Errors
    /// The first thing that is wrong with the trace.
    pub fn parse(bytes: &[u8]) -> Result<Trace, TraceError> {
        let mut trace = Trace::default();
        let mut reader = Reader::new(bytes);
        // Bytes in memory can always be read.
        while let Ok(Some(item)) = reader.advance() {
            match item {
                Item::Damage(error) => return Err(error),
                Item::Record(record) => trace.records.push(Record {
                    offset: record.offset,
                    cpu: record.cpu,
                    event: record.event,
                    tsc: record.tsc,
                    extra: record.extra.to_owned(),
                }),
            }
        }
        trace.windows = reader.windows();
        trace.lost = reader.lost();
        Ok(trace)
    }

    /// The records in the order of time. Not every record has a timestamp; one without happened
    /// after the one before it on its CPU.
    pub fn by_time(&self) -> Vec<(u64, &Record)> {
        let mut last = std::collections::BTreeMap::new();
        let mut timed: Vec<(u64, &Record)> = self
            .records
            .iter()
            .map(|record| {
                if let Some(tsc) = record.tsc {
                    last.insert(record.cpu, tsc);
                }
                (last.get(&record.cpu).copied().unwrap_or(0), record)
            })
            .collect();
        timed.sort_by_key(|(tsc, _)| *tsc);
        timed
    }

    /// What the coalescer did, in the order of time.
    pub fn acts(&self) -> Vec<Act> {
        self.by_time()
            .into_iter()
            .filter_map(
                |(_, record)| match Event::decode(record.event, &record.extra) {
                    Event::Act(act) => Some(act),
                    _ => None,
                },
            )
            .collect()
    }
}

/// Writes traces; for what is read out of a machine, and for tests.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    /// A window with records that are encoded already.
    pub fn window(&mut self, cpu: u32, records: &[&[u8]]) {
        let size: usize = records.iter().map(|piece| piece.len()).sum();
        if size == 0 {
            return;
        }
        self.bytes
            .extend_from_slice(CpuChange::new(cpu, size as u32).as_bytes());
        for piece in records {
            self.bytes.extend_from_slice(piece);
        }
    }
}

/// Encodes a record as Xen does.
pub fn encode(event: u32, tsc: Option<u64>, extra: &[u32]) -> Vec<u8> {
    assert!(extra.len() <= EXTRA_MAX, "a record has at most seven words");
    let header =
        event | (extra.len() as u32) << EXTRA_SHIFT | if tsc.is_some() { 1 << 31 } else { 0 };
    let mut bytes = header.to_le_bytes().to_vec();
    if let Some(tsc) = tsc {
        bytes.extend_from_slice(&tsc.to_le_bytes());
    }
    for word in extra {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.window(
            1,
            &[
                &encode(0x10f004, None, &[1, 2, 3, 4, 5, 6]),
                &encode(0x10f020, Some(500), &[1, 2, 3, 4, 5, 6, 7]),
                &encode(0x10f004, None, &[]),
            ],
        );
        writer.window(
            0,
            &[
                &encode(0x10f021, Some(400), &[9]),
                &encode(TRC_LOST_RECORDS, Some(410), &[17, 0, 0, 0]),
                &encode(TRC_TRACE_WRAP_BUFFER, None, &[0, 0]),
                &encode(0x10f021, Some(600), &[]),
            ],
        );
        writer.bytes
    }

    #[test]
    fn records_come_back() {
        let trace = Trace::parse(&example()).unwrap();
        assert_eq!(trace.windows, 2);
        assert_eq!(trace.lost, 17);
        let seen: Vec<_> = trace
            .records
            .iter()
            .map(|r| (r.cpu, r.event, r.tsc, r.extra.len() / 4))
            .collect();
        assert_eq!(
            seen,
            [
                (1, 0x10f004, None, 6),
                (1, 0x10f020, Some(500), 7),
                (1, 0x10f004, None, 0),
                (0, 0x10f021, Some(400), 1),
                (0, 0x10f021, Some(600), 0),
            ]
        );
        assert_eq!(trace.acts().len(), 1, "the others are too short");
        let order: Vec<_> = trace.by_time().iter().map(|(t, r)| (*t, r.cpu)).collect();
        assert_eq!(order, [(0, 1), (400, 0), (500, 1), (500, 1), (600, 0)]);
        assert_eq!(Trace::parse(&[]).unwrap(), Trace::default());
    }

    /// A trace cut anywhere is either whole up to a window's end, or an error that says where.
    #[test]
    fn every_cut_is_noticed() {
        let bytes = example();
        let first_window = 12 + 28 + 40 + 4;
        for cut in 0..bytes.len() {
            let result = Trace::parse(&bytes[..cut]);
            if cut == 0 || cut == first_window {
                assert!(result.is_ok(), "cut at {cut}");
            } else {
                let error = result.expect_err("a cut trace").to_string();
                assert!(error.starts_with("offset 0x"), "{error}");
                assert!(error.contains("the trace ends in the middle of a window"));
            }
        }
    }

    #[test]
    fn damage_is_noticed_where_it_is() {
        let good = example();
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Trace::parse(&bytes).unwrap_err()
        };
        assert_eq!(
            with(0, 0x1f003),
            TraceError::NoWindow {
                offset: 0,
                found: 0x1f003
            }
        );
        assert_eq!(
            with(4, 1 << 20),
            TraceError::Cpu {
                offset: 0,
                cpu: 1 << 20
            }
        );
        assert_eq!(with(8, 1 << 30), TraceError::Nested { offset: 84 });
        assert_eq!(with(12, 0), TraceError::NoEvent { offset: 12 });
        assert_eq!(with(12, 0x2001_f003), TraceError::Nested { offset: 12 });
        // The last record of the first window claims to have words.
        assert!(matches!(
            with(80, 0x7010_f004),
            TraceError::Crosses {
                offset: 80,
                size: 32,
                ..
            }
        ));
    }

    /// Everything that a reader says, with the offsets of the records.
    fn read(bytes: &[u8]) -> (Vec<u64>, Vec<TraceError>, u64) {
        let mut reader = Reader::new(bytes);
        let (mut records, mut damage) = (vec![], vec![]);
        while let Some(item) = reader.advance().unwrap() {
            match item {
                Item::Record(record) => records.push(record.offset),
                Item::Damage(error) => damage.push(error),
            }
        }
        assert_eq!(
            reader.offset(),
            bytes.len() as u64,
            "all of it was looked at"
        );
        (records, damage, reader.skipped())
    }

    #[test]
    fn a_reader_goes_on_behind_damage() {
        let good = example();
        let all = [12, 40, 80, 96, 152];
        assert_eq!(read(&good), (all.to_vec(), vec![], 0));

        // The second record: the rest of its window is lost, the next window is not.
        let mut bytes = good.clone();
        bytes[40..44].fill(0);
        let damage = vec![TraceError::NoEvent { offset: 40 }];
        assert_eq!(read(&bytes), (vec![12, 96, 152], damage, 44));

        // The start of the second window: nothing but that window.
        let mut bytes = good.clone();
        bytes[84] ^= 1;
        let (records, damage, skipped) = read(&bytes);
        assert_eq!(
            (records, skipped),
            (vec![12, 40, 80], bytes.len() as u64 - 84)
        );
        assert!(matches!(
            damage[..],
            [TraceError::NoWindow { offset: 84, .. }]
        ));

        // Noise before a trace.
        let mut bytes = b"noise \n\0".to_vec();
        bytes.extend(&good);
        let (records, damage, skipped) = read(&bytes);
        assert_eq!((records, skipped), (all.map(|at| at + 8).to_vec(), 8));
        assert!(damage[0].to_string().contains("this is text and no trace"));

        // A window that claims to be too long.
        let mut bytes = good.clone();
        bytes[8..12].copy_from_slice(&1000u32.to_le_bytes());
        let (records, damage, skipped) = read(&bytes);
        assert_eq!((records, skipped), (all.to_vec(), 0));
        assert_eq!(damage, [TraceError::Nested { offset: 84 }]);

        // Cut in a record.
        let (records, damage, skipped) = read(&good[..50]);
        assert_eq!((records, skipped), (vec![12], 10));
        assert!(matches!(
            damage[..],
            [TraceError::Truncated {
                offset: 0,
                wanted: 84,
                left: 50,
                ..
            }]
        ));
    }

    #[test]
    fn what_is_no_trace_is_named() {
        let says = |bytes: &[u8], words: &str| {
            let error = Trace::parse(bytes).unwrap_err().to_string();
            assert!(
                error.starts_with("offset 0x0: ") && error.contains(words),
                "{error}"
            );
        };
        says(&CpuChange::HEADER.to_be_bytes(), "big-endian");
        says(&[0x1f, 0x8b, 8, 0], "zcat");
        says(b"\x7fELF", "ELF");
        says(b"@map start WWWW", "text");
        says(&[0, 1, 2, 3, 4], "no trace, or a damaged one");
    }

    #[test]
    fn noise_is_no_trace_and_no_crash() {
        // A simple generator: the same noise each time.
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        for length in 0..2000 {
            let mut noise = CpuChange::new(0, length).as_bytes().to_vec();
            noise.extend((0..length).map(|_| next()));
            let _ = Trace::parse(&noise);
        }
    }
}
