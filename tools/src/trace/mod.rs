// SPDX-License-Identifier: GPL-2.0-only
//! Traces of Xen: how they look, in which order things happened, what they say.

pub mod busy;
pub mod events;
pub mod format;
pub mod order;
pub mod text;

pub use events::Event;
pub use format::{Reader, Record, Trace, TraceError};
