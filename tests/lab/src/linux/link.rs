// SPDX-License-Identifier: GPL-2.0-only
//! What goes between this program and the emulator, besides the console: QEMU's monitor, which
//! stops and continues the machine, and a channel to the control domain.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde_json::{Value, json};

/// Longest that QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One end of a connection; the emulator has the other.
fn pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("cannot make a pair of sockets")?;
    let ours = UnixStream::from(ours);
    ours.set_read_timeout(Some(PATIENCE))?;
    ours.set_write_timeout(Some(PATIENCE))?;
    Ok((ours, theirs))
}

/// A channel to a program in the machine: a port of virtio-serial.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// The channel, the emulator's end of it, and what the emulator has to be told.
    pub fn new(name: &str) -> Result<(Channel, OwnedFd, [String; 4])> {
        let (stream, theirs) = pair()?;
        let fd = theirs.as_raw_fd();
        let arguments = [
            "-chardev".to_owned(),
            format!("socket,id={name},fd={fd}"),
            "-device".to_owned(),
            format!("virtserialport,chardev={name},name={name}"),
        ];
        Ok((Channel { stream }, theirs, arguments))
    }

    pub fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.stream, "{line}").context("the machine does not listen")
    }
}

/// QEMU's monitor (QMP).
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    ready: bool,
}

impl Monitor {
    pub fn new() -> Result<(Monitor, OwnedFd, [String; 4])> {
        let (stream, theirs) = pair()?;
        let fd = theirs.as_raw_fd();
        let arguments = [
            "-chardev".to_owned(),
            format!("socket,id=monitor,fd={fd}"),
            "-mon".to_owned(),
            "chardev=monitor,mode=control".to_owned(),
        ];
        let monitor = Monitor {
            reader: BufReader::new(stream.try_clone()?),
            stream,
            ready: false,
        };
        Ok((monitor, theirs, arguments))
    }

    /// Runs `act` while the machine stands still.
    pub fn while_stopped<T>(&mut self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.command("stop", json!({}))?;
        let result = act();
        self.command("cont", json!({}))?;
        result
    }

    /// The processors' registers, as QEMU prints them.
    pub fn registers(&mut self) -> Result<String> {
        let words = json!({ "command-line": "info registers -a" });
        let answer = self.command("human-monitor-command", words)?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }

    fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        if !self.ready {
            // The greeting comes first.
            self.next()?;
            self.ready = true;
            self.command("qmp_capabilities", json!({}))?;
        }
        let command = json!({ "execute": name, "arguments": arguments });
        writeln!(self.stream, "{command}").context("QEMU does not listen")?;
        loop {
            let mut answer = self.next()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU's monitor refuses {name}: {error}");
            }
            // Events come in between.
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self
            .reader
            .read_line(&mut line)
            .context("QEMU's monitor does not answer")?;
        if length == 0 {
            bail!("QEMU's monitor has gone");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor says {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor whose other end says this, and the other end.
    fn monitor(words: &str) -> (Monitor, UnixStream) {
        let (monitor, theirs, _) = Monitor::new().unwrap();
        let mut theirs = UnixStream::from(theirs);
        theirs.write_all(words.as_bytes()).unwrap();
        (monitor, theirs)
    }

    #[test]
    fn events_are_passed_over() {
        let words = "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"STOP\"}\n{\"return\":{}}\n\
                     {\"event\":\"RESUME\"}\n{\"return\":{}}\n";
        let (mut monitor, theirs) = monitor(words);
        assert_eq!(monitor.while_stopped(|| Ok(7)).unwrap(), 7);
        let mut heard = BufReader::new(theirs).lines().map(Result::unwrap);
        for command in ["qmp_capabilities", "stop", "cont"] {
            let said: Value = serde_json::from_str(&heard.next().unwrap()).unwrap();
            assert_eq!(said["execute"], command);
        }
    }

    #[test]
    fn a_monitor_that_refuses_or_is_gone_is_an_error() {
        let (mut refuses, _theirs) = monitor("{\"QMP\":{}}\n{\"error\":\"no\"}\n");
        let error = refuses.while_stopped(|| Ok(())).unwrap_err().to_string();
        assert!(error.contains("refuses qmp_capabilities"), "{error}");

        let (mut gone, theirs) = monitor("");
        drop(theirs);
        let error = gone.while_stopped(|| Ok(())).unwrap_err().to_string();
        assert!(error.contains("has gone"), "{error}");
    }
}
