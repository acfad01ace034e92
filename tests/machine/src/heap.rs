// SPDX-License-Identifier: GPL-2.0-only
//! Page frames and who has them: Xen's heap and `struct page_info`.

use p2m::addr::{Gfn, Mfn, Order};

/// Who can own a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dom {
    /// The domain that the core works for.
    Guest,
    /// Any other.
    Other,
}

/// Where a frame is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// In the heap.
    Free,
    /// Given out, and nobody's yet.
    Anonymous,
    /// Some domain's.
    Owned(Dom),
}

/// Whose data is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// All zero.
    Clean,
    /// A domain's.
    Of(Dom),
    /// What the last owner left.
    Stale,
}

/// What Xen knows of a frame, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where it is in its life.
    pub state: State,
    /// References, the domain's own included.
    pub count: u32,
    /// `PGC_allocated`: one of the references is the domain's own.
    pub allocated: bool,
    /// `PGC_xen_heap` or `PGC_extra`.
    pub special: bool,
    /// The type count.
    pub types: u32,
    /// It was freed by an owner who may have left translations in TLBs: they
    /// are flushed before it is given out again (`tlbflush_timestamp`).
    pub stamped: bool,
    /// The whole contents.
    pub content: u64,
    /// Whose they are.
    pub data: Data,
    /// The teardown of its domain has dropped the last reference and is about
    /// to free it.
    pub limbo: bool,
    /// How often it was given out.
    pub generation: u64,
}

impl Frame {
    const FREE: Frame = Frame {
        state: State::Free,
        count: 0,
        allocated: false,
        special: false,
        types: 0,
        stamped: false,
        content: 0,
        data: Data::Clean,
        limbo: false,
        generation: 0,
    };

    /// It is this domain's, and the domain's only reference is taken away.
    pub fn is_frozen(&self) -> bool {
        self.state == State::Owned(Dom::Guest) && self.count == 0 && !self.limbo
    }
}

/// In which order free memory is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The lowest that fits.
    Lowest,
    /// The highest that fits.
    Highest,
    /// Onwards from the last one, which makes runs.
    Next,
}

/// All frames, the M2P, and the domains' page counts.
#[derive(Clone)]
pub struct Heap {
    /// Indexed by mfn.
    pub frames: Vec<Frame>,
    /// Machine to guest: `None` is `INVALID_M2P_ENTRY`.
    pub m2p: Vec<Option<Gfn>>,
    /// `tot_pages` of each domain.
    pub tot: [i64; 2],
    /// In which order free memory is given out.
    pub policy: Policy,
    cursor: u64,
    free: u64,
    /// One bit a frame: it is free.
    map: Vec<u64>,
}

impl Heap {
    /// `blocks` free and clean blocks of 2 MiB.
    pub fn new(blocks: u64, policy: Policy) -> Self {
        let mut heap = Heap {
            frames: Vec::new(),
            m2p: Vec::new(),
            tot: [0; 2],
            policy,
            cursor: 0,
            free: 0,
            map: Vec::new(),
        };

        heap.plug(blocks);
        heap
    }

    /// More memory is plugged in: so many blocks of 2 MiB.
    pub fn plug(&mut self, blocks: u64) {
        let n = blocks * Order::REGION.pages();
        let before = self.len();

        self.frames.extend((0..n).map(|_| Frame::FREE));
        self.m2p.extend((0..n).map(|_| None));
        self.free += n;
        self.map.resize(self.frames.len().div_ceil(64), 0);
        for mfn in before..before + n {
            self.mark(mfn, true);
        }
    }

    /// How many frames there are.
    pub fn len(&self) -> u64 {
        self.frames.len() as u64
    }

    /// There is no memory at all.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames in the heap.
    pub fn free_pages(&self) -> u64 {
        self.free
    }

    /// The frame `mfn`.
    #[track_caller]
    pub fn at(&self, mfn: Mfn) -> &Frame {
        self.frames
            .get(mfn.0 as usize)
            .unwrap_or_else(|| panic!("{mfn:?} is not memory"))
    }

    /// The frame `mfn`, to be changed.
    #[track_caller]
    pub fn at_mut(&mut self, mfn: Mfn) -> &mut Frame {
        self.frames
            .get_mut(mfn.0 as usize)
            .unwrap_or_else(|| panic!("{mfn:?} is not memory"))
    }

    /// The page count of `dom`.
    pub fn tot_mut(&mut self, dom: Dom) -> &mut i64 {
        &mut self.tot[dom as usize]
    }

    fn mark(&mut self, mfn: u64, free: bool) {
        let (word, bit) = (mfn as usize / 64, 1u64 << (mfn % 64));

        if free {
            self.map[word] |= bit;
        } else {
            self.map[word] &= !bit;
        }
    }

