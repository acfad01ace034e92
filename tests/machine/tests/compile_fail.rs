// SPDX-License-Identifier: GPL-2.0-only
//! What the types of the core forbid does not compile.

#[test]
fn what_is_forbidden_does_not_compile() {
    let cases = trybuild::TestCases::new();

    cases.pass("tests/ui/allowed.rs");
    cases.compile_fail("tests/ui/forbidden/*.rs");
}
