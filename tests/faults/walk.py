# SPDX-License-Identifier: MIT
"""Walking the failure points of molt-faults: one fault at a time, and a look at what is left.

    with ProbeWalker() as walker:
        for point in walker.record("update"):
            result = walker.run("update", point.name, "error")

A Walker has a directory that says what is to happen (see faults.c), and a running guest. Its subclass starts the guest
and says how it is verified.
"""
import collections
import ctypes
import os
import re
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp, QmpError, Vm, emulated, session_states, write_script  # noqa: E402

# Short where it has to run out; else so long that a busy machine is not taken for a hang.
HANG_MS = 500
TIMEOUT_MS = 20000
PASS = re.compile(rb"^probe: pass (\d+) .*\bchanges=(\d+)\b.*$", re.M)
PR_SET_CHILD_SUBREAPER = 36

# The steps in which the end of the process must not be the end of the guest: from the moment when all
# vCPUs are parked until somebody has committed. Before and after it a process that dies is a VMM that
# dies. "check" is a child.
SURVIVED = {
    "check": None,
    "predecessor": {"quiesce", "save", "hand-off", "let-go", "handover", "exec"},
    "stand-in": {"make"},
    "successor": {"start", "adopt", "build", "map-RAM", "switch", "final-load", "give-up"},
    "way-back": {"start", "adopt", "build", "map-RAM", "switch", "final-load"},
}
DEADLY = ("abort", "segv", "hang", "kill")

# errno: of the call when it fails; 0: it is a place. site: where the call is in the program.
Point = collections.namedtuple("Point", "name errno site")
Result = collections.namedtuple("Result", "end why")   # end: told, cut, done, missed


class Lost(Exception):
    """The guest is gone, or it or its molt is not what it was."""


class OtherOrder(Lost):
    """This machine was so slow just now that molt found it better to stop the guest before the exec, and said so."""


SLOW_HAND_OFF = "updates stop the guest before the exec"


def may_die(point):
    side, stage, call = point.name.split(":")
    # A thread that goes to sleep in the park has nothing left to do for the update: nobody waits for it, so it may get
    # there when its process has committed, and one that hangs is one that sleeps.
    if call.startswith("futex-wait#"):
        return False
    return side in SURVIVED and (SURVIVED[side] is None or stage in SURVIVED[side])


def scenarios(directory, binary, old_order):
    """
    The arguments of the update: one that works, and one for each way back. What chooses the old order is the check, so
    there all of them pass it.
    """
    def script(name, text):
        return write_script(os.path.join(directory, name), text)

    state = os.path.join(directory, "state")
    same = dict(command=[binary, "run", "--incoming", "file:/nonexistent"])
    if old_order:
        molt = 'exec "%s" run "$@"\n' % binary
        undo = dict(command=[script("gone", '#!/bin/sh\nrm "$0"\n' + molt)], state_file=state)
        stand_in = dict(command=[script("mute", '#!/bin/sh\n[ "$MOLT_CHECK" ] || exit 1\n' + molt)])
    else:
        same.update(no_check=True)
        undo = dict(command=[script("nonsense", "no program\n")], no_check=True, state_file=state)
        stand_in = dict(command=["/bin/false"], no_check=True)
    return {
        "update": dict(),
        "state-file": dict(state_file=state),
        "descriptors": dict(command_fd="molt", state_fd="state", files={"molt": (binary, os.O_RDONLY),
                                                                        "state": (state, os.O_RDWR | os.O_CREAT)}),
        "undo": undo,
        "give-back": same,
        "stand-in": stand_in,
    }


def old_order(walker_class):
    """The same with the guest stopped from before the exec on."""
    return type("OldOrder" + walker_class.__name__, (walker_class,), dict(old_order=True))


