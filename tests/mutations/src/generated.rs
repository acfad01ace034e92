// SPDX-License-Identifier: GPL-2.0-only
//! Everything that cargo-mutants would change in the core, tried on the fastest
//! tests that come by it; what nobody notices has to be known, with a reason.

use crate::remembered::{Fate, Left, Memory, Reach};
use crate::switches::{Listed, QUESTION, switched};
use crate::{PATIENCE, Tree, run, write};
use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Where the tests are that are tried.
pub const TARGETS: [(&str, &str); 13] = [
    ("arch", "lib"),
    ("p2m", "lib"),
    ("machine", "lib"),
    ("machine", "xsa"),
    ("machine", "reasons"),
    ("machine", "losses"),
    ("machine", "details"),
    ("machine", "edges"),
    ("machine", "faults"),
    ("machine", "properties"),
    ("machine", "large"),
    ("machine", "paravirt"),
    ("machine", "optimum"),
];

/// A test that takes more time of the processor, with all the questions in the core,
/// is not tried.
const SLOW: Duration = Duration::from_secs(3);

/// Random tests are tried with so many cases, always the same ones.
/// A case that fails is not made smaller.
pub const CASES: [(&str, &str); 3] = [
    ("PROPTEST_CASES", "24"),
    ("PROPTEST_RNG_SEED", "1"),
    ("PROPTEST_MAX_SHRINK_ITERS", "0"),
];

/// How many of a hundred have to be noticed.
const ENOUGH: f64 = 95.0;

/// Levels of optimisation: what is built once is run thousands of times, or once.
const MANY_RUNS: &str = "2";
const ONE_RUN: &str = "0";

/// Test programs by package and target.
type Programs = BTreeMap<(String, String), PathBuf>;

const SURVIVORS: &str = "tests/mutations/survivors.toml";

#[derive(clap::Args)]
pub struct Options {
    /// Only changes in files whose paths contain this, or one of these; what is
    /// known of the others is told, too.
    #[arg(long)]
    file: Vec<String>,
    /// Only those that nobody noticed when they were last tried.
    #[arg(long)]
    survived: bool,
    /// Begin none after so many minutes. The next run goes on from there.
    #[arg(long)]
    minutes: Option<u64>,
    /// Forget what was found out before.
    #[arg(long)]
    again: bool,
    /// How many at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Write the scores there.
    #[arg(long)]
    write: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    #[serde(default)]
    survivor: Vec<Survivor>,
}

/// One that no test notices.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Survivor {
    /// As the table of this command has it.
    name: String,
    /// Why that is.
    reason: String,
}

/// A name that stays the same when lines are added elsewhere in the file.
fn names(listed: &[Listed]) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    listed
        .iter()
        .map(|m| {
            let function = m.function.as_ref().map_or("", |f| &f.function_name);
            let source = fs::read_to_string(&m.file).unwrap_or_default();
            let old = text_of(&source, m).unwrap_or_default();
            let what = match m.genre.as_str() {
                "FnValue" => format!("{function} -> {}", m.replacement),
                "MatchArm" => format!("{function}: without arm {}", head(&old)),
                "MatchArmGuard" => format!("{function}: {} for guard {old}", m.replacement),
                "UnaryOperator" => format!("{function}: without {old}"),
                _ => format!("{function}: {} for {old}", m.replacement),
            };
            let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
            let name = format!("{}: {what}", m.file);
            let n = seen.entry(name.clone()).or_default();
            *n += 1;
            if *n > 1 { format!("{name} #{n}") } else { name }
        })
        .collect()
}

fn head(arm: &str) -> &str {
    arm.split("=>").next().unwrap_or(arm)
}

/// What is replaced.
fn text_of(source: &str, m: &Listed) -> Option<String> {
    let at = |place: crate::switches::Place| {
        let line: usize = source
            .split_inclusive('\n')
            .take(place.line - 1)
            .map(str::len)
            .sum();
        let chars = source.get(line..)?.char_indices();
        Some(line + chars.map(|(at, _)| at).nth(place.column - 1)?)
    };
    source
        .get(at(m.span.start)?..at(m.span.end)?)
        .map(str::to_owned)
}

