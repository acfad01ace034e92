// SPDX-License-Identifier: GPL-2.0-only
//! The hypercalls that are needed (`xen/include/public`).

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::privcmd::{Buffer, Privcmd};

const HYPERVISOR_MEMORY_OP: u64 = 12;
const HYPERVISOR_SYSCTL: u64 = 35;
const HYPERVISOR_DOMCTL: u64 = 36;

/// Of Xen 4.20.
const DOMCTL_VERSION: u32 = 0x17;
const SYSCTL_VERSION: u32 = 0x15;

const XENMEM_MAXIMUM_GPFN: u64 = 14;
const DOMCTL_COALESCE: u32 = 90;
const DOMCTL_SHADOW_OP: u32 = 10;
const SHADOW_OFF: u32 = 0;
const ENABLE_LOGDIRTY: u32 = 2;
const SYSCTL_PHYSINFO: u32 = 3;

const SET_MODE: u32 = 0;
const GET_INFO: u32 = 1;
const GET_MAP: u32 = 2;
const AUDIT: u32 = 3;

pub const COUNT_LOOKED_AT: usize = 0;
pub const COUNT_QUEUED: usize = 10;

/// Elements of which `get_info` is asked for; there are fewer.
const COUNTERS: u32 = 64;
/// `XEN_DOMCTL_COALESCE_AUDIT_*`: there are so many; from which on they should be 0; and which are
/// those of Xen's own audit.
const AUDIT_FINDINGS: usize = 13;
const AUDIT_WRONG: usize = 4;
const AUDIT_XEN: usize = 10;
/// Regions that one call can describe.
const REGIONS: u32 = 4096;

/// `struct xen_domctl_coalesce`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Coalesce {
    op: u32,
    mode: u32,
    first_gfn: u64,
    nr: u32,
    pad: u32,
    buffer: u64,
}

/// `struct xen_domctl_shadow_op`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ShadowOp {
    op: u32,
    mode: u32,
    dirty_bitmap: u64,
    pages: u64,
    fault_count: u32,
    dirty_count: u32,
}

/// `struct xen_domctl`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Domctl {
    cmd: u32,
    interface_version: u32,
    domain: u16,
    pad: [u16; 3],
    /// One of the members, at its start.
    u: [u8; 128],
}

/// `struct xen_sysctl_physinfo`, up to what is used here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Physinfo {
    threads_per_core: u32,
    cores_per_socket: u32,
    nr_cpus: u32,
    max_cpu_id: u32,
    nr_nodes: u32,
    max_node_id: u32,
    cpu_khz: u32,
    capabilities: u32,
    arch_capabilities: u32,
    pad: u32,
    total_pages: u64,
    free_pages: u64,
    scrub_pages: u64,
    outstanding_pages: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sysctl {
    cmd: u32,
    interface_version: u32,
    physinfo: Physinfo,
    rest: [u8; 128 - size_of::<Physinfo>()],
}

const _: () = assert!(size_of::<Domctl>() == 16 + 128 && size_of::<Sysctl>() == 8 + 128);

/// A hypercall with one structure, which Xen may change.
fn call<T>(privcmd: &Privcmd, op: u64, argument: &mut T, used: &[&Buffer]) -> Result<(), CallError>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    let mut buffer = Buffer::new(size_of::<T>()).map_err(CallError::Local)?;
    let write = |buffer: &mut Buffer, argument: &T| {
        let bytes = argument.as_bytes();
        buffer.bytes()[..bytes.len()].copy_from_slice(bytes);
    };
    write(&mut buffer, argument);
    privcmd
        .call(op, &[buffer.address()], used)
        .map_err(CallError::Xen)?;
    let bytes = &buffer.bytes()[..size_of::<T>()];
    *argument = T::read_from_bytes(bytes)
        .map_err(|e| CallError::Local(anyhow::anyhow!("a structure of another size: {e}")))?;
    Ok(())
}

#[derive(Debug)]
enum CallError {
    Local(anyhow::Error),
    Xen(Errno),
}

impl From<CallError> for anyhow::Error {
    fn from(error: CallError) -> anyhow::Error {
        match error {
            CallError::Local(error) => error,
            // What do_domctl() and do_sysctl() say to another interface version.
            CallError::Xen(Errno::EACCES) => {
                anyhow::anyhow!("this Xen speaks another version of domctl or sysctl than 4.20's")
            }
            CallError::Xen(errno) => anyhow::Error::new(errno),
        }
    }
}

