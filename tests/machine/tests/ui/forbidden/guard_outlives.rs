// SPDX-License-Identifier: GPL-2.0-only
// The lock guard does not outlive the machine that it locks.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::machine::Machine;

pub fn wrong<'a, M: Machine + 'a>(mut machine: M) -> M::Locked<'a> {
    machine.lock()
}

fn main() {}
