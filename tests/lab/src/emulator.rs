// SPDX-License-Identifier: GPL-2.0-only
//! How to start a machine. Another emulator is one more [`Emulator`] and a line in [`by_name`].

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tempfile::TempDir;

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
    /// The folder of this run; the next one empties it.
    pub logs: &'a Path,
}

/// A machine ready to start.
#[derive(Debug)]
pub struct Launch {
    pub command: Command,
    /// Files that the emulator inherits, under the same number.
    pub inherited: Vec<OwnedFd>,
    /// Where the serial console can be read, if it is not the standard output.
    pub console: Option<OwnedFd>,
    /// The machine's memory, if it can be read.
    pub ram: Option<Ram>,
    /// Files that must stay until the emulator has ended.
    pub files: Option<TempDir>,
}

/// A kind of emulator.
pub trait Emulator: Sync {
    fn launch(&self, boot: &Boot<'_>) -> Result<Launch>;

    /// What of the system decides how a run ends: programs and firmware.
    fn files(&self) -> Result<Vec<PathBuf>>;
}

/// Where the shell would find a program.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not there: `make -f build.mk deps` installs it"))
}

/// The emulator that a machine names.
pub fn by_name(name: &str) -> Result<&'static dyn Emulator> {
    match name {
        "qemu" => Ok(&Qemu),
        "bochs" => Ok(&Bochs),
        _ => bail!("there is no emulator {name}: there are qemu, bochs"),
    }
}

/// QEMU, all in software: it emulates SVM with nested paging, but not VMX.
#[derive(Clone, Copy, Debug)]
pub struct Qemu;

const QEMU: &str = "qemu-system-x86_64";

impl Emulator for Qemu {
    fn launch(&self, boot: &Boot<'_>) -> Result<Launch> {
        let machine = boot.machine;
        let size = machine.memory_mib << 20;
        let mut command = Command::new(QEMU);
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
            console: None,
            ram,
            files: None,
        })
    }

    /// The firmware comes with the program, in the same version.
    fn files(&self) -> Result<Vec<PathBuf>> {
        Ok(vec![program(QEMU)?])
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
pub fn qemu_layout(board: &str, size: u64) -> Result<Layout> {
    let low = match board.split(',').next().unwrap_or_default() {
        "pc" if size >= 0xe000_0000 => 0xc000_0000,
        "pc" => 0xe000_0000,
        "q35" if size >= 0xb000_0000 => 0x8000_0000,
        "q35" => 0xb000_0000,
        other => bail!("where does QEMU's board {other} have its memory? Say so in qemu_layout()"),
    };
    Ok(Layout { size, low })
}

/// Bochs: it emulates both VMX with EPT and SVM with nested paging. The board is the name of the
/// processor; the arguments are further lines for its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Bochs;

const BOCHS: &str = "bochs";
const GRUB: &str = "grub-mkrescue";
const GRUB_MODULES: &str = "/usr/lib/grub/i386-pc";
const BOCHS_BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const BOCHS_VGABIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";

impl Emulator for Bochs {
    fn launch(&self, boot: &Boot<'_>) -> Result<Launch> {
        let machine = boot.machine;
        ensure!(
            machine.ram == RamFrom::Emulator,
            "the machine {} wants its memory in a file, which Bochs cannot do",
            machine.name
        );
        for (file, package) in [
            (GRUB_MODULES, "grub-pc-bin"),
            (BOCHS_BIOS, "bochsbios"),
            (BOCHS_VGABIOS, "bochsbios and vgabios"),
        ] {
            ensure!(
                Path::new(file).exists(),
                "{file} is not there: install {package}"
            );
        }

        let files = tempfile::Builder::new()
            .prefix("bochs.")
            .tempdir_in(boot.logs)
            .with_context(|| format!("cannot make a folder in {}", boot.logs.display()))?;
        make_cdrom(boot, files.path())?;

        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        let console = format!("/proc/self/fd/{}", writer.as_raw_fd());
        fs::write(files.path().join("bochsrc"), bochsrc(machine, &console))?;
        // Debian's Bochs has its debugger built in, which waits for a command.
        fs::write(files.path().join("commands"), "c\n")?;

        let mut command = Command::new(BOCHS);
        command
            .current_dir(files.path())
            .args(["-q", "-f", "bochsrc", "-rc", "commands"]);
        Ok(Launch {
            command,
            inherited: vec![writer],
            console: Some(reader),
            ram: None,
            files: Some(files),
        })
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let firmware = [BOCHS_BIOS, BOCHS_VGABIOS].map(PathBuf::from);
        let programs = [program(BOCHS)?, program(GRUB)?];
        Ok(firmware.into_iter().chain(programs).collect())
    }
}

fn bochsrc(machine: &Machine, console: &str) -> String {
    let mut lines = vec![
        // There is no display without a display; this one waits for nobody.
        "display_library: rfb, options=\"timeout=0\"".to_owned(),
        "config_interface: textconfig".to_owned(),
        "plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1, \
         iodebug=0, gameport=0"
            .to_owned(),
        format!("memory: guest={0}, host={0}", machine.memory_mib),
        format!("romimage: file={BOCHS_BIOS}"),
        format!("vgaromimage: file={BOCHS_VGABIOS}"),
        "boot: cdrom".to_owned(),
        "ata0-master: type=cdrom, path=cdrom.iso, status=inserted".to_owned(),
        "pci: enabled=1, chipset=i440fx".to_owned(),
        format!(
            "cpu: model={}, count={}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1",
            machine.board, machine.cpus
        ),
        // Time is counted in instructions, so that each run is the same.
        "clock: sync=none, time0=1700000000".to_owned(),
        format!("com1: enabled=1, mode=file, dev={console}"),
        "log: /dev/stderr".to_owned(),
        "debug: action=ignore".to_owned(),
        "info: action=ignore".to_owned(),
        "panic: action=fatal".to_owned(),
    ];
    lines.extend(machine.arguments.iter().cloned());
    lines.join("\n") + "\n"
}

/// A CD from which GRUB boots Xen. Multiboot 2 ends in a triple fault on Bochs.
fn make_cdrom(boot: &Boot<'_>, dir: &Path) -> Result<()> {
    let tree = dir.join("cdrom");
    fs::create_dir_all(tree.join("boot/grub"))?;
    for (from, to) in [(boot.xen, "xen"), (boot.guest, "guest")] {
        fs::copy(from, tree.join("boot").join(to))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::write(
        tree.join("boot/grub/grub.cfg"),
        format!(
            "multiboot /boot/xen {}\nmodule /boot/guest guest\nboot\n",
            boot.command_line
        ),
    )?;

    let output = Command::new(GRUB)
        .args(["-d", GRUB_MODULES, "-o"])
        .arg(dir.join("cdrom.iso"))
        .args(["--install-modules=multiboot normal iso9660 biosdisk"])
        .args(["--locales=", "--fonts=", "--themes="])
        .arg(&tree)
        .output()
        .context("cannot start grub-mkrescue: install grub-common, xorriso and mtools")?;
    ensure!(
        output.status.success(),
        "grub-mkrescue failed (are xorriso and mtools installed?): {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
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
            if machine.emulator == "bochs" {
                all += &format!("{}:\n{}", machine.name, bochsrc(&machine, "CONSOLE"));
                continue;
            }
            let launch = by_name(&machine.emulator)
                .unwrap()
                .launch(&Boot {
                    machine: &machine,
                    xen: Path::new("/out/xen.elf"),
                    guest: Path::new("/out/guest,one"),
                    command_line: "console=com1",
                    scratch: scratch.path(),
                    logs: scratch.path(),
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
