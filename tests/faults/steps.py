# SPDX-License-Identifier: MIT
"""An update that stands at one of its steps until it may go on, and what has to become of it.

    with Standing(walker, Job("update", "successor:build", "works", quit)) as update:
        update.other.send("quit")
        update.let_go()
        update.finish()
        update.check_end(0, ["UPDATE_COMPLETED"], guest=False, reason="host-qmp-quit")
"""
import collections
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from walk import Lost  # noqa: E402
from moltvm import Qmp, QmpError, describe  # noqa: E402

# An update, step by step. Until the devices are at rest the event loop serves, too: file `slow-output`.
EARLY = ["predecessor:prepare", "predecessor:check", "check:start", "predecessor:answer"]
HELD = """predecessor:rest predecessor:stand-in predecessor:read-vcpus predecessor:pause
          predecessor:quiesce predecessor:save predecessor:hand-off predecessor:let-go predecessor:handover
          predecessor:exec successor:start successor:adopt successor:build
          successor:map-RAM successor:switch stand-in:final-save successor:final-load successor:resume successor:tell
          successor:release""".split()
# Which of them the old order does not have.
NEW_ORDER = {"predecessor:read-vcpus", "predecessor:hand-off", "predecessor:let-go", "successor:map-RAM",
             "successor:switch", "stand-in:final-save", "successor:final-load"}
# Who executes the kept binary takes over like a successor.
GIVES_BACK = """successor:start successor:adopt successor:give-up way-back:start way-back:adopt way-back:build
                way-back:map-RAM way-back:switch way-back:final-load way-back:resume way-back:tell
                way-back:release""".split()
UNDO = ["predecessor:undo", "predecessor:dismiss"]
TAKES_BACK = ["stand-in:revive", "stand-in:tell"]
# Stages in which no vCPU runs; those that stop them; and those before which the old order has stopped them.
PARKED = {"quiesce", "save", "hand-off", "final-load", "resume", "undo", "revive"}
PARK = {"pause", "final-save"}
PARKED_LONGER = {"handover", "exec", "start", "adopt", "build", "give-up"}
# Beyond that a stand-in may be right when it takes the guest back: src/update/stand_in_self.c, SWITCH_MS.
SLOW_S = 0.7
# How it goes on: what is done to it, and where the guest is then (None: who knows).
HOW = {
    "works": ("wait", "completed"),
    "fails": ("wait-error", None),
    "dies": ("wait-kill", "moved"),
    "hangs": ("wait-hang", "moved"),
    "is given back": ("wait", "failed"),
    "is taken back": ("wait", "moved"),
}

# scenario: of walk.py. point: what is held there, a step's name where it is its beginning. how: a key of HOW. event: a
# function that gets the Standing.
Job = collections.namedtuple("Job", "scenario point how event")


class Slow(Exception):
    """This machine took so long that what came of it is no news."""


class Standing:
    def __init__(self, walker, job):
        self.walker, self.vm, self.how = walker, walker.vm, job.how
        self.step = ":".join(job.point.split(":")[:2])
        self.early = self.step in EARLY
        stage = self.step.split(":")[1]
        self.parked = not self.early and (stage in PARKED or walker.old_order and stage in PARKED_LONGER or
                                          stage in PARK and job.point != self.step)
        self.over = []  # the event of the update's end, once it is known
        self.stood = 0
        walker.arm(job.point if job.point.count(":") == 2 else job.point + ":begin#1", HOW[job.how][0])
        open(walker.path("slow-output"), "w").close()
        self.asker, self.other, self.watcher = (Qmp(self.vm.control_path) for _ in range(3))
        self.asker.send("update", {key.replace("_", "-"): value
                                   for key, value in walker.scenarios[job.scenario].items()})
        self.vm.wait_for(lambda: os.path.exists(walker.path("waiting")) or self.asker.answered(),
                         "the step " + job.point)
        self.missed = None if os.path.exists(walker.path("waiting")) else self.ended_before()

    def __enter__(self):
        return self

    def __exit__(self, kind, why, trace):
        self.let_go()
        self.close()
        if kind and issubclass(kind, Exception) and self.stood > SLOW_S:
            raise Slow("stood for %.1f s" % self.stood) from why

    def ended_before(self):
        """How the update ended that did not come by the step."""
        try:
            return self.asker.answer()
        except (OSError, EOFError) as why:
            return why

    def close(self):
        for client in (self.asker, self.other, self.watcher):
            client.close()

    def let_go(self):
        """Not before all has been sent that is to come meanwhile."""
        if os.path.exists(self.walker.path("waiting")) and not os.path.exists(self.walker.path("go")):
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

    def finish(self):
        """The update's end, by its answer; the report, or None where it was to fail and did."""
        try:
            report = self.asker.result()
            end, self.over = "completed", ["UPDATE_COMPLETED"]
            pid = report["pid"]
        except QmpError as err:
            report, why = None, err
            pid = self.asker.wait_event("UPDATE_FAILED")["data"]["pid"]
            end, self.over = "failed" if pid == self.vm.pid else "moved", ["UPDATE_FAILED"]
        if HOW[self.how][1] not in (end, None) or report and pid != self.vm.pid:
            raise Lost("the update %s to process %d: %s" % (end, pid, report or why))
        self.vm.follow(pid)
        return report

    # ---- events, of which each of the watcher's is looked at

    def check_events(self, *names):
        """Exactly these, once all of them are there; the data of each."""
        try:
            while len(self.watcher.events) < len(names):
                self.watcher.events.append(self.watcher.message())
            seen = self.watcher.event_names()
        except (OSError, EOFError) as why:
            raise Lost("events %s, then %s" % (self.watcher.events, why)) from None
        if seen != list(names):
            raise Lost("events %s, not %s" % (self.watcher.events, list(names)))
        return {event["event"]: event.get("data") for event in self.watcher.events}

    def last_events(self):
        """All that came until the connection was closed."""
        try:
            while True:
                self.watcher.events.append(self.watcher.message())
        except (EOFError, ConnectionResetError):
            return self.watcher.events
        except socket.timeout:
            raise Lost("molt does not end; events %s" % self.watcher.events) from None

    # ---- what is left

    def exit_status(self):
        """Of the process that had the guest."""
        pid, end = self.vm.moved, time.monotonic() + 20
        # It failed: killed by the stand-in or by whatever was sent to it, or 1, or 2 before it could say more.
        if pid and self.vm.proc.wait(20) == 0:
            raise Lost("the successor that failed ended with 0")
        while time.monotonic() < end:
            if not pid and self.vm.proc.poll() is not None:
                return self.vm.proc.returncode
            done, status = os.waitpid(pid, os.WNOHANG) if pid else (0, 0)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        raise Lost("process %d does not end" % self.vm.pid)

    def check_nobody_left(self):
        end = time.monotonic() + 20
        while self.vm.others():
            if time.monotonic() > end:
                raise Lost("processes are left: %s" % ", ".join(map(describe, self.vm.others())))
            time.sleep(0.005)

    def check_end(self, status, events, **shutdown):
        """molt has ended, with these events, and a SHUTDOWN that says this; nothing is left."""
        seen = self.last_events()
        names = [event["event"] for event in seen]
        if names != [*events, "SHUTDOWN"] or seen[-1]["data"] != shutdown:
            raise Lost("events %s, not %s and %s" % (seen, events, shutdown))
        ended = self.exit_status()
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
        if self.how != "works":
            self.walker.clean_update()
            self.walker.verify()
