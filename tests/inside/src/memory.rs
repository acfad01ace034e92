// SPDX-License-Identifier: GPL-2.0-only
//! A checker of memory: every word says where it is and in which round it was written, so that a
//! page that was lost, repeated, swapped with another or written late is found, and which it was.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};

const WORDS: usize = 512;

/// The word at a place of the memory, in a round.
fn word(seed: u64, round: u64, index: u64) -> u64 {
    // SplitMix64's finalizer: each input has its own output.
    let mut z = seed ^ round << 40 ^ index;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Checks `mib` MiB for `duration`, and gives the number of rounds in which all of it was
/// compared and written anew.
pub fn check(mib: usize, duration: Duration, seed: u64, threads: usize) -> Result<u64> {
    let threads = threads.max(1);
    let words = (mib << 20) / 8;
    let mut memory = vec![0u64; words];
    let share = words.div_ceil(threads).next_multiple_of(WORDS);
    let start = Instant::now();

    let rounds: Vec<Result<u64>> = thread::scope(|scope| {
        let workers: Vec<_> = memory
            .chunks_mut(share.max(WORDS))
            .enumerate()
            .map(|(n, part)| {
                let first = (n * share) as u64;
                scope.spawn(move || check_part(part, first, seed, start, duration))
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Ok(0)))
            .collect()
    });
    let mut least = u64::MAX;
    for part in rounds {
        least = least.min(part?);
    }
    Ok(least)
}

/// Fills a file, and gives back one of `one_in` of its pages, at random.
pub fn scatter(path: &Path, mib: u64, one_in: u64, seed: u64) -> Result<()> {
    const PAGE: u64 = 4096;
    ensure!(one_in > 0, "one page of none cannot be given back");
    let mut file = File::create(path)?;
    let full = vec![0x5a; 1 << 20];
    for _ in 0..mib {
        file.write_all(&full)?;
    }
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for page in (0..mib << 8).filter(|&page| word(seed, 0, page) % one_in == 0) {
        fallocate(&file, punch, (page * PAGE) as i64, PAGE as i64)?;
    }
    Ok(())
}

fn check_part(
    memory: &mut [u64],
    first: u64,
    seed: u64,
    start: Instant,
    duration: Duration,
) -> Result<u64> {
    let mut round = 0;
    fill(memory, first, seed, round);
    loop {
        // Page by page, there and back again.
        let pages = memory.len().div_ceil(WORDS);
        for n in 0..pages {
            let page = if round % 2 == 0 { n } else { pages - 1 - n };
            let start = page * WORDS;
            let end = (start + WORDS).min(memory.len());
            let at = first + start as u64;
            compare(&memory[start..end], at, seed, round)?;
            fill(&mut memory[start..end], at, seed, round + 1);
        }
        round += 1;
        if start.elapsed() >= duration {
            compare(memory, first, seed, round)?;
            return Ok(round);
        }
    }
}

fn fill(memory: &mut [u64], first: u64, seed: u64, round: u64) {
    for (place, index) in memory.iter_mut().zip(first..) {
        *place = word(seed, round, index);
    }
}

fn compare(memory: &[u64], first: u64, seed: u64, round: u64) -> Result<()> {
    for (&found, index) in memory.iter().zip(first..) {
        let wanted = word(seed, round, index);
        ensure!(
            found == wanted,
            "word {index:#x} (page {:#x}) is {found:#018x} in round {round}, and was written as \
             {wanted:#018x}",
            index / WORDS as u64
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_memory_passes() {
        for threads in [1, 2, 3] {
            assert!(check(1, Duration::from_millis(1), 7, threads).unwrap() >= 1);
        }
    }

    #[test]
    fn some_pages_of_a_file_stay() {
        use std::os::unix::fs::MetadataExt;
        // What is in memory gives single pages back; not every disk does.
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        scatter(file.path(), 4, 4, 7).unwrap();
        let data = file.as_file().metadata().unwrap();
        let pages = data.blocks() * 512 / 4096;
        assert_eq!(data.len(), 4 << 20);
        assert!((640..=896).contains(&pages), "{pages} of 1024 pages");
        assert!(scatter(file.path(), 1, 0, 7).is_err());
    }

    #[test]
    fn a_wrong_word_is_found() {
        let mut memory = vec![0; 2 * WORDS];
        fill(&mut memory, 0, 7, 3);
        compare(&memory, 0, 7, 3).unwrap();
        memory[600] ^= 1;
        let error = compare(&memory, 0, 7, 3).unwrap_err().to_string();
        assert!(error.contains("word 0x258 (page 0x1)"), "{error}");
        // The page of another place, and of another round.
        memory.copy_within(..WORDS, WORDS);
        assert!(compare(&memory, 0, 7, 3).is_err());
        fill(&mut memory, 0, 7, 2);
        assert!(compare(&memory, 0, 7, 3).is_err());
    }
}
