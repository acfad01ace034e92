#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# deps.sh: installs what building and testing needs, on Debian 12 and 13. Says
# first what that is; does nothing where nothing is missing.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)

fail()
{
    echo "deps: $*" >&2
    exit 1
}

# Xen; its source through apt; the series; lint; the emulators and their disks; what
# counts instructions; a browser (the largest: 125 MB with what it needs).
want="gcc libc6-dev make bison flex bc python3 patch xz-utils gzip binutils
    apt ca-certificates debian-archive-keyring
    git diffutils
    shellcheck
    qemu-system-x86 bochs bochsbios vgabios grub-pc-bin grub-common xorriso mtools
    zstd valgrind
    chromium chromium-driver"

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
case $codename in
# The compiler of the release itself, 1.63, is too old: -web is the newer one.
bookworm) rust="rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web" ;;
trixie) rust="rustc cargo rust-src rust-clippy rustfmt" ;;
*)
    # shellcheck disable=SC2086 # a list
    fail "this knows the package names of Debian 12 and 13 only; others need the like of:" $want \
        "and rustc >= 1.85 with cargo, clippy, rustfmt and the sources (rust-src)"
    ;;
esac

# Another Rust will do, such as rustup's with its rust-src.
if ! { sh "$top/xen-rs/kbuild/toolchain.sh" && cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1; then
    want="$want $rust"
fi

missing=
for package in $want; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
    *" installed") ;;
    *) missing="$missing $package" ;;
    esac
done
if [ -z "$missing" ]; then
    echo "  DEPS    nothing is missing"
    exit 0
fi

echo "  DEPS    will install:$missing"
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "not root, and no sudo: as root, run apt-get install$missing"
    sudo=sudo
fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -q update || fail "apt-get update failed: is there a network?"
# shellcheck disable=SC2086 # a list
$sudo apt-get -q -y --no-install-recommends install $missing ||
    fail "apt-get install failed, see above"
