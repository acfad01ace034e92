// SPDX-License-Identifier: GPL-2.0-only
//! A machine's memory as a file that can be read once the machine has stopped.
//!
//! The file has no name: it is gone with the last process that has it open, so nothing is ever
//! left behind, even if this program is ended in the middle.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Whence, lseek64};

pub const PAGE: u64 = 4096;

/// Where the machine's memory lies in its address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub size: u64,
    /// What lies beyond this is found above 4 GiB.
    pub low: u64,
}

const FOUR_GIB: u64 = 1 << 32;

impl Layout {
    /// The place in the file of a machine address.
    pub fn offset(&self, address: u64) -> Option<u64> {
        let low = self.low.min(self.size);
        if address < low {
            Some(address)
        } else {
            let high = address.checked_sub(FOUR_GIB)?;
            (high < self.size - low).then_some(low + high)
        }
    }
}

/// The memory of a machine.
#[derive(Debug)]
pub struct Ram {
    file: File,
    layout: Layout,
}

impl Ram {
    /// Makes the memory of a machine: in the host's memory if there is room, else in `fallback`.
    pub fn new(layout: Layout, fallback: &Path) -> Result<Ram> {
        let shm = Path::new("/dev/shm");
        let dir = if has_room(shm, layout.size) {
            shm
        } else {
            fallback
        };
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = tempfile::tempfile_in(dir)
            .and_then(|file| file.set_len(layout.size).map(|()| file))
            .with_context(|| format!("cannot make the machine's memory in {}", dir.display()))?;
        Ok(Ram { file, layout })
    }

    /// Memory that is in a file already.
    pub fn from_file(file: File, layout: Layout) -> Result<Ram> {
        let length = file.metadata()?.len();
        ensure!(
            length == layout.size,
            "the file has {length} bytes, and the machine {}",
            layout.size
        );
        Ok(Ram { file, layout })
    }

    /// What the emulator has to inherit, and how it names it then.
    pub fn share(&self) -> Result<(OwnedFd, String)> {
        let copy = self
            .file
            .as_fd()
            .try_clone_to_owned()
            .context("cannot share the machine's memory")?;
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        Ok((copy, path))
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Reads at a machine address. It must not cross the end of a stretch of memory, which is
    /// given for anything within one page.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let offset = self
            .layout
            .offset(address)
            .with_context(|| format!("there is no memory at machine address {address:#x}"))?;
        self.file
            .read_exact_at(buffer, offset)
            .with_context(|| format!("cannot read the machine's memory at {address:#x}"))
    }

    /// Reads at an offset in the file.
    pub fn read_file(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .with_context(|| format!("cannot read the machine's memory file at {offset:#x}"))
    }

    /// Calls `look` with the offset in the file and the content of each page that was ever
    /// touched, until it says true. The rest is zeros, and costs nothing.
    pub fn pages(&self, mut look: impl FnMut(u64, &[u8]) -> bool) -> Result<()> {
        let mut chunk = vec![0; 1 << 20];
        let mut start = 0;
        while let Some(data) = seek(&self.file, start, Whence::SeekData)? {
            let hole = seek(&self.file, data, Whence::SeekHole)?.unwrap_or(self.layout.size);
            let mut at = data - data % PAGE;
            while at < hole {
                let want = (hole.next_multiple_of(PAGE) - at)
                    .min(chunk.len() as u64)
                    .min(self.layout.size - at);
                let got = &mut chunk[..want as usize];
                self.file
                    .read_exact_at(got, at)
                    .context("cannot read the machine's memory")?;
                for page in got.chunks_exact(PAGE as usize) {
                    if look(at, page) {
                        return Ok(());
                    }
                    at += PAGE;
                }
            }
            start = hole;
        }
        Ok(())
    }
}

fn seek(file: &File, from: u64, whence: Whence) -> Result<Option<u64>> {
    match lseek64(file, from as i64, whence) {
        Ok(at) => Ok(Some(at as u64)),
        // There is no data behind this place.
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(errno) => Err(io::Error::from(errno)).context("cannot look through the memory file"),
    }
}

/// Room for this and something to spare, in the folder and in the host's memory.
fn has_room(dir: &Path, size: u64) -> bool {
    let wanted = size + size / 4;
    let free = statvfs(dir).map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
    let available = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|info| {
            let line = info.lines().find(|l| l.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024);
    free >= wanted && available >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_the_gap_is_above_4g() {
        let layout = Layout {
            size: 4 << 30,
            low: 3 << 30,
        };
        assert_eq!(layout.offset(0x1000), Some(0x1000));
        assert_eq!(layout.offset((3 << 30) - 1), Some((3 << 30) - 1));
        assert_eq!(layout.offset(3 << 30), None);
        assert_eq!(layout.offset(FOUR_GIB), Some(3 << 30));
        assert_eq!(layout.offset(FOUR_GIB + (1 << 30)), None);

        let small = Layout {
            size: 1 << 30,
            low: 3 << 30,
        };
        assert_eq!(small.offset((1 << 30) - 1), Some((1 << 30) - 1));
        assert_eq!(small.offset(1 << 30), None);
        assert_eq!(small.offset(FOUR_GIB), None);
    }

    #[test]
    fn only_touched_pages_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            size: 64 << 20,
            low: 3 << 30,
        };
        let ram = Ram::new(layout, dir.path()).unwrap();
        ram.file.write_all_at(&[7; 8], (33 << 20) + 8).unwrap();

        let mut found = vec![];
        let mut seen = 0;
        ram.pages(|at, page| {
            seen += 1;
            if page.contains(&7) {
                found.push(at);
            }
            false
        })
        .unwrap();
        assert_eq!(found, [33 << 20]);
        assert!(seen < 1024, "{seen} pages were read");

        let mut bytes = [0; 8];
        ram.read((33 << 20) + 8, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 8]);
        assert!(ram.read(64 << 20, &mut bytes).is_err());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the file has a name"
        );
    }
}
