#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# check-bisect.sh OUT: every prefix of the series compiles: at each patch, each C
# file that the series touches anywhere. (After the last one, 'xen' builds all; here it
# is built once more without the parts of Xen that may be left out.)
set -eu

out=$(cd "$1" && pwd)
build=$out/build
top=$(cd "$(dirname "$0")/.." && pwd)
tree=$build/bisect-tree
obj=$build/bisect

rm -rf "$tree" "$obj"
mkdir -p "$obj"
cp -a "$build/plain" "$tree"
unset MAKEFLAGS MFLAGS MAKELEVEL

fail()
{
    echo "check-bisect: $*" >&2
    exit 1
}

compile()
{
    # Sources that do not exist yet, or that others include, do not count.
    objects=
    for object in $touched; do
        [ ! -e "$tree/xen/${object%.o}.c" ] || [ ! -e "$tree/xen/${object%/*}/Makefile" ] ||
            objects="$objects $object"
    done
    # One object first, and alone: each object has a make of its own, and two of those would make
    # asm-macros.h at the same time. (If nothing changes in it, it stays older than what it is made from, and
    # each make would look again.)
    # shellcheck disable=SC2086 # a list
    { make -C "$tree/xen" O="$obj" olddefconfig &&
      make -C "$tree/xen" O="$obj" -j"${JOBS:-$(nproc)}" include/xen/compile.h arch/x86/include/asm/asm-offsets.h &&
      make -C "$tree/xen" O="$obj" arch/x86/domain.o &&
      touch "$obj/arch/x86/include/asm/asm-macros.h" &&
      make -C "$tree/xen" O="$obj" -k -j"${JOBS:-$(nproc)}" $objects; } >"$out/logs/bisect.log" 2>&1 ||
        { grep -E 'error:|\*\*\*' "$out/logs/bisect.log" >&2; fail "$1 does not compile, see $out/logs/bisect.log"; }
    echo "  BISECT  $1"
}

mkdir -p "$out/logs"
touched=$(cd "$top/patches" && xargs cat <series | sed -n 's,^+++ b/xen/\(\(arch\|common\|drivers\|xsm\|lib\)/.*\)\.c$,\1.o,p' | sort -u)
# Flask is off by default, but the series has to name new operations to it.
printf '%s\n' CONFIG_XSM=y CONFIG_XSM_FLASK=y >"$obj/.config"
# All generated headers come from one full build.
make -C "$tree/xen" O="$obj" olddefconfig >"$out/logs/bisect.log" 2>&1
make -C "$tree/xen" O="$obj" -j"${JOBS:-$(nproc)}" >>"$out/logs/bisect.log" 2>&1 || fail "plain Xen does not build, see $out/logs/bisect.log"
while read -r name; do
    patch -d "$tree" -p1 -N -s -F0 --no-backup-if-mismatch <"$top/patches/$name" || fail "patches/$name does not apply"
    compile "$name"
done <"$top/patches/series"
rm -rf "$tree" "$obj"

# And all of it, where Xen has no more than it must.
sh "$top/scripts/xen.sh" "$out" bare
