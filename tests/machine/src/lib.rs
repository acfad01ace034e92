// SPDX-License-Identifier: GPL-2.0-only
//! A hypervisor in memory, for the core to run on.
//!
//! [`host::Host`] implements the core's traits over a heap of page frames with
//! owners and counts, second-stage tables in the processors' real formats, and
//! TLBs that keep what was changed until they are told. While the core works,
//! other actors do too, at every call that it makes: vCPUs of the guest read
//! and write through their TLBs, a mapper takes and drops references, another
//! domain allocates and frees, and the guest may start to die.
//!
//! Nothing here is lenient. What Xen would not notice until much later, or
//! never, is a panic that says what happened: a frame that is freed or given
//! out while a TLB leads to it, a frame with two owners or behind two gfns,
//! contents that are lost or shown to somebody else, a page that leaks, a count
//! that is off, an operation that needs what it did not prepare.

pub mod heap;
pub mod host;
pub mod reference;
pub mod replay;
pub mod script;
pub mod tables;
