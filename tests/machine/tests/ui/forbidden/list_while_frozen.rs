// SPDX-License-Identifier: GPL-2.0-only
// The list of frozen frames is not used for anything else.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::frames::{Frozen, List};
use p2m::machine::Locked;

pub fn wrong<L: Locked>(locked: &mut L, list: &mut List) {
    if let Ok(frozen) = Frozen::freeze_all(locked, list) {
        list.clear();
        frozen.thaw(locked);
    }
}

fn main() {}
