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

sh "$scripts/xen.sh" "$out" off-stock
sh "$scripts/xen.sh" "$out" off

bad=
# The loadable contents, less the hash of what is not loaded (names, line tables).
for flavour in off-stock off; do
    "${OBJCOPY:-objcopy}" -O binary --remove-section=.note.gnu.build-id \
        "$out/$flavour/xen-syms" "$build/$flavour.bin"
    "${READELF:-readelf}" -SW "$out/$flavour/xen-syms" |
        sed -n 's/^ *\[ *[0-9]*\] //; /^\.\(debug\|comment\|symtab\|strtab\|shstrtab\|rela\)/d; / A\|WA\|AX/p' |
        awk '{ print $1, $3, $5 }' >"$build/$flavour.sections"
done
cmp "$build/off-stock.bin" "$build/off.bin" || bad=1
diff "$build/off-stock.sections" "$build/off.sections" || bad=1
if [ $bad ]; then
    echo "check-off: with CONFIG_COALESCE=n Xen is not what it is without the series;" \
        "compare $out/off/xen-syms and $out/off-stock/xen-syms" >&2
    exit 1
fi
echo "  OFF     same $(stat -c %s "$build/off.bin") bytes with CONFIG_COALESCE=n as without the series"
