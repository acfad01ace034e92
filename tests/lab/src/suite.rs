// SPDX-License-Identifier: GPL-2.0-only
//! Runs the whole table, several machines at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use regex::Regex;

use crate::figures::Figures;
use crate::lab::{Request, Xen, perform};
use crate::passed::Passed;
use crate::place::Place;
use crate::tables::{FLAVOURS, Machine, Scenario, Tables};

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub scenario: &'a Scenario,
    pub machine: &'a Machine,
    pub flavour: &'a str,
}

impl Case<'_> {
    pub fn request(&self) -> Request<'_> {
        Request {
            name: &self.scenario.name,
            guest: &self.scenario.guest,
            machine: self.machine,
            memory_mib: self.scenario.memory_mib,
            xen: Xen::Flavour(self.flavour.to_owned()),
            words: self.scenario.xen.clone(),
            limit: self.scenario.limit(),
            expect: &self.scenario.expect,
        }
    }

    pub fn title(&self) -> String {
        self.request().title()
    }
}

/// All cases of the tables but those that are apart, or all whose title (`test@machine@flavour`) matches.
pub fn cases<'a>(tables: &'a Tables, filter: Option<&Regex>) -> Result<Vec<Case<'a>>> {
    let mut cases = vec![];
    let wanted = |scenario: &&Scenario| filter.is_some() || !scenario.apart;
    for scenario in tables.scenarios.iter().filter(wanted) {
        for flavour in &scenario.flavours {
            for machine in &scenario.machines {
                let machine = tables.machine(machine)?;
                if machine.runs(flavour) {
                    cases.push(Case {
                        scenario,
                        machine,
                        flavour,
                    });
                }
            }
        }
    }
    if let Some(filter) = filter {
        cases.retain(|case| filter.is_match(&case.title()));
        ensure!(
            !cases.is_empty(),
            "no test matches {filter}: see `lab list` (what is matched is TEST@MACHINE@FLAVOUR)"
        );
    }
    Ok(cases)
}

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Done {
    pub passed: bool,
    pub wall: Duration,
    /// What is wrong; empty if nothing is.
    pub complaint: String,
    /// What the guest counted.
    pub counts: BTreeMap<String, u64>,
    /// It was not run now: it passed earlier, and nothing has changed since.
    pub earlier: bool,
}

/// Shows how far it is.
enum Progress {
    Bar(ProgressBar),
    Lines { all: usize },
}

impl Progress {
    fn new(all: usize, bar: bool) -> Progress {
        if bar {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(all as u64).with_style(style);
            bar.enable_steady_tick(Duration::from_secs(1));
            Progress::Bar(bar)
        } else {
            Progress::Lines { all }
        }
    }

    fn begins(&self, running: &[String]) {
        if let Progress::Bar(bar) = self {
            bar.set_message(running.join(", "));
        }
    }

    fn ends(&self, finished: usize, title: &str, done: &Done, running: &[String]) {
        let verdict = if done.passed { "pass" } else { "FAIL" };
        let seconds = done.wall.as_secs_f64();
        match self {
            Progress::Bar(bar) => {
                if !done.passed {
                    bar.suspend(|| {
                        print!("{verdict} {title} ({seconds:.1} s)\n{}", done.complaint)
                    });
                }
                bar.inc(1);
                bar.set_message(running.join(", "));
            }
            Progress::Lines { all } => {
                println!("[{finished}/{all}] {verdict} {title} ({seconds:.1} s)");
                print!("{}", done.complaint);
            }
        }
    }

