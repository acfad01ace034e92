// SPDX-License-Identifier: GPL-2.0-only
//! Who is first: a tournament of times (Knuth, The Art of Computer Programming,
//! 5.4.1), kept in the very slots of those who take part.
//!
//! A slot holds its own time and the winner of one match. To find the earliest
//! of all, or to change one of them, takes one step for each doubling of their
//! number, and no memory of its own. Slot `n` plays in match `(len + n) / 2`, match
//! `m` in match `m / 2`, and match 1 is the last.

use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

/// When something is due: so many units after some beginning, or never. They are
/// compared by how far they are apart, which may be up to 2^30 units. (The lowest
/// bit is set: 0 is never.)
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Due(u32);

impl Due {
    /// It is not.
    pub const NEVER: Due = Due(0);

    /// At `unit`.
    pub const fn at(unit: u64) -> Self {
        Due((unit as u32).wrapping_shl(1) | 1)
    }

    /// So many units later.
    pub const fn later(self, units: u64) -> Self {
        match self {
            Due::NEVER => Due::NEVER,
            Due(unit) => Due(unit.wrapping_add((units as u32).wrapping_shl(1))),
        }
    }

    /// It is not due at any time.
    pub fn is_never(self) -> bool {
        self == Due::NEVER
    }

    /// It is due before `other` is.
    pub fn before(self, other: Due) -> bool {
        match (self, other) {
            (Due::NEVER, _) => false,
            (_, Due::NEVER) => true,
            (Due(one), Due(other)) => one.wrapping_sub(other) > u32::MAX / 2,
        }
    }

    /// The earlier one.
    pub fn or(self, other: Due) -> Due {
        if other.before(self) { other } else { self }
    }

    /// How many units are left from `now` on; 0 if it is due, `None` if it never is.
    pub fn left(self, now: Due) -> Option<u64> {
        match self {
            Due::NEVER => None,
            _ if self.before(now) => Some(0),
            _ => Some((self.0.wrapping_sub(now.0) / 2).into()),
        }
    }
}

/// What one who takes part has to hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    own: Due,
    /// The winner of the match with the slot's number.
    best: Due,
}

impl Place {
    /// Its own time.
    pub fn due(&self) -> Due {
        self.own
    }
}

/// `T` takes part in the tournament `N`.
pub trait Entrant<const N: usize> {
    /// What it holds for it.
    fn place(&self) -> &Place;
    /// The same, to be changed by this module.
    fn place_mut(&mut self) -> &mut Place;
}

fn winner<const N: usize, T: Entrant<N>>(all: &[T], number: usize) -> Due {
    match number.checked_sub(all.len()) {
        Some(slot) => all.get(slot).map(|t| t.place().own),
        None => all.get(number).map(|t| t.place().best),
    }
    .unwrap_or(Due::NEVER)
}

/// The time of the one at `slot` is `due` from now on.
pub fn set<const N: usize, T: Entrant<N>>(all: &mut [T], slot: usize, due: Due) {
    let Some(entrant) = all.get_mut(slot) else {
        return;
    };
    entrant.place_mut().own = due;

    let mut number = all.len().wrapping_add(slot);
    while number > 1 {
        let best = winner(all, number).or(winner(all, number ^ 1));
        number /= 2;
        match all.get_mut(number).map(T::place_mut) {
            Some(place) if place.best != best => place.best = best,
            // Nothing changes above either.
            _ => break,
        }
    }
}

/// The earliest of all: which, and when. `None`: all are never due.
pub fn first<const N: usize, T: Entrant<N>>(all: &[T]) -> Option<(usize, Due)> {
    let due = winner(all, 1);
    let mut number = 1usize;

    if due.is_never() {
        return None;
    }
    while number < all.len() {
        number = number.wrapping_mul(2);
        if winner(all, number) != due {
            number |= 1;
        }
    }
    Some((number.wrapping_sub(all.len()), due))
}

/// Play all matches anew: there are more of them, or many have changed.
pub fn replay<const N: usize, T: Entrant<N>>(all: &mut [T], mut due: impl FnMut(&T) -> Due) {
    for entrant in all.iter_mut() {
        entrant.place_mut().own = due(entrant);
    }
    for number in (1..all.len()).rev() {
        let left = number.wrapping_mul(2);
        let best = winner(all, left).or(winner(all, left | 1));
        if let Some(entrant) = all.get_mut(number) {
            entrant.place_mut().best = best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Default)]
    struct One(Place);

    impl Entrant<0> for One {
        fn place(&self) -> &Place {
            &self.0
        }

        fn place_mut(&mut self) -> &mut Place {
            &mut self.0
        }
    }

    #[test]
    fn times_are_compared_around_the_end() {
        let (early, late) = (Due::at((1 << 31) - 5), Due::at((1 << 31) + 5));

        assert!(early.before(late) && !late.before(early) && !late.before(late));
        assert_eq!((early.or(late), late.or(early)), (early, early));
        assert_eq!((late.left(early), early.left(late)), (Some(10), Some(0)));
        assert_eq!((early.later(10), late.left(late)), (late, Some(0)));
        assert!(late.before(Due::NEVER) && !Due::NEVER.before(late));
        assert_eq!(
            (Due::NEVER.left(late), Due::NEVER.later(3)),
            (None, Due::NEVER)
        );
        for unit in [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32] {
            let due = Due::at(unit);
            assert!(!due.is_never() && due.before(Due::at(unit + 1)));
            assert_eq!((due.later(1), due.left(due)), (Due::at(unit + 1), Some(0)));
        }
    }

    /// Who loses the first match costs as much as that one, however many take part.
    #[test]
    fn matches_above_one_that_ends_as_before_are_not_played() {
        use std::cell::Cell;

        thread_local!(static PLACES: Cell<u32> = const { Cell::new(0) });
        #[derive(Clone, Default)]
        struct Counted(Place);
        impl Entrant<0> for Counted {
            fn place(&self) -> &Place {
                PLACES.set(PLACES.get() + 1);
                &self.0
            }
            fn place_mut(&mut self) -> &mut Place {
                PLACES.set(PLACES.get() + 1);
                &mut self.0
            }
        }
        let mut all = vec![Counted::default(); 1024];
        let mut places = |slot, unit| {
            PLACES.set(0);
            set::<0, _>(&mut all, slot, Due::at(unit));
            PLACES.get()
        };

        // It wins all ten matches.
        assert!(places(0, 5) >= 3 * 10);
        for unit in [6, 8, 7] {
            // It loses the first to its neighbour.
            assert!(places(1, unit) <= 4);
        }
    }

    proptest! {
        /// Whatever the number of slots, and whatever is set.
        #[test]
        fn the_first_is_the_first(
            len in 0usize..40,
            sets in proptest::collection::vec((0usize..40, 0u64..20), 0..100),
            anew in any::<bool>(),
        ) {
            let mut all = vec![One::default(); len];
            for (slot, unit) in sets {
                let due = if unit == 0 { Due::NEVER } else { Due::at(unit) };
                set::<0, _>(&mut all, slot, due);
                if anew {
                    replay(&mut all, |one| one.0.own);
                }
                let least = all.iter().map(|one| one.0.own).fold(Due::NEVER, Due::or);
                match first::<0, _>(&all) {
                    Some((slot, due)) => {
                        prop_assert_eq!((all[slot].0.own, due), (least, least));
                    }
                    None => prop_assert!(least.is_never()),
                }
            }
        }
    }
}
