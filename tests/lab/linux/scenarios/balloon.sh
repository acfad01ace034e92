# SPDX-License-Identifier: GPL-2.0-only
# A guest is ballooned down and up again while it uses its disk and its network.
start_trace
guest one 256
must one keep 24
must one busy
settle one
look one born
balloon one 128
look one small
balloon one 256
say "= $(must one idle)"
settle one
must one kept
look one healed
