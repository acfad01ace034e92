// SPDX-License-Identifier: GPL-2.0-only
//! Boots Xen and a test guest on an emulator, and judges what came of it.
//!
//! - [`tables`]: which machines, guests and scenarios there are; all of it data.
//! - [`emulator`]: how to start a machine; one implementation of a trait for each emulator.
//! - [`run`]: starts, watches and ends one emulator, whatever happens.
//! - [`console`]: takes the serial console apart into lines of Xen and lines of the guest.
//! - [`verdict`]: what the lines say, and whether that is what the scenario wants.
//! - [`extract`]: Xen's trace buffers, read out of the machine's memory once it has stopped.
//! - [`picture`]: the guest's memory as a picture.
//! - [`figures`], [`spec`], [`bench`]: what guests counted, what was promised, and both as tables.
//! - [`baseline`]: what an unpatched Xen has cost, against what it costs.
//! - [`suite`], [`passed`]: the whole table, less what passed already with the same bytes.
//! - [`lab`]: the above put together for one run.

pub mod baseline;
pub mod bench;
pub mod console;
pub mod demo;
pub mod emulator;
pub mod extract;
pub mod figures;
pub mod lab;
pub mod linux;
pub mod passed;
pub mod picture;
pub mod place;
pub mod ram;
pub mod run;
pub mod spec;
pub mod suite;
pub mod tables;
pub mod verdict;
