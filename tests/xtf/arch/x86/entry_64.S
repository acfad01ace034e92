/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exception entry.  All 32 vectors come in here; each stub is 16 bytes, so
 * that C can fill the IDT by arithmetic.
 */
        .text

        .balign 16
        .globl exception_stubs
exception_stubs:
        vector = 0
        .rept 32
        .balign 16
        /* #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX push an error code. */
        .if !((0x60227d00 >> vector) & 1)
        pushq   $0
        .endif
        pushq   $vector
        jmp     exception_common
        vector = vector + 1
        .endr
        .size exception_stubs, . - exception_stubs

        .balign 16
exception_common:
        push    %rdi
        push    %rsi
        push    %rdx
        push    %rcx
        push    %rax
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld

        mov     %rsp, %rdi
        mov     %rsp, %rbp
        and     $-16, %rsp
        call    do_exception
        mov     %rbp, %rsp

        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rax
        pop     %rcx
        pop     %rdx
        pop     %rsi
        pop     %rdi
        add     $16, %rsp               /* vector, error code */
        iretq
        .size exception_common, . - exception_common

        .section .note.GNU-stack, "", @progbits
