// SPDX-License-Identifier: GPL-2.0-only
//! Any bytes as a machine and calls. `BOLERO_RANDOM_ITERATIONS` tries more.

#[test]
fn exchange() {
    bolero::check!()
        .with_iterations(400)
        .with_max_len(256)
        .for_each(fuzz::exchanges);
}

/// What was found, or thought of, before.
#[test]
fn corpus() {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/__fuzz__/exchange/corpus"
    );
    let mut n = 0;

    for file in std::fs::read_dir(dir).expect("the corpus is committed") {
        let path = file.expect("a file").path();
        println!("{}", path.display());
        fuzz::exchanges(&std::fs::read(&path).expect("it can be read"));
        n += 1;
    }
    assert!(n >= 10, "{n} inputs");
}
