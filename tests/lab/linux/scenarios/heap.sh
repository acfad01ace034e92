# SPDX-License-Identifier: GPL-2.0-only
# No free 2 MiB block is left in the machine when a guest has to be made whole. What cannot be done
# is put off, and is done when there is memory again.
# Xen boots with coalesce=off.
guest one 128
must one keep 16
xl save one /tmp/one.save >/dev/null 2>&1 || die "xl save"
gone one
xl restore -e /tmp/one.save >/dev/null 2>&1 || die "xl restore"
rm /tmp/one.save
# Others take all there is, down to the last blocks.
free=$(($(free_pages) / 256))
filler=0
while [ $free -gt 24 ]; do
    size=$((free - 8))
    [ $size -le 512 ] || size=512
    test_guest filler$filler coalesce-exchange $size "wait" || break
    xl pause filler$filler
    filler=$((filler + 1))
    free=$(($(free_pages) / 256))
done
say "= $free MiB are free"
look one restored
mode one full
sleep 8
must one kept
look one full-host
while [ $filler -gt 0 ]; do
    filler=$((filler - 1))
    xl destroy filler$filler
done
heals one 200 8
must one kept
look one healed
