// SPDX-License-Identifier: GPL-2.0-only
// What was retired is freed after the lock is dropped.
//
// (The lines that the compiler shows have numbers of two digits: how it
// aligns others depends on its version.)
//
// What is right is in allowed.rs, in the order in which it has to happen.
use p2m::addr::Order;
use p2m::frames::Retired;
use p2m::machine::{Locked, Machine};

pub fn wrong<M: Machine>(machine: &mut M, retired: Retired<'_, M::Loss>) {
    let locked = machine.lock();
    retired.free(machine, Order::PAGE);
    let _ = locked.facts();
}

fn main() {}
