#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# check-debian.sh OUT SUITE TARGET...: in a fresh Debian SUITE (bookworm, trixie),
# with nothing installed but make, runs 'make -f build.mk deps' and the TARGETs on
# a copy of this checkout. Needs root and mmdebstrap. The system in
# OUT/debian/SUITE is kept for the next time.
set -eu

suite=$2
mkdir -p "$1/debian"
root=$(cd "$1/debian" && pwd)/$suite
shift 2
top=$(cd "$(dirname "$0")/.." && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}

fail()
{
    echo "check-debian: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root, for chroot"
command -v mmdebstrap >/dev/null || fail "no mmdebstrap here: apt-get install mmdebstrap"

if [ ! -e "$root/etc/debian_version" ]; then
    echo "  DEBIAN  $suite"
    rm -rf "$root"
    mmdebstrap --quiet --variant=minbase --include=make "$suite" "$root" \
        "deb $mirror $suite main" "deb $mirror $suite-updates main" "deb $security $suite-security main" ||
        fail "mmdebstrap failed, see above"
    # Certificates that this machine trusts besides Debian's.
    mkdir -p "$root/usr/local/share/ca-certificates"
    cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || :
fi

# As the repository has it, less what was built; what is downloaded again is part
# of the check.
mkdir -p "$root/src"
find "$root/src" -mindepth 1 -maxdepth 1 ! -name out ! -name target -exec rm -rf {} +
tar -C "$top" --exclude=./out --exclude=./target --exclude=./.git -cf - . | tar -C "$root/src" -xf -

# In a mount namespace: what is mounted goes with the last process.
# shellcheck disable=SC2016 # for the inner shell
unshare --mount sh -c '
    root=$1
    shift
    mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 1
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -ec "
        cd /src
        make -f build.mk deps >/tmp/deps.log 2>&1 || { tail -n 20 /tmp/deps.log; exit 1; }
        exec make -f build.mk \"\$@\"" sh "$@"
' sh "$root" "$@" || fail "failed on $suite: $*"
echo "  DEBIAN  $suite: $* done"
