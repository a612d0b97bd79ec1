#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Updates of a stock Linux guest that go wrong, in the lab: run by lab_test.py. Arguments: the stories to run (all).

A sample of the failure points, which tests/faults walks all with a tiny guest; and successors that are killed.
"""
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "lib"), os.path.join(os.path.dirname(HERE), "faults")]

from report import RETELLINGS, Report  # noqa: E402
from stock_guest import StockGuest  # noqa: E402
from walk import Lost, Walker  # noqa: E402
import moltvm  # noqa: E402

# One of each kind of action, on each side; the names are those of tests/faults/faults.c.
SAMPLE = [
    ("update", "predecessor:prepare:memfd_create#1", "error"),
    ("update", "check:start:begin#1", "segv"),
    ("update", "check:start:malloc#3", "hang"),
    ("update", "predecessor:stand-in:memfd_create#1", "error"),
    ("update", "predecessor:quiesce:begin#1", "abort"),
    ("update", "predecessor:let-go:begin#1", "kill"),
    ("update", "successor:final-load:KVM_SET_LAPIC#1", "error"),
    ("update", "predecessor:handover:begin#1", "hang"),
    ("update", "predecessor:exec:execveat#1", "exhaust"),
    ("update", "successor:start:begin#1", "kill"),
    ("update", "predecessor:save:begin#1", "orphan"),
    ("update", "successor:build:KVM_CREATE_VM#1", "exhaust"),
    ("update", "successor:build:KVM_SET_LAPIC#2", "error"),
    ("update", "successor:build:KVM_CREATE_VCPU#1", "hang"),
    ("update", "successor:final-load:begin#1", "segv"),
    ("update", "successor:release:write#1", "error"),
    ("give-back", "way-back:build:begin#1", "abort"),
    ("undo", "predecessor:undo:begin#1", "orphan"),
]
# Some end in another boot of guest and checkers: more than a few take longer than a test may in CI.
KILLS = int(os.environ.get("MOLT_KILLS", "10"))
PATTERN_MIB = 32


class LinuxWalker(Walker):
    """Linux with labcheck's checkers of memory and clocks at work."""

    hang_ms = 5000
    guest = None

    def start(self):
        self.guest = StockGuest("--cpus", "2", "--memory", "256M", "--sandbox", "off", binaries=[self.binary],
                                env=dict(os.environ, MOLT_FAULTS_DIR=self.dir))
        self.guest.boot()
        self.vm = self.guest.vm
        for command in ("labcheck pattern %d" % PATTERN_MIB, "labcheck clocks"):
            output, status = self.guest.shell.run(command, 90)
            if status:
                raise Lost("%s: %s" % (command, output))
        self.begin()

    def stop(self, *what):
        self.vm = None
        if self.guest:
            guest, self.guest = self.guest, None
            guest.__exit__(*(what or (None, None, None)))

    def cpu_times(self):
        """Total and steal of /proc/stat, in ticks: while steal time goes back, Linux takes all time for stolen."""
        times = [int(word) for word in self.guest.shell.run("head -1 /proc/stat", 90)[0].split()[1:9]]
        return sum(times), times[7]

    def verify(self):
        shell = self.guest.shell
        total, steal = self.cpu_times()
        pattern = shell.values("labcheck pattern-status", 90)
        clocks = shell.values("labcheck clocks-status", 90)
        if pattern["errors"] or any(value for key, value in clocks.items() if key.endswith("_back")):
            raise Lost("memory or clocks changed: %s %s" % (pattern, clocks))
        total, steal = [now - then for now, then in zip(self.cpu_times(), (total, steal))]
        # Two vCPUs of a nested host with one CPU, on a busy machine, were seen to wait nine tenths of the time.
        if steal * 50 > total * 49:
            raise Lost("the guest takes its time for stolen: %d of %d ticks" % (steal, total))


