#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# check-off.sh OUT: with CONFIG_COALESCE=n the image is the same, byte for byte, as
# one without the series.
set -eu

out=$(cd "$1" && pwd)
build=$out/build
scripts=$(cd "$(dirname "$0")" && pwd)

rm -rf "$build/off-tree.new"
cp -a "$build/tree" "$build/off-tree.new"
python3 "$scripts/same-lines.py" "$build/plain" "$build/off-tree.new"
python3 "$scripts/mirror.py" "$build/off-tree.new" "$build/off-tree"
rm -rf "$build/off-tree.new"

sh "$scripts/xen.sh" "$out" stock-release
sh "$scripts/xen.sh" "$out" off

if ! cmp "$out/stock-release/xen.gz" "$out/off/xen.gz"; then
    echo "check-off: with CONFIG_COALESCE=n Xen is not what it is without the series;" \
        "compare $out/off/xen-syms and $out/stock-release/xen-syms" >&2
    exit 1
fi
echo "  OFF     the same xen.gz with CONFIG_COALESCE=n as without the series"
