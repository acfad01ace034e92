# SPDX-License-Identifier: GPL-2.0-only
# The same guest is ballooned down and up again, ROUNDS times: how much of it is whole after each
# round, what that cost, and how long Xen waits before it heals what has broken before. (Each time
# that a region is healed doubles the time for which it is left alone when it breaks again.)
#
# COOLS: the round after which Xen has to have waited for seconds, if there are so many. Nobody waits
# for it after that: each round is as long as the one before it, and shows what is left broken.
#
# What an unpatched Xen has left is looked at after each round. Ours says itself; a look would make it
# forget how often what has broken, because it is switched off for that.

# count INDEX: one of the counters of XEN_DOMCTL_coalesce.
count()
{
    inside counters "$(domid one)" | cut -d ' ' -f $(($1 + 1))
}

guest one 256
must one keep 16
settle one
look one round-0
left=$(regions b one)
ours && copied=$(count 4) ticks=$(count 11)
round=1
while [ $round -le "$ROUNDS" ]; do
    balloon one 128
    balloon one 256
    read -r from _ </proc/uptime
    if [ $round -le "$COOLS" ]; then
        heals one 400 "$left"
    else
        sleep "$waited"
    fi
    read -r to _ </proc/uptime
    must one kept
    if ours; then
        now=$(count 4) now_ticks=$(count 11)
        say "= round $round: after $((${to%.*} - ${from%.*})) s $(regions W one) regions are whole, $(regions b one) broken; $((now - copied)) pages copied, p2m lock held for $(((now_ticks - ticks) / 1000000)) M ticks"
        copied=$now ticks=$now_ticks
    else
        look one round-$round
    fi
    [ $round -gt "$COOLS" ] || waited=$((${to%.*} - ${from%.*}))
    round=$((round + 1))
done
[ "$ROUNDS" -lt "$COOLS" ] || ! ours || [ "$waited" -ge 5 ] ||
    die "after round $COOLS Xen waited for $waited s only before it healed again"
heals one 400 "$left"
must one kept
look one end
