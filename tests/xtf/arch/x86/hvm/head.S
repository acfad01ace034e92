/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PVH entry: 32-bit protected mode, flat segments, no paging, %ebx pointing at
 * the start info.  Builds the page tables, enters long mode and calls C.
 */
#include <arch/page.h>
#include <xen/elfnote.h>

#define CR0_PE    0x00000001
#define CR0_WP    0x00010000
#define CR0_PG    0x80000000
#define CR4_PAE   0x00000020
#define MSR_EFER  0xc0000080
#define EFER_LME  0x00000100

#define BOOT_CS   0x08
#define BOOT_DS   0x10

#define PT_TABLE  (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_AD)
#define PT_LEAF   (_PAGE_PRESENT | _PAGE_RW | _PAGE_AD)

        .section .note.Xen, "a", @note
        .balign 4
        .long 4                         /* length of the name */
        .long 4                         /* length of the value */
        .long XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .long pvh_start

        .section .text.head, "ax", @progbits
        .code32
        .globl pvh_start
pvh_start:
        cld
        mov     %ebx, pvh_start_info

        /* L1: the first 2M in 4K pages, all but page 0. */
        mov     $1, %ecx
1:      mov     %ecx, %eax
        shl     $L1_PT_SHIFT, %eax
        or      $PT_LEAF, %eax
        mov     %eax, l1_identmap(, %ecx, 8)
        inc     %ecx
        cmp     $L1_PT_ENTRIES, %ecx
        jb      1b

        /* L2: four tables, one GiB each, in 2M pages. */
        movl    $l1_identmap + PT_TABLE, l2_identmap
        mov     $1, %ecx
1:      mov     %ecx, %eax
        shl     $L2_PT_SHIFT, %eax
        or      $PT_LEAF | _PAGE_PSE, %eax
        mov     %eax, l2_identmap(, %ecx, 8)
        inc     %ecx
        cmp     $4 * L2_PT_ENTRIES, %ecx
        jb      1b

        /* L3 and L4. */
        xor     %ecx, %ecx
1:      mov     %ecx, %eax
        shl     $PAGE_SHIFT, %eax
        add     $l2_identmap + PT_TABLE, %eax
        mov     %eax, l3_identmap(, %ecx, 8)
        inc     %ecx
        cmp     $4, %ecx
        jb      1b
        movl    $l3_identmap + PT_TABLE, l4_identmap

        mov     %cr4, %eax
        or      $CR4_PAE, %eax
        mov     %eax, %cr4

        mov     $l4_identmap, %eax
        mov     %eax, %cr3

        mov     $MSR_EFER, %ecx
        rdmsr
        or      $EFER_LME, %eax
        wrmsr

        mov     %cr0, %eax
        or      $CR0_PG | CR0_WP | CR0_PE, %eax
        mov     %eax, %cr0

        lgdt    boot_gdtr
        ljmp    $BOOT_CS, $long_mode

        .code64
long_mode:
        mov     $BOOT_DS, %eax
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs

        lea     boot_stack_top(%rip), %rsp
        pushq   $2                      /* only the bit that is always set */
        popfq
        xor     %ebp, %ebp

        call    xtf_main
        ud2                             /* does not return */
        .size pvh_start, . - pvh_start
        .type pvh_start, STT_FUNC

        .section .rodata, "a", @progbits
        .balign 4
boot_gdtr:
        .word   gdt_end - gdt - 1
        .long   gdt
        .long   0

        .data
        .balign 16
        .globl gdt
gdt:
        .quad   0
        .quad   0x00af9b000000ffff      /* 0x08: code, 64-bit, ring 0 */
        .quad   0x00cf93000000ffff      /* 0x10: data, ring 0 */
        .quad   0, 0                    /* 0x18: TSS, filled in by C */
gdt_end:

        .section .bss.page_aligned, "aw", @nobits
        .balign PAGE_SIZE
        .globl l1_identmap, l2_identmap, l3_identmap, l4_identmap
l1_identmap:
        .skip   PAGE_SIZE
l2_identmap:
        .skip   4 * PAGE_SIZE
l3_identmap:
        .skip   PAGE_SIZE
l4_identmap:
        .skip   PAGE_SIZE

        /* Top: normal work.  df_stack: double faults, which cannot trust it. */
        .skip   4 * PAGE_SIZE
boot_stack_top:
        .skip   PAGE_SIZE
        .globl df_stack_top
df_stack_top:

        /* Xen fills it; a ret (never reached then) in case it does not. */
        .section .text.page_aligned, "ax", @progbits
        .balign PAGE_SIZE
        .globl hypercall_page
hypercall_page:
        .fill   PAGE_SIZE, 1, 0xc3
        .size hypercall_page, . - hypercall_page
        .type hypercall_page, STT_OBJECT

        .section .note.GNU-stack, "", @progbits
