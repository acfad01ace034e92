// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

mod cli_linux;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};
use nix::sys::signal::{SigHandler, Signal, signal};
use regex::Regex;

use lab::baseline::Baseline;
use lab::demo::{self, Live};
use lab::figures::Figures;
use lab::lab::{Request, Xen, perform};
use lab::passed::Passed;
use lab::picture::Look;
use lab::place::Place;
use lab::tables::{DEFAULT_LIMIT, Scenario, Tables, check_flavour};
use lab::verdict::Expectation;
use lab::{baseline, bench, spec, suite};

/// Boots Xen and a test guest on an emulator, and judges what came of it.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// Where everything was built [default: out/ of the project around the current folder]
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says which machines and tests there are
    List,
    /// Runs one guest on one machine
    Run(RunArgs),
    /// Runs the whole table of tests
    Test {
        /// Only tests of which TEST@MACHINE@FLAVOUR matches this regular expression
        #[arg(long, value_name = "RE")]
        filter: Option<Regex>,
        /// Runs also what passed earlier with the same Xen, guest, machine and emulator; with a filter,
        /// that is always so
        #[arg(long)]
        again: bool,
        /// How many CPUs to use [default: all]; a machine takes as many as it has
        #[arg(long, value_name = "N")]
        jobs: Option<usize>,
    },
    /// Measures, and compares with what SPEC.md promises
    Spec {
        /// How many CPUs to use [default: all]
        #[arg(long, value_name = "N")]
        jobs: Option<usize>,
    },
    /// Measures, prints a table, and writes bench.json
    Bench {
        /// How many CPUs to use [default: all]
        #[arg(long, value_name = "N")]
        jobs: Option<usize>,
    },
    /// Measures an unpatched Xen, and compares it with what it was
    Baseline {
        /// Writes what was measured to this file, instead of comparing
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// How many CPUs to use [default: all]
        #[arg(long, value_name = "N")]
        jobs: Option<usize>,
    },
    /// Shows a guest's memory break up and heal
    Demo {
        #[command(flatten)]
        target: Target,
    },
    /// Scenarios with a Linux control domain and Linux guests
    #[command(subcommand)]
    Linux(cli_linux::Command),
}

#[derive(Debug, clap::Args)]
struct Target {
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Which build of Xen
    #[arg(long, value_name = "NAME", conflicts_with = "xen")]
    flavour: Option<String>,
    /// Another Xen: an ELF file, packed with gzip or not
    #[arg(long, value_name = "PATH")]
    xen: Option<PathBuf>,
    /// More words for Xen's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Seconds after which the run is ended
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Prints the console as it comes
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// A test of the table, another guest in out/xtf, or the path of one
    guest: String,
    #[command(flatten)]
    target: Target,
    /// Traces changes of the layout of memory
    #[arg(long)]
    trace: bool,
}

/// Boot-time tracing: pages for each CPU, and the events of class TRC_MEM.
const TRACE_WORDS: &str = "tbuf_size=2048 tevt_mask=0x10f000";

