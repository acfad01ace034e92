#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# lint.sh ABI: rustfmt, clippy, shellcheck, licence lines. ABI is abi.rs of a Xen
# that has been built: without it xen-rs would be checked in part only.
set -eu

abi=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/.."

fail()
{
    echo "lint: $*" >&2
    exit 1
}

command -v shellcheck >/dev/null || fail "no shellcheck here: 'make -f build.mk deps' installs what is needed"

cargo metadata -q --locked --format-version 1 >/dev/null ||
    fail "Cargo.lock does not fit the Cargo.tomls, or a crate cannot be had: see above ('cargo update --workspace')"
echo "  LINT    rustfmt"
cargo fmt --all --check || fail "not formatted: run 'make -f build.mk fmt'"
echo "  LINT    clippy"
cargo clippy -q --locked --workspace --all-targets -- -D warnings || fail "clippy has findings, see above"
XEN_RS_ABI=$abi cargo clippy -q --locked -p xen-rs --lib --target-dir target/xen-abi \
    --config 'build.rustflags=["--cfg", "xen_abi"]' -- -D warnings || fail "clippy has findings in what is linked into Xen"
# Newer than Debian 13's compiler, which clippy does not tell.
chains=$(grep -rnE '&& let ' --include='*.rs' arch p2m xen-rs tools tests | grep -vE ':[0-9]+: *//' || :)
[ -z "$chains" ] || fail "let chains need rustc 1.88, and Debian 13 has 1.85: $chains"
# What runs the tests ('make -f build.mk unit') does not run these.
examples=$(find arch p2m xen-rs tools tests -name '*.rs' -exec awk '
    FNR == 1 { open = 0 }
    /\/\/[\/!] *```/ { open = !open; if (open && !/```text/) print FILENAME ":" FNR }' {} +)
[ -z "$examples" ] || fail "an example in a comment that nothing runs, make it a test: $examples"
echo "  LINT    scripts"
shellcheck -x scripts/*.sh xen-rs/kbuild/*.sh .ci/run || fail "shellcheck has findings"
for script in scripts/*.py xen-rs/kbuild/*.py; do
    python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$script" || fail "$script does not parse"
done

echo "  LINT    licence lines"
bare=$(find . \( -name target -o -name out -o -name .git \) -prune -o -type f \
    \( -name '*.rs' -o -name '*.[chS]' -o -name '*.sh' -o -name '*.py' -o -name '*.mk' -o -name Makefile -o -name Cargo.toml \) \
    -exec grep -L 'SPDX-License-Identifier: ' {} +)
# shellcheck disable=SC2086 # a list
[ -z "$bare" ] || fail "no SPDX-License-Identifier in:" $bare
