# SPDX-License-Identifier: MIT
"""An update that stands at one of its steps until it may go on, and what has to become of it.

    with Standing(walker, "update", "successor:build:begin#1") as update:
        update.other.send("quit")
        update.let_go()
        update.answer()
        update.check_end(0, "host-qmp-quit")
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from walk import Lost  # noqa: E402
from moltvm import Qmp, QmpError, describe  # noqa: E402

# An update that works, step by step. Until the check has been answered the event loop still serves.
EARLY = ["predecessor:prepare", "predecessor:check", "check:start"]
HELD = """predecessor:answer predecessor:stand-in predecessor:pause predecessor:quiesce predecessor:save predecessor:hand-off
          predecessor:handover predecessor:exec successor:start successor:adopt successor:build successor:commit
          successor:switch stand-in:final-save successor:final-load successor:resume successor:tell
          successor:release""".split()
# Here no vCPU runs.
PARKED = {"predecessor:quiesce", "predecessor:save", "predecessor:hand-off", "successor:final-load", "successor:resume"}
# The steps that the old order has not, and those in which it parks besides.
NEW_ORDER = {"stand-in:final-save", "successor:final-load"}
OLD_PARKED = PARKED | {"predecessor:handover", "predecessor:exec", "successor:start", "successor:adopt", "successor:build",
                       "successor:commit", "successor:switch"}
# Beyond that a stand-in may be right when it takes the guest back: src/update/stand_in.c, SWITCH_MS.
SLOW_S = 0.7


class Slow(Exception):
    """This machine took so long that what came of it is no news."""


class Standing:
    def __init__(self, walker, scenario, step, action="wait"):
        self.walker, self.vm = walker, walker.vm
        self.step = step
        self.early = step in EARLY
        walker.arm(step + ":begin#1", action)
        self.asker, self.other, self.watcher = (Qmp(self.vm.control_path) for _ in range(3))
        self.asker.send("update", {key.replace("_", "-"): value for key, value in walker.scenarios[scenario].items()})
        self.vm.wait_for(lambda: os.path.exists(walker.path("waiting")), "the step " + step)

    def __enter__(self):
        return self

    def __exit__(self, kind, why, trace):
        self.let_go()
        self.close()
        if kind and issubclass(kind, Exception) and self.stood > SLOW_S:
            raise Slow("stood for %.1f s" % self.stood) from why

    def close(self):
        for client in (self.asker, self.other, self.watcher):
            client.close()

    def let_go(self):
        """Not before all has been sent that is to come meanwhile."""
        if not os.path.exists(self.walker.path("go")):
            self.stood = time.time() - os.stat(self.walker.path("waiting")).st_mtime
            open(self.walker.path("go"), "w").close()

    def stand_in(self):
        """Its process id, or None where there is none yet."""
        for pid in self.vm.others():
            try:
                with open("/proc/%d/comm" % pid) as comm:
                    if comm.read() == "molt-stand-in\n":
                        return pid
            except OSError:
                pass
        return None

    def answer(self):
        """Of an update that works."""
        try:
            report = self.asker.result()
        except QmpError as err:
            raise Lost("the update failed: %s" % err) from None
        if report["pid"] != self.vm.pid:
            raise Lost("the update says process %d" % report["pid"])
        return report

    def check_events(self, *names):
        """All events that there were: the watcher has been told, and no others."""
        seen = self.watcher.event_names()
        if seen != list(names):
            raise Lost("events %s, not %s" % (seen, list(names)))

    def last_events(self):
        """All that came until the connection was closed."""
        try:
            while True:
                self.watcher.events.append(self.watcher.message())
        except (EOFError, ConnectionResetError):
            return self.watcher.events

    def check_nobody_left(self):
        end = time.monotonic() + 20
        while self.vm.others():
            if time.monotonic() > end:
                raise Lost("processes are left: %s" % ", ".join(map(describe, self.vm.others())))
            time.sleep(0.005)

    def check_end(self, status, *events, **shutdown):
        """molt has ended, with these events, SHUTDOWN and what that says being the last; nothing is left."""
        seen = self.last_events()
        names = [event["event"] for event in seen]
        if names != [*events, "SHUTDOWN"] or seen[-1]["data"] != shutdown:
            raise Lost("events %s, not %s and %s" % (seen, events, shutdown))
        try:
            ended = self.vm.wait_exit(20)
        except subprocess.TimeoutExpired:
            raise Lost("molt does not end") from None
        if ended != status:
            raise Lost("exit status %d, not %d" % (ended, status))
        self.check_nobody_left()
        if os.path.exists(self.vm.control_path):
            raise Lost("the control socket is left behind")
        self.close()
        self.walker.stop()

    def check_runs_on(self):
        """The guest runs, has found nothing changed, and nothing is left of the update."""
        self.close()
        if not self.vm.running():
            raise Lost("the guest does not run")
        self.vm.settle()
        left = self.vm.left_behind(self.walker.before)
        if left:
            raise Lost("left behind: " + left)
        self.walker.verify()
