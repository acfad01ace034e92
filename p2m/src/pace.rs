// SPDX-License-Identifier: GPL-2.0-only
//! How much work, and whose: what an operator can tune, and the arithmetic of
//! it. Nothing here knows what the work is.

use crate::addr::REGION_PAGES;
use crate::coalesce::{BATCH_DEFAULT, BATCH_MAX, BATCH_MIN, Limits, Mode};
use crate::ledger::SLOT;

/// What an operator can tune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// How far to go, where nothing is said for a domain.
    pub mode: Mode,
    /// Longest time before the idle loop is returned to, in microseconds; a
    /// region that has been begun is finished. Also the longest time for which a busy
    /// CPU is taken, and then it is a batch that is finished.
    pub budget_us: u64,
    /// Pages that are copied in one lock hold.
    pub batch: u64,
    /// Free pages that are left to others: with fewer, nothing is begun that
    /// takes memory.
    pub watermark_pages: u64,
    /// Cool-down of a region that was healed once, in ms; it doubles each time.
    pub cooldown_ms: u64,
    /// Share of a CPU's time that is taken where no CPU is idle, in percent. 0:
    /// work is done in idle time only.
    pub busy_share_percent: u64,
}

impl Tunables {
    /// What holds unless somebody says otherwise.
    pub const DEFAULT: Tunables = Tunables {
        mode: Mode::Full,
        budget_us: 1000,
        batch: BATCH_DEFAULT,
        // 8 MiB.
        watermark_pages: 2048,
        cooldown_ms: 2 * SLOT,
        busy_share_percent: 0,
    };

    /// The same, each value in the range that makes sense.
    pub fn clamped(self) -> Self {
        Tunables {
            budget_us: self.budget_us.clamp(BUDGET_MIN, BUDGET_MAX),
            batch: self.batch.clamp(BATCH_MIN, BATCH_MAX),
            cooldown_ms: self.cooldown_ms.clamp(1, COOLDOWN_MAX),
            busy_share_percent: self.busy_share_percent.min(SHARE_MAX),
            ..self
        }
    }

    /// What one act may take, for a domain of this mode.
    pub fn limits(&self, mode: Mode) -> Limits {
        Limits {
            mode,
            batch: self.batch,
        }
    }

    /// With `available` free pages, `pages` of them may be taken.
    pub fn may_take(&self, pages: u64, available: u64) -> bool {
        available >= pages.saturating_add(self.watermark_pages)
    }

    /// The ledger's time, which is such that the cool-down is always the same, at
    /// `ms` milliseconds.
    pub fn ledger_time(&self, ms: u64) -> u64 {
        match self.cooldown_ms {
            COOLDOWN => ms,
            own => ms.wrapping_mul(COOLDOWN).checked_div(own).unwrap_or(ms),
        }
    }

    /// Milliseconds, at least one, after which so much of the ledger's time has
    /// passed.
    pub fn until(&self, time: u64) -> u64 {
        match self.cooldown_ms {
            COOLDOWN => time,
            own => time.saturating_mul(own).div_ceil(COOLDOWN),
        }
        .max(1)
    }

    /// How long a busy CPU is left alone after we have had it for `worked` µs, in
    /// µs; `None`: it is not to be disturbed at all.
    pub fn rest_us(&self, worked: u64) -> Option<u64> {
        let share = self.busy_share_percent.min(SHARE_MAX);
        let others = 100u64.saturating_sub(share);

        worked.saturating_mul(others).checked_div(share)
    }
}

/// The cool-down that the ledger has, in its own time.
const COOLDOWN: u64 = 2 * SLOT;

/// Shortest and longest time for one run, in µs.
pub const BUDGET_MIN: u64 = 50;
/// See [`BUDGET_MIN`].
pub const BUDGET_MAX: u64 = 100_000;

/// Longest first cool-down, in ms.
pub const COOLDOWN_MAX: u64 = 60_000;

/// Largest share of a busy CPU, in percent.
pub const SHARE_MAX: u64 = 50;

/// What each look costs, in pages copied, whatever comes of it: so that one whose
/// regions are promoted in place does not keep the others waiting.
pub const LOOK: u64 = 8;

/// How much a domain may have copied in its turn, in pages.
pub const QUANTUM: u64 = REGION_PAGES;

/// Deepest debt: nobody waits for longer than so many turns, in pages.
const DEBT_MAX: i64 = QUANTUM as i64 * 4;

/// What a domain may still have copied in its turn, in pages; negative, when an act
/// took more than was left.
///
/// Domains take turns (surplus round robin: Adiseshu, Parulkar and Varghese, "A
/// reliable and scalable striping protocol", 1996): in each a domain gets a
/// [`QUANTUM`], and is served for as long as it has anything left of it. So of two
/// that always have work, none gets more pages copied than the other, but for
/// the largest act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit(i64);

