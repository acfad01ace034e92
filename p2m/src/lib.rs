// SPDX-License-Identifier: GPL-2.0-only
//! How guest superpages are kept and rebuilt: the thinking part, which knows
//! nothing of Xen.
//!
//! # The protocol on one page
//!
//! A *region* is 2 MiB of guest-physical memory. It is whole when one
//! second-stage entry maps it. Ballooning breaks it into 512 entries; this
//! crate makes it whole again, and exchanges pages without breaking it where
//! that can be avoided.
//!
//! A frame may be moved or taken away only while it is *frozen*: under the
//! p2m write lock its reference count went, in one atomic step, from exactly
//! one reference (the domain's own) to none. From then on nobody can get a
//! reference to it: not by gfn, for that takes the p2m lock, and not by mfn, for
//! `get_page()` fails on a count of 0. If anybody had a reference before (a
//! grant or foreign mapping, an emulator, an IOMMU operation), freezing fails,
//! and the region is left as it is.
//!
//! ```text
//!  move:     freeze a batch → detach the table (guest accesses wait) → flush
//!            → copy → assign → redirect → attach, or one leaf → retire → unlock
//!            → free: to a fresh block (migrate), or to the block in which most
//!            pages lie already (complete)
//!  exchange: freeze inputs → reserve outputs → assign → zap inputs, install
//!            outputs → flush → retire → unlock → free
//!  promote:  512 entries already say what one leaf says → one write → flush
//! ```
//!
//! What may fail comes before the first change that a guest could notice; what
//! comes after it cannot fail, or the domain is dying or is crashed. No heap
//! allocation, guest memory access or preemption happens under the lock. The
//! types in [`frames`] and [`machine`] make most of these rules the
//! compiler's business.
//!
//! Events feed the [`ledger`]; [`coalesce::heal`] takes one region from it and
//! carries out the cheapest sufficient act; [`pace`] says how much of that is done
//! and for whom; [`room`] empties a block where none is free; [`exchange::run`] is the hypercall, and [`pv::run`] that of domains
//! without a second-stage table; [`account`] keeps the books.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod account;
pub mod addr;
pub mod audit;
pub mod coalesce;
pub mod due;
pub mod exchange;
pub mod frames;
pub mod ledger;
pub mod machine;
pub mod pace;
pub mod placement;
pub mod plan;
pub mod pv;
pub mod region;
pub mod room;
pub mod trace;
