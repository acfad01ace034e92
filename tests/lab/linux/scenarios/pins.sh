# SPDX-License-Identifier: GPL-2.0-only
# A restored guest is made whole while its disk and network are busy (grants that come and go) and
# while a tool of the control domain keeps one page of each of eight regions mapped, and xenctx
# reads it. Those eight stay as they are, and why is counted; they heal when they are let go.
# Xen boots with coalesce=off, so that nothing happens before the pages are pinned.
start_trace
guest one "$MIB"
must one keep $((MIB / 8))
xl save one /tmp/one.save >/dev/null 2>&1 || die "xl save"
gone one
xl restore -e /tmp/one.save >/dev/null 2>&1 || die "xl restore"
rm /tmp/one.save
id=$(domid one)
must one busy
look one restored

# Regions 40 to 47, a page in the middle of each.
mkfifo /tmp/hold
inside pin "$id" 0x5080+8*512 </tmp/hold >/tmp/pinned &
exec 8>/tmp/hold
until_true 10 grep -q '^pinned 8$' /tmp/pinned

mode one full
for _ in 1 2 3 4 5; do
    sleep 1
    xenctx "$id" >/dev/null 2>&1
done
say "= $(must one idle)"
settle one
must one kept
look one pinned

# Rings and the like stay pinned, in some of the eight too: the others heal, and the trace has to say
# of the rest what keeps it.
kept=$(regions b one 2>/dev/null)
exec 8>&-
heals one 150 $((${kept:-0} - 4))
settle one
must one kept
look one released