    fn finish(&self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Runs the cases, as many at once as `jobs` CPUs are enough for; the results are in the order of
/// the cases. With `passed`, what passed already is not run again.
pub fn run(
    place: &Place,
    cases: &[Case<'_>],
    jobs: usize,
    bar: bool,
    passed: Option<Passed>,
) -> Vec<Done> {
    struct State {
        waiting: Vec<usize>,
        free: usize,
        running: Vec<String>,
        results: Vec<Option<Done>>,
    }

    let mut results = vec![None; cases.len()];
    let mut digests = vec![None; cases.len()];
    let passed = passed.map(|mut passed| {
        for (index, case) in cases.iter().enumerate() {
            // What cannot be read will be said by the run.
            let digest = passed.digest(place, &case.request()).ok();
            let pass = digest.as_ref().and_then(|d| passed.find(&case.title(), d));
            results[index] = pass.map(|pass| Done {
                passed: true,
                wall: pass.wall,
                complaint: String::new(),
                counts: pass.counts.clone(),
                earlier: true,
            });
            digests[index] = digest;
        }
        Mutex::new(passed)
    });

    // What takes all CPUs comes first, so that nothing has to wait for them to be free together.
    let mut waiting: Vec<usize> = (0..cases.len())
        .filter(|&index| results[index].is_none())
        .collect();
    waiting.sort_by_key(|&index| std::cmp::Reverse(weight(&cases[index], jobs)));

    let progress = Progress::new(cases.len(), bar);
    let changed = Condvar::new();
    let state = Mutex::new(State {
        waiting,
        free: jobs.max(1),
        running: vec![],
        results,
    });
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);

    let work = || {
        let mut guard = lock();
        loop {
            let free = guard.free;
            let fits = guard
                .waiting
                .iter()
                .position(|&index| weight(&cases[index], jobs) <= free);
            let Some(position) = fits else {
                if guard.waiting.is_empty() {
                    return;
                }
                guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            };

            let index = guard.waiting.remove(position);
            let case = &cases[index];
            let title = case.title();
            guard.free -= weight(case, jobs);
            guard.running.push(title.clone());
            progress.begins(&guard.running);
            drop(guard);

            let done = run_case(place, case);
            if let (true, Some(passed), Some(digest)) = (done.passed, &passed, &digests[index]) {
                passed.lock().unwrap_or_else(PoisonError::into_inner).add(
                    &title,
                    digest.clone(),
                    done.wall,
                    &done.counts,
                );
            }

            guard = lock();
            guard.free += weight(case, jobs);
            guard.running.retain(|running| *running != title);
            let finished = 1 + guard.results.iter().flatten().count();
            progress.ends(finished, &title, &done, &guard.running);
            guard.results[index] = Some(done);
            changed.notify_all();
        }
    };

    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, cases.len().max(1)) {
            scope.spawn(work);
        }
    });
    progress.finish();

    let State { results, .. } = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().flatten().collect()
}

fn run_case(place: &Place, case: &Case<'_>) -> Done {
    let mut done = run_once(place, case);
    if case.scenario.figures && done.passed {
        let again = run_once(place, case);
        done.wall += again.wall;
        done.passed &= again.passed;
        done.complaint += &again.complaint;
        if let Some(complaint) = difference(&done.counts, &again.counts) {
            done.passed = false;
            done.complaint += &format!("  - two runs of the same differ: {complaint}\n");
        }
    }
    done
}

/// The first figure that two runs do not have in common.
fn difference(one: &BTreeMap<String, u64>, two: &BTreeMap<String, u64>) -> Option<String> {
    let names = one.keys().chain(two.keys());
    names
        .map(|name| (name, one.get(name), two.get(name)))
        .find(|(_, a, b)| a != b)
        .map(|(name, a, b)| format!("{name} is {a:?} and then {b:?}"))
}

fn run_once(place: &Place, case: &Case<'_>) -> Done {
    match perform(place, &case.request(), &mut |_| {}) {
        Ok(report) => Done {
            passed: report.verdict.passed(),
            wall: report.wall,
            complaint: if report.verdict.passed() {
                String::new()
            } else {
                report.complaint()
            },
            counts: report.facts.counts,
            earlier: false,
        },
        Err(error) => Done {
            passed: false,
            wall: Duration::ZERO,
            complaint: format!("  - it could not be run: {error:#}\n"),
            counts: BTreeMap::new(),
            earlier: false,
        },
    }
}

