// SPDX-License-Identifier: GPL-2.0-only
// One flush serves what was pending before it, not after it.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::addr::{Gfn, Order};
use p2m::frames::Pending;
use p2m::machine::Locked;

pub fn wrong<L: Locked>(locked: &mut L) {
    let mut pending = Pending::new();
    let _ = locked.flush(pending);
    locked.zap(&mut pending, Gfn(0), Order::PAGE);
}

fn main() {}
