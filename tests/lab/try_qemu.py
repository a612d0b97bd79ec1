#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prove the lab without molt: boot its guest under QEMU with -accel kvm, inside the lab, and talk to it.

    lab.py run -- python3 tests/lab/try_qemu.py [--boots N] [--cmdline TEXT] [--cpu MODEL]

When a lab test fails, this tells whether the lab or molt is to blame.
"""

import argparse
import os
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "guest")]

import fetch  # noqa: E402
import mkguest  # noqa: E402
from guest_shell import GuestGone, GuestShell, parse_values  # noqa: E402


def start(kernel, initramfs, args):
    """QEMU, the guest's console, and QEMU's monitor."""
    argv, env = fetch.qemu_command(fetch.ensure())
    console, console_end = socket.socketpair()
    monitor, monitor_end = socket.socketpair()
    qemu = subprocess.Popen(
        argv + ["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,hpet=off",
                "-accel", "kvm", "-cpu", args.cpu, "-smp", "2", "-m", "512M",
                "-kernel", kernel, "-initrd", initramfs, "-append", args.cmdline,
                "-chardev", f"socket,id=console,fd={console_end.fileno()}", "-serial", "chardev:console",
                "-chardev", f"socket,id=monitor,fd={monitor_end.fileno()}", "-mon", "chardev=monitor"],
        env=env, stdin=subprocess.DEVNULL, pass_fds=[console_end.fileno(), monitor_end.fileno()])
    console_end.close()
    monitor_end.close()
    return qemu, GuestShell(console), monitor


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def expect_exit(qemu, shell, what):
    try:
        shell.wait_for("never said", 30)
    except GuestGone:
        pass
    expect(qemu.wait(30) == 0, f"QEMU's exit status after {what}")


def ping(shell):
    shell.send("\n")
    return parse_values(shell.wait_for("width=", 5) + shell.wait_for("\n", 5))


def check_guest(shell):
    """Every part of labcheck, once."""
    output, status = shell.run("echo one; echo two; false")
    expect((output, status) == ("one\ntwo\n", 1), f"run(): {output!r} {status}")
    for command in ("labcheck pattern 32", "labcheck clocks", "labcheck load"):
        print("  ", shell.run(command)[0].strip())
    time.sleep(5)
    for name in ("pattern", "clocks", "load"):
        print("  ", name, shell.values(f"labcheck {name}-status"))
    expect(shell.values("labcheck pattern-status")["errors"] == 0, "pattern errors")
    shell.run("labcheck stop")
    shell.send("labcheck clock-ping\r")
    shell.wait_for("clock-ping", 5)
    first = ping(shell)
    time.sleep(1)
    second = ping(shell)
    shell.send("\x04")
    shell.wait_for_prompt()
    khz = (second["tsc"] - first["tsc"]) * 1e6 / (second["mono"] - first["mono"])
    print(f"   clock-ping width={second['width']} tsc_khz={khz:.1f}")


def one_boot(number, kernel, initramfs, args):
    started = time.monotonic()
    qemu, shell, monitor = start(kernel, initramfs, args)
    try:
        shell.wait_for_prompt(120)
        print(f"boot {number}: prompt after {time.monotonic() - started:.1f} s", flush=True)
        if number == 1:
            check_guest(shell)
        if number % 2:
            monitor.sendall(b"system_powerdown\n")
            expect_exit(qemu, shell, "the power button")
        else:
            shell.send("poweroff\r")
            expect_exit(qemu, shell, "poweroff")
    finally:
        qemu.kill()
        qemu.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boots", type=int, default=1)
    parser.add_argument("--cmdline", default=mkguest.KERNEL_COMMAND_LINE)
    parser.add_argument("--cpu", default="host")
    args = parser.parse_args()
    kernel, initramfs = mkguest.build("/tmp/guest-initramfs")
    failed = 0
    for number in range(1, args.boots + 1):
        try:
            one_boot(number, kernel, initramfs, args)
        except Exception as e:  # noqa: BLE001 -- count it, go on with the next boot
            failed += 1
            print(f"boot {number}: FAILED: {type(e).__name__}: {e}", flush=True)
    print(f"{args.boots - failed} passed, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