/// The figures of those cases that are about them, and of what needs no machine.
pub fn figures(place: &Place, cases: &[Case<'_>], results: &[Done]) -> Result<Figures> {
    let mut figures = Figures::default();
    for (case, done) in cases.iter().zip(results) {
        if case.scenario.figures && done.passed {
            figures.add(&case.machine.name, case.flavour, &done.counts);
        }
    }
    figures.add_build(place)?;
    figures.add_core(place)?;
    Ok(figures)
}

/// How many of `jobs` machines' worth of CPUs a case takes: an emulator runs each CPU of a machine in
/// a thread of its own, and only Bochs and one that counts instructions take turns.
fn weight(case: &Case<'_>, jobs: usize) -> usize {
    (case.machine.cpus as usize).clamp(1, jobs.max(1))
}

/// Which test ran where: tests down, machines across. What is blank was not needed there, and below
/// it says why not.
pub fn coverage(tables: &Tables, cases: &[Case<'_>], results: &[Done]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).force_no_tty();
    let numbers = 1..=tables.machines.len();
    table.set_header(std::iter::once("test".to_owned()).chain(numbers.map(|n| n.to_string())));

    let mut reasons = String::new();
    let mut left = false;
    for scenario in &tables.scenarios {
        let mut line = vec![Cell::new(&scenario.name)];
        for machine in &tables.machines {
            let here: Vec<bool> = cases
                .iter()
                .zip(results)
                .filter(|(case, _)| {
                    case.scenario.name == scenario.name && case.machine.name == machine.name
                })
                .map(|(_, done)| done.passed)
                .collect();
            line.push(Cell::new(if here.iter().any(|passed| !passed) {
                "FAIL"
            } else if !here.is_empty() {
                "pass"
            } else if scenario.machines.contains(&machine.name) {
                left = true;
                "left"
            } else {
                ""
            }));
        }
        table.add_row(line);
        if !scenario.elsewhere.is_empty() {
            let _ = writeln!(reasons, "  {}: {}", scenario.name, scenario.elsewhere);
        }
    }

    let mut text = format!("{table}\n\n");
    for (n, machine) in (1..).zip(&tables.machines) {
        let _ = writeln!(text, "{n:3}  {}: {}", machine.name, machine.proves);
    }
    if left {
        text += "\nleft: not asked for in this run.\n";
    }
    text + "\nNot needed on the other machines, because\n" + &reasons
}

/// Tests and machines down, flavours across.
pub fn matrix(cases: &[Case<'_>], results: &[Done], colour: bool) -> String {
    let flavours: Vec<&str> = FLAVOURS
        .iter()
        .copied()
        .filter(|flavour| cases.iter().any(|case| case.flavour == *flavour))
        .collect();

    let mut order: Vec<(&str, &str)> = vec![];
    let mut cells = BTreeMap::new();
    for (case, done) in cases.iter().zip(results) {
        let row = (case.scenario.name.as_str(), case.machine.name.as_str());
        if !order.contains(&row) {
            order.push(row);
        }
        cells.insert((row, case.flavour), done);
    }

    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(["test", "machine"].iter().chain(&flavours));
    for row in order {
        let mut line = vec![Cell::new(row.0), Cell::new(row.1)];
        line.extend(
            flavours
                .iter()
                .map(|flavour| match cells.get(&(row, flavour)) {
                    None => Cell::new("-").set_alignment(CellAlignment::Right),
                    Some(done) => {
                        let (word, paint) = if done.earlier {
                            ("earlier", Color::DarkGreen)
                        } else if done.passed {
                            ("pass", Color::Green)
                        } else {
                            ("FAIL", Color::Red)
                        };
                        Cell::new(format!("{word} {:6.1} s", done.wall.as_secs_f64()))
                            .fg(paint)
                            .set_alignment(CellAlignment::Right)
                    }
                }),
        );
        table.add_row(line);
    }
    format!("{table}\n")
}

/// The last line of a run of tests.
pub fn closing_line(results: &[Done]) -> String {
    let passed = results.iter().filter(|done| done.passed).count();
    let mut line = format!("{passed} passed, {} failed", results.len() - passed);
    let earlier = results.iter().filter(|done| done.earlier).count();
    if earlier > 0 {
        let _ = write!(
            line,
            "; {earlier} of them passed earlier with the same Xen, guest, machine and emulator, and were \
             not run again (--again runs them)"
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINES: &str = r#"
        [[machine]]
        name = "a"
        emulator = "qemu"
        board = "pc"
        arguments = []
        cpus = 1
        memory_mib = 16
        proves = ""
        [[machine]]
        name = "b"
        emulator = "qemu"
        board = "pc"
        arguments = []
        cpus = 1
        memory_mib = 16
        proves = ""
    "#;
    const SCENARIOS: &str = r#"
        [[scenario]]
        guest = "one"
        machines = ["a", "b"]
        flavours = ["release", "debug"]
        shows = ""
        [[scenario]]
        name = "one-stock"
        guest = "one"
        machines = ["a"]
        elsewhere = "b is no better"
        flavours = ["stock-release"]
        shows = ""
    "#;

    #[test]
    fn the_matrix() {
        let tables = Tables::parse(MACHINES, SCENARIOS).unwrap();
        let all = cases(&tables, None).unwrap();
        assert_eq!(all.len(), 5);
        let results: Vec<Done> = (0..5u64)
            .map(|n| Done {
                passed: n != 2,
                wall: Duration::from_millis(1234 + n * n * n * 1000),
                complaint: String::new(),
                counts: BTreeMap::new(),
                earlier: n == 1,
            })
            .collect();
        let text = matrix(&all, &results, false)
            + "\n"
            + &coverage(&tables, &all, &results)
            + &closing_line(&results);
        insta::assert_snapshot!(text);
        assert!(matrix(&all, &results, true).contains("\u{1b}["));
    }

    #[test]
    fn what_a_filter_leaves_out_is_said() {
        let tables = Tables::parse(MACHINES, SCENARIOS).unwrap();
        let some = cases(&tables, Some(&Regex::new("^one@a").unwrap())).unwrap();
        let results: Vec<Done> = some
            .iter()
            .map(|_| Done {
                passed: true,
                wall: Duration::ZERO,
                complaint: String::new(),
                counts: BTreeMap::new(),
                earlier: false,
            })
            .collect();
        let text = coverage(&tables, &some, &results);
        assert!(text.contains("| one       | pass | left |"), "{text}");
        assert!(text.contains("| one-stock | left |      |"), "{text}");
        assert!(text.contains("left: not asked for"), "{text}");
    }

    #[test]
    fn two_runs_are_compared_figure_by_figure() {
        let one = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(difference(&one, &one), None);
        let mut two = one.clone();
        two.insert("b".to_owned(), 3);
        let complaint = difference(&one, &two).unwrap();
        assert_eq!(complaint, "b is Some(2) and then Some(3)");
        two.remove("b");
        assert!(difference(&one, &two).is_some() && difference(&two, &one).is_some());
    }

    #[test]
    fn cpus_are_shared_out() {
        let wide = MACHINES.replacen("cpus = 1", "cpus = 4", 1);
        let tables = Tables::parse(&wide, SCENARIOS).unwrap();
        let all = cases(&tables, None).unwrap();
        let weights = |jobs| all.iter().map(|c| weight(c, jobs)).collect::<Vec<_>>();
        assert_eq!(weights(2), [2, 1, 2, 1, 2]);
        assert_eq!(weights(8), [4, 1, 4, 1, 4]);
        assert_eq!(weights(1), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn a_filter_that_matches_nothing_is_an_error() {
        let tables = Tables::parse(MACHINES, SCENARIOS).unwrap();
        let some = cases(&tables, Some(&Regex::new("^one@b").unwrap())).unwrap();
        assert_eq!(some.len(), 2);
        let error = cases(&tables, Some(&Regex::new("three").unwrap())).unwrap_err();
        assert!(error.to_string().contains("no test matches three"));
    }

    #[test]
    fn what_is_not_built_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::find(Some(dir.path().to_owned())).unwrap();
        let tables = Tables::parse(MACHINES, SCENARIOS).unwrap();
        let all = cases(&tables, None).unwrap();
        let results = run(&place, &all, 3, false, Some(Passed::load(&place)));
        assert_eq!(closing_line(&results), "0 passed, 5 failed");
        assert!(
            results[4]
                .complaint
                .contains("stock-release/xen.gz is not there")
        );
    }
}
