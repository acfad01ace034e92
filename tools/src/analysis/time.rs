// SPDX-License-Identifier: GPL-2.0-only
//! A course of time in a bounded number of steps: as it gets longer, its steps get longer.

use super::region::{CLASSES, Class, Tally};
use crate::trace::events::Kind;

/// Steps of a course at most; at least half as many once it is long.
pub const STEPS: usize = 1024;

/// log2 of the ticks of the shortest step.
const SHORTEST: u32 = 8;

/// Which step of time a moment falls into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// `None`: time has not begun.
    start: Option<u64>,
    /// log2 of the ticks of a step.
    shift: u32,
    steps: usize,
}

impl Axis {
    pub fn new(steps: usize) -> Axis {
        Axis {
            start: None,
            shift: SHORTEST,
            steps,
        }
    }

    /// The step of a moment, if it is not beyond the last one; what came before the start is in the
    /// first.
    fn step(&self, time: u64) -> Option<usize> {
        let step = time.saturating_sub(self.start.unwrap_or(time)) >> self.shift;
        usize::try_from(step).ok().filter(|step| *step < self.steps)
    }

    /// Time begins.
    pub fn begin(&mut self, start: u64) {
        self.start.get_or_insert(start);
    }

    /// The step of a moment; calls `halve` as often as it takes to bring it into view.
    pub fn reach(&mut self, time: u64, mut halve: impl FnMut()) -> usize {
        loop {
            if let Some(step) = self.step(time) {
                return step;
            }
            self.shift += 1;
            halve();
        }
    }

    /// Ticks of a step.
    pub fn width(&self) -> u64 {
        1 << self.shift
    }
}

/// What happened in one step, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Regions of each class at its start.
    pub start: Tally,
    /// The same at its end.
    pub end: Tally,
    /// The same at the moment of the lowest coverage.
    pub low: Tally,
    /// How many regions were known by then to have been of a class from the start.
    pub before: Tally,
    /// Acts of each kind.
    pub acts: [u32; Kind::ALL.len()],
    /// The longest hold of the lock by an act of each kind, in ticks.
    pub holds: [u32; Kind::ALL.len()],
}

impl Step {
    /// Two steps as one.
    fn then(self, next: Step) -> Step {
        let mut both = next;
        both.start = self.start + (next.before - self.before);
        if self.low.coverage_or_one() < next.low.coverage_or_one() {
            both.low = self.low;
            // What became known later counts for both.
            both.low += next.before - self.before;
        }
        for kind in 0..Kind::ALL.len() {
            both.acts[kind] = self.acts[kind].saturating_add(next.acts[kind]);
            both.holds[kind] = self.holds[kind].max(next.holds[kind]);
        }
        both
    }

    /// The step after this one in which nothing has happened yet.
    fn quiet(self) -> Step {
        Step {
            start: self.end,
            low: self.end,
            acts: Default::default(),
            holds: Default::default(),
            ..self
        }
    }
}

/// The course of a domain.
#[derive(Clone, Debug)]
pub struct Course {
    axis: Axis,
    steps: Vec<Step>,
    now: Tally,
    before: Tally,
}

impl Default for Course {
    fn default() -> Self {
        Course::new()
    }
}

impl Course {
    pub fn new() -> Course {
        Course {
            axis: Axis::new(STEPS),
            steps: vec![Step::default()],
            now: Tally::default(),
            before: Tally::default(),
        }
    }

    pub fn begin(&mut self, start: u64) {
        self.axis.begin(start);
    }

    /// The step of a moment; those up to it are there.
    fn at(&mut self, time: u64) -> &mut Step {
        let steps = &mut self.steps;
        let index = self.axis.reach(time, || halve(steps));
        let last = steps.last().copied().unwrap_or_default();
        if index >= steps.len() {
            steps.resize(index + 1, last.quiet());
        }
        // What comes late changes the present: the past is written.
        let end = steps.len() - 1;
        &mut steps[end]
    }

    /// It turns out that a region has been of this class all the time.
    pub fn has_been(&mut self, class: Class) {
        self.before.add(class, 1);
        self.now.add(class, 1);
    }

    /// A region of which nothing was known, and that came into being now, or so it seems.
    pub fn appears(&mut self, time: u64, class: Class) {
        self.now.add(class, 1);
        self.note(time);
    }

    pub fn changes(&mut self, time: u64, from: Class, to: Class) {
        self.now.add(from, -1);
        self.now.add(to, 1);
        self.note(time);
    }

    fn note(&mut self, time: u64) {
        let (now, before) = (self.now, self.before);
        let step = self.at(time);
        step.start += before - step.before;
        step.low += before - step.before;
        step.end = now;
        step.before = before;
        if now.coverage_or_one() < step.low.coverage_or_one() || step.low.memory() == 0 {
            step.low = now;
        }
    }

    pub fn act(&mut self, time: u64, kind: Kind, hold: u32) {
        let step = self.at(time);
        let kind = kind as usize;
        step.acts[kind] = step.acts[kind].saturating_add(1);
        step.holds[kind] = step.holds[kind].max(hold);
    }

    /// The whole course up to the moment `end`, as it looks now that all is known.
    pub fn finish(mut self, end: u64) -> (u64, Vec<Step>) {
        self.note(end);
        let before = self.before;
        for step in &mut self.steps {
            step.start += before - step.before;
            step.end += before - step.before;
            step.low += before - step.before;
        }
        (self.axis.width(), self.steps)
    }
}

