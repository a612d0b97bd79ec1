#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Stock Linux guests on molt, in the lab: run by lab_test.py.

Arguments: the stories to run. Without any: the first, and with MOLT_TIER=all, all.
"""
import os
import re
import statistics
import sys
import time

from guest_shell import GuestTimeout
from report import Report
from stock_guest import StockGuest, clock_differences, compare_clocks, moltvm, tsc_offsets

import release  # noqa: E402 -- found by stock_guest's path

UPDATES = 8
PATTERN_MIB = 128
DRIFT_LIMIT_NS = 10_000_000
# Between the guest's time of day and the host's: the guest's RTC driver sets it by whole seconds.
REAL_TIME_LIMIT_NS = 2_000_000_000


# ---- updates under load ----

def start_checkers(guest):
    for command in ("labcheck pattern %d" % PATTERN_MIB, "labcheck clocks", "labcheck load"):
        output, status = guest.shell.run(command, 90)
        if status:
            raise AssertionError("%s: %s" % (command, output))


def checker_figures(guest):
    return {name: guest.shell.values("labcheck %s-status" % name, 60) for name in ("pattern", "clocks", "load")}


def whole_pass(guest, timeout=120):
    """Until the pattern was verified from its first byte to its last, beginning now."""
    deadline = time.monotonic() + timeout
    begun = guest.shell.values("labcheck pattern-status", 60)["passes"]
    while True:
        figures = guest.shell.values("labcheck pattern-status", 60)
        # The next pass to end has begun before; the one after it is whole.
        if figures["passes"] >= begun + 2 or figures["errors"]:
            return figures
        if time.monotonic() > deadline:
            raise GuestTimeout("a whole pass of the pattern", str(figures))
        time.sleep(0.5)


def check_pattern(report, before, after):
    report.check("%d MiB of pattern: no changed byte, and the verifying went on" % PATTERN_MIB,
                 after["errors"] == 0 and after["passes"] >= before["passes"] + 2, "%s" % after)


def check_load(report, before, after, cpus):
    went_on = [after["cpu%d" % i] > before["cpu%d" % i] for i in range(cpus)]
    report.check("the load ran on every vCPU, through to the end", len(went_on) == cpus and all(went_on), "%s" % after)


def check_steps(report, clocks):
    back = [key for key in clocks if re.match(r"(mono|real|tsc)_back", key) and clocks[key]]
    report.check("CLOCK_MONOTONIC, CLOCK_REALTIME and the TSC never stepped back",
                 not back and clocks["reads"] > 0, "%s" % clocks)


def check_drift(report, before, after, offsets, seconds):
    start, end = clock_differences(before, offsets[0]), clock_differences(after, offsets[0])
    drift = [end[i] - start[i] for i in range(2)]
    report.check("CLOCK_MONOTONIC and CLOCK_REALTIME are where the host's clocks say, within 10 ms",
                 all(abs(d) < DRIFT_LIMIT_NS for d in drift) and abs(end[1]) < REAL_TIME_LIMIT_NS,
                 "drift over %d updates and %.1f s: monotonic %+.1f us, real time %+.1f us (measured to %.1f us); "
                 "the guest's time of day is %+.3f ms off the host's" %
                 (UPDATES, seconds, drift[0] / 1e3, drift[1] / 1e3, (start[2] + end[2]) / 1e3, end[1] / 1e6))


def check_kernel_log(report, guest, lines_before):
    """No lockup, no stall, no clock thrown out."""
    new = guest.kernel_lines_since(lines_before)
    report.check("the guest's kernel has said nothing since", new == [], "\n".join(new))


def check_blackouts(report, guest):
    """No limit: under emulation a figure says nothing but that it is there."""
    blackouts = sorted(r["blackout-us"] for r in guest.reports)
    report.note("blackouts in the lab, ms: least %.1f, median %.1f, most %.1f" % tuple(
        us / 1e3 for us in (blackouts[0], statistics.median(blackouts), blackouts[-1])))


def many_updates(report, guest, cpus):
    """What the README promises of a guest under load. Leaves the guest running, its checkers stopped."""
    shell = guest.shell
    start_checkers(guest)
    offsets = tsc_offsets(guest.stream_of_update())
    kernel_lines = guest.plant_kernel_line()
    before, clocks_before, began = checker_figures(guest), compare_clocks(guest), time.monotonic()
    for number in range(UPDATES):
        guest.type_across_update(number)
    clocks_after, seconds = compare_clocks(guest), time.monotonic() - began
    report.check("%d updates in a row: the same process, each time the newly installed binary" % UPDATES,
                 guest.updates == UPDATES + 1 and guest.vm.proc.poll() is None,
                 "%.1f s with the typing between them" % seconds)
    report.check("what was typed before each update reached the shell after it", True)
    after = checker_figures(guest)
    shell.run("labcheck stop load; labcheck stop clocks", 60)
    check_pattern(report, before["pattern"], whole_pass(guest))
    check_load(report, before["load"], after["load"], cpus)
    check_steps(report, after["clocks"])
    check_drift(report, clocks_before, clocks_after, offsets, seconds)
    shell.run("labcheck stop", 60)
    check_kernel_log(report, guest, kernel_lines)
    errors = re.findall(rb"labcheck: \S*error[^\r\n]*", guest.heard())
    report.check("no checker complained", not errors, b"\n".join(errors).decode())
    offsets_after = tsc_offsets(guest.stream_of_update())
    report.check("each vCPU's TSC offset is the same number as before", offsets_after == offsets and
                 len(offsets) == cpus, "before %s, after %s" % (offsets, offsets_after))
    check_blackouts(report, guest)


# ---- the stories ----

def linux_2cpu(report):
    with StockGuest("--cpus", "2", "--memory", "512M") as guest:
        seconds = guest.boot()
        report.check("boots to a shell", guest.shell.run("nproc")[0] == "2\n", "%.1f s" % seconds)
        devices = guest.shell.run("ls /sys/bus/pci/devices")[0].split()
        report.check("finds the PCI root's host bridge", "0000:00:00.0" in devices, " ".join(devices))
        many_updates(report, guest, 2)
        guest.shell.send("poweroff\r")
        report.check("'poweroff' ends molt with status 0", guest.wait_end() == 0)


def push_pattern_across_4g(guest):
    """Take nearly all free memory above 4 GiB, as huge pages that nobody touches: the pattern goes to both sides."""
    zones = guest.shell.run("awk '/^Node/ {z = $4} /pages free/ {print z \"=\" $3}' /proc/zoneinfo")[0]
    free = int(re.search(r"Normal=(\d+)", zones).group(1)) // 256
    left = PATTERN_MIB * 3 // 4
    guest.shell.run("echo %d > /proc/sys/vm/nr_hugepages" % ((free - left) // 2), 60)
    return "free above 4 GiB: %d MiB; %s" % (free, guest.shell.run("grep HugePages_Total /proc/meminfo")[0].strip())


def linux_1cpu_5g(report):
    # init_on_alloc=0: or the kernel would clear the huge pages of push_pattern_across_4g(), for half a minute.
    with StockGuest("--cpus", "1", "--memory", "5G", cmdline="init_on_alloc=0") as guest:
        seconds = guest.boot()
        layout = guest.shell.run("grep RAM /proc/iomem")[0]
        above = re.search(r"^1([0-9a-f]{8})-([0-9a-f]+) : System RAM", layout, re.M)
        report.check("boots to a shell", guest.shell.run("nproc")[0] == "1\n", "%.1f s" % seconds)
        report.check("has RAM above 4 GiB", above is not None, layout)
        report.note(push_pattern_across_4g(guest))
        many_updates(report, guest, 1)
        places = guest.shell.values("labcheck pattern-status")
        report.check("the pattern lay on both sides of 4 GiB",
                     places["mib_below_4g"] >= 8 and places["mib_above_4g"] >= 8,
                     "%(mib_below_4g)d MiB below, %(mib_above_4g)d MiB above" % places)
        guest.vm.qmp.command("system_powerdown")
        report.check("the power button ends molt with status 0", guest.wait_end() == 0)


def boot_id(guest):
    return guest.shell.run("cat /proc/sys/kernel/random/boot_id")[0]


def reboot(report, guest, kind):
    """Reboot the guest by one of Linux's ways, and wait until it is up again."""
    before = boot_id(guest)
    output, status = guest.shell.run("echo %s > /sys/kernel/reboot/type" % kind)
    if status:
        raise AssertionError("the guest cannot choose its way to reboot: " + output)
    guest.shell.send("reboot\r")
    seconds = guest.boot()
    after = boot_id(guest)
    report.check("'reboot' (%s) brings the guest up again, in the same process" % kind,
                 after != before and guest.vm.proc.poll() is None and guest.vm.pid == guest.pid, "%.1f s" % seconds)


