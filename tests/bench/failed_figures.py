# SPDX-License-Identifier: MIT
"""What failed.py found, for whoever reads it: on standard output, and as the table of docs/benchmarks.md."""
import sys

import figures

LIMIT_MS = 1    # a median of molt's
REST = "rest"   # what the machine does by itself: not ours to limit
# In the order of the table, in words that end "The successor ...".
KINDS = {
    "refused": "is refused by the check",
    "exec": "cannot be executed",
    "load": "cannot load the state",
    "stale": "loads a stale state",
    "wrong": "is another program",
    "dies": "dies at once",
    "dies-50": "dies after 50 ms",
    "hangs": "hangs, for 3 s",
    REST: "is not there: 3 s without an update",
}
NAMES = ("molt", "release", "qemu")


def summarise(samples):
    """Of one kind: the spread of the guest's gaps and of the time until the answer; how often it moved, or was lost."""
    lived = [s for s in samples if not s.get("lost")]
    out = {"n": len(samples), "lost": len(samples) - len(lived), "moved": sum(s["moved"] for s in lived)}
    if lived:
        out.update({key: figures.spread([s[key] for s in lived]) for key in ("blackout_us", "took_us")})
    return out


def case_result(case, samples, failures):
    return {"mib": case.mib, "cpus": case.cpus, "pages": case.pages, "failures": failures, "samples": samples,
            "summary": {who: {kind: summarise(s) for kind, s in kinds.items() if s} for who, kinds in samples.items()}}


def print_case(result):
    print("%s, %s" % (figures.shape_words((result["mib"], result["cpus"])), result["pages"]))
    print("  %-24s %-8s %9s %9s %9s %9s %9s %4s %6s %5s" % (
        "the successor", "", "least us", "median", "p75", "most", "answer us", "n", "moved", "lost"))
    for kind, words in KINDS.items():
        for who, kinds in result["summary"].items():
            if kind in kinds:
                print("  %-24s %-8s %s" % (words, who, line(kinds[kind])))
    for who, why in result["failures"].items():
        print("  %s failed: %s" % (who, why))
    if "skipped" in result:
        print("  skipped: " + result["skipped"])
    sys.stdout.flush()


def line(s):
    counts = "%4d %6d %5d" % (s["n"], s["moved"], s["lost"])
    if "blackout_us" not in s:
        return "%49s %s" % ("", counts)
    b = s["blackout_us"]
    return "%9.0f %9.0f %9.0f %9.0f %9.0f %s" % (
        b["min"], b["median"], b["p75"], b["max"], s["took_us"]["median"], counts)


def limits(results):
    """[(what, milliseconds, whether it holds)] of molt's medians; a lost guest holds nothing."""
    rows = []
    for r in results["cases"]:
        for kind, s in r["summary"].get("molt", {}).items():
            if kind == REST:
                continue
            ms = s["blackout_us"]["median"] / 1000 if "blackout_us" in s else float("inf")
            what = "%s, at %s" % (KINDS[kind], figures.shape_words((r["mib"], r["cpus"])))
            rows.append((what, ms, ms <= LIMIT_MS and not s["lost"]))
    return rows


def print_limits(results):
    rows = limits(results)
    for what, ms, holds in rows:
        print("%-55s %8.2f ms  <= %g  %s" % (what, ms, LIMIT_MS, "holds" if holds else "DOES NOT HOLD"))
    return all(row[-1] for row in rows)


def cell(result, who, kind):
    s = result["summary"].get(who, {}).get(kind)
    if not s:
        return "-"
    if s["lost"]:
        return "lost" if s["lost"] == s["n"] else "%d of %d lost" % (s["lost"], s["n"])
    b = s["blackout_us"]
    return "%s (%s to %s)" % tuple(figures.ms(b[which]) for which in ("median", "p25", "p75"))


def table(results):
    """A row for each kind, a column for each case and contestant."""
    columns = [(r, who) for r in results["cases"] for who in NAMES if r["summary"].get(who)]
    heads = ["%s at %s, ms" % (figures.title(results, who), figures.shape_words((r["mib"], r["cpus"])))
             for r, who in columns]
    rows = [[words, *(cell(r, who, kind) for r, who in columns)] for kind, words in KINDS.items()
            if any(kind in r["summary"][who] for r, who in columns)]
    return figures.table(["the successor", *heads], rows)
