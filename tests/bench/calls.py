#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Where the blackout goes: each system call between the last KVM_RUN of the predecessor and the first of
the successor, in order, with medians over many updates. With a stand-in there are two such times, the
hand-off and the switch, from where the first vCPU has stopped. Root only: it uses the kernel's tracepoints
(tracefs), which cost each call a fraction of a microsecond and nothing else.

Times are microseconds. "at" is when a call begins, counted from the return of the last KVM_RUN; "own"
is what the thread spent in user space and in page faults since its previous call; "faults" counts those.
"least" is the shortest that the call took: on a busy machine it says more than the median.
"""
import argparse
import collections
import os
import re
import signal
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from bench import Case, Tools, parse_case
from contestants import Floor, Molt, Standin

TRACEFS = "/sys/kernel/tracing"
EVENTS = ("raw_syscalls/sys_enter", "raw_syscalls/sys_exit", "exceptions/page_fault_user")
LINE = re.compile(r"^\s*(.*)-(\d+)\s+\[\d+\]\s+\S+\s+(\d+): (\w+): (.*)$")
ENTER = re.compile(r"NR (\d+) \((\w+), (\w+)")
EXIT = re.compile(r"NR (-?\d+) = (-?\d+)")
IOCTL, KVM_RUN = 16, 0xAE80
DIRECTIONS = {"": 0, "W": 1, "R": 2, "WR": 3}
# Ioctls that differ from another one in nothing but the size of their argument.
SIZES = {"KVM_SIGNAL_MSI": 32, "KVM_SET_XSAVE": 4096, "KVM_GET_PIT2": 112, "KVM_SET_PIT2": 112,
         "KVM_GET_VCPU_EVENTS": 64, "KVM_SET_VCPU_EVENTS": 64}

Call = collections.namedtuple("Call", "tid name start us own faults result")


class Names:
    """Of system calls and KVM's ioctls, from the headers of this machine."""

    def __init__(self):
        with open("/usr/include/x86_64-linux-gnu/asm/unistd_64.h") as f:
            self.calls = {int(n): name for name, n in re.findall(r"#define __NR_(\w+) (\d+)", f.read())}
        with open("/usr/include/linux/kvm.h") as f:
            found = re.findall(r"#define (KVM_\w+)\s+_IO(R|W|WR)?\(KVMIO,\s*(0x\w+)", f.read())
        self.ioctls = {}
        for name, direction, nr in found:
            # Other architectures use the same numbers again.
            if not re.search("_(PPC|S390|ARM|XEN|SEV|RISCV)", name):
                self.ioctls.setdefault((DIRECTIONS[direction], int(nr, 16), SIZES.get(name)), name)

    def of(self, nr, request):
        name = self.calls.get(nr, str(nr))
        if name != "ioctl" or request >> 8 & 0xFF != 0xAE:
            return name
        direction, size, number = request >> 30, request >> 16 & 0x3FFF, request & 0xFF
        return (self.ioctls.get((direction, number, size)) or self.ioctls.get((direction, number, None))
                or "KVM ioctl 0x%x" % request)


class Tracer:
    """A trace buffer of its own, for one process and all that it starts."""

    def __init__(self, pid):
        self.dir = "%s/instances/molt-bench-%d" % (TRACEFS, os.getpid())
        os.mkdir(self.dir)
        self.put("trace_clock", "x86-tsc")    # others are printed in whole microseconds
        self.put("buffer_size_kb", "8192")
        self.put("options/event-fork", "1")
        tasks = os.listdir("/proc/%d/task" % pid)
        self.put("set_event_pid", " ".join(tasks))
        for event in EVENTS:
            self.put("events/%s/enable" % event, "1")

    def put(self, name, text):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(text)

    def start(self):
        self.put("tracing_on", "1")
        self.put("trace", "")

    def take(self):
        self.put("tracing_on", "0")
        with open(os.path.join(self.dir, "trace")) as f:
            return f.read()

    def close(self):
        for event in EVENTS:
            self.put("events/%s/enable" % event, "0")
        os.rmdir(self.dir)


