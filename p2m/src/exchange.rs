// SPDX-License-Identifier: GPL-2.0-only
//! XENMEM_exchange for a translated (HAP) domain; for others see [`pv`](crate::pv).
//!
//! A *chunk* is 2^max(in, out order) pages: the unit that is exchanged wholly
//! or not at all, and by which `nr_exchanged` grows. As many chunks as fit in
//! 512 pages make a *batch*: one lock hold, one flush. If a batch fails, its
//! chunks are done again one by one, so that what the caller sees is what a
//! chunk-by-chunk exchange would have done. A chunk of more than 512 pages is a
//! batch of its own, for which there is a larger [`Room`]; who may ask for one
//! is what `memop-max-order` says, and it bounds the hold.
//!
//! Within a lock hold, in this order:
//! 1. each input is broken out of a larger leaf where only a part of that is
//!    given (the one thing that stays done if the chunk fails), and frozen. A
//!    gfn or frame named twice cannot be frozen twice;
//! 2. each output is claimed: a hole gets a mark, which also makes the page
//!    tables that the installation needs (no mark where the table is there and
//!    single pages are asked for, none twice); one of the inputs loses its M2P
//!    entry. An output named twice, or over anything else, is found here;
//! 3. the new frames are assigned: the first step that cannot be undone, and
//!    the last that can fail, which it does for a dying domain only;
//! 4. inputs are removed, outputs installed, in the largest entries possible;
//! 5. one flush, and only then are the old frames let go (XSA-217).
//!
//! Steps 1 and 2 are done chunk by chunk, so an output may be an input of its
//! own chunk or of an earlier one, never of a later one.

use crate::account::{Counter, Reason};
use crate::addr::{Gfn, Mfn, Order, REGION_PAGES, Region};
use crate::frames::{Frozen, Loss, Pair, Pairs, Pending, Retired};
use crate::machine::{Block, Errno, Facts, Kind, Locked, Machine, Purpose};
use crate::placement::wanted;
use crate::plan::Slots;
use crate::pv::Window;
use crate::trace::{Event, Record};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// One of the two lists of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the guest gives.
    In,
    /// What it gets.
    Out,
}

/// A machine that can read the lists of the call that is being served.
pub trait Caller: Machine {
    /// Read the gfns of the extents of `side`, from number `first` on, as many
    /// as there is room for in `gfns`.
    fn read(&mut self, side: Side, first: u64, gfns: &mut [u64]) -> Result<(), Errno>;
}

/// A call whose sizes have been checked against each other
/// (`common/memory.c: memory_exchange()`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    in_order: Order,
    out_order: Order,
    /// Input extents.
    nr: u64,
    /// Input extents exchanged.
    done: u64,
    /// The caller may have superpages though it asks for less (`memop-max-order`,
    /// XSA-158).
    large: bool,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it is done.
    Done,
    /// The rest has to wait.
    Preempted,
    /// The chunk after the last one done cannot be done.
    Failed(Errno),
}

impl Request {
    /// Orders as log2 of pages, `nr` input extents, of which `done` are done;
    /// the largest order that the caller may allocate.
    ///
    /// # Errors
    /// `Opnotsupp` where a chunk has more pages than the [largest room](Largest),
    /// `Inval` where the numbers do not fit together.
    pub fn new(
        in_order: u32,
        out_order: u32,
        nr: u64,
        done: u64,
        max_order: u32,
    ) -> Result<Self, Errno> {
        let order = |log2| {
            Order::new(log2)
                .filter(|&o| o <= LARGEST)
                .ok_or(Errno::Opnotsupp)
        };
        let large = max_order >= Order::REGION.log2();

        Self::checked(order(in_order)?, order(out_order)?, nr, done, large)
    }

    /// The same for a paravirtualised domain, whose chunks may have any size.
    ///
    /// # Errors
    /// `Perm` where an order is beyond what the heap has, `Inval` as above.
    pub fn paravirt(in_order: u32, out_order: u32, nr: u64, done: u64) -> Result<Self, Errno> {
        let order = |log2| Order::new(log2).ok_or(Errno::Perm);

        Self::checked(order(in_order)?, order(out_order)?, nr, done, false)
    }

    fn checked(
        in_order: Order,
        out_order: Order,
        nr: u64,
        done: u64,
        large: bool,
    ) -> Result<Self, Errno> {
        let request = Request {
            in_order,
            out_order,
            nr,
            done,
            large,
        };

        if done > nr || !request.chunk_in().aligns(done) || !request.chunk_in().aligns(nr) {
            return Err(Errno::Inval);
        }
        Ok(request)
    }

    /// The order of the extents of one side.
    pub(crate) fn order(&self, side: Side) -> Order {
        match side {
            Side::In => self.in_order,
            Side::Out => self.out_order,
        }
    }

