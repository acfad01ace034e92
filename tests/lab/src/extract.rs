// SPDX-License-Identifier: GPL-2.0-only
//! Reads Xen's trace buffers out of the memory of a stopped machine; the guest does not have to
//! help, and nothing disturbs what is traced.
//!
//! Xen keeps a ring of pages for each CPU, and a table, t_info, of which pages those are
//! (xen/common/trace.c). Nobody is told where t_info is, but Xen prints for each CPU the first
//! page and where its list starts in t_info. So t_info is the one page of memory that agrees with
//! all those lines.

use anyhow::{Context, Result, bail, ensure};
use xen_coalesce::trace::format::{RECORD_MAX, Trace, Writer};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::ram::{PAGE, Ram};
use crate::verdict::{Facts, TraceBuffer};

/// The start of each CPU's ring: struct t_buf.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RingHeader {
    consumed: U32,
    produced: U32,
}

/// What was found in a machine.
#[derive(Clone, Debug)]
pub struct Extract {
    /// A trace file.
    pub file: Vec<u8>,
    pub trace: Trace,
    /// CPUs whose ring is full: later records were lost.
    pub full: Vec<u16>,
}

/// Reads the traces of a machine. `None`: Xen had no trace buffers.
pub fn extract(ram: &Ram, facts: &Facts) -> Result<Option<Extract>> {
    if facts.trace_buffers.is_empty() {
        return Ok(None);
    }
    let pages = facts
        .trace_pages
        .context("Xen did not print how many pages a trace buffer has: is loglvl=all missing?")?;

    let lists = find_lists(ram, &facts.trace_buffers, pages)?;
    let mut writer = Writer::default();
    let mut full = vec![];
    for (buffer, list) in facts.trace_buffers.iter().zip(&lists) {
        let mut bytes = vec![0; list.len() * PAGE as usize];
        for (&mfn, page) in list.iter().zip(bytes.chunks_exact_mut(PAGE as usize)) {
            ram.read(u64::from(mfn) * PAGE, page)?;
        }
        let ring = Ring::new(&bytes).with_context(|| format!("CPU {}", buffer.cpu))?;
        writer.window(u32::from(buffer.cpu), &ring.pieces());
        if ring.is_full() {
            full.push(buffer.cpu);
        }
    }

    let trace = Trace::parse(&writer.bytes).context("the machine's trace buffers are damaged")?;
    Ok(Some(Extract {
        file: writer.bytes,
        trace,
        full,
    }))
}

/// Finds t_info, and takes the list of pages of each buffer from it.
fn find_lists(ram: &Ram, buffers: &[TraceBuffer], pages: u16) -> Result<Vec<Vec<u32>>> {
    let mut candidates = vec![];
    ram.pages(|offset, page| {
        if starts_t_info(page, buffers, pages) {
            candidates.push(offset);
        }
        false
    })?;

    let mut found: Vec<Vec<Vec<u32>>> = candidates
        .into_iter()
        .filter_map(|offset| lists_at(ram, offset, buffers, pages))
        .collect();
    found.sort();
    found.dedup();
    match found.len() {
        0 => bail!("no page of the machine's memory is the t_info of which Xen speaks"),
        1 => Ok(found.remove(0)),
        n => bail!("{n} different pages of the machine's memory look like Xen's t_info"),
    }
}

/// struct t_info: the number of pages of a buffer, then for each CPU where its list starts.
fn starts_t_info(page: &[u8], buffers: &[TraceBuffer], pages: u16) -> bool {
    let word = |index: usize| {
        page.get(2 * index..)
            .and_then(|rest| U16::read_from_prefix(rest).ok())
            .map(|(word, _)| word.get())
    };
    word(0) == Some(pages)
        && buffers
            .iter()
            .all(|buffer| word(1 + usize::from(buffer.cpu)) == Some(buffer.offset))
}

/// The lists of the t_info at this place in the file, if it makes sense.
fn lists_at(ram: &Ram, offset: u64, buffers: &[TraceBuffer], pages: u16) -> Option<Vec<Vec<u32>>> {
    let mut seen = std::collections::BTreeSet::new();
    buffers
        .iter()
        .map(|buffer| {
            let mut bytes = vec![0; usize::from(pages) * 4];
            let list = offset + u64::from(buffer.offset) * 4;
            ram.read_file(list, &mut bytes).ok()?;
            let list: Vec<u32> = bytes
                .chunks_exact(4)
                .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                .collect();
            let sound = list.first() == Some(&buffer.mfn)
                && list.iter().all(|&mfn| {
                    mfn != 0
                        && ram.layout().offset(u64::from(mfn) * PAGE).is_some()
                        && seen.insert(mfn)
                });
            sound.then_some(list)
        })
        .collect()
}

