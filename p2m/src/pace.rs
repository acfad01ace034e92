// SPDX-License-Identifier: GPL-2.0-only
//! How much work, and whose: what an operator can tune, and the arithmetic of
//! it. Nothing here knows what the work is.

use crate::addr::REGION_PAGES;
use crate::coalesce::{BATCH_DEFAULT, BATCH_MAX, BATCH_MIN, Limits, Mode};
use crate::due::{self, Due, Entrant, Place};
use crate::ledger::SLOT;
use core::ops::DerefMut;
use core::sync::atomic::{AtomicU64, Ordering};

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
    /// Pages, of any domains, that may be moved to empty a block where none is free.
    /// 0: no block is emptied.
    pub room_pages: u64,
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
        room_pages: 0,
    };

    /// The same, each value in the range that makes sense.
    pub fn clamped(self) -> Self {
        Tunables {
            budget_us: self.budget_us.clamp(BUDGET_MIN, BUDGET_MAX),
            batch: self.batch.clamp(BATCH_MIN, BATCH_MAX),
            cooldown_ms: self.cooldown_ms.clamp(1, COOLDOWN_MAX),
            busy_share_percent: self.busy_share_percent.min(SHARE_MAX),
            room_pages: self.room_pages.min(ROOM_MAX),
            ..self
        }
    }

    /// What one act may take, for a domain of this mode.
    pub fn limits(&self, mode: Mode) -> Limits {
        Limits {
            mode,
            batch: self.batch,
            defer: false,
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

/// Most pages that may be moved to empty a block: there would be no gain in a whole
/// one.
pub const ROOM_MAX: u64 = REGION_PAGES.wrapping_sub(1);

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

/// How many domains there may be: Xen's numbers are below 0x7ff0.
pub const DOMIDS: u32 = 1 << 15;

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// The domains for which something has happened since they were last asked. Any CPU
/// may add to them at any time.
#[derive(Debug)]
pub struct Alerts {
    /// A bit for each domain.
    domains: [AtomicU64; (DOMIDS / WORD) as usize],
    /// A bit for each word of those.
    words: [AtomicU64; (DOMIDS / WORD / WORD) as usize],
}

impl Alerts {
    /// None.
    pub const fn new() -> Self {
        Alerts {
            domains: [const { AtomicU64::new(0) }; (DOMIDS / WORD) as usize],
            words: [const { AtomicU64::new(0) }; (DOMIDS / WORD / WORD) as usize],
        }
    }

    /// Something has happened for `domid`. What was written before is seen by whom
    /// [`drain`](Self::drain) tells of it.
    pub fn raise(&self, domid: u32) {
        let number = domid / WORD;
        let bit = |n: u32| 1u64.wrapping_shl(n % WORD);

        let (Some(domains), Some(words)) = (
            self.domains.get(number as usize),
            self.words.get((number / WORD) as usize),
        ) else {
            return;
        };
        if domains.load(Ordering::SeqCst) & bit(domid) == 0 {
            // In this order: who finds the second finds the first.
            domains.fetch_or(bit(domid), Ordering::SeqCst);
            words.fetch_or(bit(number), Ordering::SeqCst);
        }
    }

    /// Call `each` for every domain for which something has happened since this was
    /// last done.
    pub fn drain(&self, mut each: impl FnMut(u32)) {
        let mut first = 0u32;

        for words in &self.words {
            for n in bits(words.swap(0, Ordering::SeqCst)) {
                let number = first.wrapping_add(n);
                let domains = self.domains.get(number as usize);
                let domains = domains.map_or(0, |d| d.swap(0, Ordering::SeqCst));
                bits(domains).for_each(|n| each(number.wrapping_mul(WORD).wrapping_add(n)));
            }
            first = first.wrapping_add(WORD);
        }
    }
}

impl Default for Alerts {
    fn default() -> Self {
        Self::new()
    }
}

/// The bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros();

        word &= word.wrapping_sub(1);
        (bit < WORD).then_some(bit)
    })
}

