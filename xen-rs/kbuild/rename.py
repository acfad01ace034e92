#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""rename.py OBJECT: writes what objcopy --redefine-syms needs to shorten names.

Xen prints a local symbol as file#name into a buffer of 128 bytes and does not
look at its length. Rust's mangled names are often longer, so each gets the name
that a person would call it by, without crate hashes and type parameters, and a
number where that is not unique.
"""

import hashlib
import os
import re
import subprocess
import sys

LONGEST = 90


def run(*command, **kwargs):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **kwargs).stdout


def plain(demangled):
    """crate::module::Type::method of a demangled name."""
    name = demangled
    # <Type as Trait>::method and <Type>::method: keep the type.
    name = re.sub(r"\[[0-9a-f]{6,}\]", "", name)
    while True:
        shorter = re.sub(r"<([^<>]*?)(?: as [^<>]*)?>::", r"\1::", name, count=1)
        shorter = re.sub(r"(::)?<[^<>]*>", "", shorter, count=1) if shorter == name else shorter
        if shorter == name:
            break
        name = shorter
    name = re.sub(r"[^A-Za-z0-9_:]+", "_", name).strip("_:")
    return name


def main():
    obj = sys.argv[1]
    nm = os.environ.get("NM") or "nm"
    # -a: the file's name is a symbol too.
    rows = [line.split(maxsplit=2) for line in run(nm, "-a", "--format=posix", obj).splitlines()]
    names = sorted({row[0] for row in rows if row[1] in "tTdDrRbBvVwW" and row[0].startswith("_R")})
    others = sorted({row[0] for row in rows if row[1] in "tdrb" and not row[0].startswith("_R")})
    demangled = run("c++filt", "-s", "rust", input="\n".join(names) + "\n").splitlines() if names else []

    wanted = {name: plain(text) or "rust" for name, text in zip(names, demangled)}
    # Made by LLVM: switch.table._RNv..., and the like.
    for name in others:
        if name.startswith(".") or len(name) <= LONGEST:
            continue
        wanted[name] = name

    taken = {}
    for name, short in wanted.items():
        short = short[-LONGEST:].lstrip(":_")
        taken.setdefault(short, []).append(name)
    for short, mangled in sorted(taken.items()):
        for name in mangled:
            if len(mangled) > 1 or len(wanted[name]) > LONGEST:
                digest = hashlib.sha256(name.encode()).hexdigest()[:8]
                print(name, f"{short}.{digest}")
            elif short != name:
                print(name, short)

    files = [row[0] for row in rows if row[1] == "a" and ".cgu" in row[0] or "-cgu." in row[0]]
    for name in sorted(set(files)):
        print(name, "rust")


main()
