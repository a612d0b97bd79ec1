#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What happens in the middle of an update, at every step of it, is what its sender would expect.

An update is held at a step (action `wait` of faults.c), something happens, and it goes on. Commands, hang-ups and signals.

    MOLT_FAULTS=all    every event at every step; also by MOLT_TIER=all. Else each event and each step at least once
    MOLT_FAULTS_SEED   which; printed by each run
    MOLT_FAULTS_ONLY   a regular expression for "STEP EVENT"
"""
import os
import random
import re
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from jobs import Jobs  # noqa: E402
from steps import EARLY, HELD, Slow, Standing  # noqa: E402
from walk import Lost, ProbeWalker  # noqa: E402
from moltvm import full, need_kvm, run_cases  # noqa: E402

BINARY = os.environ["MOLT_FAULTS_BINARY"]
ALL = os.environ.get("MOLT_FAULTS") == "all" or full()
SEED = os.environ.get("MOLT_FAULTS_SEED") or str(random.randrange(10 ** 6))
ONLY = re.compile(os.environ.get("MOLT_FAULTS_ONLY", ""))
TRIES = 4

# ---- what happens: each gets an update that stands at a step, and lets it go ----


def quit(update):
    update.other.send("quit")
    update.let_go()
    if not update.early:
        update.answer()
    update.other.result()
    update.check_end(0, *([] if update.early else ["UPDATE_COMPLETED"]), guest=False, reason="host-qmp-quit")


def stop_and_cont(update):
    update.other.send("stop")
    update.let_go()
    report = update.answer()
    update.other.result()
    if update.other.command("query-status")["status"] != "paused":
        raise Lost("the guest was stopped, and runs")
    if ("blackout-us" in report) == update.early:
        raise Lost("stopped before the update or after it: %s" % report)
    update.other.command("cont")
    events = ["STOP", "UPDATE_COMPLETED"] if update.early else ["UPDATE_COMPLETED", "STOP"]
    update.check_events(*events, "RESUME")
    update.check_runs_on()


def second_update(update):
    """Refused where somebody reads it meanwhile, and made where that is only read when the first one is over."""
    update.other.send("update")
    update.let_go()
    first = update.answer()["updates"]
    second = update.other.answer()
    if update.early and "busy" not in second.get("error", {}).get("desc", ""):
        raise Lost("not busy: %s" % second)
    if not update.early and second.get("return", {}).get("updates") != first + 1:
        raise Lost("the second one was not made: %s" % second)
    update.check_events("UPDATE_COMPLETED", *([] if update.early else ["UPDATE_COMPLETED"]))
    update.check_runs_on()


def asker_hangs_up(update):
    update.asker.close()
    update.let_go()
    update.watcher.wait_event("UPDATE_COMPLETED")
    if update.other.command("query-update")["status"] != "completed":
        raise Lost("the update was not made")
    update.check_events()
    update.check_runs_on()


def other_hangs_up(update):
    update.other.close()
    update.let_go()
    update.answer()
    update.check_events("UPDATE_COMPLETED")
    update.check_runs_on()


def ended_by(update, sig):
    os.kill(update.vm.pid, sig)
    update.let_go()
    if not update.early:
        update.answer()
    update.check_end(128 + sig, *([] if update.early else ["UPDATE_COMPLETED"]), guest=False, reason="host-signal")


def sigterm(update):
    ended_by(update, signal.SIGTERM)


def sigint(update):
    ended_by(update, signal.SIGINT)


def sigterm_to_the_stand_in(update):
    """It is nobody's whom a user knows of, and does not end the guest."""
    pid = update.stand_in()
    if pid:
        os.kill(pid, signal.SIGTERM)
    update.let_go()
    update.answer()
    update.check_events("UPDATE_COMPLETED")
    update.check_runs_on()


COMMANDS = [quit, stop_and_cont, second_update]
HANG_UPS = [asker_hangs_up, other_hangs_up]
SIGNALS = [sigterm, sigint, sigterm_to_the_stand_in]


class Happens(Jobs):
    """Jobs (scenario, step, event)."""

    def name(self, job):
        return "%s %s (%s)" % (job[1], job[2].__name__, job[0])

    def one(self, walker, job):
        scenario, step, event = job
        for left in reversed(range(TRIES)):
            try:
                if not walker.vm:
                    walker.start()
                with Standing(walker, scenario, step) as update:
                    event(update)
                return
            except Slow as why:
                print("# again: %s: %s" % (self.name(job), why))
                walker.stop()
                if not left:
                    raise


def sample(jobs):
    """All of them, or so many that each step and each event is among them."""
    jobs = [job for job in jobs if ONLY.search("%s %s" % (job[1], job[2].__name__))]
    if ALL or ONLY.pattern:
        return jobs
    chosen, steps, events = [], set(), set()
    random.Random(SEED).shuffle(jobs)
    for job in jobs:
        if job[1] not in steps or job[2] not in events:
            chosen.append(job)
            steps.add(job[1])
            events.add(job[2])
    return chosen


def walk(events, scenario="update", steps=tuple(EARLY + HELD), walker_class=ProbeWalker):
    jobs = sample([(scenario, step, event) for step in steps for event in events])
    print("# %d times: %d steps, %d events" % (len(jobs), len(steps), len(events)))
    Happens(jobs, walker_class, BINARY).run()


def test_commands():
    walk(COMMANDS)


def test_clients_that_hang_up():
    walk(HANG_UPS)


def test_signals():
    walk(SIGNALS)


for case in [value for name, value in list(globals().items()) if name.startswith("test_")]:
    case.timeout = 7200 if ALL else 600

if __name__ == "__main__":
    need_kvm()
    print("# MOLT_FAULTS_SEED=%s" % SEED)
    run_cases(globals())
