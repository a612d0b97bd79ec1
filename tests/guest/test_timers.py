#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Timers over updates at random moments: no interrupt lost, none that did not happen, the phase kept.
The probe guest verifies it (firmware/probe_exact.c); its timers' periods are longer than a pause,
and the moments are spread over more than the longest of them. MOLT_TIMER_UPDATES sets how many updates
there are in all.
"""
import os
import random
import re
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Vm, need_kvm, other_molt, run_cases, sanitized  # noqa: E402
from soak import passes  # noqa: E402

SPREAD_S = 0.07
SEED = int(os.environ.get("MOLT_TIMER_SEED", random.randrange(1 << 32)))


def updates_wanted(share):
    return max(2, int(os.environ.get("MOLT_TIMER_UPDATES", "60")) * share // 100)


def start(options, cpus=1, late_us=6000):
    print("# moments are those of MOLT_TIMER_SEED=%d" % SEED, flush=True)
    random.seed(SEED)
    vm = Vm("--memory", "64M", "--cpus", str(cpus), kernel="probe",
            cmdline="exact=on ram_mib=8 period_ms=1000 clock_us=5000 lost_ms=20000 "
                    "late_us=%d %s" % (late_us, options))
    vm.wait_serial("probe: pass 3 ")
    return vm


def some_time():
    time.sleep(random.uniform(0, SPREAD_S))


def check(vm):
    """Three more passes, so that enough windows of interrupts after the last update are looked at."""
    had, before = os.path.getsize(vm.serial_path), passes(vm)[-1]
    vm.wait_for(lambda: len(passes(vm, had)) >= 3, "three more passes")
    now = passes(vm)[-1]
    assert now["changes"] == 0 and "CHANGED" not in vm.serial(), "\n".join(
        re.findall(r"^probe: CHANGED .*", vm.serial(), re.M)[:20])
    for key in ("timer_irqs", "pit_irqs", "verified"):
        assert now[key] > before[key], (key, before, now)
    return now


def update(count, options, cpus=1):
    with start(options, cpus) as vm:
        for i in range(count):
            some_time()
            assert vm.update()["updates"] == i + 1
            vm.qmp.events.clear()
        last = check(vm)
        print("# %d updates, %d interrupts and readings verified, %d changes" % (
            count, last["verified"], last["changes"]))


def test_periodic_timers():
    """APIC periodic, PIT mode 2, RTC, and what channel 2 counts."""
    update(updates_wanted(30), "timer=periodic pit=periodic")


def test_one_shot_timers():
    """APIC one-shot and PIT mode 0, set again when they fired and after a while; RTC."""
    update(updates_wanted(30), "timer=oneshot pit=oneshot")


def test_deadline_timer():
    """APIC in TSC deadline mode on the first vCPU, periodic on the second."""
    update(updates_wanted(30), "timer=deadline pit=periodic", cpus=2)


def test_stopped_in_between():
    """Timers expire while the machine is stopped, and updates leave it so."""
    # Hardly one fires while it runs, so how late they are says nothing.
    with start("timer=oneshot pit=oneshot", late_us=10000000) as vm:
        for _ in range(updates_wanted(10) // 2 + 1):
            some_time()
            vm.qmp.command("stop")
            for _ in range(2):
                some_time()
                vm.update()
            some_time()
            vm.qmp.command("cont")
        check(vm)


def failing(options):
    other = other_molt("no-i8042")
    with start(options) as vm:
        for _ in range(updates_wanted(10) // 2 + 1):
            some_time()
            assert vm.fail_update([other, *vm.argv[1:]], "i8042") == vm.pid
        check(vm)
        if sanitized():
            return
        some_time()
        was = vm.pid
        vm.follow(vm.fail_update(["/bin/true"], "ended before"))
        assert vm.pid != was
        check(vm)


def test_way_back_with_periodic_timers():
    """Updates that fail: the guest runs on in the same process, and at last in the stand-in."""
    failing("timer=periodic pit=periodic")


def test_way_back_with_one_shot_timers():
    failing("timer=oneshot pit=oneshot")


for timers in (test_periodic_timers, test_one_shot_timers, test_deadline_timer):
    timers.timeout = 120 + updates_wanted(30)

need_kvm()
run_cases(globals())
