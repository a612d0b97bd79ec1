#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a cmocka test program, once for each of its files, each in a process of its own, and passes its TAP on as one.

cmocka 1.1 writes "not ok 3 # SKIP name", which readers of TAP take for a failure. It becomes
"ok 3 - name # SKIP reason"; the reason is the comment line that the case wrote just before. A file that ends by a
signal, or in another way without its failure having been told, is a failed case.

usage: run-tap.py PROGRAM FILE...
"""
import os
import re
import subprocess
import sys

POINT = re.compile(r'(not ok|ok) \d+ (?:- )?(.*)')
SKIPPED = re.compile(r'# SKIP (.*)')


def run(program, name, points):
    """(points now, whether something failed)"""
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT='TAP')
    reason, failed = 'no reason given', False
    with subprocess.Popen([program, name], env=env, stdout=subprocess.PIPE, text=True, errors='replace') as process:
        for line in process.stdout:
            line = line.rstrip('\n')
            point = POINT.fullmatch(line)
            skipped = point and SKIPPED.fullmatch(point[2])
            if point:
                points += 1
                line = f'{point[1]} {points} - {name}: {point[2]}'
                failed = failed or (point[1] == 'not ok' and not skipped)
            if skipped:
                line = f'ok {points} - {name}: {skipped[1]} # SKIP {reason}'
            reason = line[2:] if line.startswith('# ') else 'no reason given'
            if not line.startswith('1..'):
                print(line, flush=True)
    if process.returncode and not failed:
        points, failed = points + 1, True
        how = f'signal {-process.returncode}' if process.returncode < 0 else f'status {process.returncode}'
        print(f'not ok {points} - {name} ended with {how}', flush=True)
    return points, failed


def main():
    program, *names = sys.argv[1:]
    points, failed = 0, False
    for name in names:
        points, wrong = run(program, name, points)
        failed = failed or wrong
    print(f'1..{points}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
