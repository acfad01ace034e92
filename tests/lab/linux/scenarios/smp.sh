# SPDX-License-Identifier: GPL-2.0-only
# A guest with two processors checks all of its memory while it is ballooned and made whole, on a
# machine whose processors really run at once.
guest one 192 'vcpus = 2'
must one keep 8
begin one "inside check 48 $DURATION --threads 2"
read -r start _ </proc/uptime
while :; do
    balloon one 144
    balloon one 192
    read -r now _ </proc/uptime
    [ $((${now%.*} - ${start%.*})) -lt "$DURATION" ] || break
done
rounds=$(LIMIT=600 result one) || die "memory: $rounds"
say "= $rounds rounds over all memory"
say "@count rounds $rounds"
must one kept
settle one
must one kept
look one healed
