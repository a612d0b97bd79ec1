#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What guest RAM is made of (--memory): huge pages, transparent huge pages, prefault, and mapping in the
background after an update. None of it may change what the guest has in its RAM.

Huge pages are a setting of the host: the cases that need some reserve them, as root, and put the
setting back. Where that is not allowed they are skipped.
"""
import contextlib
import fcntl
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Skip, Vm, expect_error, molt, need_kvm, run_cases, sanitized

THP = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
PROBE = "period_ms=100 lost_ms=30000"


def read(path):
    with open(path) as f:
        return f.read()


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


class Pool:
    """The host's huge pages of one size."""

    def __init__(self, kib=2048):
        self.dir = "/sys/kernel/mm/hugepages/hugepages-%dkB/" % kib

    def count(self, what):
        return int(read(self.dir + what + "_hugepages"))

    def available(self):
        """What nobody has and nobody was promised."""
        return self.count("free") - self.count("resv")


@contextlib.contextmanager
def huge_pages(n, kib=2048):
    """n more huge pages for a while, one test run at a time: what is counted is the whole host's."""
    pool = Pool(kib)
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(pool.dir, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise Skip("no huge pages of %d KiB here: %s" % (kib, err))
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield stack.enter_context(reserved(pool, n, kib))


@contextlib.contextmanager
def reserved(pool, n, kib):
    try:
        had = pool.count("nr")
        write(pool.dir + "nr_hugepages", str(had + n))
    except OSError as err:
        raise Skip("no huge pages of %d KiB can be reserved here: %s" % (kib, err))
    try:
        if pool.count("nr") < had + n:
            raise Skip("the host has no room for %d huge pages of %d KiB" % (n, kib))
        yield pool
    finally:
        write(pool.dir + "nr_hugepages", str(had))


@contextlib.contextmanager
def shmem_huge(word):
    try:
        had = re.search(r"\[(\w+)\]", read(THP)).group(1)
        write(THP, word)
    except OSError as err:
        raise Skip("transparent huge pages for shared memory cannot be set here: %s" % err)
    try:
        yield
    finally:
        write(THP, had)


def ram_mappings(vm):
    """[(address, {field of smaps: KiB})] of guest RAM."""
    found = []
    for line in read("/proc/%d/smaps" % vm.pid).splitlines():
        head = re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line)
        if head:
            ram = "molt-ram" in line
            if ram:
                found.append((int(head.group(1), 16), {}))
        elif ram and re.match(r"\w+:\s+\d+ kB", line):
            key, value = line.split(":")
            found[-1][1][key] = int(value.split()[0])
    return found


def ram_allocated(vm):
    """Bytes that the memfds of guest RAM have taken."""
    return sum(os.stat("/proc/%d/fd/%d" % (vm.pid, fd)).st_blocks * 512
               for fd, (what, _) in vm.fds().items() if "molt-ram" in what)


def probe_passes(vm, n=2):
    """n more passes over all that the probe owns, RAM included; nothing has changed."""
    had = len(re.findall(r"^probe: pass ", vm.serial(), re.M))
    vm.wait_for(lambda: len(re.findall(r"^probe: pass .*\n", vm.serial(), re.M)) >= had + n,
                "%d more passes" % n)
    assert "CHANGED" not in vm.serial(), re.findall("^.*CHANGED.*$", vm.serial(), re.M)


def touched(vm, n=1):
    """n more passes of the toucher; every word of its RAM was what it should be."""
    def count():
        return len(re.findall(r"^toucher: pass .*\n", vm.serial(), re.M))
    had = count()
    vm.wait_for(lambda: count() >= had + n, "%d more passes" % n)
    assert set(re.findall(r"changes=(\d+)", vm.serial())) == {"0"}, vm.serial()[-500:]


# ---- reserved huge pages ----

def test_hugepages_over_five_updates():
    with huge_pages(40) as pool:
        free = pool.available()
        with Vm("--memory", "64M,hugepages=2M", kernel="probe", cmdline=PROBE) as vm:
            vm.wait_serial("probe: ready")
            assert pool.available() == free - 32, "all of RAM is reserved from the beginning"
            for _ in range(5):
                probe_passes(vm, 1)
                assert vm.update()["pid"] == vm.pid
                [(at, smaps)] = ram_mappings(vm)
                assert smaps["KernelPageSize"] == 2048 and at % (2 << 20) == 0, (at, smaps)
            probe_passes(vm)
            vm.settle()
            assert pool.available() == free - 32
        assert pool.available() == free, "they are given back"


