# SPDX-License-Identifier: MIT
"""What a guest does in the middle of an update: power-off, reset, triple fault, the report of a panic.

The guest `event` does it when a test writes a word to its RAM. Each function here has it done while an update stands at
a step (steps.Standing), lets that go, and looks what became of it. Where no vCPU runs the guest finds the word when it
runs on.
"""
import os
import random
import re
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
from mailbox import Mailbox  # noqa: E402
from walk import Lost, Walker  # noqa: E402
from moltvm import Vm  # noqa: E402

POWER_OFF, RESET_I8042, RESET_CF9, TRIPLE_FAULT, PANIC = range(1, 6)  # firmware/event.h
RESETS = [RESET_I8042, RESET_CF9]
SETTLE_S = 0.01  # from "seen" to the exit, by far
CPUS = 2


class EventMailbox(Mailbox):
    MAGIC = struct.pack("<Q", 0x544E4556452D4D4F)
    FIELDS = "magic ready ask seen done mark passes passes1 changes".split()


class EventWalker(Walker):
    """The guest `event`, which verifies what it keeps in RAM."""

    arguments = ()
    races = False  # the update goes on at once, and not when the guest has done it
    mailbox = None

    def start(self):
        self.vm = Vm("--memory", "16M", "--cpus", str(CPUS), "--sandbox", "write=" + self.dir, *self.arguments,
                     kernel="event", cmdline="cpus=%d" % CPUS, **self.place())
        self.vm.wait_serial("event: ready", timeout=60)
        self.begin()
        self.mailbox = EventMailbox(self.vm.pid, "molt-ram", lambda: True)

    def stop(self, *what):
        super().stop(*what)
        if self.mailbox:
            self.mailbox.close()
        self.mailbox = None

    def passes(self):
        return [self.mailbox["passes"], self.mailbox["passes1"]]

    def verify(self):
        for _ in range(2):
            before, end = self.passes(), time.monotonic() + 60
            while not all(now > was for now, was in zip(self.passes(), before)):
                if time.monotonic() > end:
                    raise Lost("the guest's CPUs stand at passes %s" % before)
                time.sleep(0.002)
        if self.mailbox["changes"]:
            raise Lost("the guest found something changed")


class NoRebootWalker(EventWalker):
    arguments = ("--no-reboot",)


class RacingWalker(EventWalker):
    races = True


def does(update, event):
    box = update.walker.mailbox
    box["mark"], box["seen"] = 1, 0
    box["ask"] = event
    if not update.parked and not update.walker.races:
        box.wait(lambda: box["seen"] == event or not box["mark"], "sign that the guest has seen the word")
        time.sleep(SETTLE_S)
    update.let_go()


def power_off(update):
    does(update, POWER_OFF)
    if not update.early:
        update.finish()
    update.check_end(0, update.over, guest=True, reason="guest-shutdown")


def triple_fault(update):
    does(update, TRIPLE_FAULT)
    if not update.early:
        update.finish()
    update.check_end(3, update.over + ["GUEST_PANICKED"], guest=True, reason="guest-panic")
    if not re.search(r"vCPU \d+: rax=", update.vm.log()):
        raise Lost("the log does not have the registers: %s" % update.vm.log()[-1000:])


def in_order(update, name):
    """The data of an event that comes after the update's, or before it where somebody serves the guest meanwhile."""
    return update.check_events(*([name] + update.over if update.early else update.over + [name]))[name]


def reset(update):
    does(update, random.choice(RESETS))
    update.finish()
    if in_order(update, "RESET") != {"guest": True, "reason": "guest-reset"}:
        raise Lost("another reset than the guest's")
    box = update.walker.mailbox
    box.wait(lambda: box["ready"] and not box["mark"], "guest that has booted again")
    update.check_runs_on()


def reset_that_ends(update):
    """With --no-reboot."""
    does(update, random.choice(RESETS))
    if not update.early:
        update.finish()
    update.check_end(0, update.over, guest=True, reason="guest-reset")


def panic(update):
    done = update.walker.mailbox["done"]
    does(update, PANIC)
    update.finish()
    if in_order(update, "GUEST_PANICKED") != {"action": "run"}:
        raise Lost("more than the report of a panic")
    if update.walker.mailbox["done"] != done + 1:
        raise Lost("the guest does not go on after its report")
    update.check_runs_on()


THAT_END_IT = [power_off, triple_fault]
THAT_DO_NOT = [reset, panic]