/// The queue of those who have something to do, and of those who will have at some
/// time, as tournaments.
const READY: usize = 0;
const COOLING: usize = 1;

/// A domain in the [`Roster`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Seat {
    /// By the number that it drew.
    ready: Place,
    /// By time, in units of [`SLOT`].
    cooling: Place,
    credit: Credit,
}

impl Entrant<READY> for Seat {
    fn place(&self) -> &Place {
        &self.ready
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.ready
    }
}

impl Entrant<COOLING> for Seat {
    fn place(&self) -> &Place {
        &self.cooling
    }

    fn place_mut(&mut self) -> &mut Place {
        &mut self.cooling
    }
}

/// What a step for a domain came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done, and there may be more. So many pages were copied.
    Worked(u64),
    /// Nothing to do before so many ms.
    Wait(u64),
    /// Nothing to do.
    Idle,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This domain's, by number: take a step for it, and report what came of it
    /// ([`Roster::done`]).
    Serve(u32),
    /// Nobody's before so many ms, unless there is an alert.
    Wait(u64),
    /// Nobody's, unless there is an alert.
    Idle,
}

/// Whose turn it is: domains that have something to do are served one after the
/// other, each for as long as its [`Credit`] says. A domain that has nothing to do costs
/// nothing, however many of them there are. `R` owns the seats; a domain's number
/// is that of its seat.
#[derive(Debug)]
pub struct Roster<R> {
    seats: R,
    /// The number that was drawn last.
    drawn: u64,
    /// Whose turn has begun.
    serving: Option<u32>,
}

impl<R> Roster<R> {
    /// Nobody has anything to do.
    pub const fn new(seats: R) -> Self {
        Roster {
            seats,
            drawn: 0,
            serving: None,
        }
    }
}

impl<R: DerefMut<Target = [Seat]>> Roster<R> {
    /// How many seats there are.
    pub fn reach(&self) -> u32 {
        self.seats.len() as u32
    }

    /// Move to more seats; the old ones are returned, or those that are not more.
    pub fn grow(&mut self, mut seats: R) -> R {
        if seats.len() > self.seats.len() {
            for (new, old) in seats.iter_mut().zip(self.seats.iter()) {
                *new = *old;
            }
            due::replay::<READY, _>(&mut seats, |seat| seat.ready.due());
            due::replay::<COOLING, _>(&mut seats, |seat| seat.cooling.due());
            core::mem::swap(&mut seats, &mut self.seats);
        }
        seats
    }

    /// `domid` may have something to do. `false`: there is no seat for it.
    pub fn alert(&mut self, domid: u32) -> bool {
        let Some(seat) = self.seats.get(domid as usize) else {
            return false;
        };
        if seat.ready.due().is_never() {
            self.draw(domid);
        }
        true
    }

    /// To the end of the queue.
    fn draw(&mut self, domid: u32) {
        self.drawn = self.drawn.wrapping_add(1);
        due::set::<COOLING, _>(&mut self.seats, domid as usize, Due::NEVER);
        due::set::<READY, _>(&mut self.seats, domid as usize, Due::at(self.drawn));
    }

    /// Whose turn is it at `now` (ms)?
    pub fn next(&mut self, now: u64) -> Turn {
        let now = Due::at(now / SLOT);
        let wait = loop {
            match due::first::<COOLING, _>(&self.seats) {
                Some((seat, due)) => match due.left(now) {
                    Some(0) => self.draw(seat as u32),
                    left => break left,
                },
                None => break None,
            }
        };

        // Who has taken more than a turn waits for another; that has an end.
        while let Some((at, _)) = due::first::<READY, _>(&self.seats) {
            let domid = at as u32;
            let Some(seat) = self.seats.get_mut(at) else {
                break;
            };
            if self.serving != Some(domid) {
                self.serving = Some(domid);
                seat.credit = seat.credit.turn();
            }
            if seat.credit.has() {
                return Turn::Serve(domid);
            }
            self.over(domid);
        }
        wait.map_or(Turn::Idle, |units| Turn::Wait(units.wrapping_mul(SLOT)))
    }

