#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the bench makes of its samples, and of a trace: no guest is run here."""
import os
import sys
import tempfile
import xml.dom.minidom

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import calls
import figures
import plot
from bench import Case, parse_case
from moltvm import run_cases


def sample(us):
    return {"blackout_us": us, "touch_before_us": 1000, "touch_after_us": 9000}


def case(mib, cpus, **blackouts):
    samples = {name: [sample(us * k) for k in (0.9, 1, 1.2)] for name, us in blackouts.items()}
    for s in samples.get("molt", []):
        s["host_blackout_us"] = s["blackout_us"]
        s["stages"] = {name: 10 for name in figures.BLACKOUT_STAGES}
    return figures.case_result(Case(mib, cpus, "4K", None), samples, {})


def results(*cases):
    return {"date": "today", "qemu": "11.1", "cases": list(cases), "host": {
        "cpus": 2, "cpu": "a CPU", "kvm": "kvm_x", "kernel": "Linux 6", "load": 0.5}}


def test_shapes():
    assert parse_case("512") == (512, 1, "4K")
    assert parse_case("512:4") == (512, 4, "4K")
    assert parse_case("512:4:2M") == (512, 4, "2M")


def test_limits_hold_and_do_not():
    good = results(case(256, 1, floor=1000, molt=1500), case(8192, 1, floor=3000, molt=4000, qemu=800000))
    assert [row[-1] for row in figures.limits(good)] == [True] * 4, figures.limits(good)
    bad = results(case(256, 1, floor=1000, molt=1700), case(8192, 1, floor=1100, molt=4000, qemu=300000))
    assert [row[-1] for row in figures.limits(bad)] == [False] * 4, figures.limits(bad)


def test_what_was_not_measured_has_no_limit():
    assert figures.limits(results(case(256, 1, molt=1500))) == []


def test_docs_are_filled_twice_alike():
    r = results(case(256, 1, floor=1000, molt=1500, qemu=60000), case(8192, 1, floor=3000, molt=4000))
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/benchmarks.md", "w") as f:
            f.write("before\n" + "".join("<!-- bench %s -->\nSTALE\n<!-- end -->\n" % b for b in (
                "machine", "limits", "blackout", "brownout", "budget")) + "after\n")
        texts = []
        for _ in range(2):
            figures.write_docs(r, d)
            with open(d + "/benchmarks.md") as f:
                texts.append(f.read())
        assert texts[0] == texts[1]
        assert "STALE" not in texts[0] and texts[0].startswith("before") and texts[0].endswith("after\n")
        assert "| 256 MiB | 1 | 4K | 1.00 (" in texts[0], texts[0]


def test_plot_is_well_formed():
    r = results(case(256, 1, floor=1000, molt=1500, qemu=60000), case(8192, 1, floor=3000, molt=4000))
    doc = xml.dom.minidom.parseString(plot.svg(r))
    assert len(doc.getElementsByTagName("circle")) >= 5
    for circle in doc.getElementsByTagName("circle"):
        assert 0 <= float(circle.getAttribute("cy")) <= plot.HEIGHT, circle.toxml()


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
    begin, end = calls.blackout(found, 5)
    assert (begin, end) == (1, 90), (begin, end)
    rows = {key[1]: numbers for key, *numbers in calls.in_order(found, (begin, end), 5)}
    assert rows["KVM_GET_REGS"][2] == 5 and rows["execve"][2] == 42, rows
    at, own, us, faults = rows["KVM_CREATE_VM"]
    assert (at, own, us, faults) == (59, 10, 2, 1), rows


def test_names_of_ioctls():
    names = calls.Names()
    for request, name in ((0x4040AEA0, "KVM_SET_VCPU_EVENTS"), (0x4070AEA0, "KVM_SET_PIT2"), (0xAE80, "KVM_RUN"),
                          (0x5000AEA5, "KVM_SET_XSAVE"), (0x4080AEA2, "KVM_SET_DEBUGREGS"), (0xAEA2, "KVM_SET_TSC_KHZ")):
        assert names.of(16, request) == name, (name, names.of(16, request))
    assert names.of(59, 0) == "execve"


run_cases(globals())
