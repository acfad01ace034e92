// SPDX-License-Identifier: GPL-2.0-only
//! The events that are of interest here: Xen's own of the class TRC_MEM, and those that the
//! coalescer adds to it.
//!
//! The numbers are Xen's public interface (xen/include/public/trace.h). A record of the coalescer
//! starts with the version of its layout, so that one of a newer Xen is counted, not misread.

use std::fmt;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Xen's class of events about memory.
pub const TRC_MEM: u32 = 0x0010_f000;
const CLASS_MASK: u32 = 0x0fff_f000;
const TRC_MEM_SET_P2M_ENTRY: u32 = TRC_MEM + 4;
const TRC_MEM_DECREASE_RESERVATION: u32 = TRC_MEM + 5;
/// The first of ours.
const COALESCE_BASE: u32 = TRC_MEM + 32;

/// Is the event of the class TRC_MEM? No other is looked into.
pub fn of_interest(event: u32) -> bool {
    event & CLASS_MASK == TRC_MEM
}

/// The layouts of our records that this program knows. The second one says what broke a superpage.
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=2;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Split,
    Promote,
    Complete,
    Migrate,
    Refuse,
    Exchange,
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Split,
        Kind::Promote,
        Kind::Complete,
        Kind::Migrate,
        Kind::Refuse,
        Kind::Exchange,
    ];

    fn of_event(event: u32) -> Option<Kind> {
        let index = event.checked_sub(COALESCE_BASE)?;
        Kind::ALL.get(index as usize).copied()
    }

    pub fn event(self) -> u32 {
        COALESCE_BASE + self as u32
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Split => "SPLIT",
            Kind::Promote => "PROMOTE",
            Kind::Complete => "COMPLETE",
            Kind::Migrate => "MIGRATE",
            Kind::Refuse => "REFUSE",
            Kind::Exchange => "EXCHANGE",
        }
    }
}

/// Why a region was left as it is; the index is the number in records and counters.
pub const REASONS: [&str; 26] = [
    "whole_already",
    "empty",
    "hole",
    "pinned",
    "mem_type",
    "access",
    "special",
    "no_memory",
    "dying",
    "iommu",
    "altp2m",
    "nested",
    "pod",
    "sharing",
    "logdirty",
    "recalc",
    "cooling",
    "mode",
    "not_ready",
    "vanished",
    "interrupted",
    "type_pinned",
    "cacheability",
    "mem_access",
    "exec_sp",
    "deferred",
];

/// A reason in words, for a person.
pub fn explain(reason: &str) -> &'static str {
    match reason {
        "whole_already" => "was a superpage already",
        "empty" => "has no memory",
        "hole" => "has holes",
        "pinned" => "a page is in use by another domain, a device or Xen",
        "mem_type" => "has pages that are no plain memory",
        "access" => "has pages with access limits of their own",
        "special" => "has a page with a special role",
        "no_memory" => "no free 2M of machine memory",
        "dying" => "the domain was going away",
        "iommu" => "a device's view of memory could not be changed",
        "altp2m" => "the domain has alternate views of its memory",
        "nested" => "the domain runs virtual machines of its own",
        "pod" => "the domain's memory is populated on demand",
        "sharing" => "pages are shared between domains",
        "logdirty" => "writes are being logged",
        "recalc" => "a change of types was pending",
        "cooling" => "broke too often of late, and has to wait",
        "mode" => "the mode forbids what it would take",
        "not_ready" => "the machinery was not ready",
        "vanished" => "changed while it was looked at",
        "interrupted" => "the CPU was wanted before all pages were moved",
        "type_pinned" => "a page is in use by Xen as more than plain memory",
        "cacheability" => "its pages are not all cached alike",
        "mem_access" => "somebody watches accesses to it",
        "exec_sp" => "code in it is executed, which this processor allows in 4K pages only",
        "deferred" => "others that may take fewer copies went first",
        _ => "",
    }
}

/// What broke a superpage; the index is the number in records and counters.
pub const CAUSES: [&str; 7] = [
    "other", "balloon", "exchange", "map", "type", "logdirty", "exec",
];

/// One of our records, as Xen writes it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ActWords {
    version: u8,
    code: u8,
    domid: U16,
    gfn: U64,
    mfn: U64,
    low: U16,
    high: U16,
    hold: U32,
}

/// Xen's own record of a change of the p2m.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SetP2mWords {
    gfn: U64,
    mfn: U64,
    kind: U32,
    domid: U16,
    order: U16,
}