    /// The first extent of one side that is not done yet, and how many belong
    /// to `chunks` chunks.
    pub(crate) fn extents(&self, side: Side, chunks: u64) -> (u64, u64) {
        let per_chunk = match side {
            Side::In => self.chunk_in(),
            Side::Out => self.chunk_out(),
        };
        let chunk = self.chunk_in().blocks_in(self.done);

        (per_chunk.pages_in(chunk), per_chunk.pages_in(chunks))
    }

    /// Input extents exchanged so far: what goes into `nr_exchanged`.
    pub fn done(&self) -> u64 {
        self.done
    }

    fn chunk_order(&self) -> Order {
        self.in_order.max(self.out_order)
    }

    /// The pages of a chunk: there has to be [room](Room) for so many, and for
    /// not less than 512.
    pub fn chunk_pages(&self) -> u64 {
        self.chunk_order().pages()
    }

    /// log2 of the input extents in a chunk.
    fn chunk_in(&self) -> Order {
        self.chunk_order().minus(self.in_order)
    }

    /// log2 of the output extents in a chunk.
    fn chunk_out(&self) -> Order {
        self.chunk_order().minus(self.out_order)
    }
}

impl Request {
    /// A batch whose inputs make up a region, or several one after the other, is one
    /// of larger extents: their leaves go with one write. So it is with outputs, if
    /// there are blocks for them. Not where outputs are among the inputs, unless it
    /// makes no difference which comes first.
    fn gather(&self, inputs: &mut Pairs, outputs: &Pairs) -> (Request, bool) {
        let within = |region: Region, list: &Pairs, order: Order| {
            list.as_slice().iter().any(|pair| {
                let last = pair.gfn().add(order.pages().wrapping_sub(1));
                pair.gfn().region() == region || last.region() == region
            })
        };
        let mut request = *self;
        let given = whole_regions(inputs, self.in_order);
        let wanted = whole_regions(outputs, self.out_order).filter(|_| self.large);
        // One chunk is exchanged as a whole; more have only one region.
        let any_order = self.chunk_order() >= Order::REGION || same(inputs, outputs);

        let given = given.filter(|&r| any_order || !within(r, outputs, self.out_order));
        let wanted = wanted.filter(|&r| any_order || !within(r, inputs, self.in_order));
        if given.is_some() {
            request.in_order = Order::REGION;
            inputs.be_regions(parts(self.in_order));
        }
        (request, wanted.is_some())
    }

    /// How many of `chunks` chunks to do at once: not those at the end whose pages
    /// begin a region, if the next ones may be the rest of it.
    fn before_a_region(&self, inputs: &Pairs, chunks: u64) -> u64 {
        let end = self.done.wrapping_add(self.chunk_in().pages_in(chunks));
        let mut list = inputs.as_slice().iter().rev();
        let Some(last) = list.next().map(|pair| pair.gfn().region()) else {
            return chunks;
        };
        if end >= self.nr || self.in_order >= Order::REGION {
            return chunks;
        }
        let tail = list.take_while(|pair| pair.gfn().region() == last).count() as u64;
        let before = inputs.len().saturating_sub(tail).saturating_sub(1);

        match self.chunk_in().blocks_in(before) {
            0 => chunks,
            some => some,
        }
    }
}

/// How many extents of `order` a region has.
fn parts(order: Order) -> Order {
    Order::REGION.minus(order)
}

/// The first of the regions whose parts the extents of `list` are: all parts of one,
/// in any order, and then of the next.
fn whole_regions(list: &Pairs, order: Order) -> Option<Region> {
    let mut regions = list.as_slice().chunks(parts(order).pages() as usize);
    let first = whole_region(regions.next()?, order)?;

    regions
        .all(|region| whole_region(region, order).is_some())
        .then_some(first)
}

/// The region whose parts the extents of `list` are, all of them, in any order.
fn whole_region(list: &[Pair], order: Order) -> Option<Region> {
    let region = list.first()?.gfn().region();
    let mut seen = Slots::NONE;

    if order >= Order::REGION || order.pages_in(list.len() as u64) != REGION_PAGES {
        return None;
    }
    for pair in list {
        if pair.gfn().region() != region || !pair.gfn().is_aligned(order) {
            return None;
        }
        seen.insert(pair.gfn().slot());
    }
    (seen.count() == list.len() as u64).then_some(region)
}

/// Both lists name the same gfns in the same order.
fn same(a: &Pairs, b: &Pairs) -> bool {
    let mut pairs = a.as_slice().iter().zip(b.as_slice());

    a.len() == b.len() && pairs.all(|(a, b)| a.gfn() == b.gfn())
}

/// Memory for one call at a time, too large for Xen's stack: room for `N` pages,
/// and for twice as many [`Names`].
#[derive(Debug, Default, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Room<const N: usize, const NAMES: usize> {
    inputs: Pairs<[Pair; N]>,
    outputs: Pairs<[Pair; N]>,
    frozen: Pairs<[Pair; N]>,
    names: Names<[u32; NAMES]>,
}

/// The largest order of an extent: what Xen's heap has on x86 (`MAX_ORDER`).
pub const LARGEST: Order = Order::GIB;

