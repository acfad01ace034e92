# SPDX-License-Identifier: GPL-2.0-only
# A restored guest is made whole while its disk and network are busy (grants that come and go), while
# it talks on a channel of libvchan (a grant that stays), and while a tool of the control domain keeps
# one page of each of eight regions mapped, and xenctx reads it. Those regions stay as they are, and
# why is counted; they heal when they are let go.
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

# The page of a channel.
frame=$(must one channel) || exit 1
mkfifo /tmp/said
vchan-socket-proxy --mode=client "$id" "$(path one)/vchan" - \
    </tmp/said >/tmp/heard 2>/tmp/proxy.log 8>&- &
proxy=$!
exec 7>/tmp/said

# heard LINE: does the guest say it again?
heard()
{
    grep -qx "$1" /tmp/heard
}

mode one full
for i in 1 2 3 4 5; do
    sleep 1
    xenctx "$id" >/dev/null 2>&1
    echo "line $i of $(cat /proc/uptime)" >/tmp/line
    cat /tmp/line >&7
    until_true 20 heard "$(cat /tmp/line)" || die "the channel: $(cat /tmp/proxy.log)"
done
say "= $(must one idle)"
kept_and_settled one
look one pinned
ours && [ "$(kind one "$frame")" != b ] && die "frame $frame is granted, and its region $(kind one "$frame")"

# Rings and the like stay pinned, in some of the eight too: the others heal, and the trace has to say
# of the rest what keeps it.
kept=$(regions b one 2>/dev/null)
exec 8>&- 7>&-
wait $proxy
heals one 150 $((${kept:-0} - 4))
kept_and_settled one
look one released
