#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Drivers that make no sense: the tiny guest bad does each thing of a table of 150 to one device and looks whether that
needs a reset or goes on, as the table says, and whether the device beside it is unharmed. Then a second vCPU writes
over the rings while the device is at work.
"""
import os
import random
import re
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Vm, expect_error, full, need_kvm, run_cases

TWO_RNGS = ["--memory", "32M", "--rng", "host", "--rng", "host"]
SEED = int(os.environ.get("MOLT_VIRTIO_SEED", "20261127"))
ENTRIES = 150  # there are a few more


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


def test_table():
    with Vm(*TWO_RNGS, kernel="bad") as vm:
        wait_end(vm, ENTRIES)
        # Each is told once, and all of them together do not fill the log.
        assert "needs a reset" in vm.log() and len(vm.log()) < 20000, len(vm.log())


def test_table_with_an_update_behind_each():
    with Vm(*TWO_RNGS, kernel="bad", cmdline="hold=on") as vm:
        n = through_holds(vm, lambda n: vm.update())
        assert n >= ENTRIES and vm.wait_exit() == 0, n
        check(vm)


def test_table_with_a_failed_update_behind_each():
    def fail(n):
        if full() or n % 4 == 0:
            expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))

    with Vm(*TWO_RNGS, kernel="bad", cmdline="hold=on") as vm:
        through_holds(vm, fail)
        assert vm.wait_exit() == 0
        check(vm)


def test_reset_with_swapped_bars():
    """A reset puts each back to where it was at power-on, though another one is still there."""
    with Vm(*TWO_RNGS, kernel="bad", cmdline="one=on entry=bars-swapped hold=on") as vm:
        for i in range(1, 4):
            vm.wait_for(lambda: check(vm) or vm.serial().count("bad: hold bars-swapped") == i, "the hold")
            if i == 2:
                vm.update()
            if i < 3:
                vm.qmp.command("system_reset")
        vm.qmp.command("system_powerdown")
        wait_end(vm)


def scribble(seed, rounds):
    return dict(kernel="bad", cmdline="one=on cpus=2 rounds=%d seed=%d" % (rounds, seed))


def test_scribbled_rings():
    for seed in range(SEED, SEED + (40 if full() else 2)):
        with Vm(*TWO_RNGS, "--cpus", "2", **scribble(seed, 300 if full() else 80)) as vm:
            wait_end(vm)


def test_scribbled_rings_under_updates():
    rnd = random.Random(SEED)
    with Vm(*TWO_RNGS, "--cpus", "2", **scribble(SEED + 77, 0xffffffff)) as vm:
        vm.wait_serial("bad: ready")
        for i in range(1, (400 if full() else 40) + 1):
            time.sleep(rnd.random() * 0.04)
            if i % 8 == 0:
                expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
            vm.update()
            check(vm)
        had = len(re.findall("scribbled", vm.serial()))
        vm.wait_for(lambda: check(vm) or len(re.findall("scribbled", vm.serial())) > had, "more rounds")


need_kvm()
run_cases(globals())
