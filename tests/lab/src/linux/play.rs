// SPDX-License-Identifier: GPL-2.0-only
//! One run of a scenario: makes the images, boots, looks when the script asks for it, judges.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use sha2::{Digest, Sha256};
use xen_coalesce::trace::format::Trace;
use xen_coalesce::words::Clock;

use super::image::Image;
use super::judge::{Look, Story, Verdict};
use super::link::{Channel, Monitor};
use super::table::{Machine, Scenario, source};
use super::walk::{Walk, walk};
use crate::console::Line;
use crate::demo::page_of;
use crate::emulator::{by_name, qemu_layout};
use crate::passed::{hex, sha256};
use crate::place::Place;
use crate::ram::Ram;
use crate::run::{self, Job, Outcome};

/// What every Xen gets on its command line. `bootscrub=on`: see `tables::XEN_COMMAND_LINE`.
const XEN_WORDS: &str = "console=com1 noreboot loglvl=all guest_loglvl=warning bootscrub=on";

/// And every control domain.
const DOM0_WORDS: &str = "console=hvc0 earlyprintk=xen nokaslr loglevel=4 cryptomgr.notests mitigations=off \
                          init_on_alloc=0 apparmor=0 audit=0 rdinit=/init";

/// Modules of the control domain and of guests: see scripts/fetch-linux.sh and scripts/guest-module.sh.
const DOM0_MODULES: &[&str] = &[
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "loop",
    "xen-blkback",
    "xen-netback",
];
const GUEST_MODULES: &[&str] = &[
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-blkfront",
    "xen-netfront",
    "balloon-compact",
];
/// Programs of the toolstack.
const DOM0_PROGRAMS: &[&str] = &[
    "usr/lib/xen-4.20/bin/xl",
    "usr/lib/xen-4.20/bin/libxl-save-helper",
    "usr/lib/xen-4.20/bin/xen-init-dom0",
    "usr/lib/xen-4.20/bin/xenconsoled",
    "usr/lib/xen-4.20/bin/xenctx",
    "usr/lib/xen-4.20/bin/xenstored",
    "usr/lib/xen-4.20/bin/xentrace",
    VCHAN,
];
/// The other end of a channel; in guests too.
const VCHAN: &str = "usr/lib/xen-4.20/bin/vchan-socket-proxy";
/// Test guests that scenarios can start.
const TESTS: &[&str] = &["coalesce-exchange", "coalesce-heal"];
const XENSTORE: &[&str] = &["exists", "read", "write", "rm", "ls", "watch", "chmod"];

/// What to run.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub scenario: &'a Scenario,
    pub machine: &'a Machine,
    pub flavour: &'a str,
    pub long: bool,
    pub seed: u64,
    /// Variables of the script, besides those of the table.
    pub variables: Vec<(String, String)>,
    /// Words for Xen's command line.
    pub words: Vec<String>,
    pub limit: Option<Duration>,
}

impl Request<'_> {
    pub fn title(&self) -> String {
        format!(
            "linux-{}@{}@{}",
            self.scenario.name, self.machine.name, self.flavour
        )
    }

    /// A Xen with the series.
    pub fn ours(&self) -> bool {
        !self.flavour.starts_with("stock")
    }

    fn variables(&self) -> BTreeMap<&str, String> {
        let table = if self.long {
            &self.scenario.long
        } else {
            &self.scenario.short
        };
        let mut all: BTreeMap<&str, String> = table
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        let flag = |yes: bool| u8::from(yes).to_string();
        all.insert("SCENARIO", self.scenario.name.clone());
        all.insert("SEED", self.seed.to_string());
        all.insert("LONG", flag(self.long));
        all.insert("OURS", flag(self.ours()));
        all.insert("CPUS", self.machine.cpus.to_string());
        for (name, value) in &self.variables {
            all.insert(name, value.clone());
        }
        all
    }

    fn dom0_words(&self) -> String {
        let mut words = DOM0_WORDS.to_owned();
        for (name, value) in self.variables() {
            words += &format!(" {name}={value}");
        }
        words
    }

    fn xen_words(&self) -> String {
        let dom0 = self.machine.dom0_mib;
        let dom0 = format!("dom0_mem={dom0}M,max:{dom0}M");
        // An unpatched Xen has no use for coalesce=, and says so.
        let own = if self.ours() { &self.scenario.xen } else { "" };
        [XEN_WORDS, &dom0, &self.machine.xen, own]
            .into_iter()
            .chain(self.words.iter().map(String::as_str))
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub story: Story,
    pub verdict: Verdict,
    pub wall: Duration,
    pub logs: PathBuf,
    pub last_lines: Vec<String>,
    /// The trace's page for a browser.
    pub page: Option<PathBuf>,
}

