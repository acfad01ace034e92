// SPDX-License-Identifier: GPL-2.0-only
//! What is made of consoles: good ones, and each way in which one can be bad.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use lab::console::Assembler;
use lab::run::End;
use lab::verdict::{Allowed, Expectation, Facts, GuestResult, TraceBuffer, judge};

const GOOD: &str = include_str!("consoles/good.txt");
const PANIC: &str = include_str!("consoles/panic.txt");

fn facts(console: &str) -> Facts {
    let (mut raw, mut lines) = (vec![], vec![]);
    let mut assembler = Assembler::new();
    assembler.feed(Duration::ZERO, console.as_bytes(), &mut raw, &mut lines);
    assembler.finish(Duration::ZERO, &mut raw, &mut lines);
    Facts::from_lines(&lines)
}

fn faults(console: &str, end: &End, expect: &Expectation) -> Vec<String> {
    let verdict = judge(&facts(console), end, expect).unwrap();
    assert_eq!(verdict.passed(), verdict.faults.is_empty());
    verdict.faults.iter().map(ToString::to_string).collect()
}

/// The faults of the good console with one thing changed.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert_eq!(
        GOOD.matches(from).count(),
        1,
        "{from:?} in the good console"
    );
    faults(
        &GOOD.replace(from, to),
        &End::PoweredOff,
        &Expectation::default(),
    )
}

#[track_caller]
fn only(faults: &[String], wanted: &str) {
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].contains(wanted), "{faults:#?}");
}

#[test]
fn good() {
    let none: Vec<String> = vec![];
    assert_eq!(
        faults(GOOD, &End::PoweredOff, &Expectation::default()),
        none
    );

    let facts = facts(GOOD);
    assert_eq!(facts.phases, ["start", "healed"]);
    let maps: Vec<String> = facts
        .maps
        .iter()
        .map(|map| map.regions.iter().map(|r| r.to_char()).collect())
        .collect();
    assert_eq!(maps, ["WWWW", "bbhW", "WWW."]);
    assert_eq!(facts.trace_pages, Some(2048));
    assert_eq!(facts.tsc_mhz, Some(2596.145));
    assert_eq!(
        facts.trace_buffers[1],
        TraceBuffer {
            cpu: 1,
            mfn: 0x3f1e3,
            offset: 2177
        }
    );
    assert_eq!(facts.counts["exchange_calls"], 7);
}

#[test]
fn the_carriage_returns_of_a_serial_line_do_not_matter() {
    let serial = GOOD
        .replace('\n', "\r\n")
        .replace("SUCCESS\r", "SUCCESS\r\r");
    let none: Vec<String> = vec![];
    assert_eq!(
        faults(&serial, &End::PoweredOff, &Expectation::default()),
        none
    );
}

#[test]
fn a_panic() {
    let found = faults(
        PANIC,
        &End::Stopped("Manual reset required ('noreboot' specified)".to_owned()),
        &Expectation::default(),
    );
    assert!(
        found[0].contains("no test result: Xen stopped with"),
        "{found:#?}"
    );
    assert!(found.iter().any(|f| f.contains("Xen panicked")));
    assert!(found.iter().any(|f| f.contains("an assertion of Xen")));
}

