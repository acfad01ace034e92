// SPDX-License-Identifier: GPL-2.0-only
//! What the laboratory needs inside of its Linux domains and neither busybox nor Xen's tools have.
//!
//! In the control domain: the counters and the map of `XEN_DOMCTL_coalesce`, the machine's free
//! pages to the page, foreign mappings that are held on pages of one's choice. In a guest: a
//! checker of memory.

mod memory;
mod privcmd;
mod xen;

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use crate::privcmd::Privcmd;
use crate::xen::Region;

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Succeeds if this Xen has XEN_DOMCTL_coalesce for this domain
    Has { domid: u16 },
    /// All counters of a domain, in the order of public/domctl.h
    Counters { domid: u16 },
    /// A domain's memory from its start: kinds of regions, each with how many there are in a row
    Map { domid: u16 },
    /// Says, or sets, what may be done to a domain's memory
    Mode { domid: u16, mode: Option<Mode> },
    /// Waits until Xen does nothing more about a domain's memory
    Settle {
        domid: u16,
        /// Seconds after which it has failed
        #[arg(long, default_value_t = 60)]
        limit: u64,
        /// Seconds for which nothing may happen; three times as many if something is waiting
        #[arg(long, default_value_t = 3)]
        quiet: u64,
    },
    /// Audits a domain's page table: its pages, pages of Xen, others, and those compared with an IOMMU's
    Audit { domid: u16 },
    /// The machine's free, scrub and outstanding pages
    Free,
    /// Keeps track of the pages that a domain writes until standard input ends
    LogDirty { domid: u16 },
    /// Maps pages of a domain until standard input ends
    Pin {
        domid: u16,
        /// Guest frames, hexadecimal with 0x, or FIRST+COUNT*STEP
        #[arg(required = true)]
        frames: Vec<String>,
    },
    /// Makes a file and gives back some of its pages, at random: in memory, that leaves free pages
    /// everywhere, and no two MiB in which nothing is used
    Scatter {
        file: PathBuf,
        /// MiB of the file
        mib: u64,
        /// One page of so many is given back
        #[arg(long, default_value_t = 4)]
        one_in: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Fills memory with a pattern and compares it, again and again
    Check {
        /// MiB to use
        mib: usize,
        /// Seconds to go on for; rounds are always whole
        seconds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads that share the memory
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
}

/// `XEN_DOMCTL_COALESCE_MODE_*`, in the order of their numbers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Default,
    Off,
    InPlace,
    Full,
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inside: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn joined(numbers: &[u64]) -> String {
    let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
    words.join(" ")
}

/// `W127h1.1912o2`: 127 whole regions, one with holes, and so on.
fn runs(map: &[Region]) -> String {
    map.chunk_by(|a, b| a == b)
        .filter_map(|run| Some(format!("{}{}", run.first()?.to_char(), run.len())))
        .collect()
}

fn act(command: Command) -> Result<()> {
    match command {
        Command::Has { domid } => {
            xen::counters(&Privcmd::open()?, domid)?;
        }
        Command::Counters { domid } => {
            println!("{}", joined(&xen::counters(&Privcmd::open()?, domid)?));
        }
        Command::Map { domid } => {
            println!("{}", runs(&xen::map(&Privcmd::open()?, domid)?));
        }
        Command::Mode {
            domid,
            mode: Some(mode),
        } => xen::set_mode(&Privcmd::open()?, domid, mode as u32)?,
        Command::Mode { domid, mode: None } => {
            let mode = xen::mode(&Privcmd::open()?, domid)?;
            let known = Mode::value_variants()
                .iter()
                .find(|known| **known as u32 == mode)
                .and_then(Mode::to_possible_value)
                .with_context(|| format!("mode {mode} of domain {domid} is not known here"))?;
            println!("{}", known.get_name());
        }
        Command::Settle {
            domid,
            limit,
            quiet,
        } => settle(
            domid,
            Duration::from_secs(limit),
            Duration::from_secs(quiet),
        )?,
        Command::Audit { domid } => {
            let audit = xen::audit(&Privcmd::open()?, domid)?;
            println!("{}", joined(&audit.there));
            ensure!(
                audit.wrong.is_empty(),
                "the p2m of domain {domid} is damaged: XEN_DOMCTL_COALESCE_AUDIT_*, and how often: {:?}",
                audit.wrong
            );
        }
        Command::Free => {
            let free = xen::free_pages(&Privcmd::open()?)?;
            println!("{} {} {}", free.free, free.scrub, free.outstanding);
        }
        Command::LogDirty { domid } => log_dirty(domid)?,
        Command::Pin { domid, frames } => pin(domid, &frames)?,
        Command::Scatter {
            file,
            mib,
            one_in,
            seed,
        } => memory::scatter(&file, mib, one_in, seed)
            .with_context(|| format!("cannot scatter {}", file.display()))?,
        Command::Check {
            mib,
            seconds,
            seed,
            threads,
        } => {
            let rounds = memory::check(mib, Duration::from_secs(seconds), seed, threads)?;
            println!("{rounds}");
        }
    }
    Ok(())
}

/// Waits until nothing was looked at for a while.
fn settle(domid: u16, limit: Duration, quiet: Duration) -> Result<()> {
    let privcmd = Privcmd::open()?;
    let start = Instant::now();
    let mut last = None;
    let mut since = start;
    loop {
        let counters = xen::counters(&privcmd, domid)?;
        let count = |index: usize| counters.get(index).copied().unwrap_or(0);
        let now = (count(xen::COUNT_LOOKED_AT), count(xen::COUNT_QUEUED));
        if last != Some(now) {
            last = Some(now);
            since = Instant::now();
        }
        // What waits may wait for something that lasts, such as a page that somebody has mapped.
        let enough = if now.1 == 0 { quiet } else { 3 * quiet };
        if since.elapsed() >= enough {
            return Ok(());
        }
        if start.elapsed() >= limit {
            bail!(
                "domain {domid} has not come to rest in {} s: {} regions looked at, {} waiting",
                limit.as_secs(),
                now.0,
                now.1
            );
        }
        sleep(Duration::from_millis(200));
    }
}

/// Guest frames in words: `0x1234`, or `0x1000+8*512` for eight frames that are 512 apart.
fn frames(word: &str) -> Result<Vec<u64>> {
    fn number(word: &str) -> Option<u64> {
        match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        }
    }
    let parse = || {
        let Some((first, rest)) = word.split_once('+') else {
            return Some(vec![number(word)?]);
        };
        let (count, step) = rest.split_once('*').unwrap_or((rest, "1"));
        let (first, count, step) = (number(first)?, number(count)?, number(step)?);
        (0..count)
            .map(|n| first.checked_add(n.checked_mul(step)?))
            .collect()
    };
    parse().with_context(|| format!("{word} is not FRAME or FIRST+COUNT*STEP"))
}

