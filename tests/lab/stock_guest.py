# SPDX-License-Identifier: MIT
"""A stock Linux guest on molt, for the tests in the lab: its shell, its update, its clocks beside the host's.

    with StockGuest("--cpus", "2", "--memory", "512M") as guest:
        guest.boot()
        guest.shell.run("dmesg | wc -l")
        guest.update()
"""
import functools
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "lib")]

import moltvm  # noqa: E402
from guest_shell import GuestGone, GuestShell, GuestTimeout, parse_values  # noqa: E402
from kvm_trace import KvmTrace  # noqa: E402
from report import DataLost, GuestFaulted  # noqa: E402
from stalled import foreign_page_tables, sections, words  # noqa: E402

# Software emulation on a busy machine: what takes 5 seconds on an idle one may take many times that.
BOOT_LIMIT = 120
PLANTED = "planted by the test"
SLOW_INTERRUPT = re.compile(r"^\[[ .0-9]+\] hrtimer: interrupt took (\d+) ns$")
SLOW_INTERRUPT_LIMIT_NS = 1_000_000_000


def kernel_news(lines):
    """Those of the kernel's lines that a test has to know of.

    One is none: Linux tells once a boot that a timer interrupt took so and so long, when three times over the next
    timer was due before it was done. Emulation is that slow without any update, too (README.md): up to a second it
    says no more. That no clock was thrown out, others look at.
    """
    slow = [m.group(0) for m in map(SLOW_INTERRUPT.search, lines) if m and int(m.group(1)) < SLOW_INTERRUPT_LIMIT_NS]
    return [line for line in lines if line not in slow]


class StockGuest:
    """One molt, its binary in a file of its own, so that each update can bring a new one.

    binaries: what is installed there, in turn, beginning with the one that the guest is started in.
    """

    files = "MOLT_LAB"      # _KERNEL, _INITRAMFS, _CMDLINE: variables of the environment

    def __init__(self, *options, kernel=None, cmdline="", binaries=None, env=None):
        self.binaries = itertools.cycle(binaries or [moltvm.molt_binary()])
        self.dir = tempfile.mkdtemp(prefix="stock-guest-")
        self.binary = os.path.join(self.dir, "molt")
        self.serial = os.path.join(self.dir, "serial")
        self.install_binary()
        self.trace = KvmTrace()
        self.vm = moltvm.Vm("--initramfs", os.environ[self.files + "_INITRAMFS"], *options, binary=self.binary,
                            kernel=kernel or os.environ[self.files + "_KERNEL"],
                            cmdline=os.environ[self.files + "_CMDLINE"] + " " + cmdline,
                            serial="socket=" + self.serial, env=env)
        self.pid = self.vm.pid
        self.updates = 0
        self.reports = []
        self.log = open(os.path.join(self.dir, "heard"), "w+b")
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(self.serial)
        self.shell = GuestShell(peer, self.log)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print("the guest's last words: %r" % self.heard()[-3000:])
            self.tell_silence()
        fault = self.emulation_fault() if kind not in (None, DataLost) else None
        self.shell.stream.close()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        self.vm.__exit__(kind, value, trace)
        if fault:
            raise GuestFaulted(fault) from value

    def emulation_fault(self):
        """Why the guest may have failed by the emulated CPU's fault, with all there is to look at; else None."""
        twice, log = self.trace.delivered_twice(), self.vm.log()
        foreign = self.last_state and foreign_page_tables(self.last_state)
        if twice:
            why = "%d interrupts delivered a second time, as exceptions" % len(twice)
        elif foreign:
            why = foreign
        elif "triple fault" in log:
            why = "triple fault"
        else:
            return None
        return "\n".join([why, *twice[:5], log[-2500:], self.trace.last()])

    @functools.cached_property
    def last_state(self):
        """When something went wrong, by one more update; None if there is none to be had."""
        try:
            return self.stream_of_update()
        except Exception as e:  # noqa: BLE001 -- only more words for a failure that is told anyway
            print("no state to show:", e)
            return None

    def tell_silence(self):
        """What the vCPUs did last, and what they, the serial port and the interrupt controllers believe."""
        for thread, lines in self.trace.last_of_each().items():
            print("the last exits of %s:" % thread, *lines, sep="\n")
        if not self.last_state:
            return
        for name in ("serial", "irqchip", "pit"):
            print(name, json.dumps(sections(self.last_state, name)))
        for vcpu in sections(self.last_state, "vcpu"):
            print("vcpu", json.dumps(words(vcpu)))

    def heard(self):
        """All that ever came from the guest's serial port."""
        self.log.seek(0)
        return self.log.read()

    def install_binary(self):
        """A new file at the binary's path, as a package manager would put it there."""
        fresh = self.binary + ".new"
        shutil.copy(next(self.binaries), fresh)
        os.rename(fresh, self.binary)

    def boot(self):
        """Seconds until the shell's prompt."""
        began = time.monotonic()
        self.shell.wait_for_prompt(BOOT_LIMIT)
        return time.monotonic() - began

    # ---- the kernel's log ----

    def plant_kernel_line(self):
        """The number of lines in the kernel's log; one more is put behind them, for kernel_lines_since() to find."""
        lines = int(self.shell.run("dmesg | wc -l", 60)[0])
        output, status = self.shell.run("echo '<6>%s' >/dev/kmsg" % PLANTED, 60)
        if status:
            raise AssertionError("the guest cannot write to its kernel's log: " + output)
        return lines

    def kernel_lines_since(self, before):
        """What the kernel has said behind the planted line."""
        lines = self.shell.run("dmesg | tail -n +%d" % (before + 1), 90, kernel_lines=True)[0].splitlines()
        if PLANTED not in "".join(lines[:1]):
            raise AssertionError("the planted line is not seen in the kernel's log: %s" % lines[:1])
        return kernel_news(lines[1:])

    # ---- updates ----

    def update(self, **arguments):
        """One update onto a newly installed binary; raises if the process did not become that binary."""
        self.install_binary()
        report = self.vm.update(**arguments)
        self.updates += 1
        running = os.stat("/proc/%d/exe" % self.pid)
        installed = os.stat(self.binary)
        if (running.st_dev, running.st_ino) != (installed.st_dev, installed.st_ino):
            raise AssertionError("process %d did not become the new binary" % self.pid)
        if report["pid"] != self.pid or report["updates"] != self.updates:
            raise AssertionError("process %d, update %d: the report says %r" % (self.pid, self.updates, report))
        self.reports.append(report)
        return report

    def stream_of_update(self):
        """One more update, and the state stream that it kept, as 'molt state' prints it."""
        path = self.vm.path("stream")
        self.update(state_file=path)
        return json.loads(subprocess.run([self.binary, "state", path], stdout=subprocess.PIPE, check=True).stdout)

    def type_across_update(self, number):
        """Half a command line before an update, more than the port's FIFO holds; the other half after it."""
        self.shell.send("echo typed-before-%d-and-longer-than-a-FIFO-" % number)
        self.update()
        self.shell.send("$((%d + 1000))\r" % number)
        self.shell.wait_for("typed-before-%d-and-longer-than-a-FIFO-%d" % (number, number + 1000), 60)
        self.shell.wait_for_prompt(60)

    # ---- the end ----

    def wait_end(self, timeout=60):
        """molt's exit status, once the guest made it end."""
        deadline = time.monotonic() + timeout
        try:
            self.shell.wait_for("\0never\0", timeout)
        except (GuestGone, GuestTimeout):
            pass
        return self.vm.wait_exit(max(1, deadline - time.monotonic()))


