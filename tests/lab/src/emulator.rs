// SPDX-License-Identifier: GPL-2.0-only
//! How to start a machine. Another emulator is one more [`Emulator`] and a line in [`by_name`].

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ram::{Layout, Ram};
use crate::tables::{Machine, RamFrom};

/// What a machine is to boot.
#[derive(Debug)]
pub struct Boot<'a> {
    pub machine: &'a Machine,
    /// The hypervisor, an ELF file.
    pub xen: &'a Path,
    pub guest: &'a Path,
    pub command_line: &'a str,
    /// Where large files may go.
    pub scratch: &'a Path,
}

/// A machine ready to start. Its serial console is the standard output.
#[derive(Debug)]
pub struct Launch {
    pub command: Command,
    pub inherited: Vec<OwnedFd>,
    /// The machine's memory, if it can be read.
    pub ram: Option<Ram>,
}

/// A kind of emulator.
pub trait Emulator: Sync {
    fn launch(&self, boot: &Boot<'_>) -> Result<Launch>;
}

/// The emulator that a machine names.
pub fn by_name(name: &str) -> Result<&'static dyn Emulator> {
    match name {
        "qemu" => Ok(&Qemu),
        _ => bail!("there is no emulator {name}: there is qemu"),
    }
}

/// QEMU, all in software: it emulates SVM with nested paging, but not VMX.
#[derive(Clone, Copy, Debug)]
pub struct Qemu;

impl Emulator for Qemu {
    fn launch(&self, boot: &Boot<'_>) -> Result<Launch> {
        let machine = boot.machine;
        let size = machine.memory_mib << 20;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio", "-accel", "tcg"])
            .args(["-smp", &machine.cpus.to_string()])
            .args(["-m", &format!("{}M", machine.memory_mib)]);

        let mut inherited = vec![];
        let ram = match machine.ram {
            RamFrom::Emulator => {
                command.args(["-machine", &machine.board]);
                None
            }
            RamFrom::File => {
                let ram = Ram::new(qemu_layout(&machine.board, size)?, boot.scratch)?;
                let (fd, path) = ram.share()?;
                inherited.push(fd);
                command
                    .arg("-machine")
                    .arg(format!("{},memory-backend=ram", machine.board))
                    .arg("-object")
                    .arg(format!(
                        "memory-backend-file,id=ram,size={size},mem-path={path},share=on"
                    ));
                Some(ram)
            }
        };

        command
            .args(&machine.arguments)
            .arg("-kernel")
            .arg(boot.xen)
            .arg("-initrd")
            .arg(module(boot.guest)?)
            .args(["-append", boot.command_line]);

        Ok(Launch {
            command,
            inherited,
            ram,
        })
    }
}

/// A comma separates modules, and two commas are one in a name.
fn module(guest: &Path) -> Result<OsString> {
    let name = guest
        .to_str()
        .with_context(|| format!("{}: not a name that QEMU takes", guest.display()))?;
    Ok(name.replace(',', ",,").into())
}

/// Where QEMU's boards put memory below 4 GiB (pc_init1() and pc_q35_init() in QEMU).
fn qemu_layout(board: &str, size: u64) -> Result<Layout> {
    let low = match board.split(',').next().unwrap_or_default() {
        "pc" if size >= 0xe000_0000 => 0xc000_0000,
        "pc" => 0xe000_0000,
        "q35" if size >= 0xb000_0000 => 0x8000_0000,
        "q35" => 0xb000_0000,
        other => bail!("where does QEMU's board {other} have its memory? Say so in qemu_layout()"),
    };
    Ok(Layout { size, low })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Tables;

    #[test]
    fn the_command_of_each_machine() {
        let scratch = tempfile::tempdir().unwrap();
        let mut all = String::new();
        for machine in Tables::built_in().unwrap().machines {
            let launch = by_name(&machine.emulator)
                .unwrap()
                .launch(&Boot {
                    machine: &machine,
                    xen: Path::new("/out/xen.elf"),
                    guest: Path::new("/out/guest,one"),
                    command_line: "console=com1",
                    scratch: scratch.path(),
                })
                .unwrap();
            let words: Vec<_> = std::iter::once(launch.command.get_program())
                .chain(launch.command.get_args())
                .map(|word| word.to_string_lossy().into_owned())
                .collect();
            all += &format!("{}: {}\n", machine.name, words.join(" "));
        }
        // The number of the memory file's descriptor depends on what else is open.
        let all = regex::Regex::new(r"fd/\d+")
            .unwrap()
            .replace_all(&all, "fd/N")
            .into_owned();
        insta::assert_snapshot!(all);
    }
}
