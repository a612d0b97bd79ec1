#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every failure point of the update path, one at a time: the guest runs on, verified, and the client is told why.

    MOLT_FAULTS=all    every action at every point, instead of a sample of the deadly ones (an hour)
    MOLT_FAULTS_SEED   which sample; printed by each run
    MOLT_FAULTS_ONLY   a regular expression for the points' names
"""
import collections
import errno
import os
import queue
import random
import re
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from walk import DEADLY, ProbeWalker, may_die  # noqa: E402
from moltvm import need_kvm, run_cases  # noqa: E402

BINARY = os.environ["MOLT_FAULTS_BINARY"]
ALL = os.environ.get("MOLT_FAULTS") == "all"
SEED = os.environ.get("MOLT_FAULTS_SEED") or str(random.randrange(10 ** 6))
ONLY = re.compile(os.environ.get("MOLT_FAULTS_ONLY", ""))
WALKERS = min(2, os.cpu_count() or 1)
TRIES = 4  # a point that hangs on the guest's timing (has it just printed?) is not reached each time
SAMPLE_DEADLY, SAMPLE_EXHAUST, ONE_IN_ALIKE = 120, 40, 6
RESOURCES = {errno.ENOMEM, errno.EMFILE, errno.ENOSPC, errno.EAGAIN}
SCENARIOS = ("update", "give-back", "guardian", "undo", "state-file", "descriptors")

# Functions that molt and its libraries call and that are no points, and why.
NO_POINTS = {
    "cannot fail, or only on arguments that no program passes": """
        __sched_cpucount __ctype_b_loc __ctype_toupper_loc __errno_location __isoc99_sscanf __libc_current_sigrtmin __memcpy_chk
        __snprintf_chk __sprintf_chk __vsnprintf_chk snprintf cfmakeraw clock_gettime close free getauxval getenv
        geteuid getpgrp getpid gettimeofday gmtime_r localeconv memchr memcmp memcpy memmove memset munmap
        pthread_cond_broadcast pthread_cond_destroy
        pthread_cond_init pthread_cond_signal pthread_cond_wait pthread_join pthread_kill pthread_mutex_destroy pthread_mutex_init
        pthread_mutex_lock pthread_mutex_unlock pthread_self pthread_tryjoin_np qsort sched_getcpu sched_yield sigaddset sigdelset
        sigemptyset sigfillset sigismember strcasecmp strchr strcmp strcpy strcspn strerror strerror_r strftime strlen strncmp
        strncpy __strncpy_chk strnlen strrchr strspn strstr strtod strtol strtoul strtoull strtoll unsetenv usleep pause""",
    "ends the process": "_exit __assert_fail __stack_chk_fail",
    "what it allocates is a point by itself": "__asprintf_chk",
    "where the sandbox begins: at a cold start, and in a successor that gives up more than its predecessor": """
        cap_drop_bound cap_free cap_get_bound cap_init cap_reset_ambient cap_set_proc fchownat fgetgrent fgetpwent fopen64
        getresgid getresuid setgroups setresgid setresuid""",
    "returns twice, so that it cannot be wrapped; and in its child, which tells if they fail": "vfork dup2 setpgid",
    "only at a cold start, for a new client or a new backend": """
        accept4 bind connect fchmod getsockname grantpt listen posix_openpt ptsname_r unlockpt socket tcgetpgrp""",
    "only in the commands for the terminal": """
        __fprintf_chk __printf_chk __vfprintf_chk ferror fflush getopt_long json_dumpf putc puts fwrite fopen fclose
        fgetc sendmsg""",
    "data": """_GLOBAL_OFFSET_TABLE_ __cpu_model __tls_get_addr blob_dsdt blob_dsdt_end blob_ticker blob_ticker_end
        device_classes machine_model environ optarg opterr optind optopt program_invocation_name program_invocation_short_name stderr stdout stdin""",
}

# Points at which a call is not made to fail, and why. The process may still die there.
NO_ERROR = {
    r"predecessor:undo:fcntl#|guardian:revive:fcntl#":
        "close-on-exec of an open descriptor: it takes back what worked a moment before, and nothing is left to try",
}


def in_two_lists(wraps, functions):
    exempt = set(" ".join(NO_POINTS.values()).split())
    return sorted(exempt & set(wraps) - {"fchmod", "socket"}), sorted(functions - exempt - set(wraps))


def symbols(archive, *options):
    text = subprocess.run(["nm", *options, archive], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=True).stdout
    return {line.split()[-1] for line in text.split("\n") if len(line.split()) in (2, 3)}


def test_every_function_that_can_fail_is_a_point():
    archives = os.environ["MOLT_FAULTS_ARCHIVES"].split(":")
    used, made = set(), set()
    for archive in archives:
        used |= symbols(archive, "-u")
        made |= symbols(archive, "--defined-only")
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "calls.h"), encoding="utf-8") as f:
        wraps = re.findall(r"^(?:CALL|VARIADIC)\([^,]+,\s*(\w+)", f.read(), re.M)
    both, neither = in_two_lists(wraps, used - made)
    assert not neither, "neither in calls.h nor among those that are no points: %s" % " ".join(neither)
    assert not both, "in calls.h and among those that are no points: %s" % " ".join(both)
    print("# %d functions can fail and are wrapped, %d are no points" % (
        len(set(wraps) & used), len((used - made) - set(wraps))))


class Recording:
    """The points of all scenarios, each under the first one that comes by it."""

    def __init__(self):
        self.points = {}
        with ProbeWalker(BINARY) as walker:
            for scenario in SCENARIOS:
                for point in walker.record(scenario):
                    if ONLY.search(point.name):
                        self.points.setdefault(point, scenario)

    def jobs(self, wanted, action):
        return [(scenario, point.name, action) for point, scenario in self.points.items() if wanted(point)]


recording = None


def recorded():
    global recording
    if not recording:
        recording = Recording()
    return recording


def fails(point):
    return point.errno and not any(re.match(pattern, point.name) for pattern in NO_ERROR)


def sample(jobs, number, name):
    return jobs if ALL or len(jobs) <= number else random.Random(SEED + name).sample(jobs, number)


class Walk:
    """Runs jobs on a few guests at once, and counts."""

    def __init__(self, jobs):
        self.jobs = queue.Queue()
        for job in jobs:
            self.jobs.put(job)
        self.runs = len(jobs)
        self.points = len({job[1] for job in jobs})
        self.ends = collections.Counter()
        self.notes = []
        self.lost = []
        self.lock = threading.Lock()

    def one(self, walker, job):
        for _ in range(TRIES):
            result = walker.run(*job)
            if result.end != "missed":
                break
        with self.lock:
            self.ends[result.end] += 1
            if result.end != "told":
                self.notes.append("%s: %s %s" % (result.end, job[1], result.why))

    def work(self):
        walker = ProbeWalker(BINARY)
        while True:
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:
                break
            try:
                if not walker.vm:
                    walker.start()
                self.one(walker, job)
            except Exception as why:  # noqa: BLE001 -- whatever it is, this guest is not to be trusted any more
                self.note_lost(walker, job, why)
        walker.__exit__(None, None, None)

    def note_lost(self, walker, job, why):
        log = walker.vm.log()[-1500:] if walker.vm else ""
        with self.lock:
            self.lost.append("%s %s (%s): %s: %s\n%s" % (job[1], job[2], job[0], type(why).__name__, why, log))
        try:
            walker.stop()
        except Exception as again:  # noqa: BLE001
            print("# %s" % again)

    def run(self):
        threads = [threading.Thread(target=self.work) for _ in range(WALKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.tell()

    def tell(self):
        print("# %d points, %d runs: %d told why, %d not needed for the update, %d told by another connection, "
              "%d not reached, %d lost" % (self.points, self.runs, self.ends["told"], self.ends["done"],
                                           self.ends["cut"], self.ends["missed"], len(self.lost)))
        for note in sorted(self.notes):
            print("#   " + note.replace("\n", " ")[:200])
        assert not self.lost, "%d guests lost:\n%s" % (len(self.lost), "\n".join(self.lost))
        assert self.ends["missed"] <= 2 + self.runs // 50, "too many points were not reached"
        assert self.runs, "no points"


def test_points_are_on_both_sides():
    found = collections.Counter(":".join(point.name.split(":")[:2]) for point in recorded().points)
    print("# %d points: %s" % (sum(found.values()), ", ".join("%s %d" % item for item in sorted(found.items()))))
    if ONLY.pattern:
        return
    for stage in """predecessor:prepare predecessor:check check:start predecessor:answer predecessor:guard
            predecessor:pause predecessor:quiesce predecessor:save predecessor:handover predecessor:exec
            predecessor:undo predecessor:dismiss predecessor:tell successor:start successor:adopt successor:build
            successor:commit successor:resume successor:tell successor:release successor:reap successor:end successor:give-up
            way-back:start way-back:adopt way-back:build way-back:commit way-back:tell guardian:revive
            guardian:tell""".split():
        assert found[stage], "no point in %s" % stage


def test_nothing_allocates_between_pause_and_exec():
    """Or malloc's lock could die with the predecessor, and the guardian with it."""
    allocating = re.compile(r"predecessor:(quiesce|save|handover|exec):(malloc|calloc|realloc|strn?dup|setenv)#")
    assert not [point.name for point in recorded().points if allocating.match(point.name)]


