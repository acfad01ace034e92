// SPDX-License-Identifier: GPL-2.0-only
//! The charts over time of a domain; all have the same axis, one below the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{class_name, colour};
use crate::analysis::DomainView;
use crate::analysis::region::{CLASSES, Class};
use crate::analysis::time::{MapView, Step};
use crate::trace::events::Kind;
use crate::words::Clock;

const VIEW: f64 = 1060.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 1048.0;
const TOP: f64 = 8.0;
/// Below a chart: the axis.
const FOOT: f64 = 26.0;

/// What memory can be, from the bottom of the chart to its top.
const STACK: [Class; 6] = [
    Class::Whole,
    Class::Promoted,
    Class::Completed,
    Class::Migrated,
    Class::Broken,
    Class::Holes,
];

pub(super) struct Time<'a> {
    domain: &'a DomainView,
    ticks: u64,
    clock: Clock,
}

/// A number for SVG, short.
fn n(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// 1, 2 or 5 times a power of ten, so that about `parts` of them make up `length`.
fn round_step(length: f64, parts: f64) -> f64 {
    let raw = (length / parts).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= raw);
    factor.unwrap_or(10.0) * power
}

impl<'a> Time<'a> {
    pub(super) fn new(domain: &'a DomainView, ticks: u64, clock: Clock) -> Time<'a> {
        Time {
            domain,
            ticks: ticks.max(1),
            clock,
        }
    }

    fn x(&self, ticks: f64) -> f64 {
        LEFT + (ticks / self.ticks as f64).clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// The length of the trace and its unit, for an axis.
    fn unit(&self) -> (f64, &'static str) {
        let units: &[(&str, f64)] = match self.clock.tsc_mhz {
            Some(_) => &[("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)],
            None => &[
                ("ticks", 1.0),
                ("k ticks", 1e3),
                ("M ticks", 1e6),
                ("G ticks", 1e9),
            ],
        };
        let length = self
            .clock
            .tsc_mhz
            .map_or(self.ticks as f64, |mhz| self.ticks as f64 * 1e3 / mhz);
        let fit = units.iter().rev().find(|(_, size)| length >= 2.0 * size);
        let (unit, size) = fit.unwrap_or(&units[0]);
        (length / size, unit)
    }

    /// What the page's script needs: where the chart is, and the coverage at each change.
    pub(super) fn course(&self) -> String {
        let (length, unit) = self.unit();
        let (mut at, mut shares) = (vec![], vec![]);
        let mut last = None;
        for (i, step) in self.domain.steps.iter().enumerate() {
            let share = step.end.coverage().map(|c| (c * 1000.0).floor() / 10.0);
            if last != Some(share) {
                last = Some(share);
                let place = i as f64 * self.domain.width as f64 / self.ticks as f64;
                at.push((place * 1e5).round() / 1e5);
                shares.push(share.unwrap_or(0.0));
            }
        }
        serde_json::json!({
            "left": LEFT, "right": RIGHT, "view": VIEW,
            "length": length, "unit": unit,
            "at": at, "percent": shares,
        })
        .to_string()
    }

    fn open(&self, class: &str, height: f64, label: &str) -> String {
        format!(
            "<svg class=\"time {class}\" viewBox=\"0 0 {VIEW} {}\" role=\"img\" aria-label=\"{label}\">\n",
            n(TOP + height + FOOT)
        )
    }

    /// The axis of time, and the end of the chart.
    fn close(&self, height: f64) -> String {
        let bottom = TOP + height;
        let (length, unit) = self.unit();
        let step = round_step(length, 8.0);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let mut svg = String::new();
        let mut value = 0.0;
        while value <= length {
            let x = LEFT + value / length * (RIGHT - LEFT);
            let (anchor, words) = if value == 0.0 {
                ("middle", "0".to_owned())
            } else if x > RIGHT - 30.0 {
                ("end", format!("{value:.digits$} {unit}"))
            } else {
                ("middle", format!("{value:.digits$} {unit}"))
            };
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\"/><text x=\"{x}\" y=\"{}\" \
                 text-anchor=\"{anchor}\">{words}</text>",
                n(bottom),
                n(bottom + 5.0),
                n(bottom + 20.0),
                x = n(x),
            );
            value += step;
        }
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0}\" y2=\"{0}\"/>\n\
             <line class=\"cross\" x1=\"{LEFT}\" x2=\"{LEFT}\" y1=\"{TOP}\" y2=\"{0}\"/>\n</svg>",
            n(bottom)
        );
        svg
    }

    /// From and to of each run of steps that are alike.
    fn runs(&self) -> Vec<(f64, f64, &'a Step)> {
        let width = self.domain.width as f64;
        let mut from = 0;
        self.domain
            .steps
            .chunk_by(|a, b| a.end == b.end)
            .map(|run| {
                let start = from;
                from += run.len();
                (start as f64 * width, from as f64 * width, &run[0])
            })
            .collect()
    }

    /// How memory is mapped, as areas one upon the other.
    pub(super) fn areas(&self) -> String {
        const HEIGHT: f64 = 200.0;
        let mut svg = self.open("areas", HEIGHT, "How the memory is mapped over time");
        let y = |share: f64| TOP + HEIGHT * (1.0 - share);
        let runs = self.runs();

        for (i, class) in STACK.into_iter().enumerate() {
            let below = |step: &Step, count: usize| {
                let memory = step.end.memory().max(1) as f64;
                let sum: u64 = STACK[..count].iter().map(|c| step.end.of(*c)).sum();
                sum as f64 / memory
            };
            if runs.iter().all(|(_, _, step)| step.end.of(class) == 0) {
                continue;
            }
            // Forth along the upper edge, and back along the lower one.
            let mut path = String::new();
            for (from, to, step) in &runs {
                let top = n(y(below(step, i + 1)));
                let command = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(
                    path,
                    "{command}{} {top}H{}",
                    n(self.x(*from)),
                    n(self.x(*to))
                );
            }
            for (from, to, step) in runs.iter().rev() {
                let bottom = n(y(below(step, i)));
                let _ = write!(path, "L{} {bottom}H{}", n(self.x(*to)), n(self.x(*from)));
            }
            let _ = writeln!(svg, "<path class=\"{}\" d=\"{path}Z\"/>", class_name(class));
        }
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0}\" y2=\"{0}\" opacity=\".5\"/>\
                 <text x=\"{1}\" y=\"{2}\" text-anchor=\"end\">{3:.0} %</text>",
                n(y(share)),
                n(LEFT - 8.0),
                n(y(share) + 4.0),
                share * 100.0
            );
        }
        svg + &self.close(HEIGHT)
    }

    /// Each row of regions over time.
    pub(super) fn map(&self, map: &MapView) -> String {
        let row_height = (420.0 / map.rows.len().max(1) as f64).clamp(2.0, 12.0);
        let height = row_height * map.rows.len() as f64;
        let mut svg = self.open("map", height, "How each region is mapped over time");
        let mut paths: BTreeMap<&str, String> = BTreeMap::new();
        let width = map.width as f64;

        for (i, row) in map.rows.iter().enumerate() {
            let top = TOP + i as f64 * row_height;
            let gap = if row_height >= 6.0 { 1.0 } else { 0.0 };
            let mut from = 0;
            for run in row.cells.chunk_by(|a, b| shade(&a.0) == shade(&b.0)) {
                let to = from + run.len();
                if let Some(shade) = shade(&run[0].0) {
                    let (left, right) = (self.x(from as f64 * width), self.x(to as f64 * width));
                    let _ = write!(
                        paths.entry(shade).or_default(),
                        "M{} {}H{}V{}H{}z",
                        n(left),
                        n(top),
                        n(right),
                        n(top + row_height - gap),
                        n(left)
                    );
                }
                from = to;
            }
        }
        for (shade, path) in paths {
            let _ = writeln!(svg, "<path class=\"{shade}\" d=\"{path}\"/>");
        }

        // Some guest addresses, and a line where addresses are left out.
        let every = (40.0 / row_height).ceil() as usize;
        let mut last = None;
        for (i, row) in map.rows.iter().enumerate() {
            let top = TOP + i as f64 * row_height;
            if i % every == 0 {
                let mib = row.region as f64 * 2.0;
                let words = if mib >= 1024.0 {
                    format!("{:.2} GiB", mib / 1024.0)
                } else {
                    format!("{mib:.0} MiB")
                };
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{words}</text>",
                    n(LEFT - 8.0),
                    n(top + row_height.min(11.0) - 1.0)
                );
            }
            if last.is_some_and(|last| last + map.height != row.region) {
                let _ = writeln!(
                    svg,
                    "<line class=\"axis\" x1=\"{}\" x2=\"{RIGHT}\" y1=\"{1}\" y2=\"{1}\"/>",
                    n(LEFT - 6.0),
                    n(top - 0.5)
                );
            }
            last = Some(row.region);
        }
        svg + &self.close(height)
    }

    /// How long the lock was held, by the longest of each step.
    pub(super) fn stalls(&self) -> String {
        const HEIGHT: f64 = 180.0;
        let mut svg = self.open("stalls", HEIGHT, "How long the p2m lock was held over time");
        let holds = || {
            let steps = self.domain.steps.iter().enumerate();
            steps.flat_map(|(i, step)| {
                let kinds = Kind::ALL.into_iter();
                kinds.map(move |kind| (i, kind, f64::from(step.holds[kind as usize])))
            })
        };
        let scale = self.clock.tsc_mhz.map_or(1.0, |mhz| 1000.0 / mhz);
        let held = || holds().filter(|(_, _, hold)| *hold != 0.0);
        let low = held().map(|h| h.2 * scale).fold(f64::MAX, f64::min);
        let high = held().map(|h| h.2 * scale).fold(1.0, f64::max);
        let low = low.min(high).log10().floor();
        let high = high.log10().ceil().max(low + 1.0);
        let y = |value: f64| TOP + HEIGHT * (1.0 - (value.log10() - low) / (high - low));

        let mut power = low;
        while power <= high {
            let value = 10f64.powf(power);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0}\" y2=\"{0}\"/>\
                 <text x=\"{1}\" y=\"{2}\" text-anchor=\"end\">{3}</text>",
                n(y(value)),
                n(LEFT - 8.0),
                n(y(value) + 4.0),
                self.power(power as i32)
            );
            power += 1.0;
        }
        let width = self.domain.width as f64;
        for (i, kind, hold) in held() {
            let _ = writeln!(
                svg,
                "<circle class=\"dot {}\" cx=\"{}\" cy=\"{}\" r=\"4\"><title>{}: {}</title></circle>",
                colour(kind),
                n(self.x((i as f64 + 0.5) * width)),
                n(y(hold * scale)),
                kind.name().to_lowercase(),
                self.clock.length(hold)
            );
        }
        svg + &self.close(HEIGHT)
    }

    /// A power of ten of ns or ticks.
    fn power(&self, power: i32) -> String {
        let units: &[&str] = match self.clock.tsc_mhz {
            Some(_) => &["ns", "µs", "ms", "s"],
            None => &["", "k", "M", "G"],
        };
        let power = power.max(0) as usize;
        let unit = (power / 3).min(units.len() - 1);
        let value = 10u64.saturating_pow((power - 3 * unit) as u32);
        format!("{value} {}", units[unit]).trim_end().to_owned()
    }
}

