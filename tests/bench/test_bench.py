#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the bench makes of its samples, and of a trace: no guest is run here."""
import mmap
import os
import struct
import sys
import tempfile
import xml.dom.minidom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import calls
import failed_figures
import failing
import figures
import plot
from mailbox import Mailbox
from bench import Case, parse_case
from moltvm import run_cases


def sample(us):
    return {"blackout_us": us, "touch_before_us": 1000, "touch_after_us": 9000, "rest_us": 90, "took_us": 30000}


def case(mib, cpus, **blackouts):
    """blackouts: the median of each, in microseconds."""
    samples = {name: [sample(us * k) for k in (0.9, 1, 1.2)] for name, us in blackouts.items()}
    for s in samples.get("molt", []):
        s["host_blackout_us"], s["handoff_us"] = s["blackout_us"], 200
        s["stages"] = {name: 10 for name in figures.BLACKOUT_STAGES}
    return figures.case_result(Case(mib, cpus, "4K", None), samples, {})


def results(*cases):
    return {"date": "today", "qemu": "11.1", "release": "0.1", "cases": list(cases), "host": {
        "cpus": 2, "cpu": "a CPU", "kvm": "kvm_x", "kernel": "Linux 6", "load": 0.5}}


def test_shapes():
    assert parse_case("512") == (512, 1, "4K")
    assert parse_case("512:4") == (512, 4, "4K")
    assert parse_case("512:4:2M") == (512, 4, "2M")


def test_limits_hold_and_do_not():
    good = results(case(256, 1, standin=400, molt=600, release=2400), case(256, 16, standin=1000, molt=1200),
                   case(256, 64, standin=2000, molt=2400), case(512, 1, molt=1000, qemu=80000),
                   case(8192, 1, molt=750, release=6000, qemu=225000))
    assert [row[-1] for row in figures.limits(good)] == [True] * len(figures.LIMITS), figures.limits(good)
    bad = results(case(256, 1, standin=400, molt=710, release=2800), case(256, 16, standin=1000, molt=1210),
                  case(256, 64, standin=2000, molt=2410), case(512, 1, molt=1000, qemu=79000),
                  case(8192, 1, molt=900, release=7100, qemu=269000))
    assert [row[-1] for row in figures.limits(bad)] == [False] * len(figures.LIMITS), figures.limits(bad)
    words = [row[0] for row in figures.limits(good)]
    assert "molt at 256 MiB, 1 vCPU, ms" in words and "molt / floor at 256 MiB, 64 vCPUs" in words, words
    assert "molt at 8 GiB, 1 vCPU / molt at 256 MiB, 1 vCPU" in words, words


def test_what_was_not_measured_has_no_limit():
    assert figures.limits(results(case(256, 1, standin=500, floor=1500))) == []
    assert [row[0] for row in figures.limits(results(case(256, 1, molt=500)))] == ["molt at 256 MiB, 1 vCPU, ms"]


def test_docs_are_filled_twice_alike():
    r = results(case(256, 1, standin=300, floor=1000, molt=1500, release=1600, qemu=60000),
                case(8192, 1, floor=3000, molt=4000))
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/benchmarks.md", "w") as f:
            f.write("before\n" + "".join("<!-- bench %s -->\nSTALE\n<!-- end -->\n" % b for b in (
                "machine", "limits", "blackout", "gaps", "brownout", "budget")) + "after\n")
        texts = []
        for _ in range(2):
            figures.write_docs(r, d)
            with open(d + "/benchmarks.md") as f:
                texts.append(f.read())
        assert texts[0] == texts[1]
        assert "STALE" not in texts[0] and texts[0].startswith("before") and texts[0].endswith("after\n")
        assert "| 256 MiB | 1 | 4K | 0.30 (0.27 to 0.36) | 1.00 (" in texts[0], texts[0]
        assert "| floor, ms | floor, old order, ms | molt, ms | molt 0.1, ms | QEMU, ms |" in texts[0], texts[0]
        assert "| 8 GiB | 1 | 4K | - | 3.00 (" in texts[0], texts[0]
        assert "| 256 MiB | 1 | 4K | molt | 0.20 | 1.50 | 1.50 | 0.09 | 30.00 |" in texts[0], texts[0]


def test_without_an_older_molt_and_without_qemu():
    """Whom nobody measured has no column; and what an earlier bench wrote can still be read."""
    r = results(case(256, 1, floor=1000, molt=1500))
    del r["release"]
    head = figures.blackout_table(r).splitlines()[0]
    assert head == "| RAM | vCPUs | pages | floor, old order, ms | molt, ms |", head
    assert "older molt" not in plot.svg(r)


