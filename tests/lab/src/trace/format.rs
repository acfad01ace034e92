// SPDX-License-Identifier: GPL-2.0-only
//! The file format of xentrace(8), which xenalyze(1) reads too.
//!
//! A file is a sequence of windows. A window is a CPU-change record, which holds the number of a
//! CPU and of bytes, and that many bytes of records of that CPU. A record is a header of 32 bits
//! (event 27:0, number of extra words 30:28, has-a-timestamp 31), the timestamp if there is one,
//! and the extra words. Everything is little endian. See xen/include/public/trace.h.

use std::ops::Range;

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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
        "offset {offset:#x}: a window starts with {:#010x}, and here is {found:#010x}: this is no trace, or a damaged one",
        CpuChange::HEADER
    )]
    NoWindow { offset: usize, found: u32 },
    #[error(
        "offset {offset:#x}: the trace ends in the middle of a {what}: {wanted} bytes are needed and {left} are left"
    )]
    Truncated {
        offset: usize,
        what: &'static str,
        wanted: usize,
        left: usize,
    },
    #[error(
        "offset {offset:#x}: a record of {size} bytes crosses the end of its window at {end:#x}: the trace is damaged"
    )]
    Crosses {
        offset: usize,
        size: usize,
        end: usize,
    },
    #[error("offset {offset:#x}: a record without an event: the trace is damaged")]
    NoEvent { offset: usize },
    #[error("offset {offset:#x}: a window inside a window: the trace is damaged")]
    Nested { offset: usize },
    #[error("offset {offset:#x}: there is no CPU {cpu}: the trace is damaged")]
    Cpu { offset: usize, cpu: u32 },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is in the file.
    pub offset: usize,
    pub cpu: u32,
    pub event: u32,
    pub tsc: Option<u64>,
    pub extra: Vec<u8>,
}

impl Record {
    pub fn words(&self) -> impl Iterator<Item = u32> + '_ {
        self.extra
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    }
}

/// A whole trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In the order of the file.
    pub records: Vec<Record>,
    pub windows: usize,
    /// Records that Xen says it had no room for.
    pub lost: u64,
}

impl Trace {
    pub fn parse(bytes: &[u8]) -> Result<Trace, TraceError> {
        let mut trace = Trace::default();
        let mut at = 0;
        while at < bytes.len() {
            let (cpu, window) = window_at(bytes, at)?;
            at = window.end;
            trace.windows += 1;
            records_in(bytes, cpu, window, &mut trace)?;
        }
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
}

fn window_at(bytes: &[u8], at: usize) -> Result<(u32, Range<usize>), TraceError> {
    let left = bytes.len() - at;
    let truncated = |what, wanted| TraceError::Truncated {
        offset: at,
        what,
        wanted,
        left,
    };

    let (found, _) =
        U32::read_from_prefix(&bytes[at..]).map_err(|_| truncated("window's header", 12))?;
    if found.get() != CpuChange::HEADER {
        return Err(TraceError::NoWindow {
            offset: at,
            found: found.get(),
        });
    }
    let (change, _) =
        CpuChange::read_from_prefix(&bytes[at..]).map_err(|_| truncated("window's header", 12))?;

    let cpu = change.cpu.get();
    if cpu > u32::from(u16::MAX) {
        return Err(TraceError::Cpu { offset: at, cpu });
    }
    let start = at + size_of::<CpuChange>();
    let size = change.size.get() as usize;
    if size > bytes.len() - start {
        return Err(truncated("window", size_of::<CpuChange>() + size));
    }
    Ok((cpu, start..start + size))
}

fn records_in(
    bytes: &[u8],
    cpu: u32,
    window: Range<usize>,
    trace: &mut Trace,
) -> Result<(), TraceError> {
    let end = window.end;
    let mut at = window.start;
    while at < end {
        let rest = &bytes[at..end];
        let (header, body) = U32::read_from_prefix(rest).map_err(|_| TraceError::Crosses {
            offset: at,
            size: 4,
            end,
        })?;
        let header = header.get();
        let event = header & 0x0fff_ffff;
        let extra = (header >> EXTRA_SHIFT & 7) as usize * 4;
        let stamped = header >> 31 != 0;
        let size = 4 + if stamped { 8 } else { 0 } + extra;
        match event {
            0 => return Err(TraceError::NoEvent { offset: at }),
            TRC_TRACE_CPU_CHANGE => return Err(TraceError::Nested { offset: at }),
            _ => {}
        }
        if size > rest.len() {
            return Err(TraceError::Crosses {
                offset: at,
                size,
                end,
            });
        }

        let (tsc, body) = match U64::read_from_prefix(body) {
            Ok((tsc, body)) if stamped => (Some(tsc.get()), body),
            _ => (None, body),
        };
        let extra = &body[..extra];

        match event {
            // Fills the end of Xen's ring.
            TRC_TRACE_WRAP_BUFFER => {}
            TRC_LOST_RECORDS => {
                let lost = U32::read_from_prefix(extra).map_or(0, |(lost, _)| lost.get());
                trace.lost += u64::from(lost);
            }
            _ => trace.records.push(Record {
                offset: at,
                cpu,
                event,
                tsc,
                extra: extra.to_owned(),
            }),
        }
        at += size;
    }
    Ok(())
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
            .map(|r| (r.cpu, r.event, r.tsc, r.words().count()))
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
        assert!(matches!(
            with(8, 1 << 30),
            TraceError::Truncated { offset: 0, .. }
        ));
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
