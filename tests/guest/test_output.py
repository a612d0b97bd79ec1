#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Output of molt's, log and serial port: no reader holds the guest or molt up, and what is lost is told."""
import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Qmp, Skip, Vm, expect_error, molt, need_kvm, run_cases, sanitized,
                    write_script)
from slow_disk import SlowDisk

F_SETPIPE_SZ = 1031
LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z molt\[\d+\] (error|warn|info|debug): .+$")


def small(*args, **kw):
    return Vm("--memory", "32M", *args, **kw)


def fill(fd):
    """So that not one byte more fits."""
    os.set_blocking(fd, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(fd, b"." * size)
        except BlockingIOError:
            pass
    os.set_blocking(fd, True)


def read_now(fd, timeout=1.0):
    """What comes until nothing has come for so long."""
    data = b""
    while select.select([fd], [], [], timeout)[0]:
        piece = os.read(fd, 65536)
        if not piece:
            break
        data += piece
    return data


class Piped(Vm):
    """A Vm whose standard error, and so its log, is a pipe."""

    def start(self):
        self.log_out, self.log_in = os.pipe()
        fcntl.fcntl(self.log_in, F_SETPIPE_SZ, 4096)
        self.proc = subprocess.Popen(self.argv, stdin=self.stdin, stderr=self.log_in,
                                     env=self.env, start_new_session=True, **self.popen)
        self.wait_for(self.answers, "the control socket")


# ---- the log ----

def test_a_stalled_log_holds_nobody_up():
    with Piped("--memory", "32M", cmdline="period_ms=10") as vm:
        read_now(vm.log_out, 0.2)
        fill(vm.log_in)
        vm.wait_ticks(3)
        first = vm.update()["pid"]
        assert first == vm.pid
        expect_error(lambda: vm.update("/nope"), "/nope")
        vm.wait_ticks(3)
        for _ in range(3):
            assert vm.update()["pid"] == vm.pid
        assert vm.qmp.command("query-update")["updates"] == 4
        vm.wait_ticks(3)
        text = read_now(vm.log_out).decode().lstrip(".")
        assert "update 4 from" in text, text
        assert re.search(r"log: \d+ lines lost", text), text
        for line in text.splitlines():
            assert LINE.match(line), line
        fill(vm.log_in)
        began = time.monotonic()
        vm.signal(signal.SIGTERM)
        assert vm.wait_exit() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 20


def test_a_stalled_log_does_not_hold_up_the_way_back():
    """A successor that dies while nobody reads: the stand-in has the guest, in another process, and tells of it."""
    if sanitized():
        raise Skip("sanitizers keep books on threads, which another process that takes over the memory lacks")
    with Piped("--memory", "32M", cmdline="period_ms=10") as vm:
        fill(vm.log_in)
        killer = write_script(vm.path("killer"), "#!/bin/sh\nkill -9 $$\n")
        expect_error(lambda: vm.update(killer, no_check=True), "ended before it took the guest over")
        vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
        assert vm.pid != vm.proc.pid
        vm.wait_ticks(5)
        assert "the stand-in runs the guest on" in read_now(vm.log_out).decode()
        assert "log" in vm.threads()
        fill(vm.log_in)
        vm.wait_ticks(5)
        vm.qmp.command("quit")


def test_a_terminal_that_nobody_reads():
    """Serial port and log on one terminal, as from a shell; its emulator has stopped reading."""
    master, slave = pty.openpty()
    with small(cmdline="period_ms=1", serial="tty", start=False) as vm:
        vm.proc = subprocess.Popen(vm.argv, stdin=slave, stdout=slave, stderr=slave,
                                   start_new_session=True)
        os.close(slave)
        vm.wait_for(vm.answers, "the control socket")
        for _ in range(3):
            expect_error(lambda: vm.update("/nope"), "/nope")
            assert vm.update()["pid"] == vm.pid
        for _ in range(40):  # until the terminal takes no more, and beyond
            time.sleep(0.1)
            assert vm.running()
        assert vm.update()["pid"] == vm.pid
        began = time.monotonic()
        vm.signal(signal.SIGTERM)
        assert vm.wait_exit() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 10
    os.close(master)


def test_a_service_manager_that_does_not_listen():
    with small(start=False) as vm:
        path = vm.path("notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                other.connect(path)
                try:
                    while True:
                        other.send(b"x")
                except BlockingIOError:
                    pass
                vm.env = dict(os.environ, NOTIFY_SOCKET=path)
                vm.start()
                for _ in range(3):
                    assert vm.update()["pid"] == vm.pid
                vm.wait_log("the service manager was not told")
                assert vm.running()


def test_lines_appear_before_the_end():
    for args, last in (((), "the guest powered off"),
                       (("--kernel", "/nope"), "/nope")):
        with small(*args, cmdline="period_ms=1 ticks=5", start=False) as vm:
            with open(vm.log_path, "ab") as log:
                subprocess.run(vm.argv, stdin=subprocess.DEVNULL, stderr=log, timeout=60, check=False)
            assert last in vm.log().splitlines()[-1], vm.log()


def test_a_log_fifo_needs_its_reader():
    with small(start=False) as vm:
        fifo = vm.path("fifo")
        os.mkfifo(fifo)
        done = molt("run", "--serial", "null", "--log-file", fifo, timeout=20)
        assert done.returncode == 1, done
        assert fifo in done.stderr and "a fifo needs its reader first" in done.stderr, done.stderr
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        vm.argv += ["--log-file", fifo]
        vm.start()
        assert b"runs the built-in demo guest" in read_now(reader)
        vm.update()
        os.close(reader)  # nobody is there any more, and nothing comes of it
        expect_error(lambda: vm.update("/nope"), "/nope")
        expect_error(lambda: vm.qmp.command("log-reopen"), fifo, "reader")
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        vm.update()
        text = read_now(reader).decode()
        # Written before the new reader came, or after.
        assert re.search(r"log: \d+ lines lost", text) or "/nope" in text, text
        assert "update 2 from" in text, text
        os.close(reader)


def test_a_log_file_that_is_slow():
    """A line is always being written when an update comes: it waits, and the guest runs meanwhile."""
    disk = SlowDisk(0, delay=1.5)
    try:
        with small("--log-file", disk.path) as vm:
            for _ in range(4):
                vm.update()
                # Nor is the file waited for by whoever serves the guest afterwards.
                asked = time.monotonic()
                vm.qmp.command("query-status")
                assert time.monotonic() - asked < 0.7
            disk.delay = 0
            vm.qmp.command("quit")
            assert vm.wait_exit(20) == 0
        assert len(re.findall(r"update \d from", disk.data.decode())) == 4, disk.data
    finally:
        disk.close()


def rotate(vm, log, number):
    old = "%s.%d" % (log, number)
    os.rename(log, old)
    expect_error(lambda: vm.update("/nope"), "/nope")
    vm.wait_for(lambda: "/nope" in open(old).read().splitlines()[-1], "the line in the old file")
    vm.qmp.command("log-reopen")
    size = os.path.getsize(old)
    expect_error(lambda: vm.update("/nope"), "/nope")
    vm.wait_for(lambda: "/nope" in open(log).read(), "the line in the new file")
    assert os.path.getsize(old) == size
    assert os.stat(log).st_mode & 0o777 == 0o600


def test_the_log_is_reopened():
    with small(start=False) as vm:
        log = vm.path("molt.log")
        vm.argv += ["--log-file", log]
        vm.start()
        vm.qmp.command("query-status")
        vm.settle()
        fds = len(vm.fds())
        rotate(vm, log, 1)
        # The successor's command line says nothing of it.
        plain = [vm.argv[0], "run", "--serial", "null"]
        vm.update(*plain)
        vm.settle()
        rotate(vm, log, 2)
        vm.update(*plain)
        vm.settle()
        rotate(vm, log, 3)
        vm.wait_for(lambda: len(vm.fds()) == fds, lambda: "%d descriptors, of %s" % (fds, vm.fds()))
        os.rename(log, log + ".4")
        os.mkdir(log)
        expect_error(lambda: vm.qmp.command("log-reopen"), log)
        expect_error(lambda: vm.update("/nope"), "/nope")
        vm.wait_for(lambda: open(log + ".4").read().count("/nope") >= 2, "the line in the file that stayed")
        done = molt("ctl", vm.control_path, "log-reopen")
        assert done.returncode == 1 and log in done.stderr, done


def test_standard_error_is_not_reopened():
    with small() as vm:
        expect_error(lambda: vm.qmp.command("log-reopen"), "standard error")
        vm.update()
        expect_error(lambda: vm.qmp.command("log-reopen"), "standard error")


# ---- what a guest can cause without end ----

def flood(vm, idle, seconds, word, kind):
    """Lets the guest do it for a while; an idle client stays, one that reads sees a few events a second."""
    reader = Qmp(vm.control_path)
    before = vm.log().count(word)
    began = time.monotonic()
    vm.qmp.command("cont")
    time.sleep(seconds)
    vm.qmp.command("stop")
    took = time.monotonic() - began
    names = reader.event_names()
    assert names[0] == "RESUME" and names[-1] == "STOP", names
    assert 2 <= names.count(kind) <= took * 4 + 2, names
    assert set(names) == {"RESUME", "STOP", kind}, names
    lines = vm.log().count(word) - before
    assert 1 <= lines <= 10 + took / 5 + 1, (lines, took)
    reader.close()
    idle.command("query-status")
    assert kind in idle.event_names()


def test_a_guest_floods_nobody():
    for how, word, kind, options in (("panic", "the guest reports a panic", "GUEST_PANICKED", ()),
                                     ("port64", "the guest resets the machine", "RESET", ())):
        with small("--pause", *options, kernel="reset", cmdline="how=" + how, serial="null") as vm:
            idle = Qmp(vm.control_path)
            flood(vm, idle, 3, word, kind)
            vm.update()
            vm.settle()
            flood(vm, idle, 3, word, kind)
            assert idle.wait_event("UPDATE_COMPLETED")
            vm.qmp.command("quit")
            vm.wait_exit()
            assert re.search(r"\d+ more (suppressed|lines like .*%s)" % word, vm.log()), vm.log()


def test_clients_flood_nobody():
    """Messages that are too long, one after the other: few lines in the log, and others are served."""
    with small() as vm:
        for _ in range(40):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(vm.control_path)
                try:
                    sock.sendall(b'{"execute": "' + b"x" * 70000)
                    while sock.recv(65536):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass
        assert vm.running()
        vm.wait_log("sent a message over")
        assert vm.log().count("sent a message over") <= 12, vm.log()
        for _ in range(40):
            expect_error(lambda: vm.update("/nope"), "/nope")
        assert vm.log().count("update failed") <= 12, vm.log()
        vm.qmp.command("quit")
        vm.wait_exit()
        assert vm.log().count("suppressed") >= 2, vm.log()


# ---- the serial port ----

def test_output_is_not_lost_at_the_end():
    """The guest powers off while the reader of standard output has not begun to read."""
    out, into = os.pipe()
    fcntl.fcntl(into, F_SETPIPE_SZ, 4096)
    with small(cmdline="period_ms=1 ticks=300", serial="tty", stdout=into) as vm:
        os.close(into)
        vm.wait_log("powered off")
        text = read_now(out, 10).decode()
        assert vm.wait_exit() == 0
        assert "ticker: done ticks=300" in text, text[-200:]
        vm.check_ticks(text)
        assert "lost" not in vm.log()
    os.close(out)


def test_what_is_lost_at_the_end_is_told():
    for how in ("quit", "signal", "two signals"):
        out, into = os.pipe()
        fcntl.fcntl(into, F_SETPIPE_SZ, 4096)
        with small(cmdline="period_ms=1", serial="tty", stdout=into) as vm:
            os.close(into)
            wait_until_full(vm, out)
            began = time.monotonic()
            if how == "quit":
                vm.qmp.command("quit")
            else:
                vm.signal(signal.SIGTERM)
            if how == "two signals":
                vm.wait_log("ended by signal")
                vm.signal(signal.SIGINT)
            assert vm.wait_exit() == (0 if how == "quit" else 128 + signal.SIGTERM)
            took = time.monotonic() - began
            assert re.search(r"the last \d+ bytes of the guest's output are lost", vm.log()), vm.log()
            assert took >= 1 or how == "two signals", (how, took)
        os.close(out)


def waiting(fd):
    """How many bytes wait in a pipe."""
    count = bytearray(4)
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return int.from_bytes(count, "little")


def wait_until_full(vm, fd):
    """Until nothing more comes, though the guest goes on."""
    vm.wait_for(lambda: waiting(fd) > 0, "output")
    before, same = 0, 0
    while same < 10:
        time.sleep(0.05)
        same = same + 1 if waiting(fd) == before else 0
        before = waiting(fd)


def test_the_newest_is_kept_for_a_peer():
    with small(cmdline="period_ms=1", serial="socket=com1", start=False) as vm:
        vm.argv[vm.argv.index("socket=com1")] = "socket=" + vm.path("com1")
        vm.start()
        vm.wait_log("bytes dropped so far", timeout=120)
        vm.update()
        vm.qmp.command("stop")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(vm.path("com1"))
            text = read_now(peer.fileno()).decode()
        numbers = [t[0] for t in vm.ticks(text)]
        assert numbers[0] > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
        assert text.startswith("tick ") and len(text) > 50000, (len(text), text[:50])
        vm.qmp.command("cont")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(vm.path("com1"))
            peer.settimeout(30)
            more = b""
            while more.count(b"\n") < 2:
                more += peer.recv(65536)
        after = [t[0] for t in vm.ticks(text + more.decode())]
        assert after == list(range(numbers[0], after[-1] + 1)) and after[-1] > numbers[-1]


def test_pty_is_told():
    with small("--log-level", "error", serial="pty") as vm:
        name = vm.wait_log(r"serial: pty (/dev/pts/\d+)").group(1)
        told = [{"label": "serial0", "filename": "pty:" + name, "frontend-open": True}]
        assert vm.qmp.command("query-chardev") == told
        vm.update()
        assert vm.qmp.command("query-chardev") == told


def test_backends_are_told():
    with small(start=False) as vm:
        path = vm.path("com1")
    for spec, told in (("null", "null"), ("tty", "stdio"), ("file=/dev/null", "file"),
                       ("socket=" + path, "disconnected:unix:%s,server=on" % path)):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with small(serial=spec, stdout=subprocess.DEVNULL) as vm:
            assert vm.qmp.command("query-chardev")[0]["filename"] == told
            if spec.startswith("socket"):
                with socket.socket(socket.AF_UNIX) as peer:
                    peer.connect(path)
                    vm.wait_for(lambda: vm.qmp.command("query-chardev")[0]["filename"] ==
                                "unix:%s,server=on" % path, "the peer")
            vm.qmp.command("quit")
            vm.wait_exit()
    os.rmdir(os.path.dirname(path))


def test_an_error_names_the_device_once():
    for spec in ("file=/no/such/dir/x", "socket=/no/such/dir/x"):
        done = molt("run", "--serial", spec)
        assert done.returncode == 1 and done.stderr.count("serial'") == 1, done.stderr
        assert "serial:" not in done.stderr, done.stderr


if __name__ == "__main__":
    need_kvm()
    run_cases(dict(globals()))
