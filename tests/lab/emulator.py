# SPDX-License-Identifier: MIT
"""What the emulated CPUs do while the nested host is silent, by QEMU's monitor, and a push.

A nested host with a guest that computes is silent when an interrupt does not bring the CPU out of the guest. Then the
registers are the guest's, and the local APIC has interrupts that wait. `stop` and `cont` are nothing that the nested
host could see, its clock stands still in between; but they bring QEMU's thread out of the translated code, to look at
what waits. So a host that comes to life by them was held by the emulator, by nothing that runs in it.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp  # noqa: E402


def arguments(work):
    return ["-chardev", f"socket,id=monitor,path={work}/monitor,server=on,wait=off",
            "-mon", "chardev=monitor,mode=control"]


def look(qmp, log):
    for command in ("info registers -a", "info lapic"):
        log.write(f"({command})\n" + qmp.command("human-monitor-command", command_line=command).replace("\r", ""))


def push(work, silent):
    """Called when the nested host has been silent for so many seconds. What was seen is in WORK/monitor.log."""
    with open(os.path.join(work, "monitor.log"), "a", encoding="utf-8") as log:
        log.write(f"==== {time.strftime('%H:%M:%S')}: silent for {silent:.0f} seconds; as it runs:\n")
        try:
            qmp = Qmp(os.path.join(work, "monitor"), timeout=10)
            look(qmp, log)
            qmp.command("stop")
            try:
                log.write("==== stopped:\n")
                look(qmp, log)
            finally:
                qmp.command("cont")
                qmp.close()
            log.write("==== it goes on\n")
        except OSError as e:
            log.write(f"==== QEMU's monitor does not answer: {e}\n")
