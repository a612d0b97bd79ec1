#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What COM1 is plugged into, across updates: not one byte is lost or doubled, and terminals, files and
sockets are left as a user expects them.
"""
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import termios
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Vm, expect_error, molt, need_kvm, run_cases
from slow_disk import SlowDisk

STREAM = 16 << 10
UPDATES = 5
# The echo guest holds so much at most; the FIFO and the host's buffers are beyond that.
WINDOW = 2048


def small(*args, **kw):
    return Vm("--memory", "32M", *args, **kw)


def pattern(length):
    """Bytes of which no two stretches are alike, and none is an end (Ctrl-D) or an escape."""
    text = "".join("%x," % (n * 2654435761 % (1 << 32)) for n in range(length // 8 + 8))
    return text[:length].encode()


# ---- the other end of the line ----

class Line:
    """A descriptor that the guest's input is written to and its output read from."""

    def __init__(self, fd, out=None):
        self.fd = fd
        self.out = fd if out is None else out  # what to write to
        self.got = b""
        os.set_blocking(self.fd, False)
        os.set_blocking(self.out, False)

    def read(self, timeout):
        if select.select([self.fd], [], [], timeout)[0]:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self.fd, 65536)
                if not data:
                    raise EOFError("end of the guest's output after %r" % self.got[-80:])
                self.got += data

    def wait(self, text, timeout=60):
        """Waits for text in the output; drops all up to its end."""
        end = time.monotonic() + timeout
        while text not in self.got:
            if time.monotonic() > end:
                raise AssertionError("no %r within %d s, but %r" % (text, timeout, self.got[-500:]))
            self.read(0.1)
        self.got = self.got[self.got.index(text) + len(text):]

    def write(self, data):
        while data:
            select.select([], [self.out], [], 10)
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self.out, data):]

    def echo(self, text):
        """Types text, and waits for it to come back."""
        self.write(text)
        self.wait(text)

    def stream(self, data):
        """Sends data and expects it back byte by byte, with at most WINDOW bytes on the way."""
        sent, end = 0, time.monotonic() + 200
        while len(self.got) < len(data):
            room = min(WINDOW - (sent - len(self.got)), len(data) - sent)
            if room > 0 and select.select([], [self.out], [], 0)[1]:
                with contextlib.suppress(BlockingIOError):
                    sent += os.write(self.out, data[sent:sent + room])
            self.read(0.05)
            assert data.startswith(self.got), "after %d bytes: %r instead of %r" % (
                len(os.path.commonprefix([data, self.got])), self.got[-100:],
                data[max(0, len(self.got) - 100):len(self.got)])
            assert time.monotonic() < end, "%d sent, %d of %d back" % (
                sent, len(self.got), len(data))


def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(path)
    return sock


def open_pty(vm):
    name = vm.wait_log(r"pty (/dev/pts/\d+)").group(1)
    return os.open(name, os.O_RDWR | os.O_NOCTTY)


def stream_through_updates(vm, line, length):
    """Streams through the guest, with updates spread evenly over it."""
    wrong = []

    def run():
        try:
            line.stream(pattern(length))
        except BaseException as why:
            wrong.append(why)

    line.got = b""
    thread = threading.Thread(target=run)
    thread.start()
    for i in range(UPDATES):
        while thread.is_alive() and len(line.got) < i * length // UPDATES:
            time.sleep(0.005)
        vm.update()
    thread.join()
    if wrong:
        raise wrong[0]
    line.got = b""


def check_line(vm, line, length, greets=True):
    """What is typed before an update arrives after it, as does what is typed during it."""
    if greets:
        line.wait(b"echo: ready")
        line.wait(b"\n")
    line.echo(b"hello, world")
    vm.qmp.command("stop")
    line.write(b"typed before")
    vm.update()
    line.write(b", and after")
    vm.qmp.command("cont")
    line.wait(b"typed before, and after")
    stream_through_updates(vm, line, length)
    line.echo(b"the end")


# ---- the backends ----

def test_socket():
    with small(kernel="echo", serial="socket=com1", start=False) as vm:
        vm.popen["cwd"] = vm.dir  # a relative path
        vm.start()
        assert stat.S_IMODE(os.stat(vm.path("com1")).st_mode) == 0o600
        with connect(vm.path("com1")) as sock:
            line = Line(sock.fileno())
            check_line(vm, line, STREAM)
            line.write(b"\x04")
            line.wait(b"echo: done")
            assert vm.wait_exit(20) == 0
        assert not os.path.exists(vm.path("com1"))


