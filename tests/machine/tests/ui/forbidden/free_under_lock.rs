// SPDX-License-Identifier: GPL-2.0-only
// Memory is not given back under the lock.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::machine::{Block, Locked, Machine};

pub fn wrong<M: Machine>(machine: &mut M, block: Block) {
    let locked = machine.lock();
    machine.free(block);
    let _ = locked.facts();
}

fn main() {}