/// Xen's record of a page that a domain is about to give back.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DecreaseWords {
    gfn: U64,
    domid: U32,
    order: U32,
}

const _: () = assert!(
    size_of::<ActWords>() == 28
        && size_of::<SetP2mWords>() == 24
        && size_of::<DecreaseWords>() == 16
);

/// One of our records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    pub kind: Kind,
    pub code: u8,
    pub domid: u16,
    pub gfn: u64,
    /// The machine frame; for an exchange the first guest frame put out.
    pub frame: Option<u64>,
    /// Pages copied; for an exchange the pages exchanged.
    pub low: u16,
    /// Pages out of place; for an exchange the splits that were avoided.
    pub high: u16,
    /// Ticks for which the lock of the p2m was held. All ones: that many or more.
    pub hold: u32,
    /// What broke a superpage, as far as the record is one that says so.
    pub cause: Option<u8>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Act(Act),
    SetP2m {
        domid: u16,
        gfn: u64,
        mfn: Option<u64>,
        kind: u32,
        order: u16,
    },
    /// The domain is about to give the page back: it balloons out.
    Decrease {
        domid: u16,
        gfn: u64,
        order: u32,
    },
    /// One of ours in a form that this program does not know, or too short for its form.
    Unknown {
        kind: Kind,
        version: Option<u8>,
    },
    Other,
}

fn frame(number: u64) -> Option<u64> {
    (number != u64::MAX).then_some(number)
}

impl Event {
    /// What a record with this event and these words says.
    pub fn decode(event: u32, extra: &[u8]) -> Event {
        if event == TRC_MEM_SET_P2M_ENTRY {
            return match SetP2mWords::read_from_bytes(extra) {
                Ok(words) => Event::SetP2m {
                    domid: words.domid.get(),
                    gfn: words.gfn.get(),
                    mfn: frame(words.mfn.get()),
                    kind: words.kind.get(),
                    order: words.order.get(),
                },
                Err(_) => Event::Other,
            };
        }

        if event == TRC_MEM_DECREASE_RESERVATION {
            return match DecreaseWords::read_from_bytes(extra) {
                Ok(words) => Event::Decrease {
                    domid: words.domid.get() as u16,
                    gfn: words.gfn.get(),
                    order: words.order.get(),
                },
                Err(_) => Event::Other,
            };
        }

        let Some(kind) = Kind::of_event(event) else {
            return Event::Other;
        };
        match ActWords::read_from_bytes(extra) {
            Ok(words) if VERSIONS.contains(&words.version) => Event::Act(Act {
                kind,
                code: words.code,
                domid: words.domid.get(),
                gfn: words.gfn.get(),
                frame: frame(words.mfn.get()),
                low: if kind == Kind::Split {
                    0
                } else {
                    words.low.get()
                },
                high: words.high.get(),
                hold: words.hold.get(),
                cause: (kind == Kind::Split && words.version > 1)
                    .then(|| words.low.get().try_into().unwrap_or(u8::MAX)),
            }),
            _ => Event::Unknown {
                kind,
                version: extra.first().copied(),
            },
        }
    }
}

/// The name of an event, as xenalyze and trace.h have it.
pub fn name(event: u32) -> String {
    if let Some(kind) = Kind::of_event(event) {
        return kind.name().to_owned();
    }
    let known = match event.wrapping_sub(TRC_MEM) {
        1 => "PAGE_GRANT_MAP",
        2 => "PAGE_GRANT_UNMAP",
        3 => "PAGE_GRANT_TRANSFER",
        4 => "SET_P2M_ENTRY",
        5 => "DECREASE_RESERVATION",
        16 => "POD_POPULATE",
        17 => "POD_ZERO_RECLAIM",
        18 => "POD_SUPERPAGE_SPLINTER",
        _ => return format!("{event:#010x}"),
    };
    known.to_owned()
}

struct Ticks(u32);

impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u32::MAX {
            write!(f, "lock held {} ticks or more", self.0)
        } else {
            write!(f, "lock held {} ticks", self.0)
        }
    }
}