def test_hugepages_of_1_gib():
    with huge_pages(1, kib=1 << 20) as pool:
        free = pool.available()
        with Vm("--memory", "1G,hugepages=1G", kernel="probe", cmdline=PROBE + " ram_mib=64") as vm:
            vm.wait_serial("probe: ready")
            for _ in range(2):
                vm.update()
                [(at, smaps)] = ram_mappings(vm)
                assert smaps["KernelPageSize"] == 1 << 20 and at % (1 << 30) == 0, (at, smaps)
                probe_passes(vm, 1)
            vm.settle()
            assert pool.available() == free - 1


def test_hugepages_after_a_reset():
    """A hole in hugetlbfs gives the reservation away with the page: it must be there again."""
    with huge_pages(40) as pool:
        free = pool.available()
        with Vm("--memory", "64M,hugepages=2M", kernel="toucher", cmdline="period_ms=50") as vm:
            for i in range(1, 4):
                touched(vm)
                vm.update()
                touched(vm)
                vm.settle()
                # Paused, or the guest would soon have taken again what it had before.
                vm.qmp.command("stop")
                vm.qmp.command("system_reset")
                vm.qmp.wait_event("RESET")
                assert pool.available() == free - 32
                assert pool.count("resv") > 16, "RAM was not given back"
                vm.qmp.command("cont")
                vm.wait_for(lambda: vm.serial().count("toucher: ready") == i + 1, "the next start")
            touched(vm)
        assert pool.available() == free


def test_hugepages_and_prefault():
    with huge_pages(40) as pool:
        unused = pool.count("free")
        with Vm("--memory", "64M,hugepages=on,prefault=on", cmdline="period_ms=20") as vm:
            vm.wait_ticks(1)
            assert pool.count("free") == unused - 32, "taken, not only reserved"
            vm.qmp.command("system_reset")
            vm.qmp.wait_event("RESET")
            assert pool.count("free") == unused - 32
            vm.wait_ticks(1)


