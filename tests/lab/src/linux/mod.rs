// SPDX-License-Identifier: GPL-2.0-only
//! Xen with a Linux control domain, its own toolstack and Linux guests that balloon, are saved and
//! restored, and die: scenarios, each a shell script that runs in the control domain.
//!
//! - [`table`]: which scenarios there are; all of it data.
//! - [`image`]: initial file systems of programs from Debian's packages and our own scripts.
//! - [`link`]: QEMU's monitor, and a channel to the control domain.
//! - [`walk`]: a guest's page table, read in the machine's memory while the machine stands still.
//! - [`play`]: one run of a scenario.
//! - [`judge`]: what was seen, and whether that is what has to be.
//! - [`report`]: what came of it, unpatched Xen beside ours.

pub mod image;
pub mod judge;
pub mod link;
pub mod play;
pub mod report;
pub mod table;
pub mod walk;
