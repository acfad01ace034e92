// SPDX-License-Identifier: GPL-2.0-only
//! A guest's memory as a picture: a character for each 2M region, a row for each moment.

use std::env;
use std::io::IsTerminal;
use std::time::Duration;

use console::{Style, Term};

use crate::verdict::{Map, Region};

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours and block characters; otherwise ASCII.
    pub rich: bool,
    pub width: usize,
}

impl Look {
    /// What suits the standard output.
    pub fn of_stdout() -> Look {
        let dumb = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        let width = Term::stdout()
            .size_checked()
            .map_or(80, |(_, columns)| usize::from(columns));
        Look {
            rich: std::io::stdout().is_terminal() && !dumb,
            width,
        }
    }

    pub fn style(&self, style: Style) -> Style {
        style.force_styling(self.rich)
    }

    fn region(&self, region: Region) -> (&'static str, Style) {
        let style = Style::new();
        let (rich, plain, style) = match region {
            Region::Whole => ("█", "W", style.green()),
            Region::Broken => ("▒", "b", style.yellow()),
            Region::Holes => ("░", "h", style.red()),
            Region::Empty => ("·", ".", style.dim()),
            Region::Other => ("◆", "o", style.blue()),
        };
        (if self.rich { rich } else { plain }, self.style(style))
    }
}

/// Which share of the regions with memory is whole, in percent. `None`: there is no memory.
pub fn coverage(regions: &[Region]) -> Option<f64> {
    let whole = regions.iter().filter(|r| **r == Region::Whole).count();
    let broken = regions
        .iter()
        .filter(|r| matches!(r, Region::Broken | Region::Holes))
        .count();
    let all = whole + broken;
    (all != 0).then(|| whole as f64 * 100.0 / all as f64)
}

/// The maps that show something new: each that differs from the one before it.
pub fn changes(maps: &[Map]) -> Vec<&Map> {
    let mut rows: Vec<&Map> = vec![];
    for map in maps {
        if rows.last().is_none_or(|last| last.regions != map.regions) {
            rows.push(map);
        }
    }
    rows
}

/// More rows than this of one name are too many to look at.
const MOST_OF_A_NAME: usize = 8;

/// Of a long series of maps of one name only some, evenly spread, with the first and the last.
fn thinned(rows: Vec<&Map>) -> Vec<&Map> {
    rows.chunk_by(|a, b| a.name == b.name)
        .flat_map(|series| {
            let last = series.len() - 1;
            let keep = series.len().min(MOST_OF_A_NAME);
            (0..keep).map(move |n| series[if keep == 1 { 0 } else { n * last / (keep - 1) }])
        })
        .collect()
}

/// Draws the maps that differ, and what the characters mean.
pub fn draw(maps: &[Map], look: Look) -> String {
    const LONGEST_NAME: usize = 20;
    const PERCENT: usize = 7;
    const TIME: usize = 8;

    let all = changes(maps);
    let start = all.first().map_or(Duration::ZERO, |map| map.at);
    let steps = all.len();
    let rows = thinned(all);
    let longest = rows.iter().map(|map| map.regions.len()).max().unwrap_or(0);
    if longest == 0 {
        return "The guest reported no picture of its memory.\n".to_owned();
    }

    let names = rows
        .iter()
        .map(|map| map.name.chars().count())
        .max()
        .unwrap_or(0)
        .min(LONGEST_NAME);
    let room = look
        .width
        .saturating_sub(2 + names + TIME + 2 + PERCENT)
        .max(8);
    // Lines of a round length are easier to compare; a short map fits on one anyway.
    let round = if room < 48 { 8 } else { 16 };
    let cells = if longest <= room {
        room
    } else {
        room - room % round
    };

    let mut text = String::new();
    let mut last_name = "";
    for map in &rows {
        let name: String = if map.name == last_name {
            String::new()
        } else {
            map.name.chars().take(names).collect()
        };
        last_name = &map.name;
        let time = map.at.saturating_sub(start).as_secs_f64();
        let time = format!("{time:.2} s");
        let percent = coverage(&map.regions).map_or("-".to_owned(), |p| format!("{p:.0} %"));
        for (i, line) in map.regions.chunks(cells).enumerate() {
            let (name, time) = if i == 0 {
                (name.as_str(), time.as_str())
            } else {
                ("", "")
            };
            let gap = names - name.chars().count();
            let name = look.style(Style::new().bold()).apply_to(name);
            text += &format!("  {name}{:gap$}{time:>TIME$}  {}", "", paint(line, look),);
            if i == 0 {
                let gap = cells.min(longest) - line.len();
                text += &format!("{:gap$}{percent:>PERCENT$}", "");
            }
            text = text.trim_end().to_owned() + "\n";
        }
    }

    text += "\n";
    let words = [
        (Region::Whole, "one 2M page"),
        (Region::Broken, "broken into 4K pages"),
        (Region::Holes, "broken, with holes"),
        (Region::Empty, "empty"),
        (Region::Other, "other"),
    ];
    let seen = |region| rows.iter().any(|map| map.regions.contains(&region));
    let mut line = String::new();
    let mut used = 0;
    for (region, words) in words.into_iter().filter(|(region, _)| seen(*region)) {
        let length = 2 + 2 + words.len();
        if used != 0 && used + length > look.width {
            text += &format!("{line}\n");
            (line, used) = (String::new(), 0);
        }
        let (glyph, style) = look.region(region);
        line += &format!("  {} {words}", style.apply_to(glyph));
        used += length;
    }
    text += &format!("{line}\n");
    text += &format!(
        "  Each character is 2M of memory; {}.\n  The percentage is the share of it in 2M pages.\n",
        if longest > cells {
            format!("a line is {}M", 2 * cells)
        } else {
            format!("together {}M", 2 * longest)
        }
    );
    if rows.len() < steps {
        text += &format!("  {} of {steps} steps are drawn.\n", rows.len());
    }
    text
}