/// Makes one step of every two.
fn halve(steps: &mut Vec<Step>) {
    *steps = steps
        .chunks(2)
        .map(|pair| match *pair {
            [one, two] => one.then(two),
            [one] => one,
            _ => Step::default(),
        })
        .collect();
}

/// A map of memory over time: rows of regions, columns of time.
#[derive(Clone, Debug)]
pub struct Map {
    axis: Axis,
    /// log2 of the regions of a row.
    shift: u32,
    rows: std::collections::BTreeMap<u64, Row>,
}

/// Rows of a map at most, and columns.
pub const ROWS: usize = 192;
pub const COLUMNS: usize = 512;

type Few = [u16; CLASSES];

fn fewer(tally: &[i64; CLASSES]) -> Few {
    tally.map(|n| u16::try_from(n.max(0)).unwrap_or(u16::MAX))
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    end: Few,
    before: Few,
    /// A leaf broke meanwhile.
    broke: bool,
}

#[derive(Clone, Debug, Default)]
struct Row {
    now: Tally,
    before: Tally,
    cells: Vec<Cell>,
}

impl Row {
    fn halve(&mut self) {
        self.cells = self
            .cells
            .chunks(2)
            .map(|pair| match *pair {
                [one, two] => Cell {
                    broke: one.broke || two.broke,
                    ..two
                },
                [one] => one,
                _ => Cell::default(),
            })
            .collect();
    }

    /// The cell of a column; those up to it are there.
    fn cell(&mut self, column: usize) -> &mut Cell {
        let last = self.cells.last().copied().unwrap_or_default();
        if column >= self.cells.len() {
            let quiet = Cell {
                broke: false,
                ..last
            };
            self.cells.resize(column + 1, quiet);
        }
        let end = self.cells.len() - 1;
        &mut self.cells[end]
    }

    fn note(&mut self, column: usize, broke: bool) {
        let (now, before) = (fewer(&self.now.0), fewer(&self.before.0));
        let cell = self.cell(column);
        cell.end = now;
        cell.before = before;
        cell.broke |= broke;
    }

    fn join(self, other: Row) -> Row {
        let length = self.cells.len().max(other.cells.len());
        let (mut one, mut two) = (self, other);
        for row in [&mut one, &mut two] {
            if length != 0 {
                row.cell(length - 1);
            }
        }
        let sum = |a: Few, b: Few| std::array::from_fn(|i| a[i].saturating_add(b[i]));
        let cells = one.cells.iter().zip(&two.cells);
        Row {
            cells: cells
                .map(|(a, b)| Cell {
                    end: sum(a.end, b.end),
                    before: sum(a.before, b.before),
                    broke: a.broke || b.broke,
                })
                .collect(),
            now: one.now + two.now,
            before: one.before + two.before,
        }
    }
}

/// A row of a finished map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// The first region.
    pub region: u64,
    /// For each column how many regions were of each class at its end, and whether one broke.
    pub cells: Vec<([u16; CLASSES], bool)>,
}

/// A finished map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapView {
    /// Regions of a row.
    pub height: u64,
    /// Ticks of a column.
    pub width: u64,
    pub rows: Vec<MapRow>,
}

impl Default for Map {
    fn default() -> Self {
        Map::new()
    }
}

impl Map {
    pub fn new() -> Map {
        Map {
            axis: Axis::new(COLUMNS),
            shift: 0,
            rows: Default::default(),
        }
    }

    pub fn begin(&mut self, start: u64) {
        self.axis.begin(start);
    }

    fn row(&mut self, region: u64) -> &mut Row {
        if !self.rows.contains_key(&(region >> self.shift)) {
            while self.rows.len() >= ROWS {
                self.shift += 1;
                let rows = std::mem::take(&mut self.rows);
                for (place, row) in rows {
                    let joined = match self.rows.remove(&(place >> 1)) {
                        Some(other) => other.join(row),
                        None => row,
                    };
                    self.rows.insert(place >> 1, joined);
                }
            }
        }
        self.rows.entry(region >> self.shift).or_default()
    }

    pub fn has_been(&mut self, region: u64, class: Class) {
        let row = self.row(region);
        row.before.add(class, 1);
        row.now.add(class, 1);
    }

    pub fn changes(&mut self, time: u64, region: u64, from: Option<Class>, to: Class, broke: bool) {
        let rows = &mut self.rows;
        let column = self
            .axis
            .reach(time, || rows.values_mut().for_each(Row::halve));
        let row = self.row(region);
        if let Some(from) = from {
            row.now.add(from, -1);
        }
        row.now.add(to, 1);
        row.note(column, broke);
    }

    pub fn finish(mut self, end: u64) -> MapView {
        let rows = &mut self.rows;
        let column = self
            .axis
            .reach(end, || rows.values_mut().for_each(Row::halve));
        let shift = self.shift;
        let rows = self.rows.into_iter().map(|(place, mut row)| {
            row.note(column, false);
            let all = fewer(&row.before.0);
            let cells = row.cells.iter().map(|cell| {
                let known = |class: usize| {
                    let more = all[class].saturating_sub(cell.before[class]);
                    cell.end[class].saturating_add(more)
                };
                (std::array::from_fn(known), cell.broke)
            });
            MapRow {
                region: place << shift,
                cells: cells.collect(),
            }
        });
        MapView {
            rows: rows.collect(),
            height: 1 << shift,
            width: self.axis.width(),
        }
    }
}
