// SPDX-License-Identifier: GPL-2.0-only
//! Preloaded into `xl` (`LD_PRELOAD`): Xen keeps the memory of the domains that it creates in the
//! IOMMU's tables too, as if they were to get a device.
//!
//! Xen can do that with every guest. libxl refuses it for PVH (`passthrough=`), since it could not
//! tell such a guest of a device; but what Xen does about its memory is the same.

use std::ffi::{c_int, c_ulong, c_void};

/// `struct privcmd_hypercall` (Linux, `include/uapi/xen/privcmd.h`).
#[repr(C)]
struct Hypercall {
    op: u64,
    arg: [u64; 5],
}

/// `_IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))`.
const PRIVCMD_HYPERCALL: c_ulong =
    (size_of::<Hypercall>() as c_ulong) << 16 | (b'P' as c_ulong) << 8;

/// `__HYPERVISOR_domctl`.
const DOMCTL: u64 = 36;

/// The start of `struct xen_domctl` for `XEN_DOMCTL_createdomain`.
#[repr(C)]
struct CreateDomain {
    cmd: u32,
    interface_version: u32,
    domain: u16,
    pad: [u16; 3],
    ssidref: u32,
    handle: [u8; 16],
    flags: u32,
}

/// `XEN_DOMCTL_createdomain`.
const CREATE_DOMAIN: u32 = 1;
/// Of 4.19 and 4.20. In another the structure may look different, and is left alone.
const INTERFACE_VERSION: u32 = 0x17;
/// `XEN_DOMCTL_CDF_iommu`.
const CDF_IOMMU: u32 = 1 << 5;

/// In the place of libc's.
///
/// # Safety
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(file: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request == PRIVCMD_HYPERCALL {
        // SAFETY: what comes with this request is a struct privcmd_hypercall.
        let call = unsafe { &*argument.cast::<Hypercall>() };
        if call.op == DOMCTL {
            // SAFETY: libxencall hands a struct xen_domctl over, in memory of this process that nobody else
            // has anything to do with until the call returns.
            let create = unsafe { &mut *(call.arg[0] as *mut CreateDomain) };
            if create.cmd == CREATE_DOMAIN && create.interface_version == INTERFACE_VERSION {
                create.flags |= CDF_IOMMU;
            }
        }
    }
    // SAFETY: the caller's call, as it is.
    unsafe { libc::syscall(libc::SYS_ioctl, file, request, argument) as c_int }
}
