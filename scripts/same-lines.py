#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""same-lines.py PLAIN TREE: gives the C sources of TREE the line numbers of PLAIN.

Xen's BUG() and WARN() put line numbers into the image, so that any line added to
a file changes it. With a #line after each hunk what remains is the code.
"""

import os
import re
import subprocess
import sys

HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def main():
    plain, tree = sys.argv[1:]
    changed = 0
    for folder, _, names in os.walk(os.path.join(plain, "xen")):
        for name in names:
            if not name.endswith((".c", ".h")):
                continue
            old = os.path.join(folder, name)
            new = os.path.join(tree, os.path.relpath(old, plain))
            with open(old, "rb") as a, open(new, "rb") as b:
                before, after = a.read(), b.read()
            if before == after:
                continue
            changed += 1
            diff = subprocess.run(["diff", "-U0", old, new], stdout=subprocess.PIPE, check=False).stdout
            lines = after.decode().splitlines(keepends=True)
            # From the end, so that earlier positions stay right.
            for hunk in reversed([m for m in map(HUNK.match, diff.decode().splitlines()) if m]):
                at, count = int(hunk[1]), int(hunk[2] or 1)
                new_at, new_count = int(hunk[3]), int(hunk[4] or 1)
                line = at + count if count else at + 1
                index = new_at + new_count - 1 if new_count else new_at
                # Not within a macro.
                while 0 < index < len(lines) and lines[index - 1].endswith("\\\n"):
                    line, index = line + 1, index + 1
                if index < len(lines):
                    lines.insert(index, f"#line {line}\n")
            with open(new, "w", encoding="utf-8") as file:
                file.writelines(lines)
    print(f"  LINES   {changed} files of the series")


main()
