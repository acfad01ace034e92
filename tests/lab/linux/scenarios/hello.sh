# SPDX-License-Identifier: GPL-2.0-only
# The shortest scenario: a guest that comes up, says something and goes.
guest one 128
must one uname -a
settle one
look one born
xl destroy one
