# SPDX-License-Identifier: GPL-2.0-only
# A guest whose balloon has taken single pages from all over moves its holes together, with
# XENMEM_exchange (tools/guest): it has free blocks of 2 MiB again, and the host 2M entries.
#
# MIB: the size of the guest, SMALL: what the balloon leaves of it.
start_trace
guest one "$MIB"
must one keep 16
must one scatter 16
balloon one "$SMALL"
must one gathered
# What Linux can do by itself.
must one compact
settle one
look one holes
before=$(must one blocks) || exit 1
whole=$(regions W one)

if ours; then
    say "= $(must one compact_balloon)"
    must one compact
else
    # An unpatched Xen refuses.
    said=$(ask one compact_balloon) && die "an unpatched Xen exchanges pages of a guest: $said"
    say "= $said"
fi
kept_and_settled one
look one healed
after=$(must one blocks) || exit 1
say "= free in the guest in blocks of at least 2 MiB: $before MiB before, $after MiB after"
if ours; then
    # Holes go where there are holes already. How much is won depends on where Linux has put them.
    [ "$after" -ge "$before" ] || die "the guest has lost large blocks"
    won=$(($(regions W one) - whole))
    [ $won -ge $(((MIB - SMALL) / 8)) ] || die "the host has won $won large pages only"
fi

# The balloon driver takes the pages back as it gave them up.
balloon one "$MIB"
kept_and_settled one
look one full
