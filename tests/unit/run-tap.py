#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a cmocka test program and passes its TAP on, with skipped cases as TAP has them.

cmocka 1.1 writes "not ok 3 # SKIP name", which readers of TAP take for a failure. It becomes
"ok 3 - name # SKIP reason"; the reason is the comment line that the case wrote just before.

usage: run-tap.py PROGRAM
"""
import os
import re
import subprocess
import sys

SKIPPED = re.compile(r'not ok (\d+) # SKIP (.*)')


def main():
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT='TAP')
    reason = 'no reason given'
    with subprocess.Popen(sys.argv[1:], env=env, stdout=subprocess.PIPE, text=True,
                          errors='replace') as program:
        for line in program.stdout:
            line = line.rstrip('\n')
            skipped = SKIPPED.fullmatch(line)
            if skipped:
                line = f'ok {skipped[1]} - {skipped[2]} # SKIP {reason}'
            reason = line[2:] if line.startswith('# ') else 'no reason given'
            print(line, flush=True)
    if program.returncode < 0:
        # meson tells a crash by the signal.
        print(f'Bail out! ended by signal {-program.returncode}', flush=True)
        return 128 - program.returncode
    return program.returncode


if __name__ == '__main__':
    sys.exit(main())
