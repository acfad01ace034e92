// SPDX-License-Identifier: GPL-2.0-only
// Guest memory is not read under the lock.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::exchange::{Caller, Side};
use p2m::machine::Locked;

pub fn wrong<M: Caller>(machine: &mut M, gfns: &mut [u64]) {
    let locked = machine.lock();
    let _ = machine.read(Side::In, 0, gfns);
    let _ = locked.facts();
}

fn main() {}
