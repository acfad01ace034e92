// SPDX-License-Identifier: GPL-2.0-only
//! Reads traces of Xen and tells how the superpages of its guests broke and healed.
//!
//! - [`trace`]: the file format, the order of time, the records.
//! - [`analysis`]: what a trace says about each domain, gathered while it is read, in memory that
//!   does not grow with the trace.
//! - [`report`]: a page of text; [`plot`]: a page for a browser; [`perfetto`]: a file for
//!   ui.perfetto.dev.
//! - [`cli`]: the command line, its manual page and its completions.

pub mod analysis;
pub mod cli;
pub mod perfetto;
pub mod plot;
pub mod report;
pub mod scan;
pub mod trace;
pub mod words;
