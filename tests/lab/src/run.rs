// SPDX-License-Identifier: GPL-2.0-only
//! Starts, watches and ends one emulator, whatever happens.
//!
//! An emulator never outlives its run: it is ended by its process handle when the run is over,
//! when its time is up and when an error unwinds; and the kernel ends it when this program dies
//! in the middle (PR_SET_PDEATHSIG).

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
use regex::Regex;

use crate::console::{Assembler, Line};

/// How long Xen may take to shut down once the guest has given its result.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);
/// How long Xen may take to say the rest once it has begun to panic.
const PANIC_LIMIT: Duration = Duration::from_secs(5);
/// After Xen's last message: another CPU may still have something to say.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long an emulator may take to exit by itself after it has closed its console.
const EXIT_LIMIT: Duration = Duration::from_secs(2);

/// A console longer than this is one that repeats itself without end.
const CONSOLE_LIMIT: usize = 64 << 20;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered the machine off.
    PoweredOff,
    /// Xen stopped for another reason, with this message.
    Stopped(String),
    /// The emulator ended by itself, and Xen had not said that it stops.
    EmulatorExited(ExitStatus),
    /// The time was up.
    TimedOut(Duration),
    /// The console did not end in reasonable length.
    Endless,
    /// The guest gave its result, but Xen never said that it stops.
    NoShutdown(Duration),
}

impl End {
    pub fn is_orderly(&self) -> bool {
        matches!(self, End::PoweredOff)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::PoweredOff => write!(f, "the machine was powered off"),
            End::Stopped(message) => write!(f, "Xen stopped with \"{message}\""),
            End::EmulatorExited(status) => match (status.code(), status.signal()) {
                (Some(0), _) => write!(f, "the emulator ended before Xen had stopped"),
                (Some(code), _) => write!(f, "the emulator failed with exit status {code}"),
                (None, Some(signal)) => write!(f, "the emulator was ended by signal {signal}"),
                (None, None) => write!(f, "the emulator ended"),
            },
            End::TimedOut(limit) => {
                write!(f, "nothing more came of it within {} s", limit.as_secs())
            }
            End::Endless => write!(
                f,
                "the console came to more than {} MiB",
                CONSOLE_LIMIT >> 20
            ),
            End::NoShutdown(limit) => write!(
                f,
                "Xen had not stopped {} s after the guest's result",
                limit.as_secs()
            ),
        }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Job {
    pub command: Command,
    /// The folder for the command, the console with time stamps and the emulator's own messages.
    pub logs: PathBuf,
    pub limit: Duration,
    /// Files that the emulator inherits, under the same number.
    pub inherited: Vec<OwnedFd>,
    /// Where the console can be read, if it is not the standard output.
    pub console: Option<OwnedFd>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub lines: Vec<Line>,
    pub end: End,
    pub wall: Duration,
}

/// Where the console goes.
pub fn console_log(logs: &Path) -> PathBuf {
    logs.join("console.log")
}

/// Where the emulator's own messages go.
pub fn emulator_log(logs: &Path) -> PathBuf {
    logs.join("emulator.log")
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            if word.contains([' ', '\'', '"']) {
                format!("'{}'", word.replace('\'', r"'\''"))
            } else {
                word.into_owned()
            }
        })
        .collect();
    words.join(" ") + "\n"
}

/// Runs an emulator to its end. `on_line` sees each line as it comes.
pub fn run(job: Job, on_line: &mut dyn FnMut(&Line)) -> Result<Outcome> {
    let context = || format!("cannot write to {}", job.logs.display());
    fs::write(job.logs.join("command.txt"), shown(&job.command)).with_context(context)?;
    let mut log = File::create(console_log(&job.logs)).with_context(context)?;

    let start = Instant::now();
    let stdout = match job.console {
        None => Stdio::piped(),
        Some(_) => Stdio::null(),
    };
    let mut emulator = Emulator::start(
        job.command,
        stdout,
        &emulator_log(&job.logs),
        &job.inherited,
    )?;
    // The emulator has its own by now; with ours open the console would never end.
    drop(job.inherited);
    let mut console = File::from(match job.console {
        Some(console) => console,
        None => emulator.stdout()?,
    });

    let mut assembler = Assembler::new();
    let mut watch = Watch::new(job.limit);
    let mut lines: Vec<Line> = vec![];
    let (mut raw, mut fresh) = (vec![], vec![]);
    let mut buffer = [0; 8192];
    let mut length = 0;

    let end = loop {
        let now = start.elapsed();
        let deadline = match watch.deadline(now) {
            Ok(deadline) => deadline,
            Err(end) => break end,
        };

        let got = match read_until(&mut console, &mut buffer, deadline - now)
            .context("cannot read the console")?
        {
            Some(0) => {
                assembler.finish(start.elapsed(), &mut raw, &mut fresh);
                break match emulator.wait_for_exit(EXIT_LIMIT)? {
                    Some(status) => watch.end(End::EmulatorExited(status)),
                    None => watch.end(End::TimedOut(job.limit)),
                };
            }
            Some(got) => got,
            None => continue,
        };

        length += got;
        if length > CONSOLE_LIMIT {
            break End::Endless;
        }
        assembler.feed(start.elapsed(), &buffer[..got], &mut raw, &mut fresh);
        write_log(&mut log, &mut raw)?;
        for line in fresh.drain(..) {
            watch.take(&line);
            on_line(&line);
            lines.push(line);
        }
    };

    emulator.kill();
    let wall = start.elapsed();
    assembler.finish(wall, &mut raw, &mut fresh);
    write_log(&mut log, &mut raw)?;
    for line in fresh.drain(..) {
        on_line(&line);
        lines.push(line);
    }

    Ok(Outcome { lines, end, wall })
}

