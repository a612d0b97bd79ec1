#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What disks add to an update's blackout, in the lab, whose time counts instructions: run by lab_test.py --icount.

Of three guests, with no disk, with one busy queue and with 64, each ratio is within a tenth; and so is that of one with
a disk whose requests take two seconds each to one without. No instruction says what a system call costs elsewhere, but
work for each queue, device or request that has found its way into the pause shows here. Compared are first quartiles:
in some updates the I/O process has its turn on the only CPU, or an interrupt comes; in one of dozens there is less.
"""
import itertools
import json
import os
import subprocess
import sys
import tempfile

from report import Report

HERE = os.path.dirname(os.path.abspath(__file__))
STAGE = os.path.dirname(os.path.dirname(HERE))
ROUNDS = 8
MOST = 1.10


def measure(what):
    """{guest: blackout in thousands of instructions}, in the order in which guests have more to do"""
    with tempfile.TemporaryDirectory(prefix="molt-test-") as d:
        result = os.path.join(d, "samples.json")
        subprocess.run([sys.executable, os.path.join(STAGE, "tests/bench/disk.py"), "--build", STAGE, "--molt",
                        os.environ["MOLT"], "--qemu", "none", "--rounds", str(ROUNDS), "--json", result, what],
                       check=True, stdin=subprocess.DEVNULL)
        with open(result) as f:
            samples = json.load(f)[what]
    return {name: sorted(s["blackout"] for s in taken)[ROUNDS // 4] for name, taken in samples.items()}


def compare(report, what, guests):
    blackout = measure(what)
    report.check("measured: " + ", ".join(blackout), len(blackout) == guests)
    for less, more in itertools.combinations(blackout, 2):
        report.check("the blackout with %s is at most %.2f of that with %s" % (more, MOST, less),
                     0 < blackout[more] <= MOST * blackout[less],
                     "%s: %.0f, %s: %.0f thousand instructions" % (less, blackout[less], more, blackout[more]))


def busy_queues(report):
    compare(report, "busy", 3)


def slow_requests(report):
    compare(report, "slow", 2)


if __name__ == "__main__":
    sys.exit(Report().run([("busy-queues", busy_queues), ("slow-requests", slow_requests)]))
