# SPDX-License-Identifier: GPL-2.0-only
# A guest whose balloon has taken single pages from all over moves its holes together, with
# XENMEM_exchange (tools/guest): it has free blocks of 2 MiB again, and the host 2M entries.
#
# MIB: the size of the guest, SMALL: what the balloon leaves of it.
start_trace
guest one "$MIB"
must one keep 16
must one scatter $((MIB * 18 / 32))
balloon one "$SMALL"
must one gathered
# What Linux can do by itself.
must one compact
settle one
look one holes
before=$(must one blocks) || exit 1

if ours; then
    say "= $(must one compact_balloon)"
    must one compact
else
    # An unpatched Xen refuses.
    said=$(ask one compact_balloon) && die "an unpatched Xen exchanges pages of a guest: $said"
    say "= $said"
fi
settle one
must one kept
look one healed
after=$(must one blocks) || exit 1
say "= free in the guest in blocks of at least 2 MiB: $before MiB before, $after MiB after"
# A free block that is given up for holes among pages in use is the host's gain only. Where Linux has
# put those holes decides which is more: between 8 MiB less and 46 MiB more were seen.
! ours || [ "$after" -ge $((before - 16)) ] || die "the guest has lost large blocks"

# The balloon driver takes the pages back as it gave them up.
balloon one "$MIB"
settle one
must one kept
look one full
