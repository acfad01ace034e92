/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_TRAPS_H
#define XTF_TRAPS_H

#include <xtf/extable.h>
#include <xtf/test.h>
#include <arch/traps.h>
#include <xen/xen.h>

/* Mapped over a page of the image before test_main() runs. */
extern shared_info_t shared_info;

/*
 * A test may define this to look at traps that no exception table entry
 * explains.  Returning true resumes at regs->ip.
 */
bool do_unhandled_exception(struct cpu_regs *regs);

#endif /* XTF_TRAPS_H */
