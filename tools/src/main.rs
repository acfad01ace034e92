// SPDX-License-Identifier: GPL-2.0-only
//! See [`xen_coalesce`].

use std::process::ExitCode;

use clap::Parser;
use xen_coalesce::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
