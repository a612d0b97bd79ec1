#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The brownout: how long a guest takes for one pass over all pages of its RAM (one word each, read and
written, in no order that a host could guess), before an update, just after it, and some time after
it, by what guest RAM is made of and how it is mapped again (--memory hugepages, thp, refault).

The toucher guest measures with its TSC; a byte on its serial port begins a pass. Each round starts
each kind once, so that all of them get their share of whatever else the machine does. Huge pages are
reserved and set for the time of the measurement, which needs root; kinds that cannot be had here are
left out, with the reason. What was measured is told on the way, the table comes at the end.

usage: brownout.py [--mib 256,2048] [--rounds 5] [--wait 3] [--json FILE]
MOLT and MOLT_FIRMWARE as for the guest tests; build/molt and build/firmware if not set.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), os.path.join(HERE, "..", "guest")]
os.environ.setdefault("MOLT", os.path.join(HERE, "../../build/molt"))
os.environ.setdefault("MOLT_FIRMWARE", os.path.join(HERE, "../../build/firmware"))
from moltvm import Skip, Vm, molt
from test_memory import huge_pages, shmem_huge
from toucher import Toucher


@contextlib.contextmanager
def refault_before(_):
    """An older molt has it not."""
    if not re.search(r"refault=\S*\bbefore", molt("run", "--help").stdout):
        raise Skip("this molt has no refault=before")
    yield


# (name, options of --memory, what is needed for it)
KINDS = [
    ("4 KiB, before", ",refault=before", refault_before),
    ("4 KiB, lazy", ",refault=lazy", None),
    ("4 KiB, background", ",refault=background", None),
    ("hugepages=2M, lazy", ",hugepages=2M,refault=lazy", lambda mib: huge_pages(mib // 2 + 8)),
    ("thp=on, lazy", ",thp=on,refault=lazy", lambda mib: shmem_huge("advise")),
    ("thp=on, background", ",thp=on,refault=background", lambda mib: shmem_huge("advise")),
]


def measure(mib, options, wait):
    """{when: us} of one start of one kind."""
    directory = tempfile.mkdtemp(prefix="molt-brownout-")
    serial = os.path.join(directory, "line")
    try:
        with Vm("--memory", "%dM%s" % (mib, options), "--pause", kernel="toucher",
                serial="socket=" + serial, directory=directory) as vm:
            guest = Toucher(serial)
            vm.qmp.command("cont")
            guest.line("ready")
            guest.touch()
            times = {"before": min(guest.touch(), guest.touch())}
            vm.update()
            times["after"] = guest.touch()
            vm.settle()
            vm.update()
            time.sleep(wait)
            times["later"] = guest.touch()
            return times
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_round(mib, wait, results):
    for name, options, need in KINDS:
        with contextlib.ExitStack() as stack:
            try:
                if need:
                    stack.enter_context(need(mib))
            except Skip as why:
                print("# %s left out: %s" % (name, why), file=sys.stderr)
                continue
            times = measure(mib, options, wait)
            print("# %d MiB, %s: %s" % (mib, name, times), file=sys.stderr, flush=True)
        for when, us in times.items():
            results.setdefault(name, {}).setdefault(when, []).append(us)


def print_table(mib, rounds, wait, results):
    print("\n%d MiB, up to %d rounds; a pass over all pages in ms: least, median" % (mib, rounds))
    print("%-20s  %15s  %15s  %15s" % ("", "before", "after update", "%g s after" % wait))
    for name, _, _ in KINDS:
        cells = ["%7.1f %7.1f" % (min(v) / 1000, statistics.median(v) / 1000)
                 for v in results.get(name, {}).values()]
        if cells:
            print("%-20s  %s" % (name, "  ".join(cells)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--mib", default="256,2048")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", type=float, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    everything = {}
    for mib in map(int, args.mib.split(",")):
        results = everything[mib] = {}
        try:
            for _ in range(args.rounds):
                run_round(mib, args.wait, results)
        finally:
            print_table(mib, args.rounds, args.wait, results)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(everything, f, indent=1)


if __name__ == "__main__":
    main()
