#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tiny guests on a real kvm_amd, in the lab: run by lab_test.py. Arguments: the stories to run; a script of
tests/faults as test_faults:K/N for the Kth of N parts of it, test_faults:/N for another one each day; or "K/N" for the
Kth of N parts of all scripts in tests/guest.

Where the machine has no KVM of its own, this is where these scripts run; where it has, they ran there, and the probe is
enough: KVMs differ, above all one with hardware virtualisation from one without.
"""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib

from kvm_trace import KvmTrace
from report import GuestFaulted, Report
from stalled import foreign_page_tables

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))

import moltvm  # noqa: E402

SCRIPTS = os.path.join(os.path.dirname(HERE), "guest", "test_*.py")
FAULTS = os.path.join(os.path.dirname(HERE), "faults", "test_*.py")
UPDATES = 50
# A test script must not take all the time there is.
SCRIPT_TIMEOUT = 600
FAULTS_TIMEOUT = 2400
# Of the thousand updates in a row, as many as software emulation has time for.
SOAK = "100"

POINT = re.compile(r"(not )?ok \d+ - (.*?)(?: # SKIP (.*))?$", re.I)
PLAN = re.compile(r"1\.\.(\d+)(?: # SKIP (.*))?$", re.I)


def probe_passes(vm):
    """(pass, changes) of the probe's lines"""
    return re.findall(r"^probe: pass (\d+) .*\bchanges=(\d+)\b", vm.serial(), re.M)


def state_of(vm):
    path = vm.path("stalled")
    vm.update(state_file=path)
    return json.loads(moltvm.molt("state", path).stdout)


def probe_on(report, cpus):
    trace = KvmTrace()
    # lost_ms, clock_us: under emulation interrupts and bytes are slow; what is looked for is what gets lost.
    with moltvm.Vm("--cpus", str(cpus), "--memory", "64M", kernel="probe",
                   cmdline="period_ms=200 lost_ms=30000 clock_us=20000") as vm:
        ready = vm.wait_serial(r"probe: ready .*\n", 60).group(0)
        vm.wait_for(lambda: probe_passes(vm), "a first pass")
        reports = [vm.update() for _ in range(UPDATES)]
        had = len(probe_passes(vm))
        try:
            vm.wait_for(lambda: len(probe_passes(vm)) >= had + 2, "two passes after the last update")
        except AssertionError as why:
            fault = trace.delivered_twice() or foreign_page_tables(state_of(vm))
            seen = "the guest stands still: %s\n%s\n%s" % (fault, str(why)[-1500:], trace.last())
            raise (GuestFaulted if fault else AssertionError)(seen) from why
        changed = re.findall(r"^probe: CHANGED .*", vm.serial(), re.M)
        report.check("%d updates on %d vCPU(s) and nothing changed" % (UPDATES, cpus),
                     not changed and int(probe_passes(vm)[-1][1]) == 0 and
                     re.search(r"\bcpus=%d\b" % cpus, ready) is not None, "\n".join([ready, *changed[:10]]))
        report.check("the same process, %d vCPU(s)" % cpus, vm.running() and all(
            r["pid"] == vm.pid and r["updates"] == i for i, r in enumerate(reports, 1)))
        blackouts = sorted(r["blackout-us"] for r in reports)
        report.note("blackouts in the lab, ms: least %.1f, median %.1f, most %.1f" % tuple(
            us / 1e3 for us in (blackouts[0], blackouts[len(blackouts) // 2], blackouts[-1])))
        vm.qmp.command("quit")
        report.check("'quit' ends molt with status 0, %d vCPU(s)" % cpus, vm.wait_exit(30) == 0)


def probe(report):
    for cpus in (1, 2):
        probe_on(report, cpus)


def pass_on(report, output):
    """The points of another TAP as ours; how many the plan said there would be, or None."""
    planned = None
    for line in output:
        line = line.rstrip("\n")
        point, plan = POINT.match(line), PLAN.match(line)
        if plan:
            planned = int(plan.group(1))
            if plan.group(2):
                report.skip("all of it", plan.group(2))
        elif point and point.group(3):
            report.skip(point.group(2), point.group(3))
        elif point:
            report.check(point.group(2), not point.group(1))
        else:
            report.note(line)
    return planned


def on_this_host():
    """The binaries from 9p, whose buffers and cache count as what an update takes, to a file system as a host's."""
    where = tempfile.mkdtemp(prefix="molt-lab-")
    os.chmod(where, 0o755)
    return {name: shutil.copy(os.environ[name], where) for name in ("MOLT", "MOLT_FAULTS_BINARY") if os.environ[name]}


def script_story(path, seconds=SCRIPT_TIMEOUT, **environment):
    def story(report):
        before = report.points
        process = subprocess.Popen(["timeout", str(seconds), sys.executable, path], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                   env=dict(os.environ, MOLT_TIER="quick", MOLT_SOAK=SOAK, MOLT_EMULATED="1",
                                            **on_this_host(), **environment))
        planned = pass_on(report, process.stdout)
        status = process.wait()
        points = report.points - before
        report.check("ran to its end", planned is not None and points >= planned and status in (0, 1),
                     "%d points of %s, status %d" % (points, planned, status))
    return story


def named(pattern):
    """[(name, path)] of scripts."""
    return [(os.path.basename(path)[:-3], path) for path in sorted(glob.glob(pattern))]


def part_of_faults(part):
    """What tells a script of tests/faults, which has to be the same for all of its parts."""
    seed = os.environ.get("MOLT_FAULTS_SEED") or time.strftime("%Y%m%d")
    if part and part.startswith("/"):
        part = "%d%s" % (zlib.crc32(seed.encode()) % int(part[1:]) + 1, part)
    return {"MOLT_FAULTS_SEED": seed, "MOLT_FAULTS_PART": part or ""}


def stories():
    """(name, story)"""
    scripts = [(name, script_story(path)) for name, path in named(SCRIPTS)]
    part = re.fullmatch(r"(\d+)/(\d+)", sys.argv[1])
    if part:
        return scripts[int(part.group(1)) - 1::int(part.group(2))]
    wanted = dict(word.partition(":")[::2] for word in sys.argv[1:])
    faults = [(name, script_story(path, FAULTS_TIMEOUT, **part_of_faults(wanted.get(name))))
              for name, path in named(FAULTS)]
    return [s for s in [("probe", probe), *scripts, *faults] if s[0] in wanted]


if __name__ == "__main__":
    sys.exit(Report().run(stories()))
