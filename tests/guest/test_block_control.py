#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Disks as the control socket shows and changes them: sizes, limits, counters, who serves them."""
import json
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from moltvm import Qmp, Skip, Vm, expect_error, molt, molt_binary, need_kvm, run_cases

MIB = 1 << 20
# include/molt/virtio/io_board.h
KIND_BYTES = 4 * 8 + 48 * 8


class DiskVm(Vm):
    """A guest that ticks, with a disk `data` of 64 MiB; options: what else --disk says."""

    def __init__(self, options="", *args, **kwargs):
        super().__init__(*args, start=False, **{"cmdline": "period_ms=20", **kwargs})
        self.image = self.path("disk.img")
        with open(self.image, "wb") as f:
            f.truncate(64 * MIB)
        self.argv += ["--disk", "path=%s,id=data%s" % (self.image, options)]
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def block(self, name="data"):
        return [b for b in self.qmp.command("query-block") if b["device"] == name][0]

    def size(self):
        return self.block()["inserted"]["image"]["virtual-size"]

    def io_pid(self):
        """Of the I/O process, once there is one."""
        self.wait_for(lambda: "pid" in self.block()["back-end"], "an I/O process")
        return self.block()["back-end"]["pid"]

    def wait_other_io(self, pid):
        self.wait_for(lambda: self.block()["back-end"].get("pid", pid) != pid, "another I/O process")
        self.wait_for(lambda: self.block()["back-end"]["state"] == "ready", "its being ready")
        return self.io_pid()

    def stats(self, **arguments):
        return self.qmp.command("query-blockstats", device="data", **arguments)[0]

    def board(self):
        """Its memory, which the I/O process and molt share."""
        number = [n for n, (what, _) in self.fds().items() if "molt-io-board" in what][0]
        with open("/proc/%d/fd/%d" % (self.pid, number), "r+b", buffering=0) as f:
            return mmap.mmap(f.fileno(), 0)

    def still_ticks(self):
        self.wait_ticks(2)
        self.check_ticks()


def count(board, queue, kind, requests, errors, moved, ns):
    """What the I/O process would write if a guest's driver had done something."""
    header, queue_bytes = (int.from_bytes(board[at: at + 4], "little") for at in (16, 20))
    at = header + queue * queue_bytes + kind * KIND_BYTES
    for i, value in enumerate((requests, errors, moved, ns)):
        board[at + 8 * i: at + 8 * i + 8] = value.to_bytes(8, "little")
    board[at + 32: at + 40] = requests.to_bytes(8, "little")  # all of them very fast


def test_what_is_shown():
    with DiskVm(",queues=2,queue-size=128,readonly=on,engine=threads") as vm:
        b = vm.block()
        inserted, back_end = b["inserted"], b["back-end"]
        assert (b["qdev"], inserted["node-name"], inserted["ro"]) == ("data", "data", True), b
        assert inserted["file"] == inserted["image"]["filename"] == vm.image, b
        assert inserted["image"]["virtual-size"] == 64 * MIB, b
        assert (inserted["iops"], inserted["bps"], "iops_max" in inserted) == (0, 0, False), b
        assert (back_end["type"], back_end["queues"], back_end["queue-size"]) == ("molt-io", 2, 128), b
        assert (back_end["state"], back_end["engine"]) == ("ready", "threads"), b
        with open("/proc/%d/cmdline" % back_end["pid"], "rb") as f:
            assert b"\0io\0" in f.read()
        stats = vm.stats(queues=True)
        assert len(stats["queues"]) == 2 and stats["stats"]["rd_operations"] == 0, stats
        bounds = stats["stats"]["rd_latency_histogram"]["boundaries"]
        assert bounds == sorted(bounds) and bounds[0] == 1024, bounds
        assert len(stats["stats"]["rd_latency_histogram"]["bins"]) == len(bounds) + 1
        time.sleep(0.05)
        assert vm.block()["back-end"]["state-ms"] >= back_end["state-ms"] + 50


def test_no_disks():
    with Vm(cmdline="period_ms=20") as vm:
        assert vm.qmp.command("query-block") == []
        assert vm.qmp.command("query-blockstats") == []
        expect_error(lambda: vm.qmp.command("block_resize", device="serial", size=512), "Cannot find")
        assert "no disks" in molt("stats", vm.control_path).stdout


