#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What an update needs beside guest RAM, measured in real control groups against what molt reckons, and that molt asks for
it: an update that would bring the out-of-memory killer is refused by name, and the guest runs on.
"""
import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from groups import control_group
from moltvm import QmpError, Skip, Vm, firmware, full, molt, molt_binary, need_kvm, run_cases, sanitized

KIB, MIB = 1 << 10, 1 << 20
# A CPU charges a group for so much in advance; it counts as in use until the limit is reached.
STOCK = os.cpu_count() * 256 * KIB
NEEDS = re.compile(r"the update needs (\d+) KiB beside guest RAM")
LAZILY = "guest RAM is not mapped in advance"

# With it, which meson sets, the C library writes to all memory that is allocated, used or not.
os.environ.pop("MALLOC_PERTURB_", None)


def passes(vm):
    return len(re.findall(r"^toucher: pass .* changes=0$", vm.serial(), re.M))


def runs_on(vm):
    """In the process that was started; of its RAM nothing has changed."""
    had = passes(vm)
    vm.qmp.command("query-status")
    vm.wait_for(lambda: passes(vm) >= had + 2, "two more passes")
    assert "changes=0" in vm.serial() and not re.search(r"changes=[1-9]", vm.serial())
    assert vm.proc.poll() is None and vm.pid == vm.proc.pid


@contextlib.contextmanager
def toucher(group, ram, cpus=1, touch=None, period=20, args=(), user=None, enter=None):
    """A guest in that group that has used so many MiB of its RAM, and goes on using them."""
    if sanitized():
        raise Skip("a sanitizer's memory is not molt's")
    touch = ram - 4 if touch is None else touch
    for path in (molt_binary(), firmware("toucher")):
        with open(path, "rb") as f:  # so that their page cache is not the group's
            f.read()
    more = ["--user", user] if user else []
    with Vm("--memory", "%dM" % ram, "--cpus", str(cpus), *args, *more, kernel="toucher",
            cmdline="touch_mib=%d period_ms=%d" % (touch, period), start=False) as vm:
        if user:
            os.chown(vm.dir, int(user), int(user))
        vm.popen["preexec_fn"] = enter or group.enter
        vm.start()
        vm.wait_serial("toucher: ready")
        runs_on(vm)
        yield vm


def refusal(vm, *command, **arguments):
    try:
        vm.update(*command, **arguments)
    except QmpError as why:
        return str(why)
    raise AssertionError("it was updated")


def settled(vm, group):
    """What is in use once nothing of an update is left."""
    vm.settle()
    if group.controller == "memory":
        group.reclaim()
    used, before = group.used(), None
    while used != before:
        signal.sigtimedwait([], 0.2)
        used, before = group.used(), used
    return used


def figure(vm, group):
    """What an update takes as molt reckons, in bytes: with RAM mapped lazily, as the sentence has it."""
    group.set_limit(settled(vm, group) + 512 * KIB)
    why = refusal(vm, check_only=True)
    group.set_limit(None)
    assert NEEDS.search(why), why
    return int(NEEDS.search(why).group(1)) * KIB


# ---- the measurement ----

def measure(ram, cpus, touch, binary_sent=False, args=()):
    with control_group() as group, toucher(group, ram, cpus, touch, period=5, args=args) as vm:
        reckoned = figure(vm, group)
        if binary_sent:
            reckoned += os.stat(molt_binary()).st_size
        used = settled(vm, group)
        if binary_sent:
            assert molt("update", vm.control_path, "--", molt_binary(), "run").returncode == 0
        else:
            vm.update()
        runs_on(vm)
        took = group.peak() - used
        print("# RAM %4d MiB, %4d of them used, %2d vCPU(s)%s: %5d KiB at the most, reckoned %5d" % (
            ram, touch, cpus, ", binary sent" if binary_sent else "", took // KIB, reckoned // KIB), flush=True)
        return took, reckoned


def available():
    with open("/proc/meminfo") as f:
        return int(re.search(r"^MemAvailable: *(\d+) kB$", f.read(), re.M).group(1)) * KIB


def test_what_an_update_needs():
    """What is reckoned is enough, and not so much more that updates are refused for nothing."""
    cases = [(64, 1, 60), (64, 1, 2), (64, 8, 60), (256, 1, 250), (1024, 1, 8)]
    if full():
        cases += [(64, 32, 60), (1024, 1, 1000), (3072, 2, 3000), (8192, 2, 100)]
    for ram, cpus, touch in cases:
        if touch * MIB > available() // 2:
            continue
        took, reckoned = measure(ram, cpus, touch)
        assert took <= reckoned + STOCK, (ram, cpus, touch)
        assert reckoned <= 2 * took + MIB, (ram, cpus, touch)


def test_a_binary_that_is_sent_is_copied():
    took, reckoned = measure(64, 1, 60, binary_sent=True)
    assert took <= reckoned + STOCK and reckoned <= 2 * took + MIB


def test_no_stack_can_be_a_huge_page():
    """Which a host may make of whatever anonymous memory has room for one."""
    if sanitized():
        raise Skip("a sanitizer's memory is not molt's")
    with Vm("--memory", "64M", "--cpus", "8", cmdline="period_ms=20") as vm:
        for _ in range(2):
            vm.wait_ticks(2)
            with open("/proc/%d/maps" % vm.pid) as f:
                found = re.findall(r"^(\w+)-(\w+) rw-p \S+ 00:00 0 *$", f.read(), re.M)
            sizes = [int(end, 16) - int(start, 16) for start, end in found]
            assert sizes and max(sizes) < 2 * MIB, sizes
            vm.update()
            vm.settle()


# ---- too little ----

def test_too_little_is_refused_and_enough_is_enough():
    with control_group() as group, toucher(group, 64) as vm:
        need = figure(vm, group)
        for missing in (need // 2, need // 4):
            group.set_limit(settled(vm, group) + need - missing)
            why = refusal(vm)
            assert NEEDS.search(why) and "control group " + group.path in why, why
            assert os.path.basename(group.limit_file()) in why, why
            assert re.search(r"by \d+ KiB", why), why
            done = molt("update", vm.control_path)
            assert done.returncode != 0 and NEEDS.search(done.stderr), done
            runs_on(vm)
        for _ in range(10):
            # In use is never less than it was found to be: what a CPU has in stock goes and comes.
            group.set_limit(settled(vm, group) + need + STOCK)
            vm.update()
            runs_on(vm)
        assert vm.qmp.command("query-update")["updates"] == 10
        assert group.killed() == 0


def test_whatever_the_limit_the_guest_lives():
    """Release 0.1.0 was killed in the first update with RAM + 3 MiB, in the second with 4 and 5, on kvm_pvm."""
    for extra in (3, 4, 5, 8):
        with control_group(limit=(128 + extra) * MIB) as group, toucher(group, 128, touch=128) as vm:
            for _ in range(3):
                try:
                    vm.update()
                except QmpError as why:
                    assert NEEDS.search(str(why)) and extra != 8, why
                runs_on(vm)
                vm.settle()
            assert group.killed() == 0


def test_what_the_sentence_says_helps():
    with control_group() as group, toucher(group, 64) as vm:
        limit = settled(vm, group) + 512 * KIB
        for _ in range(5):
            group.set_limit(limit)
            try:
                vm.update()
                break
            except QmpError as why:
                limit += int(re.search(r"by (\d+) KiB", str(why)).group(1)) * KIB
                settled(vm, group)
        runs_on(vm)
        assert vm.qmp.command("query-update")["updates"] == 1 and group.killed() == 0


def test_a_successor_that_fails_needs_no_more():
    """With just as much as is asked for the ways back have room, too."""
    with control_group() as group, toucher(group, 64, 2) as vm:
        need = figure(vm, group)
        group.set_limit(settled(vm, group) + need + STOCK)
        refusal(vm, "/bin/false", no_check=True)
        vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
        had = passes(vm)
        vm.wait_for(lambda: passes(vm) >= had + 2, "two more passes")
        assert group.killed() == 0


def test_an_ancestors_limit():
    with control_group() as group, group.child() as child, toucher(child, 64) as vm:
        group.set_limit(settled(vm, child) + 512 * KIB)
        why = refusal(vm)
        assert "control group %s has" % group.path in why, why
        runs_on(vm)
        group.set_limit(None)
        vm.update()
        runs_on(vm)


def test_without_ram_in_advance():
    """Between what is needed at least and what is needed with tables of all RAM."""
    with control_group() as group, toucher(group, 512) as vm:
        need = figure(vm, group)
        group.set_limit(settled(vm, group) + need + STOCK)
        vm.update()
        assert LAZILY in vm.log()
        runs_on(vm)
        group.set_limit(settled(vm, group) + need + 4 * MIB)
        size = len(vm.log())
        vm.update()
        assert LAZILY not in vm.log()[size:]
        runs_on(vm)
        assert group.killed() == 0


def test_page_cache_is_room():
    """A group that is full of what the kernel takes back is not full; nor does it take root to see that."""
    with control_group() as group, toucher(group, 64, user=str(100000 + os.getpid())) as vm:
        kind = subprocess.run(["stat", "-f", "-c", "%T", "."], capture_output=True, text=True, check=True).stdout
        if "tmpfs" in kind or "ramfs" in kind or not os.access(".", os.W_OK):
            raise Skip("files in this directory have no page cache that can be freed")
        need = figure(vm, group)
        used = settled(vm, group)
        with tempfile.NamedTemporaryFile(prefix="molt-test-", dir=".") as f:
            subprocess.run(["dd", "if=/dev/zero", "of=" + f.name, "bs=1M", "count=16", "conv=fsync"], check=True,
                           stderr=subprocess.DEVNULL, preexec_fn=group.enter)
            assert group.used() - used > 12 * MIB
            group.set_limit(group.used() + need // 4)
            vm.update()
            runs_on(vm)
        assert group.killed() == 0


# ---- threads ----

def test_threads():
    with control_group("pids") as group, toucher(group, 64) as vm:
        vm.settle(bodies=False)
        group.set_limit(group.used())
        why = refusal(vm)
        assert re.search(r"needs \d+ more threads, and control group %s has room for 0: raise pids.max" % group.path,
                         why), why
        runs_on(vm)
        group.set_limit(group.used() + int(re.search(r"needs (\d+) more threads", why).group(1)))
        vm.update()
        runs_on(vm)


def test_threads_of_the_user():
    """No other process is that user's, so the figure is exact."""
    def start(group, limit, offset):
        def enter():
            group.enter()
            if limit:
                resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
        return toucher(group, 64, user=str(100000 * offset + os.getpid()), enter=enter)

    with control_group("pids") as group:
        with start(group, None, 2) as vm:
            threads = vm.status("Threads")
        with start(group, threads, 3) as vm:
            why = refusal(vm)
            found = re.search(r"needs (\d+) more threads, and molt's user has room for 0: "
                              r"raise RLIMIT_NPROC \(ulimit -u\), which is %d$" % threads, why)
            assert found, why
            runs_on(vm)
        with start(group, threads + int(found.group(1)), 4) as vm:
            vm.update()
            runs_on(vm)


# ---- main's stack ----

def test_stack():
    """The soft limit is raised: the stack overflowed in an update, or right after one, and the guest was gone."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    with Vm("--memory", "64M", kernel="toucher", cmdline="touch_mib=32 period_ms=20", start=False) as vm:
        vm.popen["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_STACK, (80 * KIB, hard))
        vm.start()
        vm.wait_serial("toucher: ready")
        for _ in range(3):
            vm.update()
        runs_on(vm)


need_kvm()
run_cases(globals())