fn main() -> ExitCode {
    end_on_broken_pipe();
    match act(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends quietly when whoever reads our output has gone, as other programs do. Rust's default is to
/// make errors of it, which printing would turn into a panic.
fn end_on_broken_pipe() {
    // SAFETY: no other thread is there yet, and the default action is no handler of ours.
    let result = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    debug_assert!(result.is_ok());
}

fn act(cli: Cli) -> Result<bool> {
    match cli.command {
        Command::List => list(&Tables::built_in()?).map(|()| true),
        Command::Run(args) => run(&Place::find(cli.out)?, &args),
        Command::Test {
            filter,
            again,
            jobs,
        } => test(&Place::find(cli.out)?, filter.as_ref(), again, jobs),
        Command::Spec { jobs } => measure(&Place::find(cli.out)?, jobs, false),
        Command::Bench { jobs } => measure(&Place::find(cli.out)?, jobs, true),
        Command::Baseline { write, jobs } => {
            unpatched(&Place::find(cli.out)?, write.as_deref(), jobs)
        }
        Command::Demo { target } => show(&Place::find(cli.out)?, &target),
        Command::Linux(command) => cli_linux::act(&Place::find(cli.out)?, &command),
    }
}

fn list(tables: &Tables) -> Result<()> {
    let mut out = io::stdout().lock();
    let new_table = || {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        if io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        table
    };

    let mut table = new_table();
    table.set_header(["machine", "CPUs", "memory", "proves"]);
    for machine in &tables.machines {
        table.add_row([
            machine.name.clone(),
            machine.cpus.to_string(),
            format!("{}M", machine.memory_mib),
            machine.proves.clone(),
        ]);
    }
    writeln!(out, "{table}\n")?;

    let mut table = new_table();
    table.set_header(["test", "machines", "flavours", "expects", "shows"]);
    for scenario in &tables.scenarios {
        table.add_row([
            scenario.name.clone(),
            scenario.machines.join(" "),
            scenario.flavours.join(" "),
            scenario.expect.result.to_string(),
            scenario.shows.clone(),
        ]);
    }
    writeln!(out, "{table}")?;
    Ok(())
}

/// What a target says, with what to take where it says nothing.
struct Choice {
    machine: String,
    xen: Xen,
    limit: Option<Duration>,
}

impl Target {
    fn choose(&self, machine: &str) -> Result<Choice> {
        let xen = match &self.xen {
            Some(path) => Xen::File(path.clone()),
            None => {
                let flavour = self.flavour.as_deref().unwrap_or("release");
                check_flavour(flavour)?;
                Xen::Flavour(flavour.to_owned())
            }
        };
        Ok(Choice {
            machine: self.machine.as_deref().unwrap_or(machine).to_owned(),
            xen,
            limit: self.limit.map(Duration::from_secs),
        })
    }
}

fn run(place: &Place, args: &RunArgs) -> Result<bool> {
    let tables = Tables::built_in()?;
    let scenario = tables.scenarios.iter().find(|s| s.name == args.guest);
    let choice = args.target.choose("qemu-npt")?;
    let expect = scenario.map_or_else(Expectation::default, |s| s.expect.clone());

    let mut words: Vec<&str> = vec![];
    words.extend(scenario.map(|s| s.xen.as_str()));
    words.extend(args.trace.then_some(TRACE_WORDS));
    words.extend(args.target.append.iter().map(String::as_str));
    let name = Path::new(&args.guest).file_name().unwrap_or_default();
    let request = Request {
        name: &name.to_string_lossy(),
        guest: scenario.map_or(&args.guest, |s| &s.guest),
        machine: tables.machine(&choice.machine)?,
        memory_mib: scenario.and_then(|s| s.memory_mib),
        xen: choice.xen,
        words: joined(&words),
        limit: choice
            .limit
            .unwrap_or(scenario.map_or(DEFAULT_LIMIT, Scenario::limit)),
        expect: &expect,
    };

    let report = perform(place, &request, &mut |line| {
        if args.target.verbose {
            println!("{line}");
        }
    })?;
    let passed = report.verdict.passed();
    println!(
        "{} {} ({:.1} s)",
        if passed { "pass" } else { "FAIL" },
        request.title(),
        report.wall.as_secs_f64()
    );
    if passed {
        println!("  console: {}", report.console_log.display());
    } else {
        print!("{}", report.complaint());
    }
    if let Some((path, extract)) = &report.trace {
        println!(
            "  trace: {} ({} records)",
            path.display(),
            extract.trace.records.len()
        );
        for cpu in &extract.full {
            println!("  the trace buffer of CPU {cpu} is full: give it a larger tbuf_size=");
        }
    }
    Ok(passed)
}

fn joined(words: &[&str]) -> String {
    let words: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

fn test(place: &Place, filter: Option<&Regex>, again: bool, jobs: Option<usize>) -> Result<bool> {
    let tables = Tables::built_in()?;
    let cases = suite::cases(&tables, filter)?;
    let passed = (filter.is_none() && !again).then(|| Passed::load(place));
    let bar = io::stderr().is_terminal();
    let results = suite::run(place, &cases, jobs_or_all(jobs), bar, passed);
    let colour = Look::of_stdout().rich;
    println!("\n{}", suite::matrix(&cases, &results, colour));
    if filter.is_none() {
        println!("{}", suite::coverage(&tables, &cases, &results));
    }
    let mut kept = true;
    if filter.is_none() {
        let figures = suite::figures(place, &cases, &results)?;
        kept = promised(&tables, &figures, colour)?;
    }
    println!("{}", suite::closing_line(&results));
    Ok(kept && results.iter().all(|done| done.passed))
}

/// Prints what came of what SPEC.md promises, and of what an unpatched Xen has cost.
fn promised(tables: &Tables, figures: &Figures, colour: bool) -> Result<bool> {
    let (text, kept) = spec::judged(tables, figures, colour)?;
    println!("{text}");
    let (text, as_it_was) = baseline::judged(tables, figures)?;
    println!("{text}");
    Ok(kept && as_it_was)
}

fn jobs_or_all(jobs: Option<usize>) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    jobs.unwrap_or(cpus).max(1)
}

/// Runs what gives figures, and prints them: against what was promised, or all of them.
fn measure(place: &Place, jobs: Option<usize>, bench: bool) -> Result<bool> {
    let tables = Tables::built_in()?;
    let mut cases = suite::cases(&tables, None)?;
    cases.retain(|case| case.scenario.figures);
    let bar = io::stderr().is_terminal();
    let results = suite::run(place, &cases, jobs_or_all(jobs), bar, None);
    let figures = suite::figures(place, &cases, &results)?;
    let mut good = results.iter().all(|done| done.passed);

    println!();
    if bench {
        let rows = bench::rows(&figures)?;
        print!("{}\n{}", bench::machines(&rows), bench::table(&rows));
        let path = place.out().join("bench.json");
        fs::write(&path, bench::json(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
    } else {
        good &= promised(&tables, &figures, Look::of_stdout().rich)?;
    }
    Ok(good)
}

/// Runs what gives the figures of an unpatched Xen, and prints or keeps them.
fn unpatched(place: &Place, write: Option<&Path>, jobs: Option<usize>) -> Result<bool> {
    let tables = Tables::built_in()?;
    let mut cases = suite::cases(&tables, None)?;
    cases.retain(|case| case.scenario.figures && case.flavour == "stock-release");
    let bar = io::stderr().is_terminal();
    let results = suite::run(place, &cases, jobs_or_all(jobs), bar, None);
    let figures = suite::figures(place, &cases, &results)?;
    let now = Baseline::of(&spec::promises(&tables)?, &figures);
    let drifts = Baseline::built_in()?.against(&now);
    let (text, as_it_was) = baseline::summary(&drifts);
    print!("\n{}\n{text}", baseline::table(&drifts));
    let good = results.iter().all(|done| done.passed);
    match write {
        Some(path) if good => now.write(path).map(|()| true),
        Some(_) => Ok(false),
        None => Ok(good && as_it_was),
    }
}

fn show(place: &Place, target: &Target) -> Result<bool> {
    const NAME: &str = "coalesce-demo";

    let tables = Tables::built_in()?;
    let scenario = tables
        .scenarios
        .iter()
        .find(|s| s.name == NAME)
        .with_context(|| format!("there is no test {NAME} in the table"))?;
    let choice = target.choose("qemu-npt-smp2")?;
    let mut words = vec![scenario.xen.as_str(), TRACE_WORDS];
    words.extend(target.append.iter().map(String::as_str));
    let request = Request {
        name: "demo",
        guest: &scenario.guest,
        machine: tables.machine(&choice.machine)?,
        memory_mib: scenario.memory_mib,
        xen: choice.xen,
        words: joined(&words),
        limit: choice.limit.unwrap_or(scenario.limit()),
        expect: &scenario.expect,
    };

    println!(
        "Booting Xen ({}) and the guest {NAME} on the machine {}: {}.",
        request.xen.name(),
        request.machine.name,
        request.machine.proves
    );
    let look = Look::of_stdout();
    let mut live = Live::new(look);
    let report = perform(place, &request, &mut |line| {
        if target.verbose {
            println!("{line}");
        } else {
            live.take(line);
        }
    });
    live.finish();
    let report = report?;

    print!("{}", demo::story(&report, look));
    let page = demo::page(&report)?;
    print!("{}", demo::pointers(&report, page.as_deref()));
    let seconds = report.wall.as_secs_f64();
    if report.verdict.passed() {
        println!("\nThe test passed, and Xen's console is clean ({seconds:.1} s).");
    } else {
        print!(
            "\nSomething is wrong ({seconds:.1} s):\n{}",
            report.complaint()
        );
    }
    Ok(report.verdict.passed())
}
