// SPDX-License-Identifier: GPL-2.0-only
//! Where things are: the hypervisors, the guests, the logs.

use std::env;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use nix::fcntl::{Flock, FlockArg};

/// The folder of everything that was built.
#[derive(Clone, Debug)]
pub struct Place {
    out: PathBuf,
}

impl Place {
    /// Takes the folder given, or looks for the project from the current folder upwards, then from
    /// this program's own place upwards.
    pub fn find(out: Option<PathBuf>) -> Result<Place> {
        if let Some(out) = out {
            let out =
                fs::canonicalize(&out).with_context(|| format!("cannot open {}", out.display()))?;
            ensure!(out.is_dir(), "{} is no folder", out.display());
            return Ok(Place { out });
        }

        let starts = [env::current_dir(), env::current_exe()];
        let root = starts
            .iter()
            .flatten()
            .flat_map(|start| start.ancestors())
            .find(|dir| dir.join("build.mk").is_file())
            .context("cannot find the project: go into it, or name its output with --out DIR")?;
        Ok(Place {
            out: root.join("out"),
        })
    }

    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The program of which callgrind counts what operations of the core take.
    pub fn core_cost(&self) -> Result<PathBuf> {
        let path = env::current_exe()?.with_file_name("core-cost");
        ensure!(
            path.is_file(),
            "{} is not there: build it with `make -f build.mk lab-program`",
            path.display()
        );
        Ok(path)
    }

    /// The hypervisor of a flavour, as an ELF file.
    pub fn xen(&self, flavour: &str) -> Result<PathBuf> {
        let packed = self.out.join(flavour).join("xen.gz");
        let target = if flavour.starts_with("stock") {
            "stock"
        } else {
            "xen"
        };
        ensure!(
            packed.is_file(),
            "{} is not there: build it with `make -f build.mk {target}`",
            packed.display()
        );
        unpacked(&packed, &packed.with_file_name("xen.elf"))
    }

    /// A hypervisor from anywhere, packed or not, as an ELF file.
    pub fn foreign_xen(&self, path: &Path) -> Result<PathBuf> {
        let path =
            fs::canonicalize(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut magic = [0; 4];
        File::open(&path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .with_context(|| format!("cannot read {}", path.display()))?;
        match magic {
            [0x7f, b'E', b'L', b'F'] => Ok(path),
            [0x1f, 0x8b, ..] => {
                // Not beside it: that may be /boot.
                let name = path.to_string_lossy().replace('/', "_");
                let dir = self.out.join("cache/lab");
                fs::create_dir_all(&dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
                unpacked(&path, &dir.join(format!("{name}.elf")))
            }
            _ => bail!("{} is neither an ELF file nor gzip", path.display()),
        }
    }

    /// A guest by its name (one for HVM, unless that begins with `pv64-`), or by its path if it has
    /// a slash.
    pub fn guest(&self, name: &str) -> Result<PathBuf> {
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            let environment = if name.starts_with("pv64-") {
                ""
            } else {
                "hvm64-"
            };
            self.out
                .join("xtf")
                .join(format!("test-{environment}{name}"))
        };
        ensure!(
            path.is_file(),
            "{} is not there: build the test guests with `make -f build.mk guests`",
            path.display()
        );
        fs::canonicalize(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// An empty folder for the logs of a run; it stays this run's until it is dropped. The same
    /// run of next time takes its place; one at the same time gets another.
    pub fn logs(&self, run: &str) -> Result<Logs> {
        let logs = self.out.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;

        for n in 1..100 {
            let name = if n == 1 {
                run.to_owned()
            } else {
                format!("{run}.{n}")
            };
            let dir = logs.join(name);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let lock = File::create(dir.join(".lock"))?;
            let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            for old in fs::read_dir(&dir)?.flatten() {
                if old.file_type()?.is_dir() {
                    fs::remove_dir_all(old.path())?;
                } else if old.file_name() != ".lock" {
                    fs::remove_file(old.path())?;
                }
            }
            return Ok(Logs { dir, _lock: lock });
        }
        bail!("too many runs of {run} at once")
    }
}

/// The folder of one run's logs.
#[derive(Debug)]
pub struct Logs {
    pub dir: PathBuf,
    _lock: Flock<File>,
}

/// Unpacks a gzip file, unless that was done before.
fn unpacked(packed: &Path, unpacked: &Path) -> Result<PathBuf> {
    let made = fs::metadata(packed)?.modified()?;
    // The copy carries the time of its original: a newer *or older* original replaces it.
    if fs::metadata(unpacked).is_ok_and(|copy| copy.modified().is_ok_and(|time| time == made)) {
        return Ok(unpacked.to_owned());
    }

    let context = || format!("cannot unpack {}", packed.display());
    let mut reader = GzDecoder::new(File::open(packed).with_context(context)?);
    let dir = unpacked.parent().unwrap_or(Path::new("."));
    // Another run may want the same file at the same time: it must never see half of it.
    let mut copy = tempfile::Builder::new()
        .prefix(".xen.elf.")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(context)?;
    io::copy(&mut reader, &mut copy).with_context(context)?;
    copy.flush().with_context(context)?;
    copy.as_file().set_modified(made).with_context(context)?;
    copy.persist(unpacked).with_context(context)?;
    Ok(unpacked.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::time::{Duration, SystemTime};

    fn pack(path: &Path, content: &[u8], made: SystemTime) {
        let file = File::create(path).unwrap();
        let mut packer = GzEncoder::new(file, Compression::fast());
        packer.write_all(content).unwrap();
        packer.finish().unwrap().set_modified(made).unwrap();
    }

    #[test]
    fn a_replaced_hypervisor_is_unpacked_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        let error = place.xen("release").unwrap_err().to_string();
        assert!(error.contains("release/xen.gz is not there"), "{error}");

        let flavour = dir.path().join("release");
        fs::create_dir(&flavour).unwrap();
        let now = SystemTime::now();
        for (content, made) in [
            ("one", now),
            ("two", now + Duration::from_secs(9)),
            ("three", now - Duration::from_secs(9)),
        ] {
            pack(&flavour.join("xen.gz"), content.as_bytes(), made);
            let elf = place.xen("release").unwrap();
            assert_eq!(fs::read_to_string(&elf).unwrap(), content);
        }
        assert_eq!(
            fs::read_dir(&flavour).unwrap().count(),
            2,
            "a file is left behind"
        );
    }

    #[test]
    fn a_damaged_hypervisor_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        fs::create_dir(dir.path().join("debug")).unwrap();
        fs::write(dir.path().join("debug/xen.gz"), b"\x1f\x8b no").unwrap();
        assert!(place.xen("debug").is_err());
        assert!(!dir.path().join("debug/xen.elf").exists());

        let odd = dir.path().join("odd");
        fs::write(&odd, "#!/bin/sh").unwrap();
        let error = place.foreign_xen(&odd).unwrap_err().to_string();
        assert!(error.contains("neither an ELF file nor gzip"), "{error}");
    }

    #[test]
    fn two_runs_at_once_do_not_share_logs() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        let first = place.logs("run").unwrap();
        let second = place.logs("run").unwrap();
        assert_ne!(first.dir, second.dir);
        fs::create_dir(first.dir.join("old")).unwrap();
        fs::write(first.dir.join("old/older"), "x").unwrap();
        drop(first);
        let again = place.logs("run").unwrap();
        assert!(again.dir.ends_with("run"));
        assert!(!again.dir.join("old").exists());
    }
}
