// SPDX-License-Identifier: GPL-2.0-only
//! Breaks the core in each of the ways of `mutations.toml`, and sees that the
//! test that is named there fails, and says why.
//!
//! The sources are copied, and changed in the copy only. All mutations that
//! change what the program does are built at once, each behind a question to the
//! environment, so that there is one build; the few that change types are built
//! one by one (`--types`).

mod generated;
mod remembered;
mod switches;
mod written;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The copy has these only.
const COPIED: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    "arch",
    "p2m",
    "xen-rs",
    "tests/machine",
    "tests/xtf/tests/coalesce-replay/script.inc",
];

/// A test that takes longer does not end.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
#[command(about = "Breaks the core in known ways; fails if a named test does not notice")]
struct Args {
    /// Only mutations whose names contain this.
    filter: Option<String>,
    /// Those that change types, too: a build for each.
    #[arg(long)]
    types: bool,
    /// Where the copy is made.
    #[arg(long, default_value = "out/mutations")]
    out: PathBuf,
    #[command(subcommand)]
    generated: Option<Generated>,
}

#[derive(Subcommand)]
enum Generated {
    /// All that cargo-mutants lists, instead.
    Generated(generated::Options),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    mutation: Vec<Mutation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    name: String,
    /// The invariants of `docs/xsa.md` that do not hold any more.
    invariants: Vec<u32>,
    file: String,
    /// Occurs once in `file`: an expression, or whole statements that bind
    /// nothing for those that follow.
    find: String,
    replace: String,
    /// `crate::target::test`; the target is `lib` for a crate's own tests.
    test: String,
    /// What the test says when it fails.
    says: String,
    /// Changes what compiles.
    #[serde(default)]
    types: bool,
}

impl Mutation {
    /// The copy's source with this, and only this, in it.
    fn apply(&self, source: &str, number: Option<usize>) -> Result<String> {
        let count = source.matches(&self.find).count();
        ensure!(
            count == 1,
            "{}: what it replaces occurs {count} times in {}; adapt tests/mutations/mutations.toml to the source:\n{}",
            self.name,
            self.file,
            self.find
        );
        let new = match number {
            None => self.replace.clone(),
            // A statement gives nothing, an expression its value.
            Some(n) => format!(
                "if arch::mutation::is({n}) {{ {} }} else {{ {} }}",
                self.replace, self.find
            ),
        };
        let new = if number.is_some() && !self.find.trim_end().ends_with([';', '}']) {
            format!("({new})")
        } else {
            new
        };
        Ok(source.replacen(&self.find, &new, 1))
    }

    /// Crate, target and test.
    fn target(&self) -> Result<(&str, &str, &str)> {
        let (package, rest) = self.test.split_once("::").context("no crate")?;
        let (target, test) = rest.split_once("::").context("no target")?;
        Ok((package, target, test))
    }
}

/// Asked at each mutated place: is it this one?
const SWITCH: &str = r#"
pub mod mutation {
    pub fn is(number: usize) -> bool {
        static CHOSEN: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
        let chosen = || std::env::var("MUTATION").map_or(0, |n| n.parse().unwrap());
        *CHOSEN.get_or_init(chosen) == number
    }
}
"#;

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
            names.insert(name);
        }
        for entry in fs::read_dir(to)? {
            let entry = entry?;
            if !names.contains(&entry.file_name()) && entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
    } else {
        write(to, &fs::read(from)?)?;
    }
    Ok(())
}

/// Leave a file alone that is right already: it is not built again then.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).ok().as_deref() != Some(content) {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, content).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

struct Tree {
    root: PathBuf,
}

impl Tree {
    fn new(root: PathBuf) -> Result<Self> {
        for part in COPIED {
            copy(Path::new(part), &root.join(part))
                .with_context(|| format!("cannot copy {part}"))?;
        }
        Ok(Tree { root })
    }

    /// Put each of `mutations` behind a question.
    fn switches(&self, mutations: &[&Mutation]) -> Result<()> {
        let mut sources: BTreeMap<&str, String> = BTreeMap::new();
        for head in ["arch/src/lib.rs", "p2m/src/lib.rs"] {
            sources.insert(head, fs::read_to_string(head)?);
        }
        for (i, mutation) in mutations.iter().enumerate() {
            let source = match sources.get(mutation.file.as_str()) {
                Some(source) => source.clone(),
                None => fs::read_to_string(&mutation.file)?,
            };
            sources.insert(&mutation.file, mutation.apply(&source, Some(i + 1))?);
        }
        for (file, source) in sources {
            // The copy has a std, for the environment.
            let source = source
                .replace("#![no_std]", "")
                .replace("#![cfg_attr(not(test), no_std)]", "");
            let source = match file {
                "arch/src/lib.rs" => format!("{source}{SWITCH}"),
                _ => source,
            };
            let source = match file.strip_prefix("arch/") {
                Some(_) => source.replace("arch::mutation::", "crate::mutation::"),
                None => source,
            };
            write(&self.root.join(file), source.as_bytes())?;
        }
        Ok(())
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo
            .args(args)
            .arg("--offline")
            .current_dir(&self.root)
            .env("RUSTFLAGS", "-Awarnings")
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo
    }

