# SPDX-License-Identifier: MIT
"""What the bench found: as a table on standard output, as JSON, and in the documentation."""
import datetime
import json
import os
import re
import statistics
import sys

import host
import plot

# What molt promises, in docs/benchmarks.md, with 4 KiB pages: whose blackout (MiB, vCPUs), over whose, at most or at
# least how much. Over nobody's it is milliseconds.
SMALL, MIDDLE, LARGE, MANY, MOST = (256, 1), (512, 1), (8192, 1), (256, 16), (256, 64)
LIMITS = (
    ("molt", SMALL, None, None, "<=", 0.7),
    ("molt", SMALL, "standin", SMALL, "<=", 1.5),
    ("molt", MANY, "standin", MANY, "<=", 1.2),
    ("molt", MOST, "standin", MOST, "<=", 1.2),
    ("molt", LARGE, "molt", SMALL, "<=", 1.25),
    ("release", SMALL, "molt", SMALL, ">=", 4),
    ("release", LARGE, "molt", LARGE, ">=", 8),
    ("qemu", MIDDLE, "molt", MIDDLE, ">=", 80),
    ("qemu", LARGE, "molt", LARGE, ">=", 300),
)
# Of an update's stages those in which the guest stands still, in their order.
BLACKOUT_STAGES = ("quiesce", "save", "final save", "final load", "resume")
# In the order of the tables, with their heads.
NAMES = {"standin": "floor", "standin-full": "floor, all state", "floor": "floor, old order", "molt": "molt",
         "release": "older molt", "qemu": "QEMU"}
RATIOS = ("molt/standin", "molt/floor", "release/molt", "qemu/molt")


def new_results(tools):
    return {"date": datetime.date.today().isoformat(), "host": host.describe(), "release": tools.release_version,
            "qemu": tools.qemu[2] if tools.qemu else None, "cases": []}


