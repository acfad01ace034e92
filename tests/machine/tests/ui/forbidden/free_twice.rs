// SPDX-License-Identifier: GPL-2.0-only
// A block is given back once.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::machine::{Block, Machine};

pub fn wrong<M: Machine>(machine: &mut M, block: Block) {
    machine.free(block);
    machine.free(block);
}

fn main() {}