def output_across_updates(report, guest, lines=1500):
    """The serial output of a busy moment comes out whole, each byte once and in order, whatever updates do."""
    guest.shell.send("seq 1 %d\r" % lines)
    guest.shell.wait_for("\n20\r\n", 60)
    during = 0
    while ("\n%d\r\n" % lines).encode() not in guest.shell.pending and during < 50:
        guest.update()
        during += 1
        guest.shell.hear(0.05)
    heard = guest.shell.wait_for_prompt(60)
    numbers = heard[:heard.rindex("\n")].split("\n")
    wanted = [str(n) for n in range(21, lines + 1)]
    report.check("what the guest prints comes out whole across updates", numbers == wanted,
                 "%d updates while it printed" % during)


def linux_reboot(report):
    with StockGuest("--cpus", "2", "--memory", "256M") as guest:
        guest.boot()
        reboot(report, guest, "acpi")
        output_across_updates(report, guest)
        reboot(report, guest, "kbd")
        guest.type_across_update(0)
        guest.shell.run("echo triple > /sys/kernel/reboot/type")
        guest.shell.send("reboot\r")
        report.check("'reboot' (triple fault) ends molt with status 3", guest.wait_end() == 3)
        shutdown = [line for line in guest.trace.last().splitlines() if "reason shutdown" in line]
        report.check("the nested host's trace tells where the guest was", len(shutdown) == 1, "\n".join(shutdown))