/// Room for chunks of up to 16 MiB, for which Xen lets a hardware domain ask: 256
/// KiB.
pub type Larger = Room<{ 1 << 12 }, { 1 << 13 }>;

/// Room for any chunk: 14 MiB.
pub type Largest = Room<{ LARGEST.pages() as usize }, { LARGEST.pages() as usize * 2 }>;

/// The lists of a [`Room`].
#[derive(Debug)]
pub struct Desk<'r> {
    inputs: &'r mut Pairs,
    outputs: &'r mut Pairs,
    frozen: &'r mut Pairs,
    names: &'r mut Names,
}

impl<const N: usize, const NAMES: usize> Room<N, NAMES> {
    /// To work in it.
    pub fn desk(&mut self) -> Desk<'_> {
        Desk {
            inputs: &mut self.inputs,
            outputs: &mut self.outputs,
            frozen: &mut self.frozen,
            names: &mut self.names,
        }
    }
}

/// What most calls need.
#[derive(Debug, Default, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scratch {
    /// For a domain with a second-stage table.
    pub room: Room<{ REGION_PAGES as usize }, { 2 * REGION_PAGES as usize }>,
    /// For a paravirtualised domain.
    pub window: Window,
}

/// Where in a list a gfn stands, in one step, and so whether all gfns of a list are
/// different: a hash table of places in the list (0: none), twice as large as the
/// list can be.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Names<T: ?Sized = [u32]>(T);

impl<const N: usize> Default for Names<[u32; N]> {
    fn default() -> Self {
        Names([0; N])
    }
}

impl Names {
    /// 2^64 over the golden ratio: neighbours are spread wide.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

    fn all_different(&mut self, list: &[Pair]) -> bool {
        let ascending = || {
            let mut two = list.iter().zip(list.iter().skip(1));
            two.all(|(a, b)| a.gfn() < b.gfn())
        };
        ascending() || self.none_twice(list)
    }

    /// Who makes all gfns of a batch fall on one place has half a million
    /// comparisons made, before any lock is taken.
    fn none_twice(&mut self, list: &[Pair]) -> bool {
        self.0.fill(0);
        (1..u32::MAX)
            .zip(list)
            .all(|(place, _)| self.add(list, place))
    }

    /// Have them all found by their gfns, of which none is there twice.
    fn all_added(&mut self, list: &[Pair]) {
        self.none_twice(list);
    }

    /// Remember that the gfn at `place` of `list`, counted from 1, stands there;
    /// `false`: it stands at another place, too.
    fn add(&mut self, list: &[Pair], place: u32) -> bool {
        let Some(gfn) = named(list, place) else {
            return false;
        };
        let mut found = self.search(list, gfn);

        match found.next() {
            Some((at, 0)) => {
                drop(found);
                if let Some(slot) = self.0.get_mut(at) {
                    *slot = place;
                }
                true
            }
            _ => false,
        }
    }

    /// The pair of `list` that has `gfn`, of those that were added.
    fn find(&self, list: &[Pair], gfn: Gfn) -> Option<Pair> {
        let (_, place) = self.search(list, gfn).next()?;

        list.get((place as usize).wrapping_sub(1)).copied()
    }

    /// Where `gfn` is, or the slot where it would be, which has a 0.
    fn search<'a>(
        &'a self,
        list: &'a [Pair],
        gfn: Gfn,
    ) -> impl Iterator<Item = (usize, u32)> + use<'a> {
        let mask = self.0.len().wrapping_sub(1);
        let first = gfn.0.wrapping_mul(Self::SPREAD).wrapping_shr(32) as usize;

        (0..self.0.len())
            .map(move |i| first.wrapping_add(i) & mask)
            .filter_map(|at| self.0.get(at).map(|&place| (at, place)))
            .filter(move |&(_, place)| place == 0 || named(list, place) == Some(gfn))
    }
}

/// The gfn at a place of a list, counted from 1.
fn named(list: &[Pair], place: u32) -> Option<Gfn> {
    list.get((place as usize).wrapping_sub(1)).map(Pair::gfn)
}

/// Serve a call until it is done, fails or has to give way. Between two checks
/// for that lies at most one batch of 512 pages, or one chunk that is larger, or
/// 512 chunks that failed as a batch and are tried one by one. The desk has room
/// for [`Request::chunk_pages`].
pub fn run<M: Caller>(machine: &mut M, request: &mut Request, desk: Desk<'_>) -> End {
    machine.account().add(Counter::ExchangeCalls, 1);
    serve(&mut Served { machine, desk }, request)
}

struct Served<'a, 'r, M> {
    machine: &'a mut M,
    desk: Desk<'r>,
}

impl<M: Caller> Work for Served<'_, '_, M> {
    fn preempt(&mut self) -> bool {
        self.machine.preempt()
    }

    fn batch(&mut self, request: &Request, chunks: u64) -> Result<Batch, Errno> {
        batch(self.machine, request, chunks, &mut self.desk)
    }
}

/// What is different between domains with a second-stage table and without.
pub(crate) trait Work {
    fn preempt(&mut self) -> bool;