/// A domctl, which may change its argument.
fn domctl<T>(
    privcmd: &Privcmd,
    cmd: u32,
    domid: u16,
    mut argument: T,
    buffer: Option<&Buffer>,
) -> Result<T>
where
    T: FromBytes + IntoBytes + Immutable,
{
    let mut domctl = Domctl::new_zeroed();
    domctl.cmd = cmd;
    domctl.interface_version = DOMCTL_VERSION;
    domctl.domain = domid;
    let too_large = || anyhow::anyhow!("an argument too large for a domctl");
    argument
        .write_to_prefix(&mut domctl.u)
        .map_err(|_| too_large())?;
    let used: Vec<&Buffer> = buffer.into_iter().collect();
    call(privcmd, HYPERVISOR_DOMCTL, &mut domctl, &used).map_err(anyhow::Error::from)?;
    (argument, _) = T::read_from_prefix(&domctl.u).map_err(|_| too_large())?;
    Ok(argument)
}

fn coalesce(
    privcmd: &Privcmd,
    domid: u16,
    argument: Coalesce,
    buffer: Option<&Buffer>,
) -> Result<Coalesce> {
    let argument = Coalesce {
        buffer: buffer.map_or(0, Buffer::address),
        ..argument
    };
    domctl(privcmd, DOMCTL_COALESCE, domid, argument, buffer)
}

/// Has Xen keep track of the pages that a domain writes, as it does for a live migration, or no longer.
pub fn log_dirty(privcmd: &Privcmd, domid: u16, on: bool) -> Result<()> {
    let argument = ShadowOp {
        op: if on { ENABLE_LOGDIRTY } else { SHADOW_OFF },
        ..ShadowOp::default()
    };
    domctl(privcmd, DOMCTL_SHADOW_OP, domid, argument, None)
        .map(|_| ())
        .with_context(|| format!("log-dirty of domain {domid} is not to be {on}"))
}

/// A call that gives numbers, of which `argument.nr` are asked for, and what it says besides.
fn numbers(privcmd: &Privcmd, domid: u16, argument: Coalesce) -> Result<(Coalesce, Vec<u64>)> {
    let mut buffer = Buffer::new(argument.nr as usize * 8)?;
    let said = coalesce(privcmd, domid, argument, Some(&buffer))?;
    let exist = said.nr.min(argument.nr) as usize;
    let numbers = buffer.bytes()[..8 * exist]
        .chunks_exact(8)
        .map(|bytes| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
        .collect();
    Ok((said, numbers))
}

/// The counters of a domain, as `XEN_DOMCTL_COALESCE_COUNT_*` numbers them.
pub fn counters(privcmd: &Privcmd, domid: u16) -> Result<Vec<u64>> {
    let argument = Coalesce {
        op: GET_INFO,
        nr: COUNTERS,
        ..Coalesce::default()
    };
    let (_, counters) = numbers(privcmd, domid, argument)
        .with_context(|| format!("no counters of domain {domid}"))?;
    Ok(counters)
}

/// What an audit of a domain found: how often each of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// `XEN_DOMCTL_COALESCE_AUDIT_pages` and the other things that may be there.
    pub there: [u64; AUDIT_WRONG],
    /// What should not be there, by its number.
    pub wrong: Vec<(usize, u64)>,
}

/// Audits all of a domain's memory.
pub fn audit(privcmd: &Privcmd, domid: u16) -> Result<Audit> {
    let mut audit = Audit::default();
    let mut sums = [0u64; AUDIT_FINDINGS];
    let mut first_gfn = 0;
    while first_gfn != u64::MAX {
        let argument = Coalesce {
            op: AUDIT,
            first_gfn,
            nr: AUDIT_FINDINGS as u32,
            ..Coalesce::default()
        };
        let (said, part) = numbers(privcmd, domid, argument)
            .with_context(|| format!("no audit of domain {domid}"))?;
        ensure!(
            part.len() == AUDIT_FINDINGS && said.first_gfn > first_gfn,
            "the audit gives {} elements, and goes on at {:#x} after {first_gfn:#x}",
            part.len(),
            said.first_gfn
        );
        for (n, (sum, found)) in sums.iter_mut().zip(part).enumerate() {
            // Xen's own audit is of the whole, comes with the last part, and is not in each build.
            *sum = match n {
                ..AUDIT_XEN => *sum + found,
                _ if found == u64::MAX => 0,
                _ => found,
            };
        }
        first_gfn = said.first_gfn;
    }
    let (there, wrong) = sums.split_at(AUDIT_WRONG);
    audit.there.copy_from_slice(there);
    let wrong = (AUDIT_WRONG..).zip(wrong.iter().copied());
    audit.wrong = wrong.filter(|&(_, n)| n != 0).collect();
    Ok(audit)
}

