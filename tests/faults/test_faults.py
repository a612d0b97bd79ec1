#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Failure points of the update path, one at a time: the guest runs on, verified, and the client is told why.

One fault for each call in the program: what a loop does, or code that both sides of an update share, has many points
but is one call, of which one point is taken. Of the deaths and the resources that run out for good, a sample.

    MOLT_FAULTS=all    every action at every point (some 16,000 runs: hours); also by MOLT_TIER=all, as "scripts/test.sh
                       --all" sets it, but then of the deaths and lasting shortages a larger sample
    MOLT_FAULTS_PART   "K/N": of all that, the Kth of N parts, for N machines that are given the same seed
    MOLT_FAULTS_SEED   which points; printed by each run
    MOLT_FAULTS_ONLY   a regular expression for the points' names
"""
import collections
import errno
import os
import random
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from jobs import PART, PARTS, Jobs, case_seconds  # noqa: E402
from walk import DEADLY, DiskWalker, OtherOrder, ProbeWalker, may_die, old_order  # noqa: E402
from moltvm import full, need_kvm, run_cases  # noqa: E402

BINARY = os.environ["MOLT_FAULTS_BINARY"]
EACH = os.environ.get("MOLT_FAULTS") == "all"
ALL = EACH or full()
SEED = os.environ.get("MOLT_FAULTS_SEED") or str(random.randrange(10 ** 6))
ONLY = re.compile(os.environ.get("MOLT_FAULTS_ONLY", ""))
TRIES = 4  # a point that hangs on the guest's timing (has it just printed?) is not reached each time
SAMPLE_DEADLY, SAMPLE_EXHAUST = (120, 40) if ALL else (16, 8)
SAMPLE_OLD, SAMPLE_OLD_DEADLY, SAMPLE_OLD_EXHAUST = (300, 60, 20) if ALL else (20, 2, 3)
SAMPLE_DISK, SAMPLE_DISK_DEADLY = (200, 60) if ALL else (16, 6)
RESOURCES = {errno.ENOMEM, errno.EMFILE, errno.ENOSPC, errno.EAGAIN}
SCENARIOS = ("update", "give-back", "stand-in", "undo", "state-file", "descriptors")

# A call that is made again until it was quick, and it is not while points are recorded: later ones are not reached.
AS_OFTEN_AS_IT_TAKES = re.compile(r":KVM_[GS]ET_CLOCK#([5-9]|\d\d+)$")

# Points at which a call is not made to fail, and why. The process may still die there.
NO_ERROR = {
    r"predecessor:undo:fcntl64#|stand-in:revive:fcntl64#":
        "close-on-exec of an open descriptor: it takes back what worked a moment before, and nothing is left to try",
}


class Recording:
    """The points of all scenarios, each under the first one that comes by it."""

    def __init__(self, walker_class=ProbeWalker):
        self.points = {}
        with walker_class(BINARY) as walker:
            for scenario in SCENARIOS:
                for point in walker.record(scenario):
                    if ONLY.search(point.name) and not AS_OFTEN_AS_IT_TAKES.search(point.name):
                        self.points.setdefault(point, scenario)

    def jobs(self, wanted, action):
        return [(scenario, point.name, action) for point, scenario in self.points.items() if wanted(point)]


OldOrderWalker = old_order(ProbeWalker)
recordings = {}


def recorded(walker_class=ProbeWalker):
    if walker_class not in recordings:
        recordings[walker_class] = Recording(walker_class)
    return recordings[walker_class]


def fails(point):
    return point.errno and not any(re.match(pattern, point.name) for pattern in NO_ERROR)


def sample(jobs, number, name):
    return jobs if EACH or len(jobs) <= number else random.Random(SEED + name).sample(jobs, number)


def one_of_each_call(walker_class):
    """Points, one for each call: the same function, or request, from the same place in the program."""
    calls = collections.defaultdict(list)
    for point in recorded(walker_class).points:
        if fails(point):
            calls[point.name.split(":")[2].split("#")[0], point.site].append(point)
    chosen = random.Random(SEED + "calls")
    return {chosen.choice(sorted(points)) for points in calls.values()}


class Walk(Jobs):
    """Runs jobs (scenario, point, action) and counts how they ended."""

    def __init__(self, jobs, walker_class=ProbeWalker):
        super().__init__(jobs, walker_class, BINARY)
        self.runs = len(self.mine)
        self.points = len({job[1] for job in self.mine})
        self.ends = collections.Counter()
        self.notes = []

    def name(self, job):
        return "%s %s (%s)" % (job[1], job[2], job[0])

    def one(self, walker, job):
        for left in reversed(range(TRIES)):
            try:
                if not walker.vm:
                    walker.start()
                result = walker.run(*job)
            except OtherOrder:
                walker.stop()
                if not left:
                    raise
                continue
            if result.end != "missed":
                break
        with self.lock:
            self.ends[result.end] += 1
            if result.end != "told":
                self.notes.append("%s: %s %s" % (result.end, job[1], result.why))

    def tell(self):
        print("# %d points, %d runs: %d told why, %d not needed for the update, %d told by another connection, "
              "%d not reached, %d lost" % (self.points, self.runs, self.ends["told"], self.ends["done"],
                                           self.ends["cut"], self.ends["missed"], len(self.lost)))
        for note in sorted(self.notes):
            print("#   " + note.replace("\n", " ")[:200])
        super().tell()
        assert self.ends["missed"] <= 2 + self.runs // 50, "too many points were not reached"
        assert self.runs or PARTS > 1, "no points"


ALLOCATING = re.compile(r"predecessor:(quiesce|save|hand-off|let-go|handover|exec):"
                        r"(malloc|calloc|realloc|strn?dup|setenv)#")


def test_points_are_on_both_sides():
    found = collections.Counter(":".join(point.name.split(":")[:2]) for point in recorded().points)
    print("# %d points: %s" % (sum(found.values()), ", ".join("%s %d" % item for item in sorted(found.items()))))
    if ONLY.pattern:
        return
    for stage in """predecessor:prepare predecessor:check check:start predecessor:answer predecessor:rest
            predecessor:stand-in predecessor:read-vcpus predecessor:pause predecessor:quiesce predecessor:save
            predecessor:hand-off
            predecessor:let-go predecessor:handover predecessor:exec
            predecessor:undo predecessor:dismiss predecessor:tell successor:start successor:adopt successor:build
            successor:map-RAM successor:switch successor:final-load successor:resume successor:tell successor:release
            successor:reap successor:end successor:give-up way-back:start way-back:adopt way-back:build way-back:map-RAM
            way-back:tell stand-in:make stand-in:final-save stand-in:revive stand-in:tell""".split():
        assert found[stage], "no point in %s" % stage


def test_nothing_allocates_between_pause_and_exec():
    """Or malloc's lock could die with the predecessor, and the stand-in with it."""
    assert not [point.name for point in recorded().points if ALLOCATING.match(point.name)]


