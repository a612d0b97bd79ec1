#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A thousand updates in a row, or a hundred where time is short, under the probe guest, which watches
all it owns: nothing changes in the guest, and nothing piles up in the process. MOLT_SOAK sets
another number of updates. By hand, and for as many as one likes: scripts/soak.sh.
"""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import release
from moltvm import Vm, full, molt_binary, need_kvm, run_cases, sanitized
from soak import PROBE, Soak, clean_pass, passes

ALTERNATING = 200


def updates_wanted():
    return int(os.environ.get("MOLT_SOAK", "100" if not full() else "200" if sanitized() else "1000"))


def soak(vm, count, binaries=()):
    s = Soak(vm, binaries)
    s.run(count)
    s.check()
    s.check_offsets()
    print("# update:", s.check_times())


def test_many_updates_change_nothing():
    with Vm("--memory", "64M", kernel="probe", cmdline=PROBE) as vm:
        soak(vm, updates_wanted())


test_many_updates_change_nothing.timeout = 1200  # a machine busy with other things


def test_old_and_new_in_turn():
    """The newest release and this molt; where there is none to be had, two copies of this one."""
    with Vm("--memory", "64M", "--machine", "1", kernel="probe", cmdline=PROBE) as vm:
        try:
            other = release.newest()
        except release.Unavailable as why:
            print("# two copies of this molt:", why)
            other = shutil.copy(molt_binary(), vm.path("other-molt"))
        soak(vm, min(ALTERNATING, updates_wanted()), [other, molt_binary()])


test_old_and_new_in_turn.timeout = 600


def test_four_vcpus():
    with Vm("--memory", "64M", "--cpus", "4", kernel="probe", cmdline=PROBE) as vm:
        s = Soak(vm)
        assert passes(vm)[-1]["cpus"] == 4, passes(vm)[-1]
        assert len(s.offsets) == 4, s.offsets
        s.run(max(10, updates_wanted() // 20))
        s.check_offsets()
        clean_pass(vm)


def test_deadline_timer():
    """The LAPIC timer in TSC deadline mode: updates fall between its setting and its firing."""
    with Vm("--memory", "64M", kernel="probe",
            cmdline=PROBE + "timer=deadline timer_us=3000") as vm:
        Soak(vm).run(max(10, updates_wanted() // 20))
        clean_pass(vm)


def test_pause_between_updates():
    """Stopped and continued between the updates: time may jump for the guest, never back."""
    with Vm("--memory", "64M", kernel="probe", cmdline=PROBE) as vm:
        vm.wait_serial("probe: ready")
        for _ in range(10):
            vm.qmp.command("stop")
            vm.update()
            vm.qmp.command("cont")
            vm.update()
        clean_pass(vm)


need_kvm()
run_cases(globals())
