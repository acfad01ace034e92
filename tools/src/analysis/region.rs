// SPDX-License-Identifier: GPL-2.0-only
//! What is known of a region of 2 MiB of guest-physical memory.

use std::ops::{Add, AddAssign, Sub};

use serde::Serialize;

/// Pages of a region.
pub const PAGES: u64 = 512;

/// How a region is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// By one entry, and no act of the coalescer has made it.
    Whole,
    /// By one entry that was made in place.
    Promoted,
    /// By one entry, for which pages astray were fetched.
    Completed,
    /// By one entry, in a fresh block.
    Migrated,
    /// By 512 entries, all with memory as far as is known.
    Broken,
    /// By 512 entries, of which some are known to have no memory.
    Holes,
    /// Not at all, or by something that is no memory.
    Empty,
}

pub const CLASSES: usize = 7;

impl Class {
    pub const ALL: [Class; CLASSES] = [
        Class::Whole,
        Class::Promoted,
        Class::Completed,
        Class::Migrated,
        Class::Broken,
        Class::Holes,
        Class::Empty,
    ];

    pub fn is_whole(self) -> bool {
        self <= Class::Migrated
    }
}

/// How many regions are of which class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally(pub [i64; CLASSES]);

impl Tally {
    pub fn add(&mut self, class: Class, n: i64) {
        self.0[class as usize] += n;
    }

    pub fn of(&self, class: Class) -> u64 {
        self.0[class as usize].max(0) as u64
    }

    pub fn whole(&self) -> u64 {
        let classes = Class::ALL.iter().filter(|class| class.is_whole());
        classes.map(|class| self.of(*class)).sum()
    }

    /// Regions with memory.
    pub fn memory(&self) -> u64 {
        self.whole() + self.of(Class::Broken) + self.of(Class::Holes)
    }

    /// Which share of the memory is in whole regions; `None` without memory.
    pub fn coverage(&self) -> Option<f64> {
        let memory = self.memory();
        (memory != 0).then(|| self.whole() as f64 / memory as f64)
    }

    /// The same for comparison: nothing is wrong where there is nothing.
    pub fn coverage_or_one(&self) -> f64 {
        self.coverage().unwrap_or(1.0)
    }
}

impl Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl Sub for Tally {
    type Output = Tally;

    fn sub(self, other: Tally) -> Tally {
        Tally(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        *self = *self + other;
    }
}

/// What is known of one region.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// `None`: not yet known; perhaps a record to come tells.
    pub class: Option<Class>,
    /// Pages that are known to be away.
    away: Option<Box<[u64; 8]>>,
}

impl Region {
    /// A page came or went.
    pub fn page(&mut self, gfn: u64, there: bool) {
        let bit = gfn % PAGES;
        let (word, mask) = ((bit / 64) as usize, 1u64 << (bit % 64));
        match (&mut self.away, there) {
            (Some(away), true) => away[word] &= !mask,
            (Some(away), false) => away[word] |= mask,
            (None, true) => {}
            (None, false) => {
                let mut away = Box::new([0; 8]);
                away[word] = mask;
                self.away = Some(away);
            }
        }
    }

    /// What it is if it is broken.
    pub fn broken(&self) -> Class {
        match &self.away {
            Some(away) if away.iter().any(|word| *word != 0) => Class::Holes,
            _ => Class::Broken,
        }
    }

    /// One entry has the whole of it: no page is away any more.
    pub fn forget_pages(&mut self) {
        self.away = None;
    }
}