def test_resize_while_the_guest_runs():
    with DiskVm() as vm:
        for size in (128 * MIB, 32 * MIB, 32 * MIB, 512, 8 << 30):
            assert vm.qmp.command("block_resize", device="data", size=size) == {}
            assert (vm.size(), os.stat(vm.image).st_size) == (size, size)
            vm.still_ticks()
        assert vm.qmp.command("block_resize", node_name="data", size=MIB) == {}
        vm.update()
        assert vm.size() == MIB
        vm.qmp.command("block_resize", device="data", size=2 * MIB)
        assert vm.size() == 2 * MIB


def test_a_resize_by_somebody_else():
    """The file is longer already when molt is told."""
    with DiskVm() as vm:
        os.truncate(vm.image, 96 * MIB)
        assert vm.size() == 64 * MIB
        vm.qmp.command("block_resize", device="data", size=96 * MIB)
        assert vm.size() == 96 * MIB


def test_sizes_that_cannot_be():
    with DiskVm() as vm:
        def resize(**arguments):
            return lambda: vm.qmp.command("block_resize", **arguments)

        expect_error(resize(device="data", size=1000), "multiple of 512")
        for size in (0, -512, -(1 << 63)):
            expect_error(resize(device="data", size=size), "positive")
        vm.limit(resource.RLIMIT_FSIZE, 1 << 40)
        expect_error(resize(device="data", size=(1 << 63) - 512), "disk.img")
        expect_error(resize(device="data", size=1 << 63), "integer")
        expect_error(resize(device="data", size="1M"), "expected: integer")
        expect_error(resize(device="other", size=512), "Cannot find")
        expect_error(resize(device="data", node_name="data", size=512), "exactly one")
        expect_error(resize(size=512), "exactly one")
        expect_error(lambda: vm.qmp.command("query-blockstats", queues=True), "needs a 'device'")
        assert (vm.size(), os.stat(vm.image).st_size) == (64 * MIB, 64 * MIB)
        vm.still_ticks()
    with DiskVm(",readonly=on") as vm:
        expect_error(lambda: vm.qmp.command("block_resize", device="data", size=MIB), "read-only")
        assert os.stat(vm.image).st_size == 64 * MIB
        vm.qmp.command("block_resize", device="data", size=64 * MIB)


def test_a_process_that_does_not_answer():
    """Then the resize ends with an error, in time, and nobody else waits for it."""
    with DiskVm() as vm:
        pid = vm.io_pid()
        os.kill(pid, signal.SIGSTOP)
        other = Qmp(vm.control_path)
        began = time.monotonic()
        vm.qmp.send("block_resize", {"device": "data", "size": MIB}, id="slow")
        assert other.command("query-status")["running"]
        vm.wait_for(lambda: os.stat(vm.image).st_size == MIB, "the file's new length")
        expect_error(lambda: other.command("block_resize", device="data", size=MIB), "under way")
        said = vm.qmp.answer()
        assert 4 < time.monotonic() - began < 9, time.monotonic() - began
        assert said["id"] == "slow" and "has not looked" in said["error"]["desc"], said
        os.kill(pid, signal.SIGCONT)
        vm.wait_for(lambda: vm.size() == MIB, "the size that was too late")
        vm.qmp.command("block_resize", device="data", size=2 * MIB)
        vm.still_ticks()


def test_a_process_that_dies_with_it():
    with DiskVm() as vm:
        for size in (MIB, 3 * MIB, 2 * MIB):
            pid = vm.io_pid()
            os.kill(pid, signal.SIGSTOP)
            vm.qmp.send("block_resize", {"device": "data", "size": size})
            vm.wait_for(lambda: os.stat(vm.image).st_size == size, "the file's new length")
            os.kill(pid, signal.SIGKILL)
            assert vm.qmp.result() == {}
            assert vm.size() == size
            assert vm.wait_other_io(pid) != pid
            time.sleep(0.05 if size != MIB else 0)
        vm.still_ticks()


def pending_over(update):
    """A resize waits while update(vm, qmp) is done; then it is answered."""
    with DiskVm() as vm:
        pid = vm.io_pid()
        os.kill(pid, signal.SIGSTOP)
        vm.qmp.send("block_resize", {"device": "data", "size": MIB}, id=[1, "x"])
        vm.wait_for(lambda: os.stat(vm.image).st_size == MIB, "the file's new length")
        update(vm, Qmp(vm.control_path))
        os.kill(pid, signal.SIGCONT)
        said = vm.qmp.answer()
        assert said == {"return": {}, "id": [1, "x"]}, said
        assert vm.size() == MIB
        vm.still_ticks()


def test_a_resize_over_an_update():
    pending_over(lambda vm, qmp: qmp.command("update", no_io=True))