fn log_dirty(domid: u16) -> Result<()> {
    let privcmd = Privcmd::open()?;
    xen::log_dirty(&privcmd, domid, true)?;
    println!("log-dirty");
    let waited = io::stdin().read_to_end(&mut vec![]);
    xen::log_dirty(&privcmd, domid, false)?;
    waited?;
    Ok(())
}

fn pin(domid: u16, words: &[String]) -> Result<()> {
    let mut all = vec![];
    for word in words {
        all.extend(frames(word)?);
    }
    let mapping = Privcmd::open()?.map_foreign(domid, &all)?;
    println!("pinned {}", all.len());
    io::stdin().read_to_end(&mut vec![])?;
    drop(mapping);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_in_runs() {
        use Region::{Empty, Holes, Whole};
        assert_eq!(runs(&[Whole, Whole, Holes, Empty, Empty]), "W2h1.2");
        assert_eq!(runs(&[]), "");
    }

    #[test]
    fn frames_in_words() {
        assert_eq!(frames("0x10").unwrap(), [16]);
        assert_eq!(frames("7").unwrap(), [7]);
        assert_eq!(frames("0x200+3*512").unwrap(), [512, 1024, 1536]);
        assert_eq!(frames("5+2").unwrap(), [5, 6]);
        assert!(frames("x").is_err());
        assert!(frames("1+2*18446744073709551615").is_err());
    }
}
