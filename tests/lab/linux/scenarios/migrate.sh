# SPDX-License-Identifier: GPL-2.0-only
# A guest is migrated, live, to where it is already, while its regions are being made whole:
# log-dirty tracking begins and ends at seeded moments of that. Its memory is all new each time,
# and comes without superpages.
guest one 160
must one keep 24
must one busy
time=1
while [ $time -le "$TIMES" ]; do
    balloon one 128
    balloon one 160
    rand 1000
    usleep $((RANDOM_NUMBER * 1000))
    xl migrate -s '' one 'xl migrate-receive' >/tmp/migrate.log 2>&1 || { cat /tmp/migrate.log; die "xl migrate"; }
    must one kept
    # Linux loses about 1 MiB each time, on any Xen: of 112 MiB nothing was left after twelve.
    say "= migrated $time times: $(must one "awk '/MemAvailable/ { print \$2 }' /proc/meminfo") KiB available"
    time=$((time + 1))
done
must one idle
settle one
must one kept
look one healed
