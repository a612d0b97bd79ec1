#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Drivers that make no sense: the tiny guest bad does each thing of a table of 150 to one device and looks whether that
needs a reset or goes on, as the table says, and whether the device beside it is unharmed. Then a second vCPU writes
over the rings while the device is at work.
"""
import contextlib
import os
import random
import re
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Vm, expect_error, full, io_processes, need_kvm, run_cases

SEED = int(os.environ.get("MOLT_VIRTIO_SEED", "20261127"))
ENTRIES = 150  # there are a few more
DEATH = "its I/O process"  # in the line that tells that one has ended


def last_line(vm):
    return vm.serial().rstrip("\n").rpartition("\n")[2]


def check(vm):
    serial = vm.serial()
    assert "WRONG" not in serial and "EXCEPTION" not in serial, serial[-500:]


def wait_end(vm, entries=0):
    """The guest powers itself off; what it was at is in the message if it does not."""
    vm.wait_for(lambda: vm.proc.poll() is not None or "bad: WRONG" in vm.serial(), lambda: "end after " + last_line(vm))
    check(vm)
    assert vm.wait_exit() == 0 and "bad: done" in vm.serial(), vm.serial()[-500:]
    if entries:
        done, broken = map(int, re.search(r"bad: table done entries=(\d+) broken=(\d+)", vm.serial()).groups())
        assert done >= entries and broken >= entries // 3, (done, broken)


def through_holds(vm, between):
    """Does between(n) behind each thing that the guest does, before it looks what became of it."""
    n = 0
    while True:
        vm.wait_for(lambda: vm.serial().count("bad: hold ") > n or "bad: table done" in vm.serial() or
                    "WRONG" in vm.serial(), lambda: "hold %d after %s" % (n, last_line(vm)))
        check(vm)
        if vm.serial().count("bad: hold ") <= n:
            return n
        n += 1
        between(n)
        vm.qmp.command("system_powerdown")


@contextlib.contextmanager
def guest(kind, *args, cmdline=""):
    """A guest with two devices of a kind: whoever serves them is in the end who it was at the start."""
    with tempfile.TemporaryDirectory(prefix="molt-test-") as d:
        devices = ["--rng", "host", "--rng", "host"]
        if kind == "disk":
            devices = [word for n in (1, 2) for word in ("--disk", "path=" + make_image(os.path.join(d, str(n))))]
        with Vm("--memory", "32M", *devices, *args, kernel="bad", cmdline=cmdline) as vm:
            vm.wait_serial("bad: ready")
            served_by = io_processes(vm)
            assert len(served_by) == (2 if kind == "disk" else 0), served_by
            yield vm
            # An update replaces them; nothing else ends one.
            assert DEATH not in vm.log(), vm.log()


def make_image(path):
    with open(path, "wb") as f:
        f.truncate(4 << 20)
    return path


def table(kind):
    with guest(kind) as vm:
        served_by = io_processes(vm)
        vm.wait_serial("bad: window-bad-request")
        now = io_processes(vm)
        assert now == served_by or "the guest powered off" in vm.log(), vm.log()
        wait_end(vm, ENTRIES)
        # Each is told once, and all of them together do not fill the log.
        assert "needs a reset" in vm.log() and len(vm.log()) < 20000, len(vm.log())


def table_with(kind, between, every):
    """every: of how many entries one is done, which one by the seed; all of them in a whole run."""
    every = 1 if full() else every
    with guest(kind, cmdline="hold=on every=%d first=%d" % (every, SEED % every)) as vm:
        def act(n):
            between(vm, n)

        n = through_holds(vm, act)
        assert n >= ENTRIES // every - 10 and vm.wait_exit() == 0, n
        check(vm)


def update(vm, n):
    vm.update()


def fail(vm, n):
    expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))


def test_table_rng():
    table("rng")


def test_table_disk():
    table("disk")


def test_table_with_an_update_behind_each_rng():
    table_with("rng", update, 2)


def test_table_with_an_update_behind_each_disk():
    table_with("disk", update, 4)


def test_table_with_failed_updates_rng():
    table_with("rng", fail, 8)


def test_table_with_failed_updates_disk():
    table_with("disk", fail, 8)


def test_reset_with_swapped_bars():
    """A reset puts each back to where it was at power-on, though another one is still there."""
    for kind in ("rng", "disk"):
        with guest(kind, cmdline="one=on entry=bars-swapped hold=on") as vm:
            for i in range(1, 4):
                vm.wait_for(lambda: check(vm) or vm.serial().count("bad: hold bars-swapped") == i, "the hold")
                if i == 2:
                    vm.update()
                if i < 3:
                    vm.qmp.command("system_reset")
            vm.qmp.command("system_powerdown")
            wait_end(vm)


def scribble(seed, rounds):
    return "one=on cpus=2 rounds=%d seed=%d" % (rounds, seed)


def test_scribbled_rings():
    for seed in range(SEED, SEED + (20 if full() else 1)):
        for kind in ("rng", "disk"):
            with guest(kind, "--cpus", "2", cmdline=scribble(seed, 300 if full() else 40)) as vm:
                wait_end(vm)


def test_scribbled_rings_under_updates():
    rnd = random.Random(SEED)
    for kind in ("rng", "disk"):
        with guest(kind, "--cpus", "2", cmdline=scribble(SEED + 77, 0xffffffff)) as vm:
            for i in range(1, (400 if full() else 12) + 1):
                time.sleep(rnd.random() * 0.04)
                if i % 8 == 0:
                    expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
                vm.update()
                check(vm)
            had = len(re.findall("scribbled", vm.serial()))
            vm.wait_for(lambda: check(vm) or len(re.findall("scribbled", vm.serial())) > had, "more rounds")


need_kvm()
run_cases(globals())
