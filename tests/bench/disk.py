#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What a disk costs: molt beside QEMU (virtio-blk-pci, io_uring, an iothread) with the same guest.

    iops     requests a second and throughput, on a tmpfs and on a file system, with and without direct I/O
    memory   PSS outside guest RAM with two disks
    start    from the start of the program to the guest's first instruction, with two disks
    busy     the blackout of an update with no disk, with 1 and with 64 busy queues
    slow     the same beside a disk whose requests take two seconds each
    gap      the longest time between two completions at depth 1 over an update, and the vCPU's gap

All contestants live at the same time and take turns of a fraction of a second, in changing order, so that whatever
else the machine does meets all of them; a ratio is of two turns that follow each other. Compare ratios, not times.
"""
import argparse
import collections
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import host
import qemu
from iops import MIB, MoltGuest, QemuGuest, make_file

sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from slow_disk import SlowDisk

Tools = collections.namedtuple("Tools", "molt guest qemu")
WHAT = ("iops", "memory", "start", "busy", "slow", "gap")
PHASES = (
    ("read 4 KiB, depth 1", {}),
    ("write 4 KiB, depth 1", {"write": 1}),
    ("read 4 KiB, depth 32", {"depth": 32}),
    ("write 4 KiB, depth 32", {"depth": 32, "write": 1}),
    ("sequential read, 1 MiB", {"depth": 4, "bytes": MIB, "sequential": 1}),
    ("sequential write, 1 MiB", {"depth": 4, "bytes": MIB, "sequential": 1, "write": 1}),
)
FILE_MIB = 256
SLOW = 2.0      # seconds
SKIPPED = 77    # meson's exit status for "could not run here"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="*", metavar="WHAT", help="of %s; all of them" % ", ".join(WHAT))
    p.add_argument("--build", default="build", help="build directory with molt and guest (%(default)s)")
    p.add_argument("--molt", metavar="PATH", help="another molt than the build directory's")
    p.add_argument("--qemu", metavar="PATH|fetch|none", help="as of bench.py")
    p.add_argument("--dir", default="/var/tmp", help="on the file system that is measured (%(default)s)")
    p.add_argument("--rounds", type=int, default=20, help="turns of each (%(default)d)")
    p.add_argument("--ms", type=int, default=150, help="a turn of iops (%(default)d)")
    p.add_argument("--sleep", action="store_true", help="iops: the guest waits for interrupts, instead of polling")
    p.add_argument("--place", action="append", choices=("tmpfs", "file", "direct"), help="iops: not the others")
    p.add_argument("--against", metavar="MOLT", help="iops: another molt instead of QEMU")
    p.add_argument("--json", metavar="FILE", help="write all samples there")
    args = p.parse_args()
    for word in args.what:
        if word not in WHAT:
            p.error("%s is none of %s" % (word, ", ".join(WHAT)))
    args.what = args.what or WHAT
    return args


def quartiles(values):
    ordered = sorted(values)
    return [ordered[len(ordered) // 4], statistics.median(ordered), ordered[3 * len(ordered) // 4]]


def spread(values, form="%.2f"):
    low, median, high = quartiles(values)
    return (form + " (" + form + " to " + form + ")") % (median, low, high)


def say_start(guest):
    print("    " + " ".join(guest.argv).replace(guest.dir, "DIR"))


# ---- iops

class OtherMolt(MoltGuest):
    """For what a change brings: molt beside molt."""
    name = "other"


def places(args):
    """(name, directory, direct)"""
    for name, directory, direct in (("tmpfs", "/dev/shm", False), ("file", args.dir, False),
                                    ("direct", args.dir, True)):
        if not args.place or name in args.place:
            yield name, directory, direct


def turn(guest, args, phase):
    done = guest.mailbox.run(ms=args.ms, sleeps=args.sleep, **phase)
    return {"rate": done["requests"] / done["ticks"], "requests": done["requests"], "kicks": done["kicks"],
            "interrupts": done["interrupts"], "slowest": done["slowest"]}


def compare(pair, args, samples):
    """Half of the rounds: more of {phase: [(ours, theirs)]}."""
    for round_ in range((args.rounds + 1) // 2 + 1):
        for name, phase in PHASES:
            order = pair if round_ % 2 else pair[::-1]
            taken = [turn(guest, args, phase) for guest in order]
            if round_:  # the first one faults RAM in
                samples[name].append(taken if round_ % 2 else taken[::-1])


def compare_at(contestants, args, directory, direct):
    """
    Their samples and the guest's kHz. At half time they change places: which file a guest has, and where its RAM lies,
    can make a fifth of its throughput.
    """
    samples = {name: [] for name, _ in PHASES}
    with tempfile.TemporaryDirectory(prefix="molt-disk-", dir=directory) as where:
        paths = [os.path.join(where, str(i)) for i in range(2)]
        for path in paths:
            make_file(path, FILE_MIB * MIB)
        for step in (1, -1):
            with contextlib.ExitStack() as stack:
                pair = [stack.enter_context(kind(its, [(path, direct)]))
                        for (kind, its), path in zip(contestants[::step], paths)][::step]
                if step == 1:
                    for guest in pair:
                        say_start(guest)
                compare(pair, args, samples)
                khz = pair[0].mailbox["tsc_khz"]
    return samples, khz


def measure_iops(args, tools):
    results = {}
    second = (OtherMolt, tools._replace(molt=args.against)) if args.against else (QemuGuest, tools)
    if not tools.qemu and not args.against:
        print("iops: no QEMU to compare with")
        return None
    for name, directory, direct in places(args):
        print("%s:" % name)
        results[name], khz = compare_at(((MoltGuest, tools), second), args, directory, direct)
        print("    %-24s %10s %10s   molt / %s" % ("", "molt /s", second[0].name + " /s", second[0].name))
        for phase, taken in results[name].items():
            rates = [statistics.median(t[i]["rate"] * khz * 1000 for t in taken) for i in (0, 1)]
            print("    %-24s %10.0f %10.0f   %s" % (phase, *rates, spread([a["rate"] / b["rate"] for a, b in taken])))
        sys.stdout.flush()
    return results


# ---- memory, start

@contextlib.contextmanager
def two_disks(directory):
    with tempfile.TemporaryDirectory(prefix="molt-disk-", dir=directory) as where:
        paths = [os.path.join(where, str(i)) for i in range(2)]
        for path in paths:
            make_file(path, 16 * MIB)
        yield [(path, False) for path in paths]


def kinds(tools):
    return [MoltGuest] + ([QemuGuest] if tools.qemu else [])


def measure_memory(args, tools):
    """After some work on one of the disks."""
    results = {}
    with two_disks(args.dir) as disks:
        for kind in kinds(tools):
            with kind(tools, disks) as guest:
                for _, phase in PHASES:
                    guest.mailbox.run(ms=100, **phase)
                results[kind.name] = {"pss": guest.pss(), "processes": len(guest.processes())}
                print("memory: %s: %d KiB PSS outside guest RAM, %d process(es)" % (
                    kind.name, results[kind.name]["pss"], results[kind.name]["processes"]))
    return results


def measure_start(args, tools):
    samples, khz = {}, None
    with two_disks(args.dir) as disks:
        for _ in range(args.rounds):
            for kind in kinds(tools):
                with kind(tools, disks) as guest:
                    at, tsc = guest.mailbox.clock()
                    khz = khz or guest.mailbox["tsc_khz"]   # QEMU's guest has to measure it
                    ran = (tsc - guest.mailbox["first"]) / khz
                    samples.setdefault(kind.name, []).append((at - guest.started) * 1000 - ran)
    for name, values in samples.items():
        print("start: %s: %s ms, least %.1f" % (name, spread(values, "%.1f"), min(values)))
    if len(samples) == 2:
        ratios = [b / a for a, b in zip(samples["molt"], samples["qemu"])]
        print("start: qemu / molt: %s" % spread(ratios, "%.1f"))
    return samples


# ---- updates

def update(guest, phase, first_wanted=False):
    """
    An update under a phase: what the host and what the guest say of it, in microseconds. first_wanted: not before a
    request was done after it.
    """
    m = guest.mailbox
    guest.settle()
    before = m["requests"]
    m.begin(ms=3600000, **phase)
    time.sleep(0.03)
    m.reset()
    report = guest.vm.update()
    now = m["now"]
    m.wait(lambda: m["now"] != now, "sign of life")
    if first_wanted:
        m.wait(lambda: m["io_last"] > m["gap_end"], "request after the update")
    sample = {
        "stages": {s["name"]: s["us"] for s in report["stages"]},
        "blackout": report["blackout-us"],
        "gap": m.us(m["gap"]),
        "io_gap": m.us(m["io_gap"]),
    }
    sample["requests"] = m.stop()["requests"] - before
    return sample


def take_turns(guests, rounds, phases, first_wanted=False):
    """{name: samples} of updates in changing order."""
    samples = {name: [] for name in guests}
    names = list(guests)
    for i in range(rounds + 1):
        for name in names[i % len(names):] + names[:i % len(names)]:
            sample = update(guests[name], phases[name], first_wanted)
            if i:
                samples[name].append(sample)
    return samples


def say_updates(what, samples, base):
    for name, taken in samples.items():
        for key in ("blackout", "gap"):
            values = [s[key] for s in taken]
            ratios = [s[key] / b[key] for s, b in zip(taken, samples[base])]
            print("%s: %-22s %-8s us: least %5.0f, %s, / %s: %s; of medians %.2f, of least %.2f" % (
                what, name, key, min(values), spread(values, "%.0f"), base, spread(ratios),
                statistics.median(values) / statistics.median(s[key] for s in samples[base]),
                min(values) / min(s[key] for s in samples[base])))
        print("%s: %-22s stages   us: %s" % (what, name, ", ".join(
            "%s %.0f" % (stage, statistics.median(s["stages"].get(stage, 0) for s in taken))
            for stage in taken[0]["stages"])))


def measure_busy(args, tools):
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(tempfile.TemporaryDirectory(prefix="molt-disk-", dir="/dev/shm"))
        guests = {"no disk": stack.enter_context(MoltGuest(tools, []))}
        for queues in (1, 64):
            path = os.path.join(where, str(queues))
            make_file(path, 64 * MIB)
            guests["%d busy" % queues] = stack.enter_context(MoltGuest(tools, [(path, False)], queues=queues))
        phases = {"no disk": {"queues": 0, "depth": 0}, "1 busy": {"depth": 32}, "64 busy": {"queues": 64, "depth": 4}}
        samples = take_turns(guests, args.rounds, phases)
    say_updates("busy", samples, "no disk")
    return samples


def measure_slow(args, tools):
    """The slow disk's requests are under way when the update begins and when it is over."""
    try:
        slow = SlowDisk(2 * MIB)
    except OSError as err:
        print("slow: no FUSE file system can be mounted here: %s" % err)
        return None
    with contextlib.ExitStack() as stack:
        stack.callback(slow.close)
        guests = {"no disk": stack.enter_context(MoltGuest(tools, [])),
                  "%.0f s a request" % SLOW: stack.enter_context(MoltGuest(tools, [(slow.path, True)]))}
        slow.delay = SLOW
        samples = take_turns(guests, args.rounds, dict(zip(guests, ({"queues": 0, "depth": 0}, {"depth": 16}))))
        slow.delay = 0
    say_updates("slow", samples, "no disk")
    return samples


