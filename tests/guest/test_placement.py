#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Threads of vCPUs that were pinned, or are scheduled otherwise than main, stay so over updates."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Skip, Vm, molt, need_kvm, other_molt, run_cases, sanitized  # noqa: E402

CPUS = sorted(os.sched_getaffinity(0))


def start(cpus=3):
    vm = Vm("--cpus", str(cpus), cmdline="period_ms=20")
    vm.wait_ticks(2)
    return vm


def threads(vm):
    return [cpu["thread-id"] for cpu in vm.qmp.command("query-cpus-fast")]


def place(tid):
    return (os.sched_getaffinity(tid), os.sched_getscheduler(tid), os.getpriority(os.PRIO_PROCESS, tid))


def places(vm):
    return [place(tid) for tid in [vm.pid, *threads(vm)]]


def pin(vm):
    """Main to the first CPU, which is not all that its vCPUs have; each of them is another case."""
    first, second, third = threads(vm)
    os.sched_setaffinity(vm.pid, CPUS[:1])
    os.sched_setaffinity(first, CPUS[-1:])
    os.setpriority(os.PRIO_PROCESS, second, 7)
    os.sched_setscheduler(third, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(third, CPUS)
    wanted = [({CPUS[0]}, os.SCHED_OTHER, 0), ({CPUS[-1]}, os.SCHED_OTHER, 0), (set(CPUS), os.SCHED_OTHER, 7),
              (set(CPUS), os.SCHED_BATCH, 0)]
    assert places(vm) == wanted, (places(vm), wanted)
    return wanted


def stay(vm, wanted):
    vm.wait_ticks(3)
    vm.check_ticks()
    assert places(vm) == wanted, (places(vm), wanted)
    assert "its new thread" not in vm.log(), vm.log()


def test_over_updates():
    with start() as vm:
        wanted = pin(vm)
        for _ in range(3):
            before = threads(vm)
            vm.update()
            assert not set(before) & set(threads(vm))
            stay(vm, wanted)


def test_one_of_them():
    """The others are run like main, and take nothing over from it; many, so that some are still to be started then."""
    with start(16) as vm:
        alone = {CPUS[-1]} if len(CPUS) > 1 else set(CPUS)
        first = threads(vm)[0]
        os.setpriority(os.PRIO_PROCESS, first, 7)
        os.sched_setaffinity(first, alone)
        wanted = [place(vm.pid), (alone, os.SCHED_OTHER, 7), *[place(vm.pid)] * 15]
        for _ in range(3):
            vm.update()
            stay(vm, wanted)
        if not sanitized():
            vm.follow(vm.fail_update(["/bin/true"]))
            stay(vm, wanted)


def noted(vm):
    """Whose threads the state has something about."""
    path = vm.path("state")
    vm.update(state_file=path)
    sections = json.loads(molt("state", path, timeout=60).stdout)["sections"]
    return [section["instance"] for section in sections if section["name"] == "vcpu-thread"]


def test_as_main_again():
    """Who is run as main is, goes where main goes."""
    with start() as vm:
        assert noted(vm) == []
        pin(vm)
        assert noted(vm) == ([0, 1, 2] if len(CPUS) > 1 else [1, 2])
        policy, main = os.sched_param(0), os.sched_getaffinity(vm.pid)
        for tid in threads(vm):
            os.sched_setscheduler(tid, os.SCHED_OTHER, policy)
            os.setpriority(os.PRIO_PROCESS, tid, 0)
            os.sched_setaffinity(tid, main)
        assert noted(vm) == []
        assert places(vm) == [place(vm.pid)] * 4, places(vm)


def test_over_updates_that_fail():
    """The way back has two more arrangements: the same process, and the stand-in."""
    other = other_molt("no-i8042")
    with start() as vm:
        wanted = pin(vm)
        assert vm.fail_update([other, *vm.argv[1:]]) == vm.pid
        stay(vm, wanted)
        if sanitized():
            return
        vm.follow(vm.fail_update(["/bin/true"]))
        stay(vm, wanted)
        vm.update()
        stay(vm, wanted)


def test_a_priority_that_cannot_be_had():
    """A real-time policy is for whom RLIMIT_RTPRIO lets: else the guest runs without, and the log says so."""
    with start() as vm:
        try:
            os.sched_setscheduler(threads(vm)[0], os.SCHED_RR, os.sched_param(3))
        except PermissionError as err:
            raise Skip("this host gives nobody a real-time priority") from err
        vm.update()
        vm.wait_ticks(3)
        vm.check_ticks()
        told = "RLIMIT_RTPRIO" in vm.log()
        assert told == (os.sched_getscheduler(threads(vm)[0]) == os.SCHED_OTHER), vm.log()


need_kvm()
run_cases(globals())
