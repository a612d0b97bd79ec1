#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What happens in the middle of an update, at each step of it, is what whoever did it would expect.

An update is held at a step (action `wait` of faults.c), something happens (host_events.py, guest_events.py), and it
goes on: it works, or a call fails in that step, or the process dies there. In the new order and in the old one.

    MOLT_FAULTS=all    everything at every step; also by MOLT_TIER=all. Else that is so where the guest does it and the
                       update works; of all else each event and each step at least once
    MOLT_FAULTS_PART   "K/N": the Kth of N parts, for N machines that are given the same seed
    MOLT_FAULTS_SEED   which; printed by each run
    MOLT_FAULTS_ONLY   a regular expression for "STEP EVENT"
"""
import collections
import os
import random
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import guest_events as guest  # noqa: E402
import host_events as host  # noqa: E402
from jobs import PART, PARTS, Jobs, case_seconds  # noqa: E402
from steps import EARLY, GIVES_BACK, HELD, NEW_ORDER, TAKES_BACK, UNDO, Job, Slow, Standing  # noqa: E402
from walk import SURVIVED, OtherOrder, ProbeWalker, old_order  # noqa: E402
from moltvm import full, need_kvm, run_cases  # noqa: E402

BINARY = os.environ["MOLT_FAULTS_BINARY"]
ALL = os.environ.get("MOLT_FAULTS") == "all" or full()
SEED = os.environ.get("MOLT_FAULTS_SEED") or str(random.randrange(10 ** 6))
ONLY = re.compile(os.environ.get("MOLT_FAULTS_ONLY", ""))
TRIES = 4
RECORDINGS = 4

HOST_EVENTS = host.COMMANDS + host.HANG_UPS + host.SIGNALS
GUEST_EVENTS = guest.THAT_END_IT + guest.THAT_DO_NOT
OLD = [step for step in EARLY + HELD if step not in NEW_ORDER]


class Happens(Jobs):
    def __init__(self, jobs, walker_class):
        super().__init__(jobs, walker_class, BINARY)
        self.missed = 0

    def name(self, job):
        return "%s %s, %s (%s)" % (job.point, job.event.__name__, job.how, job.scenario)

    def one(self, walker, job):
        for left in reversed(range(TRIES)):
            try:
                if not walker.vm:
                    walker.start()
                with Standing(walker, job) as update:
                    missed = update.missed
                    if missed:
                        walker.stop()
                    else:
                        job.event(update)
                if not missed:
                    return
                print("# missed: %s: %s" % (self.name(job), str(missed)[:300]))
                self.missed += not left
            except (Slow, OtherOrder) as why:
                print("# again: %s: %s" % (self.name(job), why))
                walker.stop()
                if not left:
                    raise


def sample(jobs):
    """So many that each step and each event is among them."""
    chosen, seen = [], set()
    random.Random(SEED).shuffle(jobs)
    for job in jobs:
        if not {job.point, job.event} <= seen:
            chosen.append(job)
            seen |= {job.point, job.event}
    return chosen


def walk(events, steps, walker_class=ProbeWalker, how="works", scenario="update", everything=ALL):
    jobs = [Job(scenario, step, how, event) for step in steps for event in events
            if ONLY.search("%s %s" % (step, event.__name__))]
    if not everything and not ONLY.pattern:
        jobs = sample(jobs)
    happens = Happens(jobs, walker_class)
    happens.run()
    mine = happens.mine
    print("# %d times: %d steps, %d events" % (len(mine), len({job.point for job in mine}), len(events)))
    assert happens.missed <= len(mine) // 20, "%d times the step was not reached" % happens.missed


def survived(steps):
    """Those at which the end of the process is not the end of the guest."""
    return [step for step in steps if step.split(":")[1] in (SURVIVED[step.split(":")[0]] or ())]


def test_commands():
    walk(host.COMMANDS, EARLY + HELD)


def test_clients_that_hang_up():
    walk(host.HANG_UPS, EARLY + HELD)


def test_signals():
    walk(host.SIGNALS, EARLY + HELD)


def test_guest_ends():
    walk(guest.THAT_END_IT, EARLY + HELD, guest.EventWalker, everything=True)


def test_guest_goes_on():
    walk(guest.THAT_DO_NOT, EARLY + HELD, guest.EventWalker, everything=True)


def test_guest_ends_by_a_reset():
    walk([guest.reset_that_ends], EARLY + HELD, guest.NoRebootWalker)


def failing_calls(walker_class):
    """
    A call in each step before the commit, the first of its kind there, of those that each update makes: whether a timer
    is set a second time, or which CPUs are spare, is a matter of chance.
    """
    calls = collections.defaultdict(list)
    with walker_class(BINARY) as walker:
        points, *others = [walker.record("update") for _ in range(RECORDINGS)]
        always = set.intersection(*({point.name for point in other} for other in others))
        for point in points:
            if point.name not in always or not point.name.endswith("#1"):
                continue
            step = ":".join(point.name.split(":")[:2])
            if point.errno and step in HELD[:HELD.index("successor:resume")]:
                calls[step].append(point.name)
    print("# calls in %d steps: %s" % (len(calls), " ".join(calls)))
    return [random.Random(SEED).choice(sorted(names)) for names in calls.values()]


def test_call_fails():
    """In the step, after something happened there: an undo, a way back, or the stand-in has the guest."""
    walk(host.COMMANDS + host.SIGNALS, failing_calls(ProbeWalker), how="fails")


def test_stand_in_is_late_when_its_state_is_refused():
    """Until it has the guest running again nobody may take it over with the state of the hand-off."""
    calls = [name for name in failing_calls(ProbeWalker) if name.startswith("successor:final-load:")]
    walk([host.stand_in_is_late], calls, how="fails", everything=True)
    assert calls or ONLY.pattern


def test_call_fails_guest_ends():
    walk(guest.THAT_END_IT, failing_calls(guest.EventWalker), guest.EventWalker, "fails")


def test_call_fails_guest_goes_on():
    walk(guest.THAT_DO_NOT, failing_calls(guest.EventWalker), guest.EventWalker, "fails")


def test_process_dies():
    """At the step, after something happened there: the stand-in has the guest, and does what there is to do."""
    walk(host.COMMANDS + host.HANG_UPS, survived(HELD), how="dies")


def test_process_dies_guest_ends():
    walk(guest.THAT_END_IT, survived(HELD), guest.EventWalker, "dies")


def test_process_dies_guest_goes_on():
    walk(guest.THAT_DO_NOT, survived(HELD), guest.EventWalker, "dies")


def test_ways_back():
    """While the guest is on its way back: to the same process, or to stay with the stand-in."""
    for scenario, steps, how in ("give-back", GIVES_BACK, "is given back"), ("undo", UNDO, "is given back"), (
            "stand-in", TAKES_BACK, "is taken back"):
        walk(host.COMMANDS + host.HANG_UPS, steps, how=how, scenario=scenario)
        walk(GUEST_EVENTS, steps, guest.EventWalker, how, scenario)


def test_guest_is_not_waited_for():
    walk(guest.THAT_END_IT + guest.THAT_DO_NOT, HELD, guest.RacingWalker)


def test_host_in_the_old_order():
    walk(HOST_EVENTS, OLD, old_order(ProbeWalker))


def test_guest_in_the_old_order():
    walk(GUEST_EVENTS, OLD, old_order(guest.EventWalker))
    walk([guest.reset_that_ends], OLD, old_order(guest.NoRebootWalker))


def test_call_fails_in_the_old_order():
    calls = failing_calls(old_order(ProbeWalker))
    walk(host.COMMANDS + host.SIGNALS, calls, old_order(ProbeWalker), "fails")
    walk(GUEST_EVENTS, failing_calls(old_order(guest.EventWalker)), old_order(guest.EventWalker), "fails")


def test_process_dies_in_the_old_order():
    walk(host.COMMANDS + host.HANG_UPS, survived(OLD), old_order(ProbeWalker), "dies")
    walk(GUEST_EVENTS, survived(OLD), old_order(guest.EventWalker), "dies")


for case in [value for name, value in list(globals().items()) if name.startswith("test_")]:
    case.timeout = case_seconds(ALL)

if __name__ == "__main__":
    need_kvm()
    print("# MOLT_FAULTS_SEED=%s MOLT_FAULTS_PART=%d/%d" % (SEED, PART, PARTS))
    run_cases(globals())
