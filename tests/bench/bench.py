#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
How long an update stops the guest: molt beside the floor, and QEMU's cpr-exec where there is one.

Each case (RAM, vCPUs, page size) is run in rounds; in a round each contestant in turn runs the bench
guest for some updates. So whatever else the machine does meets all of them alike. The guest itself
measures: the blackout is the largest gap between two of its readings of the TSC. Before each update it
has written to all of its RAM, and afterwards it does so again: the brownout.

docs/benchmarks.md explains the figures; --docs makes them anew.
"""
import argparse
import collections
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import figures
import host
import qemu
import release
from contestants import Floor, Molt, Release, Standin, StandinFull
from moltvm import molt

# release: an older molt, or None, and what it says it is; others: where the molts are that are wrong as successors.
Tools = collections.namedtuple("Tools", "molt floor guest qemu release release_version others",
                               defaults=(None, None, None))
Case = collections.namedtuple("Case", "mib cpus pages tools")

QUICK = ((256, 1, "4K"), (256, 16, "4K"))
RAM = tuple((mib, 1, "4K") for mib in (128, 256, 512, 1024, 2048, 4096, 8192))
CPUS = tuple((256, cpus, "4K") for cpus in (2, 4, 8, 16, 32, 64))
HUGE = tuple((mib, 1, "2M") for mib in (256, 2048, 8192))

SKIPPED = 77    # meson's exit status for "could not run here"


def parse_case(text):
    mib, cpus, pages = (text.split(":") + ["1", "4K"][text.count(":"):])[:3]
    if pages not in ("4K", "2M"):
        raise ValueError("pages")
    return int(mib), int(cpus), pages


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build", help="build directory with molt, floor and guest (%(default)s)")
    p.add_argument("--molt", metavar="PATH", help="another molt than the build directory's")
    p.add_argument("--quick", action="store_true", help="two small cases with nobody else, about a minute")
    p.add_argument("--case", action="append", type=parse_case, metavar="MIB[:VCPUS[:4K|2M]]",
                   help="a case of your own; any number of times")
    p.add_argument("--rounds", type=int, help="turns of each contestant (4; --quick 2)")
    p.add_argument("--updates", type=int, help="updates a turn (5); one more before them is not counted")
    p.add_argument("--only", action="append", choices=list(figures.NAMES),
                   help="not the others. standin-full is measured only so: the floor with all of a vCPU's state")
    p.add_argument("--qemu", metavar="PATH|fetch|none",
                   help="a QEMU >= 10.2; 'fetch' for Debian sid's, unpacked below ~/.cache and not installed. "
                        "If not set: one in the PATH or fetched before, where there is one")
    p.add_argument("--release", metavar="PATH|build|none",
                   help="an older molt; 'build' makes the newest release from the repository's history. If not set: "
                        "one that was built before, where there is one")
    p.add_argument("--reserve", action="store_true",
                   help="as root: raise vm.nr_hugepages for the cases with 2 MiB pages, and put it back")
    p.add_argument("--check", action="store_true", help="fail if a limit of docs/benchmarks.md does not hold")
    p.add_argument("--json", metavar="FILE", help="write all samples and the medians there")
    p.add_argument("--from-json", metavar="FILE", help="measure nothing, take what --json wrote")
    p.add_argument("--docs", metavar="DIR", help="put tables and plot into the documentation there")
    return p.parse_args()


def run_turn(kind, case, updates):
    with kind(case) as running:
        running.update()
        return [running.update() for _ in range(updates)]


def run_case(case, kinds, rounds, updates):
    """{contestant: samples}, {contestant: why it has none}"""
    samples, failures = {}, {}
    for _ in range(rounds):
        for kind in kinds:
            if kind.name in failures:
                continue
            try:
                samples.setdefault(kind.name, []).extend(run_turn(kind, case, updates))
            except Exception as err:    # QEMU may refuse what molt takes: the others go on
                failures[kind.name] = "%s: %s" % (type(err).__name__, str(err)[-300:])
                samples.pop(kind.name, None)
    return samples, failures


def contestants(args, tools):
    wanted = args.only or [name for name in figures.NAMES if name != "standin-full"]
    kinds = [Standin, StandinFull, Floor, Molt] + [Release] * bool(tools.release) + [qemu.Qemu] * bool(tools.qemu)
    return [k for k in kinds if k.name in wanted]


def find_qemu(args):
    if args.quick and not args.qemu:
        return None
    try:
        return qemu.find(args.qemu)
    except qemu.Unusable as err:
        if args.qemu:
            sys.exit("bench: " + str(err))
        print("bench: no QEMU: %s" % err, file=sys.stderr)
        return None


def find_release(args):
    """The path of an older molt, or None."""
    wanted = args.release or ("none" if args.quick else "")
    if wanted == "none":
        return None
    if wanted not in ("", "build"):
        return os.path.abspath(wanted)
    try:
        return release.newest() if wanted else release.built()
    except release.Unavailable as err:
        sys.exit("bench: %s" % err)


def find_tools(args):
    build = os.path.abspath(args.build)
    os.environ.setdefault("MOLT_RELEASES", os.path.join(build, "releases"))
    older = find_release(args)
    version = molt("version", binary=older).stdout.split()[1] if older else None
    return Tools(os.path.abspath(args.molt or os.path.join(build, "molt")), os.path.join(build, "tests", "floor"),
                 os.path.join(build, "firmware", "bench.elf"), find_qemu(args), older, version,
                 os.path.join(build, "tests", "molts"))


def measure(args):
    tools = find_tools(args)
    kinds = contestants(args, tools)
    results = figures.new_results(tools)
    figures.print_head()
    for shape in args.case or (QUICK if args.quick else RAM + CPUS + HUGE):
        case = Case(*shape, tools)
        with host.pages_for(case, args.reserve) as lacking:
            if lacking:
                result = figures.skipped(case, lacking)
            else:
                done = run_case(case, kinds, args.rounds or (2 if args.quick else 4), args.updates or 5)
                result = figures.case_result(case, *done)
        results["cases"].append(result)
        figures.print_case(result)
        if args.json:   # what there is, should the rest be interrupted
            figures.write(results, args.json)
    return results


def main():
    args = arguments()
    # What was started is ended in any case.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not args.from_json and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("bench: /dev/kvm cannot be opened here")
        sys.exit(SKIPPED)
    results = figures.read(args.from_json) if args.from_json else measure(args)
    held = figures.print_limits(results)
    if args.docs:
        figures.write_docs(results, args.docs)
    failed = any(set(c["failures"]) - {"qemu"} for c in results["cases"])
    sys.exit(1 if failed or (args.check and not held) else 0)


if __name__ == "__main__":
    main()
