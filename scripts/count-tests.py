#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the cases of a meson test log: each TAP line is one, a program without TAP is one.

Ends with "N passed, N failed, N skipped" and exit status 1 if anything failed or nothing ran.
"""
import json
import re
import sys

TAP = re.compile(r"^(not )?ok\b(?!.*\bbail)", re.M)


def count(entry):
    """(passed, failed, skipped) of one test program."""
    result = entry["result"]
    passed = failed = skipped = 0
    for line in entry.get("stdout", "").splitlines():
        if not TAP.match(line):
            continue
        if line.startswith("not "):
            failed += 1
        elif re.search(r"#\s*skip", line, re.I):
            skipped += 1
        else:
            passed += 1
    if result == "SKIP" and not passed and not failed:
        return 0, 0, max(skipped, 1)
    if result not in ("OK", "SKIP", "EXPECTEDFAIL") and not failed:
        failed = 1  # it crashed or ran out of time before it could say so
    if result == "OK" and not passed and not skipped:
        passed = 1
    return passed, failed, skipped


def main():
    totals = [0, 0, 0]
    with open(sys.argv[1], encoding="utf-8") as log:
        for line in log:
            for i, n in enumerate(count(json.loads(line))):
                totals[i] += n
    print("%d passed, %d failed, %d skipped" % tuple(totals))
    return 1 if totals[1] or not totals[0] else 0


sys.exit(main())
