# SPDX-License-Identifier: MIT
"""The plot of docs/benchmarks.md: blackout over RAM and over vCPUs, as SVG made by hand."""
import math
from xml.sax.saxutils import escape

STYLE = {"standin": ("#8a94a6", "floor"), "floor": ("#b9c0cb", "floor, old order"), "molt": ("#0f766e", "molt"),
         "release": ("#6d9bd1", "older molt"), "qemu": ("#c2571a", "QEMU cpr-exec")}
INK, FAINT, GRID = "#1f2933", "#6b7785", "#e5e9ee"
WIDTH, HEIGHT = 860, 400
TOP, BOTTOM = 72, 340
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\""


def text(x, y, words, anchor="middle", colour=FAINT, size=12, weight="normal"):
    return '<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%d" font-weight="%s">%s</text>' % (
        x, y, anchor, colour, size, weight, escape(words))


def line(x1, y1, x2, y2, colour, width=1.0, opacity=1.0):
    return '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g" stroke-opacity="%g"/>' % (
        x1, y1, x2, y2, colour, width, opacity)


class Panel:
    """One plot, logarithmic both ways; x runs over the values of one of a case's numbers."""

    def __init__(self, left, right, cases, key, label, title):
        self.left, self.right, self.key, self.label, self.title = left, right, key, label, title
        self.cases = sorted((c for c in cases if c["summary"]), key=lambda c: c[key])
        self.xs = [c[key] for c in self.cases]

    def x(self, value):
        low, high = math.log2(self.xs[0]), math.log2(self.xs[-1])
        return self.left + (math.log2(value) - low) / ((high - low) or 1) * (self.right - self.left)

    def draw(self, y, ticks):
        out = [text(self.left, TOP - 18, self.title, "start", INK, 13, "600")]
        for us, words in ticks:
            out.append(line(self.left, y(us), self.right, y(us), GRID))
            out.append(text(self.left - 8, y(us) + 4, words, "end"))
        out.append(line(self.left, BOTTOM, self.right, BOTTOM, FAINT))
        for value in self.xs:
            out.append(text(self.x(value), BOTTOM + 20, self.label(value)))
        for name in STYLE:
            out += self.draw_series(name, y)
        return out

    def draw_series(self, name, y):
        colour, _ = STYLE[name]
        points = [(self.x(c[self.key]), c["summary"][name]["blackout_us"]) for c in self.cases if name in c["summary"]]
        if not points:
            return []
        path = " ".join("%.1f,%.1f" % (x, y(b["median"])) for x, b in points)
        out = ['<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>' % (path, colour)]
        for x, b in points:
            out.append(line(x, y(b["p25"]), x, y(b["p75"]), colour, 5, 0.3))
            out.append('<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s"/>' % (x, y(b["median"]), colour))
        return out


def scale(cases):
    """From microseconds to the y of the picture, by half decades, and the ticks: whole ones, in milliseconds."""
    bars = [s["blackout_us"] for c in cases for s in c["summary"].values()]
    low = math.floor(2 * math.log10(min(b["p25"] for b in bars))) / 2
    high = max(math.ceil(2 * math.log10(max(b["p75"] for b in bars))) / 2, low + 1)
    ticks = [(10 ** e, "%g ms" % (10 ** e / 1000) if e < 6 else "%g s" % (10 ** e / 1e6))
             for e in range(math.ceil(low), math.floor(high) + 1)]
    return (lambda us: BOTTOM - (math.log10(us) - low) / (high - low) * (BOTTOM - TOP)), ticks


def legend(cases, release):
    out, x = [], WIDTH - 24
    for name in reversed([n for n in STYLE if any(n in c["summary"] for c in cases)]):
        colour, words = STYLE[name]
        words = "molt " + release if name == "release" and release else words
        out.append(text(x, 30, words, "end", INK))
        x -= 6.9 * len(words) + 16
        out.append('<circle cx="%.1f" cy="26" r="4" fill="%s"/>' % (x + 4, colour))
        x -= 18
    return out


def svg(results):
    cases = [c for c in results["cases"] if c["pages"] == "4K" and c["summary"]]
    y, ticks = scale(cases)
    panels = [Panel(72, 470, [c for c in cases if c["cpus"] == 1], "mib",
                    lambda mib: "%d GiB" % (mib // 1024) if mib >= 1024 else "%d MiB" % mib,
                    "1 vCPU, RAM touched"),
              Panel(560, WIDTH - 36, [c for c in cases if c["mib"] == 256], "cpus", str, "256 MiB, vCPUs")]
    body = [text(24, 30, "Guest blackout of an update", "start", INK, 16, "600"), *legend(cases, results.get("release"))]
    for panel in panels:
        if panel.cases:
            body += panel.draw(y, ticks)
    body.append(text(24, HEIGHT - 14, "Largest gap between two readings of the TSC by the guest: medians, "
                     "bars from the first to the third quartile. Both scales are logarithmic.", "start", FAINT, 11))
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" %s role="img" '
        'aria-label="Guest blackout of an update over RAM and vCPUs">' % (WIDTH, HEIGHT, WIDTH, HEIGHT, FONT),
        '<rect width="%d" height="%d" rx="8" fill="#ffffff"/>' % (WIDTH, HEIGHT), *body, "</svg>", ""])
