# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=dash
#
# What scenarios have their guests do.

# keep MIB: fills a file in memory with random data, and remembers its checksum.
keep()
{
    dd if=/dev/urandom of=/mem/data bs=1M count="$1" 2>/dev/null || return 1
    kept=$(sha1sum </mem/data)
}

# kept: is the data what it was?
kept()
{
    [ "$(sha1sum </mem/data)" = "$kept" ]
}

# busy: reads and writes the disk, and talks to the control domain, until told otherwise. Xen heals
# in idle time, and an emulated processor would have none left if this took what it can get.
busy()
{
    rm -f /run/idle
    (
        n=0
        while [ ! -e /run/idle ]; do
            dd if=/dev/urandom of=/tmp/block bs=64k count=8 2>/dev/null
            dd if=/tmp/block of=/dev/xvda bs=64k seek=$((n % 12 * 8)) count=8 oflag=direct conv=notrunc 2>/dev/null &&
                dd if=/dev/xvda bs=64k skip=$((n % 12 * 8)) count=8 iflag=direct 2>/dev/null | cmp - /tmp/block ||
                echo "disk: wrong or failed at $n" >>/run/wrong
            n=$((n + 1))
            echo $n >/run/disk
            usleep 300000
        done
    ) >/dev/null 2>&1 &
    busy=$!
    (
        while [ ! -e /run/idle ]; do
            ping -q -c 5 -i 0.2 -s 1400 192.168.0.1 >/dev/null 2>&1 && echo x >>/run/net
            sleep 1
        done
    ) >/dev/null 2>&1 &
    busy="$busy $!"
}

# idle: ends that, and says how much was done, or what was wrong.
idle()
{
    touch /run/idle
    # shellcheck disable=SC2086 # two numbers
    wait $busy
    [ ! -s /run/wrong ] || { cat /run/wrong; return 1; }
    echo "disk $(cat /run/disk 2>/dev/null || echo 0) net $(wc -l </run/net 2>/dev/null || echo 0)"
}

# scatter MIB: has MIB of memory used and a quarter of it given back in single pages, so that what
# the balloon takes next is everywhere. `gathered` ends that. (Linux would begin to compact.)
scatter()
{
    echo 0 >/proc/sys/vm/compaction_proactiveness
    inside scatter /mem/scattered "$1"
}

gathered()
{
    rm /mem/scattered
}

# compact: has Linux bring together what is in use, and what is free.
compact()
{
    echo 1 >/proc/sys/vm/compact_memory
}

# compact_balloon: has the holes of the balloon moved together, and says what came of it.
compact_balloon()
{
    module=/sys/module/balloon_compact/parameters/compact
    [ -e $module ] || insmod /modules/balloon-compact.ko || return 1
    echo 1 >$module
    status=$?
    cat $module
    return $status
}

# blocks: free memory of the guest in pieces of at least 2 MiB, in MiB.
blocks()
{
    awk '{ size = 2; for (i = 14; i <= NF; i++) { n += $i * size; size *= 2 } } END { print n + 0 }' /proc/buddyinfo
}