def read_calls(text, names, tsc_khz):
    """Every call of the trace, in the order of their starts; times in microseconds."""
    open_calls, last, faults, calls = {}, {}, collections.Counter(), []
    for line in text.splitlines():
        m = LINE.match(line)
        if not m:
            continue
        tid, at, event, rest = int(m.group(2)), int(m.group(3)) * 1000 / tsc_khz, m.group(4), m.group(5)
        if event == "page_fault_user":
            faults[tid] += 1
        elif event == "sys_enter":
            nr, _, second = ENTER.match(rest).groups()
            open_calls[tid] = (names.of(int(nr), int(second, 16)), at)
        elif event == "sys_exit":
            nr, result = map(int, EXIT.match(rest).groups())
            # One that began before the trace: of the ioctls only KVM_RUN lasts. (A new thread returns
            # from a clone that it did not begin.)
            name, began = open_calls.pop(tid, (names.of(nr, KVM_RUN), at if nr != IOCTL else 0))
            calls.append(Call(tid, name, began, at - began, began - last.get(tid, began), faults[tid],
                              result))
            faults[tid], last[tid] = 0, at
    for tid, (name, began) in open_calls.items():
        calls.append(Call(tid, name, began, 0, began - last.get(tid, began), faults[tid], None))
    return sorted(calls, key=lambda c: c.start)


def between(which, before, after):
    """From where the first (min) or the last (max) of some threads leaves KVM_RUN for good to the first of others."""
    last = {c.tid: c.start + c.us for c in before if c.result is not None}
    begin = which(last.values(), default=0)
    # One that enters before that does it for no guest: it is warming up.
    begun = [c.start for c in after if c.start >= begin]
    return (begin, min(begun)) if last and begun else None


def windows(calls, pid):
    """
    {name: (begin, end)} of the times when the guest did not run, of an update by this process; empty if there is none.
    A stand-in is known by its threads: there before the exec, and in KVM_RUN after it. What main runs, and threads
    that it makes before the exec and that end by then, are trials of how quick KVM is.
    """
    execs = [c for c in calls if c.tid == pid and c.name in ("execve", "execveat") and c.result == 0]
    if len(execs) != 1:
        return {}
    runs, ended = [c for c in calls if c.name == "KVM_RUN"], execs[0].start + execs[0].us
    early = {c.tid for c in calls if c.start < execs[0].start}
    made = {c.tid for c in calls if c.name in ("clone", "clone3") and c.us == 0 and c.result == 0}
    standing = {c.tid for c in runs if c.tid in early and c.start + c.us > ended}
    old = [c for c in runs if c.tid in early - standing - made - {pid}]
    new = [c for c in runs if c.tid not in early]
    middle = [c for c in runs if c.tid in standing]
    found = {"hand-off": between(min, old, middle), "switch": between(min, middle, new)} if standing else {
        "blackout": between(max, old, new)}
    return {name: window for name, window in found.items() if window}


def role(tid, pid, order):
    return "main" if tid == pid else "other%d" % order.setdefault(tid, len(order) + 1)


def in_order(calls, window, pid):
    """[(role, name, at, own, us, faults)]; of a call that reaches beyond the window counts what is in it."""
    begin, end = window
    order, out, count = {}, [], collections.Counter()
    for c in calls:
        if c.start + c.us <= begin or c.start > end or (c.name == "KVM_RUN" and c.start < begin):
            continue
        who = role(c.tid, pid, order)
        count[who, c.name] += 1
        out.append(((who, c.name, count[who, c.name]), c.start - begin, c.own,
                    min(c.start + c.us, end) - max(c.start, begin), c.faults))
    return out