    /// Exchange some of the next `chunks` chunks, from the first on, or none.
    fn batch(&mut self, request: &Request, chunks: u64) -> Result<Batch, Errno>;
}

/// Chunks that were exchanged.
pub(crate) struct Batch {
    /// How many, at least one.
    pub(crate) chunks: u64,
    /// They were exchanged, and still the call ends with that.
    pub(crate) failed: Option<Errno>,
}

/// Batch after batch, and where one fails, chunk after chunk.
pub(crate) fn serve(work: &mut impl Work, request: &mut Request) -> End {
    let chunk_in = request.chunk_in();
    let batch_max = request.chunk_order().blocks_in(REGION_PAGES).max(1);
    let mut single = 0u64;
    let mut first = true;

    while request.done < request.nr {
        if !first && work.preempt() {
            return End::Preempted;
        }
        first = false;

        let left = chunk_in.blocks_in(request.nr.saturating_sub(request.done));
        let chunks = if single > 0 { 1 } else { batch_max.min(left) };

        match work.batch(request, chunks) {
            Ok(Batch { chunks, failed }) => {
                let extents = chunk_in.pages_in(chunks);
                request.done = request.done.wrapping_add(extents);
                single = single.saturating_sub(1);
                if let Some(errno) = failed {
                    return End::Failed(errno);
                }
            }
            Err(_) if chunks > 1 => {
                // Nothing is done yet: giving way now might go on for ever.
                single = chunks;
                first = true;
            }
            Err(errno) => return End::Failed(errno),
        }
    }
    End::Done
}

/// Exchange `chunks` chunks or, for the sake of the next region, some of them; or
/// none.
fn batch<M: Caller>(
    machine: &mut M,
    request: &Request,
    chunks: u64,
    desk: &mut Desk<'_>,
) -> Result<Batch, Errno> {
    let Desk {
        inputs,
        outputs,
        frozen,
        names,
    } = desk;
    let read = |machine: &mut M, side, list: &mut Pairs| {
        let (first, count) = request.extents(side, chunks);
        list.fill(count, |gfns| machine.read(side, first, gfns))?;
        // There is room for them.
        if list.len() == count {
            Ok(())
        } else {
            Err(Errno::Nomem)
        }
    };

    read(machine, Side::In, inputs)?;
    read(machine, Side::Out, outputs)?;
    let chunks = request.before_a_region(inputs, chunks);
    inputs.truncate(request.chunk_in().pages_in(chunks));
    outputs.truncate(request.chunk_out().pages_in(chunks));
    let pages = request.chunk_order().pages_in(chunks);

    let (mut request, wanted) = request.gather(inputs, outputs);
    let mut stocked = 0;
    if wanted && stock_regions(machine, outputs, parts(request.out_order)) {
        request.out_order = Order::REGION;
        stocked = outputs.len();
    }
    let request = &request;
    for pair in outputs.as_mut_slice().iter_mut().skip(stocked as usize) {
        let placed = if request.out_order == Order::PAGE && machine.places() {
            place(machine, pair.gfn())
        } else {
            None
        };
        match placed.or_else(|| machine.alloc(request.out_order, Purpose::Expose)) {
            Some(block) => pair.stock(block),
            None => {
                let stocked = outputs.as_slice().iter().take(stocked as usize);
                give_back(machine, stocked, request.out_order);
                return Err(Errno::Nomem);
            }
        }
        stocked = stocked.wrapping_add(1);
    }

    let distinct = request.out_order == Order::PAGE && names.all_different(outputs.as_slice());
    let since = machine.ticks();
    let swapped = swap(
        &mut machine.lock(),
        request,
        inputs.as_slice(),
        outputs.as_slice(),
        distinct,
        names,
        frozen,
    );
    let held = machine.ticks().wrapping_sub(since);
    machine.account().hold(held);

    match swapped {
        Ok(Swapped {
            retired,
            splits_avoided,
        }) => {
            retired.free(machine, request.in_order.min(Order::REGION));
            machine.account().add(Counter::ExchangedPages, pages);
            machine
                .account()
                .add(Counter::SplitsAvoided, splits_avoided);
            if let (Some(i), Some(o)) = (inputs.as_slice().first(), outputs.as_slice().first()) {
                // Half a byte each.
                let log2 = |order: Order| order.log2().min(15);
                let code = log2(request.in_order) << 4 | log2(request.out_order);
                let record = Record::new(0, code as u8, i.gfn(), Some(Mfn(o.gfn().0)))
                    .pages(pages, splits_avoided)
                    .held(held);
                machine.trace(Event::Exchange, record);
            }
            Ok(Batch {
                chunks,
                failed: None,
            })
        }
        Err(Unswapped { errno, assigned }) => {
            let ours = outputs.as_slice().iter().skip(assigned as usize);
            give_back(machine, ours, request.out_order);
            Err(errno)
        }
    }
}

