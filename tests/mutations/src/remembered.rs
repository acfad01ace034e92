// SPDX-License-Identifier: GPL-2.0-only
//! What was found out before, so that a run may end at any time and the next one
//! goes on from there. Nothing that is remembered outlives what it depends on: the
//! core, and the sources of the tests that said so. What does not hold any more
//! still tells which test to try first.

use crate::generated::{CASES, TARGETS};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// By this test.
    Caught(String),
    Survived,
    /// It does not compile.
    Unviable,
}

/// The core's sources, and those of each target's tests, as numbers.
pub struct Digests {
    core: u64,
    targets: BTreeMap<String, u64>,
    all: u64,
}

fn sources(dir: &Path, into: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.insert(path.clone(), fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();

    (of, CASES).hash(&mut hasher);
    hasher.finish()
}

impl Digests {
    pub fn new() -> Result<Self> {
        let read = |dirs: &[&str]| -> Result<_> {
            let mut all = BTreeMap::new();
            for dir in dirs {
                sources(Path::new(dir), &mut all).with_context(|| (*dir).to_owned())?;
            }
            Ok(all)
        };
        let machine = read(&["tests/machine/src"])?;
        let mut targets = BTreeMap::new();
        for (package, target) in TARGETS {
            let digest = match (package, target) {
                ("machine", "lib") => digest(&machine),
                ("machine", test) => {
                    let test = fs::read_to_string(format!("tests/machine/tests/{test}.rs"))?;
                    digest(&(&machine, test))
                }
                (package, _) => digest(&read(&[&format!("{package}/src")])?),
            };
            targets.insert(format!("{package}::{target}"), digest);
        }
        let mut core = read(&["arch/src", "p2m/src"])?;
        core.retain(|path, _| !path.ends_with("tests.rs"));
        for text in core.values_mut() {
            // Tests are the last in a file.
            if let Some(at) = text.find("\n#[cfg(test)]\nmod tests") {
                text.truncate(at);
            }
        }
        let lock = fs::read_to_string("Cargo.lock")?;

        Ok(Digests {
            core: digest(&(core, lock)),
            all: digest(&targets),
            targets,
        })
    }

    /// Of the tests that said so.
    fn of(&self, fate: &Fate) -> u64 {
        let by = match fate {
            Fate::Caught(by) => by,
            Fate::Survived => return self.all,
            Fate::Unviable => return 0,
        };
        let target = self
            .targets
            .iter()
            .find(|(name, _)| by.strip_prefix(name.as_str()).is_some());

        target.map_or(self.all, |(_, &digest)| digest)
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    fate: Fate,
    core: u64,
    tests: u64,
}

/// A test: how long it takes, and the changes that it comes by.
#[derive(Clone, Serialize, Deserialize)]
pub struct Reach {
    pub took: Duration,
    pub reached: BTreeSet<usize>,
}

/// What does not go with the rest into one build.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Left {
    pub without: BTreeSet<usize>,
    /// Of a value that is none of the function's type.
    pub unviable: BTreeSet<usize>,
    /// Functions that have to stay `const`.
    pub constant: BTreeSet<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Stored {
    /// By the changes' names.
    fates: BTreeMap<String, Entry>,
    /// What `left` and `reach` are true of.
    key: u64,
    left: Left,
    reach_key: u64,
    reach: BTreeMap<String, Reach>,
}

pub struct Memory {
    path: PathBuf,
    digests: Digests,
    names: u64,
    stored: Stored,
}

impl Memory {
    /// Changes have numbers by their places in `names`.
    pub fn new(path: PathBuf, names: &[String], again: bool) -> Result<Self> {
        let text = fs::read_to_string(&path).unwrap_or_default();
        // What cannot be read is not known.
        let stored = match again {
            true => Stored::default(),
            false => serde_json::from_str(&text).unwrap_or_default(),
        };

        Ok(Memory {
            path,
            digests: Digests::new()?,
            names: digest(&names),
            stored,
        })
    }

    /// What became of the change, if that still holds.
    pub fn fate(&self, name: &str) -> Option<Fate> {
        let entry = self.stored.fates.get(name)?;
        let holds = entry.core == self.digests.core && entry.tests == self.digests.of(&entry.fate);

        holds.then(|| entry.fate.clone())
    }

    /// What became of it once.
    pub fn once(&self, name: &str) -> Option<&Fate> {
        self.stored.fates.get(name).map(|entry| &entry.fate)
    }

    pub fn note(&mut self, name: &str, fate: &Fate) -> Result<()> {
        let entry = Entry {
            fate: fate.clone(),
            core: self.digests.core,
            tests: self.digests.of(fate),
        };

        self.stored.fates.insert(name.to_owned(), entry);
        self.save()
    }

    pub fn left(&self) -> Left {
        match self.stored.key == digest(&(self.digests.core, self.names)) {
            true => self.stored.left.clone(),
            false => Left::default(),
        }
    }

    pub fn note_left(&mut self, left: &Left) -> Result<()> {
        self.stored.key = digest(&(self.digests.core, self.names));
        self.stored.left = left.clone();
        self.save()
    }

    fn reach_key(&self) -> u64 {
        digest(&(self.digests.core, self.digests.all, self.names))
    }

    pub fn reach(&self, test: &str) -> Option<Reach> {
        let holds = self.stored.reach_key == self.reach_key();

        self.stored.reach.get(test).filter(|_| holds).cloned()
    }

    pub fn note_reach(&mut self, reach: BTreeMap<String, Reach>) -> Result<()> {
        self.stored.reach_key = self.reach_key();
        self.stored.reach = reach;
        self.save()
    }

    fn save(&self) -> Result<()> {
        let new = self.path.with_extension("new");

        fs::write(&new, serde_json::to_string(&self.stored)?)?;
        fs::rename(&new, &self.path).with_context(|| format!("{}", self.path.display()))
    }
}