/// Build the tests of `targets`; on failure, what the compiler says and where.
fn build(
    tree: &Tree,
    targets: &[(&str, &str)],
    optimise: &str,
) -> Result<Result<Programs, Vec<Diagnosis>>> {
    // Left by a test that failed; cargo would take it for a member of the workspace.
    let _ = fs::remove_dir_all(tree.root.join("arch/proptest-regressions"));
    let mut cargo = tree.cargo(&["test", "--no-run", "-q", "--message-format=json"]);
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", optimise);
    if targets.iter().any(|&(_, target)| target == "lib") {
        cargo.arg("--lib");
    }
    for package in targets.iter().map(|t| t.0).collect::<BTreeSet<_>>() {
        cargo.args(["-p", package]);
    }
    for (_, target) in targets.iter().filter(|t| t.1 != "lib") {
        cargo.args(["--test", target]);
    }
    let output = cargo.output()?;
    let mut programs = BTreeMap::new();
    let mut diagnoses = Vec::new();

    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if message["message"]["level"] == "error" {
            let spans = message["message"]["spans"].as_array();
            for span in spans.into_iter().flatten() {
                diagnoses.push(Diagnosis {
                    file: span["file_name"].as_str().unwrap_or("").to_owned(),
                    at: span["byte_start"].as_u64().unwrap_or(0) as usize,
                    primary: span["is_primary"] == true,
                    code: message["message"]["code"]["code"]
                        .as_str()
                        .unwrap_or("")
                        .to_owned(),
                    text: message["message"]["rendered"]
                        .as_str()
                        .unwrap_or("")
                        .to_owned(),
                    what: message["message"]["message"]
                        .as_str()
                        .unwrap_or("")
                        .to_owned(),
                });
            }
        }
        if let Some((package, target, program)) = crate::program(&message)? {
            programs.insert((package, target), program);
        }
    }
    if output.status.success() {
        return Ok(Ok(programs));
    }
    if diagnoses.is_empty() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Err(diagnoses))
}

struct Diagnosis {
    file: String,
    at: usize,
    primary: bool,
    code: String,
    what: String,
    text: String,
}

/// Sources with all changes that go together, built.
struct Built {
    programs: Programs,
    switched: BTreeSet<usize>,
}

fn build_switched(tree: &Tree, listed: &[Listed], left: &mut Left) -> Result<Built> {
    let Left {
        without,
        unviable,
        constant,
    } = left;
    let files: BTreeSet<&str> = listed.iter().map(|m| m.file.as_str()).collect();

    for _ in 0..40 {
        let mut places = BTreeMap::new();
        let mut done = BTreeSet::new();
        for head in ["arch/src/lib.rs", "p2m/src/lib.rs"]
            .into_iter()
            .chain(files.iter().copied())
        {
            let source = fs::read_to_string(head)?;
            let made = switched(&source, listed, head, without, constant)?;
            let mut text = made.text;
            // Of the same length: places stay right.
            for no_std in ["#![no_std]", "#![cfg_attr(not(test), no_std)]"] {
                text = text.replace(no_std, &" ".repeat(no_std.len()));
            }
            if head == "arch/src/lib.rs" {
                text.push_str(QUESTION);
            }
            write(&tree.root.join(head), text.as_bytes())?;
            done.extend(made.done);
            places.insert(head, made.places);
        }
        let diagnoses = match build(tree, &TARGETS, MANY_RUNS)? {
            Ok(programs) => {
                return Ok(Built {
                    programs,
                    switched: done,
                });
            }
            Err(diagnoses) => diagnoses,
        };
        let before = (without.len(), constant.len());
        for d in &diagnoses {
            if d.code == "E0015" && !d.what.contains("`which`") && !d.what.contains("`is`") {
                let name = d.what.split('`').nth(1).unwrap_or("");
                let name = name.rsplit("::").next().unwrap_or(name);
                constant.insert(name.to_owned());
                continue;
            }
            let inside = places.get(d.file.as_str()).into_iter().flatten();
            let innermost = inside
                .filter(|(range, _)| range.contains(&d.at))
                .min_by_key(|(range, _)| range.len());
            if let Some((_, mutants)) = innermost.filter(|_| d.primary) {
                without.extend(mutants.clone());
                // It would not compile alone either.
                if mutants.clone().all(|n| listed[n].genre == "FnValue") {
                    unviable.extend(mutants.clone());
                }
            }
        }
        if (without.len(), constant.len()) == before {
            for d in diagnoses {
                eprintln!("{}", d.text);
            }
            anyhow::bail!(
                "the switched core does not build in {}",
                tree.root.display()
            );
        }
    }
    anyhow::bail!("the switched core never builds")
}

