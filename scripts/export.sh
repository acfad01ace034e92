#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# export.sh CACHE DIR: writes to the new folder DIR what a Xen tree has as
# xen/rust/: the crates that are linked into Xen, without their tests.
set -eu

cache=$1
dir=$2
top=$(cd "$(dirname "$0")/.." && pwd)

fail()
{
    echo "export: $*" >&2
    exit 1
}

mkdir -p "$cache" "$dir"
cache=$(cd "$cache" && pwd)
dir=$(cd "$dir" && pwd)

cd "$top"
find arch p2m xen-rs \( -path '*/src/*' -o -path 'xen-rs/*' \) -type f \
    \( -name '*.rs' -o -name '*.c' -o -name '*.h' -o -name '*.sh' -o -name '*.py' \) |
    while IFS= read -r file; do
        mkdir -p "$dir/$(dirname "$file")"
        cp "$file" "$dir/$file"
    done
cp xen-rs/kbuild/Makefile "$dir/Makefile"
cp xen-rs/kbuild/gitignore "$dir/.gitignore"
cp Cargo.toml Cargo.lock "$dir"

# What only tests need is not there.
for crate in arch p2m xen-rs; do
    sed '/^\[dev-dependencies\]/,/^\[[^d]/{ /^\[[^d]/!d }' $crate/Cargo.toml >"$dir/$crate/Cargo.toml"
done

# The lock file with the same versions, less what is not needed there: cargo
# insists on that. It may have to ask the registry, so the outcome is kept.
key=$(cat Cargo.lock "$dir/Cargo.toml" "$dir"/*/Cargo.toml | cksum | tr ' ' -)
if [ ! -e "$cache/lock-$key" ]; then
    eval "$(sh xen-rs/kbuild/toolchain.sh)" || exit 1
    export RUSTC
    (cd "$dir" &&
        { "$CARGO" update -q --offline --workspace || "$CARGO" update -q --workspace; }) 2>"$cache/lock.log" ||
        { tail -n 5 "$cache/lock.log" >&2; fail "cargo cannot resolve the crates: is there a network?"; }
    rm -f "$cache"/lock-* "$cache/lock.log"
    cp "$dir/Cargo.lock" "$cache/lock-$key"
fi
cp "$cache/lock-$key" "$dir/Cargo.lock"