def trace_updates(running, pid, updates):
    """{window: [(us, the guest's largest gap, its calls in order)]}"""
    names, tracer, seen = Names(), Tracer(pid), {}
    try:
        for _ in range(updates):
            running.settle()
            time.sleep(0.02)
            running.mailbox.touch_us()
            tracer.put("set_event_pid", " ".join(os.listdir("/proc/%d/task" % pid)))
            running.mailbox.reset()
            tracer.start()
            running.replace()
            calls = read_calls(tracer.take(), names, running.mailbox["tsc_khz"])
            for name, window in windows(calls, pid).items():
                seen.setdefault(name, []).append(
                    (window[1] - window[0], running.mailbox.gap_us(), in_order(calls, window, pid)))
    finally:
        tracer.close()
    return seen


def medians(rows):
    return [statistics.median(column) for column in zip(*rows)]


def report_order(seen, least):
    rows = collections.defaultdict(list)
    for _, _, calls in seen:
        for key, *numbers in calls:
            rows[key].append(numbers)
    print("%-8s %8s %8s %8s %8s %6s %5s  %s" % (
        "thread", "at", "own", "takes", "least", "faults", "seen", "call"))
    for key, numbers in sorted(rows.items(), key=lambda row: medians(row[1])[0]):
        at, own, us, faults = medians(numbers)
        if len(numbers) * 2 >= len(seen) and own + us >= least:
            print("%-8s %8.1f %8.1f %8.1f %8.1f %6.0f %5d  %s%s" % (
                key[0], at, own, us, min(n[2] for n in numbers), faults, len(numbers), key[1],
                " (%d)" % key[2] if key[2] > 1 else ""))


def report_sums(seen, least):
    """Per call of one name, all threads' together."""
    rows = collections.defaultdict(lambda: [(0, 0)] * len(seen))
    for i, (_, _, calls) in enumerate(seen):
        sums = collections.defaultdict(lambda: (0, 0))
        for key, _, own, us, faults in calls:
            count, total = sums[key[1]]
            sums[key[1]] = count + 1, total + us
            if key[0] == "main":
                count, total = sums["(user space and page faults of main)"]
                sums["(user space and page faults of main)"] = count + faults, total + own
        for name, pair in sums.items():
            rows[name][i] = pair
    print("%8s %8s %8s  %s" % ("times", "all us", "least", "call"))
    for name, pairs in sorted(rows.items(), key=lambda row: -medians(row[1])[1]):
        count, total = medians(pairs)
        if total >= least:
            print("%8d %8.1f %8.1f  %s" % (count, total, min(p[1] for p in pairs), name))


def report(name, seen, least):
    print("%s, %d updates: guest's gap %.0f us, KVM_RUN to KVM_RUN %.0f us (medians), %.0f us at least" % (
        name, len(seen), statistics.median(s[1] for s in seen), statistics.median(s[0] for s in seen),
        min(s[0] for s in seen)))
    report_order(seen, least)
    print()
    report_sums(seen, least)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build", help="build directory (%(default)s)")
    p.add_argument("--case", type=parse_case, default=(256, 1, "4K"), metavar="MIB[:VCPUS[:4K|2M]]")
    p.add_argument("--updates", type=int, default=50)
    p.add_argument("--what", choices=("molt", "floor", "standin"), default="molt",
                   help="standin: the floor with a stand-in; floor: in the old order")
    p.add_argument("--least", type=float, default=0, metavar="US", help="leave out what took less")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not os.access(TRACEFS + "/instances", os.W_OK):
        sys.exit("%s: not there, or not ours to write: as root, mount -t tracefs tracefs %s" % (TRACEFS, TRACEFS))
    build = os.path.abspath(args.build)
    tools = Tools(build + "/molt", build + "/tests/floor", build + "/firmware/bench.elf", None)
    with {"molt": Molt, "floor": Floor, "standin": Standin}[args.what](Case(*args.case, tools)) as running:
        proc = running.vm.proc if args.what == "molt" else running.proc
        for name, seen in trace_updates(running, proc.pid, args.updates).items():
            report(name, seen, args.least)
            print()


if __name__ == "__main__":
    main()
