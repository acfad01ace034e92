// SPDX-License-Identifier: GPL-2.0-only
//! Everything that cargo-mutants would change in the core, tried on the fastest
//! tests that come by it; what nobody notices has to be known, with a reason.

use crate::switches::{Listed, QUESTION, switched};
use crate::{PATIENCE, Tree, run, write};
use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Where the tests are that are tried.
const TARGETS: [(&str, &str); 8] = [
    ("arch", "lib"),
    ("p2m", "lib"),
    ("machine", "lib"),
    ("machine", "xsa"),
    ("machine", "reasons"),
    ("machine", "losses"),
    ("machine", "faults"),
    ("machine", "properties"),
];

/// A test that takes longer, with all the questions in the core, is not tried.
const SLOW: Duration = Duration::from_secs(15);

/// Random tests are tried with so many cases, always the same ones.
const CASES: [(&str, &str); 2] = [("PROPTEST_CASES", "24"), ("PROPTEST_RNG_SEED", "1")];

/// How many of a hundred have to be noticed.
const ENOUGH: f64 = 95.0;

/// Test programs by package and target.
type Programs = BTreeMap<(String, String), PathBuf>;

const SURVIVORS: &str = "tests/mutations/survivors.toml";

#[derive(clap::Args)]
pub struct Options {
    /// Only changes in files whose paths contain this, or one of these.
    #[arg(long)]
    file: Vec<String>,
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// By this test.
    Caught(String),
    Survived,
    /// It does not compile.
    Unviable,
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
fn build(tree: &Tree, targets: &[(&str, &str)]) -> Result<Result<Programs, Vec<Diagnosis>>> {
    // Left by a test that failed; cargo would take it for a member of the workspace.
    let _ = fs::remove_dir_all(tree.root.join("arch/proptest-regressions"));
    let mut cargo = tree.cargo(&["test", "--no-run", "-q", "--message-format=json"]);
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
    /// Of a value that is none of the function's type.
    unviable: BTreeSet<usize>,
}

fn build_switched(tree: &Tree, listed: &[Listed]) -> Result<Built> {
    let mut without = BTreeSet::new();
    let mut unviable = BTreeSet::new();
    let mut constant = BTreeSet::new();
    let files: BTreeSet<&str> = listed.iter().map(|m| m.file.as_str()).collect();

    for _ in 0..40 {
        let mut places = BTreeMap::new();
        let mut done = BTreeSet::new();
        for head in ["arch/src/lib.rs", "p2m/src/lib.rs"]
            .into_iter()
            .chain(files.iter().copied())
        {
            let source = fs::read_to_string(head)?;
            let made = switched(&source, listed, head, &without, &constant)?;
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
        let diagnoses = match build(tree, &TARGETS)? {
            Ok(programs) => {
                return Ok(Built {
                    programs,
                    switched: done,
                    unviable,
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

fn command(test: &Test, number: usize) -> Command {
    let mut command = crate::test(&test.program, &test.dir, &test.test, number);
    command.envs(CASES);
    command
}

fn tests(tree: &Tree, programs: &Programs) -> Result<Vec<Test>> {
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
        let _ = fs::remove_file(&reached);
        let start = Instant::now();
        let mut command = command(test, 0);
        command.env("REACHED", &reached);
        let output = run(command, SLOW)?;
        test.took = start.elapsed();
        let Some(output) = output else {
            println!("mutants: not tried, for it takes too long: {}", test.name);
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
    tests.retain(|test| test.took < SLOW);
    tests.sort_by_key(|test| test.took);
    Ok(tests)
}

fn failed(output: Option<Output>) -> bool {
    // One that does not end is noticed.
    output.is_none_or(|output| !output.status.success())
}

/// Try one change on each test that comes by it.
fn fate(tests: &[Test], number: usize) -> Result<Fate> {
    for test in tests.iter().filter(|t| t.reached.contains(&number)) {
        let patience = Duration::from_secs(10) + 10 * test.took;
        if failed(run(command(test, number), patience)?) {
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
        let Ok(programs) = build(tree, &TARGETS[i..=i])? else {
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

fn listed(options: &Options) -> Result<Vec<Listed>> {
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
    listed.retain(|m| options.file.is_empty() || options.file.iter().any(|f| m.file.contains(f)));
    listed.sort_by_key(|m| (m.file.clone(), m.span, m.genre.clone()));
    ensure!(!listed.is_empty(), "cargo-mutants has nothing to change");
    Ok(listed)
}

pub fn main(out: &Path, options: &Options) -> Result<()> {
    let listed = listed(options)?;
    let names = names(&listed);
    let known: Known = toml::from_str(&fs::read_to_string(SURVIVORS)?)?;
    let tree = Tree::new(std::path::absolute(out.join("generated"))?)?;
    println!("mutants: {} changes", listed.len());
    let Built {
        programs,
        switched,
        unviable,
    } = build_switched(&tree, &listed)?;
    let tests = tests(&tree, &programs)?;
    let apart = (0..listed.len()).filter(|n| !switched.contains(n) && !unviable.contains(n));
    for n in apart {
        println!("mutants: to be built alone: {}", names[n]);
    }
    println!(
        "mutants: {} with one build, {} tests in {:.0} s",
        switched.len(),
        tests.len(),
        tests.iter().map(|t| t.took.as_secs_f64()).sum::<f64>()
    );

    let next = AtomicUsize::new(0);
    let numbers: Vec<usize> = switched.iter().copied().collect();
    let mut fates: BTreeMap<usize, Fate> = std::thread::scope(|scope| {
        let work = || -> Result<Vec<(usize, Fate)>> {
            let mut done = Vec::new();
            while let Some(&n) = numbers.get(next.fetch_add(1, Relaxed)) {
                let fate = fate(&tests, n + 1)?;
                println!("mutants: {}: {fate:?}", names[n]);
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
    fates.extend(unviable.into_iter().map(|n| (n, Fate::Unviable)));
    let tree = Tree::new(std::path::absolute(out.join("alone"))?)?;
    for (n, m) in listed.iter().enumerate() {
        if let Entry::Vacant(fate) = fates.entry(n) {
            let fate = fate.insert(alone(&tree, m)?);
            println!("mutants: {} (built alone): {fate:?}", names[n]);
        }
    }
    report(options, &listed, &names, &fates, &known)
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
        let column = match fates[&n] {
            Fate::Caught(_) => 0,
            Fate::Survived => 1,
            Fate::Unviable => 2,
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
        if !options.file.is_empty() {
            let only = options.file.join("`, `");
            text.push_str(&format!(
                "\nThis was a run on part of the core: `{only}`. The rest was not tried.\n"
            ));
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
        match (&fates[&n], reasons.get(name.as_str())) {
            (Fate::Survived, None) => {
                unknown += 1;
                println!(
                    "mutants: nobody notices, and no reason is known (line {}): {name}",
                    listed[n].span.start.line
                );
            }
            (Fate::Caught(by), Some(_)) => {
                println!("mutants: noticed by {by}, take it out of {SURVIVORS}: {name}");
            }
            _ => {}
        }
    }
    if options.file.is_empty() {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        for gone in reasons.keys().filter(|name| !names.contains(*name)) {
            unknown += 1;
            println!(
                "mutants: there is no such change any more, take it out of {SURVIVORS}: {gone}"
            );
        }
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
    Ok(())
}
