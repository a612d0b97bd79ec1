#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""virtio-rng and the PCI functions beneath it, driven by the tiny guest rng, which verifies everything it gets."""
import json
import os
import random
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import release
from moltvm import Skip, Vm, expect_error, full, molt, need_kvm, run_cases, write_script

RNG = ["--memory", "32M", "--rng", "host"]
PASS = re.compile(r"^rng: pass (\d+) (.*)\n", re.M)
SEED = int(os.environ.get("MOLT_VIRTIO_SEED", "20261127"))


def check(vm):
    serial = vm.serial()
    assert "BAD" not in serial and "EXCEPTION" not in serial, serial[-2000:]


def passes(vm):
    """{counter: value} of each whole pass."""
    check(vm)
    return [dict((k, int(v)) for k, v in re.findall(r"(\w+)=(\d+)", m.group(2))) for m in PASS.finditer(vm.serial())]


def wait_passes(vm, n):
    had = len(passes(vm))
    vm.wait_for(lambda: len(passes(vm)) >= had + n, lambda: "%d more passes (%s)" % (n, vm.serial()[-300:]))
    return passes(vm)[-1]


def power_off(vm):
    """At the end of a pass the guest looks whether the button was pressed."""
    vm.qmp.command("system_powerdown")
    assert vm.wait_exit() == 0
    check(vm)
    assert "rng: done" in vm.serial()


# ---- the device ----

def test_all_steps():
    with Vm(*RNG, kernel="rng", cmdline="passes=2") as vm:
        assert vm.wait_exit() == 0
        last = passes(vm)[-1]
        # No update, so nothing but the first interrupt after each set-up may be one too many.
        assert last["requests"] > 2 * 65536 and last["irqs"] > 100 and last["extra"] <= last["resets"], last
        assert "needs a reset" not in vm.log()


def test_options():
    """Each is refused with the words that help, before anything runs."""
    for words, says in ((["--rng", "guest"], "must be host"), (["--rng", "host,slot=32"], "slot"),
                        (["--rng", "host,slot=0"], "slot"), (["--rng", "host,speed=1"], "speed"),
                        (["--rng", "host,slot=3", "--rng", "host,slot=3"], "slot 3"),
                        (["--machine", "1", "--rng", "host"], "machine version")):
        done = molt("run", "--serial", "null", *words)
        assert done.returncode != 0 and says in done.stderr, (words, done)


def test_slots():
    """By number, and else the lowest that is free; the BAR's place follows from it."""
    options = ["--memory", "32M", "--rng", "host,slot=2", "--rng", "host", "--rng", "host,slot=31,id=last"]
    for slot in (1, 2, 31):
        with Vm(*options, kernel="rng", cmdline="passes=1 step=config slot=%d" % slot) as vm:
            assert vm.wait_exit() == 0
            check(vm)
            assert "bar=%x " % (0x4000000000 + slot * 0x100000) in vm.serial(), vm.serial()


TWO = [*RNG, "--cpus", "2"]


def test_two_vcpus_on_one_queue():
    """What one adds while the device is at work for the other is not missed, also across updates."""
    with Vm(*TWO, kernel="rng", cmdline="cpus=2 step=race") as vm:
        wait_passes(vm, 3)
        for _ in range(10):
            vm.update()
            check(vm)
        wait_passes(vm, 2)
        power_off(vm)


# ---- updates ----

def test_updates_under_load():
    """At any moment of any step."""
    rnd = random.Random(SEED)
    with Vm(*RNG, kernel="rng", cmdline="seed=%d" % rnd.randrange(1 << 30)) as vm:
        vm.wait_serial("rng: ready")
        for i in range(1, (300 if full() else 40) + 1):
            threading.Event().wait(rnd.random() * 0.05)
            assert vm.update()["updates"] == i
            check(vm)
        last = wait_passes(vm, 2)
        assert last["extra"] <= last["resets"] + i, last
        power_off(vm)