/// The frame that makes the region around `gfn`, a hole, whole again, if its
/// neighbours tell which that is and it is free. Serves populate_physmap, too.
pub fn place<M: Machine>(machine: &mut M, gfn: Gfn) -> Option<Block> {
    let frame = machine
        .lock()
        .view(gfn.region(), |view| wanted(gfn, view))?;

    machine.alloc_at(frame, Purpose::Expose)
}

/// A block of 2 MB for each of the regions whose parts `outputs` names, of which that
/// becomes the list; or none, and it stays as it is.
fn stock_regions<M: Machine>(machine: &mut M, outputs: &mut Pairs, parts: Order) -> bool {
    let size = parts.pages() as usize;
    let mut regions = 0;

    for region in outputs.as_mut_slice().chunks_mut(size) {
        let Some(first) = region.first_mut() else {
            break;
        };
        let Some(block) = machine.alloc(Order::REGION, Purpose::Expose) else {
            let stocked = outputs.as_slice().chunks(size).take(regions);
            give_back(machine, stocked.filter_map(<[_]>::first), Order::REGION);
            return false;
        };
        first.stock(block);
        regions = regions.wrapping_add(1);
    }
    outputs.be_regions(parts);
    true
}

/// Give the blocks that are noted in `list` back to the heap.
fn give_back<'a, M: Machine>(machine: &mut M, list: impl Iterator<Item = &'a Pair>, order: Order) {
    for pair in list {
        machine.free(Block::from_allocator(pair.mfn(), order));
    }
}

struct Swapped<'l, X: Loss> {
    retired: Retired<'l, X>,
    splits_avoided: u64,
}

struct Unswapped {
    errno: Errno,
    /// Outputs that belong to the (dying) domain all the same.
    assigned: u64,
}

fn unfit(facts: Facts) -> Option<Errno> {
    let excluded = Facts::ALTP2M | Facts::NESTED | Facts::POD | Facts::SHARING | Facts::LOG_DIRTY;

    if facts.contains(Facts::DYING) {
        Some(Errno::Inval)
    } else if facts.intersects(excluded) || !facts.contains(Facts::HAP) {
        Some(Errno::Opnotsupp)
    } else {
        None
    }
}

/// All that happens under the lock. `distinct`: the outputs are single pages,
/// none named twice.
fn swap<'l, L: Locked>(
    locked: &mut L,
    request: &Request,
    inputs: &[Pair],
    outputs: &[Pair],
    distinct: bool,
    names: &mut Names,
    list: &'l mut Pairs,
) -> Result<Swapped<'l, L::Loss>, Unswapped> {
    let Request {
        in_order,
        out_order,
        ..
    } = *request;
    let undone = |errno| Unswapped { errno, assigned: 0 };

    if let Some(errno) = unfit(locked.facts()) {
        return Err(undone(errno));
    }

    let mut frozen = Frozen::none(list);
    let (mut claimed, mut next) = (0, 0);
    let large = request.chunk_pages() > REGION_PAGES;
    let mut prepare = || {
        let mut outputs = outputs.chunks(request.chunk_out().pages() as usize);

        for inputs in inputs.chunks(request.chunk_in().pages() as usize) {
            for input in inputs {
                freeze(locked, &mut frozen, input.gfn(), in_order)?;
            }
            if large {
                names.all_added(frozen.pairs());
            }
            for output in outputs.next().unwrap_or(&[]) {
                let mut inputs = Inputs {
                    frozen: frozen.pairs(),
                    next: &mut next,
                    names: large.then_some(&*names),
                };
                claim(locked, &mut inputs, output.gfn(), out_order, distinct)?;
                claimed = usize::wrapping_add(claimed, 1);
            }
        }
        Ok(())
    };
    if let Err(errno) = prepare() {
        unclaim_all(locked, outputs, claimed, out_order);
        frozen.thaw(locked);
        return Err(undone(errno));
    }

    for (assigned, output) in (0..u64::MAX).zip(outputs) {
        if locked.assign(output.mfn(), out_order).is_err() {
            locked.account_assigned(out_order.pages_in(assigned));
            unclaim_all(locked, outputs, claimed, out_order);
            frozen.thaw(locked);
            return Err(Unswapped {
                errno: Errno::Inval,
                assigned,
            });
        }
    }

    let mut pending = Pending::new();
    let mut splits_avoided = 0u64;
    let mut pairs = frozen.pairs();
    let mut in_extent = 0;
    while let Some(first) = pairs.first() {
        let take = part(first.gfn(), in_order, in_extent);
        let (extent, rest) = pairs
            .split_at_checked(take as usize)
            .unwrap_or((pairs, &[]));
        if remove(locked, &mut pending, extent) {
            splits_avoided = splits_avoided.wrapping_add(1);
        }
        pairs = rest;
        in_extent = u64::wrapping_add(in_extent, take) & in_order.pages().wrapping_sub(1);
    }
    for output in outputs {
        // The permissions of a page that was not there are the default ones.
        let access = locked.default_access();
        locked.install(&mut pending, output.gfn(), output.mfn(), out_order, access);
    }
    let flushed = locked.flush(pending);

    Ok(Swapped {
        retired: frozen.retire(&flushed),
        splits_avoided,
    })
}

