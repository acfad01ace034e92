#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# apt.sh, for scripts that fetch packages: an apt configuration of its own, which checks
# what it gets against Debian's signed indexes and leaves the system's sources, lists and
# cache as they are. A script that reads this has a function fail.

# shellcheck disable=SC2034 # for whoever reads this
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
# shellcheck disable=SC2034
security=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# private_apt DIR HINT TYPE ARCHIVE...: sets it up in the new folder DIR, for all calls of apt that
# follow. HINT is what to do instead; TYPE is deb or deb-src, ARCHIVE an address and a suite.
private_apt()
{
    command -v apt-get >/dev/null || fail "no apt-get here: this needs Debian 12 or 13$2"
    [ -e $keyring ] || fail "no $keyring: install debian-archive-keyring$2"
    rm -rf "$1"
    mkdir -p "$1/lists/partial" "$1/archives/partial"
    : >"$1/status"
    cat >"$1/apt.conf" <<EOF
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$1";
Dir::State::Lists "$1/lists";
Dir::State::Status "$1/status";
Dir::Cache "$1";
Dir::Cache::Archives "$1/archives";
APT::Architecture "amd64";
APT::Architectures "amd64";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "60";
APT::Get::Show-Versions "true";
EOF
    dir=$1
    type=$3
    shift 3
    for archive; do
        echo "$type [arch=amd64 signed-by=$keyring] $archive main"
    done >"$dir/sources.list"
    # The user _apt may not be able to write below here.
    [ "$(id -u)" != 0 ] || echo 'APT::Sandbox::User "root";' >>"$dir/apt.conf"
    export APT_CONFIG="$dir/apt.conf"
}

# update_apt DIR [HINT]: reads the index; what apt says goes to DIR/log.
update_apt()
{
    apt-get -qq update >>"$1/log" 2>&1 ||
        { tail -n 3 "$1/log" >&2; fail "apt could not read its index: is there a network?$2"; }
}