def test_second_port():
    """A device that is not the board's: it is in the stream's list, with a section of its own."""
    with small("--serial2", "socket=com2", kernel="echo", cmdline="port=com2", start=False) as vm:
        vm.popen["cwd"] = vm.dir
        vm.start()
        vm.wait_serial("echo: ready")
        with connect(vm.path("com2")) as sock:
            line = Line(sock.fileno())
            check_line(vm, line, STREAM, greets=False)
            labels = {c["label"]: c["filename"] for c in vm.qmp.command("query-chardev")}
            assert set(labels) == {"serial0", "serial1"} and "com2" in labels["serial1"], labels
            line.write(b"\x04")
            vm.wait_serial("echo: done")
            assert vm.wait_exit(20) == 0
        assert not os.path.exists(vm.path("com2"))


def test_second_port_is_new():
    for args, words in ((["--machine", "1", "--serial2", "null"], "needs machine version 2"),
                        (["--serial2", "null", "--serial2", "null"], "at most 2"),
                        (["--serial2", "modem"], "modem"),
                        (["--serial", "tty", "--serial2", "tty"], "COM1's")):
        done = molt("run", "--memory", "32M", "--serial", "null", *args)
        assert done.returncode in (1, 2) and words in done.stderr, done


def test_socket_peers_come_and_go():
    with small(cmdline="period_ms=20", start=False) as vm:
        path = vm.path("com1")
        vm.argv[vm.argv.index("--serial") + 1] = "socket=" + path
        vm.start()
        vm.update()
        vm.update()
        got = b""
        for turn in range(4):  # what is said while nobody is there waits for the next one
            with connect(path) as sock:
                line = Line(sock.fileno())
                if turn % 2:
                    vm.update()
                end = time.monotonic() + 30
                while len(line.got) < 400 and time.monotonic() < end:
                    line.read(1)
                vm.qmp.command("stop")  # so that nothing is on its way when the peer leaves
                time.sleep(0.05)
                line.read(0.05)
                got += line.got
            vm.update()
            vm.qmp.command("cont")
        vm.check_ticks(got.decode())


def on_socket(path, directory):
    vm = small("--sandbox", "write=" + os.path.dirname(path), cmdline="period_ms=20", start=False,
               directory=directory)
    vm.argv[vm.argv.index("--serial") + 1] = "socket=" + path
    return vm


def test_socket_of_another_stays():
    """The file at the path may be another molt's by the time we end."""
    for updates in (0, 2):
        with small(start=False) as place:
            path = place.path("com1")
            os.mkdir(place.path("second"))
            with on_socket(path, place.dir) as first, \
                    on_socket(path, place.path("second")) as second:
                first.start()
                for _ in range(updates):
                    first.update()
                os.unlink(path)
                second.start()
                first.qmp.command("quit")
                assert first.wait_exit(20) == 0
                with connect(path) as sock:
                    Line(sock.fileno()).wait(b"tick 1 ")
                second.update()
                second.qmp.command("quit")
                assert second.wait_exit(20) == 0
                assert not os.path.exists(path)


def test_socket_survives_a_second_start():
    """One by mistake: it is refused, and takes nothing of what waits for the first peer."""
    with small(cmdline="period_ms=20", start=False) as vm:
        path = vm.path("com1")
        vm.argv[vm.argv.index("--serial") + 1] = "socket=" + path
        vm.start()
        for _ in range(3):
            done = molt("run", "--memory", "32M", "--serial", "socket=" + path)
            assert done.returncode == 1 and "another process listens there" in done.stderr, done
            vm.update()
        with connect(path) as sock:
            Line(sock.fileno()).wait(b"tick 1 ")


def test_socket_second_peer_waits():
    with small(kernel="echo", serial="socket=com1", start=False) as vm:
        vm.popen["cwd"] = vm.dir
        vm.start()
        with connect(vm.path("com1")) as first, connect(vm.path("com1")) as second:
            line = Line(first.fileno())
            line.wait(b"echo: ready")
            line.wait(b"\n")
            Line(second.fileno()).write(b"second")
            vm.update()
            line.echo(b"first")
            first.close()
            Line(second.fileno()).wait(b"second")


