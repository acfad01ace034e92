// SPDX-License-Identifier: GPL-2.0-only
//! The program as one uses it: what it says of a real trace, and of what is no sound one.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use common::{DEMO, DEMO_MHZ, run, scratch, tool};
use xen_coalesce::trace::events::Kind;
use xen_coalesce::trace::format::{Writer, encode};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the tool with these bytes in its pipe.
fn piped(args: &[&str], bytes: &[u8]) -> Output {
    let mut child = tool(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || pipe.write_all(&bytes));
    let output = child.wait_with_output().expect("the tool ends");
    // It reads all that there is.
    writer.join().expect("no panic").expect("nobody hung up");
    output
}

#[test]
fn the_report_of_a_real_trace() {
    let output = piped(&["report", "--tsc-mhz", DEMO_MHZ], &fs::read(DEMO).unwrap());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    insta::assert_snapshot!(stdout(&output));
}

#[test]
fn a_file_and_a_pipe_say_the_same() {
    for command in ["report", "stats"] {
        let file = stdout(&run(&[command, DEMO]));
        let pipe = stdout(&piped(&[command], &fs::read(DEMO).unwrap()));
        assert_eq!(file.replace(DEMO, "a pipe"), pipe);
    }
}

#[test]
fn plain_is_ascii() {
    let output = run(&["report", "--plain", DEMO]);
    assert!(output.stdout.is_ascii(), "{}", stdout(&output));
    assert!(stdout(&output).lines().all(|line| line.len() <= 100));
}

/// The figures are those that the guest saw in the run that the trace is of: 48 regions, of which
/// 24 were ballooned and 24 exchanged, all healed in the end; 2 were exchanged whole before.
#[test]
fn the_figures_of_a_real_trace() {
    let output = run(&["stats", DEMO]);
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let domain = &stats["domains"][0];
    let counts = &domain["counts"];
    assert_eq!(counts["promoted"], 24);
    assert_eq!(counts["completed"], 24);
    assert_eq!(counts["migrated"], 0);
    assert_eq!(counts["pages_copied"], 96);
    assert_eq!(counts["splits"]["balloon"], 24);
    assert_eq!(counts["splits"]["exchange"], 24);
    assert_eq!(counts["splits_avoided"], 2);
    assert_eq!(counts["exchanged_pages"], 1120);
    assert_eq!(domain["refused"]["hole"], 2);
    assert_eq!(domain["refused"]["mem_type"], 2);

    // Of 50 regions two can never be whole: the first MiB, and the one with the guest's own page.
    assert_eq!(domain["regions"], 50);
    assert_eq!(domain["coverage"]["first"], 0.96);
    assert_eq!(domain["coverage"]["worst"], 0.46);
    assert_eq!(domain["coverage"]["last"], 0.96);
    let walk = &domain["walk_references"];
    let whole_and_broken = |i: usize| (walk[i]["whole"].as_u64(), walk[i]["broken"].as_u64());
    assert_eq!(whole_and_broken(0), (Some(19), Some(24)));
    assert_eq!(whole_and_broken(1), (Some(15), Some(19)));
    let worst = walk[0]["worst"].as_f64().unwrap();
    assert!((worst - (19.0 * 0.46 + 24.0 * 0.54)).abs() < 1e-9);
}

#[test]
fn records_in_order() {
    let all = stdout(&run(&["records", "--all", DEMO]));
    assert_eq!(all.lines().count(), 443);
    let times = all.lines().map(|line| {
        let time = line.trim_start_matches('>').split_whitespace().next();
        time.and_then(|time| time.parse::<u64>().ok())
            .expect("a time")
    });
    assert!(times.is_sorted());
}