    /// The turn of `domid` is over, and it wants another.
    fn over(&mut self, domid: u32) {
        self.leave(domid);
        self.draw(domid);
    }

    fn leave(&mut self, domid: u32) {
        self.serving = self.serving.filter(|&other| other != domid);
    }

    /// What came of a step for `domid`, at `now` (ms): whose turn it was, or who had
    /// something to end first.
    pub fn done(&mut self, domid: u32, step: Step, now: u64) {
        let at = domid as usize;
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let until = match step {
            Step::Worked(pages) => {
                seat.credit = seat.credit.spend(pages);
                if !seat.credit.has() {
                    self.over(domid);
                }
                return;
            }
            Step::Wait(ms) => Due::at(now.saturating_add(ms).div_ceil(SLOT)),
            Step::Idle => Due::NEVER,
        };
        // Nothing is saved up by having nothing to do.
        seat.credit = Credit::default();
        self.leave(domid);
        due::set::<READY, _>(&mut self.seats, at, Due::NEVER);
        due::set::<COOLING, _>(&mut self.seats, at, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: Tunables = Tunables::DEFAULT;

    fn roster(seats: usize) -> Roster<Vec<Seat>> {
        Roster::new(vec![Seat::default(); seats])
    }

    /// Serve until nobody is to be served: what the roster says then.
    fn serve(roster: &mut Roster<Vec<Seat>>, work: &mut [Vec<u64>], now: u64) -> Turn {
        loop {
            let turn = roster.next(now);
            let Turn::Serve(domid) = turn else {
                return turn;
            };
            let mine = &mut work[domid as usize];
            let step = match mine.iter().min().copied() {
                None => Step::Idle,
                Some(at) if at > now => Step::Wait(at - now),
                Some(at) => {
                    mine.remove(mine.iter().position(|&w| w == at).unwrap());
                    Step::Worked(700)
                }
            };
            roster.done(domid, step, now);
        }
    }

    #[test]
    fn a_thousand_who_have_nothing_to_do_are_not_asked() {
        let mut roster = roster(1000);
        let mut asked = 0;

        for domid in [999, 5] {
            assert!(roster.alert(domid) && roster.alert(domid));
        }
        assert!(!roster.alert(1000));
        while let Turn::Serve(domid) = roster.next(0) {
            asked += 1;
            // In the order in which they came.
            assert_eq!(domid, [999, 5][asked - 1]);
            roster.done(domid, Step::Idle, 0);
        }
        assert_eq!((asked, roster.next(0)), (2, Turn::Idle));
    }

    #[test]
    fn an_alert_ends_a_wait() {
        let mut roster = roster(3);

        assert!(roster.alert(1));
        assert_eq!(roster.next(80), Turn::Serve(1));
        roster.done(1, Step::Wait(100), 80);
        assert_eq!(roster.next(80), Turn::Wait(104));
        assert_eq!(roster.next(176), Turn::Wait(8));
        assert!(roster.alert(1));
        assert_eq!(roster.next(176), Turn::Serve(1));
        roster.done(1, Step::Wait(8), 176);
        assert_eq!(roster.next(184), Turn::Serve(1));
    }

    /// Seats that are not more come back as they are; those who wait keep theirs.
    #[test]
    fn only_more_seats_are_moved_to() {
        let mut roster = roster(3);

        assert!(roster.alert(2));
        for (seats, reach) in [(0, 3), (3, 3), (5, 5)] {
            let new = vec![Seat::default(); seats];
            let new_at = new.as_ptr();
            let returned = roster.grow(new);
            assert_eq!(returned.as_ptr() == new_at, seats <= 3);
            assert_eq!((roster.reach(), roster.next(0)), (reach, Turn::Serve(2)));
        }
    }

    #[test]
    fn a_turn_is_over_when_all_of_it_is_spent() {
        let credit = Credit::default().turn();

        assert!(credit.spend(QUANTUM - LOOK - 1).has());
        assert!(!credit.spend(QUANTUM - LOOK).has());
    }

    #[test]
    fn no_alert_is_lost() {
        let alerts = Alerts::new();
        let some = [0, 1, 63, 64, 4095, 4096, 0x7fef, 1];

        some.iter().for_each(|&domid| alerts.raise(domid));
        // No such domain.
        alerts.raise(DOMIDS);
        let mut told = Vec::new();
        alerts.drain(|domid| told.push(domid));
        assert_eq!(told, [0, 1, 63, 64, 4095, 4096, 0x7fef]);
        alerts.drain(|domid| panic!("{domid}"));
    }

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
            room_pages: 0,
            ..D
        };
        let all = Tunables {
            budget_us: u64::MAX,
            batch: u64::MAX,
            watermark_pages: u64::MAX,
            cooldown_ms: u64::MAX,
            busy_share_percent: u64::MAX,
            room_pages: u64::MAX,
            ..D
        };
        for odd in [none, all] {
            let sane = odd.clamped();
            assert_eq!(sane.clamped(), sane);
            assert!((BUDGET_MIN..=BUDGET_MAX).contains(&sane.budget_us));
            assert!((BATCH_MIN..=BATCH_MAX).contains(&sane.batch));
            assert!((1..=COOLDOWN_MAX).contains(&sane.cooldown_ms));
            assert!(sane.busy_share_percent <= SHARE_MAX && sane.room_pages <= ROOM_MAX);
            // Any number of pages may be left to others.
            assert_eq!(sane.watermark_pages, odd.watermark_pages);
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
            let mut roster = roster(most.len());
            let mut served = vec![0u64; most.len()];
            (0..most.len() as u32).for_each(|domid| assert!(roster.alert(domid)));
            for _ in 0..3000 {
                let Turn::Serve(domid) = roster.next(0) else { panic!("all have work") };
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
                let pages = (random >> 33) % (most[domid as usize] + 1);
                roster.done(domid, Step::Worked(pages), 0);
                served[domid as usize] += pages + LOOK;
                let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
                prop_assert!(most - least <= 2 * QUANTUM + 2 * (1024 + LOOK), "{served:?}");
            }
        }

        /// Whatever happens to whom and when, those who have something to do are
        /// served, and nobody else is.
        #[test]
        fn who_has_work_is_served(
            events in proptest::collection::vec((0u32..7, 0u64..200, 0u64..30), 0..60),
        ) {
            let alerts = Alerts::new();
            let mut roster = roster(0);
            // What each has to do still, at what time.
            let mut work = vec![Vec::<u64>::new(); 7];
            let mut now = 0;
            for (domid, cools, passes) in events {
                work[domid as usize].push(now + cools);
                alerts.raise(domid);
                now += passes;
                alerts.drain(|domid| {
                    if !roster.alert(domid) {
                        roster.grow(vec![Seat::default(); domid as usize + 1]);
                        assert!(roster.alert(domid));
                    }
                });
                let wait = serve(&mut roster, &mut work, now);
                let next = work.iter().flatten().min().copied();
                match (wait, next) {
                    (Turn::Idle, None) => {}
                    (Turn::Wait(ms), Some(next)) => {
                        prop_assert!(ms > 0 && ms + now <= next + 2 * SLOT);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            serve(&mut roster, &mut work, now + 1000);
            prop_assert!(work.iter().all(Vec::is_empty), "{work:?}");
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
            prop_assert!(turns <= 5 && after.turn().0 <= QUANTUM as i64);
        }
    }
}
