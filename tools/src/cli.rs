// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::analysis::{Analysis, View};
use crate::perfetto::Exporter;
use crate::report::{self, Look, Stats};
use crate::scan::{Scan, scan};
use crate::trace::order::Timed;
use crate::trace::text::Printer;
use crate::words::Clock;
use crate::{plot, words};

/// Tells from a trace of Xen how the superpages of its guests broke and healed.
///
/// Reads what xentrace(8) writes, and what the lab takes out of the memory of a machine. Records of
/// the class TRC_MEM are looked into; of all others it is known that they were there.
#[derive(Debug, Parser)]
#[command(
    name = "xen-coalesce",
    version,
    about,
    after_help = "A trace is made with\n  xentrace -D -e 0x10f000 FILE        until Ctrl-C, or\n  \
                  xentrace -D -e 0x10f000 - | xen-coalesce report\n\n\
                  Exit status: 0, or 1 if there is no trace to tell of, or 2 if a trace is damaged: then \
                  what could be read is told nevertheless."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints a page of text
    Report {
        #[command(flatten)]
        input: Input,
        /// No block characters and nothing bold
        #[arg(long)]
        plain: bool,
    },
    /// Makes a page for a browser: coverage over time, stalls, a map of memory
    Plot {
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        output: Output,
    },
    /// Makes a file for ui.perfetto.dev
    Perfetto {
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        output: Output,
    },
    /// Prints all figures as JSON
    Stats {
        #[command(flatten)]
        input: Input,
    },
    /// Prints the records, one line each, in the order of time
    Records {
        #[command(flatten)]
        input: Input,
        /// Every record, not only those about the layout of memory
        #[arg(long)]
        all: bool,
    },
    /// Writes the manual pages and the shells' completions into a folder
    #[command(hide = true)]
    Generate { dir: PathBuf },
}

#[derive(Debug, clap::Args)]
struct Input {
    /// The trace; '-' or nothing: from a pipe
    file: Option<PathBuf>,
    /// How fast the TSC of the traced machine runs, for times in seconds: Xen prints it at boot
    /// ('Detected 2596.145 MHz processor'). Without it times are in ticks
    #[arg(long, value_name = "MHZ", value_parser = mhz)]
    tsc_mhz: Option<f64>,
}

#[derive(Debug, clap::Args)]
struct Output {
    /// Where to write to; '-': to the standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

fn mhz(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (1.0..=1e6).contains(&value) => Ok(value),
        _ => Err("a number of MHz from 1 to 1000000 is wanted".to_owned()),
    }
}

/// A trace that is damaged has been told of.
const DAMAGED: u8 = 2;

/// Does what is asked for.
pub fn run(cli: Cli) -> ExitCode {
    match act(cli.command) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(scan)) if scan.sound() => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::from(DAMAGED),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xen-coalesce: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn act(command: Command) -> Result<Option<Scan>> {
    match command {
        Command::Report { input, plain } => {
            let (scan, view) = input.analyse(false)?;
            let look = look(plain);
            let page = report::page(&input.name(), &scan, &view, input.clock(), look);
            io::stdout().write_all(page.as_bytes())?;
            Ok(Some(scan))
        }
        Command::Stats { input } => {
            let (scan, view) = input.analyse(false)?;
            let mut out = BufWriter::new(io::stdout().lock());
            serde_json::to_writer_pretty(&mut out, &Stats::new(&scan, &view, input.clock()))
                .map_err(io::Error::from)?;
            writeln!(out)?;
            out.flush()?;
            complain(&scan, &view);
            Ok(Some(scan))
        }
        Command::Plot { input, output } => {
            let (scan, view) = input.analyse(true)?;
            let page = plot::page(&input.name(), &scan, &view, input.clock());
            let mut out = output.open()?;
            out.write_all(page.as_bytes())?;
            out.flush()?;
            complain(&scan, &view);
            output.say(&format!("{} in a browser", output.output.display()));
            Ok(Some(scan))
        }
        Command::Perfetto { input, output } => {
            let mut exporter = Exporter::new(output.open()?, input.clock());
            let scan = input.scan(false, |timed| exporter.take(timed))?;
            exporter.finish(&scan)?;
            complain(&scan, &View::default());
            if input.tsc_mhz.is_none() {
                eprintln!("xen-coalesce: a tick counts as 1 ns, for want of --tsc-mhz");
            }
            output.say(&format!(
                "{} ({} packets) at https://ui.perfetto.dev",
                output.output.display(),
                words::grouped(exporter.packets())
            ));
            Ok(Some(scan))
        }
        Command::Records { input, all } => {
            let mut printer = Printer::new(BufWriter::new(io::stdout().lock()), all);
            let scan = input.scan(all, |timed| printer.print(timed))?;
            printer.flush()?;
            complain(&scan, &View::default());
            Ok(Some(scan))
        }
        Command::Generate { dir } => generate(&dir).map(|()| None),
    }
}

