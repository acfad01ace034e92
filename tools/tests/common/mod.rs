// SPDX-License-Identifier: GPL-2.0-only
//! What several tests need.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::path::PathBuf;
use std::process::{Command, Output};

/// The trace of a real run of the demonstration (`lab demo`).
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo.trace");
/// What Xen measured in that run.
pub const DEMO_MHZ: &str = "2596.145";

pub fn tool(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xen-coalesce"));
    command.args(args);
    command
}

pub fn run(args: &[&str]) -> Output {
    tool(args).output().expect("the tool runs")
}

/// A file of this name that nobody else writes.
pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&dir).expect("a folder for scratch files");
    dir.join(format!("{}-{name}", std::process::id()))
}
