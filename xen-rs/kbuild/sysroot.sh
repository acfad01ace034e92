#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# sysroot.sh DIR: compiles Rust's core for Xen into DIR and writes the flags that
# every crate linked into Xen shares with it to DIR/flags, one a line.
# Takes RUSTC, RUST_SRC and CONFIG_* from the environment. Does nothing if DIR is
# up to date; a new DIR/flags says that everything built with it is stale.
#
# The core that comes with the target will not do: it has raw returns and
# indirect branches, and reaches memcpy through the GOT.
set -eu

dir=$1
target=x86_64-unknown-none
export RUSTC_BOOTSTRAP=1

fail()
{
    echo "rust: $*" >&2
    exit 1
}

# $1 if this compiler knows it, else $2... in turn; their names change.
pick()
{
    for flags in "$@"; do
        # shellcheck disable=SC2086 # several flags in one word
        if "$RUSTC" --target $target --print cfg $flags >/dev/null 2>&1; then
            printf '%s\n' $flags
            return
        fi
    done
    fail "$RUSTC knows none of: $*; this release is too old or too new"
}

flags()
{
    printf '%s\n' --sysroot="$dir" -Crelocation-model=pic -Ccode-model=small -Cno-redzone=yes \
        -Cpanic=abort -Cforce-unwind-tables=no -Csymbol-mangling-version=v0
    # No GOT: ld gets its relocations wrong in xen.efi, silently.
    pick -Zplt=yes
    pick -Zdirect-access-external-data=yes
    if [ "${CONFIG_XEN_IBT:-}" = y ]; then
        pick -Zcf-protection=branch
    fi
    if [ "${CONFIG_XEN_IBT:-}${CONFIG_INDIRECT_THUNK:-}" ]; then
        pick -Cjump-tables=no -Zno-jump-tables
    fi
    if [ "${CONFIG_RETURN_THUNK:-}" = y ]; then
        pick -Zfunction-return=thunk-extern
    fi
    if [ "${CONFIG_INDIRECT_THUNK:-}" = y ]; then
        pick -Zretpoline-external-thunk=yes \
            -Ctarget-feature=+retpoline-external-thunk,+retpoline-indirect-branches,+retpoline-indirect-calls
    fi
    if [ "${CONFIG_FRAME_POINTER:-}" = y ]; then
        printf '%s\n' -Cforce-frame-pointers=yes
    fi
    printf '%s\n' --remap-path-prefix="$RUST_SRC/library=rust-src"
}

stamp="$("$RUSTC" -vV) $RUST_SRC $(cksum <"$0") ${CONFIG_XEN_IBT:-}-${CONFIG_INDIRECT_THUNK:-}-"
stamp="$stamp${CONFIG_RETURN_THUNK:-}-${CONFIG_FRAME_POINTER:-} $dir"
if [ -e "$dir/stamp" ] && [ "$stamp" = "$(cat "$dir/stamp")" ]; then
    exit 0
fi

rm -rf "$dir"
lib=$dir/lib/rustlib/$target/lib
mkdir -p "$lib"
flags >"$dir/flags.new" || exit 1

# In the positional parameters, one flag each, as they may hold spaces.
set --
while IFS= read -r flag; do
    set -- "$@" "$flag"
done <"$dir/flags.new"

compile()
{
    "$RUSTC" "$@" --target $target --crate-type rlib --out-dir "$lib" --cap-lints allow \
        -Copt-level=3 -Ccodegen-units=1 -Cembed-bitcode=yes -Zforce-unstable-if-unmarked ||
        fail "could not compile ${2}; are $RUST_SRC the sources of $RUSTC?"
}

edition=$(sed -n 's/^edition *= *"\([0-9]*\)".*/\1/p' "$RUST_SRC/library/core/Cargo.toml")
echo "  RUSTC   core ($("$RUSTC" --version), once)"
compile --crate-name core "$RUST_SRC/library/core/src/lib.rs" --edition "${edition:-2021}" "$@"

# Empty on purpose: a missing intrinsic shall fail the link. The real one would
# bring its own memcpy, and floating point.
cat >"$dir/compiler_builtins.rs" <<'EOF'
#![feature(compiler_builtins)]
#![compiler_builtins]
#![no_std]
EOF
compile --crate-name compiler_builtins "$dir/compiler_builtins.rs" --edition 2021 "$@"

mv "$dir/flags.new" "$dir/flags"
printf '%s\n' "$stamp" >"$dir/stamp"
