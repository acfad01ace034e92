/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Hypercalls as a 32-bit guest makes them.
 *
 * Xen takes the width of a call from the code segment of the one who calls. So a
 * 64-bit guest goes through a segment of 32 bits for the length of a call, and
 * Xen reads its arguments as those of a 32-bit guest (common/compat/).
 */
#include "coalesce.h"

#define CODE_32 0x00cf9b000000ffffULL

struct table_ptr {
    uint16_t limit;
    uint64_t base;
} __packed;

/* The guest's own descriptors, and one more. */
static uint64_t descriptors[64] __aligned(16);
static unsigned int selector;

/* hypercall_page + 32 * nr, two arguments, the selector of the segment. */
long co_enter32(unsigned long entry, unsigned long a1, unsigned long a2,
                unsigned long cs);

__asm__ ( ".pushsection .text\n"
          ".globl co_enter32\n"
          "co_enter32:\n\t"
          "push %rbx\n\t"
          "push %rbp\n\t"
          "push %r12\n\t"
          "push %r13\n\t"
          "push %r14\n\t"
          "push %r15\n\t"
          "mov %ecx, %r8d\n\t"
          "mov %edi, %eax\n\t"
          "mov %esi, %ebx\n\t"
          "mov %edx, %ecx\n\t"
          "mov %cs, %ebp\n\t"
          "push %r8\n\t"
          "lea 1f(%rip), %rdx\n\t"
          "push %rdx\n\t"
          "lretq\n"
          ".code32\n"
          "1:\n\t"
          "xor %edx, %edx\n\t"
          "xor %esi, %esi\n\t"
          "xor %edi, %edi\n\t"
          "call *%eax\n\t"
          "push %ebp\n\t"
          "call 3f\n"
          "3:\n\t"
          "addl $2f - 3b, (%esp)\n\t"
          "lret\n"
          ".code64\n"
          "2:\n\t"
          "mov %esp, %esp\n\t"
          "movslq %eax, %rax\n\t"
          "pop %r15\n\t"
          "pop %r14\n\t"
          "pop %r13\n\t"
          "pop %r12\n\t"
          "pop %rbp\n\t"
          "pop %rbx\n\t"
          "ret\n"
          ".size co_enter32, . - co_enter32\n"
          ".popsection" );

static void add_segment(void)
{
    struct table_ptr gdtr;
    unsigned int used;

    __asm__ __volatile__ ( "sgdt %0" : "=m" (gdtr) );
    used = (gdtr.limit + 1) / sizeof(*descriptors);

    /* XTF's own table is longer than what would be copied sensibly. */
    if ( used >= ARRAY_SIZE(descriptors) )
        panic("A GDT of %u descriptors\n", used);

    memcpy(descriptors, _p(gdtr.base), used * sizeof(*descriptors));
    descriptors[used] = CODE_32;
    selector = used * sizeof(*descriptors);

    gdtr.base = _u(descriptors);
    gdtr.limit = (used + 1) * sizeof(*descriptors) - 1;
    __asm__ __volatile__ ( "lgdt %0" :: "m" (gdtr) );
}

long co_memory_op32(unsigned int cmd, void *arg)
{
    if ( !selector )
        add_segment();

    return co_enter32(_u(hypercall_page) + __HYPERVISOR_memory_op * 32, cmd,
                      _u(arg), selector);
}
