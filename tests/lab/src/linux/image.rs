// SPDX-License-Identifier: GPL-2.0-only
//! Initial file systems: programs with the libraries that they need, and scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cpio::{NewcBuilder, newc, write_cpio};
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{Dyn, FileHeader};

/// Where the programs' loader looks by itself (Debian's glibc on amd64).
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// A file system in the making. Paths have no slash at the start.
#[derive(Debug, Default)]
pub struct Image {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
    libraries: BTreeSet<String>,
}

impl Image {
    pub fn dir(&mut self, path: &str) {
        let mut end = 0;
        while let Some(slash) = path[end..].find('/') {
            self.entry(&path[..end + slash], DIRECTORY, vec![]);
            end += slash + 1;
        }
        if !path.is_empty() {
            self.entry(path, DIRECTORY, vec![]);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.entries.insert(path.to_owned(), (mode, content));
    }

    fn put(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.dir(dir);
        }
        self.entry(path, mode, content);
    }

    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.put(path, FILE, content.into());
    }

    pub fn script(&mut self, path: &str, content: &str) {
        self.put(path, PROGRAM, content.as_bytes().to_vec());
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, LINK, target.as_bytes().to_vec());
    }

    /// A program from anywhere, with all libraries that it needs from `root`.
    pub fn program(&mut self, path: &str, from: &Path, root: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let context = || from.display().to_string();
        let (needed, loader) = needed(&content).with_context(context)?;
        self.put(path, PROGRAM, content);
        if loader && self.libraries.insert(LOADER.to_owned()) {
            let file = find(root, "ld-linux-x86-64.so.2")?;
            self.put(LOADER, PROGRAM, fs::read(file)?);
        }
        for name in needed {
            self.library(&name, root).with_context(context)?;
        }
        Ok(())
    }

    fn library(&mut self, name: &str, root: &Path) -> Result<()> {
        // The loader is there already, and is a library too.
        if LOADER.ends_with(name) || !self.libraries.insert(name.to_owned()) {
            return Ok(());
        }
        self.program(&format!("{LIBRARIES}/{name}"), &find(root, name)?, root)
    }

    /// As the kernel wants it.
    pub fn pack(self) -> Result<Vec<u8>> {
        let inputs = (1u32..)
            .zip(self.entries)
            .map(|(ino, (path, (mode, data)))| {
                let builder = NewcBuilder::new(&path)
                    .ino(ino)
                    .mode(mode)
                    .nlink(1)
                    .set_mode_file_type(match mode & 0o170_000 {
                        0o040_000 => newc::ModeFileType::Directory,
                        0o120_000 => newc::ModeFileType::Symlink,
                        _ => newc::ModeFileType::Regular,
                    });
                (builder, Cursor::new(data))
            });
        let mut image = write_cpio(inputs, vec![]).context("cannot make an initial file system")?;
        image.flush()?;
        Ok(image)
    }
}

/// Where Debian's packages have their libraries.
fn find(root: &Path, name: &str) -> Result<PathBuf> {
    for dir in [
        "usr/lib/x86_64-linux-gnu",
        "usr/lib64",
        "usr/lib/xen-4.20/lib/x86_64-linux-gnu",
    ] {
        let file = root.join(dir).join(name);
        if file.exists() {
            return Ok(file);
        }
    }
    bail!(
        "no library {name} in {}: a package is missing",
        root.display()
    );
}

/// The libraries that a program names, and whether it needs the loader.
fn needed(content: &[u8]) -> Result<(Vec<String>, bool)> {
    let header = FileHeader64::<LittleEndian>::parse(content)?;
    let endian = header.endian()?;
    ensure!(
        header.e_machine(endian) == object::elf::EM_X86_64,
        "no x86-64 program"
    );
    let loader = header
        .program_headers(endian, content)?
        .iter()
        .any(|segment| segment.p_type.get(endian) == object::elf::PT_INTERP);
    let sections = header.sections(endian, content)?;
    let Some((entries, strings)) = sections.dynamic(endian, content)? else {
        return Ok((vec![], loader));
    };
    let strings = sections.strings(endian, content, strings)?;
    let mut names = vec![];
    for entry in entries {
        if entry.tag32(endian) == Some(object::elf::DT_NEEDED) {
            let name = entry.string(endian, strings)?;
            names.push(String::from_utf8(name.to_vec())?);
        }
    }
    Ok((names, loader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut image = Image::default();
        image.script("a/b/c", "#!/bin/sh\n");
        image.link("d", "a/b");
        let paths: Vec<&String> = image.entries.keys().collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "d"]);
        let packed = image.pack().unwrap();
        assert!(packed.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&packed);
        assert!(text.contains("TRAILER!!!") && text.contains("#!/bin/sh"));
    }

    #[test]
    fn the_libraries_of_this_program() {
        let myself = fs::read(std::env::current_exe().unwrap()).unwrap();
        let (names, loader) = needed(&myself).unwrap();
        assert!(loader && names.iter().any(|name| name.starts_with("libc.so")));
        assert!(needed(b"#!/bin/sh").is_err());
    }
}
