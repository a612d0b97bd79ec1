#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What disks add to an update's blackout, in the lab, whose time counts instructions: run by lab_test.py --icount.

Of three guests, with no disk, with one busy queue and with 64, each ratio is within a tenth. No instruction says what a
system call costs elsewhere, but work for each queue or device that has found its way into the pause shows here.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile

from report import Report

HERE = os.path.dirname(os.path.abspath(__file__))
STAGE = os.path.dirname(os.path.dirname(HERE))
ROUNDS = 6
MOST = 1.10
GUESTS = ("no disk", "1 busy", "64 busy")


def measure():
    """{guest: blackout in thousands of instructions}, medians"""
    with tempfile.TemporaryDirectory(prefix="molt-test-") as d:
        result = os.path.join(d, "busy.json")
        subprocess.run([sys.executable, os.path.join(STAGE, "tests/bench/disk.py"), "--build", STAGE, "--molt",
                        os.environ["MOLT"], "--qemu", "none", "--rounds", str(ROUNDS), "--json", result, "busy"],
                       check=True, stdin=subprocess.DEVNULL)
        with open(result) as f:
            samples = json.load(f)["busy"]
    return {name: statistics.median(s["blackout"] for s in samples[name]) for name in GUESTS}


def busy_queues(report):
    blackout = measure()
    for less, more in (GUESTS[:2], GUESTS[1:], GUESTS[::2]):
        report.check("the blackout with %s is at most %.2f of that with %s" % (more, MOST, less),
                     0 < blackout[more] <= MOST * blackout[less],
                     "%s: %.0f, %s: %.0f thousand instructions" % (less, blackout[less], more, blackout[more]))


if __name__ == "__main__":
    sys.exit(Report().run([("busy-queues", busy_queues)]))
