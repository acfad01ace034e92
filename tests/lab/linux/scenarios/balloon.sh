# SPDX-License-Identifier: GPL-2.0-only
# A guest is ballooned down and up again while it uses its disk and its network.
start_trace
guest one "$MIB"
must one keep $((MIB / 8))
must one busy
settle one
look one born
balloon one "$SMALL"
look one small
balloon one "$MIB"
say "= $(must one idle)"
kept_and_settled one
look one healed