/// Each of these on an otherwise good console spoils it.
#[test]
fn complaints_of_xen() {
    for line in [
        "mm locking order violation: 64 > 16",
        "Xen BUG at common/page_alloc.c:1059",
        "Xen WARN at arch/x86/mm/p2m.c:123",
        "domain_crash called from arch/x86/mm/p2m.c:99",
        "Domain 0 (vcpu#1) crashed on cpu#1:",
        "Domain 3 reported crashed by domain 0 on cpu#1:",
        "Hardware Dom0 crashed: 'noreboot' set - not rebooting.",
        "common/memory.c:407:d0v0 Bad page free for Dom0 GFN 1234",
        "pg[0] MFN 012345 c=0x8000000000000001 o=0 v=0 t=0",
        "p2m audit found 3 orphans",
        "*** DOUBLE FAULT ***",
        "FATAL PAGE FAULT",
        "CHECKLOCK FAILURE: prev irqsafe: 1, curr irqsafe 0",
        "Watchdog timer detects that CPU1 is stuck!",
        "d0v0 SVM violation gpa 0x00000012345000, mfn 0x3ffff, type 1",
        "d0v0 EPT violation 0x1 (r--/---) gpa 0x1000 mfn 0xffffffffffffffff type 5",
        "d0v0 Triple fault - invoking HVM shutdown action 1",
        "AMD-Vi: IO_PAGE_FAULT: 0000:00:02.0 d0 addr 00000000fee00000 flags 0x8 I",
        "Unhandled: vec 13, general protection fault[0000]",
    ] {
        let found = changed("@phase healed", &format!("(XEN) {line}\n@phase healed"));
        only(&found, line);
    }
}

/// The same words from the guest are its own affair: a test may well speak of them.
#[test]
fn a_guest_may_use_strong_words() {
    let found = changed(
        "@phase healed",
        "Assertion 'x' failed at y, FATAL, Unhandled\n@phase healed",
    );
    assert!(found.is_empty(), "{found:#?}");
    let found = changed("@phase healed", "PANIC: Unhandled exception\n@phase healed");
    only(&found, "the guest panicked");
}

#[test]
fn a_complaint_can_be_expected() {
    let console = GOOD.replace(
        "@phase healed",
        "(XEN) d0v0 Over-allocation for d0: 70 > 65\n@phase healed",
    );
    let mut expect = Expectation::default();
    assert_eq!(faults(&console, &End::PoweredOff, &expect).len(), 1);
    expect.allow.push(Allowed {
        line: r"\(XEN\) d0v0 Over-allocation for d0: .*".to_owned(),
        _because: "the test asks for too much".to_owned(),
    });
    assert!(faults(&console, &End::PoweredOff, &expect).is_empty());
    // Part of a line is not enough.
    expect.allow[0].line = "Over-allocation".to_owned();
    assert_eq!(faults(&console, &End::PoweredOff, &expect).len(), 1);
}

#[test]
fn a_leak() {
    only(
        &changed("free_pages 190578 190578", "free_pages 190578 190577"),
        "leak: free_pages was 190578 before and is 190577 after",
    );
}

#[test]
fn counters_that_do_not_add_up() {
    only(
        &changed("@reason hole 1", "@reason hole 2"),
        "the counters do not add up: looked_at 9 is not promoted 1 + completed 2 + migrated 3 + refused 4",
    );
    only(
        &changed("@count looked_at 9", "@count looked_at 10"),
        "do not add up",
    );
    // Without them there is nothing to add up.
    assert!(changed("@count promoted 1\n", "").is_empty());
}

#[test]
fn no_result() {
    let console = GOOD.replace("Test result: SUCCESS\n", "");
    for (end, words) in [
        (
            End::PoweredOff,
            "no test result: the machine was powered off",
        ),
        (
            End::TimedOut(Duration::from_secs(9)),
            "no test result: nothing more came of it within 9 s",
        ),
        (
            End::EmulatorExited(ExitStatus::from_raw(0x100)),
            "no test result: the emulator failed with exit status 1",
        ),
        (
            End::EmulatorExited(ExitStatus::from_raw(11)),
            "no test result: the emulator was ended by signal 11",
        ),
    ] {
        only(&faults(&console, &end, &Expectation::default()), words);
    }
    assert!(
        faults("", &End::PoweredOff, &Expectation::default())[0].contains("no test result"),
        "an empty console"
    );
}

#[test]
fn a_result_without_an_orderly_end() {
    let end = End::NoShutdown(Duration::from_secs(20));
    only(
        &faults(GOOD, &end, &Expectation::default()),
        "Xen had not stopped 20 s after the guest's result",
    );
}

