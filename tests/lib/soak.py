# SPDX-License-Identifier: MIT
"""Many updates in a row under the probe guest, which watches all it owns: nothing changes in the guest, and nothing
piles up in the process. For the guest tests and for tests/soak.py.
"""
import json
import os
import re
import statistics
import time

from moltvm import emulated, molt, sanitized

PASS = re.compile(r"^probe: pass (.*)$", re.M)

# Between two updates in a row the guest runs for a few milliseconds only, and KVM starts the PIT's
# period of 10 ms anew when its state is set: it comes late then. Whether it comes at all is checked
# after some updates each.
PROBE = "period_ms=100 lost_ms=30000 "
REST = 10 if sanitized() else 25

# A few pages come and go with how far malloc and the stacks happened to reach.
RSS_SLACK_KIB = 64
# The figures in the report of the last update, which the state carries, have more or fewer digits.
STATE_SLACK = 512
STATE_TRIES = 5


def passes(vm, after=0):
    """Every whole pass line as {key: number}; of those that begin after so many bytes of output."""
    with open(vm.serial_path, "rb") as f:
        f.seek(after)
        text = f.read().decode(errors="replace")
    return [{key: int(value) for key, value in re.findall(r"(\w+)=(-?\d+)", line)}
            for line in PASS.findall(text[: text.rfind("\n") + 1])]


def goes_on(before, now):
    keys = ["timer_irqs", "pit_irqs", "holds"]
    if now.get("cpus", 1) > 1:
        keys += ["ap_timer_irqs", "ap_holds"]
    return all(now[key] > before[key] for key in keys)


def clean_pass(vm):
    """The guest goes on through whole passes, with all its timers, and finds no change."""
    had = os.path.getsize(vm.serial_path)
    new = []

    def enough():
        new[:] = passes(vm, had)
        return len(new) >= 2 and goes_on(new[0], new[-1])

    # Two: the first may end right away. On a busy host a timer's thread may wait for its turn.
    vm.wait_for(enough, "two more passes with interrupts of all timers", timeout=25)
    # The guest counts its changes from its beginning on.
    assert new[-1]["changes"] == 0, re.findall(r"^probe: CHANGED .*", vm.serial(), re.M)


def measures(vm):
    """What may not grow. Taken in the same state each time: idle, one client connected."""
    vm.settle()
    return {
        "descriptors": sorted((what, cloexec) for what, cloexec in vm.fds().values()),
        "threads": vm.threads(),
        "VmSize": 0 if sanitized() else vm.status("VmSize"),
    }


def tsc_offsets(path):
    sections = json.loads(molt("state", path).stdout)["sections"]
    return [field["value"] for s in sections if s["name"] == "vcpu"
            for field in s["fields"] if field["name"] == "tsc_offset"]


class Soak:
    """Updates of one guest, onto each of the binaries in turn; without any, onto its own.

    The guest must run in the last of them: what is measured is compared when it does so again.
    """

    def __init__(self, vm, binaries=()):
        self.vm = vm
        self.binaries = list(binaries)
        self.times = []  # of each update as the client sees it, in microseconds
        vm.wait_serial("probe: ready")
        clean_pass(vm)
        self.offsets = self.saved_offsets()
        assert self.offsets, "the stream has no tsc_offset"
        self.run(2 * max(1, len(self.binaries)))  # what is only made in the first ones
        self.state_bytes = self.report["state-bytes"]
        clean_pass(vm)
        self.first, self.rss = measures(vm), vm.status("RssAnon")
        self.times.clear()
        self.done_before = vm.qmp.command("query-update")["updates"]

    def update(self, **arguments):
        """One update onto the next binary."""
        command = ()
        if self.binaries:
            self.binaries.append(self.binaries.pop(0))
            command = (self.binaries[-1], *self.vm.argv[1:])
        began = time.monotonic()
        self.report = self.vm.update(*command, **arguments)
        self.times.append((time.monotonic() - began) * 1e6)
        self.vm.qmp.events.clear()
        assert self.report["pid"] == self.vm.pid, self.report
        return self.report

    def saved_offsets(self):
        """The vCPUs' TSC offsets, from the streams of a round of updates, which all must have the same."""
        found = []
        for _ in range(max(1, len(self.binaries))):
            self.update(state_file=self.vm.path("state"))
            found.append(tsc_offsets(self.vm.path("state")))
        assert all(offsets == found[0] for offsets in found), found
        return found[0]

    def run(self, count):
        """So many updates, with a look at the guest now and then."""
        for i in range(count):
            self.update()
            if self.binaries:
                assert self.vm.executable() == self.binaries[-1], (self.vm.executable(), self.binaries)
            if i % REST == REST - 1:
                clean_pass(self.vm)

    def check(self):
        """Nothing changed in the guest, nothing grew in the process."""
        clean_pass(self.vm)
        now, rss = measures(self.vm), self.vm.status("RssAnon")
        assert now == self.first, (self.first, now)
        assert sanitized() or abs(rss - self.rss) <= RSS_SLACK_KIB, (self.rss, rss)
        self.check_state_bytes()
        done = self.vm.qmp.command("query-update")["updates"]
        assert done == self.done_before + len(self.times), (done, self.done_before, len(self.times))

    def check_state_bytes(self):
        """What the guest has just printed travels, too, but not in each update; what has piled up does."""
        for _ in range(STATE_TRIES):
            if self.report["state-bytes"] - self.state_bytes < STATE_SLACK:
                return
            self.run(2 * max(1, len(self.binaries)))
        raise AssertionError("the state was %d bytes long, now %s" % (self.state_bytes, self.report))

    def check_offsets(self):
        offsets = self.saved_offsets()
        assert offsets == self.offsets, (self.offsets, offsets)

    def check_times(self):
        """
        Something that piled up (descriptors, mappings, environment, arguments) would show as a time that
        grows with the number of updates. The medians of the first and last ten are compared, since other
        programs on the host hit single updates; twice and 2 ms is far below what a thousandfold of
        anything would cost. A host that happens to be busy just now is no reason to fail: further tens
        may show the time that is really needed, for what has piled up does not go away. In the lab, whose CPU
        is a program among others, only the figures are told.
        """
        times = self.times[:]
        first, last = statistics.median(times[:10]), statistics.median(times[-10:])
        figures = "first ten %.0f us, last ten %.0f us, median of all %.0f us, worst %.0f us" % (
            first, last, statistics.median(times), max(times))
        for _ in range(10):
            if last <= 2 * first + 2000 or emulated():
                return figures
            time.sleep(1)
            self.run(10)
            last = statistics.median(self.times[-10:])
        raise AssertionError("update: first ten %.0f us, last ten %.0f us" % (first, last))
