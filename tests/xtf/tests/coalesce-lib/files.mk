# SPDX-License-Identifier: GPL-2.0-only
# To be included by a test's Makefile between common.mk and gen.mk.

obj-perenv += ../coalesce-lib/call32.o
obj-perenv += ../coalesce-lib/content.o
obj-perenv += ../coalesce-lib/doll.o
obj-perenv += ../coalesce-lib/report.o
obj-perenv += ../coalesce-lib/smp.o
obj-perenv += ../coalesce-lib/target.o
obj-perenv += ../coalesce-lib/xen.o