#[test]
fn other_results() {
    for word in ["SKIP", "FAILURE", "ERROR"] {
        only(
            &changed("result: SUCCESS", &format!("result: {word}")),
            &format!("the guest says {word}, and SUCCESS is expected"),
        );
    }
    only(
        &changed("result: SUCCESS", "result: SUCCESS with warnings"),
        "\"SUCCESS with warnings\"",
    );
    let found = changed(
        "Test result: SUCCESS",
        "Test result: SUCCESS\nTest result: FAILURE",
    );
    assert_eq!(found.len(), 2, "{found:#?}");
    only(
        &changed("--- Xen Test Framework ---\n", ""),
        "is missing: this is no guest of the test framework",
    );
}

#[test]
fn an_expected_failure_is_a_pass_only_with_its_count() {
    let expect = Expectation {
        result: GuestResult::Failure,
        counts: [("exchange_eopnotsupp".to_owned(), 1)].into(),
        ..Expectation::default()
    };
    let console = GOOD.replace("SUCCESS", "FAILURE");
    only(
        &faults(&console, &End::PoweredOff, &expect),
        "exchange_eopnotsupp should be 1 and was not printed",
    );
    let with = |count: &str| {
        let line = format!("@count exchange_eopnotsupp {count}\n@phase healed");
        let console = console.replace("@phase healed", &line);
        faults(&console, &End::PoweredOff, &expect)
    };
    only(&with("2"), "exchange_eopnotsupp should be 1 and is 2");
    assert!(with("1").is_empty());
    only(
        &faults(
            &GOOD.replace("@phase healed", "@count exchange_eopnotsupp 1"),
            &End::PoweredOff,
            &expect,
        ),
        "the guest says SUCCESS, and FAILURE is expected",
    );
}

#[test]
fn a_minimum() {
    let expect = |wanted| Expectation {
        at_least: [("exchange_calls".to_owned(), wanted)].into(),
        ..Expectation::default()
    };
    assert!(faults(GOOD, &End::PoweredOff, &expect(7)).is_empty());
    only(
        &faults(GOOD, &End::PoweredOff, &expect(8)),
        "exchange_calls should be at least 8 and is 7",
    );
}

#[test]
fn lines_that_cannot_be_read() {
    for (line, words) in [
        ("@count promoted", "wants @count NAME VALUE"),
        ("@count x -1", "\"-1\" is not a number"),
        ("@count x 18446744073709551616", "is not a number"),
        ("@map m WWx", "'x' stands for no kind of region"),
        ("@map", "wants @map NAME CHARS"),
        ("@leak free 1", "wants @leak NAME BEFORE AFTER"),
        ("@reason x y", "\"y\" is not a number"),
        ("@phase", "wants @phase NAME"),
        ("@cuont x 1", "no such kind of line"),
    ] {
        let found = changed("@phase healed", &format!("{line}\n@phase healed"));
        only(&found, words);
    }
}

#[test]
fn what_the_guest_has_to_say() {
    let expect = |line: &str| Expectation {
        says: vec![line.to_owned()],
        ..Expectation::default()
    };
    assert!(faults(GOOD, &End::PoweredOff, &expect("Test .*")).is_empty());
    // Part of a line is not enough, and Xen's lines are not the guest's.
    for line in ["exchange", "Std. Loglevel: All"] {
        only(
            &faults(GOOD, &End::PoweredOff, &expect(line)),
            "the guest does not say what it should",
        );
    }
}

#[test]
fn what_xen_has_to_say() {
    let expect = |line: &str| Expectation {
        xen_says: vec![line.to_owned()],
        ..Expectation::default()
    };
    assert!(faults(GOOD, &End::PoweredOff, &expect("Std. Loglevel: .*")).is_empty());
    // The guest's lines are not Xen's.
    for line in ["Loglevel", "Test .*"] {
        only(
            &faults(GOOD, &End::PoweredOff, &expect(line)),
            "Xen does not say what it should",
        );
    }
}
