// SPDX-License-Identifier: GPL-2.0-only
// Frames that were thawed belong to the guest again.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::frames::{Flushed, Frozen};
use p2m::machine::Locked;

pub fn wrong<L: Locked>(locked: &mut L, frozen: Frozen<'_, L::Loss>, flushed: &Flushed) {
    frozen.thaw(locked);
    let _ = frozen.retire(flushed);
}

fn main() {}