def test_a_resize_over_updates_that_fail():
    def fail(vm, qmp):
        expect_error(lambda: qmp.command("update", command=["/bin/false"], no_check=True), "")
        vm.follow(qmp.wait_event("UPDATE_FAILED")["data"]["pid"])

    pending_over(fail)


def test_limits():
    with DiskVm(",ops=1000/100") as vm:
        def limits():
            inserted = vm.block()["inserted"]
            return tuple(inserted.get(k) for k in ("iops", "iops_max", "bps", "bps_max"))

        def throttle(**arguments):
            vm.qmp.send("block_set_io_throttle", arguments)
            return vm.qmp.result()

        assert limits() == (1000, 100, 0, None)
        throttle(device="data", iops=500, bps=1 << 20)
        assert limits() == (500, 50, 1 << 20, (1 << 20) // 10)
        throttle(id="data", iops=10 ** 15, iops_max=10 ** 15, bps=0, bps_rd=0, iops_max_length=1)
        assert limits() == (10 ** 15, 10 ** 15, 0, None)
        throttle(device="data", iops=7, iops_max=3, bps=9, bps_max=2)
        for _ in range(3):
            pid = vm.io_pid()
            vm.update()
            assert limits() == (7, 3, 9, 2)
            pid = vm.wait_other_io(pid)
            os.kill(pid, signal.SIGKILL)
            vm.wait_other_io(pid)
            assert limits() == (7, 3, 9, 2)
        for bad in ({"iops": -1}, {"iops": 10 ** 15 + 1}, {"iops": 5, "iops_rd": 1}, {"iops": 5, "group": "g"},
                    {"iops": 5, "iops_size": 4096}, {"iops": 0, "iops_max": 5}, {"iops": 5, "bps_max_length": 7}):
            expect_error(lambda: throttle(device="data", bps=0, **bad), list(bad)[-1])
        assert limits() == (7, 3, 9, 2)
        throttle(device="data", iops=0, bps=0)
        assert limits() == (0, None, 0, None)


def test_counters_go_on():
    """Over updates with another I/O process and without, over its death, and over the guest's reset."""
    with DiskVm(",queues=2") as vm:
        with vm.board() as board:
            count(board, 0, 0, 10, 1, 40960, 5000)
            count(board, 1, 0, 5, 0, 4096, 700)
            count(board, 1, 2, 3, 0, 0, 9)
            pid = vm.io_pid()

            def check(reads, flushes=3):
                s = vm.stats(queues=True)
                assert s["stats"]["rd_operations"] == reads - 1, s["stats"]
                assert s["stats"]["failed_rd_operations"] == 1, s["stats"]
                assert s["stats"]["rd_bytes"] == 45056 and s["stats"]["rd_total_time_ns"] == 5700, s["stats"]
                assert s["stats"]["flush_operations"] == flushes, s["stats"]
                assert sum(s["stats"]["rd_latency_histogram"]["bins"]) == reads, s["stats"]
                assert [q["rd_operations"] for q in s["queues"]] == [reads - 6, 5], s["queues"]

            check(15)
            vm.update(no_io=True)
            assert vm.io_pid() == pid
            check(15)
            vm.update()
            pid = vm.wait_other_io(pid)
            check(15)
            for _ in range(3):
                os.kill(pid, signal.SIGKILL)
                pid = vm.wait_other_io(pid)
                check(15)
            vm.qmp.command("system_reset")
            check(15)
            count(board, 0, 0, 11, 1, 40960, 5000)
            check(16)
            board[512:] = b"\xff" * (len(board) - 512)  # a process that has gone wild
        assert vm.stats()["stats"]["kicks"] == (1 << 63) - 1
        assert "BROKEN" in molt("stats", vm.control_path).stdout
        assert molt("stats", "--prometheus", vm.control_path).returncode == 0


class DrivenVm(DiskVm):
    """The same with a guest that drives the disk all the time, and verifies what it reads."""

    def __init__(self, options="", cmdline=""):
        super().__init__(options, kernel="disk", cmdline=cmdline)
        self.wait_serial("disk: ready")
        self.wait_for(lambda: self.requests() > 100, "its first requests")

    def requests(self):
        s = self.stats()["stats"]
        return sum(s["%s_operations" % k] + s["failed_%s_operations" % k] for k in ("rd", "wr", "flush", "unmap"))

    def still_drives(self):
        had = self.requests()
        self.wait_for(lambda: self.requests() > had + 100, "more requests")
        assert "BAD" not in self.serial(), self.serial()[-1000:]

    def rate(self, seconds):
        """Reads and writes a second."""
        def done():
            s = self.stats()["stats"]
            return s["rd_operations"] + s["wr_operations"] + s["unmap_operations"]

        began, had = time.monotonic(), done()
        time.sleep(seconds)
        return (done() - had) / (time.monotonic() - began)


def flat(stats):
    """All that only grows, as a list."""
    numbers = [stats[k] for k in sorted(stats) if isinstance(stats[k], int) and not isinstance(stats[k], bool)]
    for k in sorted(stats):
        if k.endswith("_histogram"):
            numbers += stats[k]["bins"]
    return numbers


def test_a_driver_sees_the_new_size():
    with DrivenVm("", "plain=on") as vm:  # a driver that is reset reads the size without a word
        for size in (96 * MIB, 80 * MIB):
            vm.qmp.command("block_resize", device="data", size=size)
            vm.wait_serial(r"disk: capacity %d\b" % (size // 512))
            vm.still_drives()


def test_counters_of_a_driver_never_go_down():
    with DrivenVm(",queues=2", "queues=2") as vm:
        def sample():
            s = vm.stats(queues=True)
            total, queues = flat(s["stats"]), [flat(q) for q in s["queues"]]
            assert total == [sum(each) for each in zip(*queues)], s
            return total

        def more(before):
            now = sample()
            assert all(a <= b for a, b in zip(before, now)), (before, now)
            return now

        last = sample()
        for n in range(6):
            vm.still_drives()
            last = more(last)
            pid = vm.io_pid()
            vm.update(no_io=n % 2 == 1)
            last = more(last)
            vm.still_drives()
            last = more(last)
            os.kill(vm.io_pid(), signal.SIGKILL)
            vm.wait_for(lambda: vm.block()["back-end"].get("pid", pid) != pid, "another I/O process")
            last = more(last)
        s = vm.stats()["stats"]
        for kind in ("rd", "wr", "flush"):
            done = s["%s_operations" % kind] + s["failed_%s_operations" % kind]
            # A killed process may have been between two of them, which are written one by one.
            assert done > 0 and abs(sum(s["%s_latency_histogram" % kind]["bins"]) - done) <= 6, (kind, s)
        assert s["kicks"] and s["calls"] and s["rd_bytes"] and s["wr_bytes"] and not s["broken"], s
        vm.still_drives()


def test_limits_in_force_at_once():
    with DrivenVm("", "plain=on") as vm:
        def throttle(iops, iops_max):
            vm.qmp.send("block_set_io_throttle", {"device": "data", "iops": iops, "iops_max": iops_max, "bps": 0})
            assert vm.qmp.result() == {}

        free = vm.rate(0.5)
        throttle(200, 20)
        slow = vm.rate(2)
        assert 170 < slow < 225, (free, slow)
        throttle(1, 1)  # who waits for that must not wait on when it is lifted
        time.sleep(0.2)
        throttle(400, 40)
        assert 340 < vm.rate(2) < 450
        held = vm.stats()["stats"]["held_operations"]
        vm.update()
        assert 340 < vm.rate(2) < 450
        assert vm.stats()["stats"]["held_operations"] > held
        throttle(0, 0)
        assert vm.rate(0.5) > min(1000, free / 4), free
        vm.still_drives()


def test_what_an_update_carried():
    with DiskVm(",queues=2") as vm:
        pid = vm.io_pid()
        done = molt("update", "--no-io", vm.control_path)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^device data +disk +\d+ bytes of state, \d+ descriptors$", done.stdout, re.M), done.stdout
        assert vm.io_pid() == pid
        report = vm.update()
        carried = {d["id"]: d for d in report["devices"]}
        assert carried["data"]["class"] == "disk", report
        # File, board, event, process, two rings, socket and its channel.
        assert carried["data"]["fds"] == 8, report
        assert carried["data"]["state-bytes"] > 1000 and carried["serial"]["fds"] == 1, report
        assert sum(d["state-bytes"] for d in report["devices"]) < report["state-bytes"], report
        assert vm.qmp.command("query-update")["last"] == report
        vm.wait_other_io(pid)
        expect_error(lambda: vm.update(no_io="yes"), "expected: boolean")
        vm.still_ticks()


def test_stats():
    with DiskVm(",queues=2") as vm:
        with vm.board() as board:
            count(board, 1, 1, 20, 0, 81920, 10000)
        text = molt("stats", "--prometheus", vm.control_path).stdout
        for line in ('molt_disk_requests_total{id="data",queue="1",kind="write"} 20',
                     'molt_disk_bytes_total{id="data",queue="1",kind="write"} 81920',
                     'molt_disk_request_duration_seconds_count{id="data",kind="write"} 20',
                     'molt_disk_size_bytes{id="data"} 67108864', "molt_guest_running 1"):
            assert line + "\n" in text, (line, text[:2000])
        said = json.loads(molt("stats", "--json", vm.control_path).stdout)
        assert said["blockstats"][0]["queues"][1]["wr_operations"] == 20, said
        with subprocess.Popen([molt_binary(), "stats", "--watch", vm.control_path], stdout=subprocess.PIPE,
                              text=True) as proc:
            assert proc.stdout.readline().startswith("guest running")
            vm.update()  # it stays connected
            while "1 updates" not in proc.stdout.readline():
                pass
            proc.send_signal(signal.SIGINT)
            proc.communicate(timeout=20)
            assert proc.returncode == 0


def test_another_programs_disk():
    daemon = shutil.which("qemu-storage-daemon")
    if not daemon:
        raise Skip("there is no qemu-storage-daemon")
    with Vm(cmdline="period_ms=20", start=False) as vm:
        image, path = vm.path("disk.img"), vm.path("vhost.sock")
        with open(image, "wb") as f:
            f.truncate(16 * MIB)

        def serve():
            proc = subprocess.Popen(
                [daemon, "--blockdev", "driver=file,node-name=f,filename=" + image, "--export",
                 "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=%s,writable=off" % path],
                start_new_session=True)
            vm_wait = time.monotonic() + 20
            while not os.path.exists(path) and time.monotonic() < vm_wait:
                time.sleep(0.01)
            return proc

        proc = serve()
        try:
            vm.argv += ["--vhost-user", "socket=%s,type=blk,id=far" % path]
            vm.start()
            b = vm.qmp.command("query-block")[0]
            assert b["back-end"]["type"] == "vhost-user" and b["back-end"]["socket"] == path, b
            assert b["back-end"]["state"] == "ready" and "pid" not in b["back-end"], b
            assert b["inserted"]["image"]["virtual-size"] == 16 * MIB and b["inserted"]["ro"], b
            assert vm.qmp.command("query-blockstats") == []
            expect_error(lambda: vm.qmp.command("block_resize", device="far", size=MIB), "back-end")
            expect_error(lambda: vm.qmp.command("block_set_io_throttle", device="far", iops=1, bps=0), "back-end")
            assert "does not say" in molt("stats", vm.control_path).stdout
            proc.kill()
            proc.wait()
            os.unlink(path)

            def back_end():
                return vm.qmp.command("query-block")[0]["back-end"]

            vm.wait_for(lambda: back_end()["state"] == "disconnected", "its being disconnected")
            time.sleep(0.3)
            vm.update()
            assert back_end()["state"] == "disconnected" and back_end()["state-ms"] >= 300, back_end()
            proc = serve()
            vm.wait_for(lambda: back_end()["state"] == "ready", "its coming back")
            assert back_end()["state-ms"] < 300, back_end()
        finally:
            proc.kill()
            proc.wait()


def test_a_block_device():
    """It has the size that it has; molt looks when it is told to."""
    with DiskVm() as vm:
        image = vm.path("loop.img")
        with open(image, "wb") as f:
            f.truncate(16 * MIB)
        made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
        if made.returncode:
            raise Skip("no loop device: " + made.stderr.strip())
        device = made.stdout.strip()
        try:
            with Vm("--disk", "path=%s,id=data" % device, cmdline="period_ms=20") as other:
                def size():
                    return other.qmp.command("query-block")[0]["inserted"]["image"]["virtual-size"]

                expect_error(lambda: other.qmp.command("block_resize", device="data", size=8 * MIB),
                             "%s has %d bytes" % (device, 16 * MIB))
                os.truncate(image, 24 * MIB)
                subprocess.run(["losetup", "--set-capacity", device], check=True)
                assert size() == 16 * MIB
                other.qmp.command("block_resize", device="data", size=24 * MIB)
                assert size() == 24 * MIB
        finally:
            subprocess.run(["losetup", "--detach", device], check=False)


def test_probes():
    readelf = shutil.which("readelf")
    if not readelf:
        raise Skip("there is no readelf")
    notes = subprocess.run([readelf, "-n", molt_binary()], capture_output=True, text=True, check=True).stdout
    if "stapsdt" not in notes:
        raise Skip("built without sys/sdt.h")
    names = set(re.findall(r"Provider: molt\n\s+Name: (\w+)", notes))
    assert names == {"kick", "call", "request_done", "slow_kick", "slow_call", "step_begin", "step_end"}, names


if __name__ == "__main__":
    need_kvm()
    run_cases(globals())