/// A test, how long it takes, and what it comes by.
struct Test {
    name: String,
    program: PathBuf,
    dir: PathBuf,
    test: String,
    took: Duration,
    reached: BTreeSet<usize>,
}

/// It ends after so much time of the processor, if not before.
fn command(test: &Test, number: usize, limit: Duration) -> Command {
    let limited = format!("ulimit -t {} && exec \"$@\"", limit.as_secs() + 1);
    let plain = crate::test(&test.program, &test.dir, &test.test, number);
    let mut command = Command::new("sh");

    command
        .args(["-c", &limited, "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(&test.dir)
        .envs(
            plain
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .envs(CASES);
    command
}

fn tests(tree: &Tree, programs: &Programs, memory: &mut Memory) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for (package, target) in TARGETS {
        let Some(program) = programs.get(&(package.to_owned(), target.to_owned())) else {
            continue;
        };
        let above = if package == "machine" { "tests/" } else { "" };
        let dir = tree.root.join(format!("{above}{package}"));
        let list = Command::new(program)
            .args(["--list", "--format", "terse"])
            .output()?;
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            let Some(test) = line.strip_suffix(": test") else {
                continue;
            };
            tests.push(Test {
                name: format!("{package}::{target}::{test}"),
                program: program.clone(),
                dir: dir.clone(),
                test: test.to_owned(),
                took: Duration::ZERO,
                reached: BTreeSet::new(),
            });
        }
    }
    let reached = tree.root.join("reached");
    for test in &mut tests {
        if let Some(known) = memory.reach(&test.name) {
            (test.took, test.reached) = (known.took, known.reached);
            continue;
        }
        let _ = fs::remove_file(&reached);
        let before = used()?;
        let mut command = command(test, 0, SLOW);
        command.env("REACHED", &reached);
        let output = run(command, PATIENCE)?;
        test.took = used()?.saturating_sub(before);
        let Some(output) = output.filter(|_| test.took < SLOW) else {
            println!("mutants: not tried, for it takes too long: {}", test.name);
            test.took = test.took.max(SLOW);
            continue;
        };
        if !output.status.success() {
            std::io::stderr().write_all(&output.stdout)?;
            std::io::stderr().write_all(&output.stderr)?;
            anyhow::bail!("{} does not pass on the core as it is", test.name);
        }
        let text = fs::read_to_string(&reached).unwrap_or_default();
        test.reached = text.lines().filter_map(|n| n.parse().ok()).collect();
    }
    let reach = tests.iter().map(|test| {
        let (took, reached) = (test.took, test.reached.clone());
        (test.name.clone(), Reach { took, reached })
    });
    memory.note_reach(reach.collect())?;
    tests.retain(|test| test.took < SLOW);
    tests.sort_by_key(|test| test.took);
    Ok(tests)
}

/// Time of the processor that all children took that have ended.
fn used() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |t: TimeVal| Duration::from_micros(t.num_microseconds() as u64);

    Ok(time(usage.user_time()) + time(usage.system_time()))
}

fn failed(output: Option<Output>) -> bool {
    // One that does not end is noticed.
    output.is_none_or(|output| !output.status.success())
}

