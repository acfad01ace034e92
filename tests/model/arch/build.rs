// SPDX-License-Identifier: GPL-2.0-only
//! The sources are those of `arch/`; what is different is one number.

fn main() {
    println!("cargo::rustc-cfg=small_tables");
    println!("cargo::rerun-if-changed=build.rs");
}
