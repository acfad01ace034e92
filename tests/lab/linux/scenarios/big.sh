# SPDX-License-Identifier: GPL-2.0-only
# A guest with entries of 1 GiB.
guest one "$MIB"
must one keep 32
settle one
look one born
balloon one $((MIB - 800))
look one small
balloon one "$MIB"
SETTLE=300 settle one
must one kept
look one healed