pub fn mode(privcmd: &Privcmd, domid: u16) -> Result<u32> {
    let buffer = Buffer::new(8)?;
    let argument = Coalesce {
        op: GET_INFO,
        nr: 1,
        ..Coalesce::default()
    };
    let said = coalesce(privcmd, domid, argument, Some(&buffer))
        .with_context(|| format!("no mode of domain {domid}"))?;
    Ok(said.mode)
}

pub fn set_mode(privcmd: &Privcmd, domid: u16, mode: u32) -> Result<()> {
    let argument = Coalesce {
        op: SET_MODE,
        mode,
        ..Coalesce::default()
    };
    coalesce(privcmd, domid, argument, None)
        .map(|_| ())
        .with_context(|| format!("no mode {mode} for domain {domid}"))
}

/// `XEN_DOMCTL_COALESCE_REGION_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    Empty,
    Whole,
    Broken,
    Holes,
    Other,
}

impl Region {
    fn new(byte: u8) -> Option<Region> {
        Some(match byte {
            0 => Region::Empty,
            1 => Region::Whole,
            2 => Region::Broken,
            3 => Region::Holes,
            4 => Region::Other,
            _ => return None,
        })
    }

    pub fn to_char(self) -> char {
        match self {
            Region::Empty => '.',
            Region::Whole => 'W',
            Region::Broken => 'b',
            Region::Holes => 'h',
            Region::Other => 'o',
        }
    }
}

/// The last guest frame that a domain has ever had.
fn last_frame(privcmd: &Privcmd, domid: u16) -> Result<u64> {
    let mut buffer = Buffer::new(2)?;
    buffer.bytes()[..2].copy_from_slice(&domid.to_le_bytes());
    let arguments = [XENMEM_MAXIMUM_GPFN, buffer.address()];
    let last = privcmd
        .call(HYPERVISOR_MEMORY_OP, &arguments, &[&buffer])
        .with_context(|| format!("no domain {domid}"))?;
    u64::try_from(last).context("a negative frame")
}

/// A domain's memory, from its first region to its last.
pub fn map(privcmd: &Privcmd, domid: u16) -> Result<Vec<Region>> {
    let wanted = last_frame(privcmd, domid)? / 512 + 1;
    let mut map = vec![];
    let mut buffer = Buffer::new(REGIONS as usize)?;
    while (map.len() as u64) < wanted {
        let argument = Coalesce {
            op: GET_MAP,
            first_gfn: map.len() as u64 * 512,
            nr: (wanted - map.len() as u64).min(REGIONS.into()) as u32,
            ..Coalesce::default()
        };
        // Xen may stop before the end, when it has something else to do.
        let said = coalesce(privcmd, domid, argument, Some(&buffer))
            .with_context(|| format!("no map of domain {domid}"))?;
        ensure!(
            (1..=argument.nr).contains(&said.nr),
            "{} of {} regions described",
            said.nr,
            argument.nr
        );
        for &byte in &buffer.bytes()[..said.nr as usize] {
            map.push(Region::new(byte).with_context(|| format!("a region of kind {byte}"))?);
        }
    }
    Ok(map)
}

/// The state of the machine's heap, in pages.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    pub free: u64,
    pub scrub: u64,
    pub outstanding: u64,
}

pub fn free_pages(privcmd: &Privcmd) -> Result<Free> {
    let mut sysctl = Sysctl::new_zeroed();
    sysctl.cmd = SYSCTL_PHYSINFO;
    sysctl.interface_version = SYSCTL_VERSION;
    call(privcmd, HYPERVISOR_SYSCTL, &mut sysctl, &[])
        .map_err(anyhow::Error::from)
        .context("no information about the machine")?;
    Ok(Free {
        free: sysctl.physinfo.free_pages,
        scrub: sysctl.physinfo.scrub_pages,
        outstanding: sysctl.physinfo.outstanding_pages,
    })
}
