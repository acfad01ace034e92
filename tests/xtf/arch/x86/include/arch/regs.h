/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_REGS_H
#define XTF_X86_REGS_H

#include <xtf/types.h>

/*
 * Registers at an exception, in the order in which entry_64.S leaves them on
 * the stack.  The last five (the sixth is not pushed) come from the processor.
 */
struct cpu_regs {
    unsigned long r15, r14, r13, r12, bp, bx;
    unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
    unsigned long entry_vector;
    unsigned long error_code;
    unsigned long ip, cs, flags, _sp, _ss;
};

#endif /* XTF_X86_REGS_H */
