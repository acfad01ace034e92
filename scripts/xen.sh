#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# xen.sh OUT FLAVOUR [TARGET...]: builds OUT/build/tree or, for stock-release,
# OUT/build/plain in OUT/build/FLAVOUR and puts what came of it into OUT/FLAVOUR.
# Flavours: release debug bare stock-release, and for the comparison with the feature
# off: off. With TARGETs: only those.
set -eu

out=$(cd "$1" && pwd)
flavour=$2
shift 2
obj=$out/build/$flavour
log=$out/logs/xen-$flavour.log

fail()
{
    echo "xen: $*" >&2
    exit 1
}

src=$out/build/tree
config=CONFIG_COALESCE=y
case $flavour in
release) ;;
# DEBUG brings the assertions, the audit of the p2m and the checks of lock order;
# performance counters are there to be tested. Xen's tests of the CPU at each boot take
# seconds, and are about the emulator.
debug) config="$config CONFIG_DEBUG=y CONFIG_PERF_COUNTERS=y CONFIG_SELF_TESTS=n" ;;
# Without what may be left out of Xen, and what we add to it.
bare) config="$config CONFIG_EXPERT=y CONFIG_HYPFS=n CONFIG_TRACEBUFFER=n" ;;
# The configuration file is part of the image, and names options that the other
# does not know; debug information is not, but a hash of it is.
stock-release) src=$out/build/plain config="CONFIG_HYPFS_CONFIG=n CONFIG_DEBUG_INFO=n" ;;
off) src=$out/build/off-tree config="CONFIG_COALESCE=n CONFIG_HYPFS_CONFIG=n CONFIG_DEBUG_INFO=n" ;;
*) fail "no flavour $flavour" ;;
esac

for tool in "${CC:-gcc}" "${LD:-ld}" bison flex bc python3; do
    command -v "$tool" >/dev/null || fail "no $tool here: 'make -f build.mk deps' installs what is needed"
done

mkdir -p "$obj" "$out/logs"
# Only one at a time in a build folder.
exec 9>"$obj.lock"
flock 9

unset MAKEFLAGS MFLAGS MAKELEVEL
# The same source gives the same image, wherever, whenever and by whom.
SOURCE_DATE_EPOCH=$(stat -c %Y "$out/build/plain/xen/Kconfig")
export SOURCE_DATE_EPOCH
export LC_ALL=C XEN_WHOAMI=build XEN_DOMAIN='' XEN_BUILD_HOST=xen-coalesce
XEN_BUILD_DATE=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
XEN_BUILD_TIME=$(date -u -d "@$SOURCE_DATE_EPOCH" +%T)
export XEN_BUILD_DATE XEN_BUILD_TIME
# (Of two prefixes that fit the last one counts. A file includes itself by name:
# hence the -iquote.)
export EXTRA_CFLAGS_XEN_CORE="-ffile-prefix-map=$obj=xen -ffile-prefix-map=$src/= -iquote $src"

build()
{
    make -C "$src/xen" O="$obj" -j"${JOBS:-$(nproc)}" "$@" 9>&-
}

run()
{
    if [ -n "${V:-}" ]; then
        build "$@" 2>&1 || exit 1
    elif ! build "$@" >>"$log" 2>&1; then
        grep -E '^(rust|rust audit|error(\[.*\])?): |(error|Error): |undefined reference to|\*\*\* ' "$log" | head -n 40 >&2
        fail "$flavour did not build: see $log"
    fi
}

: >"$log"
if [ "$config" != "$(cat "$obj/wanted" 2>/dev/null)" ] || ! [ -e "$obj/.config" ]; then
    # shellcheck disable=SC2086 # one option a line
    printf '%s\n' $config >"$obj/.config"
fi
run olddefconfig
for option in $config; do
    case $option in
    *=n)
        ! grep -qx "${option%=n}=y" "$obj/.config" || fail "$option does not hold in $obj/.config"
        continue
        ;;
    esac
    grep -qx "$option" "$obj/.config" || fail "$option does not hold in $obj/.config: has the Kconfig patch been applied?"
done
printf '%s\n' "$config" >"$obj/wanted"

echo "  XEN     $flavour"
run "$@"
[ $# = 0 ] || exit 0

[ -e "$obj/xen.efi" ] || fail "xen.efi was not made: $(command -v ld) has no support for PE (i386pep), see $log"
for map in xen-syms.map xen.efi.map; do
    awk -v map=$map 'length($3) > 127 { print "xen: symbol too long for a backtrace, in " map ": " $3; bad = 1 }
        END { exit bad }' "$obj/$map" >&2
done
mkdir -p "$out/$flavour"
for file in xen.gz xen-syms xen-syms.map xen.efi .config; do
    cmp -s "$obj/$file" "$out/$flavour/${file#.}" || cp "$obj/$file" "$out/$flavour/${file#.}"
done