def each_call_fails(walker_class=ProbeWalker, number=None):
    chosen = None if ALL else one_of_each_call(walker_class)
    jobs = recorded(walker_class).jobs(lambda point: fails(point) and (ALL or point in chosen), "error")
    Walk(sample(jobs, number, "error") if number else jobs, walker_class).run()


def each_step_dies(walker_class=ProbeWalker, number=SAMPLE_DEADLY):
    """At the start of each stage, and at a sample of the calls."""
    jobs = {action: recorded(walker_class).jobs(may_die, action) for action in DEADLY}
    starts = [[job for job in some if job[1].endswith(":begin#1")] for some in jobs.values()]
    chosen = random.Random(SEED + "starts")
    every = [job for some in jobs.values() for job in some]
    some = sample(every, number, "deadly")
    Walk(some + [job for job in map(chosen.choice, zip(*starts)) if job not in some], walker_class).run()


def each_resource_runs_out_for_good(walker_class=ProbeWalker, number=SAMPLE_EXHAUST):
    jobs = recorded(walker_class).jobs(lambda point: fails(point) and point.errno in RESOURCES, "exhaust")
    Walk(sample(jobs, number, "exhaust"), walker_class).run()


def test_each_call_fails():
    each_call_fails()


def test_each_call_fails_in_the_old_order():
    each_call_fails(OldOrderWalker, SAMPLE_OLD)


def test_each_step_dies():
    each_step_dies()


def test_each_step_dies_in_the_old_order():
    each_step_dies(OldOrderWalker, SAMPLE_OLD_DEADLY)


def test_each_resource_runs_out_for_good():
    each_resource_runs_out_for_good()


def test_each_resource_runs_out_for_good_in_the_old_order():
    each_resource_runs_out_for_good(OldOrderWalker, SAMPLE_OLD_EXHAUST)


def test_stand_in_dies():
    """Who has not handed the guest over to it does not miss it."""
    stages = re.compile(r"predecessor:(pause|quiesce|save):begin#1$")
    walk = Walk([job for job in recorded().jobs(lambda point: stages.match(point.name), "orphan")])
    walk.run()
    assert walk.ends["told"] == walk.runs, walk.ends


def test_stand_in_dies_in_the_old_order():
    """There it has the guest only if the successor fails."""
    stages = re.compile(r"(predecessor:(pause|quiesce|save|handover|exec)|successor:(start|adopt|build)):begin#1$")
    Walk([job for job in recorded(OldOrderWalker).jobs(lambda point: stages.match(point.name), "orphan")],
         OldOrderWalker).run()


def test_with_a_busy_disk():
    """The calls that only a guest with devices of back-ends has, and deaths, with requests in flight."""
    disk = Recording(DiskWalker)
    known = {(point.name.split(":")[2].split("#")[0], point.site) for point in recorded().points}
    news = {point for point in disk.points
            if fails(point) and (point.name.split(":")[2].split("#")[0], point.site) not in known}
    jobs = disk.jobs(lambda point: point in news, "error")
    deaths = [job for action in DEADLY for job in disk.jobs(may_die, action)]
    Walk(sample(jobs, SAMPLE_DISK, "disk") + sample(deaths, SAMPLE_DISK_DEADLY, "disk deaths"), DiskWalker).run()
    assert not [point.name for point in disk.points if ALLOCATING.match(point.name)]


def test_known_calls_are_points():
    """The functions are found by a rule (wraps.py): what it must not lose."""
    found = {point.name.split(":")[2].split("#")[0] for point in recorded().points}
    lost = set("""malloc mmap64 memfd_create open64 read write sigaction pthread_create epoll_ctl
               KVM_CREATE_VM KVM_GET_REGS KVM_SET_LAPIC fstat64 timerfd_create waitid""".split()) - found
    assert ONLY.pattern or not lost, lost


for case in [value for name, value in list(globals().items()) if name.startswith("test_")]:
    case.timeout = case_seconds(ALL)

if __name__ == "__main__":
    need_kvm()
    print("# MOLT_FAULTS_SEED=%s MOLT_FAULTS_PART=%d/%d" % (SEED, PART, PARTS))
    run_cases(globals())