def become_subreaper():
    """Stand-ins whose parents died become our children: nobody else here would wait for them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Walker:
    hang_ms = HANG_MS
    old_order = False

    def __init__(self, binary):
        self.tmp = tempfile.TemporaryDirectory(prefix="molt-faults-")
        self.dir = self.tmp.name
        self.binary = binary
        self.vm = None
        if self.old_order:
            open(self.path("old-order"), "w").close()
        become_subreaper()

    @property
    def scenarios(self):
        return scenarios(self.dir, self.binary, self.old_order)

    def start(self):
        """Starts self.vm with self.place(), and calls begin() when the guest is up."""
        raise NotImplementedError

    def verify(self):
        """The guest runs and has found nothing changed, or Lost."""
        raise NotImplementedError

    def stop(self, *what):
        if self.vm:
            vm, self.vm = self.vm, None
            vm.__exit__(*(what or (None, None, None)))

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *what):
        self.stop(*what)
        self.tmp.cleanup()

    def place(self):
        """Of a Vm: a directory of its own beneath the one where it may write anyway."""
        return dict(binary=self.binary, env=dict(os.environ, MOLT_FAULTS_DIR=self.dir),
                    directory=tempfile.mkdtemp(dir=self.dir))

    def begin(self):
        self.disarm()  # after a fault at which the guest before this was lost
        self.reconnect()
        self.clean_update()
        self.before = self.vm.lasting_traces()

    def yield_cpu(self):
        """Under emulation a guest that computes all the time has the only CPU when nobody else wants it."""
        for cpu in self.vm.qmp.command("query-cpus-fast") if emulated() else ():  # each new molt leaves it so
            os.setpriority(os.PRIO_PROCESS, cpu["thread-id"], 10)

    def path(self, name):
        return os.path.join(self.dir, name)

    # ---- updates ----

    def clean_update(self):
        report = self.vm.update()
        if report["pid"] != self.vm.pid:
            raise Lost("a clean update of process %d says %d" % (self.vm.pid, report["pid"]))
        if ("hand-off-us" in report) == self.old_order:
            kind = OtherOrder if SLOW_HAND_OFF in self.vm.log() else Lost
            raise kind("a clean update in the other order: %s" % report)
        self.vm.settle(bodies=False)

    def reconnect(self):
        if self.vm._qmp:
            self.vm._qmp.close()
        self.vm._qmp = Qmp(self.vm.control_path, timeout=60)
        return self.vm.qmp

    def ask(self):
        """After a lost connection: how the update went, by another one, and who has the guest."""
        end = time.monotonic() + 60
        while True:
            try:
                query = self.reconnect().command("query-update")
                break
            except (OSError, EOFError):
                states = session_states(self.vm.proc.pid).values()
                if time.monotonic() > end or all(state == "Z" for state in states):
                    raise Lost("nobody answers on the control socket") from None
                time.sleep(0.02)
        alive = [pid for pid, state in self.vm.others().items() if state != "Z"]
        if session_states(self.vm.proc.pid).get(self.vm.pid, "Z") == "Z" and alive:
            self.vm.follow(alive[0])
        return query

    def failed(self, why):
        """The event that goes with the answer."""
        try:
            events = self.vm.qmp.event_names() and self.vm.qmp.events  # all that came before another answer
            event = next((e.get("data") for e in events if e["event"] == "UPDATE_FAILED"), None)
        except (OSError, EOFError):
            event = None
        if not event:  # no memory for it, or the connection was lost behind the answer
            self.ask()
        elif event["error"] != why:
            raise Lost("the answer says %r, the event %r" % (why, event["error"]))
        else:
            self.vm.follow(event["pid"])

    def update(self, scenario, timeout_ms=TIMEOUT_MS):
        """How it ended, and what was said. The guest's new process is followed."""
        arguments = dict(self.scenarios[scenario])
        for name, (path, flags) in arguments.pop("files", {}).items():
            fd = os.open(path, flags, 0o600)
            self.vm.qmp.give_fd(name, fd)
            os.close(fd)
        self.vm.qmp.events.clear()
        try:
            report = self.vm.qmp.command("update", timeout=timeout_ms, **arguments)
            self.vm.settle()  # the copy of a state is made behind the answer
            return "done", "" if "pid" in report else "(no memory for the report)"
        except QmpError as err:
            self.failed(str(err))
            return "told", str(err)
        except (OSError, EOFError):
            query = self.ask()
            if query["status"] == "failed":
                return "cut", query["error"]
            return "done", "(and the connection was lost)"

    def record(self, scenario):
        """All points of an update."""
        open(self.path("record"), "w").close()
        self.update(scenario)
        self.verify()
        os.remove(self.path("record"))
        self.vm.settle(bodies=False)
        with open(self.path("points")) as f:
            lines = f.read().split("\n")[:-1]
        os.remove(self.path("points"))
        return [Point(name, int(errno), site) for name, errno, site in map(str.split, lines)]

    def disarm(self):
        for name in ("arm", "fired", "stand-in", "waiting", "go"):
            if os.path.exists(self.path(name)):
                os.remove(self.path(name))

    def arm(self, point, action):
        self.disarm()
        with open(self.path("arm.new"), "w") as f:
            f.write("%s %s\n" % (point, action))
        os.rename(self.path("arm.new"), self.path("arm"))

    def run(self, scenario, point, action):
        """One fault. Raises Lost if the guest is not what it was, or something is left behind."""
        self.arm(point, action)
        end, why = self.update(scenario, self.hang_ms if action == "hang" else TIMEOUT_MS)
        # Answered, so the event loop runs: what comes behind the update's own answer is done, too.
        if not self.vm.running():
            raise Lost("the guest does not run")
        if not os.path.exists(self.path("fired")):
            os.remove(self.path("arm"))
            self.vm.settle(bodies=False)
            return Result("missed", why)
        if end == "done" and action in DEADLY:
            raise Lost("the process died, and the update was done all the same")
        if end != "done" and not why.strip():
            raise Lost("nobody was told why")
        # A dead stand-in that nothing told us of is buried by the next update.
        self.vm.settle()
        left = self.vm.left_behind(self.before)
        if left:
            raise Lost("left behind: " + left)
        self.yield_cpu()  # where one new thread could not take its priority over it would starve the others
        self.clean_update()
        self.verify()
        return Result(end, why)


