/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_TRAPS_H
#define XTF_X86_TRAPS_H

#include <xtf/compiler.h>
#include <arch/regs.h>
#include <xen/arch-x86/hvm/start_info.h>

/* NULL if the guest was not started through the PVH entry point. */
extern xen_pvh_start_info_t *pvh_start_info;

#ifdef CONFIG_PV
extern struct start_info *pv_start_info;
#endif

void arch_init_traps(void);

/* From the entry code.  Comes back only if execution can go on. */
void do_exception(struct cpu_regs *regs);

#endif /* XTF_X86_TRAPS_H */