    /// A naturally aligned block of free frames, as the buddy lists would give
    /// one.
    fn find(&self, order: Order) -> Option<u64> {
        let size = order.pages();
        // Words that hold one block, or blocks that a word holds.
        let words = size.div_ceil(64) as usize;
        let in_word = |at: usize| {
            if words > 1 {
                let all = self.map[at..at + words].iter().all(|&w| w == u64::MAX);
                return all.then_some(at as u64 * 64);
            }
            let word = self.map[at];
            let mask = u64::MAX >> (64 - size);
            let mut fits = (0..64 / size).filter(|i| word >> (i * size) & mask == mask);
            let first = if word == 0 {
                None
            } else if self.policy == Policy::Highest {
                fits.next_back()
            } else {
                fits.next()
            };
            first.map(|i| at as u64 * 64 + i * size)
        };
        let groups = self.map.len() / words;
        let from = match self.policy {
            Policy::Next => self.cursor as usize / 64 / words % groups,
            _ => 0,
        };
        let mut starts = (from..groups).chain(0..from).map(|g| g * words);

        match self.policy {
            Policy::Highest => starts.rev().find_map(in_word),
            _ => starts.find_map(in_word),
        }
    }

    /// Take a block out of the heap; `true`: some frame in it is stamped, and
    /// TLBs have to be flushed.
    pub fn take(&mut self, order: Order) -> Option<(Mfn, bool)> {
        let start = self.find(order)?;

        self.cursor = start + order.pages();
        Some((Mfn(start), self.take_block(start, order)))
    }

    /// Take exactly the frame `mfn` out of the heap, if it is there; as
    /// [`take`](Self::take).
    pub fn take_at(&mut self, mfn: Mfn) -> Option<bool> {
        let free = self.frames.get(mfn.0 as usize)?.state == State::Free;

        free.then(|| self.take_block(mfn.0, Order::PAGE))
    }

    /// Aligned free blocks of `order`.
    pub fn free_blocks(&self, order: Order) -> u64 {
        let (size, all) = (order.pages() as usize, &self.frames);

        all.chunks_exact(size)
            .filter(|block| block.iter().all(|f| f.state == State::Free))
            .fold(0, |n, _| n + 1)
    }

    fn take_block(&mut self, start: u64, order: Order) -> bool {
        let mut stamped = false;

        for m in start..start + order.pages() {
            self.mark(m, false);
        }
        for m in start..start + order.pages() {
            let frame = &mut self.frames[m as usize];
            stamped |= frame.stamped;
            frame.stamped = false;
            frame.state = State::Anonymous;
            frame.generation += 1;
            // Not cleared by Xen either: the M2P of a frame that was freed
            // with its domain is stale until somebody sets it.
            assert_eq!((frame.count, frame.allocated), (0, false));
        }
        self.free -= order.pages();
        stamped
    }

    /// Make a frame that was given out all zero.
    pub fn scrub(&mut self, mfn: Mfn) {
        let frame = self.at_mut(mfn);

        frame.content = 0;
        frame.data = Data::Clean;
    }

    /// Put a frame into the heap. With `owner_set` the heap sees who had it,
    /// and stamps it.
    #[track_caller]
    pub fn put(&mut self, mfn: Mfn, owner_set: bool) {
        let frame = self.at_mut(mfn);

        assert_ne!(frame.state, State::Free, "double free of {mfn:?}");
        assert_eq!(frame.count, 0, "{mfn:?} is freed while it is referenced");
        assert!(!frame.allocated, "{mfn:?} is freed while it is allocated");
        *frame = Frame {
            stamped: owner_set || frame.stamped,
            content: frame.content,
            data: if frame.data == Data::Clean {
                Data::Clean
            } else {
                Data::Stale
            },
            generation: frame.generation,
            ..Frame::FREE
        };
        self.free += 1;
        self.mark(mfn.0, true);
    }

    /// Make an anonymous frame `dom`'s. The page count is the caller's affair.
    #[track_caller]
    pub fn assign(&mut self, mfn: Mfn, dom: Dom) {
        let frame = self.at_mut(mfn);

        assert_eq!(
            frame.state,
            State::Anonymous,
            "{mfn:?} is assigned to a second owner"
        );
        assert!(
            frame.data == Data::Clean || frame.data == Data::Of(dom),
            "{mfn:?} is assigned with somebody else's data in it: {:?}",
            frame.data
        );
        frame.state = State::Owned(dom);
        frame.data = Data::Of(dom);
        frame.count = 1;
        frame.allocated = true;
    }
}
