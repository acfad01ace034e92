// SPDX-License-Identifier: GPL-2.0-only
//! The long form of what `make -f build.mk test` does in short: each property with
//! many cases, each model larger; and one table of what was tried.
//!
//! What a part prints goes to a log; the figures in the table are read from
//! there, so that nothing is said that was not done.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use regex::Regex;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

#[derive(Parser)]
#[command(about = "The long form of the tests on the host; prints one table")]
struct Args {
    /// Only parts whose names contain this.
    filter: Option<String>,
    /// How much more is tried than by default.
    #[arg(long, default_value_t = 1)]
    times: u64,
    /// All random choices follow from it.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the logs go.
    #[arg(long, default_value = "out/logs/verify")]
    logs: PathBuf,
    /// Write the table there, if all of it holds.
    #[arg(long, conflicts_with = "filter")]
    write: Option<PathBuf>,
}

/// One line of the table.
struct Part {
    name: &'static str,
    command: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// What was tried: what it is called, and where the log says how much; all
    /// matches are added up.
    tried: (&'static str, &'static str),
    seeded: bool,
}

fn cargo(args: &str) -> Vec<String> {
    let args = format!("cargo {args}");
    args.split_whitespace().map(str::to_owned).collect()
}

fn parts(times: u64, seed: u64) -> Vec<Part> {
    let proptest = |cases: u64| {
        vec![
            ("PROPTEST_CASES", (cases * times).to_string()),
            ("PROPTEST_RNG_SEED", seed.to_string()),
        ]
    };
    let test = |package: &str, target: &str| {
        cargo(&format!(
            "test -q --locked --release -p {package} --test {target} -- --nocapture"
        ))
    };

    vec![
        Part {
            name: "invariants under random scripts",
            command: test("machine", "properties"),
            env: proptest(2_000),
            tried: ("scripts", r"properties: (\d+) scripts more"),
            seeded: true,
        },
        Part {
            name: "failure, death and meddling at every call",
            command: test("machine", "faults"),
            env: vec![("FAULTS", (64 * times).to_string())],
            tried: ("runs", r"faults: (\d+) runs"),
            seeded: false,
        },
        Part {
            name: "no leaf is broken that can be kept",
            command: test("machine", "optimum"),
            env: vec![
                ("OPTIMUM_OPS", (100_000 * times).to_string()),
                ("PROPTEST_RNG_SEED", seed.to_string()),
            ],
            // On each of three machines.
            tried: ("operations", r"optimum: (\d+) operations"),
            seeded: true,
        },
        Part {
            name: "orders of events at random",
            command: test("schedules", "random"),
            env: vec![
                ("SCHEDULES", (2_000_000 * times).to_string()),
                ("SHUTTLE_RANDOM_SEED", seed.to_string()),
            ],
            tried: ("schedules", r"schedules: (\d+) schedules"),
            seeded: true,
        },
        Part {
            name: "all orders of events, regions of 4 pages",
            command: test("model", "small"),
            env: vec![
                ("MODEL_PAGES", "4".to_owned()),
                ("MODEL_MOVES", "3".to_owned()),
            ],
            tried: ("states", r"model: (\d+) states in all"),
            seeded: false,
        },
        // Each move more makes it twenty times as many, each page more doubles it.
        Part {
            name: "all orders of more events, regions of 4 pages",
            command: test("model", "small"),
            env: vec![
                ("MODEL_PAGES", "2".to_owned()),
                ("MODEL_MOVES", "4".to_owned()),
            ],
            tried: ("states", r"model: (\d+) states in all"),
            seeded: false,
        },
        Part {
            name: "all orders of events, 2 pages of 512",
            command: test("schedules", "exhaustive"),
            env: vec![("MODEL_MOVES", "2".to_owned())],
            tried: ("states", r"model: (\d+) states in all"),
            seeded: false,
        },
        Part {
            name: "address sanitizer",
            command: cargo(
                "test -q --locked -p arch -p p2m -p machine -p xen-rs --lib --test xsa --test reasons \
                 --test losses --test paravirt --test large \
                 --target x86_64-unknown-linux-gnu --target-dir target/asan",
            ),
            // The compiler has it, and calls it unstable.
            env: vec![
                ("RUSTC_BOOTSTRAP", "1".to_owned()),
                ("RUSTFLAGS", "-Zsanitizer=address".to_owned()),
            ],
            tried: ("tests", r"(?m)^test result: ok\. (\d+) passed"),
            seeded: false,
        },
        Part {
            name: "optimised, and all that the compiler can check",
            command: cargo(
                "test -q --locked --release -p arch -p p2m -p machine -p xen-rs --lib --test xsa \
                 --test reasons --test losses --test paravirt --test large --test properties \
                 --test faults --target-dir target/checked",
            ),
            env: [
                proptest(500),
                vec![
                    ("RUSTC_BOOTSTRAP", "1".to_owned()),
                    (
                        "RUSTFLAGS",
                        format!(
                            "-Zub-checks=yes -Zrandomize-layout -Zlayout-seed={seed} \
                             -Cdebug-assertions=yes -Coverflow-checks=yes"
                        ),
                    ),
                ],
            ]
            .concat(),
            tried: ("tests", r"(?m)^test result: ok\. (\d+) passed"),
            seeded: true,
        },
        Part {
            name: "calls made of any bytes",
            command: test("fuzz", "exchange"),
            env: vec![("BOLERO_RANDOM_ITERATIONS", (20_000 * times).to_string())],
            tried: ("inputs", r"rng inputs: (\d+)"),
            seeded: false,
        },
        Part {
            name: "page tables made of any bytes",
            command: test("fuzz", "entries"),
            env: vec![("BOLERO_RANDOM_ITERATIONS", (2_000_000 * times).to_string())],
            tried: ("inputs", r"rng inputs: (\d+)"),
            seeded: false,
        },
        Part {
            name: "mutations that are known",
            command: cargo("run -q --locked -p mutations -- --types"),
            env: Vec::new(),
            tried: ("mutations", r"(?m)^(\d+) mutations, each noticed"),
            seeded: false,
        },
        Part {
            name: "12 TiB, 1,024 domains, a day",
            command: cargo(&format!(
                "run -q --locked --release -p simulation -- --hours 24 --seed {seed}"
            )),
            env: Vec::new(),
            tried: ("events", r"(?m)(\d+) pages moved"),
            seeded: true,
        },
    ]
}

