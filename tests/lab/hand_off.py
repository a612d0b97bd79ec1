#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The order of an update on a host whose KVM makes a guest wait when other threads take it over, in the lab: run by
lab_test.py. Arguments: the stories to run.

Before Linux 6.13 that takes an RCU grace period, unless the host expedites them (src/vm/thread_change.c).
"""
import os
import sys

from kvm_trace import KvmTrace
from report import GuestFaulted, Report

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

import moltvm  # noqa: E402

EXPEDITED = "/sys/kernel/rcu_expedited"
UPDATES = 3
TRIES = 3       # on a busy machine emulation alone may take as long as a grace period
SLOW = "updates stop the guest before the exec"


def kernel():
    return tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2])


def run(vm):
    """Some updates, and whether the log told that they stop the guest."""
    vm.wait_serial(r"probe: ready .*\n", 60)
    reports = [vm.update() for _ in range(UPDATES)]
    vm.wait_serial(r"probe: pass \d+ .*changes=0.*\n", 60)
    return reports, SLOW in vm.log()


def update(expedited):
    """The last of some updates, and whether all of them stopped the guest from before the exec on, and it was said."""
    with open(EXPEDITED, "w") as f:
        f.write(str(int(expedited)))
    trace = KvmTrace()
    with moltvm.Vm("--cpus", "2", "--memory", "64M", kernel="probe",
                   cmdline="period_ms=200 lost_ms=30000 clock_us=20000") as vm:
        try:
            reports, told = run(vm)
        except (AssertionError, EOFError, ConnectionResetError) as why:
            log = vm.log()[-3000:]
            fault = trace.delivered_twice() or "triple fault" in log
            raise (GuestFaulted if fault else AssertionError)("%s\n%s\n%s" % (why, log, trace.last())) from why
        vm.qmp.command("quit")
        ended = vm.wait_exit(30) == 0
    return reports[-1], [told, ended] + ["hand-off-us" not in r for r in reports]


def updates(report, expedited, stops):
    wanted = [stops, True] + [stops] * UPDATES
    for _ in range(TRIES if expedited else 1):
        last, found = update(expedited)
        if found == wanted:
            break
    report.check("rcu_expedited=%d, Linux %d.%d: the guest is %sstopped from before the exec on" % (
        expedited, *kernel(), "" if stops else "not "), found == wanted, "%s %s" % (found, last))


def hand_off(report):
    updates(report, False, kernel() < (6, 13))
    updates(report, True, False)


if __name__ == "__main__":
    sys.exit(Report().run([("hand-off", hand_off)]))
