# SPDX-License-Identifier: MIT
"""Around a fault of the emulated CPU, "An interrupt is not seen" in README.md: a prod, and a look.

A prod is an interrupt of a device, from outside: somebody connects to a port of the nested host's virtio-serial. A
look, where it is silent for all that, is the CPUs' registers and local APIC by QEMU's monitor.
"""
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp  # noqa: E402


def arguments(work):
    """For QEMU, behind its virtio-serial."""
    return ["-chardev", f"socket,id=monitor,path={work}/monitor,server=on,wait=off",
            "-mon", "chardev=monitor,mode=control",
            "-chardev", f"socket,id=prod,path={work}/prod,server=on,wait=off",
            "-device", "virtserialport,chardev=prod,name=lab.prod"]


def prod(work):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.setblocking(False)
        try:
            peer.connect(os.path.join(work, "prod"))
        except OSError:
            pass    # QEMU is not there yet, or has not accepted the last one


def look(work, silent):
    """What is seen when the nested host has been silent for so many seconds: in WORK/monitor.log."""
    with open(os.path.join(work, "monitor.log"), "a", encoding="utf-8") as log:
        log.write(f"==== {time.strftime('%H:%M:%S')}: silent for {silent:.0f} seconds\n")
        try:
            qmp = Qmp(os.path.join(work, "monitor"), timeout=10)
            for command in ("info registers -a", "info lapic"):
                answer = qmp.command("human-monitor-command", command_line=command)
                log.write(f"({command})\n" + answer.replace("\r", ""))
            qmp.close()
        except OSError as e:
            log.write(f"QEMU's monitor does not answer: {e}\n")
