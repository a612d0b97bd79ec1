#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""KVM's second-level tables after an update, in the lab: run by lab_test.py. Arguments: the stories to run.

A successor fills them before the guest is its (refault=before), where KVM has KVM_PRE_FAULT_MEMORY: Linux 6.11, with
nested paging. What that is worth is counted: KVM's tracepoint kvm_page_fault, from before the update until the guest
has been over all of its RAM. RAM is in pages of 4 KiB, for there are 512 times fewer faults with larger ones.
"""
import os
import sys
import tempfile

from kvm_trace import FaultCounter
from report import Report

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), part) for part in ("lib", "guest")]

import moltvm  # noqa: E402
from test_memory import shmem_huge  # noqa: E402
from toucher import Toucher  # noqa: E402

MIB = 64
LEAST_LESS = 0.95


def one_pass(report, refault):
    """(pages of the guest, second-level faults of an update and the pass after it)"""
    counter = FaultCounter()
    with shmem_huge("never"), tempfile.TemporaryDirectory() as directory, moltvm.Vm(
            "--memory", "%dM,refault=%s,refault-limit=600" % (MIB, refault), "--pause", kernel="toucher",
            serial="socket=%s/line" % directory, directory=directory) as vm:
        guest = Toucher(directory + "/line")
        vm.qmp.command("cont")
        pages = int(guest.line(r"ready pages=(\d+)").group(1))
        guest.touch()
        counter.start()
        guest.touch()
        at_rest = counter.stop()
        counter.start()
        told = vm.update(timeout=300000)
        guest.touch()
        faults = counter.stop()
        vm.qmp.command("quit")
        report.check("refault=%s: 'quit' ends molt with status 0" % refault, vm.wait_exit(30) == 0)
        report.note("refault=%s: %d pages, %d faults in a pass before the update, %d in the update and the pass after "
                    "it, %d bytes mapped in advance" % (refault, pages, at_rest, faults, told.get("mapped-bytes", 0)))
        report.check("refault=%s: a pass without an update has no faults to speak of" % refault,
                     at_rest < pages // 100, "%d" % at_rest)
    return pages, faults


def second_level_faults(report):
    pages, lazy = one_pass(report, "lazy")
    report.check("without: the guest faults on each page", lazy >= pages, "%d faults, %d pages" % (lazy, pages))
    _, before = one_pass(report, "before")
    report.check("refault=before: at least %d %% fewer" % (LEAST_LESS * 100), before <= (1 - LEAST_LESS) * lazy,
                 "%d faults instead of %d: %.1f %% fewer" % (before, lazy, 100 - 100 * before / lazy))


if __name__ == "__main__":
    sys.exit(Report().run([("second-level-faults", second_level_faults)]))