def test_each_call_fails():
    jobs = recorded().jobs(fails, "error")
    # The client's answer is a hundred allocations, all alike.
    alike = [job for job in jobs if re.search(r":tell:malloc#", job[1])]
    if not ALL:
        kept = set(sample(alike, len(alike) // ONE_IN_ALIKE, "alike"))
        jobs = [job for job in jobs if job not in set(alike) - kept]
    Walk(jobs).run()


def test_each_step_dies():
    jobs = [job for action in DEADLY for job in recorded().jobs(may_die, action)]
    Walk(sample(jobs, SAMPLE_DEADLY, "deadly")).run()


def test_each_resource_runs_out_for_good():
    jobs = recorded().jobs(lambda point: fails(point) and point.errno in RESOURCES, "exhaust")
    Walk(sample(jobs, SAMPLE_EXHAUST, "exhaust")).run()


def test_guardian_dies():
    """Who needs it no more, or not yet, does not miss it: at the start of each stage from guard to commit."""
    stages = re.compile(r"(predecessor:(pause|quiesce|save|handover|exec)|successor:(start|adopt|build|commit)):begin#1$")
    walk = Walk([job for job in recorded().jobs(lambda point: stages.match(point.name), "orphan")])
    walk.run()
    assert walk.ends["done"] == walk.runs, walk.ends


for case in [value for name, value in list(globals().items()) if name.startswith("test_")]:
    case.timeout = 7200 if ALL else 600

if __name__ == "__main__":
    need_kvm()
    print("# MOLT_FAULTS_SEED=%s" % SEED)
    run_cases(globals())