/// Freeze the pages of one input extent; see step 1.
fn freeze<L: Locked>(
    locked: &mut L,
    frozen: &mut Frozen<'_, L::Loss>,
    gfn: Gfn,
    order: Order,
) -> Result<(), Errno> {
    let mut done = 0;

    while done < order.pages() {
        let at = gfn.add(done);
        let rest = order.pages().saturating_sub(done);
        let found = locked.lookup(at);
        let Kind::Ram(mfn) = found.kind else {
            return Err(Errno::Inval);
        };

        let take = piece(at, rest);
        if found.order > take {
            locked.split(at, mfn, take, found.access)?;
            continue;
        }
        for i in 0..found.order.pages() {
            frozen
                .freeze(locked, at.add(i), mfn.add(i))
                .map_err(|reason| match reason {
                    Reason::Pinned | Reason::TypePinned => Errno::Busy,
                    _ => Errno::Inval,
                })?;
        }
        done = done.wrapping_add(found.order.pages());
    }
    Ok(())
}

/// How many pages to remove together from `gfn` on, of which `done` pages of its
/// extent come before: all of it, but of a larger one no more than a region.
fn part(gfn: Gfn, order: Order, done: u64) -> u64 {
    let left = order.pages().saturating_sub(done);

    if order < Order::REGION {
        left
    } else {
        left.min(REGION_PAGES.wrapping_sub(gfn.slot()))
    }
}

/// The largest entry that begins at `gfn` and covers no more than `pages`.
fn piece(gfn: Gfn, pages: u64) -> Order {
    if gfn.is_aligned(Order::REGION) && pages >= REGION_PAGES {
        Order::REGION
    } else {
        Order::PAGE
    }
}

/// The pages that this call has frozen. To look at their counts instead would
/// not do: a dying domain's teardown does not take the p2m lock, and a page that
/// it is about to free has no reference either.
struct Inputs<'a> {
    frozen: &'a [Pair],
    /// Where the next one is looked for first: most lists go the same way.
    next: &'a mut u64,
    /// Where each is, if there are too many to look through.
    names: Option<&'a Names>,
}

impl Inputs<'_> {
    fn contains(&mut self, gfn: Gfn, mfn: Mfn) -> bool {
        if let Some(names) = self.names {
            let found = names.find(self.frozen, gfn);
            return found.is_some_and(|pair| pair.mfn() == mfn);
        }
        let find = |pairs: &[Pair]| {
            (0..REGION_PAGES)
                .zip(pairs)
                .find(|(_, pair)| pair.gfn() == gfn && pair.mfn() == mfn)
                .map(|(i, _)| i)
        };
        let (before, after) = self
            .frozen
            .split_at_checked(*self.next as usize)
            .unwrap_or((self.frozen, &[]));
        let found = find(after)
            .map(|i| self.next.wrapping_add(i))
            .or_else(|| find(before));

        if let Some(i) = found {
            *self.next = i.wrapping_add(1);
        }
        found.is_some()
    }
}

/// Claim the gfns of one output extent, or none; see step 2.
fn claim<L: Locked>(
    locked: &mut L,
    inputs: &mut Inputs<'_>,
    gfn: Gfn,
    order: Order,
    distinct: bool,
) -> Result<(), Errno> {
    let mut done = 0;

    while done < order.pages() {
        let at = gfn.add(done);
        // Its frames are aligned as it is: elsewhere they are mapped one by one.
        let largest = if gfn.is_aligned(Order::REGION) {
            piece(at, order.pages().saturating_sub(done))
        } else {
            Order::PAGE
        };
        match claim_piece(locked, inputs, at, largest, distinct) {
            Ok(pages) => done = done.wrapping_add(pages),
            Err(errno) => {
                unclaim(locked, gfn, done);
                return Err(errno);
            }
        }
    }
    Ok(())
}

fn claim_piece<L: Locked>(
    locked: &mut L,
    inputs: &mut Inputs<'_>,
    gfn: Gfn,
    largest: Order,
    distinct: bool,
) -> Result<u64, Errno> {
    let found = locked.lookup(gfn);
    // What is claimed at once: an entry of the table, or a part of a larger one.
    let order = found.order.min(largest);

    match found.kind {
        // It is asked for once, and its table is there: nothing needs a mark.
        Kind::Hole if distinct && found.order == Order::PAGE => {}
        Kind::Hole => locked.reserve(gfn, order)?,
        Kind::Ram(mfn) if inputs.contains(gfn, mfn) && locked.m2p(mfn) == Some(gfn) => {
            if found.order > order {
                locked.split(gfn, mfn, order, found.access)?;
            }
            for i in 0..order.pages() {
                locked.set_m2p(mfn.add(i), None);
            }
        }
        Kind::Ram(_) | Kind::Reserved => return Err(Errno::Exist),
        Kind::Other => return Err(Errno::Inval),
    }
    Ok(order.pages())
}