def another_guest(walker, report):
    """Tells what there is to see of a guest that is lost, and starts the next. Whether the emulated CPU broke it."""
    fault = walker.guest and walker.guest.emulation_fault()
    if fault:
        report.again(report.story, fault)
    else:
        report.note("the lost guest's molt: %s" % (walker.vm.log()[-3000:] if walker.vm else "has ended"))
    walker.stop()
    walker.start()
    return bool(fault)


def run_point(walker, report, scenario, point, action):
    """How it ended, or Lost; again where the emulated CPU may be what broke the guest (report.py)."""
    for last in [False] * RETELLINGS + [True]:
        try:
            return walker.run(scenario, point, action)
        except Exception as why:  # noqa: BLE001 -- the next point gets another guest
            if not another_guest(walker, report) or last:
                raise Lost("%s: %s" % (type(why).__name__, why)) from why


def faults(report):
    binary = os.environ["MOLT_FAULTS_BINARY"]
    if not binary:
        report.skip("a sample of the failure points", "this build has no molt-faults (it is not static)")
        return
    lost = 0
    with LinuxWalker(binary) as walker:
        for scenario, point, action in SAMPLE:
            began = time.monotonic()
            try:
                result = run_point(walker, report, scenario, point, action)
            except Lost as why:
                lost += 1
                report.check("%s: %s" % (point, action), False, str(why))
                continue
            report.check("%s: %s" % (point, action), result.end != "missed",
                         "%s %s (%.1f s)" % (result.end, result.why, time.monotonic() - began))
    report.check("%d points, %d runs, 0 guests lost" % (len(SAMPLE), len(SAMPLE)), lost == 0, "%d lost" % lost)


def exec_to_commit(report):
    """Seconds from exec to commit, by an update's report."""
    return sum(stage["us"] for stage in report["stages"] if stage["name"] in ("exec", "adopt", "build")) / 1e6


def killed_at(walker, delay, before):
    """
    Whether the guest lives: the successor, a shell that becomes molt after `before` seconds, for a fast machine would
    be ready before the first sleep is over, is killed after delay seconds.
    """
    command = ["/bin/sh", "-c", '(sleep %.4f; kill -9 $$) & sleep %.4f; exec "$0" run "$@"' % (delay, before),
               walker.guest.binary]
    walker.vm.qmp.events.clear()
    try:
        walker.vm.update(command=command, no_check=True)
    except moltvm.QmpError as err:
        walker.failed(str(err))
        walker.verify()
        return True
    except (EOFError, OSError):
        pass  # killed in the middle of its answer
    return False


def kills(report):
    if moltvm.sanitized():
        report.skip("kill -9 of the successor", "the sanitizers' per-thread data is missing in the process that takes over")
        return
    survived = committed = faulted = 0
    walker = LinuxWalker(moltvm.molt_binary())
    try:
        while survived + committed < KILLS:
            report.note("kill %d, %d survived" % (survived + committed, survived))
            if not walker.vm:
                walker.start()
                limit = exec_to_commit(walker.vm.update(no_check=True))
                walker.vm.settle(bodies=False)
            try:
                if killed_at(walker, random.uniform(limit / 2, 2 * limit), limit):
                    survived += 1
                    continue
            except Exception:  # noqa: BLE001
                faulted += 1
                if not another_guest(walker, report) or faulted > RETELLINGS:
                    raise
                continue
            committed += 1
            walker.vm.kill()
            walker.stop()
        report.check("kill -9 at %d random moments: 0 guests lost" % KILLS, survived + committed == KILLS,
                     "%d before the commit, all survived; %d after it, where molt itself was killed" %
                     (survived, committed))
        report.check("most of them came before the commit", survived > KILLS // 5)
    finally:
        walker.__exit__(None, None, None)


if __name__ == "__main__":
    STORIES = [("faults", faults), ("kills", kills)]
    sys.exit(Report().run([s for s in STORIES if not sys.argv[1:] or s[0] in sys.argv[1:]]))