struct Frame(Option<u64>);

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number:#x}"),
            None => write!(f, "none"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Act(act) => act.fmt(f),
            Event::SetP2m {
                domid,
                gfn,
                mfn,
                kind,
                order,
            } => write!(
                f,
                "d{domid} gfn {gfn:#x} -> mfn {}, order {order}, p2m type {kind}",
                Frame(*mfn)
            ),
            Event::Decrease { domid, gfn, order } => {
                write!(f, "d{domid} gfn {gfn:#x}, order {order}")
            }
            Event::Unknown {
                version: Some(version),
                ..
            } => write!(f, "of the unknown form {version}"),
            Event::Unknown { version: None, .. } => write!(f, "without content"),
            Event::Other => Ok(()),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Act {
            kind,
            code,
            domid,
            gfn,
            frame,
            low,
            high,
            hold,
            cause,
        } = self;
        write!(f, "d{domid} gfn {gfn:#x}")?;
        match kind {
            Kind::Split => {
                let what = match code {
                    1 => "2M to 4K",
                    2 => "1G to 2M",
                    _ => "of an unknown kind",
                };
                write!(f, " mfn {}, {what}", Frame(frame))?;
                match cause.map(|n| (n, CAUSES.get(usize::from(n)))) {
                    Some((_, Some(cause))) => write!(f, ", by {cause}")?,
                    Some((n, None)) => write!(f, ", by cause {n}")?,
                    None => {}
                }
            }
            Kind::Promote | Kind::Complete | Kind::Migrate => {
                write!(
                    f,
                    " -> mfn {}, {low} pages copied, {high} were out of place",
                    Frame(frame)
                )?;
            }
            Kind::Refuse => {
                match REASONS.get(usize::from(code)) {
                    Some(reason) => write!(f, ": {reason}")?,
                    None => write!(f, ": reason {code}")?,
                }
                if high != 0 {
                    write!(f, ", {high} pages out of place")?;
                }
            }
            Kind::Exchange => {
                write!(
                    f,
                    " order {} -> gfn {} order {}, {low} pages, {high} splits avoided",
                    code >> 4,
                    Frame(frame),
                    code & 15
                )?;
            }
        }
        if hold != 0 {
            write!(f, ", {}", Ticks(hold))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::format::{Trace, Writer, encode};

    fn texts(records: &[Vec<u8>]) -> Vec<String> {
        let mut writer = Writer::default();
        let pieces: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        writer.window(0, &pieces);
        let trace = Trace::parse(&writer.bytes).unwrap();
        trace
            .records
            .iter()
            .map(|r| format!("{} {}", name(r.event), Event::decode(r.event, &r.extra)))
            .collect()
    }

    #[test]
    fn events_in_words() {
        let none = u32::MAX;
        let act = |kind: Kind, code: u32, mfn: [u32; 2], pages: u32, hold: u32| {
            let first = 1 | code << 8 | 3 << 16;
            let words = [first, 0x1200, 1, mfn[0], mfn[1], pages, hold];
            encode(kind.event(), Some(1), &words)
        };
        let texts = texts(&[
            act(Kind::Split, 1, [0x800, 0], 0, 1000),
            act(Kind::Split, 2, [0x800, 0], 0, 0),
            act(Kind::Promote, 0, [0x800, 1], 0, 20),
            act(Kind::Complete, 0, [0x800, 0], 5 | 5 << 16, u32::MAX),
            act(Kind::Migrate, 0, [0x800, 0], 512 | 511 << 16, 30),
            act(Kind::Refuse, 3, [none, none], 0, 0),
            act(Kind::Refuse, 77, [none, none], 9 << 16, 0),
            act(Kind::Exchange, 0x90, [0x4000, 0], 512 | 1 << 16, 9),
            encode(
                0x10f020,
                None,
                &[2 | 1 << 8 | 3 << 16, 0x1200, 1, none, none, 5, 0],
            ),
            encode(
                0x10f020,
                None,
                &[2 | 2 << 8 | 3 << 16, 0x1200, 1, none, none, 99, 0],
            ),
            encode(0x10f021, None, &[3, 0, 0, 0, 0, 0, 0]),
            encode(0x10f021, None, &[1, 0]),
            encode(0x10f021, None, &[]),
            encode(0x10f004, None, &[0x200, 0, 0x800, 0, 0, 7 | 9 << 16]),
            encode(0x10f004, None, &[1, 0, none, none, 1, 0]),
            encode(0x10f005, None, &[0x200, 1, 7, 9]),
            encode(0x10f005, None, &[0x200, 1]),
            encode(0x0002_1001, None, &[1]),
        ]);
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn every_reason_is_explained() {
        for reason in REASONS {
            assert!(!explain(reason).is_empty(), "{reason}");
        }
    }
}
