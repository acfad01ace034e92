// SPDX-License-Identifier: GPL-2.0-only
//! Traces of Xen: how they look, where they are in a machine's memory, what they say.

pub mod events;
pub mod extract;
pub mod format;
pub mod text;

pub use events::Event;
pub use format::{Record, Trace, TraceError};