/// A CPU's ring. Both counters run to twice the size of the data, so that full differs from empty.
#[derive(Debug)]
struct Ring<'a> {
    data: &'a [u8],
    consumed: u32,
    produced: u32,
}

impl<'a> Ring<'a> {
    fn new(bytes: &'a [u8]) -> Result<Ring<'a>> {
        let (header, data) = RingHeader::read_from_prefix(bytes)
            .ok()
            .context("a trace buffer without a header")?;
        let ring = Ring {
            data,
            consumed: header.consumed.get(),
            produced: header.produced.get(),
        };
        let (consumed, produced, size) = (ring.consumed, ring.produced, ring.size());
        ensure!(
            consumed % 4 == 0
                && produced % 4 == 0
                && consumed < 2 * size
                && produced < 2 * size
                && ring.used() <= size,
            "the counters of the trace buffer make no sense: consumed {consumed:#x}, produced \
             {produced:#x} of {size:#x}"
        );
        Ok(ring)
    }

    fn size(&self) -> u32 {
        self.data.len() as u32
    }

    fn used(&self) -> u32 {
        if self.produced >= self.consumed {
            self.produced - self.consumed
        } else {
            self.produced + 2 * self.size() - self.consumed
        }
    }

    /// What is in the ring, oldest first: one piece, or two when it goes around the end.
    fn pieces(&self) -> [&'a [u8]; 2] {
        let size = self.data.len();
        let start = self.consumed as usize % size;
        let used = self.used() as usize;
        let first = used.min(size - start);
        [&self.data[start..start + first], &self.data[..used - first]]
    }

    /// No room for a record of any length: Xen throws further ones away.
    fn is_full(&self) -> bool {
        self.size() - self.used() < RECORD_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::Layout;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use xen_coalesce::trace::format::{TRC_TRACE_WRAP_BUFFER, encode};

    const MIB: u64 = 1 << 20;

    /// A machine of 16 MiB, of which 12 are above 4G, with two trace buffers of two pages each.
    struct Machine {
        file: File,
        facts: Facts,
    }

    const LAYOUT: Layout = Layout {
        size: 16 * MIB,
        low: 4 * MIB,
    };
    const PAGES: u16 = 2;
    const SIZE: u32 = 2 * 4096 - 8;
    const T_INFO: u64 = 9 * MIB;
    const LISTS: [(u16, [u32; 2]); 2] = [(129, [0x300, 0x111]), (131, [0x100_010, 0x3ff])];

    fn offset(mfn: u32) -> u64 {
        LAYOUT.offset(u64::from(mfn) * PAGE).unwrap()
    }

    impl Machine {
        fn new() -> Machine {
            let file = tempfile::tempfile().unwrap();
            file.set_len(LAYOUT.size).unwrap();
            let mut facts = Facts {
                trace_pages: Some(PAGES),
                ..Facts::default()
            };
            for (cpu, (offset, list)) in LISTS.into_iter().enumerate() {
                facts.trace_buffers.push(TraceBuffer {
                    cpu: cpu as u16,
                    mfn: list[0],
                    offset,
                });
            }
            let machine = Machine { file, facts };
            machine.write_t_info(T_INFO);
            machine
        }

        fn write_t_info(&self, at: u64) {
            self.write(at, &PAGES.to_le_bytes());
            for (cpu, (offset, list)) in LISTS.into_iter().enumerate() {
                self.write(at + 2 + 2 * cpu as u64, &offset.to_le_bytes());
                for (i, mfn) in list.into_iter().enumerate() {
                    let place = at + 4 * (u64::from(offset) + i as u64);
                    self.write(place, &mfn.to_le_bytes());
                }
            }
        }

        fn write(&self, at: u64, bytes: &[u8]) {
            self.file.write_all_at(bytes, at).unwrap();
        }

        /// Fills a CPU's ring as Xen would, from `consumed` on.
        fn fill(&self, cpu: usize, consumed: u32, bytes: &[u8]) {
            let list = LISTS[cpu].1;
            let produced = (consumed + bytes.len() as u32) % (2 * SIZE);
            self.write(offset(list[0]), &consumed.to_le_bytes());
            self.write(offset(list[0]) + 4, &produced.to_le_bytes());
            for (i, &byte) in bytes.iter().enumerate() {
                let at = (consumed as usize + i) % SIZE as usize + 8;
                self.write(offset(list[at / 4096]) + (at % 4096) as u64, &[byte]);
            }
        }

        fn extract(&self) -> Result<Option<Extract>> {
            let ram = Ram::from_file(self.file.try_clone().unwrap(), LAYOUT)?;
            extract(&ram, &self.facts)
        }
    }

    fn record(n: u32) -> Vec<u8> {
        encode(0x10f022, Some(u64::from(n)), &[1, n, 0, n, 0, n, n])
    }

    fn numbers(extract: &Extract, cpu: u32) -> Vec<u64> {
        let records = extract.trace.records.iter().filter(|r| r.cpu == cpu);
        records.map(|r| r.tsc.unwrap()).collect()
    }

    #[test]
    fn buffers_are_found_and_read() {
        let machine = Machine::new();
        let records: Vec<u8> = (0..150).flat_map(record).collect();
        machine.fill(0, 0, &records);
        let extract = machine.extract().unwrap().unwrap();
        assert_eq!(numbers(&extract, 0), (0..150).collect::<Vec<_>>());
        assert_eq!(extract.trace.windows, 1, "an idle CPU has no window");
        assert!(extract.full.is_empty());
    }

    #[test]
    fn a_ring_that_goes_around_is_put_in_order() {
        let machine = Machine::new();
        // 40 bytes each; 8184 bytes in the ring: the rest is filled with a record that says so.
        let before: Vec<u8> = (0..3).flat_map(record).collect();
        let mut bytes = before.clone();
        let consumed = SIZE - before.len() as u32 - 24;
        bytes.extend(encode(TRC_TRACE_WRAP_BUFFER, None, &[0; 5]));
        bytes.extend((3..10).flat_map(record));
        machine.fill(1, consumed, &bytes);
        // The second round: both counters are past the size, and produced starts over at zero.
        machine.fill(0, SIZE + consumed, &bytes);

        let extract = machine.extract().unwrap().unwrap();
        assert_eq!(numbers(&extract, 0), (0..10).collect::<Vec<_>>());
        assert_eq!(numbers(&extract, 1), (0..10).collect::<Vec<_>>());
        assert_eq!(extract.trace.windows, 2);
    }

    #[test]
    fn a_full_ring_is_reported() {
        let machine = Machine::new();
        let mut bytes: Vec<u8> = (0..204).flat_map(record).collect();
        bytes.extend(encode(0x10f004, None, &[0; 5]));
        assert_eq!(bytes.len() as u32, SIZE);
        machine.fill(0, 0, &bytes);
        let extract = machine.extract().unwrap().unwrap();
        assert_eq!(extract.full, [0]);
        assert_eq!(numbers_with_any(&extract), 205);
    }

    fn numbers_with_any(extract: &Extract) -> usize {
        extract.trace.records.len()
    }

    #[test]
    fn a_decoy_is_not_taken_for_t_info() {
        let machine = Machine::new();
        machine.fill(0, 0, &record(7));
        // Agrees in the header, but not in the lists.
        machine.write(5 * MIB, &PAGES.to_le_bytes());
        for (cpu, (offset, _)) in LISTS.into_iter().enumerate() {
            machine.write(5 * MIB + 2 + 2 * cpu as u64, &offset.to_le_bytes());
        }
        let extract = machine.extract().unwrap().unwrap();
        assert_eq!(numbers(&extract, 0), [7]);

        // A true copy is no contradiction; one with another list is.
        machine.write_t_info(6 * MIB);
        assert!(machine.extract().is_ok());
        machine.write(6 * MIB + 4 * 130, &0x222u32.to_le_bytes());
        let error = machine.extract().unwrap_err().to_string();
        assert!(error.contains("2 different pages"), "{error}");
    }

    #[test]
    fn no_t_info_and_damaged_rings_are_errors() {
        let machine = Machine::new();
        machine.write(T_INFO, &[0; 8]);
        let error = format!("{:#}", machine.extract().unwrap_err());
        assert!(error.contains("no page of the machine's memory"), "{error}");

        let machine = Machine::new();
        machine.write(offset(LISTS[1].1[0]), &(2 * SIZE).to_le_bytes());
        let error = format!("{:#}", machine.extract().unwrap_err());
        assert!(error.contains("CPU 1: the counters"), "{error}");

        let machine = Machine::new();
        machine.fill(0, 0, &[0; 40]);
        let error = format!("{:#}", machine.extract().unwrap_err());
        assert!(error.contains("offset 0xc: a record without"), "{error}");
    }

    #[test]
    fn no_buffers_no_trace() {
        let mut machine = Machine::new();
        machine.facts.trace_buffers.clear();
        assert!(machine.extract().unwrap().is_none());
    }
}
