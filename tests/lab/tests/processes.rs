// SPDX-License-Identifier: GPL-2.0-only
//! An emulator never outlives its run. The emulators here are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::run::{End, Job, Outcome, run};

fn job(dir: &Path, script: &str, limit: Duration) -> Job {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).current_dir(dir);
    Job {
        command,
        logs: dir.to_owned(),
        limit,
        inherited: vec![],
        console: None,
    }
}

fn play(script: &str, limit: Duration) -> (tempfile::TempDir, Outcome) {
    let dir = tempfile::tempdir().unwrap();
    let outcome = run(job(dir.path(), script, limit), &mut |_| {}).unwrap();
    (dir, outcome)
}

/// Is this process there, and not just waiting for its parent to notice its end?
fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn one_that_hangs_is_ended_in_time_with_its_children() {
    let script =
        "echo '(XEN) booting'; printf 'no end'; sleep 1000 & echo $! > child; echo $$ > self; wait";
    let (dir, outcome) = play(script, Duration::from_millis(700));
    assert_eq!(outcome.end, End::TimedOut(Duration::from_millis(700)));
    assert!(outcome.wall >= Duration::from_millis(700));
    assert!(outcome.wall < Duration::from_secs(10), "{:?}", outcome.wall);
    for file in ["self", "child"] {
        let pid = fs::read_to_string(dir.path().join(file)).unwrap();
        wait_until(file, || !alive(pid.trim()));
    }
    let lines: Vec<_> = outcome.lines.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["(XEN) booting", "no end"]);
    let log = fs::read_to_string(dir.path().join("console.log")).unwrap();
    assert!(
        log.contains("] (XEN) booting\n") && log.contains("] no end\n"),
        "{log}"
    );
}

#[test]
fn one_that_talks_without_end_is_ended_in_time() {
    let (_dir, outcome) = play(
        "while :; do echo '(XEN) again and again'; done",
        Duration::from_millis(500),
    );
    assert_eq!(outcome.end, End::TimedOut(Duration::from_millis(500)));
    assert!(outcome.wall < Duration::from_secs(20), "{:?}", outcome.wall);

    let (_dir, outcome) = play("exec yes '(XEN) a line that comes again and again'", LONG);
    assert_eq!(outcome.end, End::Endless);
    assert!(outcome.wall < LONG);
}

#[test]
fn a_run_ends_when_xen_has_stopped() {
    let (_dir, outcome) = play(
        "echo 'Test result: SUCCESS'; echo '(XEN) Hardware Dom0 halted: halting machine'; \
         echo '(XEN) last words'; sleep 1000",
        LONG,
    );
    assert_eq!(outcome.end, End::PoweredOff);
    assert!(outcome.wall < Duration::from_secs(20), "{:?}", outcome.wall);
    assert_eq!(outcome.lines.last().unwrap().text, "last words");
}

#[test]
fn a_panic_ends_a_run() {
    let panic = include_str!("consoles/panic.txt");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("panic"), panic).unwrap();
    let outcome = run(job(dir.path(), "cat panic; sleep 1000", LONG), &mut |_| {}).unwrap();
    assert_eq!(
        outcome.end,
        End::Stopped("Manual reset required ('noreboot' specified)".to_owned())
    );
    assert!(outcome.wall < Duration::from_secs(20), "{:?}", outcome.wall);

    // One that hangs in the middle of its panic is not waited for either.
    let (_dir, outcome) = play(
        "echo '(XEN) Hardware Dom0 halted: halting machine'; echo '(XEN) Panic on CPU 1:'; sleep 1000",
        LONG,
    );
    assert_eq!(outcome.end, End::Stopped("Panic".to_owned()));
    assert!(outcome.wall < Duration::from_secs(30), "{:?}", outcome.wall);
}

#[test]
fn an_emulator_that_fails_is_noticed_and_its_words_kept() {
    let (dir, outcome) = play("echo 'no such board' >&2; exit 3", LONG);
    match outcome.end {
        End::EmulatorExited(status) => assert_eq!(status.code(), Some(3)),
        other => panic!("{other}"),
    }
    let words = fs::read_to_string(dir.path().join("emulator.log")).unwrap();
    assert_eq!(words, "no such board\n");
}

#[test]
fn an_emulator_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(dir.path(), "", LONG);
    job.command = Command::new("/nonexistent/emulator");
    let error = format!("{:#}", run(job, &mut |_| {}).unwrap_err());
    assert!(error.contains("is it installed?"), "{error}");
}

/// A place with a hypervisor, a guest, and a QEMU that is a script.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new(script: &str) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["bin", "out/xtf"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let fake = Fake { dir };
        let qemu = fake.path("bin/qemu-system-x86_64");
        fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(fake.path("xen"), b"\x7fELF").unwrap();
        fs::write(fake.path("out/xtf/test-hvm64-fake"), b"").unwrap();
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `lab run fake` on the scripted QEMU.
    fn lab(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command
            .env("PATH", path)
            .env("FAKE", self.dir.path())
            .arg("--out")
            .arg(self.path("out"))
            .args(["run", "fake", "--xen"])
            .arg(self.path("xen"))
            .stdin(Stdio::null());
        command
    }
}

#[test]
fn an_interrupted_lab_leaves_no_emulator_and_no_memory_behind() {
    for signal in ["-KILL", "-INT", "-TERM"] {
        let fake = Fake::new("echo $$ > $FAKE/tmp; mv $FAKE/tmp $FAKE/pid; exec sleep 1000");
        let mut lab = fake.lab().stdout(Stdio::null()).spawn().unwrap();
        wait_until("the emulator starts", || fake.path("pid").exists());
        let pid = fs::read_to_string(fake.path("pid")).unwrap();
        assert!(alive(pid.trim()));

        let mapped = fs::read_dir(format!("/proc/{}/fd", pid.trim())).unwrap();
        let memory = mapped
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .find(|file| file.to_string_lossy().ends_with(" (deleted)"));
        assert!(memory.is_some(), "the emulator does not inherit its memory");

        let killed = Command::new("kill")
            .args([signal, &lab.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        lab.wait().unwrap();
        wait_until("the emulator ends with lab", || !alive(pid.trim()));
    }
}

#[test]
fn the_exit_status_is_the_verdict() {
    let good = include_str!("consoles/good.txt");
    let without_trace: String = good
        .lines()
        .filter(|line| !line.contains("xentrace"))
        .map(|line| format!("{line}\n"))
        .collect();

    let fake = Fake::new("cat $FAKE/console; echo oops >&2; exec sleep 1000");
    let run_with = |console: &str| {
        fs::write(fake.path("console"), console).unwrap();
        let output = fake.lab().output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };

    let (status, text) = run_with(&without_trace);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.starts_with("pass fake@qemu-npt@given"), "{text}");

    let (status, text) = run_with(&without_trace.replace("SUCCESS", "SKIP"));
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("the guest says SKIP, and SUCCESS is expected"));

    // Without a result the end of the console is shown, and what the emulator said.
    let (status, text) = run_with(
        &without_trace.replace("Test result: SUCCESS\n", "").replace(
            "halted: halting machine",
            "crashed: 'noreboot' set - not rebooting.",
        ),
    );
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("no test result"), "{text}");
    assert!(text.contains("    | oops"), "{text}");
    assert!(text.contains("the last 30 lines of the console:"), "{text}");
    assert!(text.contains("    | @phase healed"), "{text}");

    // Xen says that it traces, but this machine's memory has nothing of it.
    let (status, text) = run_with(good);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("the trace cannot be read"), "{text}");
}