def test_stages_that_not_every_update_has():
    samples = [{"blackout_us": 1, "stages": stages} for stages in ({"save": 5}, {"save": 7, "hurry": 2})]
    found = figures.summarise(samples)["stages"]
    assert found["save"]["median"] == 6 and found["hurry"]["median"] == 1, found


def test_plot_is_well_formed():
    r = results(case(256, 1, standin=300, floor=1000, molt=1500, release=1700, qemu=60000),
                case(8192, 1, floor=3000, molt=4000))
    doc = xml.dom.minidom.parseString(plot.svg(r))
    assert len(doc.getElementsByTagName("circle")) == 5 + 7 + 5     # legend, and the points of either panel
    assert "molt 0.1" in [t.firstChild.data for t in doc.getElementsByTagName("text")]
    for circle in doc.getElementsByTagName("circle"):
        assert 0 <= float(circle.getAttribute("cy")) <= plot.HEIGHT, circle.toxml()


# ---- updates that fail

def failure(us, **more):
    return {"blackout_us": us, "took_us": 2 * us, "moved": False, **more}


def failed(mib, **found):
    samples = {who: {kind.replace("_", "-"): s for kind, s in kinds.items()} for who, kinds in found.items()}
    return failed_figures.case_result(Case(mib, 1, "4K", None), samples, {})


def test_kinds_of_failures_are_in_the_table():
    assert list(failing.KINDS) == list(failed_figures.KINDS)
    assert set(failing.CONTESTANTS) == set(failed_figures.NAMES)


def test_limits_of_failures():
    r = results(failed(256, molt={"dies": [failure(us) for us in (500, 900, 5000)], "load": [failure(1100)]},
                       release={"dies": [failure(50000)]}),
                failed(8192, molt={"dies": [failure(100), {"lost": True, "moved": False}]}))
    assert [row[2] for row in failed_figures.limits(r)] == [True, False, False], failed_figures.limits(r)
    assert failed_figures.limits(r)[0][0] == "dies at once, at 256 MiB, 1 vCPU"


def test_table_of_failures():
    r = results(failed(256, molt={"dies_50": [failure(us) for us in (500, 900, 5000)], "load": [failure(1100)]},
                       qemu={"dies_50": [{"lost": True, "moved": False}]}))
    rows = failed_figures.table(r).splitlines()
    assert rows[0] == "| the successor | molt at 256 MiB, 1 vCPU, ms | QEMU at 256 MiB, 1 vCPU, ms |", rows
    assert rows[2:] == ["| cannot load the state | 1.10 (1.10 to 1.10) | - |",
                        "| dies after 50 ms | 0.90 (0.50 to 5.00) | lost |"], rows
    r["cases"].append(figures.skipped(Case(8192, 1, "4K", None), "no memory"))
    assert failed_figures.table(r).splitlines() == rows


# ---- what the guest says

def test_gaps_that_the_guest_noted():
    """The ring keeps the newest; a gap belongs to a time if they overlap."""
    words = {"tsc_khz": 2000, "gaps": 3}
    noted = [(10000, 4000), (30000, 8000), (50000, 2000)]
    with tempfile.TemporaryDirectory() as d, open(d + "/ram", "w+b") as f:
        f.truncate(8192)
        m = object.__new__(Mailbox)     # without a guest to wait for
        m.map, m.at = mmap.mmap(f.fileno(), 8192), 0
        for name, value in words.items():
            m[name] = value
        struct.pack_into("<6Q", m.map, m.offset("noted"), *[word for gap in noted for word in gap])
        assert m.noted() == noted, m.noted()
        assert m.gap_within_us(0, 9000) == 2000     # it ends later, but has begun
        assert m.gap_within_us(0, 60000) == 4000
        assert m.gap_within_us(11000, 21000) == 0
        m["gaps"] = Mailbox.NOTED + 1
        struct.pack_into("<2Q", m.map, m.offset("noted"), 70000, 1000)     # comes around
        assert len(m.noted()) == Mailbox.NOTED and m.noted()[-1] == (70000, 1000)
        m.close()


