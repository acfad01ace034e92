#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# guest-module.sh CACHE OUT: builds tools/guest for the kernel that fetch-linux.sh has
# fetched, as OUT/modules/balloon-compact.ko, with Debian's headers in OUT/headers.
set -eu

cache=$1/linux
out=$(cd "$2" && pwd)
top=$(cd "$(dirname "$0")/.." && pwd)
log=$(dirname "$out")/logs/guest-module.log

fail()
{
    echo "guest-module: $*" >&2
    exit 1
}

source=$top/tools/guest
want=$(cat "$out/unpacked" "$0" "$source/Makefile" "$source"/*.c | sha256sum)
[ "$want" != "$(cat "$out/module-built" 2>/dev/null)" ] || exit 0
echo "  MODULE  out/linux/modules/balloon-compact.ko"

rm -rf "$out/headers" "$out/module"
mkdir -p "$out/headers" "$out/module" "$(dirname "$log")"
grep -E '^(linux-headers|linux-kbuild|libelf)' "$cache/complete" | while read -r deb; do
    dpkg-deb -x "$cache/$deb" "$out/headers"
done
src=$(echo "$out"/headers/usr/src/*-amd64)
[ -d "$src" ] || fail "no headers in $cache"
echo "include $(echo "$out"/headers/usr/src/*-common)/Makefile" >"$src/Makefile"

# The programs that build are Debian 13's, and may not run with this machine's C library.
# modpost is a front for one of several by the name of what it reads.
kbuild=$(echo "$out"/headers/usr/lib/linux-kbuild-*)
libraries=$out/root/usr/lib/x86_64-linux-gnu:$out/headers/usr/lib/x86_64-linux-gnu
wrap()
{
    printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' \
        "$out/root/usr/lib64/ld-linux-x86-64.so.2" "$libraries" "$kbuild/$2" >"$kbuild/$1.new"
    chmod +x "$kbuild/$1.new"
    mv "$kbuild/$1.new" "$kbuild/$1"
}
wrap scripts/mod/modpost scripts/mod/modpost.real-lsb-64
wrap tools/objtool/objtool tools/objtool/objtool.real-x86

cp "$source/Makefile" "$source"/*.c "$out/module"
# An older compiler than the kernel's will do, without what it does not know; and no BTF,
# for which pahole would be needed.
make -C "$out/module" KDIR="$src" CC=gcc CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT= \
    CONFIG_DEBUG_INFO_BTF_MODULES= >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "did not build, see $log"; }
! grep -q 'warning:' "$log" || { grep -A 5 'warning:' "$log" >&2; fail "the compiler warns, see $log"; }
strip --strip-debug -o "$out/modules/balloon-compact.ko" "$out/module/balloon-compact.ko"
echo "$want" >"$out/module-built"