class ProbeWalker(Walker):
    """The guest `probe`, which verifies its memory, registers and clocks by itself."""

    # As much RAM as the guest comes round in between two updates, and no more exits than that takes.
    cmdline = "period_ms=15 lost_ms=20000 clock_us=20000 stall_ms=20000 " + (
        "ram_mib=1 timer_us=4000 brief=on" if emulated() else "ram_mib=4")

    def start(self):
        # Two: then their threads share the work of an update. Main may write what is injected to files.
        self.vm = Vm("--memory", "16M", "--cpus", "2", "--sandbox", "write=" + self.dir, kernel="probe",
                     cmdline=self.cmdline, **self.place())
        self.vm.wait_serial("probe: ready", timeout=60)
        self.yield_cpu()
        self.begin()

    def verify(self):
        """One line tells of a pass that may have begun before now; so two."""
        end, text = time.monotonic() + 60, b""
        with open(self.vm.serial_path, "rb") as serial:
            serial.seek(0, os.SEEK_END)
            while len(PASS.findall(text)) < 2:
                if time.monotonic() > end:
                    raise Lost("no pass of the guest's within a minute: %r" % text[-500:])
                time.sleep(0.005)
                text += serial.read()
            serial.seek(0)
            if any(int(changes) for _, changes in PASS.findall(text)):
                raise Lost("the guest found something changed: %r" %
                           re.findall(rb"^probe: CHANGED.*$", serial.read(), re.M)[:10])


class DiskWalker(Walker):
    """The guest `disk`, which has 32 requests in flight on two disks' queues and verifies what it reads."""

    cmdline = "queues=2 depth=32 use_mib=4 requests=%d" % (150 if emulated() else 400)

    def start(self):
        with open(self.path("image"), "wb") as image:
            image.truncate(8 << 20)
        self.vm = Vm("--memory", "16M", "--sandbox", "write=" + self.dir,
                     "--disk", "path=%s,queues=2,slot=1" % self.path("image"), "--rng", "host", kernel="disk",
                     cmdline=self.cmdline, **self.place())
        self.vm.wait_serial("disk: ready", timeout=60)
        self.yield_cpu()
        self.begin()

    def verify(self):
        """Two passes that end from now on: the first may have begun before."""
        end, text = time.monotonic() + 60, b""
        with open(self.vm.serial_path, "rb") as serial:
            serial.seek(0, os.SEEK_END)
            while len(re.findall(rb"^disk: pass \d+ .*\n", text, re.M)) < 2:
                if time.monotonic() > end or b"BAD" in text:
                    raise Lost("the guest's disk: %r" % text[-500:])
                time.sleep(0.005)
                text += serial.read()
