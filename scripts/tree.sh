#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# tree.sh CACHE BUILD: sees to it that BUILD/plain is an untouched source of Xen
# and BUILD/tree is that with the series and our Rust code. Files that are as they
# should be keep their times. XEN_SRC names a tree to copy instead of Debian's.
set -eu

mkdir -p "$1" "$2"
cache=$(cd "$1" && pwd)
build=$(cd "$2" && pwd)
top=$(cd "$(dirname "$0")/.." && pwd)

fail()
{
    echo "tree: $*" >&2
    exit 1
}

exec 9>"$build/tree.lock"
flock 9
rm -rf "$build"/*.new

if [ -n "${XEN_SRC:-}" ]; then
    [ -e "$XEN_SRC/xen/Kconfig" ] || fail "XEN_SRC=$XEN_SRC is not the top of a Xen tree (no xen/Kconfig)"
    # On a copy, without what was built in it; the user's tree is never changed.
    mkdir "$build/plain.new"
    tar -C "$XEN_SRC" --exclude-vcs --exclude='*.o' --exclude='.*.cmd' -cf - . | tar -C "$build/plain.new" -xf -
    if [ -e "$build/plain.new/xen/.config" ]; then
        make -s -C "$build/plain.new/xen" distclean >/dev/null || fail "cannot clean a copy of $XEN_SRC"
    fi
    python3 "$top/scripts/mirror.py" "$build/plain.new" "$build/plain"
    rm -rf "$build/plain.new"
    source="$(cd "$XEN_SRC" && pwd)"
    rm -f "$build/tree.stamp" # it may have changed at any time
else
    sh "$top/scripts/fetch-xen.sh" "$cache"
    source=$(cksum <"$cache/xen.tar.xz")
    if [ "$source" != "$(cat "$build/plain.stamp" 2>/dev/null)" ]; then
        mkdir "$build/plain.new"
        tar -C "$build/plain.new" --strip-components=1 -xf "$cache/xen.tar.xz" ||
            fail "$cache/xen.tar.xz is damaged: remove it and try again"
        python3 "$top/scripts/mirror.py" "$build/plain.new" "$build/plain"
        rm -rf "$build/plain.new"
    fi
fi
printf '%s\n' "$source" >"$build/plain.stamp"

stamp=$(cd "$top/patches" && cat "$build/plain.stamp" series ./*.patch | cksum)
if [ "$stamp" != "$(cat "$build/tree.stamp" 2>/dev/null)" ]; then
    cp -a "$build/plain" "$build/tree.new"
    while read -r name; do
        patch -d "$build/tree.new" -p1 -N -s -F0 --no-backup-if-mismatch <"$top/patches/$name" ||
            fail "patches/$name does not apply to $(cat "$cache/xen.version" 2>/dev/null || echo this tree): refresh it"
    done <"$top/patches/series"
    sh "$top/scripts/export.sh" "$cache" "$build/tree.new/xen/rust"
    python3 "$top/scripts/mirror.py" "$build/tree.new" "$build/tree"
    rm -rf "$build/tree.new"
    printf '%s\n' "$stamp" >"$build/tree.stamp"
else
    sh "$top/scripts/export.sh" "$cache" "$build/rust.new"
    python3 "$top/scripts/mirror.py" "$build/rust.new" "$build/tree/xen/rust"
    rm -rf "$build/rust.new"
fi