def tsc_offsets(state):
    return [int(vcpu["tsc_offset"], 16) for vcpu in sections(state, "vcpu")]


# ---- clocks ----

class HostClocks:
    """'labcheck clock-ping' on the host."""

    def __init__(self):
        self.process = subprocess.Popen([os.environ["MOLT_LABCHECK"], "clock-ping"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ping(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return parse_values(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def compare_clocks(guest, rounds=6):
    """Readings of the guest's clocks, each between two of the host's: [(host, guest, host)].

    What they mean takes the TSC offset (see clock_differences), which only an update's stream tells.
    """
    host = HostClocks()
    shell, readings = guest.shell, []
    shell.send("labcheck clock-ping\r")
    shell.wait_for("clock-ping", 30)
    for _ in range(rounds):
        before = host.ping()
        shell.send("\n")
        inside = parse_values(shell.wait_for("width=", 30) + shell.wait_for("\n", 30))
        readings.append((before, inside, host.ping()))
    shell.send("\x04")
    shell.wait_for_prompt(30)
    host.close()
    return readings


def clock_differences(readings, tsc_offset):
    """(mono, real, error): guest minus host in ns, of the reading with the least doubt.

    The guest read its clocks at a known TSC; less the offset that is the host's TSC of that instant. The host's clocks
    go evenly by its TSC, and so what they showed then lies on a line between two readings: however long the bytes took
    over the serial line.
    """
    best = None
    for before, inside, after in readings:
        instant = (inside["tsc"] - tsc_offset) % 2 ** 64
        if not before["tsc"] <= instant <= after["tsc"]:
            raise AssertionError("the guest's TSC less its offset, %d, is not between the host's %d and %d" %
                                 (instant, before["tsc"], after["tsc"]))
        part = (instant - before["tsc"]) / (after["tsc"] - before["tsc"])
        khz = (after["tsc"] - before["tsc"]) * 1e6 / (after["mono"] - before["mono"])
        doubt = max(before["width"], inside["width"], after["width"]) / khz * 1e6 / 2
        difference = [inside[c] - before[c] - part * (after[c] - before[c]) for c in ("mono", "real")]
        if best is None or doubt < best[2]:
            best = (*difference, doubt)
    return best