/// The colour of a cell: of its one class, or mixed where only some regions are broken.
fn shade(cell: &[u16; CLASSES]) -> Option<&'static str> {
    let of = |class: Class| u32::from(cell[class as usize]);
    let whole: u32 = STACK[..4].iter().map(|class| of(*class)).sum();
    let broken = of(Class::Broken) + of(Class::Holes);
    let most = |classes: &[Class]| {
        let class = classes.iter().rev().max_by_key(|class| of(**class));
        class.map(|class| class_name(*class))
    };
    match (whole, broken) {
        (0, 0) if of(Class::Empty) != 0 => Some("empty"),
        (0, 0) => None,
        (_, 0) => most(&STACK[..4]),
        (0, _) => most(&STACK[4..]),
        (whole, broken) => Some(match broken * 3 / (whole + broken) {
            0 => "b1",
            1 => "b2",
            _ => "b3",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let steps = [785.0, 1.0, 3.1e9, 0.02].map(|length| round_step(length, 8.0));
        assert_eq!(steps[0], 100.0);
        assert_eq!((steps[1], steps[2]), (0.2, 5e8));
        assert!((steps[3] - 0.005).abs() < 1e-9);
    }

    #[test]
    fn a_cell_has_the_colour_of_its_regions() {
        assert_eq!(shade(&[0; CLASSES]), None);
        assert_eq!(shade(&[3, 0, 0, 0, 0, 0, 0]), Some("whole"));
        assert_eq!(shade(&[1, 0, 2, 0, 0, 0, 4]), Some("completed"));
        assert_eq!(shade(&[0, 0, 0, 0, 2, 5, 0]), Some("holes"));
        assert_eq!(shade(&[9, 0, 0, 0, 1, 0, 0]), Some("b1"));
        assert_eq!(shade(&[1, 0, 0, 0, 9, 0, 0]), Some("b3"));
        assert_eq!(shade(&[0, 0, 0, 0, 0, 0, 1]), Some("empty"));
    }
}