/// Undo the claim of `pages` pages from `gfn` on.
fn unclaim<L: Locked>(locked: &mut L, gfn: Gfn, pages: u64) {
    let mut done = 0;

    while done < pages {
        let at = gfn.add(done);
        let found = locked.lookup(at);
        let order = found.order.min(piece(at, pages.saturating_sub(done)));

        match found.kind {
            Kind::Reserved => locked.unreserve(at, order),
            Kind::Ram(mfn) => {
                for i in 0..order.pages() {
                    locked.set_m2p(mfn.add(i), Some(at.add(i)));
                }
            }
            Kind::Hole | Kind::Other => {}
        }
        done = done.wrapping_add(order.pages());
    }
}

fn unclaim_all<L: Locked>(locked: &mut L, outputs: &[Pair], count: usize, order: Order) {
    for output in outputs.iter().take(count) {
        unclaim(locked, output.gfn(), order.pages());
    }
}

/// Remove one input extent, or its part in one region, but for what an output has
/// claimed: that is overwritten. `true`: it was one leaf up to now.
fn remove<L: Locked>(locked: &mut L, pending: &mut Pending<L::Loss>, extent: &[Pair]) -> bool {
    let Some(gfn) = extent.first().map(Pair::gfn) else {
        return false;
    };
    let region = extent.len() as u64 == REGION_PAGES;
    // Nothing broke it: it was given as a whole.
    let was_leaf = region && locked.lookup(gfn).order >= Order::REGION;
    let untouched = extent
        .iter()
        .all(|pair| locked.m2p(pair.mfn()) == Some(pair.gfn()));

    if untouched && region {
        for pair in extent {
            locked.set_m2p(pair.mfn(), None);
        }
        locked.zap(pending, gfn, Order::REGION);
        return was_leaf;
    }
    for pair in extent {
        if locked.m2p(pair.mfn()) == Some(pair.gfn()) {
            locked.set_m2p(pair.mfn(), None);
            locked.zap(pending, pair.gfn(), Order::PAGE);
        }
    }
    was_leaf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::List;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn twice_is_found_wherever_it_is(gfns in vec(0u64..2000, 0..512)) {
            let mut list = List::new();
            let mut names = Names::<[u32; 1024]>::default();
            let names: &mut Names = &mut names;
            for &gfn in &gfns {
                list.push(Gfn(gfn << 40 | gfn), Mfn::INVALID);
            }
            let set: BTreeSet<_> = gfns.iter().collect();

            let different = names.all_different(list.as_slice());
            prop_assert_eq!(different, set.len() == gfns.len());
            // What was added is found, and nothing else.
            if names.none_twice(list.as_slice()) {
                for gfn in 0..2000 {
                    let found = names.find(list.as_slice(), Gfn(gfn << 40 | gfn));
                    prop_assert_eq!(found.is_some(), set.contains(&gfn));
                }
            }
        }
    }

    #[test]
    fn a_full_list_that_falls_on_one_place_is_searched() {
        // The inverse of SPREAD, modulo 2^64: all hashes are small and equal in
        // the bits that are looked at.
        let mut inverse = 1u64;
        for _ in 0..6 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(Names::SPREAD.wrapping_mul(inverse)));
        }
        let mut list = List::new();
        for i in 0..REGION_PAGES {
            list.push(Gfn(inverse.wrapping_mul(511 - i)), Mfn::INVALID);
        }
        let mut names = Names::<[u32; 1024]>::default();
        let names: &mut Names = &mut names;
        assert!(names.all_different(list.as_slice()));
        list.truncate(REGION_PAGES - 1);
        list.push(Gfn(inverse.wrapping_mul(77)), Mfn::INVALID);
        assert!(!names.all_different(list.as_slice()));
    }

    type Full = Pairs<[Pair; 512]>;

    fn pairs(gfns: impl IntoIterator<Item = u64>) -> Full {
        let mut list = Full::new();

        for gfn in gfns {
            assert!(list.push(Gfn(gfn), Mfn::INVALID));
        }
        list
    }

    fn request(in_order: u32, out_order: u32, nr: u64) -> Request {
        Request::new(in_order, out_order, nr, 0, 9).unwrap()
    }

    #[test]
    fn a_call_may_be_done_already() {
        assert_eq!(Request::new(0, 0, 8, 8, 9).map(|r| r.done()), Ok(8));
        assert_eq!(Request::new(0, 0, 8, 9, 9), Err(Errno::Inval));
    }

    /// What becomes of a batch: one extent is given, one is wanted.
    fn gathered(request: Request, ins: Full, outs: Full) -> (bool, bool) {
        let mut ins = ins;
        let (gathered, wanted) = request.gather(&mut ins, &outs);
        let given = gathered.in_order == Order::REGION;

        assert_eq!(given, ins.len() == 1);
        (given, wanted)
    }

    #[test]
    fn a_region_is_gathered_where_the_order_makes_no_difference() {
        let (region, far) = (|| pairs((512..1024).rev()), || pairs(4096..4608));

        assert_eq!(gathered(request(0, 0, 512), region(), far()), (true, true));
        assert_eq!(
            gathered(request(0, 0, 512), region(), pairs(4000..4512)),
            (true, false)
        );
        assert_eq!(
            gathered(request(0, 0, 512), pairs(4000..4512), region()),
            (false, true)
        );
        // The same list twice: it makes no difference.
        assert_eq!(
            gathered(request(0, 0, 512), region(), region()),
            (true, true)
        );
        // Other outputs in it: it does.
        assert_eq!(
            gathered(request(0, 0, 512), region(), pairs(512..1024)),
            (false, false)
        );
        assert_eq!(
            gathered(request(0, 0, 512), region(), pairs(1000..1512)),
            (false, false)
        );
        // But one chunk is all or nothing.
        let one = pairs([512]);
        let (gathered, wanted) = request(0, 9, 512).gather(&mut region(), &one);
        assert_eq!((gathered.in_order, wanted), (Order::REGION, false));
    }

    #[test]
    fn an_extent_that_reaches_into_a_region_is_in_it() {
        // The last of these begins below the region, and ends in it.
        let outs = || pairs((0..64).map(|i| 1020 + 8 * i - 512));

        assert_eq!(
            gathered(request(3, 3, 64), pairs((512..1024).step_by(8)), outs()),
            (false, false)
        );
        let beside = pairs((0..64).map(|i| 4100 + 8 * i));
        assert_eq!(
            gathered(request(3, 3, 64), pairs((512..1024).step_by(8)), beside),
            (true, false)
        );
        let ins = pairs((0..64).map(|i| 516 + 8 * i));
        assert_eq!(
            gathered(request(3, 3, 64), ins, pairs((1024..1536).step_by(8))),
            (false, false)
        );
    }

    #[test]
    fn lists_are_the_same_or_not() {
        assert!(same(&pairs(3..9), &pairs(3..9)));
        assert!(!same(&pairs(3..9), &pairs(4..10)));
        assert!(!same(&pairs(3..9), &pairs(3..8)));
        assert!(!same(&pairs(3..8), &pairs(3..9)));
    }

    #[test]
    fn a_batch_ends_before_a_region() {
        let gfns = |first: u64| pairs(first..first + 512);

        // 100 pages of the next region are left for the next batch.
        assert_eq!(request(0, 0, 2000).before_a_region(&gfns(100), 512), 412);
        // There is no next one; or all is one region.
        assert_eq!(request(0, 0, 512).before_a_region(&gfns(100), 512), 512);
        assert_eq!(request(0, 0, 2000).before_a_region(&gfns(512), 512), 512);
        // Larger extents are as they are.
        let large = pairs([0, 512, 1024, 1536]);
        assert_eq!(request(9, 9, 8).before_a_region(&large, 4), 4);
        assert_eq!(request(9, 9, 4).before_a_region(&large, 4), 4);
    }

    #[test]
    fn an_extent_goes_region_by_region() {
        assert_eq!(part(Gfn(700), Order::REGION, 0), 324);
        assert_eq!(part(Gfn(1024), Order::REGION, 324), 188);
        assert_eq!(part(Gfn(512), Order::REGION, 0), 512);
        // A small one at once, wherever it is.
        assert_eq!(part(Gfn(1022), Order::new(3).unwrap(), 0), 8);
    }

    #[test]
    fn what_is_frozen_is_found_by_both_its_numbers() {
        let mut frozen = Full::new();
        for (gfn, mfn) in [(5, 50), (6, 60), (7, 70)] {
            frozen.push(Gfn(gfn), Mfn(mfn));
        }
        for large in [false, true] {
            let mut names = Names::<[u32; 1024]>::default();
            let names: &mut Names = &mut names;
            names.all_added(frozen.as_slice());
            let mut next = 0;
            let mut inputs = Inputs {
                frozen: frozen.as_slice(),
                next: &mut next,
                names: large.then_some(&*names),
            };

            for (gfn, mfn) in [(6, 60), (7, 70), (5, 50), (5, 50)] {
                assert!(inputs.contains(Gfn(gfn), Mfn(mfn)));
            }
            for (gfn, mfn) in [(5, 60), (6, 50), (8, 70), (7, 80)] {
                assert!(!inputs.contains(Gfn(gfn), Mfn(mfn)));
            }
        }
    }

    #[test]
    fn each_of_these_keeps_a_domain_from_it() {
        assert_eq!(unfit(Facts::HAP), None);
        for fact in [
            Facts::ALTP2M,
            Facts::NESTED,
            Facts::POD,
            Facts::SHARING,
            Facts::LOG_DIRTY,
        ] {
            assert_eq!(unfit(Facts::HAP | fact), Some(Errno::Opnotsupp), "{fact:?}");
        }
        assert_eq!(unfit(Facts::empty()), Some(Errno::Opnotsupp));
        assert_eq!(unfit(Facts::HAP | Facts::DYING), Some(Errno::Inval));
    }
}
