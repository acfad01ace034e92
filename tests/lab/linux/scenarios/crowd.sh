# SPDX-License-Identifier: GPL-2.0-only
# Four guests balloon against each other on a machine that has no room for all they may ask for. All of
# them are healed, none is starved, and what cannot be had is refused in good order.
for name in a b c d; do
    guest $name 192
    balloon $name 112
    must $name keep 16
done
round=1
while [ $round -le "$ROUNDS" ]; do
    for name in a b c d; do
        rand 3
        # The target may be more than there is: then the guest stays where it is.
        xl mem-set $name $((112 + RANDOM_NUMBER * 40))
    done
    sleep 2
    round=$((round + 1))
done
# All of them together fit with this much, and what they grew by is in single pages on an unpatched Xen.
for name in a b c d; do
    must $name kept
    balloon $name 112
done
for name in a b c d; do
    balloon $name 144
done
for name in a b c d; do
    settle $name
    must $name kept
    look $name end-$name
done