def measure_gap(args, tools):
    with contextlib.ExitStack() as stack:
        where = stack.enter_context(tempfile.TemporaryDirectory(prefix="molt-disk-", dir="/dev/shm"))
        path = os.path.join(where, "0")
        make_file(path, 64 * MIB)
        guests = {"depth 1": stack.enter_context(MoltGuest(tools, [(path, False)]))}
        samples = take_turns(guests, args.rounds, {"depth 1": {}}, first_wanted=True)
    taken = samples["depth 1"]
    for key in ("gap", "io_gap"):
        values = [s[key] for s in taken]
        print("gap: %-7s us: least %.0f, %s" % (key, min(values), spread(values, "%.0f")))
    print("gap: io_gap - gap us: %s" % spread([s["io_gap"] - s["gap"] for s in taken], "%.0f"))
    return samples


def find_tools(args):
    build = os.path.abspath(args.build)
    try:
        found = None if args.qemu == "none" else qemu.find(args.qemu)
    except qemu.Unusable as err:
        if args.qemu:
            sys.exit("disk: " + str(err))
        print("disk: no QEMU: %s" % err, file=sys.stderr)
        found = None
    return Tools(os.path.abspath(args.molt or os.path.join(build, "molt")),
                 os.path.join(build, "firmware", "iops.elf"), found)


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("disk: /dev/kvm cannot be opened here")
        sys.exit(SKIPPED)
    tools = find_tools(args)
    if args.against:
        args.against = os.path.abspath(args.against)
    where = host.describe()
    print("%(cpus)d CPUs (%(cpu)s), %(kernel)s, host module %(kvm)s, load average %(load).1f" % where)
    print("QEMU %s, %d rounds" % (tools.qemu[2] if tools.qemu else "none", args.rounds))
    results = {"host": where}
    for what in args.what:
        results[what] = globals()["measure_" + what](args, tools)
        sys.stdout.flush()
        if args.json:
            with open(args.json, "w") as f:
                json.dump(results, f)


if __name__ == "__main__":
    main()
