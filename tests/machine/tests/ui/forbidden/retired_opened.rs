// SPDX-License-Identifier: GPL-2.0-only
// Frames that were retired are freed, and nothing else is done with them.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::frames::{List, Loss, Retired};

pub fn wrong<'l, X: Loss>(retired: &mut Retired<'l, X>) -> Option<&'l mut List> {
    retired.list.take()
}

fn main() {}