    /// Build the tests of `packages`: where each target's program is.
    fn build(&self, packages: &BTreeSet<&str>) -> Result<BTreeMap<(String, String), PathBuf>> {
        let mut cargo = self.cargo(&["test", "--no-run", "-q", "--message-format=json"]);
        for package in packages {
            cargo.args(["-p", package]);
        }
        let output = cargo.stderr(Stdio::inherit()).output()?;
        let messages = String::from_utf8_lossy(&output.stdout);
        let mut programs = BTreeMap::new();

        for line in messages.lines() {
            let message: serde_json::Value = serde_json::from_str(line)?;
            if let Some(text) = message["message"]["rendered"].as_str() {
                if message["message"]["level"] == "error" {
                    eprintln!("{text}");
                }
            }
            if let Some((package, target, program)) = program(&message)? {
                programs.insert((package, target), program);
            }
        }
        ensure!(
            output.status.success(),
            "the mutated core does not build in {}",
            self.root.display()
        );
        Ok(programs)
    }
}

/// The package, target and program that a message of cargo is about, if it is about
/// one.
fn program(message: &serde_json::Value) -> Result<Option<(String, String, PathBuf)>> {
    let (Some(program), Some(target), Some(manifest)) = (
        message["executable"].as_str(),
        message["target"]["name"].as_str(),
        message["manifest_path"].as_str(),
    ) else {
        return Ok(None);
    };
    let package = Path::new(manifest)
        .parent()
        .and_then(Path::file_name)
        .context("a manifest has a directory")?
        .to_string_lossy()
        .into_owned();
    let lib = message["target"]["kind"] == serde_json::json!(["lib"]);
    let target = if lib { "lib" } else { target };
    Ok(Some((package, target.to_owned(), PathBuf::from(program))))
}

/// Run one test; `None`: it did not end.
fn run(mut command: Command, patience: Duration) -> Result<Option<Output>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut out = child.stdout.take().context("no stdout")?;
    let mut err = child.stderr.take().context("no stderr")?;
    let reader = |from: &mut dyn std::io::Read| {
        let mut text = Vec::new();
        from.read_to_end(&mut text).map(|_| text)
    };

    std::thread::scope(|scope| {
        let out = scope.spawn(move || reader(&mut out));
        let err = scope.spawn(move || reader(&mut err));
        let start = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break Some(status),
                None if start.elapsed() > patience => {
                    child.kill()?;
                    child.wait()?;
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let stdout = out.join().expect("it does not panic")?;
        let stderr = err.join().expect("it does not panic")?;
        Ok(status.map(|status| Output {
            status,
            stdout,
            stderr,
        }))
    })
}

fn test(program: &Path, dir: &Path, name: &str, number: usize) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--exact", name, "--nocapture"])
        .current_dir(dir)
        .env("MUTATION", number.to_string())
        .env("RUST_BACKTRACE", "0");
    command
}

/// What became of one.
enum Verdict {
    Caught,
    Survived,
    /// It failed, and said something else.
    Otherwise(String),
    Endless,
}

fn judge(output: Option<Output>, says: &str) -> Verdict {
    let Some(output) = output else {
        return Verdict::Endless;
    };
    let text = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .join("\n");

    if output.status.success() {
        Verdict::Survived
    } else if text.contains(says) {
        Verdict::Caught
    } else {
        Verdict::Otherwise(text)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Generated::Generated(options)) = &args.generated {
        return generated::main(&args.out, options);
    }
    let text = fs::read_to_string("tests/mutations/mutations.toml")
        .context("not at the top of the project")?;
    let spec: Spec = toml::from_str(&text)?;
    let chosen: Vec<&Mutation> = spec
        .mutation
        .iter()
        .filter(|m| args.filter.as_ref().is_none_or(|f| m.name.contains(f)))
        .filter(|m| args.types || !m.types)
        .collect();

    ensure!(!chosen.is_empty(), "there is no such mutation");
    for m in &chosen {
        m.target().with_context(|| m.name.clone())?;
    }
    let distinct: BTreeSet<_> = spec.mutation.iter().map(|m| &m.name).collect();
    ensure!(
        distinct.len() == spec.mutation.len(),
        "a name is used twice"
    );
    for m in &spec.mutation {
        ensure!(!m.says.is_empty(), "{}: what does the test say?", m.name);
    }
    let written = fs::read_to_string("docs/xsa.md").context("docs/xsa.md")?;
    written::check(&written, &spec.mutation)?;

    let (types, plain): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|m| m.types);
    let mut results = behaviour(&args.out, &plain)?;
    for m in types {
        results.push((m, changed_types(&args.out, m)?));
    }
    report(&results)
}

