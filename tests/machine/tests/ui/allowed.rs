// SPDX-License-Identifier: GPL-2.0-only
// The same steps as in the forbidden programs, in the order that is right.
use p2m::addr::{Gfn, Mfn, Order, Region};
use p2m::frames::{Frozen, List, Pending};
use p2m::machine::{Locked, Machine, Purpose};

#[allow(dead_code)]
fn right<M: Machine>(machine: &mut M, list: &mut List) {
    let block = machine.alloc(Order::REGION, Purpose::Expose);
    let retired = {
        let mut locked = machine.lock();
        let frozen = match Frozen::freeze_all(&mut locked, list) {
            Ok(frozen) => frozen,
            Err(_) => return,
        };
        let mut pending = Pending::new();
        locked.zap(&mut pending, Gfn(0), Order::REGION);
        let flushed = locked.flush(pending);
        locked.set_m2p(Mfn(0), None);
        let _ = locked.view(Region(0), |_| ());
        frozen.retire(&flushed)
    };
    retired.free(machine, Order::PAGE);
    if let Some(block) = block {
        machine.free(block);
    }
    let _ = machine.preempt();
}

fn main() {}
