# SPDX-License-Identifier: MIT
"""What the bench compares: each runs the bench guest, and replaces its own binary beneath it when asked to."""
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import host
from mailbox import Mailbox
from moltvm import Vm, beneath_a_release, session_lives

SETTLE = 0.02   # seconds of rest before and after an update


class Contestant:
    """
    One running guest. A subclass starts it, finds its mailbox (attach), replaces its VMM (replace) and
    knows when all that an update leaves behind is gone (settle).
    """

    def __init__(self, case):
        self.case = case
        self.mailbox = None
        try:
            self.start()
            host.favour(self.pid())
            self.attach()
            self.mailbox.touch_us()
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.mailbox:
            self.mailbox.close()
        self.stop()

    def update(self):
        """
        One update of a guest with all RAM in its page tables; what was measured. The blackout is the largest gap that
        the guest has seen from before the update was asked for until it had been answered. What it sees in as long a
        time without an update is the machine's own noise, below which no update can be.
        """
        self.settle()
        sample = {"touch_before_us": self.mailbox.touch_us()}
        time.sleep(SETTLE)
        self.mailbox.reset()
        began = time.monotonic()
        sample.update(self.replace())
        sample["blackout_us"] = self.mailbox.gap_us()
        took = time.monotonic() - began
        sample["took_us"] = took * 1e6
        sample["touch_after_us"] = self.mailbox.touch_us()
        sample["rest_us"] = self.rest(took)
        return sample

    def rest(self, seconds):
        self.settle()
        self.mailbox.touch_us()
        time.sleep(SETTLE)
        self.mailbox.reset()
        time.sleep(seconds)
        return self.mailbox.gap_us()


class Floor(Contestant):
    """The old order: pause, exec, build."""

    name = "floor"
    order = "pause"
    proc = None

    def start(self):
        tools, case = self.case.tools, self.case
        self.proc = subprocess.Popen([tools.floor, tools.guest, str(case.mib), str(case.cpus), case.pages,
                                      self.order], start_new_session=True)

    def pid(self):
        return self.proc.pid

    def attach(self):
        self.mailbox = Mailbox(self.proc.pid, "floor-ram", lambda: self.proc.poll() is None)

    def settle(self):
        # The last child goes, with the old address space; in the old order the next one is made.
        self.proc.send_signal(signal.SIGUSR1)
        time.sleep(SETTLE)

    def replace(self):
        before = self.mailbox["entries"]
        self.proc.send_signal(signal.SIGUSR2)
        time.sleep(0.005)
        self.mailbox.wait(lambda: self.mailbox["entries"] != before, "the guest's next entry")
        return {}

    def stop(self):
        if not self.proc:
            return
        # Its child, too, which holds the address space; that takes a while to be gone.
        os.killpg(self.proc.pid, signal.SIGKILL)
        self.proc.wait()
        end = time.monotonic() + 60
        while session_lives(self.proc.pid) and time.monotonic() < end:
            time.sleep(0.005)


class Standin(Floor):
    """The new order: a stand-in runs the guest from before the exec until its successor is built."""

    name = "standin"
    order = "stand-in"

    def replace(self):
        m = self.mailbox
        before = m["updates"]
        self.proc.send_signal(signal.SIGUSR2)
        m.wait(lambda: m["updates"] != before, "the guest in the next image")
        m.gap_us()
        windows = [(m["handoff_begin"], m["handoff_end"]), (m["switch_begin"], m["switch_end"])]
        (handoff, switch), (guest_handoff, guest_switch) = zip(
            *((m.us(end - begin), m.gap_within_us(begin, end)) for begin, end in windows))
        return {"handoff_us": handoff, "host_blackout_us": switch,
                "guest_handoff_us": guest_handoff, "guest_switch_us": guest_switch}


class StandinFull(Standin):
    """The same, with all of a vCPU's state moved by ioctl."""

    name = "standin-full"
    order = "full"


class Molt(Contestant):
    name = "molt"
    vm = None

    def start(self):
        case = self.case
        self.vm = Vm("--memory", "size=%dM,hugepages=2M" % case.mib if case.pages == "2M" else "%dM" % case.mib,
                     "--cpus", str(case.cpus), "--log-level", "warn", kernel=case.tools.guest,
                     binary=self.binary(), cmdline="cpus=%d" % case.cpus, env=self.env())

    def binary(self):
        return self.case.tools.molt

    def env(self):
        return None

    def pid(self):
        return self.vm.pid

    def attach(self):
        self.mailbox = Mailbox(self.vm.pid, "molt-ram", self.alive)

    def alive(self):
        return self.vm.proc.poll() is None or session_lives(self.vm.proc.pid)

    def settle(self):
        self.vm.settle()
        time.sleep(SETTLE)

    def replace(self):
        report = self.vm.update()
        sample = {"host_blackout_us": report["blackout-us"],
                  "stages": {stage["name"]: stage["us"] for stage in report["stages"]}}
        if "hand-off-us" in report:
            sample["handoff_us"] = report["hand-off-us"]
        return sample

    def stop(self):
        if self.vm:
            self.vm.__exit__(None, None, None)


class Release(Molt):
    """An older molt."""

    name = "release"

    def binary(self):
        return self.case.tools.release

    def env(self):
        return beneath_a_release()
