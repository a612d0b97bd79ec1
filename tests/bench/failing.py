# SPDX-License-Identifier: MIT
"""Successors that do not take over, by what is wrong with them, and what their updates cost the guest."""
import collections
import os
import time

from contestants import SETTLE, Molt, Release
from mailbox import Gone
from moltvm import QmpError, ending_program, hanging_program, write_script
from qemu import Qemu

HANGS_MS = 3000     # how long a successor that hangs may do so
DEAD_S = 5          # a guest that does nothing for so long is lost

# The command for a molt; for a QEMU, or None where it has nothing like it; what the error says; arguments of "update".
# Without any of them: as long as the longest takes, and no update.
Kind = collections.namedtuple("Kind", "molt qemu says arguments", defaults=({"no_check": True},))


def program(make, *args):
    """The same for both: a program that is made in the guest's directory."""
    return lambda running: [make(os.path.join(running.place(), "successor"), *args)]


def cannot_load(running):
    return [os.path.join(running.case.tools.others, "molt-no-i8042"), *running.vm.argv[1:]]


def loads_stale(running):
    path = running.vm.path("stale")
    if not os.path.exists(path):
        running.vm.update(state_file=path)
        running.settle()
    return [running.binary(), "run", "--incoming", "file:" + path]


def other_machine(running):
    argv = list(running.argv)
    argv[argv.index("-smp") + 1] = str(running.case.cpus + 1)
    return argv + ["-incoming", "file:" + running.state]


def both(make, says, **arguments):
    return Kind(make, make, says, {"no_check": True, **arguments})


KINDS = {   # as in failed_figures.py
    "refused": Kind(lambda _: ["/bin/true"], None, "check", {}),
    "exec": both(program(write_script, "#!/no/such/interpreter\n"), "No such file"),
    "load": Kind(cannot_load, other_machine, "i8042"),
    "stale": Kind(loads_stale, None, "not written for this update"),
    "wrong": both(lambda _: ["/bin/true"], "ended"),
    "dies": both(program(ending_program), "ended"),
    "dies-50": both(program(ending_program, 50), "ended"),
    "hangs": both(program(hanging_program), "in time", timeout=HANGS_MS),
    "rest": Kind(None, None, None),
}


class FailingMolt(Molt):
    """Many updates fail in one guest, which may go on in another process."""

    one_guest = True

    def place(self):
        return self.vm.dir

    def fail(self, wrong):
        """What the guest saw of one update until it was answered, how long that took, and whether it has moved."""
        if not wrong.molt:
            return {"blackout_us": self.rest(HANGS_MS / 1000), "took_us": HANGS_MS * 1000, "moved": False}
        command = wrong.molt(self)
        self.settle()
        self.mailbox.touch_us()
        time.sleep(SETTLE)
        self.vm.qmp.events.clear()
        self.mailbox.reset()
        began, before = time.monotonic(), self.vm.pid
        try:
            self.vm.update(command=command, **wrong.arguments)
        except QmpError as err:
            why, took = str(err), time.monotonic() - began
        else:
            raise AssertionError("it took over: " + " ".join(command))
        if wrong.says not in why:
            raise AssertionError("not by '%s': %s" % (wrong.says, why))
        self.vm.follow(self.vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
        time.sleep(SETTLE)  # what comes just after the answer counts, too
        return {"blackout_us": self.mailbox.gap_us(), "took_us": took * 1e6, "moved": self.vm.pid != before}


class FailingRelease(FailingMolt, Release):
    pass


class FailingQemu(Qemu):
    """It has no way back once the exec is done; so a guest for each kind."""

    one_guest = False

    def place(self):
        return self.dir

    def fail(self, wrong):
        if not wrong.qemu:
            return None
        command = wrong.qemu(self)
        self.settle()
        self.mailbox.reset()
        began = time.monotonic()
        try:
            self.try_to_become(command)
            last = self.mailbox["last"]
            self.mailbox.wait(lambda: self.mailbox["last"] != last, "sign of life", DEAD_S)
        except (Gone, TimeoutError):
            return {"lost": True, "moved": False}
        return {"blackout_us": self.mailbox.gap_us(), "took_us": (time.monotonic() - began) * 1e6, "moved": False}

    def try_to_become(self, command):
        """Until it has said that it cannot, or is another program."""
        qmp = self.prepare(command)
        try:
            qmp.command("migrate", uri="file:" + self.state)
            while qmp.command("query-migrate").get("status") != "failed":
                time.sleep(0.002)
        except (EOFError, OSError):
            pass
        qmp.close()


CONTESTANTS = {"molt": FailingMolt, "release": FailingRelease, "qemu": FailingQemu}


def turn(contestant, case, kinds, updates, found):
    """Some updates of each kind, added to found: {kind: samples}."""
    if contestant.one_guest:
        with contestant(case) as running:
            for _ in range(updates):
                for name in kinds:
                    found.setdefault(name, []).append(running.fail(KINDS[name]))
        return
    for name in kinds:
        if not KINDS[name].qemu or any("lost" in sample for sample in found.get(name, [])):
            continue
        with contestant(case) as running:
            found.setdefault(name, []).append(running.fail(KINDS[name]))