/// What is wrong is told with its place, and what could be read is told nevertheless.
#[test]
fn damaged_traces() {
    let good = fs::read(DEMO).unwrap();
    let says = |bytes: &[u8], code: i32, words: &[&str]| {
        let path = scratch("damaged.trace");
        fs::write(&path, bytes).unwrap();
        for command in ["report", "stats", "records"] {
            let output = run(&[command, path.to_str().unwrap()]);
            let (out, err) = (stdout(&output), stderr(&output));
            assert_eq!(output.status.code(), Some(code), "{command}: {err}{out}");
            for word in words {
                assert!(
                    (err.clone() + &out).contains(word),
                    "{command}: {word}: {err}{out}"
                );
            }
            if code == 2 {
                assert!(
                    !out.is_empty(),
                    "{command} says nothing of what could be read"
                );
            }
        }
        fs::remove_file(&path).unwrap();
    };

    let cut = good.len() - 5;
    says(
        &good[..cut],
        2,
        &["offset 0x", "the trace ends in the middle of a window"],
    );

    // A record of the first window that cannot be.
    let mut bytes = good.clone();
    bytes[12..16].fill(0);
    says(
        &bytes,
        2,
        &["offset 0xc: a record without an event", "could not be read"],
    );

    let mut swapped = good.clone();
    for word in swapped.chunks_exact_mut(4) {
        word.reverse();
    }
    says(&swapped, 1, &["offset 0x0", "big-endian"]);
    says(b"\x1f\x8b\x08\0\0\0\0\0", 1, &["offset 0x0", "zcat"]);
    says(
        b"This is a text.\n",
        1,
        &["offset 0x0", "this is text and no trace"],
    );
    says(
        &good[..7],
        1,
        &["offset 0x0: the trace ends in the middle of a window's header"],
    );
    // An empty trace is one in which nothing happened.
    says(b"", 0, &[]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    for path in ["/nonexistent", "/"] {
        let output = run(&["report", path]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(path), "{}", stderr(&output));
    }
    let output = run(&["plot", DEMO, "-o", "/nonexistent/page.html"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write /nonexistent/page.html"));
}

/// Who has seen enough, as in `| head`, is no error.
#[test]
fn a_reader_that_hangs_up() {
    let mut child = tool(&["records", "--all", DEMO])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn manuals_and_completions() {
    let dir = scratch("generated");
    let output = run(&["generate", dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let manual = fs::read_to_string(dir.join("man1/xen-coalesce.1")).unwrap();
    for words in ["xentrace \\-D \\-e 0x10f000", "xen\\-coalesce\\-report(1)"] {
        assert!(manual.contains(words), "{words}: {manual}");
    }
    for file in [
        "man1/xen-coalesce-report.1",
        "man1/xen-coalesce-plot.1",
        "bash-completion/completions/xen-coalesce",
        "zsh/site-functions/_xen-coalesce",
        "fish/vendor_completions.d/xen-coalesce.fish",
    ] {
        let text = fs::read_to_string(dir.join(file)).expect(file);
        assert!(
            text.contains("tsc") || file.ends_with("xen-coalesce"),
            "{file}"
        );
    }
    fs::remove_dir_all(&dir).unwrap();
}

/// A record of version 2 says itself what broke a page, whatever Xen's own records say; one of version
/// 1 does not, and neither do numbers that are not known yet.
#[test]
fn splits_are_counted_by_what_their_records_say() {
    let split = |version: u32, domid: u32, gfn: u32, cause: u32| {
        let first = version | 1 << 8 | domid << 16;
        let words = [first, gfn, 0, !0, !0, cause, 0];
        encode(Kind::Split.event(), Some(u64::from(1000 + gfn)), &words)
    };
    let mut records: Vec<Vec<u8>> = (0..=7).map(|n| split(2, 5, n << 9, n)).collect();
    records.push(split(1, 5, 8 << 9, 0));
    // About to be ballooned out, says Xen; it was an exchange, says the record.
    records.push(encode(0x10f005, None, &[9 << 9, 0, 5, 0]));
    records.push(split(2, 5, 9 << 9, 2));
    let pieces: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let mut writer = Writer::default();
    writer.window(0, &pieces);
    let path = scratch("causes");
    fs::write(&path, &writer.bytes).unwrap();

    let output = run(&["stats", path.to_str().unwrap()]);
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        stats["domains"][0]["counts"]["splits"],
        serde_json::json!({
            "balloon": 1, "exchange": 2, "mapping": 1, "type": 1, "logging": 1, "executed": 1,
            "unknown": 3,
        })
    );
    let output = run(&["report", path.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("it was executed (XSA-304)"), "{text}");
    fs::remove_file(&path).unwrap();
}
