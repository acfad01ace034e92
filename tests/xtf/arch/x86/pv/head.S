/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * 64-bit PV entry: long mode, paging on, %rsi pointing at the start info.  Xen
 * maps the image, the list of machine frames and what else it needs from
 * address 0 on: pseudo-physical and virtual addresses are the same there.
 */
#include <arch/page.h>
#include <xen/elfnote.h>

.macro ELFNOTE type, value:vararg
        .balign 4
        .long 4                         /* length of the name */
        .long 2f - 1f
        .long \type
        .asciz "Xen"
1:      \value
2:
.endm

        .section .note.Xen, "a", @note
        ELFNOTE XEN_ELFNOTE_ENTRY, .quad pv_start
        ELFNOTE XEN_ELFNOTE_HYPERCALL_PAGE, .quad hypercall_page
        ELFNOTE XEN_ELFNOTE_VIRT_BASE, .quad 0
        ELFNOTE XEN_ELFNOTE_XEN_VERSION, .asciz "xen-3.0"
        ELFNOTE XEN_ELFNOTE_GUEST_OS, .asciz "XTF"
        ELFNOTE XEN_ELFNOTE_LOADER, .asciz "generic"
        ELFNOTE XEN_ELFNOTE_PAE_MODE, .asciz "yes"
        .balign 4

        .section .text.head, "ax", @progbits
        .globl pv_start
pv_start:
        cld
        mov     %rsi, pv_start_info(%rip)
        lea     boot_stack_top(%rip), %rsp
        xor     %ebp, %ebp

        call    xtf_main
        ud2                             /* does not return */
        .size pv_start, . - pv_start
        .type pv_start, STT_FUNC

        .section .bss.page_aligned, "aw", @nobits
        .balign PAGE_SIZE
        .skip   4 * PAGE_SIZE
boot_stack_top:

        /* Xen fills it, and maps it read-only. */
        .section .text.page_aligned, "ax", @progbits
        .balign PAGE_SIZE
        .globl hypercall_page
hypercall_page:
        .fill   PAGE_SIZE, 1, 0xc3
        .size hypercall_page, . - hypercall_page
        .type hypercall_page, STT_OBJECT

        .section .note.GNU-stack, "", @progbits
