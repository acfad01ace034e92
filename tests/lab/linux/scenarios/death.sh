# SPDX-License-Identifier: GPL-2.0-only
# Guests die at seeded moments of coalescing and of exchange: destroyed, crashed, shut down.
# Nothing of them may stay: the machine's free pages are the same before and after.
#
# POINTS: how many deaths. Two kinds of guests take turns. One has been restored, so that all of
# it is being made whole; one exchanges memory as fast as it can.
guest one 112
xl save one /tmp/one.save >/dev/null 2>&1 || die "xl save"
gone one

point=0
before=
acts=0
while [ $point -le "$POINTS" ]; do
    rand 100
    how=$RANDOM_NUMBER
    rand 1500
    delay=$((RANDOM_NUMBER * 1000))
    if [ $((point % 2)) = 0 ]; then
        xl restore -e /tmp/one.save >/tmp/restore.log 2>&1 ||
            { cat /tmp/restore.log; die "xl restore"; }
    else
        test_guest one coalesce-exchange 128
        # It takes a while to begin.
        delay=$((delay * 2))
    fi
    usleep $delay
    id=$(domid one 2>/dev/null)
    if [ -n "$id" ] && ours; then
        set -- $(inside counters "$id" 2>/dev/null || echo 0)
        acts=$((acts + $1 + ${9:-0}))
    fi
    if [ $how -lt 60 ] || [ $((point % 2)) = 1 ]; then
        kind=destroy
        xl destroy one 2>/dev/null
    elif [ $how -lt 80 ]; then
        kind=crash
        begin one 'echo c >/proc/sysrq-trigger' 2>/dev/null
        usleep 500000
        xl destroy one 2>/dev/null
    else
        kind=shutdown
        xl shutdown -F one >/dev/null 2>&1
        usleep 300000
        xl destroy one 2>/dev/null
    fi
    gone one
    until_true 60 no_zombies || die "a zombie is left: $(xl list)"
    # The first two deaths leave what Xen and the control domain keep for the next guest.
    if [ $point = 1 ]; then
        before=$(free_pages)
    fi
    point=$((point + 1))
done
say "= $point deaths; $acts regions looked at and pages exchanged when they died"
say "@count deaths $point"
say "@count acts $acts"
say "@leak free_pages $before $(free_pages)"