def linux_release(report):
    """Started in the newest release, then upgraded and downgraded in turn."""
    try:
        released = release.newest()
    except release.Unavailable as why:
        report.skip("upgrades and downgrades across the newest release", str(why))
        return
    with StockGuest("--cpus", "2", "--memory", "512M", binaries=[released, moltvm.molt_binary()],
                    env=moltvm.beneath_a_release()) as guest:
        seconds = guest.boot()
        report.check("boots to a shell in the newest release", guest.shell.run("nproc")[0] == "2\n", "%.1f s" % seconds)
        many_updates(report, guest, 2)
        if guest.updates % 2 == 0:
            guest.update()
        reboot(report, guest, "acpi")
        guest.type_across_update(0)
        guest.shell.send("poweroff\r")
        report.check("'poweroff' ends the release with status 0", guest.updates % 2 == 0 and guest.wait_end() == 0)


STORIES = [
    ("linux-2cpu", linux_2cpu),
    ("linux-1cpu-5g", linux_1cpu_5g),
    ("linux-reboot", linux_reboot),
    ("linux-release", linux_release),
]


def use_huge_pages():
    """Guest RAM in huge pages, as on a host that is set up for guests: a page fault costs a millisecond here."""
    with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "w") as f:
        f.write("always")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    unknown = set(wanted) - {name for name, _ in STORIES}
    if unknown:
        sys.exit("no such story: " + " ".join(unknown))
    use_huge_pages()
    told = [s for s in STORIES if s[0] in wanted] if wanted else STORIES if moltvm.full() else STORIES[:1]
    sys.exit(Report().run(told))