fn look(plain: bool) -> Look {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let columns = console::Term::stdout()
        .size_checked()
        .map_or(80, |(_, columns)| usize::from(columns));
    Look {
        blocks: !plain && !dumb,
        bold: !plain && !dumb && !no_color && io::stdout().is_terminal(),
        width: columns,
    }
}

/// What is wrong with a trace, for whoever looks at the terminal.
fn complain(scan: &Scan, view: &View) {
    for line in report::complaints(scan, view) {
        eprintln!("xen-coalesce: {line}");
    }
}

impl Output {
    fn is_stdout(&self) -> bool {
        self.output.as_os_str() == "-"
    }

    fn open(&self) -> Result<Box<dyn Write>> {
        if self.is_stdout() {
            return Ok(Box::new(BufWriter::new(io::stdout().lock())));
        }
        let file = File::create(&self.output)
            .with_context(|| format!("cannot write {}", self.output.display()))?;
        Ok(Box::new(BufWriter::new(file)))
    }

    fn say(&self, words: &str) {
        if !self.is_stdout() && io::stdout().is_terminal() {
            println!("Open {words}.");
        }
    }
}

impl Input {
    fn clock(&self) -> Clock {
        Clock {
            tsc_mhz: self.tsc_mhz,
        }
    }

    fn path(&self) -> Option<&Path> {
        self.file.as_deref().filter(|path| path.as_os_str() != "-")
    }

    fn name(&self) -> String {
        self.path()
            .map_or("a pipe".to_owned(), |path| path.display().to_string())
    }

    fn analyse(&self, with_maps: bool) -> Result<(Scan, View)> {
        let mut analysis = Analysis::new(with_maps);
        let scan = self.scan(false, |timed| {
            analysis.take(timed);
            Ok(())
        })?;
        let view = analysis.finish(scan.first, scan.last);
        Ok((scan, view))
    }

    /// Reads all of the input.
    fn scan(&self, all: bool, mut sink: impl FnMut(&Timed) -> io::Result<()>) -> Result<Scan> {
        let mut result = Ok(());
        let bar = Bar::default();
        let mut keep = |timed: &Timed| {
            if result.is_ok() {
                result = sink(timed);
            }
        };
        let scan = match self.path() {
            Some(path) => {
                let (file, length) =
                    open(path).with_context(|| format!("cannot read {}", path.display()))?;
                let mut bar = bar;
                bar.start(length);
                scan(Watched { file, bar: &bar }, all, &mut keep)
            }
            None => {
                let stdin = io::stdin().lock();
                if stdin.is_terminal() {
                    bail!("no trace is given: name a file, or pipe one in");
                }
                end_with_the_pipe();
                scan(stdin, all, &mut keep)
            }
        };
        result?;
        if scan.records == 0 && !scan.sound() {
            let words = scan.damage.first().cloned().unwrap_or_default();
            bail!("{}: {words}", self.name());
        }
        Ok(scan)
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((file, meta.len()))
}

/// At the first Ctrl-C the one who writes into the pipe ends, and what it wrote is still told; at
/// the second this program ends too.
fn end_with_the_pipe() {
    static ASKED: AtomicBool = AtomicBool::new(false);
    let handler = || {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    // Without it Ctrl-C ends this program at once: no more is lost than the report.
    let _ = ctrlc::set_handler(handler);
}

/// Shows how far a long file was read.
#[derive(Debug, Default)]
struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    /// Files that are read before anybody could look.
    const SHORT: u64 = 64 << 20;

    fn start(&mut self, length: u64) {
        if length < Bar::SHORT || !io::stderr().is_terminal() {
            return;
        }
        let style = ProgressStyle::with_template(
            "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go",
        );
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        self.bar = Some(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

struct Watched<'a> {
    file: File,
    bar: &'a Bar,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        if let Some(bar) = &self.bar.bar {
            bar.inc(n as u64);
        }
        Ok(n)
    }
}

/// Writes the manual pages and the shells' completions.
fn generate(dir: &Path) -> Result<()> {
    use clap_complete::{Shell, generate_to};

    let command = Cli::command();
    let name = command.get_name().to_owned();
    let man = dir.join("man1");
    fs::create_dir_all(&man).with_context(|| format!("cannot make {}", man.display()))?;
    clap_mangen::generate_to(command.clone(), &man)?;
    for (shell, place) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/site-functions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let place = dir.join(place);
        fs::create_dir_all(&place)?;
        let file = generate_to(shell, &mut command.clone(), &name, &place)?;
        // bash-completion looks for the bare name.
        if shell == Shell::Bash {
            fs::rename(file, place.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert!(mhz("2596.145").is_ok());
        for bad in ["", "0", "-1", "NaN", "inf", "1e9"] {
            assert!(mhz(bad).is_err(), "{bad}");
        }
    }
}
