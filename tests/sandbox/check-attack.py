#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds what a compromised vCPU thread, or the I/O process, can still do against the lists in docs/sandbox.md.

usage: check-attack.py ATTACK DOCS/sandbox.md [io]
"""
import re
import subprocess
import sys

BLOCK = (r"<!-- %s list -->\n+```\n(.*?)```")


def main():
    attack, path, *who = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        block = re.search(BLOCK % "-".join([*who, "attack"]), file.read(), re.S)
    if not block:
        sys.exit(f"{path}: there is no attack list")
    run = subprocess.run([attack, *who], capture_output=True, text=True, timeout=300, check=False)
    if run.returncode == 77:
        print(run.stderr)
        sys.exit(77)
    if run.returncode:
        sys.exit(f"attack ended with {run.returncode}: {run.stderr}")
    documented, possible = block[1].splitlines(), run.stdout.splitlines()
    for line in possible:
        if line not in documented:
            print(f"possible, but not in {path}: {line}")
    for line in documented:
        if line not in possible:
            print(f"in {path}, but not possible: {line}")
    print("still possible:\n" + run.stdout)
    sys.exit(0 if documented == possible else 1)


main()