impl Credit {
    /// As it was kept.
    pub const fn from_raw(pages: i64) -> Self {
        Credit(pages)
    }

    /// To be kept.
    pub const fn raw(self) -> i64 {
        self.0
    }

    /// Its turn comes. What it did not need the last time is not saved up.
    pub fn turn(self) -> Self {
        Credit(self.0.min(0).saturating_add(QUANTUM as i64))
    }

    /// Its turn is not over.
    pub fn has(self) -> bool {
        self.0 > 0
    }

    /// It was looked at, and had so many pages copied.
    pub fn spend(self, pages: u64) -> Self {
        let pages = i64::try_from(pages.saturating_add(LOOK)).unwrap_or(i64::MAX);

        Credit(self.0.saturating_sub(pages).max(DEBT_MAX.wrapping_neg()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: Tunables = Tunables::DEFAULT;

    #[test]
    fn defaults_are_sane() {
        assert_eq!(D.clamped(), D);
        assert_eq!(D.limits(Mode::InPlace).batch, BATCH_DEFAULT);
        for ms in [0, 1, 7, 1 << 40] {
            assert_eq!((D.ledger_time(ms), D.until(ms.max(1))), (ms, ms.max(1)));
        }
        assert_eq!(D.rest_us(1000), None);
    }

    #[test]
    fn no_value_makes_no_sense() {
        let none = Tunables {
            budget_us: 0,
            batch: 0,
            watermark_pages: 0,
            cooldown_ms: 0,
            busy_share_percent: 0,
            ..D
        };
        let all = Tunables {
            budget_us: u64::MAX,
            batch: u64::MAX,
            watermark_pages: u64::MAX,
            cooldown_ms: u64::MAX,
            busy_share_percent: u64::MAX,
            ..D
        };
        for odd in [none, all] {
            let sane = odd.clamped();
            assert_eq!(sane.clamped(), sane);
            for t in [odd, sane] {
                assert!(t.until(t.ledger_time(1000)) >= 1);
                let _ = (t.rest_us(u64::MAX), t.may_take(u64::MAX, u64::MAX));
            }
        }
        assert!(!all.may_take(1, u64::MAX - 1) && none.may_take(1, 1));
    }

    #[test]
    fn a_share_is_a_share() {
        for percent in 1..=SHARE_MAX {
            let t = Tunables {
                busy_share_percent: percent,
                ..D
            };
            let rest = t.rest_us(1000).unwrap();
            let share = 100_000.0 / (1000.0 + rest as f64);
            assert!((share - percent as f64).abs() < 0.1, "{percent}: {share}");
        }
    }

    proptest! {
        /// The first cool-down lasts as long as was asked for.
        #[test]
        fn the_cool_down_is_that_of_the_operator(ms in 1..=COOLDOWN_MAX, at in 0u64..1 << 40) {
            let t = Tunables { cooldown_ms: ms, ..D };
            let later = at + t.until(COOLDOWN);
            prop_assert!(t.until(COOLDOWN) == ms);
            let passed = t.ledger_time(later) - t.ledger_time(at);
            prop_assert!(passed.abs_diff(COOLDOWN) <= 1 + COOLDOWN / ms, "{passed}");
        }

        /// Whatever the acts cost: of domains that always have work, none gets much
        /// more copied than another.
        #[test]
        fn turns_are_fair(
            most in proptest::collection::vec(1u64..1024, 2..6),
            seed in any::<u64>(),
        ) {
            let mut random = seed | 1;
            let mut credits = vec![Credit::default(); most.len()];
            let mut served = vec![0u64; most.len()];
            for _ in 0..300 {
                for (i, credit) in credits.iter_mut().enumerate() {
                    *credit = credit.turn();
                    while credit.has() {
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                        let pages = (random >> 33) % (most[i] + 1);
                        *credit = credit.spend(pages);
                        served[i] += pages + LOOK;
                    }
                }
                let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
                prop_assert!(most - least <= QUANTUM + 2 * (1024 + LOOK), "{served:?}");
            }
        }

        /// Nobody waits for ever, nor saves up.
        #[test]
        fn credit_is_bounded(costs in proptest::collection::vec(any::<u64>(), 0..20)) {
            let credit = costs.iter().fold(Credit::default(), |c, &cost| c.turn().spend(cost));
            let mut turns = 0;
            let mut after = credit;
            while !after.has() {
                after = after.turn();
                turns += 1;
            }
            prop_assert!(turns <= 5 && after.turn().raw() <= QUANTUM as i64);
        }
    }
}