/// How often each test has noticed a change of the same function.
type Caught = BTreeMap<String, u32>;

/// Try one change on each test that comes by it: the one first that noticed it
/// when it was last tried, then those that notice most in the same function, then
/// the fastest.
fn fate(tests: &[Test], number: usize, last: Option<&str>, caught: &Caught) -> Result<Fate> {
    let mut some: Vec<&Test> = tests
        .iter()
        .filter(|t| t.reached.contains(&number))
        .collect();

    some.sort_by_key(|test| {
        let count = caught.get(&test.name).copied().unwrap_or(0);
        (last != Some(test.name.as_str()), Reverse(count))
    });
    for test in some {
        // Time of the processor: others may be at work on this machine.
        let limit = Duration::from_secs(3) + 8 * test.took;
        if failed(run(command(test, number, limit), 10 * limit)?) {
            return Ok(Fate::Caught(test.name.clone()));
        }
    }
    Ok(Fate::Survived)
}

/// Try one that does not go together with the others: a build for it alone.
fn alone(tree: &Tree, m: &Listed) -> Result<Fate> {
    for head in ["arch", "p2m"] {
        crate::copy(Path::new(head), &tree.root.join(head))?;
    }
    let source = fs::read_to_string(&m.file)?;
    let old = text_of(&source, m).context("what is replaced")?;
    let line: usize = source
        .split_inclusive('\n')
        .take(m.span.start.line - 1)
        .map(str::len)
        .sum();
    let at = line
        + source[line..]
            .char_indices()
            .map(|(at, _)| at)
            .nth(m.span.start.column - 1)
            .unwrap_or(0);
    let new = match m.genre.as_str() {
        "FnValue" if old.starts_with('{') => format!("{{ {} }}", m.replacement),
        _ => m.replacement.clone(),
    };
    let text = format!("{}{new}{}", &source[..at], &source[at + old.len()..]);
    write(&tree.root.join(&m.file), text.as_bytes())?;
    for (i, (package, target)) in TARGETS.into_iter().enumerate() {
        if package == "arch" && !m.file.starts_with("arch/") {
            continue;
        }
        let Ok(programs) = build(tree, &TARGETS[i..=i], ONE_RUN)? else {
            return Ok(Fate::Unviable);
        };
        let program = programs
            .get(&(package.to_owned(), target.to_owned()))
            .context("no program")?;
        let above = if package == "machine" { "tests/" } else { "" };
        let mut command = Command::new(program);
        command
            .current_dir(tree.root.join(format!("{above}{package}")))
            .env("RUST_BACKTRACE", "0")
            .envs(CASES);
        if failed(run(command, PATIENCE)?) {
            return Ok(Fate::Caught(format!("{package}::{target}")));
        }
    }
    Ok(Fate::Survived)
}

