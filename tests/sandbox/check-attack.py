#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds what a compromised vCPU thread can still do against the list in docs/sandbox.md.

usage: check-attack.py ATTACK DOCS/sandbox.md
"""
import re
import subprocess
import sys

BLOCK = re.compile(r"<!-- attack list -->\n+```\n(.*?)```", re.S)


def main():
    attack, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        block = BLOCK.search(file.read())
    if not block:
        sys.exit(f"{path}: there is no attack list")
    run = subprocess.run([attack], capture_output=True, text=True, timeout=300, check=False)
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
    print("a compromised vCPU thread can still:\n" + run.stdout)
    sys.exit(0 if documented == possible else 1)


main()