TRACE = """# a comment
    molt-7 [000] ..... 1000: sys_exit: NR 16 = -4
    molt-5 [000] ..... 2000: sys_enter: NR 16 (c, 8090ae81, 1, 0, 0, 0)
    molt-5 [000] ..... 7000: sys_exit: NR 16 = 0
    molt-5 [000] ..... 8000: sys_enter: NR 59 (1, 2, 3, 0, 0, 0)
    molt-5 [000] ..... 50000: sys_exit: NR 59 = 0
    molt-5 [000] d.... 51000: page_fault_user: address=0x1 ip=0x2 error_code=0x14
    molt-5 [000] ..... 60000: sys_enter: NR 16 (c, ae01, 0, 0, 0, 0)
    molt-5 [000] ..... 62000: sys_exit: NR 16 = 9
    molt-9 [001] ..... 63000: sys_exit: NR 435 = 0
    molt-9 [001] ..... 90000: sys_enter: NR 16 (c, ae80, 0, 0, 0, 0)
"""


def test_trace_of_a_blackout():
    found = calls.read_calls(TRACE, calls.Names(), 1000000)     # so a tick is a nanosecond
    windows = calls.windows(found, 5)
    assert windows == {"blackout": (1, 90)}, windows
    begin, end = windows["blackout"]
    rows = {key[1]: numbers for key, *numbers in calls.in_order(found, (begin, end), 5)}
    assert rows["KVM_GET_REGS"][2] == 5 and rows["execve"][2] == 42, rows
    at, own, us, faults = rows["KVM_CREATE_VM"]
    assert (at, own, us, faults) == (59, 10, 2, 1), rows


STAND_IN_TRACE = """
    molt-5 [000] ..... 100: sys_enter: NR 16 (e, ae80, 0, 0, 0, 0)
    molt-5 [000] ..... 200: sys_exit: NR 16 = -4
    molt-6 [000] ..... 250: sys_exit: NR 56 = 0
    molt-6 [000] ..... 300: sys_enter: NR 16 (e, ae80, 0, 0, 0, 0)
    molt-6 [000] ..... 400: sys_exit: NR 16 = -4
    stand-20 [000] ..... 500: sys_enter: NR 16 (c, ae80, 0, 0, 0, 0)
    stand-20 [000] ..... 600: sys_exit: NR 16 = -4
    molt-7 [000] ..... 1000: sys_exit: NR 16 = -4
    stand-20 [000] ..... 3000: sys_enter: NR 16 (c, ae80, 0, 0, 0, 0)
    stand-21 [000] ..... 3500: sys_enter: NR 16 (d, ae80, 0, 0, 0, 0)
    stand-21 [000] ..... 3700: sys_exit: NR 16 = -4
    stand-21 [000] ..... 3800: sys_enter: NR 16 (d, ae80, 0, 0, 0, 0)
    molt-5 [000] ..... 8000: sys_enter: NR 59 (1, 2, 3, 0, 0, 0)
    molt-5 [000] ..... 50000: sys_exit: NR 59 = 0
    molt-9 [001] ..... 51000: sys_enter: NR 16 (c, ae80, 0, 0, 0, 0)
    molt-9 [001] ..... 52000: sys_exit: NR 16 = -4
    stand-20 [000] ..... 60000: sys_exit: NR 16 = -4
    stand-21 [000] ..... 62000: sys_exit: NR 16 = -4
    stand-21 [000] ..... 63000: sys_enter: NR 16 (d, 8090ae81, 0, 0, 0, 0)
    stand-21 [000] ..... 64000: sys_exit: NR 16 = 0
    molt-9 [001] ..... 70000: sys_enter: NR 16 (c, ae80, 0, 0, 0, 0)
    molt-10 [001] ..... 75000: sys_enter: NR 16 (d, ae80, 0, 0, 0, 0)
"""


def test_trace_of_a_stand_in():
    found = calls.read_calls(STAND_IN_TRACE, calls.Names(), 1000000)
    windows = calls.windows(found, 5)
    assert windows == {"hand-off": (1, 3), "switch": (60, 70)}, windows
    assert [key[1] for key, *_ in calls.in_order(found, windows["switch"], 5)] == ["KVM_GET_REGS", "KVM_RUN"]


def test_names_of_ioctls():
    names = calls.Names()
    for request, name in ((0x4040AEA0, "KVM_SET_VCPU_EVENTS"), (0x4070AEA0, "KVM_SET_PIT2"), (0xAE80, "KVM_RUN"),
                          (0x5000AEA5, "KVM_SET_XSAVE"), (0x4080AEA2, "KVM_SET_DEBUGREGS"), (0xAEA2, "KVM_SET_TSC_KHZ")):
        assert names.of(16, request) == name, (name, names.of(16, request))
    assert names.of(59, 0) == "execve"


run_cases(globals())
