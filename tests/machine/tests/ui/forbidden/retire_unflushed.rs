// SPDX-License-Identifier: GPL-2.0-only
// Frames are not let go before TLBs are flushed.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::frames::{Frozen, Pending, Retired};
use p2m::machine::Locked;

pub fn wrong<L: Locked>(
    frozen: Frozen<'static, L::Loss>,
    pending: Pending<L::Loss>,
) -> Retired<'static, L::Loss> {
    frozen.retire(&pending)
}

fn main() {}
