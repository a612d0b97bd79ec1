# SPDX-License-Identifier: MIT
"""What the bench compares: each runs the bench guest, and replaces its own binary beneath it when asked to."""
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from mailbox import Mailbox
from moltvm import Vm, session_lives

SETTLE = 0.02   # seconds of rest before and after an update


class Contestant:
    """
    One running guest. A subclass starts it (self.mailbox), replaces its VMM (replace) and knows when
    all that an update leaves behind is gone (settle).
    """

    def __init__(self, case):
        self.case = case
        self.mailbox = None
        try:
            self.start()
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
        """One update of a guest with all RAM in its page tables; what was measured."""
        self.settle()
        sample = {"touch_before_us": self.mailbox.touch_us()}
        time.sleep(SETTLE)
        self.mailbox.reset()
        sample.update(self.replace())
        sample["blackout_us"] = self.mailbox.gap_us()
        sample["touch_after_us"] = self.mailbox.touch_us()
        return sample


class Floor(Contestant):
    name = "floor"
    proc = None

    def start(self):
        tools, case = self.case.tools, self.case
        self.proc = subprocess.Popen([tools.floor, tools.guest, str(case.mib), str(case.cpus), case.pages],
                                     start_new_session=True)
        self.mailbox = Mailbox(self.proc.pid, "floor-ram", lambda: self.proc.poll() is None)

    def settle(self):
        # The last child goes, with the old address space, and the next one is made.
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


def children(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return [int(word) for word in f.read().split()]
    except FileNotFoundError:
        return []


class Molt(Contestant):
    name = "molt"
    vm = None

    def start(self):
        case = self.case
        self.vm = Vm("--memory", "size=%dM,hugepages=2M" % case.mib if case.pages == "2M" else "%dM" % case.mib,
                     "--cpus", str(case.cpus), "--log-level", "warn", kernel=case.tools.guest,
                     binary=case.tools.molt, cmdline="cpus=%d" % case.cpus)
        self.mailbox = Mailbox(self.vm.pid, "molt-ram", lambda: self.vm.proc.poll() is None)

    def settle(self):
        # The stand-in takes the old VM apart at the lowest priority: minutes where CPUs are scarce.
        for pid in children(self.vm.pid):
            try:
                os.setpriority(os.PRIO_PROCESS, pid, 0)
            except OSError:
                pass    # it has just ended, or only root may
        self.vm.settle()
        time.sleep(SETTLE)

    def replace(self):
        report = self.vm.update()
        stages = {stage["name"]: stage["us"] for stage in report["stages"]}
        return {"host_blackout_us": report["blackout-us"], "stages": stages}

    def stop(self):
        if self.vm:
            self.vm.__exit__(None, None, None)
