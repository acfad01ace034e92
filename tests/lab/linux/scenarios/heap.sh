# SPDX-License-Identifier: GPL-2.0-only
# No free 2 MiB block is left in the machine when a guest has to be made whole, and where its pages lie
# there are pages of another guest. What cannot be done is put off, and done when there is memory again.
# Xen boots with coalesce=off.
#
# MIB: the size of the guest.
guest one "$MIB"
must one keep 8
xl save one /tmp/one.save >/dev/null 2>&1 || die "xl save"
gone one

# Another guest gives up single pages of most of its blocks: they are what the first will consist of.
guest two 320
must two keep 8
must two scatter 20 2
balloon two $((320 - MIB - 2))

# Others take what else there is.
free=$(($(free_pages) / 256))
filler=0
while [ $free -gt $((MIB + 12)) ]; do
    size=$((free - MIB - 7))
    [ $size -le 512 ] || size=512
    test_guest filler$filler coalesce-exchange $size "" -p
    filler=$((filler + 1))
    free=$(($(free_pages) / 256))
done
xl restore -e /tmp/one.save >/dev/null 2>&1 || die "xl restore"
rm /tmp/one.save
say "= $(($(free_pages) / 256)) MiB are free"
look one restored
mode one full
settle one
must one kept
look one full-host

while [ $filler -gt 0 ]; do
    filler=$((filler - 1))
    xl destroy filler$filler
    gone filler$filler
done
heals one 200 10
settle one
must one kept
must two kept
look one healed
