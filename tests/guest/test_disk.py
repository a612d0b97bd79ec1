#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Disks: the tiny guest disk reads and writes with many requests in flight, of every kind and split at any byte, and
verifies what it reads, while it is updated, its I/O process is killed, its file is shortened and so on. Every line
"disk: at ..." of its output says where it is.
"""
import contextlib
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Skip, Vm, expect_error, full, io_processes, molt, need_kvm, other_molt, run_cases, sanitized,
                    write_script)

SEED = int(os.environ.get("MOLT_VIRTIO_SEED", "20261127"))
MIB = 1 << 20
PASS = re.compile(r"^disk: pass (\d+) (.*)\n", re.M)
BLOCK = 4096
MULTIPLIER = 0x9e3779b97f4a7c15
INVERSE = pow(MULTIPLIER, -1, 1 << 64)


def check(vm):
    serial = vm.serial()
    assert "BAD" not in serial and "EXCEPTION" not in serial, serial[-2000:]


def passes(vm):
    check(vm)
    return [dict((k, int(v)) for k, v in re.findall(r"(\w+)=(\d+)", m.group(2))) for m in PASS.finditer(vm.serial())]


def wait_passes(vm, n):
    had = len(passes(vm))
    vm.wait_for(lambda: len(passes(vm)) >= had + n, lambda: "%d more passes (%s)" % (n, vm.serial()[-400:]))
    return passes(vm)[-1]


def wait_requests(vm, n):
    """Some more of them, by the guest's own count."""
    def count():
        check(vm)
        return int((re.findall(r" requests=(\d+)", vm.serial()) or ["0"])[-1])

    had = count()
    vm.wait_for(lambda: count() >= had + n, lambda: "%d more requests (%s)" % (n, vm.serial()[-400:]))


def wait_done(vm):
    vm.wait_for(lambda: vm.proc.poll() is not None or check(vm), lambda: "end (%s)" % vm.serial()[-400:])
    check(vm)
    assert vm.wait_exit() == 0 and "disk: done" in vm.serial(), vm.serial()[-500:]
    return passes(vm)[-1]


def power_off(vm):
    vm.qmp.command("system_powerdown")
    return wait_done(vm)