def spread(values):
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "min": ordered[0], "max": ordered[-1],
            "p25": ordered[len(ordered) // 4], "p75": ordered[3 * len(ordered) // 4], "n": len(ordered)}


def summarise(samples):
    out = {key: spread([s[key] for s in samples]) for key in samples[0] if key != "stages"}
    if "stages" in samples[0]:
        names = dict.fromkeys(name for s in samples for name in s["stages"])
        out["stages"] = {name: spread([s["stages"].get(name, 0) for s in samples]) for name in names}
    return out


def skipped(case, why):
    return {"mib": case.mib, "cpus": case.cpus, "pages": case.pages, "skipped": why, "failures": {},
            "summary": {}, "samples": {}}


def case_result(case, samples, failures):
    return {"mib": case.mib, "cpus": case.cpus, "pages": case.pages, "failures": failures,
            "summary": {name: summarise(s) for name, s in samples.items()}, "samples": samples}


# ---- figures

def blackout(result, name, which="median"):
    return result["summary"][name]["blackout_us"][which] if result and name in result["summary"] else None


def ratio(result, names, which="median"):
    over, under = (blackout(result, name, which) for name in names.split("/"))
    return over / under if over and under else None


def find(results, mib, cpus, pages="4K"):
    for result in results["cases"]:
        if (result["mib"], result["cpus"], result["pages"]) == (mib, cpus, pages):
            return result
    return None


def shape_words(shape):
    return "%s, %d vCPU%s" % (size(shape[0]), shape[1], "s" * (shape[1] > 1))


def limit_words(over, shape, under, under_shape):
    over, under = NAMES[over], NAMES.get(under)
    if not under:
        return "%s at %s, ms" % (over, shape_words(shape))
    if shape == under_shape:
        return "%s / %s at %s" % (over, under, shape_words(shape))
    return "%s at %s / %s at %s" % (over, shape_words(shape), under, shape_words(under_shape))


def limits(results):
    """[(what, measured, sign, limit, whether it holds)] of those that were measured."""
    rows = []
    for over, shape, under, under_shape, sign, limit in LIMITS:
        us = blackout(find(results, *shape), over)
        divisor = blackout(find(results, *under_shape), under) if under else 1000
        if us and divisor:
            value = us / divisor
            rows.append((limit_words(over, shape, under, under_shape), value, sign, limit,
                         value <= limit if sign == "<=" else value >= limit))
    return rows


# ---- standard output

def size(mib):
    return "%d GiB" % (mib // 1024) if mib % 1024 == 0 else "%d MiB" % mib


def print_head():
    print("%8s %5s %5s  %-7s %9s %9s %9s %9s %9s %4s %9s %9s %9s %9s %9s %9s" % (
        "RAM", "vCPUs", "pages", "what", "least us", "p25", "median", "p75", "most", "n", "hand-off", "switch",
        "at rest", "took", "touch us", "after it"))


def median_text(summary, key):
    return "%.0f" % summary[key]["median"] if key in summary else "-"


def print_case(result):
    shape = "%8s %5d %5s" % (size(result["mib"]), result["cpus"], result["pages"])
    for name, s in result["summary"].items():
        b = s["blackout_us"]
        print("%s  %-7s %9.0f %9.0f %9.0f %9.0f %9.0f %4d %s" % (
            shape, name, b["min"], b["p25"], b["median"], b["p75"], b["max"], b["n"], " ".join(
                "%9s" % median_text(s, key + "_us") for key in (
                    "handoff", "host_blackout", "rest", "took", "touch_before", "touch_after"))))
    for name, why in result["failures"].items():
        print("%s  %-7s failed: %s" % (shape, name, why))
    if "skipped" in result:
        print("%s  skipped: %s" % (shape, result["skipped"]))
    for names in RATIOS:
        value = ratio(result, names)
        if value:
            print("%20s  %s %.2f (%.2f of the least)" % ("", names, value, ratio(result, names, "min")))
    stages = result["summary"].get("molt", {}).get("stages")
    if stages:
        print("%20s  %s" % ("", " ".join("%s=%.0f" % (n, s["median"]) for n, s in stages.items())))
    sys.stdout.flush()


def print_limits(results):
    rows = limits(results)
    for what, value, sign, limit, holds in rows:
        print("%-55s %8.2f  %s %-4g %s" % (what, value, sign, limit, "holds" if holds else "DOES NOT HOLD"))
    return all(row[-1] for row in rows)


# ---- files

def write(results, path):
    with open(path, "w") as f:
        json.dump(results, f, indent=1)
        f.write("\n")


def read(path):
    with open(path) as f:
        return json.load(f)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def ms(us):
    return "-" if us is None else "%.2f" % (us / 1000) if us < 100000 else "%.0f" % (us / 1000)


def with_spread(result, name):
    if blackout(result, name) is None:
        return "-"
    return "%s (%s to %s)" % tuple(ms(blackout(result, name, which)) for which in ("median", "p25", "p75"))


def factor(value):
    return "-" if value is None else "%.2f" % value if value < 10 else "%.0f" % value


def measured(results):
    """Who has a figure in any case, in the tables' order."""
    return [name for name in NAMES if any(name in r["summary"] for r in results["cases"])]


def title(results, name):
    return "molt " + results["release"] if name == "release" and results.get("release") else NAMES[name]


def blackout_table(results):
    shown = measured(results)
    ratios = [r for r in RATIOS if r != "molt/floor" and all(name in shown for name in r.split("/"))]
    rows = [[size(r["mib"]), str(r["cpus"]), r["pages"], *(with_spread(r, name) for name in shown),
             *(factor(ratio(r, names)) for names in ratios)]
            for r in results["cases"] if r["summary"]]
    heads = [title(results, name) + ", ms" for name in shown]
    return table(["RAM", "vCPUs", "pages", *heads] + [" / ".join(
        title(results, name) for name in names.split("/")) for names in ratios], rows)


GAPS = ("handoff_us", "host_blackout_us", "blackout_us", "rest_us", "took_us")


def gaps_table(results):
    """
    Both gaps of an update, as whoever made it saw them; the largest that the guest saw in the update, and in as long a
    time without one; and how long it all took.
    """
    rows = [[size(r["mib"]), str(r["cpus"]), r["pages"], title(results, name),
             *(ms(s[key]["median"]) if key in s else "-" for key in GAPS)]
            for r in results["cases"] for name, s in r["summary"].items() if "handoff_us" in s]
    return table(("RAM", "vCPUs", "pages", "", "hand-off, ms", "switch, ms", "the guest's largest gap, ms",
                  "at rest, ms", "the update took, ms"), rows)


def touch(result, name, key):
    summary = result["summary"].get(name)
    return ms(summary[key]["median"]) if summary else "-"


def brownout_table(results):
    rows = [[size(r["mib"]), r["pages"], touch(r, "molt", "touch_before_us"),
             *(touch(r, name, "touch_after_us") for name in measured(results))]
            for r in results["cases"] if r["summary"] and r["cpus"] == 1]
    return table(["RAM", "pages", "before, ms"] + ["after, " + title(results, name) for name in measured(results)],
                 rows)


def limits_table(results):
    rows = [[what, factor(value), "%s %g" % (sign, limit), "yes" if holds else "**no**"]
            for what, value, sign, limit, holds in limits(results)]
    return table(("what", "measured", "limit", "holds"), rows)


def budget_table(results):
    shapes = [(256, 1), (256, 16), (8192, 1)]
    found = [(find(results, *s), s) for s in shapes]
    found = [(r["summary"]["molt"], s) for r, s in found if r and "molt" in r["summary"]]
    there = [stage for stage in BLACKOUT_STAGES if any(stage in s["stages"] for s, _ in found)]
    rows = [[stage, *("%.0f" % s["stages"][stage]["median"] if stage in s["stages"] else "-" for s, _ in found)]
            for stage in there]
    rows.append(["**blackout**", *("**%.0f**" % s["host_blackout_us"]["median"] for s, _ in found)])
    rows.append(["the guest's own gap", *("%.0f" % s["blackout_us"]["median"] for s, _ in found)])
    return table(["part, median us"] + [shape_words(shape) for _, shape in found], rows)


def machine(results):
    h = results["host"]
    said = ["Measured on %s: %d CPUs (%s), %s, host module `%s`, load average %.1f at the start." % (
        results["date"], h["cpus"], h["cpu"], h["kernel"], h["kvm"], h["load"])]
    said.append("QEMU %s." % results["qemu"] if results["qemu"] else "No QEMU.")
    counts = {s["blackout_us"]["n"] for c in results["cases"] for s in c["summary"].values()}
    said.append("%s updates in each figure." % " or ".join(str(n) for n in sorted(counts)))
    return "\n".join(said)


def fill(path, blocks):
    """Puts each text between its marks, `<!-- bench NAME -->` and `<!-- end -->`."""
    with open(path) as f:
        text = f.read()
    for name, block in blocks.items():
        mark = "<!-- bench %s -->" % name
        if mark not in text:
            raise SystemExit("%s: no line %s" % (path, mark))
        text = re.sub(re.escape(mark) + r".*?<!-- end -->", lambda _, m=mark, b=block: "%s\n\n%s\n\n<!-- end -->" % (m, b),
                      text, flags=re.S)
    with open(path, "w") as f:
        f.write(text)


def write_docs(results, directory):
    fill(os.path.join(directory, "benchmarks.md"), {
        "machine": machine(results), "limits": limits_table(results), "blackout": blackout_table(results),
        "gaps": gaps_table(results), "brownout": brownout_table(results), "budget": budget_table(results)})
    with open(os.path.join(directory, "blackout.svg"), "w") as f:
        f.write(plot.svg(results))
