#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Finds a Rust compiler that has the sources of its own core library, and a
# cargo to go with it. Prints RUSTC=, CARGO= and RUST_SRC= for eval.
#
# core has to be compiled with Xen's flags, so its sources are needed, and they
# must be those of the very same compiler. What $RUSTC and $CARGO name is taken
# in preference.
set -eu

fail()
{
    echo "rust: $*" >&2
    exit 1
}

quote()
{
    printf "%s='%s'\n" "$1" "$(printf %s "$2" | sed "s/'/'\\\\''/g")"
}

# The newest release with which nothing here builds is 1.84.
new_enough()
{
    "$1" --version 2>/dev/null | awk '{ split($2, v, "."); exit !(v[1] > 1 || v[2] >= 85) }'
}

seen=
for rustc in ${RUSTC:-rustc /usr/bin/rustc}; do
    rustc=$(command -v "$rustc" 2>/dev/null) || continue
    seen="$seen $rustc"
    new_enough "$rustc" || continue
    src=$("$rustc" --print sysroot)/lib/rustlib/src/rust
    src=$(readlink -f "$src" 2>/dev/null) || continue
    [ -e "$src/library/core/src/lib.rs" ] || continue

    # Debian's package of the sources can be of another release: its folder
    # bears the release's number.
    version=$("$rustc" --version | awk '{ sub(/-.*/, "", $2); print $2 }')
    case $src in
    */rustc-[0-9]*) case $src in */rustc-"$version"*) ;; *) continue ;; esac ;;
    esac

    cargo=$(command -v "${CARGO:-cargo}") ||
        fail "no cargo: install cargo (Debian 12: cargo-web), or set CARGO="
    quote RUSTC "$rustc"
    quote CARGO "$cargo"
    quote RUST_SRC "$src"
    exit 0
done

fail "no rustc >= 1.85 that has its own sources${seen:+ (looked at:$seen)}:" \
    "install rustc and rust-src (Debian 12: rustc-web and rust-web-src; rustup:" \
    "rustup component add rust-src), or set RUSTC="