def is_whole(path, mib):
    """Each block of the image is zeroes or one write of that very block."""
    with open(path, "rb") as f:
        for block in range(mib * MIB // BLOCK):
            words = struct.unpack("<512Q", f.read(BLOCK))
            if words[0] or words[1]:
                gen, of = divmod(words[0] * INVERSE % (1 << 64), 1 << 32)
                assert of == block and gen, (block, of, gen)
                assert list(words) == [(words[0] + i) % (1 << 64) for i in range(512)], block


@contextlib.contextmanager
def guest(cmdline="", options="", mib=8, *args, start=True, seed=0):
    """A guest with a disk that is all zeroes."""
    with tempfile.TemporaryDirectory(prefix="molt-test-") as d:
        path = os.path.join(d, "image")
        with open(path, "wb") as f:
            f.truncate(mib * MIB)
        with Vm("--memory", "48M", "--disk", "path=%s%s" % (path, options), *args, kernel="disk", start=start,
                cmdline="seed=%d %s" % (SEED + seed, cmdline)) as vm:
            vm.image = path
            if start:
                vm.wait_serial("disk: ready")
            yield vm


ENGINES = (",engine=io_uring", ",engine=threads")


# ---- work ----

def test_requests_of_every_kind():
    for engine in ENGINES:
        with guest("passes=5 first=zero requests=1500", engine) as vm:
            last = wait_done(vm)
            assert last["errors"] == 0 and last["late"] < 5, last
            assert min(last[kind] for kind in ("in", "out", "flush", "id", "discard", "zeroes")) > 20, last


def test_many_queues_and_depth():
    with guest("passes=4 first=zero queues=4 size=128 depth=256 blocks=2", ",queues=4,queue-size=128") as vm:
        assert wait_done(vm)["errors"] == 0
        assert len(io_processes(vm)) == 0, "it ends with its guest"


def test_rings_wrap():
    with guest("passes=1 first=zero plain=on size=64 depth=64 blocks=1 requests=67000") as vm:
        assert wait_done(vm)["errors"] == 0
        is_whole(vm.image, 8)


def test_direct():
    with guest("passes=2 first=zero requests=1000", ",direct=on") as vm:
        assert wait_done(vm)["errors"] == 0


def test_every_queue_size():
    """The queue is as full as can be: depth is beyond what fits."""
    for size in (4, 1024) if not full() else [1 << n for n in range(2, 11)]:
        with guest("passes=2 first=zero requests=800 blocks=2 size=%d depth=%d" % (size, min(2 * size, 512)),
                   ",queue-size=%d" % size) as vm:
            assert wait_done(vm)["errors"] == 0


# ---- updates ----

def updates(vm, n, seed, longest=0.04):
    rnd = random.Random(SEED + seed)
    for i in range(1, n + 1):
        time.sleep(rnd.random() * longest)
        assert vm.update()["updates"] == i
        check(vm)


def test_updates_under_load():
    """Random moments: requests are in the ring, with the process, done and not seen."""
    for engine in ENGINES:
        with guest("first=zero depth=48", engine, seed=1) as vm:
            updates(vm, 300 if full() else 20, 1)
            wait_passes(vm, 1)
            assert power_off(vm)["errors"] == 0


def test_updates_with_held_requests():
    """Requests that wait for a limit, many at any time, are neither lost nor done twice."""
    with guest("first=zero depth=48 plain=on requests=50 blocks=2", ",ops=400/10", 1, seed=2) as vm:
        updates(vm, 100 if full() else 8, 2)
        wait_passes(vm, 1)
        power_off(vm)
        is_whole(vm.image, 1)


def test_updates_with_many_queues():
    with guest("first=zero queues=8 depth=128 blocks=2", ",queues=8", seed=3) as vm:
        updates(vm, 100 if full() else 10, 3)
        wait_passes(vm, 1)
        assert power_off(vm)["errors"] == 0


def test_failed_updates_under_load():
    rnd = random.Random(SEED + 4)
    with guest("first=zero depth=48", seed=4) as vm:
        script = write_script(vm.path("molt"), "this is no program\n")
        for i in range(60 if full() else 6):
            time.sleep(rnd.random() * 0.04)
            expect_error(lambda: vm.update(script, no_check=True), "exec format error")
            expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
            check(vm)
            if i % 3 == 2:
                vm.update()
        wait_passes(vm, 1)
        assert power_off(vm)["errors"] == 0


def test_stop_and_cont():
    rnd = random.Random(SEED + 5)
    with guest("first=zero depth=48", seed=5) as vm:
        for i in range(12):
            time.sleep(rnd.random() * 0.04)
            vm.qmp.command("stop")
            if i % 2:
                vm.update()
            vm.qmp.command("cont")
            check(vm)
        wait_passes(vm, 1)
        assert power_off(vm)["errors"] == 0


def test_machine_reset():
    """A guest that is gone from one instruction to the next leaves nothing behind that writes into the next one."""
    rnd = random.Random(SEED + 6)
    with guest("depth=48", seed=6) as vm:
        for i in range(8):
            vm.wait_for(lambda: vm.serial().count("disk: ready") > i, "the next start")
            time.sleep(0.02 + rnd.random() * 0.1)
            if i % 3 == 1:
                vm.update()
            check(vm)
            vm.qmp.command("system_reset")
        vm.wait_for(lambda: vm.serial().count("disk: ready") > i + 1, "the last start")
        wait_passes(vm, 1)
        assert power_off(vm)["errors"] == 0


# ---- the I/O process ----

def kill_io(vm):
    for pid in io_processes(vm):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_io_process_killed():
    """At any moment: what was in flight is done by the next one, and the guest sees no error."""
    rnd = random.Random(SEED + 7)
    for engine in ENGINES:
        with guest("first=zero depth=48 plain=on requests=1000", engine, seed=7) as vm:
            for _ in range(100 if full() else 4):
                time.sleep(rnd.random() * 0.05)
                vm.wait_for(lambda: io_processes(vm), "an I/O process")
                kill_io(vm)
                check(vm)
            wait_passes(vm, 1)
            assert power_off(vm)["errors"] == 0
            is_whole(vm.image, 8)


def test_io_process_killed_around_updates():
    rnd = random.Random(SEED + 8)
    with guest("first=zero depth=48", seed=8) as vm:
        for i in range(60 if full() else 8):
            time.sleep(rnd.random() * 0.03)
            kill_io(vm)
            time.sleep(rnd.random() * 0.02)
            if i % 4 == 3:
                expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
            else:
                vm.update()
            check(vm)
        wait_passes(vm, 1)
        assert power_off(vm)["errors"] == 0


MIXES = ((",direct=on,queues=4", "queues=4 depth=64"),
         (",engine=threads,queues=4", "queues=4 depth=64 blocks=16"),
         (",queues=2,ops=2000/50,bytes=40000000", "queues=2 depth=64"))


def something(vm, rnd):
    """One of what may happen to a guest, the I/O process killed before it or not."""
    if rnd.randrange(3) == 0:
        kill_io(vm)
    what = rnd.randrange(4)
    if what == 0:
        expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
    elif what == 1:
        vm.qmp.command("stop")
        kill_io(vm)
        vm.update()
        vm.qmp.command("cont")
    elif what == 2:
        vm.update()
    check(vm)


def test_all_of_it_at_random():
    for seed in range(SEED, SEED + (20 if full() else 1)):
        for n, (options, cmdline) in enumerate(MIXES):
            rnd = random.Random(seed)
            with guest("first=zero use_mib=2 " + cmdline, options, seed=n) as vm:
                for _ in range(8):
                    time.sleep(rnd.random() * 0.04)
                    something(vm, rnd)
                wait_passes(vm, 1)
                assert power_off(vm)["errors"] == 0


def test_io_process_stopped():
    """It hangs for a while: the guest waits, updates go on, no error."""
    with guest("first=zero depth=16 plain=on requests=500", seed=9) as vm:
        wait_passes(vm, 1)
        pid = io_processes(vm)[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                vm.update()
            time.sleep(0.3)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        wait_passes(vm, 2)
        assert power_off(vm)["errors"] == 0


def back_end(vm):
    return vm.qmp.command("query-block")[0]["back-end"]


def test_successor_whose_io_process_dies():
    """The disk goes on by the process of the binary before, until another update brings a better one."""
    bad = other_molt("dead-io")
    with guest("first=zero depth=16", seed=12) as vm:
        wait_passes(vm, 1)
        served_by, = io_processes(vm)
        vm.update(bad, *vm.argv[1:])
        vm.wait_for(lambda: vm.log().count("an I/O process of this binary: it has ended") >= 2, "two tries")
        wait_passes(vm, 2)
        assert served_by in io_processes(vm) and back_end(vm)["outdated"]
        vm.fail_update([other_molt("no-i8042"), *vm.argv[1:]])  # given back: still to be replaced
        vm.wait_for(lambda: len(re.findall("it has ended; .*tried in 1 s", vm.log())) >= 2, "another try")
        assert back_end(vm)["outdated"]
        vm.update(*vm.argv)
        vm.wait_for(lambda: not back_end(vm).get("outdated", True), "the next I/O process")
        assert back_end(vm)["pid"] != served_by
        vm.fail_update([bad, "run", "--incoming", "file:/no"])
        assert not back_end(vm)["outdated"]
        wait_passes(vm, 1)
        assert power_off(vm)["errors"] == 0


# ---- the file ----

def test_readonly():
    with guest("passes=2 readonly=on first=zero", ",readonly=on") as vm:
        last = wait_done(vm)
        assert last["errors"] == last["out"] > 100, last
        with open(vm.image, "rb") as f:
            assert f.read() == bytes(8 * MIB)


def test_file_that_becomes_shorter():
    """Whoever reads or writes beyond its end has an I/O error, and nobody dies of it."""
    with guest("errors=on plain=on requests=500", seed=10) as vm:
        assert wait_passes(vm, 1)["errors"] == 0
        served_by = io_processes(vm)
        os.truncate(vm.image, 3 * MIB + 1000)
        vm.wait_for(lambda: passes(vm)[-1]["errors"] > 0, "an I/O error")
        vm.update()
        wait_passes(vm, 1)
        os.truncate(vm.image, 8 * MIB)
        assert served_by and "its I/O process" not in vm.log(), vm.log()
        power_off(vm)


def test_locks():
    """One writer, told by name; readers beside each other; kept over updates, and gone with the guest."""
    with guest("plain=on") as vm:
        for _ in range(2):
            done = molt("run", "--serial", "null", "--disk", "path=" + vm.image)
            assert done.returncode == 1 and vm.image in done.stderr and "lock" in done.stderr, done
            done = molt("run", "--serial", "null", "--disk", "path=%s,readonly=on" % vm.image)
            assert done.returncode == 1 and vm.image in done.stderr, done
            vm.update()
            expect_error(lambda: vm.update(vm.argv[0], "run", "--incoming", "file:/no", no_check=True))
        power_off(vm)
        options = ["--memory", "48M", "--disk", "path=%s,readonly=on" % vm.image]
        with Vm(*options, kernel="disk", cmdline="readonly=on") as one, \
                Vm(*options, kernel="disk", cmdline="readonly=on") as two:
            for reader in (one, two):
                reader.wait_serial("disk: ready")


def test_files_that_cannot_be():
    with tempfile.TemporaryDirectory(prefix="molt-test-") as d:
        empty = os.path.join(d, "empty")
        open(empty, "w").close()
        for path in (d, os.path.join(d, "none"), "/dev/null", empty):
            done = molt("run", "--serial", "null", "--disk", "path=" + path)
            assert done.returncode == 1 and path in done.stderr, (path, done)


def test_limits():
    """So many requests a second and no more, also over updates."""
    with guest("plain=on first=zero requests=100 blocks=1 depth=16", ",ops=500/5", 1, seed=11) as vm:
        wait_passes(vm, 1)
        began, had = time.monotonic(), passes(vm)[-1]["requests"]
        for _ in range(3):
            wait_passes(vm, 1)
            vm.update()
        took, did = time.monotonic() - began, passes(vm)[-1]["requests"] - had
        # FLUSH and GET_ID are for nothing: about 6 in 100.
        assert did / took < 500 * 1.2, (did, took)
        assert sanitized() or did / took > 250, (did, took)
        power_off(vm)


def test_disk_is_what_it_was_for_the_next_guest():
    """What one guest has written another one reads: all that its last pass verified is in the file."""
    with guest("plain=on first=zero passes=2") as vm:
        wait_done(vm)
        is_whole(vm.image, 8)
        shutil.copy(vm.image, vm.path("copy"))
        with Vm("--memory", "48M", "--disk", "path=" + vm.path("copy"), kernel="disk", cmdline="passes=1") as other:
            assert wait_done(other)["errors"] == 0


need_kvm()
run_cases(globals())
