# SPDX-License-Identifier: GPL-2.0-only
# The same guest is ballooned down and up again, ROUNDS times: how much of it is whole after each
# round, how many pages were copied for it, and how long Xen waits before it heals what broke before.
guest one 256
must one keep 16
settle one
look one round-0
round=1
while [ $round -le "$ROUNDS" ]; do
    balloon one 128
    balloon one 256
    read -r from _ </proc/uptime
    SETTLE=300 settle one
    read -r to _ </proc/uptime
    must one kept
    look one round-$round
    say "= round $round: $(regions W one) of 128 regions whole, after $((${to%.*} - ${from%.*})) s"
    round=$((round + 1))
done
