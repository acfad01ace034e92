// SPDX-License-Identifier: GPL-2.0-only
//! Linux' way to Xen for programs: `/dev/xen/privcmd` (`include/uapi/xen/privcmd.h`).

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap,
};

const PAGE: usize = 4096;

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    op: u64,
    arg: [u64; 5],
}

/// `struct privcmd_mmapbatch_v2`.
#[repr(C)]
struct MapBatch {
    num: u32,
    dom: u16,
    addr: u64,
    arr: *const u64,
    err: *mut i32,
}

mod ioctl {
    // _IOC(_IOC_NONE, 'P', NR, sizeof(...)), as privcmd.h has it.
    use super::{Hypercall, MapBatch};
    nix::ioctl_write_ptr_bad!(
        hypercall,
        nix::request_code_none!(b'P', 0) | (size_of::<Hypercall>() as u64) << 16,
        Hypercall
    );
    nix::ioctl_readwrite_bad!(
        map_batch,
        nix::request_code_none!(b'P', 4) | (size_of::<MapBatch>() as u64) << 16,
        MapBatch
    );
}

/// The device.
#[derive(Debug)]
pub struct Privcmd {
    file: File,
}

/// Memory that is there as long as this is, for Xen to read and write: a page that the kernel is
/// just moving would make a hypercall fail.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

impl Buffer {
    pub fn new(length: usize) -> Result<Buffer> {
        let length = NonZeroUsize::new(length.next_multiple_of(PAGE).max(PAGE))
            .context("an empty buffer")?;
        // SAFETY: a fresh mapping wherever the kernel likes replaces nothing.
        let start = unsafe {
            mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE,
            )
        }
        .context("no memory for a buffer")?;
        let buffer = Buffer {
            start: start.cast(),
            length,
        };
        // SAFETY: the mapping was just made, and is of this length.
        unsafe {
            // As libxencall does: a child must not make Linux copy these pages on write.
            madvise(start, length.get(), MmapAdvise::MADV_DONTFORK).context("madvise")?;
            mlock(start, length.get()).context("mlock")?;
        }
        Ok(buffer)
    }

    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone, of this length, readable and writable; any bytes are
        // valid, and Xen writes only during a hypercall, which borrows this mutably or not at all.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length.get()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and nobody has a reference into it any more.
        // There is nothing to do about a failure.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}

/// Pages of another domain.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: NonZeroUsize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map_foreign`, which gives out no references into it.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}

impl Privcmd {
    pub fn open() -> Result<Privcmd> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/xen/privcmd")
            .context("cannot open /dev/xen/privcmd")?;
        Ok(Privcmd { file })
    }

    /// One hypercall. Whatever memory Xen is told of has to be in one of `used`.
    pub fn call(&self, op: u64, arguments: &[u64], _used: &[&Buffer]) -> Result<i64, Errno> {
        let mut arg = [0; 5];
        for (place, &argument) in arg.iter_mut().zip(arguments) {
            *place = argument;
        }
        let call = Hypercall { op, arg };
        // SAFETY: the structure is what this request takes; the buffers that it names outlive
        // the call, since they are borrowed for it.
        let result = unsafe { ioctl::hypercall(self.file.as_raw_fd(), &call) };
        result.map(i64::from)
    }

    /// Maps pages of a domain, each of which then has one more reference.
    pub fn map_foreign(&self, domid: u16, frames: &[u64]) -> Result<Mapping> {
        let length = NonZeroUsize::new(frames.len() * PAGE).context("no pages to map")?;
        // SAFETY: a fresh mapping wherever the kernel likes replaces nothing.
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &self.file,
                0,
            )
        }
        .context("cannot reserve addresses for foreign pages")?;
        let mapping = Mapping {
            start: start.cast(),
            length,
        };
        let mut errors = vec![0i32; frames.len()];
        let mut batch = MapBatch {
            num: u32::try_from(frames.len())?,
            dom: domid,
            addr: mapping.start.as_ptr() as u64,
            arr: frames.as_ptr(),
            err: errors.as_mut_ptr(),
        };
        // SAFETY: the structure is what this request takes, and its arrays have `num` elements.
        let result = unsafe { ioctl::map_batch(self.file.as_raw_fd(), &mut batch) };
        if let Some((&frame, &error)) = frames.iter().zip(&errors).find(|(_, e)| **e != 0) {
            bail!(
                "frame {frame:#x} of domain {domid} cannot be mapped: {}",
                Errno::from_raw(-error)
            );
        }
        ensure!(
            result.is_ok(),
            "pages of domain {domid} cannot be mapped: {result:?}"
        );
        Ok(mapping)
    }
}