fn write_log(log: &mut File, raw: &mut Vec<crate::console::RawLine>) -> Result<()> {
    let mut text = String::new();
    for line in raw.drain(..) {
        text += &format!("[{:10.3}] {}\n", line.at.as_secs_f64(), line.text);
    }
    log.write_all(text.as_bytes())
        .context("cannot write the console log")
}

/// Reads what is there. `None`: nothing came in time. `Some(0)`: nothing will come any more.
fn read_until(
    console: &mut (impl Read + AsFd),
    buffer: &mut [u8],
    limit: Duration,
) -> io::Result<Option<usize>> {
    // Rounded up: a rest of less than a millisecond must not make this spin.
    let limit = limit.as_micros().div_ceil(1000).min(60_000) as u16;
    let mut fds = [PollFd::new(console.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(limit)) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(None),
        Ok(_) => match console.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            got => got.map(Some),
        },
        Err(errno) => Err(errno.into()),
    }
}

static POWERED_OFF: LazyLock<Regex> = LazyLock::new(|| {
    // The second is the last word before a machine that has ACPI is gone.
    Regex::new(r"^Hardware Dom\d+ halted: halting machine|^Entering ACPI S5 state")
        .expect("a constant")
});
static STOPPED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"'noreboot' set - not rebooting|rebooting machine|, rebooting\.$|^Manual reset required|^(Reboot|Crash) in five seconds",
    )
    .expect("a constant")
});

/// Knows from the lines seen until when it is worth waiting.
#[derive(Debug)]
struct Watch {
    limit: Duration,
    result: Option<Duration>,
    panic: Option<Duration>,
    /// Xen's own end, and when the last line came.
    stopped: Option<(End, Duration)>,
}

impl Watch {
    fn new(limit: Duration) -> Watch {
        Watch {
            limit,
            result: None,
            panic: None,
            stopped: None,
        }
    }

    fn take(&mut self, line: &Line) {
        if let Some((_, last)) = &mut self.stopped {
            *last = line.at;
        }

        if !line.from_xen() {
            if line.text.starts_with("Test result: ") {
                self.result.get_or_insert(line.at);
            }
        } else if self.stopped.is_none() && POWERED_OFF.is_match(&line.text) {
            self.stopped = Some((End::PoweredOff, line.at));
        } else if STOPPED.is_match(&line.text)
            && !matches!(self.stopped, Some((End::Stopped(_), _)))
        {
            self.stopped = Some((End::Stopped(line.text.clone()), line.at));
        } else if line.text.starts_with("Panic on CPU ") {
            // A panic outweighs an orderly end that was announced before it.
            self.panic.get_or_insert(line.at);
            if matches!(self.stopped, Some((End::PoweredOff, _))) {
                self.stopped = None;
            }
        }
    }

    /// Until when to wait for more, or how it has ended.
    fn deadline(&self, now: Duration) -> std::result::Result<Duration, End> {
        let mut next = (self.limit, End::TimedOut(self.limit));
        let mut sooner = |deadline: Duration, end: End| {
            if deadline < next.0 {
                next = (deadline, end);
            }
        };

        match (&self.stopped, self.panic, self.result) {
            (Some((end, last)), _, _) => sooner(*last + LAST_WORDS, end.clone()),
            (None, Some(at), _) => sooner(at + PANIC_LIMIT, End::Stopped("Panic".to_owned())),
            (None, None, Some(at)) => {
                sooner(at + SHUTDOWN_LIMIT, End::NoShutdown(SHUTDOWN_LIMIT));
            }
            (None, None, None) => {}
        }

        let (deadline, end) = next;
        if now < deadline {
            Ok(deadline)
        } else {
            Err(end)
        }
    }

    /// How it ended, given that the console has ended: Xen's word counts first.
    fn end(&self, otherwise: End) -> End {
        match &self.stopped {
            Some((end, _)) => end.clone(),
            None => otherwise,
        }
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
struct Emulator {
    child: Child,
}

impl Emulator {
    fn start(
        mut command: Command,
        stdout: Stdio,
        log: &Path,
        inherited: &[OwnedFd],
    ) -> Result<Emulator> {
        let stderr =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);

        let fds: Vec<RawFd> = inherited
            .iter()
            .map(std::os::fd::AsRawFd::as_raw_fd)
            .collect();
        let parent = getpid();
        let prepare = move || prepare_child(parent, &fds);
        // SAFETY: `prepare_child` only makes system calls that may be made between fork and exec,
        // and allocates nothing.
        unsafe { command.pre_exec(prepare) };

        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start the emulator {name}: is it installed?"))?;
        Ok(Emulator { child })
    }

    fn stdout(&mut self) -> Result<OwnedFd> {
        let stdout = self.child.stdout.take();
        Ok(stdout.context("the console was taken already")?.into())
    }

    /// Waits until the emulator has exited by itself.
    fn wait_for_exit(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.child.try_wait().context("cannot wait")?;
            if status.is_some() || start.elapsed() >= limit {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the emulator and whatever it has started, and waits until it is gone.
    fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It leads a group of its own (see `start`), and is not reaped yet: the number is its.
            let group = Pid::from_raw(self.child.id() as i32);
            // Errors mean that it is gone, which is what is wanted.
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs in the child, before it becomes the emulator.
fn prepare_child(parent: Pid, inherited: &[RawFd]) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the line above.
    if getppid() != parent {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe));
    }
    for &fd in inherited {
        // SAFETY: the caller of `run` owns these descriptors until the child has its own.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}
