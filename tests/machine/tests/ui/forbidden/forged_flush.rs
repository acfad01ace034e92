// SPDX-License-Identifier: GPL-2.0-only
// Only a flush proves a flush.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::frames::Flushed;

pub fn wrong() -> Flushed {
    Flushed(())
}

fn main() {}
