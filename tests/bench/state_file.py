#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What a state file costs the guest, on a file system where others wait for their fsync: updates of one guest in turn
without a file, with a file that the client writes (`molt update --state`), and with one that molt writes (`state-file`
of the control protocol). The guest measures its largest gap itself; beside it stands how long one fsync of ours takes
there meanwhile.

usage: state_file.py [--dir DIR] [--rounds 20] [--writers 4]
MOLT and MOLT_FIRMWARE as for the guest tests; build/molt and build/firmware if not set.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
os.environ.setdefault("MOLT", os.path.join(HERE, "../../build/molt"))
os.environ.setdefault("MOLT_FIRMWARE", os.path.join(HERE, "../../build/firmware"))
from moltvm import Vm, molt

WRITER = ("import os, sys\nblock = os.urandom(1 << 20)\nfd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
          "while True:\n    os.pwrite(fd, block, (int.from_bytes(os.urandom(1), 'little') % 64) << 20)\n"
          "    os.fsync(fd)\n")


def one_fsync(path):
    with open(path, "wb") as f:
        f.write(b"x" * 20000)
        f.flush()
        before = time.monotonic()
        os.fsync(f.fileno())
        return 1e6 * (time.monotonic() - before)


def gap(vm, update):
    """The guest's largest gap about an update, in microseconds."""
    vm.wait_ticks(1)
    had = len(vm.ticks())
    update()
    vm.wait_ticks(2)
    return max(max(tick[1], tick[3]) for tick in vm.ticks()[had:])


def by_client(vm, path):
    done = molt("update", "--state", path, vm.control_path)
    if done.returncode:
        sys.exit(done.stderr)


WAYS = {
    "without a file": lambda vm, path: molt("update", vm.control_path),
    "molt update --state": by_client,
    "state-file": lambda vm, path: vm.update(state_file=path),
}


def measure(directory, rounds):
    gaps, syncs = {name: [] for name in WAYS}, []
    with Vm("--sandbox", "write=" + directory, cmdline="period_ms=100") as vm:
        vm.wait_ticks(2)
        for _ in range(rounds):
            syncs.append(one_fsync(os.path.join(directory, "probe")))
            for n, (name, update) in enumerate(WAYS.items()):
                path = os.path.join(directory, "state%d" % n)
                gaps[name].append(gap(vm, lambda u=update, p=path: u(vm, p)))
    return gaps, syncs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--dir", default=".", help="a directory on the file system to be busy (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writers", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="molt-busy-", dir=args.dir) as directory:
        directory = os.path.realpath(directory)
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, os.path.join(directory, "w%d" % n)])
                   for n in range(args.writers)]
        try:
            time.sleep(2)
            gaps, syncs = measure(directory, args.rounds)
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
    print("largest gap that the guest saw, us:   least  first quartile  median")
    for name, values in gaps.items():
        print("%-34s %8d %15d %7d" % (name, min(values), statistics.quantiles(values)[0], statistics.median(values)))
    print("%-34s %8d %15d %7d" % ("one fsync beside it", min(syncs), statistics.quantiles(syncs)[0],
                                  statistics.median(syncs)))


if __name__ == "__main__":
    main()
