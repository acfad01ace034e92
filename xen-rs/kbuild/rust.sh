#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# rust.sh SRCDIR OBJDIR: builds all Rust code as OBJDIR/rust.o. Called by the
# Makefile, on every make: what is not stale is left alone.
set -eu

src=$(cd "$1" && pwd)
obj=$(mkdir -p "$2" && cd "$2" && pwd)
tools=$src/xen-rs/kbuild
target=x86_64-unknown-none

fail()
{
    echo "rust: $*" >&2
    exit 1
}

found=$(sh "$tools/toolchain.sh")
eval "$found"
export RUSTC RUST_SRC

before=$(cksum "$obj/sysroot/stamp" 2>/dev/null || :)
sh "$tools/sysroot.sh" "$obj/sysroot"
# Cargo does not notice that the core below it is another one.
[ "$before" = "$(cksum "$obj/sysroot/stamp")" ] || rm -rf "$obj/target"

# Encoded, because paths may hold spaces.
export RUSTC_BOOTSTRAP=1
CARGO_ENCODED_RUSTFLAGS=$(
    { cat "$obj/sysroot/flags"
      printf '%s\n' --remap-path-prefix="$src=xen/rust" \
          --remap-path-prefix="${CARGO_HOME:-${HOME:-}/.cargo}/registry/src=crates"
    } | tr '\n' '\037' | sed 's/\x1f$//')
export CARGO_ENCODED_RUSTFLAGS
export XEN_RS_ABI="$obj/abi.rs"
unset RUSTFLAGS

# Make hands no jobs on to cargo, which has one crate to compile most of the time.
quiet=--quiet
[ -z "${VERBOSE:-}" ] || quiet=--verbose
# From there, so that a .cargo/config.toml of 'cargo vendor' is found.
cd "$src"
"$CARGO" rustc $quiet --manifest-path "$src/Cargo.toml" --locked \
    -p xen-rs --lib --crate-type staticlib --profile xen --target $target \
    --target-dir "$obj/target" -- --cfg xen_abi ||
    fail "cargo failed, see above (crates are downloaded once; 'cargo fetch' or 'cargo vendor' in $src does only that)"

# With link time optimisation all code is in one member of the archive. Not the
# archive is linked: then ld would choose what to take.
lib=$obj/target/$target/xen/libxen_rs.a
member=$("$AR" t "$lib" | grep '^xen_rs[-.]' || :)
[ "$(echo "$member" | wc -w)" = 1 ] || fail "expected one object in $lib, found: ${member:-none}"
"$AR" p "$lib" "$member" >"$obj/rust.raw.o.new"

audited="$(cksum <"$tools/audit.py") $(cksum <"$tools/rename.py")"
if [ -e "$obj/rust.o" ] && cmp -s "$obj/rust.raw.o.new" "$obj/rust.raw.o" &&
   [ "$audited" = "$(cat "$obj/rust.audited" 2>/dev/null)" ]; then
    rm "$obj/rust.raw.o.new"
    exit 0
fi
rm -f "$obj/rust.audited"
mv "$obj/rust.raw.o.new" "$obj/rust.raw.o"

"$PYTHON" "$tools/rename.py" "$obj/rust.raw.o" >"$obj/rust.syms"
"$OBJCOPY" --redefine-syms="$obj/rust.syms" --remove-section=.comment --remove-section='.llvm*' \
    "$obj/rust.raw.o" "$obj/rust.o.new"
"$PYTHON" "$tools/audit.py" "$obj/rust.o.new" || exit 1
mv "$obj/rust.o.new" "$obj/rust.o"
printf '%s\n' "$audited" >"$obj/rust.audited"
