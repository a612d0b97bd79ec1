#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Update a running guest many times, from one binary to the other and back, and see that nothing changes.

The guest is firmware/probe.c: it verifies registers, MSRs, timers, interrupts and its RAM for ever. Every so many
updates the process is looked at as well: its descriptors, threads, address space and anonymous memory must be what
they were after the first updates, and so must, in the end, the vCPUs' TSC offsets and the time of an update.

scripts/soak.sh builds molt and runs this.
"""
import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import release
from moltvm import Vm, molt_binary
from soak import PROBE, REST, Soak


def parse():
    parser = argparse.ArgumentParser(prog="soak.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=10000, metavar="N", help="default: 10000")
    parser.add_argument("--other", metavar="FILE", help="the other binary; default: the newest release, built from the "
                        "repository's history, or a copy of the same binary where there is none")
    parser.add_argument("--check-every", type=int, default=500, metavar="N",
                        help="updates between two looks at the process (default: 500); at the guest: %d" % REST)
    parser.add_argument("--cpus", default="1", metavar="N", help="vCPUs of the guest (default: 1)")
    parser.add_argument("--memory", default="64M", metavar="SIZE", help="RAM of the guest (default: 64M)")
    parser.add_argument("--machine", default="1", metavar="N",
                        help="the guest's machine version, one that both offer (default: 1, as 0.1.0 does)")
    args = parser.parse_args()
    if args.updates < 20 or args.check_every < 1:
        parser.error("--updates must be at least 20, --check-every at least 1")
    return args


def other_binary(args, scratch):
    """(path, what it is)"""
    if args.other:
        return os.path.abspath(args.other), args.other
    try:
        return release.newest(), "the newest release"
    except release.Unavailable as why:
        return shutil.copy(molt_binary(), os.path.join(scratch, "molt")), "a copy of it (%s)" % why


def summary(soak, began):
    if not soak or not soak.times:
        return "no update yet"
    return "%d updates in %.0f s, median %.0f us, worst %.0f us" % (
        len(soak.times), time.monotonic() - began, statistics.median(soak.times), max(soak.times))


def run(soak, updates, every, began):
    """The exit status."""
    try:
        while len(soak.times) < updates:
            soak.run(min(every, updates - len(soak.times)))
            soak.check()
            print("soak: %s; nothing changed, nothing grew" % summary(soak, began), flush=True)
        said = summary(soak, began)
        print("soak: " + soak.check_times())
        soak.check_offsets()
    except KeyboardInterrupt:
        print("\nsoak: interrupted after %s; nothing had changed at the last look" % summary(soak, began))
        return 130
    print("soak: passed: " + said)
    return 0


def main():
    args = parse()
    soak, began = None, time.monotonic()
    # Compared is what the same binary has: after an even number of updates.
    updates, every = args.updates + args.updates % 2, args.check_every + args.check_every % 2
    with tempfile.TemporaryDirectory(prefix="molt-soak-") as scratch:
        other, what = other_binary(args, scratch)
        print("soak: %d updates of a guest with %s vCPU(s) and %s, between %s and %s" % (
            updates, args.cpus, args.memory, molt_binary(), what), flush=True)
        try:
            with Vm("--machine", args.machine, "--memory", args.memory, "--cpus", args.cpus, kernel="probe", cmdline=PROBE) as vm:
                soak = Soak(vm, [other, molt_binary()])
                began = time.monotonic()
                return run(soak, updates, every, began)
        except Exception as e:  # noqa: BLE001 -- whatever it is, it is a failure
            print("soak: FAILED after %s: %s" % (summary(soak, began), e))
            return 1


if __name__ == "__main__":
    sys.exit(main())
