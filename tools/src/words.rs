// SPDX-License-Identifier: GPL-2.0-only
//! Numbers as a person reads them.

use serde::Serialize;

/// A number with its thousands set apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// Three significant digits, or as many as there are before the point.
fn short(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn scaled(value: f64, units: &[&str]) -> String {
    let mut value = value;
    for unit in units {
        if value < 999.5 {
            return format!("{} {unit}", short(value));
        }
        value /= 1000.0;
    }
    format!("{} {}", short(value * 1000.0), units.last().unwrap_or(&""))
}

/// What a tick of the TSC is. A trace does not say how fast it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Clock {
    pub tsc_mhz: Option<f64>,
}

impl Clock {
    /// A length of time: in seconds if the clock is known, otherwise in ticks.
    pub fn length(self, ticks: f64) -> String {
        match self.tsc_mhz {
            Some(mhz) => {
                let ns = ticks * 1000.0 / mhz;
                if ns == 0.0 {
                    return "0 s".to_owned();
                }
                scaled(ns, &["ns", "µs", "ms", "s"])
            }
            None if ticks < 1000.0 => format!("{ticks:.0} ticks"),
            None => scaled(
                ticks / 1000.0,
                &["k ticks", "M ticks", "G ticks", "T ticks"],
            ),
        }
    }

    /// ns of a tick; without a clock a tick counts for itself.
    pub fn scale(self) -> f64 {
        self.tsc_mhz.map_or(1.0, |mhz| 1000.0 / mhz)
    }

    /// `from 5 ms`: a bound that is a round number of ns or ticks.
    pub fn bound(self, ticks: f64) -> String {
        let length = self.length(ticks);
        let (number, unit) = length.split_once(' ').unwrap_or((&length, ""));
        let number = match number.contains('.') {
            true => number.trim_end_matches('0').trim_end_matches('.'),
            false => number,
        };
        format!("from {number} {unit}")
    }

    /// Ticks in ns; without a clock a tick is taken for one.
    pub fn ns(self, ticks: u64) -> u64 {
        match self.tsc_mhz {
            Some(mhz) => (ticks as f64 * 1000.0 / mhz) as u64,
            None => ticks,
        }
    }
}

/// A share in percent. What is not all is never written as 100.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 100.0 && percent > 99.9 {
        ">99.9 %".to_owned()
    } else {
        format!("{percent:.1} %")
    }
}

/// Memory of so many regions.
pub fn memory(regions: u64) -> String {
    let mib = regions as f64 * 2.0;
    if mib < 1024.0 {
        format!("{mib:.0} MiB")
    } else if mib < 1024.0 * 1024.0 {
        format!("{} GiB", short(mib / 1024.0))
    } else {
        format!("{} TiB", short(mib / 1024.0 / 1024.0))
    }
}

/// `1 region`, `2 regions`.
pub fn times(n: u64, one: &str, more: &str) -> String {
    format!("{} {}", grouped(n), if n == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands() {
        let numbers = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }

    #[test]
    fn lengths() {
        let known = Clock {
            tsc_mhz: Some(2000.0),
        };
        let says = [0.0, 1.0, 2000.0, 1999e3, 1234e6, 8e12].map(|ticks| known.length(ticks));
        assert_eq!(
            says,
            ["0 s", "0.50 ns", "1.00 µs", "1.00 ms", "617 ms", "4000 s"]
        );
        let says = [0.0, 999.0, 1000.0, 34_289_788.0].map(|ticks| Clock::default().length(ticks));
        assert_eq!(
            says,
            ["0 ticks", "999 ticks", "1.00 k ticks", "34.3 M ticks"]
        );
        assert_eq!((known.ns(8), Clock::default().ns(8)), (4, 8));
    }

    #[test]
    fn shares_and_sizes() {
        let says = [0.0, 0.479, 0.9999, 1.0].map(percent);
        assert_eq!(says, ["0.0 %", "47.9 %", ">99.9 %", "100.0 %"]);
        assert_eq!(
            [3, 512, 3 << 18].map(memory),
            ["6 MiB", "1.00 GiB", "1.50 TiB"]
        );
        assert_eq!(times(1, "region", "regions"), "1 region");
    }
}