/// What Debian's packages gave (scripts/fetch-linux.sh).
#[derive(Debug)]
struct Parts {
    dir: PathBuf,
}

impl Parts {
    fn find(place: &Place) -> Result<Parts> {
        let dir = place.out().join("linux");
        ensure!(
            dir.join("unpacked").is_file(),
            "{} is not there: fetch it with `make -f build.mk linux`",
            dir.display()
        );
        Ok(Parts { dir })
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn base(&self, modules: &[&str], inside: &Path) -> Result<Image> {
        let root = self.root();
        let mut image = Image::default();
        for dir in [
            "proc", "sys", "dev", "tmp", "run", "sbin", "usr/bin", "usr/sbin",
        ] {
            image.dir(dir);
        }
        image.program("bin/busybox", &root.join("usr/bin/busybox"), &root)?;
        image.program("usr/bin/inside", inside, &root)?;
        for module in modules {
            let name = format!("modules/{module}.ko");
            let content = fs::read(self.dir.join(&name)).with_context(|| name.clone())?;
            image.file(&name, content);
        }
        // One program, and it goes by its name.
        image.program("usr/bin/xenstore", &root.join("usr/bin/xenstore"), &root)?;
        for name in XENSTORE {
            image.link(&format!("usr/bin/xenstore-{name}"), "xenstore");
        }
        Ok(image)
    }

    fn guest(&self, inside: &Path) -> Result<Image> {
        let root = self.root();
        let mut image = self.base(GUEST_MODULES, inside)?;
        image.program("usr/bin/vchan-socket-proxy", &root.join(VCHAN), &root)?;
        image.script("init", &text("guest-init")?);
        image.file("lab/guest.sh", text("guest.sh")?);
        Ok(image)
    }

    fn dom0(
        &self,
        place: &Place,
        inside: &Path,
        guest: Vec<u8>,
        scenario: &Scenario,
    ) -> Result<Image> {
        let root = self.root();
        let mut image = self.base(DOM0_MODULES, inside)?;
        for program in DOM0_PROGRAMS {
            image.program(program, &root.join(program), &root)?;
        }
        image.program(
            "usr/lib/passthrough.so",
            &beside("libpassthrough.so")?,
            &root,
        )?;
        image.script("init", &text("dom0-init")?);
        image.file("lab/lib.sh", text("lib.sh")?);
        image.script("etc/xen/scripts/vif-lab", &text("vif-lab")?);
        image.script("etc/xen/scripts/block", &text("block-lab")?);
        let script = fs::read_to_string(&scenario.script)
            .with_context(|| format!("cannot read {}", scenario.script.display()))?;
        image.file("lab/scenario", script);
        image.file("boot/vmlinux", fs::read(self.dir.join("vmlinux"))?);
        image.file("boot/guest.img", guest);
        for test in TESTS {
            let name = format!("test-hvm64-{test}");
            image.file(&format!("boot/xtf/{name}"), fs::read(place.guest(test)?)?);
        }
        Ok(image)
    }
}

fn text(name: &str) -> Result<String> {
    let path = source().join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// What goes inside and is built with this program.
fn beside(name: &str) -> Result<PathBuf> {
    let mut path = std::env::current_exe().context("where is this program?")?;
    path.set_file_name(name);
    ensure!(
        path.is_file(),
        "{} is not there: build it with `make -f build.mk lab-program`",
        path.display()
    );
    Ok(path)
}

/// Where a function of Xen starts.
fn symbol(map: &Path, name: &str) -> Result<u64> {
    let text = fs::read_to_string(map).with_context(|| format!("cannot read {}", map.display()))?;
    let line = text
        .lines()
        .find(|line| line.ends_with(&format!(" T {name}")) || line.ends_with(&format!(" t {name}")))
        .with_context(|| format!("no symbol {name} in {}", map.display()))?;
    let address = line.split_whitespace().next().unwrap_or_default();
    let address = address.trim_start_matches("0x");
    u64::from_str_radix(address, 16).with_context(|| format!("{line}: no address"))
}

/// What a run is made of.
#[derive(Debug)]
pub struct Prepared {
    parts: Parts,
    xen: PathBuf,
    dom0: Vec<u8>,
    /// Stands for everything that decides how a run ends, as in [`crate::passed`].
    pub digest: String,
    /// The same of Xen alone, which may be built anew meanwhile.
    pub xen_digest: String,
}

/// Puts together what a run is made of.
pub fn prepare(place: &Place, request: &Request<'_>) -> Result<Prepared> {
    let parts = Parts::find(place)?;
    let xen = place.xen(request.flavour)?;
    let inside = beside("inside")?;
    let guest = parts.guest(&inside)?.pack()?;
    let dom0 = parts
        .dom0(place, &inside, guest, request.scenario)?
        .pack()?;

    let mut digest = Sha256::new();
    let machine = format!("{:?}", request.machine);
    for word in [
        request.title(),
        machine,
        request.xen_words(),
        request.dom0_words(),
    ] {
        digest.update(word);
        digest.update([0]);
    }
    digest.update(Sha256::digest(&dom0));
    let xen_digest = sha256(&xen)?;
    digest.update(&xen_digest);
    let mut files = vec![
        std::env::current_exe().context("where is this program?")?,
        parts.dir.join("vmlinux"),
    ];
    files.extend(by_name("qemu")?.files()?);
    for file in files {
        digest.update(sha256(&file)?);
    }
    Ok(Prepared {
        parts,
        xen,
        dom0,
        digest: hex(&digest.finalize()),
        xen_digest: hex(&xen_digest),
    })
}

/// Runs a scenario. An error is something that kept it from being run at all.
pub fn play(
    place: &Place,
    request: &Request<'_>,
    prepared: Prepared,
    on_line: &mut dyn FnMut(&Line),
) -> Result<Report> {
    let machine = request.machine;
    let Prepared {
        parts, xen, dom0, ..
    } = prepared;
    let logs = place.logs(&request.title())?;
    let file = |name: &str| logs.dir.join(name);
    let image = file("dom0.img");
    fs::write(&image, dom0).with_context(|| format!("cannot write {}", image.display()))?;

    // steal_page() is what the exchange of a PV domain's memory goes through. QEMU writes a line
    // for each time that it is entered.
    let steal_page = symbol(&xen.with_file_name("xen-syms.map"), "steal_page")?;
    let steals = file("steal_page.log");

    let size = machine.memory_mib << 20;
    let layout = qemu_layout(&machine.board, size)?;
    let ram = Ram::new(layout, &place.out().join("cache/lab"))?;
    let (ram_fd, ram_path) = ram.share()?;
    let (monitor, monitor_fd, monitor_words) = Monitor::new()?;
    let (control, control_fd, control_words) = Channel::new("control")?;

    let modules = format!(
        "{} {},{}",
        module_name(&parts.dir.join("vmlinux")),
        request.dom0_words().replace(',', ",,"),
        module_name(&image)
    );
    let results = file("results.tar");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-accel", "tcg"])
        .arg("-machine")
        .arg(format!("{},memory-backend=ram", machine.board))
        .args(["-cpu", &machine.cpu])
        .args(["-smp", &machine.cpus.to_string()])
        .args(["-m", &format!("{}M", machine.memory_mib)])
        .arg("-object")
        .arg(format!(
            "memory-backend-file,id=ram,size={size},mem-path={ram_path},share=on"
        ))
        .args(&machine.arguments)
        .arg("-kernel")
        .arg(&xen)
        .args(["-append", &request.xen_words()])
        .args(["-initrd", &modules])
        .args(["-device", "virtio-serial-pci,ioeventfd=off"])
        .arg("-chardev")
        .arg(format!("file,id=out,path={}", module_name(&results)))
        .args(["-device", "virtserialport,chardev=out,name=out"])
        .args(control_words)
        .args(monitor_words)
        .args(["-d", "exec", "-dfilter", &format!("{steal_page:#x}+1")])
        .arg("-D")
        .arg(&steals);

    let limit = request
        .limit
        .unwrap_or(request.scenario.limit(request.long));
    let monitor = Arc::new(Mutex::new(monitor));
    let control = Arc::new(Mutex::new(control));
    let watchdog = Watchdog {
        limit,
        file: file("registers.txt"),
        monitor: Arc::clone(&monitor),
        control: Arc::clone(&control),
    }
    .start();
    let mut watcher = Watcher {
        ram: &ram,
        monitor,
        control,
        domain: None,
        roots: BTreeMap::new(),
        looks: vec![],
        faults: vec![],
    };
    let outcome = run::run(
        Job {
            command,
            logs: logs.dir.clone(),
            limit,
            inherited: vec![ram_fd, monitor_fd, control_fd],
            console: None,
        },
        &mut |line| {
            watcher.take(line);
            on_line(line);
        },
    )?;
    watchdog.end();
    fs::remove_file(&image)?;

    let Watcher { looks, faults, .. } = watcher;
    let mut story = Story::new(&outcome.lines, looks, outcome.wall);
    story.faults.extend(faults);
    story.exchanges = entered(&steals, steal_page);
    // QEMU notes other things too, by the hundred megabytes.
    let _ = fs::remove_file(&steals);
    match unpack(&results, &file("results")) {
        Ok(()) => story.take_results(&file("results")),
        Err(error) => story.faults.push(format!("no results came out: {error:#}")),
    }
    let page = page(&file("results"), &story)?;
    let verdict = Verdict::new(&story, &outcome.end, request)?;
    let Outcome { lines, wall, .. } = outcome;
    Ok(Report {
        story,
        verdict,
        wall,
        logs: logs.dir.clone(),
        last_lines: crate::lab::last_lines(&lines),
        page,
    })
}

fn page(results: &Path, story: &Story) -> Result<Option<PathBuf>> {
    let trace = results.join("trace.bin");
    if story.trace.is_none() {
        return Ok(None);
    }
    let clock = Clock {
        tsc_mhz: story.facts.tsc_mhz,
    };
    page_of(&trace, &fs::read(&trace)?, clock).map(Some)
}

/// A comma separates words of QEMU, and two commas are one in a name.
fn module_name(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// How often QEMU says that the code at an address was entered. The log has other lines too:
/// `Trace 0: 0x7f… [cs_base/pc/flags/cflags] symbol` is what counts.
fn entered(log: &Path, pc: u64) -> usize {
    let word = format!("/{pc:016x}/");
    let text = fs::read(log).unwrap_or_default();
    text.split(|&byte| byte == b'\n')
        .filter(|line| line.starts_with(b"Trace "))
        .filter(|line| line.windows(word.len()).any(|part| part == word.as_bytes()))
        .count()
}

fn unpack(tar: &Path, dir: &Path) -> Result<()> {
    let file = File::open(tar).with_context(|| format!("cannot open {}", tar.display()))?;
    tar::Archive::new(file)
        .unpack(dir)
        .with_context(|| format!("cannot unpack {}", tar.display()))?;
    fs::remove_file(tar)?;
    Ok(())
}

/// A trace that came out with the results.
pub fn trace_of(results: &Path) -> Result<Option<Trace>> {
    let path = results.join("trace.bin");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(&path)?;
    Trace::parse(&bytes)
        .map(Some)
        .with_context(|| path.display().to_string())
}

static DOMAIN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^>>> Domain (\d+) <<<$").expect("a constant"));
static ROOT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^H_CR3 = 0x([0-9a-f]+) ").expect("a constant"));
static LOOK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^@look (\S+) (\d+)$").expect("a constant"));

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long before its end a run that does not come to one is looked at.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// How often the machine gets an interrupt.
const BEAT: Duration = Duration::from_secs(1);

/// Looks after a run that gives no sign of life.
///
/// QEMU 7.2 loses an interrupt now and then, the more often the busier its host is: where SVM's
/// interception ends or begins a guest it clears one bit of `interrupt_request` without its lock, and with it
/// what the thread that has the timers sets at that moment. The processor then halts, or goes on with the guest
/// that it is at, with the interrupt of its timer pending in its APIC, until any other comes. An empty
/// line on the control channel is one.
struct Watchdog {
    limit: Duration,
    /// Where the processors are, when a run is about to be ended for its time.
    file: PathBuf,
    monitor: Arc<Mutex<Monitor>>,
    control: Arc<Mutex<Channel>>,
}

impl Watchdog {
    fn start(self) -> Watching {
        let (end, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || self.watch(&ended));
        Watching { end, thread }
    }

    fn watch(&self, ended: &mpsc::Receiver<()>) {
        // Only silence means that the run goes on.
        let goes_on = |wait| ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
        let start = Instant::now();
        while start.elapsed() < self.limit.saturating_sub(LAST_LOOK) {
            if !goes_on(BEAT) {
                return;
            }
            // Who does not listen is not helped.
            let _ = lock(&self.control).say("");
        }
        let mut text = String::new();
        for _ in 0..5 {
            match lock(&self.monitor).registers() {
                Ok(registers) => text += &format!("{registers}\n"),
                Err(error) => text += &format!("{error:#}\n"),
            }
            // What cannot be written is not missed more than the run is.
            let _ = fs::write(&self.file, &text);
            if !goes_on(LAST_LOOK / 10) {
                break;
            }
        }
    }
}

/// A watchdog at work.
struct Watching {
    end: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watching {
    fn end(self) {
        drop(self.end);
        // It panicked, if anything: then there are no registers to read.
        let _ = self.thread.join();
    }
}

/// Follows the console, and looks into the machine when it is asked to.
struct Watcher<'a> {
    ram: &'a Ram,
    monitor: Arc<Mutex<Monitor>>,
    control: Arc<Mutex<Channel>>,
    /// The domain of which Xen is printing the VMCBs.
    domain: Option<u16>,
    /// Where each domain's nested page table is.
    roots: BTreeMap<u16, u64>,
    looks: Vec<Look>,
    faults: Vec<String>,
}

impl Watcher<'_> {
    fn take(&mut self, line: &Line) {
        if line.from_xen() {
            if let Some(found) = DOMAIN.captures(&line.text) {
                self.domain = found[1].parse().ok();
            } else if let Some(found) = ROOT.captures(&line.text) {
                let root = u64::from_str_radix(&found[1], 16).ok();
                if let (Some(domain), Some(root)) = (self.domain, root) {
                    self.roots.insert(domain, root);
                }
            }
        } else if let Some(found) = LOOK.captures(&line.text) {
            let tag = &found[1];
            let answer = match self.look(tag, &found[2], line.at) {
                Ok(()) => "ok",
                Err(error) => {
                    self.faults.push(format!("look {tag}: {error:#}"));
                    "error"
                }
            };
            let said = lock(&self.control).say(answer);
            if let Err(error) = said {
                self.faults.push(format!("look {tag}: {error:#}"));
            }
        }
    }

    fn look(&mut self, tag: &str, domain: &str, at: Duration) -> Result<()> {
        let domid: u16 = domain.parse().context("no domain")?;
        let root = *self
            .roots
            .get(&domid)
            .context("Xen has not printed where the domain's page table is")?;
        let ram = self.ram;
        let mut monitor = lock(&self.monitor);
        let walk: Walk = monitor.while_stopped(|| walk(ram, root))?;
        self.looks.push(Look {
            tag: tag.to_owned(),
            domid,
            at,
            walk,
            counters: None,
            audited: None,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_the_function_count() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let lines = "Trace 0: 0x7f12 [00000000/ffff82d0403179d0/0040b0b3/ff000200] \n\
                     Trace 0: 0x7f34 [00000000/ffff82d0403179d8/0040b0b3/ff000200] \n\
                     cpu_io_recompile: rewound execution of TB to ffff82d0403179d0\n\
                     Trace 0: 0x7f12 [00000000/ffff82d0403179d0/0040b0b3/ff000200] \n";
        fs::write(&log, lines).unwrap();
        assert_eq!(entered(&log, 0xffff_82d0_4031_79d0), 2);
        assert_eq!(entered(&log, 0xffff_82d0_4031_79d1), 0);
        assert_eq!(entered(&dir.path().join("none"), 1), 0);
    }

    #[test]
    fn a_symbol_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let map = dir.path().join("map");
        fs::write(
            &map,
            "0xffff82d040200000 T start\n0xffff82d040212345 T steal_page\n",
        )
        .unwrap();
        assert_eq!(symbol(&map, "steal_page").unwrap(), 0xffff_82d0_4021_2345);
        assert!(symbol(&map, "steal").is_err());
    }
}
