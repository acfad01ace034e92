/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exception table: instructions that are expected to fault, and where to go on
 * when they do.
 */
#ifndef XTF_EXTABLE_H
#define XTF_EXTABLE_H

#include <xtf/types.h>

#ifdef __x86_64__
# define XTF_ASM_WORD ".quad "
#else
# define XTF_ASM_WORD ".long "
#endif

#define XTF_STR_(x) #x
#define XTF_STR(x)  XTF_STR_(x)

/* For use inside asm(): fault and fixup are labels, handler a function or 0. */
#define _ASM_EXTABLE_HANDLER(fault, fixup, handler)                          \
    ".pushsection .ex_table, \"a\"\n\t"                                      \
    XTF_ASM_WORD XTF_STR(fault) ", " XTF_STR(fixup) ", "                     \
                 XTF_STR(handler) "\n\t"                                     \
    ".popsection\n\t"
#define _ASM_EXTABLE(fault, fixup) _ASM_EXTABLE_HANDLER(fault, fixup, 0)

struct cpu_regs;

struct extable_entry {
    unsigned long fault;
    unsigned long fixup;
    /* If present, moves regs->ip itself and says whether the trap is dealt with. */
    bool (*handler)(struct cpu_regs *regs, const struct extable_entry *ex);
};

const struct extable_entry *search_extable(unsigned long addr);

#endif /* XTF_EXTABLE_H */
