#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# fetch-xen.sh CACHE: sees to it that CACHE/xen.tar.xz is a source archive of Xen
# 4.20, as Debian ships it. Downloads it once: first the versions that
# xen-versions names with their checksums, newest first, for those the series was
# tested with, then what apt's signed indexes have. (A mirror may list a version that
# it has not got, or keep one that it does not list any more.)
set -eu

cache=$1

fail()
{
    echo "fetch-xen: $*" >&2
    exit 1
}

[ -e "$cache/xen.tar.xz" ] && exit 0
# shellcheck source=scripts/apt.sh
. "$(dirname "$0")/apt.sh"

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
apt=$cache/apt
rm -rf "$cache/download"
mkdir "$cache/download"
private_apt "$apt" "; or unpack a Xen 4.20 source and name it with XEN_SRC=DIR" \
    deb-src "$mirror trixie" "$mirror stable" "$security trixie-security"

echo "  FETCH   Xen 4.20 ($mirror)"

# took VERSION FILE: that is the archive.
took()
{
    echo "$1" >"$cache/xen.version"
    mv "$2" "$cache/xen.tar.xz"
    rm -rf "$apt" "$cache/download"
    exit 0
}

tried=
while read -r version sum; do
    case $version in \#* | '') continue ;; esac
    tried="$tried $version"
    name=xen_${version%-*}.orig.tar.xz
    for pool in "$mirror/pool/main/x/xen" "$security/pool/updates/main/x/xen"; do
        /usr/lib/apt/apt-helper download-file "$pool/$name" "$cache/download/$name" "SHA256:$sum" \
            >>"$apt/log" 2>&1 || continue
        took "$version" "$cache/download/$name"
    done
done <"$(dirname "$0")/xen-versions"

update_apt "$apt" " (or use XEN_SRC=DIR)"

# The main archive first: the security archive may have more, but its files are
# not on every mirror.
versions=
# shellcheck disable=SC2016 # apt's variable
for origin in _trixie_ _stable_ _trixie-security_; do
    versions="$versions $(apt-get indextargets --format '$(FILENAME)' 'Created-By: Sources' |
        grep -- "$origin" | while read -r list; do
            /usr/lib/apt/apt-helper cat-file "$list"
        done | awk '/^Package: / { xen = $2 == "xen" } xen && /^Version: / { print $2 }' |
        grep '^4\.20\.' | sort -rV)"
done
cd "$cache/download"
for version in $versions; do
    apt-get -q source --download-only --tar-only "xen=$version" >>"$apt/log" 2>&1 || continue
    for tar in xen_*.orig.tar.xz; do
        [ -e "$tar" ] || continue
        cd ..
        took "$version" "download/$tar"
    done
done
tail -n 5 "$apt/log" >&2
fail "none of these could be downloaded:$tried$versions; use XEN_SRC=DIR"
