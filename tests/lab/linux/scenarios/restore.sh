# SPDX-License-Identifier: GPL-2.0-only
# A guest is saved and restored: restoring populates it page by page, so it comes back without a
# single superpage.
start_trace
guest one "$MIB"
must one keep $((MIB / 8))
settle one
look one born
xl save one /tmp/one.save >/dev/null 2>&1 || die "xl save"
gone one
xl restore -e /tmp/one.save >/dev/null 2>&1 || die "xl restore"
rm /tmp/one.save
look one restored
kept_and_settled one
look one healed