def test_failed_updates_under_load():
    """Those that fail after the exec give the device back as it was, too."""
    rnd = random.Random(SEED + 1)
    with Vm(*RNG, kernel="rng", cmdline="seed=%d" % rnd.randrange(1 << 30)) as vm:
        vm.wait_serial("rng: ready")
        script = write_script(vm.path("molt"), "this is no program\n")
        for i in range(60 if full() else 10):
            threading.Event().wait(rnd.random() * 0.05)
            expect_error(lambda: vm.update(script, no_check=True), "exec format error")
            expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
            check(vm)
            if i % 4 == 3:
                vm.update()
        wait_passes(vm, 2)
        power_off(vm)


def hold(vm, number):
    """The number'th hold's name, once the guest is in it."""
    vm.wait_for(lambda: check(vm) or len(re.findall("^rng: hold .*\n", vm.serial(), re.M)) > number or
                "rng: done" in vm.serial(), lambda: "hold %d" % number)
    names = re.findall("^rng: hold (.*)\n", vm.serial(), re.M)
    return names[number] if number < len(names) else None


def test_each_strange_moment_across_an_update():
    """A vector that is masked and pending, a BAR that is elsewhere or nowhere, and so on: after an update the same."""
    names = []
    with Vm(*RNG, kernel="rng", cmdline="hold=on passes=1") as vm:
        while (name := hold(vm, len(names))) is not None:
            names.append(name)
            vm.update()
            if len(names) % 3 == 0:
                expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
            vm.qmp.command("system_powerdown")
        assert vm.wait_exit() == 0
        check(vm)
    assert {"masked", "function-mask", "no-msix", "no-master", "sizing", "moved", "moved-low", "over-ecam", "window",
            "wrap", "ring-reset", "reset"} <= set(names), names


def test_stop_and_cont():
    rnd = random.Random(SEED + 2)
    with Vm(*RNG, kernel="rng") as vm:
        vm.wait_serial("rng: ready")
        for i in range(20):
            threading.Event().wait(rnd.random() * 0.03)
            vm.qmp.command("stop")
            if i % 2:
                vm.update()
            assert vm.qmp.command("query-status")["status"] == "paused"
            vm.qmp.command("cont")
            check(vm)
        wait_passes(vm, 1)
        power_off(vm)


def test_machine_reset():
    """Whatever the guest has done to BAR, vectors and rings: it starts as from power-on, before and after an update."""
    rnd = random.Random(SEED + 3)
    with Vm(*RNG, kernel="rng") as vm:
        for i in range(12):
            vm.wait_for(lambda: len(re.findall("rng: ready bar=4000100000 ", vm.serial())) > i, "the next start")
            threading.Event().wait(rnd.random() * 0.1)
            if i % 3 == 1:
                vm.update()
            check(vm)
            vm.qmp.command("system_reset")
        vm.wait_for(lambda: len(re.findall("rng: ready bar=4000100000 ", vm.serial())) > i + 1, "the last start")
        wait_passes(vm, 1)
        power_off(vm)


def test_two_guests_do_not_share():
    """Two devices, the other one untouched: its state is that of power-on."""
    with Vm(*RNG, "--rng", "host", kernel="rng", cmdline="slot=2") as vm:
        vm.wait_serial("rng: ready")
        path = vm.path("state")
        vm.update(state_file=path)
        wait_passes(vm, 1)
        sections = [s for s in json.loads(molt("state", path).stdout)["sections"] if s["name"] == "virtio-rng"]
        assert len(sections) == 2, sections
        power_off(vm)


# ---- releases ----

def test_release_refuses():
    """0.1.0 knows no machine of version 2, says so, and the guest runs on here."""
    try:
        binary = release.newest()
    except release.Unavailable as why:
        raise Skip(str(why))
    with Vm(*RNG, kernel="rng") as vm:
        vm.wait_serial("rng: ready")
        for no_check in (False, True):
            expect_error(lambda n=no_check: vm.update(binary, "run", no_check=n), "machine version 2")
            wait_passes(vm, 1)
        assert vm.update()["updates"] == 1
        power_off(vm)


need_kvm()
run_cases(globals())
