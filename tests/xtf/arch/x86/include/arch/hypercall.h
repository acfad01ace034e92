/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Hypercalls go through the page that Xen fills in: it knows which instruction
 * the machine wants.  Arguments in %rdi, %rsi, %rdx, %r10, %r8; the result in
 * %rax; of the rest only %rcx and %r11 may change.
 */
#ifndef XTF_X86_HYPERCALL_H
#define XTF_X86_HYPERCALL_H

#ifndef __x86_64__
# error 64-bit only as yet
#endif

#include <xtf/types.h>
#include <arch/page.h>

extern uint8_t hypercall_page[PAGE_SIZE];

static inline long xtf_hypercall(unsigned int nr, unsigned long a1,
                                 unsigned long a2, unsigned long a3,
                                 unsigned long a4, unsigned long a5)
{
    unsigned long entry = (unsigned long)hypercall_page + nr * 32UL;
    register unsigned long r10 __asm__ ( "r10" ) = a4;
    register unsigned long r8 __asm__ ( "r8" ) = a5;
    long res;

    __asm__ __volatile__ ( "call *%[entry]"
                           : "=a" (res), "+D" (a1), "+S" (a2), "+d" (a3),
                             "+r" (r10), "+r" (r8)
                           : [entry] "a" (entry)
                           : "rcx", "r11", "memory" );

    return res;
}

#define XTF_HARG(a) ((unsigned long)(a))
#define HYPERCALL1(type, nr, a1) \
    ((type)xtf_hypercall(nr, XTF_HARG(a1), 0, 0, 0, 0))
#define HYPERCALL2(type, nr, a1, a2) \
    ((type)xtf_hypercall(nr, XTF_HARG(a1), XTF_HARG(a2), 0, 0, 0))
#define HYPERCALL3(type, nr, a1, a2, a3) \
    ((type)xtf_hypercall(nr, XTF_HARG(a1), XTF_HARG(a2), XTF_HARG(a3), 0, 0))
#define HYPERCALL4(type, nr, a1, a2, a3, a4)                              \
    ((type)xtf_hypercall(nr, XTF_HARG(a1), XTF_HARG(a2), XTF_HARG(a3),    \
                         XTF_HARG(a4), 0))
#define HYPERCALL5(type, nr, a1, a2, a3, a4, a5)                          \
    ((type)xtf_hypercall(nr, XTF_HARG(a1), XTF_HARG(a2), XTF_HARG(a3),    \
                         XTF_HARG(a4), XTF_HARG(a5)))

#endif /* XTF_X86_HYPERCALL_H */
