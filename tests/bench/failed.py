#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What an update that fails costs the guest: its largest gap, by what is wrong with the successor. The bench guest
measures, as it does for bench.py. Beside molt, an older one (--release) and QEMU.

Kinds take turns within a guest, and contestants within a round. These successors are not asked before (no-check), but
for the one that is to be refused. QEMU has a guest for each kind, and one try, if that ends it.
"""
import argparse
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import bench
import failed_figures
import failing
import figures
import host

SHAPES = ((256, 1, "4K"), (8192, 1, "4K"))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build", help="build directory with molt, its tests and guests (%(default)s)")
    p.add_argument("--molt", metavar="PATH", help="another molt than the build directory's")
    p.add_argument("--case", action="append", type=bench.parse_case, metavar="MIB[:VCPUS[:4K|2M]]",
                   help="a case of your own; any number of times")
    p.add_argument("--kind", action="append", choices=list(failing.KINDS), help="not the others")
    p.add_argument("--only", action="append", choices=list(failing.CONTESTANTS), help="not the others")
    p.add_argument("--rounds", type=int, default=4, help="turns of each contestant (%(default)s)")
    p.add_argument("--updates", type=int, default=5, help="updates of each kind a turn (%(default)s)")
    p.add_argument("--qemu", metavar="PATH|fetch|none", help="as for bench.py")
    p.add_argument("--release", metavar="PATH|build|none", help="as for bench.py")
    p.add_argument("--check", action="store_true",
                   help="fail if a median of molt's is above %g ms" % failed_figures.LIMIT_MS)
    p.add_argument("--json", metavar="FILE", help="write all samples there")
    p.add_argument("--from-json", metavar="FILE", help="measure nothing, take what --json wrote")
    p.add_argument("--docs", metavar="DIR", help="put the table into the documentation there")
    args = p.parse_args()
    args.quick = False
    return args


def run_case(case, contestants, kinds, args):
    """{contestant: {kind: samples}}, {contestant: why it has no more}"""
    samples, failures = {}, {}
    for _ in range(args.rounds):
        for contestant in contestants:
            if contestant.name in failures:
                continue
            found = samples.setdefault(contestant.name, {})
            try:
                failing.turn(contestant, case, kinds, args.updates, found)
            except Exception as err:    # the others go on
                failures[contestant.name] = "%s: %s" % (type(err).__name__, str(err)[-300:])
    return samples, failures


def measure(args):
    tools = bench.find_tools(args)
    there = {"molt": True, "release": tools.release, "qemu": tools.qemu}
    contestants = [c for name, c in failing.CONTESTANTS.items() if there[name] and name in (args.only or there)]
    kinds = args.kind or list(failing.KINDS)
    results = figures.new_results(tools)
    for shape in args.case or SHAPES:
        case = bench.Case(*shape, tools)
        with host.pages_for(case, False) as lacking:
            if lacking:
                results["cases"].append(figures.skipped(case, lacking))
            else:
                results["cases"].append(failed_figures.case_result(case, *run_case(case, contestants, kinds, args)))
        failed_figures.print_case(results["cases"][-1])
        if args.json:
            figures.write(results, args.json)
    return results


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not args.from_json and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("failed: /dev/kvm cannot be opened here")
        sys.exit(bench.SKIPPED)
    results = figures.read(args.from_json) if args.from_json else measure(args)
    held = failed_figures.print_limits(results)
    if args.docs:
        figures.fill(os.path.join(args.docs, "benchmarks.md"), {"failed": failed_figures.table(results)})
    broken = any(set(c["failures"]) - {"qemu"} for c in results["cases"])
    sys.exit(1 if broken or (args.check and not held) else 0)


if __name__ == "__main__":
    main()
