#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# test-audit.sh TMP: shows the audit of the Rust object one object for each thing
# that it is there to find, and one that is as it should be.
# shellcheck disable=SC2016 # what begins with $ is for the assembler
set -eu

mkdir -p "$1"
tmp=$(cd "$1" && pwd)
audit=$(dirname "$0")/../xen-rs/kbuild/audit.py
export CONFIG_INDIRECT_THUNK=y CONFIG_RETURN_THUNK=y

# expect TEXT: the audit of the assembly on standard input has exactly one finding,
# and that holds TEXT; with no TEXT, none.
expect()
{
    as --64 -o "$tmp/audit.o" -
    status=0
    said=$(python3 "$audit" "$tmp/audit.o" 2>&1) || status=$?
    findings=$(echo "$said" | grep '^rust audit: ' || :)
    if [ -z "$1" ]; then
        [ "$status-$findings" != 0- ] || return 0
    # The last line says how many.
    elif [ "$status" = 1 ] && [ "$(echo "$findings" | wc -l)" = 2 ]; then
        echo "$findings" | head -n 1 | grep -qF -- "$1" && return 0
    fi
    echo "test-audit: wanted '$1', got '$said'" >&2
    return 1
}

# A function with the lines given as its body, in a section of its own.
fn()
{
    printf '.section .text.%s,"ax",@progbits\n.globl %s\n%s:\n' "$1" "$1" "$1"
    shift
    printf '%s\n' "$@" 'jmp __x86_return_thunk'
}

fn good 'push %rbx' 'sub $0x100,%rsp' 'call memcpy' 'call __x86_indirect_thunk_r11' \
    'add $0x100,%rsp' 'pop %rbx' | expect ''

fn f 'movq %xmm0, %rax' | expect 'SIMD or x87 instruction'
fn f 'vpxor %ymm1, %ymm1, %ymm1' | expect 'SIMD or x87 instruction'
fn f 'fldz' | expect 'SIMD or x87 instruction'
fn f 'ret' | expect 'return that is not through a thunk'
fn f 'repz ret' | expect 'return that is not through a thunk'
fn f 'call *%rax' | expect 'indirect branch that is not through a thunk'
fn f 'jmp *8(%rax)' | expect 'indirect branch that is not through a thunk'
fn f 'notrack jmp *%rax' | expect 'indirect branch that is not through a thunk'
fn f 'movq x@GOTPCREL(%rip), %rax' | expect 'relocation R_X86_64_'
fn f 'movl $x, %eax' | expect 'relocation R_X86_64_32'
fn f 'sub $0x400,%rsp' | expect 'stack frame of 1032 bytes'
fn f 'push %rbx' 'sub $0x3f8,%rsp' | expect 'stack frame of 1032 bytes'
fn f 'sub %rax,%rsp' | expect 'stack frame of unknown size'
fn f 'call __udivti3' | expect '__udivti3 is a routine of the compiler'
fn "f$(printf '%0130d' 0)" | expect 'symbol of 131 characters'
fn f '.section .got,"aw"' '.quad 0' '.text' | expect 'section .got has no place'
fn f '.section .eh_frame,"a"' '.quad 0' '.text' | expect 'section .eh_frame has no place'
fn f '.section .init_array,"aw"' '.quad 0' '.text' | expect 'section .init_array has no place'
fn f '.section .tdata,"awT",@progbits' '.quad 0' '.text' | expect 'section .tdata has no place'
: | expect 'no code at all'

# Who panics is named also where the call goes through core and by section.
{
    fn caller 'call .text.in_core'
    printf '.section .text.in_core,"ax"\n"core::option::unwrap_failed":\ncall "core::panicking::panic"\n'
    printf '.section .text.panic,"ax"\n"core::panicking::panic":\nud2\n'
} | expect 'can panic: core::panicking::panic, reached from caller'

rm -f "$tmp/audit.o"
echo "  AUDIT   finds all that it should"