/// What was tried, and how that went.
struct Row {
    cells: [String; 7],
    holds: bool,
}

const HEAD: [&str; 7] = ["property", "tried", "", "with", "seconds", "seed", ""];

fn run(part: &Part, log: &Path, seed: u64) -> Result<Row> {
    let file = File::create(log)?;
    let start = Instant::now();
    let status = Command::new(&part.command[0])
        .args(&part.command[1..])
        .envs(part.env.iter().map(|(name, value)| (name, value)))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| part.command.join(" "))?;
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let tried: u64 = Regex::new(part.tried.1)?
        .captures_iter(&text)
        .filter_map(|c| c[1].parse::<u64>().ok())
        .sum();
    // A part that tried nothing shows nothing.
    let holds = status.success() && tried > 0;
    let with = part.env.iter().filter(|(name, _)| !name.ends_with("_SEED"));
    let with: Vec<_> = with
        .map(|(name, value)| format!("{name}={value}"))
        .collect();

    Ok(Row {
        cells: [
            part.name.to_owned(),
            tried.to_string(),
            part.tried.0.to_owned(),
            with.join(" "),
            format!("{:.0}", start.elapsed().as_secs_f64()),
            if part.seeded {
                seed.to_string()
            } else {
                String::new()
            },
            if holds { "holds" } else { "FAILS" }.to_owned(),
        ],
        holds,
    })
}

fn page(rows: &[Row], seed: u64) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = HEAD.map(str::to_owned);
    let mut text = format!(
        "<!-- SPDX-License-Identifier: GPL-2.0-only -->\n# The long form of the tests on the host\n\n\
         Written by `make -f build.mk verify`. The same again: `make -f build.mk verify VERIFY_ARGS='--seed {seed}'`.\n\n\
         {}|{}\n",
        line(&head),
        "---|".repeat(HEAD.len())
    );

    for row in rows {
        let mut cells = row.cells.clone();
        if !cells[3].is_empty() {
            cells[3] = format!("`{}`", cells[3]);
        }
        text.push_str(&line(&cells));
    }
    text
}

fn main() -> Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_secs())
    });
    let mut rows = Vec::new();
    let mut failed = Vec::new();

    fs::create_dir_all(&args.logs)?;
    for (i, part) in parts(args.times, seed).iter().enumerate() {
        if args.filter.as_ref().is_some_and(|f| !part.name.contains(f)) {
            continue;
        }
        println!("  VERIFY  {}", part.name);
        let log = args.logs.join(format!("{i}.log"));
        let row = run(part, &log, seed)?;
        println!("          {}", row.cells[1..].join(" "));
        if !row.holds {
            failed.push(format!("{}: see {}", part.name, log.display()));
        }
        rows.push(row);
    }
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(HEAD);
    table.add_rows(rows.iter().map(|row| &row.cells));
    println!("{table}");
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    if let Some(path) = &args.write {
        fs::write(path, page(&rows, seed))?;
    }
    Ok(())
}