/// Paints runs of equal regions, not each for itself: less noise on the wire.
pub fn paint(regions: &[Region], look: Look) -> String {
    regions
        .chunk_by(|a, b| a == b)
        .map(|run| {
            let (glyph, style) = look.region(run[0]);
            style.apply_to(glyph.repeat(run.len())).to_string()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, chars: &str) -> Map {
        Map {
            name: name.to_owned(),
            regions: chars.chars().filter_map(Region::from_char).collect(),
            at: Duration::ZERO,
        }
    }

    fn example() -> Vec<Map> {
        let whole = "W".repeat(90) + "....oo";
        let mut maps = vec![
            map("start", &whole),
            map("start-again", &whole),
            map("shattered", &("bbbhWW".repeat(15) + "....oo")),
            map("a name that is too long", &("bWWWWW".repeat(15) + "....oo")),
            map("healed", &whole),
            map("end", &whole),
        ];
        for (n, map) in maps.iter_mut().enumerate() {
            map.at = Duration::from_millis(1500 + 260 * n as u64);
        }
        maps
    }

    #[test]
    fn a_long_series_is_thinned_out() {
        for length in 1..40 {
            let maps: Vec<Map> = (0..length)
                .map(|n| map("heal", &("W".repeat(n) + &"b".repeat(length - n))))
                .collect();
            let rows = thinned(changes(&maps));
            assert_eq!(rows.len(), length.min(MOST_OF_A_NAME));
            assert_eq!(rows[0], &maps[0]);
            assert_eq!(*rows.last().unwrap(), &maps[length - 1]);
            assert!(rows.is_sorted_by(|a, b| a.regions != b.regions));
        }
        let maps: Vec<Map> = (0..13)
            .map(|n| map("heal", &("W".repeat(n) + &"b".repeat(12 - n))))
            .collect();
        insta::assert_snapshot!(draw(
            &maps,
            Look {
                rich: false,
                width: 80
            }
        ));
    }

    #[test]
    fn plain_and_wide() {
        insta::assert_snapshot!(draw(
            &example(),
            Look {
                rich: false,
                width: 130
            }
        ));
    }

    #[test]
    fn plain_and_narrow() {
        let text = draw(
            &example(),
            Look {
                rich: false,
                width: 60,
            },
        );
        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn very_narrow_terminals_do_not_hurt() {
        for width in 0..30 {
            draw(&example(), Look { rich: false, width });
        }
    }

    #[test]
    fn rich() {
        let text = draw(
            &example(),
            Look {
                rich: true,
                width: 80,
            },
        );
        insta::assert_snapshot!(text.replace('\u{1b}', "<ESC>"));
        let visible = console::strip_ansi_codes(&text).into_owned();
        assert!(
            visible.lines().all(|line| line.chars().count() <= 80),
            "{visible}"
        );
    }

    #[test]
    fn coverage_counts_what_has_memory() {
        assert_eq!(coverage(&map("", "WWWb").regions), Some(75.0));
        assert_eq!(coverage(&map("", "Wh..oo").regions), Some(50.0));
        assert_eq!(coverage(&map("", "..o").regions), None);
        assert_eq!(
            draw(
                &[],
                Look {
                    rich: false,
                    width: 80
                }
            )
            .lines()
            .count(),
            1
        );
    }
}
