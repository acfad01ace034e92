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

# busy [REST]: reads and writes the disk, and talks to the control domain, until told otherwise. Xen heals
# in idle time, and an emulated processor would have none left if this took what it can get: it rests
# for so many microseconds after each half MiB.
busy()
{
    rest=${1:-300000}
    rm -f /run/idle
    (
        n=0
        dd if=/dev/urandom of=/tmp/block bs=64k count=8 2>/dev/null
        while [ ! -e /run/idle ]; do
            # One new piece of eight: random numbers are what takes the most time.
            dd if=/dev/urandom of=/tmp/block bs=64k seek=$((n % 8)) count=1 conv=notrunc 2>/dev/null
            dd if=/tmp/block of=/dev/xvda bs=64k seek=$((n % 12 * 8)) count=8 oflag=direct conv=notrunc 2>/dev/null &&
                dd if=/dev/xvda bs=64k skip=$((n % 12 * 8)) count=8 iflag=direct 2>/dev/null | cmp - /tmp/block ||
                echo "disk: wrong or failed at $n" >>/run/wrong
            n=$((n + 1))
            echo $n >/run/disk
            usleep "$rest"
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

# channel: offers the control domain a channel (libvchan), on which it hears what it says, until it hangs
# up. Says which frame is granted for it.
channel()
{
    mkfifo /run/said /run/heard || return 1
    vchan-socket-proxy --mode=server 0 data/vchan - </run/said >/run/heard &
    proxy=$!
    cat /run/heard >/run/said &
    until address=$(grep -m 1 gntalloc /proc/$proxy/maps | cut -d - -f 1) && [ -n "$address" ]; do
        kill -0 $proxy || return 1
        usleep 100000
    done
    # The low 55 bits of an element of 8 bytes for each page (Linux' admin-guide/mm/pagemap.rst).
    page=$(dd if=/proc/$proxy/pagemap bs=8 skip=$((0x$address / 4096)) count=1 2>/dev/null | od -A n -t x8 | tr -d ' ')
    echo $((0x$page & 0x7fffffffffffff))
}

# scatter LEFT [N]: has all but LEFT MiB of the free memory used and every fourth page, or every Nth, of
# that given back, at random, so that what the balloon takes next is everywhere. (As long as there are large free blocks it
# would take those: its pages are not movable, so Linux would make room for them in one place. And it
# would begin to compact.) `gathered` ends that.
scatter()
{
    echo 0 >/proc/sys/vm/compaction_proactiveness
    free=$(awk '$1 == "MemFree:" { print int($2 / 1024) }' /proc/meminfo)
    inside scatter /mem/scattered $((free - $1)) --one-in "${2:-4}"
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