fn listed() -> Result<Vec<Listed>> {
    let cargo = std::env::var_os("CARGO_MUTANTS")
        .context("CARGO_MUTANTS does not say where cargo-mutants is")?;
    let output = Command::new(cargo)
        .args(["mutants", "--list", "--json", "-p", "arch", "-p", "p2m"])
        .output()
        .context("cargo-mutants")?;
    ensure!(
        output.status.success(),
        "cargo-mutants: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut listed: Vec<Listed> = serde_json::from_slice(&output.stdout)?;
    listed.sort_by_key(|m| (m.file.clone(), m.span, m.genre.clone()));
    ensure!(!listed.is_empty(), "cargo-mutants has nothing to change");
    Ok(listed)
}

pub fn main(out: &Path, options: &Options) -> Result<()> {
    let listed = listed()?;
    let names = names(&listed);
    let known: Known = toml::from_str(&fs::read_to_string(SURVIVORS)?)?;
    fs::create_dir_all(out)?;
    let mut memory = Memory::new(out.join("remembered.json"), &names, options.again)?;
    let mut fates: BTreeMap<usize, Fate> = names
        .iter()
        .enumerate()
        .filter_map(|(n, name)| Some((n, memory.fate(name)?)))
        .collect();
    let wanted = |n: &usize| {
        let file = &listed[*n].file;
        let chosen = options.file.is_empty() || options.file.iter().any(|f| file.contains(f));
        let survived = memory.once(&names[*n]) == Some(&Fate::Survived);

        chosen && (survived || !options.survived)
    };
    let mut todo: Vec<usize> = (0..listed.len())
        .filter(|n| !fates.contains_key(n))
        .filter(wanted)
        .collect();
    // What all tests have to be tried on comes last.
    todo.sort_by_key(|&n| memory.once(&names[n]) == Some(&Fate::Survived));
    println!(
        "mutants: {} changes, {} to be tried",
        listed.len(),
        todo.len()
    );
    if !todo.is_empty() {
        try_all(
            out,
            options,
            &listed,
            &names,
            &todo,
            &mut memory,
            &mut fates,
        )?;
    }
    report(options, &listed, &names, &fates, &known)
}

fn try_all(
    out: &Path,
    options: &Options,
    listed: &[Listed],
    names: &[String],
    todo: &[usize],
    memory: &mut Memory,
    fates: &mut BTreeMap<usize, Fate>,
) -> Result<()> {
    let start = Instant::now();
    let in_time = || {
        let minutes = options.minutes.unwrap_or(u64::MAX / 60);
        start.elapsed() < Duration::from_secs(60 * minutes)
    };
    let tree = Tree::new(std::path::absolute(out.join("generated"))?)?;
    let mut left = memory.left();
    let Built { programs, switched } = build_switched(&tree, listed, &mut left)?;
    memory.note_left(&left)?;
    let tests = tests(&tree, &programs, memory)?;
    println!(
        "mutants: {} with one build, {} do not compile, {} alone; {} tests in {:.0} s",
        switched.len(),
        left.unviable.len(),
        listed.len() - switched.len() - left.unviable.len(),
        tests.len(),
        tests.iter().map(|t| t.took.as_secs_f64()).sum::<f64>()
    );

    let function = |n: usize| (&listed[n].file, listed[n].function.as_ref());
    let (together, apart): (Vec<usize>, Vec<usize>) =
        todo.iter().copied().partition(|n| switched.contains(n));
    let next = AtomicUsize::new(0);
    let caught = Mutex::new(BTreeMap::<_, Caught>::new());
    let memory = Mutex::new(memory);
    let done: BTreeMap<usize, Fate> = std::thread::scope(|scope| {
        let work = || -> Result<Vec<(usize, Fate)>> {
            let mut done = Vec::new();
            while in_time() {
                let Some(&n) = together.get(next.fetch_add(1, Relaxed)) else {
                    break;
                };
                let last = match memory.lock().expect("no panic").once(&names[n]) {
                    Some(Fate::Caught(by)) => Some(by.clone()),
                    _ => None,
                };
                let alike = caught.lock().expect("no panic").get(&function(n)).cloned();
                let fate = fate(&tests, n + 1, last.as_deref(), &alike.unwrap_or_default())?;
                println!("mutants: {}: {fate:?}", names[n]);
                memory.lock().expect("no panic").note(&names[n], &fate)?;
                if let Fate::Caught(by) = &fate {
                    let mut caught = caught.lock().expect("no panic");
                    let alike = caught.entry(function(n)).or_default();
                    *alike.entry(by.clone()).or_default() += 1;
                }
                done.push((n, fate));
            }
            Ok(done)
        };
        let workers: Vec<_> = (0..options.jobs.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        let mut all = BTreeMap::new();
        for worker in workers {
            all.extend(worker.join().expect("it does not panic")?);
        }
        anyhow::Ok(all)
    })?;
    fates.extend(done);

    let memory = memory.into_inner().expect("no panic");
    let mut tree = None;
    for n in apart {
        if !in_time() {
            break;
        }
        let fate = if left.unviable.contains(&n) {
            Fate::Unviable
        } else {
            if tree.is_none() {
                tree = Some(Tree::new(std::path::absolute(out.join("alone"))?)?);
            }
            alone(tree.as_ref().context("it was just made")?, &listed[n])?
        };
        println!("mutants: {} (built alone): {fate:?}", names[n]);
        memory.note(&names[n], &fate)?;
        fates.insert(n, fate);
    }
    Ok(())
}

fn report(
    options: &Options,
    listed: &[Listed],
    names: &[String],
    fates: &BTreeMap<usize, Fate>,
    known: &Known,
) -> Result<()> {
    let mut modules: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for (n, m) in listed.iter().enumerate() {
        let counts = modules.entry(m.file.as_str()).or_default();
        let column = match fates.get(&n) {
            Some(Fate::Caught(_)) => 0,
            Some(Fate::Survived) => 1,
            Some(Fate::Unviable) => 2,
            None => continue,
        };
        counts[column] += 1;
    }
    let row = |name: &str, [caught, survived, unviable]: [usize; 3]| {
        let score = 100.0 * caught as f64 / (caught + survived).max(1) as f64;
        let cells = [
            name.to_owned(),
            (caught + survived).to_string(),
            caught.to_string(),
            survived.to_string(),
            unviable.to_string(),
            format!("{score:.1} %"),
        ];
        (cells, score)
    };
    let sum = modules.values().fold([0; 3], |sum, counts| {
        [sum[0] + counts[0], sum[1] + counts[1], sum[2] + counts[2]]
    });
    let (total, score) = row("all", sum);
    let untried = listed.len() - fates.len();
    let rows: Vec<_> = modules
        .iter()
        .map(|(name, counts)| row(name, *counts).0)
        .chain([total])
        .collect();
    let head = [
        "module",
        "tried",
        "caught",
        "survived",
        "do not compile",
        "score",
    ];
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(head);
    table.add_rows(&rows);
    println!("{table}");

    if let Some(path) = &options.write {
        let mut text = format!(
            "<!-- SPDX-License-Identifier: GPL-2.0-only -->\n# What cargo-mutants changes, and who notices\n\n\
             Written by `make -f build.mk mutants`, which tries each change that cargo-mutants lists for `p2m/` and `arch/` on the\n\
             tests that come by it. What nobody notices is in `{SURVIVORS}`, each with the reason.\n\n\
             | {} |\n|{}\n",
            head.join(" | "),
            "---|".repeat(head.len())
        );
        for row in &rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        if untried > 0 {
            text.push_str(&format!("\n{untried} changes were not tried.\n"));
        }
        write(path, text.as_bytes())?;
    }

    let reasons: BTreeMap<&str, &str> = known
        .survivor
        .iter()
        .map(|s| (s.name.as_str(), s.reason.as_str()))
        .collect();
    let mut unknown = 0;
    for (n, name) in names.iter().enumerate() {
        match (fates.get(&n), reasons.get(name.as_str())) {
            (Some(Fate::Survived), None) => {
                unknown += 1;
                println!(
                    "mutants: nobody notices, and no reason is known (line {}): {name}",
                    listed[n].span.start.line
                );
            }
            (Some(Fate::Caught(by)), Some(_)) => {
                println!("mutants: noticed by {by}, take it out of {SURVIVORS}: {name}");
            }
            _ => {}
        }
    }
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    for gone in reasons.keys().filter(|name| !names.contains(*name)) {
        unknown += 1;
        println!("mutants: there is no such change any more, take it out of {SURVIVORS}: {gone}");
    }
    ensure!(unknown == 0, "{unknown} changes: see above");
    ensure!(
        score >= ENOUGH,
        "{score:.1} % are noticed, and {ENOUGH} % have to be"
    );
    println!(
        "mutants: {} changes tried, {score:.1} % noticed",
        sum[0] + sum[1]
    );
    ensure!(
        untried == 0 || !options.file.is_empty() || options.survived,
        "{untried} changes are to be tried yet: run it again"
    );
    Ok(())
}
