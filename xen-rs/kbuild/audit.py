#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""audit.py OBJECT: what may be linked into Xen, checked on the machine code.

Prints one line for each finding and fails if there is any. What depends on Xen's
configuration is taken from CONFIG_* in the environment.
"""

import os
import re
import subprocess
import sys

LONGEST_SYMBOL = 127  # Xen's buffers for file#name hold 128 bytes, unchecked
LARGEST_FRAME = 1024  # Xen's stack is 16 KiB in all, shared with C

SECTIONS = re.compile(
    r"\.(text|rodata|data|bss)(\..*)?|\.data\.rel\.ro(\..*)?|\.(rela?\.)?debug_.*|\.rela\.(text|rodata|data)(\..*)?"
    r"|\.note\.(gnu\.property|GNU-stack)|\.(sym|str|shstr)tab"
)
RELOCATIONS = {"R_X86_64_64", "R_X86_64_PC32", "R_X86_64_PLT32", "R_X86_64_PC64"}

SIMD = re.compile(r"%(?:[xyz]mm\d|mm\d|st\b|k[0-7]\b)")
X87 = re.compile(r"f(?!s\b)\w+$|emms$|fx?save|fx?rstor|ldmxcsr|stmxcsr")
PANIC = re.compile(r"core(?:\[[0-9a-f]+\])?::panicking::|rust_begin_unwind|panic_handler")

HEADER = re.compile(r"^([0-9a-f]+) <(.*)>:$")
INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(.*)$")
RELOCATION = re.compile(r"^\s+[0-9a-f]+: (R_X86_64_\w+)\s+(.*?)(?:[+-]0x[0-9a-f]+)?$")


def run(tool, default, *args):
    command = [os.environ.get(tool) or default, *args]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def config(name):
    return os.environ.get("CONFIG_" + name) == "y"


class Function:
    def __init__(self, name, section):
        self.name = name
        self.section = section
        self.pushed = 0
        self.frame = 0
        self.targets = set()


def disassemble(obj, find):
    """Checks each instruction; returns the functions by name."""
    functions = {}
    function = section = None
    for line in run("OBJDUMP", "objdump", "-dr", "--no-show-raw-insn", obj).splitlines():
        if line.startswith("Disassembly of section "):
            section = line.split()[-1].rstrip(":")
        elif match := HEADER.match(line):
            function = functions[match[2]] = Function(match[2], section)
        elif match := RELOCATION.match(line):
            function.targets.add(match[2])
        elif match := INSTRUCTION.match(line):
            text = match[2].split("#")[0].split("<")[0].strip()
            words = text.split()
            while len(words) > 1 and words[0] in ("lock", "rep", "repz", "repnz", "notrack", "bnd", "data16", "cs"):
                del words[0]
            if not words:
                continue
            op, operands = words[0], " ".join(words[1:])
            where = f"{function.name}+0x{match[1]}: {text}"
            if SIMD.search(operands) or X87.match(op):
                find(f"SIMD or x87 instruction, which Xen does not save: {where}")
            if op.startswith("ret") and config("RETURN_THUNK"):
                find(f"return that is not through a thunk: {where}")
            if re.match(r"(jmp|call)", op) and operands.startswith("*") and config("INDIRECT_THUNK"):
                find(f"indirect branch that is not through a thunk: {where}")
            if op in ("(bad)", "ud2b"):
                find(f"not an instruction: {where}")
            if op.startswith("push") and function.frame == 0:
                function.pushed += 8
            elif match := re.fullmatch(r"\$0x([0-9a-f]+),%rsp", operands):
                if op.startswith("sub"):
                    function.frame = max(function.frame, int(match[1], 16))
            elif op.startswith("sub") and operands.endswith(",%rsp"):
                find(f"stack frame of unknown size: {where}")
    return functions


def panics(functions, names, find):
    """Each way to panic, with the functions outside of core from which it is reached."""
    # A call names the function or, if that is local, its section: each has its own.
    sections = {function.section: function.name for function in functions.values()}
    callers = {}
    for function in functions.values():
        for target in function.targets:
            callers.setdefault(sections.get(target, target), set()).add(function.name)

    for name in sorted(names):
        if not PANIC.match(name):
            continue
        seen, todo, outside = set(), [name], set()
        while todo:
            for caller in callers.get(todo.pop(), ()):
                if caller in seen:
                    continue
                seen.add(caller)
                if caller.startswith("core::"):
                    todo.append(caller)
                else:
                    outside.add(caller)
        find(f"can panic: {name}, reached from {', '.join(sorted(outside)) or 'nowhere'}")


def main():
    obj = sys.argv[1]
    findings = []
    find = findings.append

    for line in run("OBJDUMP", "objdump", "-hw", obj).splitlines():
        words = line.split()
        if len(words) > 3 and words[0].isdigit() and not SECTIONS.fullmatch(words[1]):
            if int(words[2], 16) or words[1].startswith((".got", ".plt", ".eh_frame")):
                find(f"section {words[1]} has no place in Xen")

    section = ""
    for line in run("OBJDUMP", "objdump", "-rw", obj).splitlines():
        if line.startswith("RELOCATION RECORDS FOR"):
            section = line.split("[")[1].rstrip("]:")
        words = line.split()
        if len(words) == 3 and words[1].startswith("R_") and not section.startswith(".debug"):
            if words[1] not in RELOCATIONS:
                find(f"relocation {words[1]} in {section} to {words[2]}: wrong in xen.efi or out of reach")

    names = set()
    for line in run("NM", "nm", "-a", "--format=posix", obj).splitlines():
        words = line.split()
        names.add(words[0])
        if words[1] == "U" and words[0].startswith("__") and not words[0].startswith("__x86_"):
            find(f"{words[0]} is a routine of the compiler's library, which Xen does not have")
        # "rust#" is what Xen puts before a local name.
        # The name of a section is not kept by the link.
        if not words[0].startswith(".") and len("rust#" + words[0]) > LONGEST_SYMBOL:
            find(f"symbol of {len(words[0])} characters smashes Xen's stack in a backtrace: {words[0]}")

    functions = disassemble(obj, find)
    if not functions:
        find("no code at all: is anything exported?")
    panics(functions, names, find)
    for function in functions.values():
        size = function.frame + function.pushed + 8
        if size > LARGEST_FRAME:
            find(f"stack frame of {size} bytes, allowed are {LARGEST_FRAME}: {function.name}")

    for finding in findings:
        print(f"rust audit: {finding}", file=sys.stderr)
    if findings:
        print(f"rust audit: {len(findings)} findings, not linked", file=sys.stderr)
    sys.exit(bool(findings))


main()
