# SPDX-License-Identifier: GPL-2.0-only
# A guest whose memory is in the tables of an IOMMU, as if it had a device, which could not be made to wait while
# a page moves. Regions that are broken because it was looked which pages the guest writes, as a live migration
# does, are one entry again; those that come back from the balloon as single pages from elsewhere stay
# as they are, and that is counted.
export PRELOAD=/usr/lib/passthrough.so
start_trace
guest one "$MIB" 'cpuid = "host,cx16=0"'
id=$(domid one)
must one keep 16
must one busy
settle one
look one born

mkfifo /tmp/hold
inside log-dirty "$id" </tmp/hold >/tmp/tracked &
tracker=$!
exec 8>/tmp/hold
until_true 10 grep -q '^log-dirty$' /tmp/tracked
must one "dd if=/dev/zero of=/mem/written bs=1M count=$((MIB / 4))" >/dev/null
must one "rm /mem/written"
exec 8>&-
wait $tracker || die "log-dirty"
kept_and_settled one
look one in-place

balloon one "$SMALL"
balloon one "$MIB"
say "= $(must one idle)"
kept_and_settled one
look one left
if ours; then
    # (The order of public/domctl.h.)
    # shellcheck disable=SC2046 # numbers
    set -- $(inside counters "$id")
    say "@count promoted $2"
    [ "$3 $4 $5" = "0 0 0" ] || die "$3 regions were completed, $4 migrated, $5 pages copied"
fi