def test_missing_huge_pages_are_told_at_the_start():
    pool = Pool()
    if not os.path.exists(pool.dir):
        raise Skip("this host has no huge pages of 2 MiB")
    # Twice what there is, and some: others may give back theirs meanwhile.
    mib = 4 * pool.count("nr") + 64
    done = molt("run", "--serial", "null", "--memory", "%dM,hugepages=2M" % mib)
    assert done.returncode == 1, done
    assert re.search(r"needs %d huge pages of 2 MiB, of which the host has \d+ free; more, as root: "
                     r"echo \d+ >%snr_hugepages" % (mib // 2, pool.dir), done.stderr), done.stderr


def test_ram_that_is_no_multiple():
    done = molt("run", "--serial", "null", "--memory", "65M,hugepages=2M")
    assert done.returncode == 2, done
    assert "no multiple of the huge pages' size, 2 MiB" in done.stderr, done


# ---- transparent huge pages ----

def test_thp_over_five_updates():
    with shmem_huge("advise"):
        with Vm("--memory", "64M,thp=on", kernel="probe", cmdline=PROBE) as vm:
            vm.wait_serial("probe: ready")
            assert "thp=on" not in vm.log(), vm.log()
            for _ in range(5):
                probe_passes(vm, 1)
                vm.update()
            probe_passes(vm)
            [(at, smaps)] = ram_mappings(vm)
            assert at % (2 << 20) == 0, hex(at)
            # The probe writes to all of its RAM, so what is there is mapped; by huge pages.
            assert smaps["ShmemPmdMapped"] >= 32 << 10, smaps


def test_thp_without_effect_is_told():
    with shmem_huge("never"):
        with Vm("--memory", "64M,thp=on", cmdline="period_ms=20") as vm:
            vm.wait_log(r"warn: .*thp=on has no effect.*shmem_enabled is 'never'.*hugepages=2M")
            vm.wait_ticks(1)


# ---- prefault ----

def test_prefault_before_the_guest_runs_and_after_its_reset():
    with Vm("--memory", "64M,prefault=on", "--pause", cmdline="period_ms=20") as vm:
        assert ram_allocated(vm) == 64 << 20
        vm.qmp.command("cont")
        vm.wait_ticks(1)
        vm.qmp.command("system_reset")
        vm.qmp.wait_event("RESET")
        assert ram_allocated(vm) == 64 << 20
        vm.update()
        vm.wait_ticks(2)
    with Vm("--memory", "64M", "--pause", cmdline="period_ms=20") as vm:
        assert ram_allocated(vm) < 8 << 20, "without it RAM is allocated when it is used"


def test_a_signal_ends_a_prefault():
    def pending():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)

    done = molt("run", "--serial", "null", "--memory", "64M,prefault=on", preexec_fn=pending)
    assert done.returncode == 128 + signal.SIGTERM, done
    assert "ended by a signal while guest RAM was populated" in done.stderr, done.stderr


# ---- mapping in the background after an update ----

BACKGROUND = r"(\d+) MiB of guest RAM mapped in the background"


def test_refault_in_the_background():
    with Vm("--memory", "128M,refault=background", kernel="toucher",
            cmdline="period_ms=50 touch_mib=64") as vm:
        touched(vm)
        assert not re.search(BACKGROUND, vm.log()), "a first start has nothing to map again"
        allocated = ram_allocated(vm)
        vm.update()
        # What the guest never touched is not mapped, for it would be allocated.
        assert 64 <= int(vm.wait_log(BACKGROUND).group(1)) < 80, vm.log()
        assert ram_allocated(vm) < allocated + (4 << 20)
        vm.settle()
        touched(vm, 3)


def test_refault_does_not_hold_up_the_next_update():
    """Updates in a row, until one came while RAM was being mapped; not a word of RAM changes."""
    with Vm("--memory", "256M,refault=background", kernel="toucher", cmdline="period_ms=50") as vm:
        touched(vm)
        for i in range(1, 41):
            vm.update()
            if i >= 5 and len(re.findall(BACKGROUND, vm.log())) < i - 1:
                break
        else:
            raise AssertionError("40 updates, and none came while RAM was being mapped")
        vm.wait_log(BACKGROUND)
        vm.settle()
        touched(vm, 3)
        assert vm.qmp.command("query-update")["updates"] == i


def test_refault_goes_on_in_the_stand_in():
    if sanitized():
        raise Skip("the stand-in does not work with sanitizers; see docs/testing.md")
    with Vm("--memory", "256M,refault=background", kernel="toucher", cmdline="period_ms=50") as vm:
        touched(vm)
        vm.update()
        expect_error(lambda: vm.update("/bin/false", no_check=True), "ended before it took")
        vm.wait_log(BACKGROUND)
        touched(vm, 3)


def test_refault_after_the_way_back():
    """The predecessor, executed again by a successor that failed, still has its own options."""
    with Vm("--memory", "64M,refault=background", kernel="toucher", cmdline="period_ms=50") as vm:
        touched(vm)
        stale = vm.path("stale")
        vm.update(state_file=stale)
        vm.wait_log(BACKGROUND)
        had = len(re.findall(BACKGROUND, vm.log()))
        os.unlink(stale)
        write(stale, "no state")
        expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:" + stale,
                                       no_check=True))
        vm.wait_for(lambda: len(re.findall(BACKGROUND, vm.log())) > had, "mapping once more")
        touched(vm, 2)


# ---- options on the successor's command line ----

def test_a_successor_has_options_of_its_own():
    with Vm("--memory", "64M", kernel="toucher", cmdline="period_ms=50") as vm:
        touched(vm)
        vm.update(vm.argv[0], "run", "--memory", "64M,refault=background,thp=off,prefault=on")
        vm.wait_log(BACKGROUND)
        vm.update(vm.argv[0], "run", "--memory", "64M,hugepages=2M")
        vm.wait_log("hugepages=.*keeps its pages of 4 KiB")
        touched(vm, 2)
        [(_, smaps)] = ram_mappings(vm)
        assert smaps["KernelPageSize"] == 4, smaps


if __name__ == "__main__":
    need_kvm()
    run_cases(globals())
