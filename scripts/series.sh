#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# series.sh OUT: writes the series to OUT/series, ready for git am on a plain tree
# of Xen 4.20, and proves it: git am onto a plain tree gives OUT/build/tree.
set -eu

out=$(cd "$1" && pwd)
build=$out/build
top=$(cd "$(dirname "$0")/.." && pwd)
repo=$build/series

fail()
{
    echo "series: $*" >&2
    exit 1
}

command -v git >/dev/null || fail "no git here: 'make -f build.mk deps' installs what is needed"

# Nothing of the caller's configuration takes part.
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
author=$(git -C "$top" log -1 --format='%an <%ae>' -- xen-rs 2>/dev/null || :)
export GIT_COMMITTER_NAME=series GIT_COMMITTER_EMAIL=series@localhost
export GIT_COMMITTER_DATE='2025-01-01T00:00:00Z'
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

# A plain tree as a repository in $1.
plain()
{
    rm -rf "$1"
    cp -a "$build/plain" "$1"
    rm -rf "$1/.git"
    git -C "$1" init -q
    # Also what Xen's .gitignore would leave out, so that the comparison is of all.
    git -C "$1" add -A -f
    git -C "$1" -c user.name=plain -c user.email=plain@localhost commit -qm plain
    git -C "$1" tag plain
}

add_rust()
{
    cp -a "$build/tree/xen/rust" "$repo/xen/rust"
    git -C "$repo" add -A -f xen/rust
    git -C "$repo" commit -q --author "${author:-xen-coalesce <xen-coalesce@localhost>}" \
        --date "$GIT_COMMITTER_DATE" -F - <<'EOF'
xen/rust: keep and rebuild guest superpages

The decisions are in p2m/, which is safe Rust and knows nothing of Xen; arch/
reads second stage page tables; xen-rs/ is what stands between those and Xen,
and has the only unsafe code, with C helpers for macros and inline functions.

It is built by a Makefile like that of any directory. rustc compiles its own
core library from source with Xen's options, everything becomes one object, and
that is checked before it is linked: no SIMD, no return or indirect branch
besides the thunks, no way to panic.

Nothing is built yet: that comes with the option.
EOF
}

plain "$repo"
last=$(tail -n 1 "$top/patches/series")
while read -r name; do
    # The option comes last, and what it builds right before it.
    [ "$name" != "$last" ] || add_rust
    git -C "$repo" am -q --whitespace=nowarn "$top/patches/$name" ||
        { git -C "$repo" am --abort; fail "git am does not take patches/$name"; }
done <"$top/patches/series"

rm -rf "$out/series"
git -C "$repo" format-patch -q --zero-commit --no-signature --signature= -o "$out/series" plain

plain "$build/am"
git -C "$build/am" am -q --whitespace=nowarn "$out"/series/*.patch || fail "git am does not take out/series"
diff -r --no-dereference -x .git "$build/am" "$build/tree" ||
    fail "out/series on a plain tree is not what was built"
rm -rf "$build/am"
echo "  SERIES  $(find "$out/series" -type f | wc -l) patches in $out/series, git am gives what was built"