fn behaviour<'a>(out: &Path, mutations: &[&'a Mutation]) -> Result<Vec<(&'a Mutation, Verdict)>> {
    if mutations.is_empty() {
        return Ok(Vec::new());
    }
    let tree = Tree::new(std::path::absolute(out.join("switched"))?)?;
    tree.switches(mutations)?;
    let packages = mutations
        .iter()
        .map(|m| m.target().map(|(package, ..)| package))
        .collect::<Result<_>>()?;
    let programs = tree.build(&packages)?;
    let program = |m: &Mutation| -> Result<(PathBuf, PathBuf, String)> {
        let (package, target, name) = m.target()?;
        let program = programs
            .get(&(package.to_owned(), target.to_owned()))
            .with_context(|| format!("{}: there is no {package}::{target}", m.name))?;
        let dir = ["", "tests/"]
            .map(|above| tree.root.join(format!("{above}{package}")))
            .into_iter()
            .find(|dir| dir.exists())
            .context("no directory")?;
        Ok((program.clone(), dir, name.to_owned()))
    };

    // Without any, every test passes, and is there.
    let mut passed = BTreeSet::new();
    for m in mutations {
        if passed.insert(&m.test) {
            let (program, dir, name) = program(m)?;
            let output = run(test(&program, &dir, &name, 0), PATIENCE)?;
            let ok = output.as_ref().is_some_and(|o| {
                o.status.success() && String::from_utf8_lossy(&o.stdout).contains("1 passed")
            });
            if !ok {
                if let Some(output) = output {
                    std::io::stderr().write_all(&output.stdout)?;
                    std::io::stderr().write_all(&output.stderr)?;
                }
                bail!("{} does not pass on the core as it is", m.test);
            }
        }
    }

    let next = std::sync::atomic::AtomicUsize::new(0);
    let cpus = std::thread::available_parallelism()?.get();
    let mut verdicts = std::thread::scope(|scope| {
        let work = || -> Result<Vec<(usize, Verdict)>> {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(m) = mutations.get(i) else {
                    return Ok(done);
                };
                let (program, dir, name) = program(m)?;
                let output = run(test(&program, &dir, &name, i + 1), PATIENCE)?;
                done.push((i, judge(output, &m.says)));
            }
        };
        let workers: Vec<_> = (0..cpus).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().expect("it does not panic")?);
        }
        anyhow::Ok(all)
    })?;
    verdicts.sort_by_key(|&(i, _)| i);
    Ok(verdicts
        .into_iter()
        .map(|(i, verdict)| (mutations[i], verdict))
        .collect())
}

fn changed_types(out: &Path, m: &Mutation) -> Result<Verdict> {
    let tree = Tree::new(std::path::absolute(out.join("types"))?)?;
    let source = fs::read_to_string(&m.file)?;
    let (package, target, name) = m.target()?;

    write(&tree.root.join(&m.file), m.apply(&source, None)?.as_bytes())?;
    let output = tree
        .cargo(&["test", "-q", "-p", package, "--test", target])
        .args(["--", "--exact", name, "--nocapture"])
        .output()?;
    Ok(judge(Some(output), &m.says))
}

fn report(results: &[(&Mutation, Verdict)]) -> Result<()> {
    let mut table = Table::new();
    let mut bad = 0;

    table.load_preset(NOTHING);
    table.set_header(["mutation", "breaks", "test", ""]);
    for (m, verdict) in results {
        let numbers: Vec<_> = m.invariants.iter().map(u32::to_string).collect();
        let word = match verdict {
            Verdict::Caught => "caught",
            Verdict::Survived => "SURVIVED",
            Verdict::Otherwise(_) => "FAILED OTHERWISE",
            Verdict::Endless => "DID NOT END",
        };
        bad += usize::from(!matches!(verdict, Verdict::Caught));
        table.add_row([&m.name, &numbers.join(" "), &m.test, word]);
    }
    println!("{table}");
    for (m, verdict) in results {
        if let Verdict::Otherwise(text) = verdict {
            eprintln!("{}: expected {:?}, got:\n{text}", m.name, m.says);
        }
    }
    ensure!(
        bad == 0,
        "{bad} of {} mutations were not noticed",
        results.len()
    );
    println!(
        "{} mutations, each noticed by the test that is named for it",
        results.len()
    );
    Ok(())
}
