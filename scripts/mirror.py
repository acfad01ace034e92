#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""mirror.py FROM TO: makes TO the same as FROM, touching only what differs.

A file whose contents are the same keeps its time, so that make and cargo rebuild
just what has changed.
"""

import filecmp
import os
import shutil
import sys


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def same(source, target):
    if os.path.islink(source) or os.path.islink(target):
        return os.path.islink(source) and os.path.islink(target) and os.readlink(source) == os.readlink(target)
    mode = os.stat(source).st_mode
    return os.path.isfile(target) and mode == os.stat(target).st_mode and filecmp.cmp(source, target, shallow=False)


def mirror(source, target):
    os.makedirs(target, exist_ok=True)
    names = set(os.listdir(source))
    for name in set(os.listdir(target)) - names:
        remove(os.path.join(target, name))
    for name in names:
        a, b = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(a) and not os.path.islink(a):
            if os.path.islink(b) or os.path.isfile(b):
                remove(b)
            mirror(a, b)
        elif not same(a, b):
            if os.path.lexists(b):
                remove(b)
            shutil.copyfile(a, b, follow_symlinks=False)
            if not os.path.islink(a):
                shutil.copymode(a, b)


mirror(*sys.argv[1:])
