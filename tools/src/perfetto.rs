// SPDX-License-Identifier: GPL-2.0-only
//! A trace for ui.perfetto.dev: TrackEvent packets in protobuf.
//!
//! Each domain has a track with the share of its memory that is in 2 MiB entries, one with the
//! pages copied so far, and one for each CPU with what was done there: an act that held the lock of
//! the p2m is as long as it held it. The messages are those fields of Perfetto's own
//! (protos/perfetto/trace/) that are written here, with Perfetto's numbers.

use std::io::{self, Write};

use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::analysis::{Analysis, reason};
use crate::scan::Scan;
use crate::trace::events::{Act, Event, Kind};
use crate::trace::order::Timed;
use crate::words::Clock;

#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<TracePacket>,
}

#[derive(Clone, PartialEq, Message)]
struct TracePacket {
    /// ns
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "10")]
    trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "11")]
    track_event: Option<TrackEvent>,
    #[prost(uint32, optional, tag = "13")]
    sequence_flags: Option<u32>,
    #[prost(message, optional, tag = "60")]
    track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackEvent {
    #[prost(message, repeated, tag = "4")]
    debug_annotations: Vec<DebugAnnotation>,
    #[prost(enumeration = "Type", optional, tag = "9")]
    r#type: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    track_uuid: Option<u64>,
    #[prost(string, repeated, tag = "22")]
    categories: Vec<String>,
    #[prost(string, optional, tag = "23")]
    name: Option<String>,
    #[prost(int64, optional, tag = "30")]
    counter_value: Option<i64>,
    #[prost(double, optional, tag = "44")]
    double_counter_value: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Type {
    Unspecified = 0,
    SliceBegin = 1,
    SliceEnd = 2,
    Instant = 3,
    Counter = 4,
}

#[derive(Clone, PartialEq, Message)]
struct DebugAnnotation {
    #[prost(uint64, optional, tag = "3")]
    uint_value: Option<u64>,
    #[prost(string, optional, tag = "6")]
    string_value: Option<String>,
    #[prost(string, optional, tag = "10")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "5")]
    parent_uuid: Option<u64>,
    #[prost(message, optional, tag = "8")]
    counter: Option<CounterDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct CounterDescriptor {
    #[prost(string, optional, tag = "6")]
    unit_name: Option<String>,
}

/// Whoever writes packets has a number.
const SEQUENCE: u32 = 1;
/// SEQ_INCREMENTAL_STATE_CLEARED: nothing before the first packet is needed.
const STATE_CLEARED: u32 = 1;

/// The tracks of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Track {
    Domain(u16),
    Coverage(u16),
    Copied(u16),
    Acts(u16, u16),
}

impl Track {
    /// A number that no two tracks have in common, and that is not 0.
    fn uuid(self) -> u64 {
        let (kind, domid, cpu) = match self {
            Track::Domain(domid) => (1, domid, 0),
            Track::Coverage(domid) => (2, domid, 0),
            Track::Copied(domid) => (3, domid, 0),
            Track::Acts(domid, cpu) => (4, domid, cpu),
        };
        (kind << 32) | u64::from(domid) << 16 | u64::from(cpu)
    }

    fn descriptor(self) -> TrackDescriptor {
        let unit = |name: &str| {
            Some(CounterDescriptor {
                unit_name: Some(name.to_owned()),
            })
        };
        let (name, parent, counter) = match self {
            Track::Domain(domid) => (format!("Domain {domid}"), None, None),
            Track::Coverage(domid) => ("In 2M pages".to_owned(), Some(domid), unit("%")),
            Track::Copied(domid) => ("Pages copied".to_owned(), Some(domid), unit("pages")),
            Track::Acts(domid, cpu) => (format!("CPU {cpu}"), Some(domid), None),
        };
        TrackDescriptor {
            uuid: Some(self.uuid()),
            name: Some(name),
            parent_uuid: parent.map(|domid| Track::Domain(domid).uuid()),
            counter,
        }
    }
}

/// Writes a Perfetto file while a trace is read.
#[derive(Debug)]
pub struct Exporter<W> {
    out: W,
    clock: Clock,
    start: Option<u64>,
    tracks: FxHashSet<Track>,
    /// Pages copied so far, of each domain.
    copied: FxHashMap<u16, i64>,
    /// Where the last slice of a track ended, in ticks: slices of a track must not overlap.
    ends: FxHashMap<Track, u64>,
    analysis: Analysis,
    packets: u64,
}

impl<W: Write> Exporter<W> {
    pub fn new(out: W, clock: Clock) -> Exporter<W> {
        Exporter {
            out,
            clock,
            start: None,
            tracks: Default::default(),
            copied: FxHashMap::default(),
            ends: FxHashMap::default(),
            analysis: Analysis::new(false),
            packets: 0,
        }
    }

    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// A file is one message, Trace, of which each packet is a piece: pieces can be written one by
    /// one.
    fn write(&mut self, mut packet: TracePacket) -> io::Result<()> {
        packet.trusted_packet_sequence_id = Some(SEQUENCE);
        if self.packets == 0 {
            packet.sequence_flags = Some(STATE_CLEARED);
        }
        self.packets += 1;
        let trace = Trace {
            packet: vec![packet],
        };
        self.out.write_all(&trace.encode_to_vec())
    }

    fn track(&mut self, track: Track) -> io::Result<u64> {
        if self.tracks.insert(track) {
            let descriptor = track.descriptor();
            self.write(TracePacket {
                track_descriptor: Some(descriptor),
                ..TracePacket::default()
            })?;
        }
        Ok(track.uuid())
    }

    fn event(&mut self, time: u64, kind: Type, track: Track, event: TrackEvent) -> io::Result<()> {
        let uuid = self.track(track)?;
        let start = self.start.unwrap_or(0);
        self.write(TracePacket {
            timestamp: Some(self.clock.ns(time.saturating_sub(start))),
            track_event: Some(TrackEvent {
                r#type: Some(kind as i32),
                track_uuid: Some(uuid),
                ..event
            }),
            ..TracePacket::default()
        })
    }

    /// Takes the next record in the order of time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn take(&mut self, timed: &Timed) -> io::Result<()> {
        self.analysis.take(timed);
        if timed.time == 0 {
            return Ok(());
        }
        let now = timed.time;
        self.start.get_or_insert(now);
        let event = Event::decode(timed.event, timed.extra());
        let Event::Act(act) = &event else {
            return Ok(());
        };
        self.track(Track::Domain(act.domid))?;
        self.act(now, timed.cpu, act)?;
        if matches!(act.kind, Kind::Complete | Kind::Migrate) && act.low != 0 {
            let copied = self.copied.entry(act.domid).or_insert(0);
            *copied += i64::from(act.low);
            let value = TrackEvent {
                counter_value: Some(*copied),
                ..TrackEvent::default()
            };
            self.event(now, Type::Counter, Track::Copied(act.domid), value)?;
        }
        Ok(())
    }

    fn act(&mut self, now: u64, cpu: u16, act: &Act) -> io::Result<()> {
        let number = |name: &str, value: u64| DebugAnnotation {
            name: Some(name.to_owned()),
            uint_value: Some(value),
            ..DebugAnnotation::default()
        };
        let words = |name: &str, value: String| DebugAnnotation {
            name: Some(name.to_owned()),
            string_value: Some(value),
            ..DebugAnnotation::default()
        };

        let mut notes = vec![words("gfn", format!("{:#x}", act.gfn))];
        let (name, category) = match act.kind {
            Kind::Split => ("split".to_owned(), "broken"),
            Kind::Promote => ("promote".to_owned(), "healed"),
            Kind::Complete => ("complete".to_owned(), "healed"),
            Kind::Migrate => ("migrate".to_owned(), "healed"),
            Kind::Refuse => (format!("left: {}", reason(act.code)), "left"),
            Kind::Exchange => ("exchange".to_owned(), "exchange"),
        };
        match act.kind {
            Kind::Complete | Kind::Migrate => {
                notes.push(number("pages copied", act.low.into()));
                notes.push(number("pages out of place", act.high.into()));
            }
            Kind::Exchange => {
                notes.push(number("pages", act.low.into()));
                notes.push(number("splits avoided", act.high.into()));
            }
            _ => {}
        }
        if act.hold != 0 {
            notes.push(number("ticks of lock hold", act.hold.into()));
        }

        let track = Track::Acts(act.domid, cpu);
        let named = TrackEvent {
            name: Some(name),
            categories: vec![category.to_owned()],
            debug_annotations: notes,
            ..TrackEvent::default()
        };
        if act.hold == 0 {
            return self.event(now, Type::Instant, track, named);
        }
        // A record is written when the lock has been released.
        let last = self.ends.insert(track, now).unwrap_or(0);
        let begin = now.saturating_sub(act.hold.into()).max(last);
        let begin = begin.max(self.start.unwrap_or(0));
        self.event(begin, Type::SliceBegin, track, named)?;
        self.event(now, Type::SliceEnd, track, TrackEvent::default())
    }

    /// Writes what is known only at the end, and how much of the trace there was: the share of
    /// memory in 2 MiB entries, of which a record to come may have told. Perfetto sorts it in.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&mut self, scan: &Scan) -> io::Result<()> {
        let view = std::mem::take(&mut self.analysis).finish(scan.first, scan.last);
        for domain in &view.domains {
            let track = Track::Coverage(domain.id);
            self.track(Track::Domain(domain.id))?;
            let mut last = None;
            for (i, step) in domain.steps.iter().enumerate() {
                let Some(share) = step.end.coverage() else {
                    continue;
                };
                if last.replace(share) == Some(share) {
                    continue;
                }
                let value = TrackEvent {
                    double_counter_value: Some(share * 100.0),
                    ..TrackEvent::default()
                };
                let time = view.first + domain.width * i as u64;
                self.event(time, Type::Counter, track, value)?;
            }
        }
        self.out.flush()
    }
}
