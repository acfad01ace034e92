// SPDX-License-Identifier: GPL-2.0-only
//! Frame numbers, orders and regions: never a bare `u64`.
//!
//! Arithmetic wraps, because it must not panic and a frame number of 2^64
//! pages does not exist: every number that comes from a guest is looked up in
//! the p2m before it is used, and one that wrapped is simply not mapped.

/// Guest frame number, in 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

/// Machine frame number, in 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mfn(pub u64);

/// log2 of a number of 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

/// A 2 MiB aligned range of guest frames, by its number (`gfn >> 9`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(pub u64);

/// Pages in a region.
pub const REGION_PAGES: u64 = 1 << Order::REGION.0;

impl Mfn {
    /// No frame (`INVALID_MFN`).
    pub const INVALID: Mfn = Mfn(u64::MAX);
}

impl Order {
    /// 4 KiB.
    pub const PAGE: Order = Order(0);
    /// 2 MiB: a region, a level 2 leaf (`PAGE_ORDER_2M`).
    pub const REGION: Order = Order(arch::LEVEL_BITS as u8);
    /// 1 GiB: a level 3 leaf (`PAGE_ORDER_1G`).
    pub const GIB: Order = Order(2 * arch::LEVEL_BITS as u8);
    /// The largest that Xen's heap gives out (`MAX_ORDER`).
    pub const MAX: Order = Order(20);

    /// `log2` as an order, when Xen's heap could have such a block.
    pub const fn new(log2: u32) -> Option<Order> {
        if log2 <= Order::MAX.0 as u32 {
            Some(Order(log2 as u8))
        } else {
            None
        }
    }

    /// log2 of the number of pages.
    pub const fn log2(self) -> u32 {
        self.0 as u32
    }

    /// The number of pages.
    pub const fn pages(self) -> u64 {
        // An order is at most 20.
        1u64.wrapping_shl(self.log2())
    }

    /// How many blocks of this order `pages` are, rounded down.
    pub const fn blocks_in(self, pages: u64) -> u64 {
        pages.wrapping_shr(self.log2())
    }

    /// How many pages `blocks` of this order are.
    pub const fn pages_in(self, blocks: u64) -> u64 {
        blocks.wrapping_shl(self.log2())
    }

    /// One more, as far as Xen's heap goes.
    pub const fn larger(self) -> Order {
        if self.0 < Order::MAX.0 {
            Order(self.0.wrapping_add(1))
        } else {
            self
        }
    }

    /// The order of a quotient: how many blocks of `smaller` this one has.
    pub const fn minus(self, smaller: Order) -> Order {
        Order(self.0.saturating_sub(smaller.0))
    }

    /// `number` is a multiple of [`pages`](Self::pages).
    pub const fn aligns(self, number: u64) -> bool {
        number & self.pages().wrapping_sub(1) == 0
    }
}

macro_rules! frame_number {
    ($name:ident) => {
        impl $name {
            /// The frame `pages` further on.
            #[inline]
            pub const fn add(self, pages: u64) -> Self {
                $name(self.0.wrapping_add(pages))
            }

            /// Which of the 512 frames of its 2 MiB block this is.
            #[inline]
            pub const fn slot(self) -> u64 {
                self.0 & REGION_PAGES.wrapping_sub(1)
            }

            /// The first frame of the block of `order` that this one is in.
            #[inline]
            pub const fn align(self, order: Order) -> Self {
                $name(self.0 & !order.pages().wrapping_sub(1))
            }

            /// This is the first frame of a naturally aligned block of `order`.
            #[inline]
            pub const fn is_aligned(self, order: Order) -> bool {
                order.aligns(self.0)
            }
        }
    };
}

frame_number!(Gfn);
frame_number!(Mfn);

impl Gfn {
    /// The region that this frame is in.
    #[inline]
    pub const fn region(self) -> Region {
        Region(self.0 >> Order::REGION.0)
    }
}

impl Region {
    /// The first guest frame.
    #[inline]
    pub const fn start(self) -> Gfn {
        Gfn(self.0 << Order::REGION.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_end_where_the_heap_does() {
        assert_eq!(Order::new(20), Some(Order::MAX));
        assert_eq!(Order::new(21), None);
        assert_eq!(Order::MAX.larger(), Order::MAX);
        assert_eq!(Order::REGION.larger().log2(), Order::REGION.log2() + 1);
    }
}