def test_pty():
    with small(kernel="echo", serial="pty") as vm:
        fd = open_pty(vm)
        line = Line(fd)
        check_line(vm, line, STREAM // 4)
        os.close(fd)
        vm.update()  # nobody there
        fd = open_pty(vm)
        line = Line(fd)
        line.echo(b"again")
        line.write(b"\x04")
        assert vm.wait_exit(20) == 0
        os.close(fd)


def test_pty_keeps_its_name():
    with small(kernel="echo", serial="pty") as vm:
        before = [what for what, _ in vm.fds().values() if what.startswith("/dev/pts/")]
        vm.update()
        vm.settle()
        assert [what for what, _ in vm.fds().values() if what.startswith("/dev/pts/")] == before


def test_file_is_appended_to():
    with small(cmdline="period_ms=10", start=False) as vm:
        with open(vm.serial_path, "w") as f:
            f.write("precious\n")
        vm.start()
        for _ in range(10):
            vm.wait_ticks(1)
            vm.update()
        vm.wait_ticks(2)
        text = vm.serial()
        assert text.startswith("precious\n")
        vm.check_ticks(text[len("precious\n"):])
        vm.kill()
        vm.start()
        vm.wait_ticks(2)
        assert vm.serial().startswith(text) and vm.serial().count("ticker: tsc_khz") == 2


def test_file_with_a_comma_in_its_name():
    with small(cmdline="period_ms=10", start=False) as vm:
        vm.serial_path = vm.path("a,b=c")
        vm.argv[vm.argv.index("--serial") + 1] = "file=" + vm.serial_path
        vm.start()
        vm.wait_ticks(1)
        vm.update()
        vm.wait_ticks(2)
        vm.check_ticks()


def test_full_disk():
    """The guest goes on without its output, and molt with its updates."""
    with small(cmdline="period_ms=5", serial="file=/dev/full") as vm:
        vm.wait_log("cannot write to")
        for _ in range(3):
            vm.update()
        assert vm.running()


def test_null():
    with small(cmdline="period_ms=10 ticks=100", serial="null") as vm:
        vm.update()
        vm.update()
        assert vm.running()
        assert vm.wait_exit(60) == 0


# ---- standard input and output ----

@contextlib.contextmanager
def on_terminal(*args, controlling=True, **kw):
    """A molt whose standard input and output are a terminal, as if a user had started it there."""
    master, slave = pty.openpty()

    def take():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        with small(*args, serial="tty", stdin=slave, stdout=slave,
                   preexec_fn=take if controlling else None, **kw) as vm:
            yield vm, master, slave
    finally:
        for fd in (master, slave):
            with contextlib.suppress(OSError):
                os.close(fd)


def is_raw(fd):
    flags = termios.tcgetattr(fd)[3]
    return not flags & (termios.ICANON | termios.ECHO | termios.ISIG)


def test_terminal():
    for controlling in (True, False):
        with on_terminal(kernel="echo", controlling=controlling) as (vm, master, slave):
            line = Line(master)
            line.wait(b"echo: ready")
            line.wait(b"\n")
            assert is_raw(slave)
            line.echo(b"before")
            for _ in range(3):
                vm.qmp.command("stop")
                line.write(b"early")
                vm.update()
                assert is_raw(slave)
                vm.qmp.command("cont")
                line.wait(b"early")
                line.echo(b"late")
            line.echo(b"\x03\x1a")  # Ctrl-C and Ctrl-Z are the guest's
            line.write(b"\x04")
            line.wait(b"echo: done")
            assert vm.wait_exit(20) == 0


def test_terminal_is_restored():
    """By the one that ends, even if it was another that put it into raw mode."""
    for count in (0, 2):
        for end in ("quit", "signal", "escape"):
            master, slave = pty.openpty()
            before = termios.tcgetattr(slave)
            with small(kernel="echo", serial="tty", stdin=slave, stdout=slave) as vm:
                vm.wait_for(lambda fd=slave: is_raw(fd), "raw mode")
                for _ in range(count):
                    vm.update()
                if end == "quit":
                    vm.qmp.command("quit")
                elif end == "signal":
                    vm.signal(signal.SIGTERM)
                else:
                    os.write(master, b"\x01x")
                assert vm.wait_exit(20) == (128 + signal.SIGTERM if end == "signal" else 0)
                assert termios.tcgetattr(slave) == before, (count, end)
            os.close(master)
            os.close(slave)


def test_escape_across_an_update():
    """Ctrl-A before the update, the key that belongs to it after."""
    with on_terminal(kernel="echo") as (vm, master, slave):
        line = Line(master)
        line.wait(b"echo: ready")
        line.wait(b"\n")
        line.write(b"\x01\x01")  # Ctrl-A itself
        line.wait(b"\x01")
        line.write(b"a\x01")
        line.wait(b"a")
        vm.update()
        line.write(b"x")
        assert vm.wait_exit(20) == 0


def test_terminal_goes_away():
    for count in (0, 1):
        with on_terminal(kernel="echo") as (vm, master, slave):
            Line(master).wait(b"echo: ready")
            for _ in range(count):
                vm.update()
            os.close(master)
            assert vm.wait_exit(20) == 128 + signal.SIGHUP


def test_pipes():
    """Standard input and output that are no terminal: what comes through a pipe is data."""
    with small(kernel="echo", serial="tty", stdin=subprocess.PIPE,
               stdout=subprocess.PIPE) as vm:
        line = Line(vm.proc.stdout.fileno(), vm.proc.stdin.fileno())
        line.wait(b"echo: ready")
        line.wait(b"\n")
        line.echo(b"\x01x\x03")
        stream_through_updates(vm, line, STREAM // 8)
        vm.proc.stdin.close()  # no more input is no end
        vm.update()
        assert vm.running()


def test_output_to_a_pipe():
    with small(cmdline="period_ms=10 ticks=300", serial="tty", stdout=subprocess.PIPE) as vm:
        vm.update()
        vm.update()
        text = vm.proc.stdout.read().decode()
        assert vm.wait_exit(20) == 0
        assert "ticker: done ticks=300" in text
        vm.check_ticks(text)


def test_reader_of_the_pipe_goes_away():
    with small(cmdline="period_ms=10", serial="tty", stdout=subprocess.PIPE) as vm:
        vm.proc.stdout.close()
        vm.wait_log("cannot write to")
        vm.update()
        assert vm.running()


def test_slow_reader():
    """A pipe that nobody reads: the guest is not held up, updates work, what was kept arrives whole."""
    with small(cmdline="period_ms=2", serial="tty", stdout=subprocess.PIPE) as vm:
        for _ in range(3):
            time.sleep(0.1)
            vm.update()
        vm.qmp.command("stop")
        vm.update()
        vm.qmp.command("quit")
        assert vm.wait_exit(20) == 0
        text = vm.proc.stdout.read().decode()
        vm.check_ticks(text[: text.rfind("\n") + 1])


def test_slow_file():
    """An update that comes in the middle of a write: the guest runs until that is over, or the update is refused."""
    disk = SlowDisk(0, delay=0.7)
    try:
        with small(cmdline="period_ms=200", serial="file=" + disk.path) as vm:
            vm.wait_for(lambda: disk.log, "a first write")
            for _ in range(2):
                report = vm.update()
                # Neither waits for a write, of which the kernel makes one or two.
                assert max(report["blackout-us"], report.get("hand-off-us", 0)) < 700000, report
            disk.delay = 4
            writes = len(disk.log)
            vm.wait_for(lambda: len(disk.log) > writes, "the last short write")
            time.sleep(0.1)
            expect_error(vm.update, disk.path, "what is being written to it")
            disk.delay = 0
            vm.wait_for(lambda: len(disk.log) > writes + 1, "the long write")
            vm.update()
            vm.qmp.command("quit")
            assert vm.wait_exit(20) == 0
        vm.check_ticks(disk.data.decode())
    finally:
        disk.close()


def test_bad_backends():
    with small(start=False) as vm:
        os.mkdir(vm.path("dir"))
        for spec, status, words in (
                ("disk", 2, "no character backend"), ("file", 2, "no character backend"),
                ("file=", 2, "no character backend"), ("socket", 2, "no character backend"),
                ("pty=x", 2, "no character backend"),
                ("file=" + vm.path("dir"), 1, re.escape(vm.path("dir"))),
                ("file=/no/such/dir/x", 1, "/no/such/dir/x"),
                ("socket=" + vm.path("dir"), 1, "another kind of file is there"),
                ("socket=/" + "x" * 200, 2, "may have 107")):
            done = molt("run", "--serial", spec)
            assert done.returncode == status and re.search(words, done.stderr), done


need_kvm()
run_cases(globals())
