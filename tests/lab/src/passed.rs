// SPDX-License-Identifier: GPL-2.0-only
//! What passed already, with the same Xen, guest, machine, emulator and judge.
//!
//! The table takes minutes, and most changes touch little of it. A pass is remembered under a digest of
//! everything that the run was made of, as a build system remembers an object file; a failure never is.
//! [`crate::suite::closing_line`] says how much of a result is old, and a clean checkout has nothing to
//! remember.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::emulator;
use crate::lab::{Request, Xen};
use crate::place::Place;

/// What is kept of a run that passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Of what it was made: see [`Passed::digest`].
    digest: String,
    /// How long it took.
    pub wall: Duration,
    /// What the guest counted.
    pub counts: BTreeMap<String, u64>,
}

/// The passes of earlier runs, by the title of the case.
#[derive(Debug)]
pub struct Passed {
    file: PathBuf,
    /// Digests of files, each of which is read once.
    digests: BTreeMap<PathBuf, String>,
    passes: BTreeMap<String, Pass>,
}

impl Passed {
    /// Those of this place. A file that cannot be read holds none.
    pub fn load(place: &Place) -> Passed {
        let file = place.out().join("cache/lab/passed.json");
        let passes = fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Passed {
            file,
            digests: BTreeMap::new(),
            passes,
        }
    }

    /// Stands for everything that decides how a run ends: the bytes of Xen, of the guest, of the
    /// emulator and its firmware, and of this program, which holds the tables and the judge.
    pub fn digest(&mut self, place: &Place, request: &Request<'_>) -> Result<String> {
        let mut files = vec![
            std::env::current_exe().context("where is this program?")?,
            match &request.xen {
                Xen::Flavour(name) => place.xen(name)?,
                Xen::File(path) => path.clone(),
            },
            place.guest(request.guest)?,
        ];
        files.extend(emulator::by_name(&request.machine.emulator)?.files()?);

        let mut all = Sha256::new();
        all.update(request.title());
        all.update([0]);
        all.update(request.command_line());
        for file in files {
            all.update([0]);
            all.update(self.of_file(&file)?);
        }
        Ok(hex(&all.finalize()))
    }

    fn of_file(&mut self, path: &Path) -> Result<String> {
        if let Some(digest) = self.digests.get(path) {
            return Ok(digest.clone());
        }
        let digest = hex(&sha256(path)?);
        self.digests.insert(path.to_owned(), digest.clone());
        Ok(digest)
    }

    /// The pass of a case that was made of the same.
    pub fn find(&self, title: &str, digest: &str) -> Option<&Pass> {
        self.passes.get(title).filter(|pass| pass.digest == digest)
    }

    /// Remember a pass. That it cannot be written costs time later, and nothing else.
    pub fn add(
        &mut self,
        title: &str,
        digest: String,
        wall: Duration,
        counts: &BTreeMap<String, u64>,
    ) {
        let pass = Pass {
            digest,
            wall,
            counts: counts.clone(),
        };
        self.passes.insert(title.to_owned(), pass);
        let _ = self.write();
    }

    fn write(&self) -> Result<()> {
        let dir = self.file.parent().context("a file has a folder")?;
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&mut file, &self.passes)?;
        file.persist(&self.file)?;
        Ok(())
    }
}

/// The digest of a file.
pub fn sha256(path: &Path) -> Result<Vec<u8>> {
    let mut hash = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hash))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hash.finalize().to_vec())
}

/// As people write it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Tables;
    use crate::verdict::Expectation;

    #[test]
    fn a_change_of_any_part_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        let tables = Tables::built_in().unwrap();
        let expect = Expectation::default();
        let (xen, guest) = (dir.path().join("xen"), dir.path().join("guest"));
        let emulated = tables.machine("qemu-npt").unwrap();
        let mut fake = emulated.clone();
        let digest = |machine, words: &str| {
            let request = Request {
                name: "one",
                guest: guest.to_str().unwrap(),
                machine,
                memory_mib: None,
                xen: Xen::File(xen.clone()),
                words: words.to_owned(),
                limit: Duration::from_secs(1),
                expect: &expect,
            };
            Passed::load(&place).digest(&place, &request)
        };

        fs::write(&xen, "x").unwrap();
        fs::write(&guest, "g").unwrap();
        let first = digest(emulated, "").unwrap();
        assert_eq!(first, digest(emulated, "").unwrap());
        assert_ne!(first, digest(emulated, "coalesce=off").unwrap());
        fs::write(&xen, "y").unwrap();
        let second = digest(emulated, "").unwrap();
        assert_ne!(first, second);
        fs::write(&guest, "h").unwrap();
        assert_ne!(second, digest(emulated, "").unwrap());
        fake.emulator = "abacus".to_owned();
        assert!(digest(&fake, "").is_err());
    }

    #[test]
    fn only_the_same_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        let counts = BTreeMap::from([("pages".to_owned(), 512)]);
        let mut passed = Passed::load(&place);
        assert_eq!(passed.find("one@a@debug", "d"), None);
        passed.add(
            "one@a@debug",
            "d".to_owned(),
            Duration::from_secs(7),
            &counts,
        );

        let again = Passed::load(&place);
        let pass = again.find("one@a@debug", "d").unwrap();
        assert_eq!((pass.wall.as_secs(), &pass.counts), (7, &counts));
        assert_eq!(again.find("one@a@debug", "e"), None);
        assert_eq!(again.find("one@a@release", "d"), None);
    }
}
