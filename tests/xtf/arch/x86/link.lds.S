/* SPDX-License-Identifier: GPL-2.0-only */
#include <arch/config.h>

OUTPUT_FORMAT(elf64-x86-64)
OUTPUT_ARCH(i386:x86-64)
#ifdef CONFIG_PV
ENTRY(pv_start)
#else
ENTRY(pvh_start)
#endif

PHDRS
{
    image PT_LOAD FLAGS(7);     /* one segment: rights are not what is tested */
    note  PT_NOTE FLAGS(4);
}

SECTIONS
{
    . = XTF_LOAD_ADDR;
    _start = .;

    .text : {
        *(.text.head)
        *(.text .text.*)
    } :image

    .rodata : {
        *(.rodata .rodata.*)
        . = ALIGN(8);
        __start_ex_table = .;
        KEEP(*(.ex_table))
        __stop_ex_table = .;
    } :image

    .note : {
        KEEP(*(.note.Xen))
    } :image :note

    .data : {
        *(.data)
        *(.data.page_aligned)
        *(.data.*)
    } :image

    .bss : {
        *(.bss)
        *(.bss.page_aligned)
        *(.bss.*)
        *(COMMON)
    } :image

    . = ALIGN(4096);
    _end = .;

    /DISCARD/ : {
        *(.note.GNU-stack .note.gnu.* .comment .eh_frame)
    }
}

/* Tests keep away from the first 2M, and the L1 table covers just that. */
ASSERT(_end <= 0x200000, "the image must end below 2M")
