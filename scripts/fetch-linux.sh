#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# fetch-linux.sh CACHE OUT: the parts of a Linux control domain with Xen's own
# toolstack, from Debian 13, unpacked in OUT/root. Nothing is installed on this machine.
# Packages come through an apt configuration of its own, which checks them against
# Debian's signed index, and stay in CACHE/linux: later runs need no network.
set -eu

cache=$1/linux
out=$2

# The toolstack has to speak the hypervisor's domctl and sysctl, so these are of one version.
xen="xen-utils-4.20 xen-utils-common xenstore-utils libxenmisc4.20 libxencall1
    libxendevicemodel1 libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1
    libxenstore4 libxentoollog1 libxentoolcore1"
# What those link with, and a shell. (Without libgcc-s1 xl aborts when its work is done.)
base="libc6 libgcc-s1 libncurses6 libtinfo6 libyajl2 libext2fs2t64 libcom-err2 liblzma5
    libuuid1 libzstd1 zlib1g liblzo2-2 libbz2-1.0 busybox-static libelf1t64"
# Drivers, in the order in which they have to be loaded; their dependencies are built in.
modules="xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc loop xen-blkback xen-netback
    xen-blkfront xen-netfront"

fail()
{
    echo "fetch-linux: $*" >&2
    exit 1
}

# unpack_kernel FROM TO: an emulated processor takes seconds for what zstd does here at once.
# (Documentation/arch/x86/boot.rst: setup_sects, payload_offset and payload_length; the
# last four bytes are the length unpacked.)
unpack_kernel()
{
    setup=$(od -An -tu1 -j 497 -N 1 "$1")
    # shellcheck disable=SC2046 # two numbers
    set -- "$1" "$2" $(od -An -tu4 -j 584 -N 8 "$1")
    tail -c "+$(((setup + 1) * 512 + $3 + 1))" "$1" | head -c "$(($4 - 4))" | zstd -qdc >"$2" ||
        fail "the kernel cannot be unpacked: is it not packed with zstd any more?"
}

unpacked()
{
    command -v zstd >/dev/null || fail "no zstd here: 'make -f build.mk deps' installs what is needed"
    want=$(cat "$cache/complete" "$0" | sha256sum)
    if [ "$want" != "$(cat "$out/unpacked" 2>/dev/null)" ]; then
        echo "  UNPACK  out/linux/root"
        rm -rf "$out"
        mkdir -p "$out/root" "$out/modules"
        while read -r deb; do
            case $deb in
            # Of the kernel's 100 MB only a few files are of use.
            linux-image-*)
                # shellcheck disable=SC2046 # a list
                dpkg-deb --fsys-tarfile "$cache/$deb" | tar -C "$out" -xf - --wildcards \
                    './boot/vmlinuz-*' $(for module in $modules; do echo "*/$module.ko.xz"; done)
                unpack_kernel "$out"/boot/vmlinuz-* "$out/vmlinux"
                for module in $modules; do
                    find "$out/usr" "$out/lib" -name "$module.ko.xz" -exec xz -dc {} + \
                        >"$out/modules/$module.ko" 2>/dev/null || :
                    [ -s "$out/modules/$module.ko" ] || fail "$deb has no module $module"
                done
                rm -rf "${out:?}/boot" "${out:?}/usr" "${out:?}/lib"
                ;;
            # For guest-module.sh.
            linux-headers-* | linux-kbuild-* | libelf1t64*) ;;
            *) dpkg-deb -x "$cache/$deb" "$out/root" ;;
            esac
        done <"$cache/complete"
        cp "$cache/versions" "$out/versions"
        echo "$want" >"$out/unpacked"
    fi
    exit 0
}

command -v dpkg-deb >/dev/null || fail "no dpkg-deb here: this needs Debian 12 or 13"
list="$xen $base linux-image linux-headers linux-kbuild"
[ ! -e "$cache/complete" ] || [ "$(cat "$cache/wanted" 2>/dev/null)" != "$list" ] || unpacked
# shellcheck source=scripts/apt.sh
. "$(dirname "$0")/apt.sh"

rm -rf "$cache"
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
apt=$cache/apt
private_apt "$apt" "" deb "$mirror trixie" "$security trixie-security"

echo "  FETCH   Linux and Xen's toolstack, from Debian 13 ($mirror)"
update_apt "$apt" ""

versions()
{
    apt-cache madison "$1" | awk '{ print $3 }' | sort -ruV
}

# get VERSION PACKAGE...: all of them or none. A mirror may list what it has not got.
get()
{
    version=$1
    shift
    # shellcheck disable=SC2046 # a list
    (cd "$apt/archives" && apt-get -q download $(for p; do echo "$p=$version"; done)) >>"$apt/log" 2>&1
}

take()
{
    for deb in "$apt"/archives/*.deb; do
        name=$(basename "$deb")
        mv "$deb" "$cache/$name"
        echo "$name" >>"$cache/list"
    done
    printf '%s %s\n' "$1" "$2" >>"$cache/versions"
}

# newest NAME PACKAGE...: the newest version of which all of them can be had.
newest()
{
    what=$1
    shift
    for version in $(versions "$1"); do
        if get "$version" "$@"; then
            take "$what" "$version"
            return
        fi
        rm -f "$apt"/archives/*.deb
    done
    tail -n 5 "$apt/log" >&2
    fail "$what: none of the versions listed could be downloaded: $(versions "$1" | tr '\n' ' ')"
}

# shellcheck disable=SC2086 # a list
newest "xen-utils" $xen
for package in $base; do
    newest "$package" "$package"
done
# The generic kernel: the one for clouds cannot be a control domain. And its headers.
kernel=
for version in $(versions linux-image-amd64); do
    kernel=$(apt-cache show "linux-image-amd64=$version" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' | head -n 1)
    release=${kernel#linux-image-}
    [ -n "$kernel" ] && get "$version" "$kernel" "linux-headers-$release" \
        "linux-headers-${release%-amd64}-common" "linux-kbuild-${release%-amd64}" && break
    kernel=
done
[ -n "$kernel" ] || fail "no kernel could be downloaded, see $apt/log"
take "$kernel" "$version"

rm -rf "$apt"
echo "$list" >"$cache/wanted"
mv "$cache/list" "$cache/complete"
unpacked
