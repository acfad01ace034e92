// SPDX-License-Identifier: GPL-2.0-only
//! The file for Perfetto, read back by another implementation of protobuf than the one that wrote
//! it, from Perfetto's description of the messages.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{DEMO, DEMO_MHZ, run, scratch};
use protobuf::MessageDyn;
use protobuf::reflect::{FileDescriptor, ReflectFieldRef, ReflectValueRef};
use serde_json::{Value, json};

/// Reads a file as Perfetto's message Trace.
fn read(bytes: &[u8]) -> Vec<Value> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let parsed = protobuf_parse::Parser::new()
        .pure()
        .include(&dir)
        .input(dir.join("perfetto.proto"))
        .file_descriptor_set()
        .expect("the description is sound");
    let proto = parsed.file.into_iter().next().expect("one file");
    let file = FileDescriptor::new_dynamic(proto, &[]).expect("a description");
    let trace = file.message_by_full_name(".Trace").expect("a message");
    let trace = trace.parse_from_bytes(bytes).expect("sound protobuf");
    match message(&*trace)["packet"].take() {
        Value::Array(packets) => packets,
        _ => vec![],
    }
}

fn message(message: &dyn MessageDyn) -> Value {
    let unknown = message.unknown_fields_dyn().iter().count();
    assert_eq!(unknown, 0, "fields that Perfetto does not know: {message}");
    let mut fields = serde_json::Map::new();
    for field in message.descriptor_dyn().fields() {
        match field.get_reflect(message) {
            ReflectFieldRef::Optional(value) => {
                if let Some(some) = value.value() {
                    fields.insert(field.name().to_owned(), scalar(&some));
                }
            }
            ReflectFieldRef::Repeated(values) => {
                let values: Vec<Value> = values.into_iter().map(|v| scalar(&v)).collect();
                if !values.is_empty() {
                    fields.insert(field.name().to_owned(), values.into());
                }
            }
            ReflectFieldRef::Map(_) => panic!("there are no maps"),
        }
    }
    fields.into()
}

fn scalar(some: &ReflectValueRef<'_>) -> Value {
    match some {
        ReflectValueRef::U32(n) => json!(n),
        ReflectValueRef::U64(n) => json!(n),
        ReflectValueRef::I64(n) => json!(n),
        ReflectValueRef::F64(n) => json!(n),
        ReflectValueRef::String(text) => json!(text),
        ReflectValueRef::Enum(descriptor, number) => {
            let value = descriptor.value_by_number(*number).expect("a known value");
            json!(value.name())
        }
        ReflectValueRef::Message(inner) => message(&**inner),
        other => panic!("a type that is not used: {other:?}"),
    }
}

#[test]
fn perfetto_reads_a_real_trace() {
    let path = scratch("demo.pftrace");
    let out = path.to_str().unwrap();
    let output = run(&["perfetto", DEMO, "-o", out, "--tsc-mhz", DEMO_MHZ]);
    assert!(output.status.success());
    let packets = read(&std::fs::read(&path).unwrap());
    std::fs::remove_file(&path).unwrap();

    // The first packet says that nothing before it is needed; all are of one sequence.
    assert_eq!(packets[0]["sequence_flags"], 1);
    for packet in &packets {
        assert_eq!(packet["trusted_packet_sequence_id"], 1);
    }

    // Tracks have names, and parents that are there before them.
    let mut tracks = BTreeMap::new();
    for packet in &packets {
        if let Some(track) = packet.get("track_descriptor") {
            if let Some(parent) = track.get("parent_uuid") {
                assert!(tracks.contains_key(&parent.as_u64()), "{track}");
            }
            tracks.insert(track["uuid"].as_u64(), track["name"].as_str().unwrap());
        }
    }
    let mut names: Vec<&str> = tracks.values().copied().collect();
    names.sort();
    assert_eq!(
        names,
        ["CPU 0", "CPU 1", "Domain 0", "In 2M pages", "Pages copied"]
    );

    // What happened, by name; slices of a track end before the next one begins.
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut coverage, mut copied) = (vec![], 0);
    for packet in &packets {
        let Some(event) = packet.get("track_event") else {
            continue;
        };
        let time = packet["timestamp"].as_u64().unwrap();
        assert!(time < 800_000_000, "the trace is of 785 ms");
        let track = event["track_uuid"].as_u64().unwrap();
        let track_name = tracks[&Some(track)];
        match event["type"].as_str().unwrap() {
            "TYPE_SLICE_BEGIN" => {
                *counts.entry(event["name"].as_str().unwrap()).or_default() += 1;
                assert!(ends.get(&track).is_none_or(|end| *end <= time));
                assert_eq!(open.insert(track, time), None);
            }
            "TYPE_SLICE_END" => {
                assert!(open.remove(&track).expect("a slice has begun") < time);
                ends.insert(track, time);
            }
            "TYPE_INSTANT" => *counts.entry(event["name"].as_str().unwrap()).or_default() += 1,
            "TYPE_COUNTER" if track_name == "In 2M pages" => {
                coverage.push(event["double_counter_value"].as_f64().unwrap());
            }
            "TYPE_COUNTER" => copied = event["counter_value"].as_i64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert!(open.is_empty());
    let expected = [
        ("complete", 24),
        ("exchange", 3),
        ("left: hole", 2),
        ("left: mem_type", 2),
        ("promote", 24),
        ("split", 48),
    ];
    assert_eq!(counts, BTreeMap::from(expected));
    assert_eq!(copied, 96);
    let worst = coverage.iter().copied().fold(f64::MAX, f64::min);
    assert_eq!((coverage[0], worst), (96.0, 46.0));
    assert_eq!(coverage.last(), Some(&96.0));
}
