// SPDX-License-Identifier: GPL-2.0-only
// The lock is not taken twice.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::machine::{Locked, Machine};

pub fn wrong<M: Machine>(machine: &mut M) {
    let locked = machine.lock();
    let _ = machine.lock().facts();
    let _ = locked.facts();
}

fn main() {}
