#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the cases of a meson test log: each TAP line is one, a program without TAP is one.

usage: count-tests.py LOG [SECONDS CORES]

Names those that failed, each with the first lines of its reason, for a long log is often cut from
the front, and those of the lab that had to be told again. Ends with the time, how many were told
again (yellow on a terminal), and "N passed, N failed, N skipped"; exit status 1 if anything failed
or nothing ran.
"""
import json
import re
import sys

REASON_LINES = 6
LONGEST_LINE = 300
AGAIN = re.compile(r"^# TOLD AGAIN: (.*)", re.M)  # tests/lab/report.py
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


def shorten(line):
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "..."


def failures(entry):
    """What to read first of a test program that failed: its failed TAP lines, each with the comment behind it."""
    found, room = [], 0
    for line in entry.get("stdout", "").splitlines():
        if line.startswith("not ok"):
            room = REASON_LINES + 1
        elif not line.startswith("#"):
            room = 0
        if room:
            found.append("    " + shorten(line))
            room -= 1
    return ["FAILED %s: %s, exit status %s" % (entry["name"], entry["result"], entry["returncode"])] + found


def yellow(text):
    return "\033[33m%s\033[0m" % text if sys.stdout.isatty() else text


def main():
    totals, again = [0, 0, 0], []
    with open(sys.argv[1], encoding="utf-8") as log:
        for line in log:
            entry = json.loads(line)
            numbers = count(entry)
            for i, n in enumerate(numbers):
                totals[i] += n
            if numbers[1]:
                print("\n".join(failures(entry)))
            again += AGAIN.findall(entry.get("stdout", ""))
    for what in again:
        print(yellow("TOLD AGAIN " + shorten(what)))
    if len(sys.argv) > 3:
        print("tests took %s s on %s cores" % tuple(sys.argv[2:4]))
    print(yellow("%d told again" % len(again)) if again else "0 told again")
    print("%d passed, %d failed, %d skipped" % tuple(totals))
    return 1 if totals[1] or not totals[0] else 0


sys.exit(main())
