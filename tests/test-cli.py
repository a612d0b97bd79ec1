#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of molt's client side and command line: no KVM, a server of our own.

usage: test-cli.py [--tap] MOLT [unittest arguments]
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

MOLT = ""
GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 2, "micro": 0},
                                "package": "fake"}, "capabilities": []}}


def molt(*args, cwd=None, stdout=subprocess.PIPE, env=None):
    return subprocess.run([MOLT, *args], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=subprocess.PIPE, text=True, timeout=30, check=False)


def read_terminal(master):
    """All that was written to it: it comes in pieces, and at the end an error says that nobody has it open."""
    text = b""
    with open(master, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while piece := terminal.read(4096):
            text += piece
    return text


class Server(threading.Thread):
    """Serves one client: greets, agrees to the negotiation, then sends the next of answers for each
    request: an object, bytes to be sent as they are, or None to hang up. The descriptors that come
    are kept in `fds`, and what is in `state` is written to the one that is meant for it, which is
    made `size` bytes long."""

    def __init__(self, path, answers, greeting=None):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.answers = list(answers)
        self.greeting = greeting
        self.requests = []
        self.size = 0
        self.fds = {}
        self.state = stream([("s", 0, 1, 0, b"")])
        self.start()

    def run(self):
        with contextlib.suppress(BrokenPipeError):  # a client may go as soon as it knows enough
            self.serve()

    def lines(self, conn):
        """The requests, each with the descriptor that came with it, or None."""
        text, fd = b"", None
        while True:
            data, fds, _, _ = socket.recv_fds(conn, 65536, 4)
            if not data:
                return
            fd, text = (fds or [fd])[0], text + data
            while b"\n" in text:
                line, text = text.split(b"\n", 1)
                yield json.loads(line), fd
                fd = None

    def answer(self, request, fd):
        if request["execute"] == "getfd":
            self.fds[request["arguments"]["fdname"]] = fd
            return {"return": {}}
        self.requests.append(request)
        if "state-fd" in request.get("arguments", {}):
            os.write(self.fds[request["arguments"]["state-fd"]], self.state)
            if self.size:
                os.truncate(self.fds[request["arguments"]["state-fd"]], self.size)
            fcntl.fcntl(self.fds[request["arguments"]["state-fd"]], fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        return self.answers.pop(0)

    def serve(self):
        conn, _ = self.listener.accept()
        with conn:
            conn.sendall(self.greeting or json.dumps(GREETING).encode() + b"\r\n")
            lines = self.lines(conn)
            if next(lines, None) and not self.greeting:
                conn.sendall(b'{"return": {}}\r\n')
            for request, fd in lines:
                if not self.answers:
                    return
                answer = self.answer(request, fd)
                if answer is None:
                    return
                if not isinstance(answer, bytes):
                    answer = json.dumps(answer).encode() + b"\r\n"
                for at in range(0, len(answer), 7):
                    conn.sendall(answer[at:at + 7])


class Talker(threading.Thread):
    """Sends one client a text, and what more() gives for ever, and listens to nothing."""

    def __init__(self, path, text, more=None, fds=()):
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.text, self.more, self.fds = text, more, fds
        self.start()

    def run(self):
        conn, _ = self.listener.accept()
        with conn, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in self.text:
                socket.send_fds(conn, [bytes([byte])], self.fds)
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            while self.more:
                conn.sendall(self.more)
            conn.recv(1 << 20)
            while conn.recv(1 << 20):
                pass


@contextlib.contextmanager
def full_backlog(path):
    """A server that takes no connection: (listener, sockets that wait in its backlog)."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        waiting = []
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(path)
            except BlockingIOError:
                break
            waiting.append(client)
        yield listener, waiting


class Base(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = os.path.realpath(tmp.name)
        self.path = f"{self.dir}/sock"

    def serve(self, *answers, greeting=None):
        server = Server(self.path, answers, greeting)
        self.addCleanup(server.listener.close)
        return server

    def talk(self, text, more=None, fds=()):
        talker = Talker(self.path, text, more, fds)
        self.addCleanup(talker.listener.close)

    def expect(self, result, code, out=None, err=None):
        self.assertEqual(result.returncode, code, result.stderr)
        if out is not None:
            self.assertEqual(result.stdout, out)
        if err is not None:
            self.assertIn(err, result.stderr)
        self.assertEqual(bool(result.stderr), code != 0, result.stderr)


class Ctl(Base):
    def test_answer_is_printed(self):
        server = self.serve({"return": {"running": True}})
        self.expect(molt("ctl", self.path, "query-status"), 0, '{\n  "running": true\n}\n')
        self.assertEqual(server.requests, [{"execute": "query-status"}])

    def test_empty_answer_prints_nothing(self):
        self.serve({"return": {}})
        self.expect(molt("ctl", self.path, "stop"), 0, "")

    def test_compact(self):
        self.serve({"return": [1, "a", None]})
        self.expect(molt("ctl", "--compact", self.path, "x"), 0, '[1, "a", null]\n')

    def test_error(self):
        self.serve({"error": {"class": "GenericError", "desc": "no way"}})
        self.expect(molt("ctl", self.path, "x"), 1, "", "molt ctl: no way\n")

    def test_values(self):
        server = self.serve({"return": {}})
        self.expect(molt("ctl", self.path, "x", "n=5", "t=true", "s=file:a=b", 'o={"a":[1]}',
                         'q="5"', "e=", "z=null"), 0, "")
        self.assertEqual(server.requests[0]["arguments"],
                         {"n": 5, "t": True, "s": "file:a=b", "o": {"a": [1]}, "q": "5", "e": "",
                          "z": None})

    def test_bad_arguments(self):
        self.expect(molt("ctl", self.path, "x", "y"), 2, "", "'y' is not KEY=VALUE")
        self.expect(molt("ctl", self.path, "x", "a=1", "a=2"), 2, "", "'a' is given twice")
        self.expect(molt("ctl", self.path), 2, "", "which command?")
        self.expect(molt("ctl", self.path, "x", "--timeout", "-1"), 2, "", "'-1' is not a number")
        self.expect(molt("ctl", self.path, "{"), 2, "", "not JSON")

    def test_whole_request(self):
        server = self.serve({"return": 1, "id": 9})
        self.expect(molt("ctl", self.path, '{"execute": "x", "id": 9}'), 0, "1\n")
        self.assertEqual(server.requests, [{"execute": "x", "id": 9}])

    def test_events_before_the_answer_are_no_answer(self):
        event = {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
        self.serve(json.dumps(event).encode() + b'\r\n{"return": 3}\r\n')
        self.expect(molt("ctl", self.path, "x"), 0, "3\n")

    def test_events_are_followed(self):
        event = {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}
        text = json.dumps(event)
        greeting = json.dumps(GREETING) + '\r\n{"return": {}}\r\n' + (text + "\r\n") * 3
        self.serve(greeting=greeting.encode())
        with subprocess.Popen([MOLT, "ctl", "--events", self.path], stdout=subprocess.PIPE,
                              text=True) as proc:
            for _ in range(3):
                self.assertEqual(proc.stdout.readline(), text + "\n")
            proc.terminate()

    def test_events_end_with_their_reader(self):
        """As soon as it goes, as for `grep -m1`, not when the next event comes."""
        for restore in (True, False):
            self.talk(json.dumps(GREETING).encode() + b'{"return": {}}{"event": "STOP"}')
            with subprocess.Popen([MOLT, "ctl", "--events", self.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True, restore_signals=restore) as proc:
                self.assertEqual(json.loads(proc.stdout.readline()), {"event": "STOP"})
                proc.stdout.close()
                try:
                    self.assertEqual(proc.wait(timeout=10), -signal.SIGPIPE if restore else 1)
                finally:
                    proc.kill()
                self.assertEqual("Broken pipe" in proc.stderr.read(), not restore)
            os.unlink(self.path)

    def test_no_socket(self):
        self.expect(molt("ctl", self.path, "x"), 1, "", "there is none")

    def test_impossible_paths(self):
        """Least of all an abstract socket of NULs, which anybody may have."""
        with socket.socket(socket.AF_UNIX) as stranger:
            with contextlib.suppress(OSError):  # another run's
                stranger.bind("\0" * 108)
                stranger.listen()
            for command in (["ctl", "--timeout", "5", "", "x"], ["update", ""], ["stats", "--timeout", "5", ""]):
                self.expect(molt(*command), 1, "", "the control socket's path is empty")
        self.expect(molt("ctl", "/" + "x" * 107, "x"), 1, "", "the path has 108 bytes")

    def test_stale_socket(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.path)
        self.expect(molt("ctl", self.path, "x"), 1, "", "nobody listens there")

    def test_refusal_in_the_greetings_place(self):
        self.serve(greeting=b'{"error": {"class": "GenericError", "desc": "too many"}}\r\n')
        self.expect(molt("ctl", self.path, "x"), 1, "", "too many")

    def test_other_protocols(self):
        self.serve(greeting=b"220 mail.example.org ESMTP\r\n")
        self.expect(molt("ctl", self.path, "x"), 1, "", "does not speak QMP")

    def test_lost_connection(self):
        self.serve(None)
        self.expect(molt("ctl", self.path, "x"), 1, "", "the connection was lost")

    def serve_and_end(self, listener, cpu):
        """Answers when a request's last bracket is there, and is gone after the second answer."""
        os.sched_setaffinity(0, {cpu})
        conn, _ = listener.accept()
        with conn:
            conn.sendall(json.dumps(GREETING).encode() + b"\r\n")
            for _ in range(2):
                text = b""
                while not text.strip() or text.count(b"{") > text.count(b"}"):
                    text += conn.recv(65536)
                conn.sendall(b'{"return": {}}\r\n')

    def test_a_server_that_ends_as_soon_as_it_can(self):
        """Here before the client, which has the CPU when nobody else wants it, can send any more."""
        cpu = min(os.sched_getaffinity(0))

        def give_way():
            os.sched_setaffinity(0, {cpu})
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen()
            for _ in range(10):
                server = threading.Thread(target=self.serve_and_end, args=(listener, cpu), daemon=True)
                server.start()
                result = subprocess.run([MOLT, "ctl", self.path, "quit"], capture_output=True, text=True, timeout=30,
                                        preexec_fn=give_way, check=False)
                self.expect(result, 0, "")
                server.join()

    def test_time_limit_covers_connecting(self):
        """Of a stopped server the backlog is full; once it takes connections we get through."""
        with full_backlog(self.path) as (listener, waiting):
            self.expect(molt("ctl", "--timeout", "0.3", self.path, "x"), 1, "",
                        "not connected in time")
            with subprocess.Popen([MOLT, "ctl", "--timeout", "20", self.path, "x"],
                                  stdout=subprocess.PIPE, text=True) as proc:
                time.sleep(0.2)
                self.assertIsNone(proc.poll())
                for client in waiting:
                    listener.accept()[0].close()
                    client.close()
                conn, _ = listener.accept()
                conn.sendall(json.dumps(GREETING).encode() + b'{"return": {}}{"return": 7}\r\n')
                self.assertEqual(proc.stdout.read(), "7\n")
                self.assertEqual(proc.wait(), 0)
                conn.close()

    def test_timeout(self):
        self.serve(b"\r\n")
        self.expect(molt("ctl", "--timeout", "0.2", self.path, "x"), 1, "", "no answer in time")

    def test_time_limit_holds_for_a_server_that_never_stops(self):
        """Short events are more work for the client than for the server, which so is always ahead."""
        greeting = json.dumps(GREETING).encode() + b'{"return": {}}'
        self.talk(greeting, b'{"event":1}' * 90000)
        start = time.monotonic()
        self.expect(molt("ctl", "--timeout", "0.5", self.path, "x"), 1, "", "no answer in time")
        self.assertLess(time.monotonic() - start, 20)

    def bounded(self, *args):
        """Runs molt; its status, its output and the memory that it had, in bytes."""
        with subprocess.Popen([MOLT, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as proc:
            text = proc.stdout.read()
            _, status, usage = os.wait4(proc.pid, 0)
            proc.returncode = os.waitstatus_to_exitcode(status)
        return proc.returncode, text, usage.ru_maxrss * 1024

    def test_answers_are_bounded(self):
        greeting = json.dumps(GREETING).encode() + b'{"return": {}}'
        self.talk(greeting + b'{"return": "', b"x" * 65536)
        status, text, memory = self.bounded("ctl", self.path, "x")
        self.assertEqual(status, 1)
        self.assertIn(b"a message of over 1048576 bytes", text)
        self.assertLess(memory, 100 << 20)

    def test_answers_that_are_small_on_the_way(self):
        """And large as objects in memory, or when they are printed."""
        for inside in (b"{}," * 4000000, b"[" * 60 + b"0," * 6000000 + b"0" + b"]" * 60 + b","):
            self.serve(b'{"return": [' + inside + b"0]}\r\n")
            _, text, memory = self.bounded("ctl", self.path, "x")
            self.assertLess(memory, 400 << 20)
            self.assertLess(len(text), 200 << 20)
            os.unlink(self.path)

    def test_descriptors_of_a_server_are_not_taken(self):
        text = json.dumps(GREETING).encode() + b'{"return": {}}{"event": "STOP"}'
        with open(MOLT, "rb") as f:
            self.talk(text, fds=[f.fileno(), f.fileno()])
            with subprocess.Popen([MOLT, "ctl", "--events", self.path], stdout=subprocess.PIPE,
                                  text=True) as proc:
                self.assertEqual(json.loads(proc.stdout.readline()), {"event": "STOP"})
                links = [os.readlink(f"/proc/{proc.pid}/fd/{fd}")
                         for fd in os.listdir(f"/proc/{proc.pid}/fd")]
                proc.terminate()
        self.assertEqual(len(links), 5, links)  # the standard ones, the socket, and what watches the output
        self.assertNotIn(os.path.realpath(MOLT), links)


REPORT = {"pid": 123, "version": "0.2.0", "previous-version": "0.1.0", "blackout-us": 1500,
          "total-us": 9000, "updates": 3, "state-bytes": 12345,
          "stages": [{"name": "pause", "us": 12}, {"name": "exec", "us": 700}]}


class Update(Base):
    def test_report(self):
        server = self.serve({"return": REPORT})
        result = molt("update", self.path)
        self.expect(result, 0)
        self.assertEqual(server.requests, [{"execute": "update", "arguments": {}}])
        lines = [line.split() for line in result.stdout.splitlines()]
        self.assertEqual(lines[:4], [["pause", "12", "us"], ["exec", "700", "us"],
                                     "guest stopped for 1.5 ms".split(), ["total", "9000", "us"]])
        for word in ["123", "0.2.0,", "0.1.0:", "3,", "12345"]:
            self.assertIn(word, lines[4])

    def test_report_of_two_gaps(self):
        self.serve({"return": dict(REPORT, **{"hand-off-us": 249})})
        result = molt("update", self.path)
        self.expect(result, 0)
        self.assertIn("guest stopped for 0.2 ms + 1.5 ms (hand-off, switch)\n", result.stdout)

    def test_report_of_a_paused_guest(self):
        self.serve({"return": {key: value for key, value in REPORT.items() if key != "blackout-us"}})
        result = molt("update", self.path)
        self.expect(result, 0)
        self.assertIn("the guest was paused before and stays so\n", result.stdout)

    def test_report_as_json(self):
        self.serve({"return": REPORT})
        result = molt("update", "--json", self.path)
        self.expect(result, 0)
        self.assertEqual(json.loads(result.stdout), REPORT)

    def test_paths_are_made_absolute(self):
        server = self.serve({"return": REPORT})
        self.expect(molt("update", self.path, "--state", "st", "--", "./new/molt", "--x", "./y",
                         cwd=self.dir), 0)
        self.assertEqual(server.requests[0]["arguments"],
                         {"state-file": f"{self.dir}/st", "state-fd": "molt-state",
                          "command": [f"{self.dir}/new/molt", "--x", "./y"]})

    def test_absolute_paths_stay(self):
        server = self.serve({"return": REPORT})
        self.expect(molt("update", f"--state={self.dir}/st", self.path, "--", "/x/molt2", "molt"), 0)
        self.assertEqual(server.requests[0]["arguments"],
                         {"state-file": f"{self.dir}/st", "state-fd": "molt-state",
                          "command": ["/x/molt2", "molt"]})

    def test_state_comes_into_a_file_of_its_own(self):
        """Whole, with a mode of its own, in the place of one that was there; nothing beside it."""
        path = f"{self.dir}/st"
        for umask in (0o022, 0):
            server = self.serve({"return": REPORT})
            server.state = stream([("s", 0, 1, 0, field("x", 2, 100000, b"x" * 100000))])
            old = os.umask(umask)
            self.expect(molt("update", "--state", path, self.path), 0)
            os.umask(old)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            with open(path, "rb") as f:
                self.assertEqual(f.read(), server.state)
            self.assertEqual(sorted(os.listdir(self.dir)), ["sock", "st"])
            os.unlink(self.path)
            os.chmod(path, 0o666)

    def test_state_files_that_are_not_taken(self):
        """And the running molt is not asked for anything."""
        for name in ("victim", "two"):
            with open(f"{self.dir}/{name}", "w", encoding="ascii") as f:
                f.write("as it was")
        os.symlink("victim", f"{self.dir}/link")
        os.link(f"{self.dir}/two", f"{self.dir}/two-too")
        os.mkfifo(f"{self.dir}/fifo")
        cases = [("link", "a symbolic link"), ("two", "has 2 names"), ("fifo", "not a regular file"),
                 (".", "Is a directory"), ("none/st", "No such file")]
        if os.getuid() == 0:
            os.chown(f"{self.dir}/victim", 1, 1)
            cases.append(("victim", "belongs to user 1"))
        for name, words in cases:
            server = self.serve({"return": REPORT})
            self.expect(molt("update", "--state", f"{self.dir}/{name}", self.path), 1, "", words)
            self.assertEqual(server.requests, [])
            os.unlink(self.path)
        for name in ("victim", "two"):
            with open(f"{self.dir}/{name}", encoding="ascii") as f:
                self.assertEqual(f.read(), "as it was")
        self.assertEqual(sorted(os.listdir(self.dir)), ["fifo", "link", "two", "two-too", "victim"])

    def test_state_of_an_update_that_fails_is_not_kept(self):
        for answer in (None, {"error": {"class": "GenericError", "desc": "no"}}):
            self.serve(answer, {"return": {}})
            self.expect(molt("update", "--state", f"{self.dir}/st", self.path), 1)
            self.assertEqual(os.listdir(self.dir), ["sock"])
            os.unlink(self.path)

    def test_a_server_that_writes_no_state(self):
        server = self.serve({"return": REPORT})
        server.state = b""
        self.expect(molt("update", "--state", f"{self.dir}/st", self.path), 1, None, "written none")
        self.assertEqual(os.listdir(self.dir), ["sock"])

    def test_a_state_that_is_none_is_not_kept(self):
        """Nor one that is cut short, or changed, or too long to be looked at."""
        good = stream([("s", 0, 1, 0, field("x", 2, 1, b"x"))])
        for bad, words in ((b"the state", "cut short"), (good[:-1], "cut short"),
                           (good[:100] + b"y" + good[101:], "CRC does not match"),
                           (good + b"x", "stray bytes"), (bytes(100000), "wrong magic")):
            server = self.serve({"return": REPORT})
            server.state = bad
            result = molt("update", "--state", f"{self.dir}/st", self.path)
            self.expect(result, 1, None, words)
            self.assertIn("the update is done, but its state is not kept", result.stderr)
            self.assertIn("process 123", result.stdout)
            self.assertEqual(os.listdir(self.dir), ["sock"])
            os.unlink(self.path)

    def test_a_state_without_end(self):
        for size in (1 << 40, (64 << 20) + 1, 64 << 20):
            server = self.serve({"return": REPORT})
            server.size = size
            self.expect(molt("update", "--state", f"{self.dir}/st", self.path), 1, None,
                        "stray bytes" if size == 64 << 20 else "more than the 67108864")
            self.assertEqual(os.listdir(self.dir), ["sock"])
            os.unlink(self.path)

    def test_a_state_over_the_file_size_limit(self):
        """Is an error, and no death by SIGXFSZ."""
        server = self.serve({"return": REPORT})
        server.state = stream([("s", 0, 1, 0, field("x", 2, 200000, b"x" * 200000))])
        limit = (150000, 150000)
        result = subprocess.run([MOLT, "update", "--state", f"{self.dir}/st", self.path],
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
                                capture_output=True, text=True, timeout=30, check=False)
        self.expect(result, 1, None, "RLIMIT_FSIZE is 150000")
        self.assertEqual(os.listdir(self.dir), ["sock"])

    def test_a_reader_that_is_gone_does_not_cost_the_state(self):
        self.serve({"return": {**REPORT, "more": ["x" * 4000] * 100}})
        reader, writer = os.pipe()
        os.close(reader)
        result = molt("update", "--json", "--state", f"{self.dir}/st", self.path, stdout=writer)
        os.close(writer)
        self.assertEqual(result.returncode, -signal.SIGPIPE, result.stderr)
        self.assertEqual(sorted(os.listdir(self.dir)), ["sock", "st"])
        self.expect(molt("state", "--summary", f"{self.dir}/st"), 0)

    def test_ctrl_c_leaves_nothing(self):
        for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            server = self.serve(b"\r\n")
            with subprocess.Popen([MOLT, "update", "--state", f"{self.dir}/st", self.path],
                                  stderr=subprocess.PIPE) as proc:
                while not server.requests:
                    time.sleep(0.01)
                self.assertEqual(len(os.listdir(self.dir)), 2)
                proc.send_signal(signo)
                self.assertEqual((proc.wait(), proc.stderr.read()), (-signo, b""))
            self.assertEqual(os.listdir(self.dir), ["sock"])
            os.unlink(self.path)

    def test_a_server_cannot_name_what_is_opened(self):
        """Nothing is sent but what the user has named, whatever path the server tells."""
        secret = self.program("secret", "\177ELF and a secret")
        server = self.serve({"return": {"status": "none", "updates": 0, "path": secret}},
                            {"return": REPORT})
        molt("update", self.path)
        self.assertEqual(server.fds, {})
        os.unlink(self.path)
        server = self.serve({"return": REPORT})
        self.expect(molt("update", self.path, "--", secret), 0)
        self.assertEqual(os.path.realpath(f"/proc/self/fd/{server.fds['molt-successor']}"), secret)

    def test_a_servers_text_is_only_text(self):
        evil = "\x1b]0;root\x07\nmolt update: all is well\x9b2J\u202e"
        shown = r"\x1b]0;root\x07\x0amolt update: all is well\xc2\x9b2J\xe2\x80\xae"
        self.serve({"error": {"class": "GenericError", "desc": evil}}, {"return": {}})
        self.expect(molt("update", self.path), 1, "", shown)
        os.unlink(self.path)
        self.serve({"return": {**REPORT, "version": evil, "stages": [{"name": evil, "us": 1}]}})
        result = molt("update", self.path)
        self.expect(result, 0)
        self.assertEqual(result.stdout.count(shown), 2)
        self.assertNotIn("\x1b", result.stdout)
        os.unlink(self.path)
        self.serve({"error": {"class": "GenericError", "desc": "x" * 100000}}, {"return": {}})
        result = molt("update", self.path)
        self.assertEqual(result.returncode, 1)
        self.assertLess(len(result.stderr), 5000)

    def program(self, path, text="#!/bin/sh\n", mode=0o700):
        path = f"{self.dir}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as out:
            out.write(text)
        os.chmod(path, mode)
        return path

    def test_bare_names_are_looked_up_here(self):
        """In the user's PATH, and what is sent is absolute: scripts, too, and to a server that
        takes no descriptors. A directory of that name is no program, nor is what nobody may run."""
        os.makedirs(f"{self.dir}/one/molt2")
        self.program("two/molt2", mode=0o600)
        found = self.program("three/molt2")
        self.program("four/molt2")
        for dirs in (f"{self.dir}/one:{self.dir}/two:{self.dir}/three:{self.dir}/four",
                     "one:./two::./three:four"):
            server = self.serve({"return": REPORT})
            self.expect(molt("update", self.path, "--", "molt2", "run", cwd=self.dir,
                             env={"PATH": dirs}), 0)
            self.assertEqual(server.requests[0]["arguments"], {"command": [found, "run"]})
            os.unlink(self.path)

    def test_bare_names_that_are_nowhere(self):
        """It is the client's error, before it connects."""
        os.makedirs(f"{self.dir}/bin/molt2")
        for name in ("molt2", "molt3", ""):
            self.expect(molt("update", self.path, "--", name, env={"PATH": f"{self.dir}/bin"}),
                        1, "", f"successor '{name}' is not in PATH")

    def test_another_process_is_told(self):
        for more, words in (({"previous-pid": 100}, ["process 123 now", "no longer in 100"]),
                            ({"previous-pid": 123}, []), ({}, [])):
            for options in ((), ("--json",)):
                self.serve({"return": {**REPORT, **more}})
                result = molt("update", *options, self.path)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(bool(result.stderr), bool(words), result.stderr)
                for word in words:
                    self.assertIn(word, result.stderr)
                os.unlink(self.path)

    def test_time_limit_covers_connecting(self):
        with full_backlog(self.path):
            start = time.monotonic()
            self.expect(molt("update", "--timeout", "0.001", self.path), 1, "",
                        "not connected in time")
            self.assertLess(time.monotonic() - start, 20)

    def test_failure(self):
        error = {"error": {"class": "GenericError", "desc": "check: no such section"}}
        event = {"timestamp": {"seconds": 1, "microseconds": 2}, "event": "UPDATE_FAILED",
                 "data": {"error": "check: no such section", "pid": 4711}}
        self.serve((json.dumps(error) + "\r\n" + json.dumps(event) + "\r\n").encode(),
                   {"return": {"running": True, "status": "running"}})
        result = molt("update", self.path)
        self.expect(result, 1, "")
        self.assertEqual(result.stderr, "molt update: check: no such section\n"
                                        "molt update: the guest runs on in process 4711\n")

    def test_progress(self):
        """On a terminal, on one line, of which nothing is left."""
        events = "".join(json.dumps({"event": "UPDATE_PROGRESS", "data": {"mapped-bytes": n, "total-bytes": m}})
                         for n, m in ((0, 0), (512 << 20, 2048 << 20), ("x", None)))
        for answer, end in (({"return": REPORT}, b""), ({"error": {"desc": "no"}}, b"molt update: no\r\n")):
            master, slave = pty.openpty()
            self.serve((events + json.dumps(answer)).encode(), {"return": {}})
            done = subprocess.run([MOLT, "update", self.path], stdout=subprocess.PIPE, stderr=slave, check=False)
            os.close(slave)
            text = read_terminal(master)
            self.assertEqual(done.returncode, bool(end))
            lines = text.split(b"\r\x1b[K")
            self.assertEqual(lines, [b"", b"the successor is getting ready; the guest runs",
                                     b"guest RAM is being mapped: 512 of 2048 MiB; the guest runs",
                                     b"the successor is getting ready; the guest runs", end])
            os.unlink(self.path)
        self.serve((events + json.dumps({"return": REPORT})).encode())
        self.expect(molt("update", self.path), 0)

    def test_processes_that_cannot_be(self):
        """To kill -1 would be to kill everything."""
        for pid in (0, -1, -(1 << 63), "1", None):
            error = {"error": {"class": "GenericError", "desc": "no"}}
            event = {"event": "UPDATE_FAILED", "data": {"pid": pid}}
            self.serve((json.dumps(error) + json.dumps(event)).encode(), {"return": {}})
            self.expect(molt("update", self.path), 1, "", "molt update: no\n")
            os.unlink(self.path)
            self.serve({"return": {**REPORT, "pid": pid, "previous-pid": 1}})
            result = molt("update", self.path)
            self.expect(result, 0)
            self.assertIn("process ? is now", result.stdout)
            os.unlink(self.path)

    def test_refusal_says_nothing_of_a_process(self):
        self.serve({"error": {"class": "GenericError", "desc": "busy"}},
                   {"return": {"running": True, "status": "running"}})
        result = molt("update", self.path)
        self.expect(result, 1, "")
        self.assertEqual(result.stderr, "molt update: busy\n")

    def test_timeout_is_for_the_server(self):
        for text, ms in (("0.5", 500), ("1", 1000), ("0.001", 1), ("600", 600000)):
            server = self.serve({"return": REPORT})
            self.expect(molt("update", "--timeout", text, self.path), 0)
            self.assertEqual(server.requests[0]["arguments"], {"timeout": ms})
            os.unlink(self.path)

    def test_check_only(self):
        server = self.serve({"return": {"check": "passed"}})
        self.expect(molt("update", "--check", self.path), 0,
                    "check passed: the successor can take the guest over\n")
        self.assertEqual(server.requests[0]["arguments"], {"check-only": True})

    def test_no_check(self):
        server = self.serve({"return": REPORT})
        self.expect(molt("update", "--no-check", self.path), 0)
        self.assertEqual(server.requests[0]["arguments"], {"no-check": True})
        self.expect(molt("update", "--no-check", "--check", self.path), 2, "",
                    "one or the other")

    def test_bad_timeouts(self):
        for text in ("0", "600.001", "1000"):
            self.expect(molt("update", "--timeout", text, self.path), 2, "",
                        f"--timeout {text} is out of range: 0.001 to 600 seconds")
        self.expect(molt("update", "--timeout", "5s", self.path), 2, "", "'5s' is not a number")

    def test_lost_connection_tells_what_to_check(self):
        self.serve(None)
        result = molt("update", self.path)
        self.expect(result, 1, "", "how the update ended is not known")
        self.assertIn(f"molt ctl {self.path} query-status", result.stderr)
        self.assertIn(f"process {os.getpid()} ", result.stderr)

    def test_a_server_in_another_pid_name_space(self):
        """Has no id here that could be told."""
        command = ["unshare", "--pid", "--fork", MOLT, "update", self.path]
        if subprocess.run([*command[:3], "true"], capture_output=True, check=False).returncode:
            self.skipTest("needs root, and name spaces")
        self.serve(None)
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        self.expect(result, 1, "", "see whether its process still lives")

    def test_names_of_sockets_are_only_text(self):
        self.path = f"{self.dir}/\x1b[2J"
        self.serve(None)
        result = molt("update", self.path)
        self.expect(result, 1, "", r"/\x1b[2J query-status")
        self.assertNotIn("\x1b", result.stderr)

    def test_timeout_tells_what_to_check(self):
        """The successor's time for check and take-over, and 10 s for all around it."""
        self.serve(b"\r\n")
        start = time.monotonic()
        self.expect(molt("update", "--timeout=0.5", self.path), 1, "",
                    "how the update ended is not known")
        self.assertGreater(time.monotonic() - start, 11)

    def test_command_needs_dashes(self):
        self.expect(molt("update", self.path, "molt2"), 2, "", "comes after '--'")

    def test_command_is_not_empty(self):
        """As by a variable of a script that is not set: it was an update to molt's own path."""
        self.expect(molt("update", self.path, "--"), 2, "", "after '--' is empty")

    def test_state_is_not_empty(self):
        self.expect(molt("update", "--state=", self.path), 2, "", "--state: the file's path is empty")


def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def u32(value):
    return struct.pack("<I", value)


def field(name, kind, count, data, flags=0):
    return struct.pack("<BBBBI", kind, flags, len(name), 0, count) + name.encode() + data


def stream(sections):
    """A state stream as docs/state-format.md has it, written down a second time."""
    header = struct.pack("<8sII32s16s16sI", b"MOLTSTRM", 1, 1, b"0.1.0", bytes(range(16)),
                         bytes(range(16, 32)), 0)
    crcs = u32(crc32c(header))
    text = header + crcs
    for name, instance, version, flags, payload in sections:
        body = struct.pack("<IIIII48s", 0x54434553, instance, version, flags, len(payload),
                           name.encode()) + payload
        crc = u32(crc32c(body))
        crcs += crc
        text += body + crc
    end = struct.pack("<III", 0x21444e45, len(sections), crc32c(crcs))
    return text + end + u32(crc32c(end))


class Values(Base):
    """A value that can be right nowhere is wrong usage, for every option that there is."""

    SECONDS = ["", "-1", "x", "5s", "1.2345", "1e3"]
    LONG = "x" * 5000
    BAD = {
        ("run", "cmdline"): [LONG],
        ("run", "cpus"): ["", "0", "255", "-1", "x", "1.5", "2,sockets=1"],
        ("run", "cpu"): ["", "nosuch", "x86-64-v5", "host,x"],
        ("run", "memory"): ["", "3", "x", "1T", "1.5G", "64M,colour=red", "64M,hugepages=3M",
                            "64M,thp=x", "64M,refault=x", "64M,refault-limit=x",
                            "64M,thp=on,hugepages=2M", "65M,hugepages=2M"],
        ("run", "machine"): ["", "0", "99", "x"],
        ("run", "serial"): ["", "nosuch", "file", "file=", "pty=x", "socket=/" + LONG],
        ("run", "serial2"): ["", "nosuch", "file="],
        ("run", "rng"): ["", "x", "host,slot=0", "host,slot=32", "host,id=1", "host,x=1"],
        ("run", "disk"): ["", "readonly=on", "d,readonly=x", "d,queues=0", "d,queues=65",
                          "d,queue-size=3", "d,serial=" + 21 * "x", "d,ops=0", "d,ops=x", "d,bytes=1/0",
                          "d,ops=1000000000000001", "d,bytes=910T", "d,bytes=1/1000000000000001",
                          "d,engine=x", "d,fd=2", "d,colour=x"],
        ("run", "vhost-user"): ["", "socket=s", "type=blk", "socket=s,type=fs",
                                "socket=s,type=blk,queues=65", "socket=s,type=blk,queue-size=3",
                                "socket=/" + LONG + ",type=blk"],
        ("run", "control"): ["", LONG],
        ("run", "name"): [LONG],
        ("run", "log-level"): ["", "loud"],
        ("io", "log-level"): ["", "loud"],
        ("run", "sandbox"): ["", "x", "write=x", "on,write=:", "mode=on,mode=on"],
        ("run", "user"): ["", "nobody-such", "0:", "0:no-such-group"],
        ("update", "timeout"): [*SECONDS, "0", "600.001"],
        ("ctl", "timeout"): SECONDS,
        ("io", "disk"): ["", "x", "id=a", "id=a,socket=2,file=4,board=5", "socket=3,file=4,board=5",
                         "id=a,socket=3,file=4,board=5,queues=0", "id=a,socket=3,file=4,board=5,queue-size=24",
                         "id=a,socket=3,file=4,board=5,rings=6:7", "id=a,socket=3,file=4,board=5,discard=x"],
        ("io", "log-level"): ["", "loud"],
        ("stats", "timeout"): SECONDS,
    }
    # Paths, about which the file system has the last word; and what only a predecessor gives.
    ANY = {("run", "kernel"), ("run", "initramfs"), ("run", "log-file"), ("run", "incoming"),
           ("update", "state"), ("io", "disk")}

    def setUp(self):
        super().setUp()
        table = json.loads(molt("--dump-options").stdout)
        self.options = {(cmd, opt["name"]): opt for cmd, entry in table.items()
                        for opt in entry["options"]}

    def test_every_value(self):
        self.assertEqual({key for key, opt in self.options.items() if opt["arg"]},
                         set(self.BAD) | self.ANY)
        for (cmd, name), values in self.BAD.items():
            words = ([], [self.path, "x"])[cmd == "ctl"] or ([], [self.path])[cmd in ("update", "stats")]
            for value in values:
                result = molt(cmd, f"--{name}", value, *words, cwd=self.dir)
                self.expect(result, 2, "", f"try 'molt {cmd} --help'")
                self.assertTrue(name in result.stderr or value in result.stderr, result.stderr)

    def test_every_missing_or_needless_value(self):
        for (cmd, name), opt in self.options.items():
            args = [f"--{name}"] if opt["arg"] else [f"--{name}=x"]
            self.expect(molt(cmd, *args), 2, "",
                        "needs a value" if opt["arg"] else "takes no value")

    def test_initramfs_needs_a_kernel(self):
        self.expect(molt("run", "--initramfs", "/dev/null"), 2, "", "needs a --kernel")

    def test_a_user_for_each_name_needs_a_name(self):
        for args in ([], ["--name", ""]):
            self.expect(molt("run", "--user", "auto", *args), 2, "", "--name")

    def test_devices_that_no_machine_can_have(self):
        cases = [
            (["--serial2", "tty"], "the terminal is COM1's"),
            (["--serial", "null", "--serial2", "null", "--serial2", "null"], "at most 2"),
            (["--disk", "d", "--machine", "1"], "needs machine version 2"),
            (["--disk", "a,id=x", "--rng", "host,id=x"], "id 'x' is that of two devices"),
            (["--disk", "a,id=serial"], "id 'serial' is that of two devices"),
            (["--disk", "a,slot=3", "--disk", "b,slot=4", "--rng", "host,slot=3"], "slot 3 is that of two devices"),
        ]
        for args, words in cases:
            self.expect(molt("run", *args, "--log-file", "log", cwd=self.dir), 2, "", words)
        self.assertEqual(os.listdir(self.dir), [])

    def test_paths_that_are_empty(self):
        for option in ("kernel", "log-file"):
            self.expect(molt("run", f"--{option}="), 2, "", f"--{option}: the file's path is empty")
        self.expect(molt("run", "--kernel", "k", "--initramfs="), 2, "", "--initramfs: the file's path is empty")

    def test_nothing_is_made_before(self):
        self.expect(molt("run", "--log-file", "log", "--control", "control", "--serial",
                         "file=serial", "--memory", "3", cwd=self.dir), 2, "", "--memory")
        self.assertEqual(os.listdir(self.dir), [])


class Check(Base):
    """`molt run` in check mode."""

    def reasons(self, binary):
        files = [os.memfd_create(name) for name in ("description", "fds", "answer")]
        try:
            subprocess.run([binary, "run"], env={"MOLT_CHECK": ":".join(map(str, files))}, pass_fds=files, timeout=30,
                           stdin=subprocess.DEVNULL, check=True, **({"user": 65534} if os.geteuid() == 0 else {}))
            return " ".join(json.loads(os.pread(files[2], 65536, 0))["reasons"])
        finally:
            for fd in files:
                os.close(fd)

    def test_a_binary_that_cannot_be_read(self):
        """It could be executed once, and then neither an update nor an I/O process could begin."""
        os.chmod(self.dir, 0o755)
        binary = f"{self.dir}/molt"
        shutil.copy(MOLT, binary)
        os.chmod(binary, 0o555)
        self.assertNotIn("molt's own binary", self.reasons(binary))
        os.chmod(binary, 0o111)
        self.assertIn(f"molt's own binary, {binary}: permission denied for user", self.reasons(binary))


class State(Base):
    def write(self, data):
        path = f"{self.dir}/state"
        with open(path, "wb") as out:
            out.write(data)
        return path

    def sample(self):
        return stream([
            ("uart", 2, 3, 0,
             field("on", 1, 1, b"\1") + field("ier", 2, 1, b"\x0f")
             + field("rx", 2, 3, b"\1\2\xff") + field("fifo", 2, 9, bytes(range(9)))
             + field("none", 2, 0, b"") + field("irqs", 4, 2, u32(7) + u32(0xffffffff))
             + field("tsc", 5, 1, struct.pack("<Q", 0xfedcba9876543210))
             + field("times", 5, 2, struct.pack("<QQ", 1, 2))
             + field("path", 6, 4, "/\u00e9x".encode(), 1)),
            ("hint", 0, 1, 1, b""),
        ])

    def test_json(self):
        result = molt("state", self.write(self.sample()))
        self.expect(result, 0)
        state = json.loads(result.stdout)
        self.assertEqual(state["header"], {
            "format": 1, "machine-version": 1, "producer": "0.1.0",
            "uuid": "00010203-0405-0607-0809-0a0b0c0d0e0f",
            "nonce": "101112131415161718191a1b1c1d1e1f"})
        uart, hint = state["sections"]
        self.assertEqual([uart[k] for k in ("name", "instance", "version", "flags")],
                         ["uart", 2, 3, 0])
        self.assertEqual([hint[k] for k in ("name", "flags", "bytes", "fields")],
                         ["hint", 1, 0, []])
        self.assertEqual({f["name"]: f["value"] for f in uart["fields"]}, {
            "on": True, "ier": 15, "rx": [1, 2, 255], "fifo": "000102030405060708", "none": [],
            "irqs": [7, 0xffffffff], "tsc": "0xfedcba9876543210", "times": ["0x1", "0x2"],
            "path": "/\u00e9x"})
        self.assertEqual({f["name"]: (f["type"], f["count"]) for f in uart["fields"]}["irqs"],
                         ("u32", 2))
        self.assertEqual([f["name"] for f in uart["fields"] if f.get("ignorable")], ["path"])

    def test_strings_of_any_bytes(self):
        texts = {"latin": b"/\xe9x", "nul": b"a\0b", "none": b"", "tty": b"\x1b[2J\"\\",
                 "cut": b"\xe2\x82", "nul2": b"\xff\0b"}
        data = b"".join(field(name, 6, len(text), text) for name, text in texts.items())
        result = molt("state", self.write(stream([("s", 0, 1, 0, data)])))
        self.expect(result, 0)
        self.assertNotIn("\x1b", result.stdout)
        fields = json.loads(result.stdout)["sections"][0]["fields"]
        self.assertEqual({f["name"]: f["value"] for f in fields}, {
            "latin": "/?x", "nul": "a\0b", "none": "", "tty": "\x1b[2J\"\\", "cut": "??",
            "nul2": "?"})

    def test_field_and_section_names_of_any_bytes(self):
        data = struct.pack("<BBBBI", 2, 0, 2, 0, 1) + b"\xe9\x07" + b"\5"
        text = bytearray(stream([("s?", 0, 1, 0, data)]))
        at = text.index(b"s?\0")
        text[at + 1] = 0x1b
        body = at - 20
        end = body + 68 + len(data)
        text[end:end + 4] = u32(crc32c(text[body:end]))
        crcs = bytes(text[body - 4:body]) + bytes(text[end:end + 4])
        text[-8:-4] = u32(crc32c(crcs))
        text[-4:] = u32(crc32c(text[-16:-4]))
        path = self.write(bytes(text))
        result = molt("state", path)
        self.expect(result, 0)
        section = json.loads(result.stdout)["sections"][0]
        self.assertEqual((section["name"], section["fields"][0]["name"],
                          section["fields"][0]["value"]), ("s?", "?\x07", 5))
        self.expect(molt("state", "--summary", path), 0)
        self.assertNotIn("\x1b", molt("state", "--summary", path).stdout)

    def test_every_type_alone_and_in_lists(self):
        sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}
        data = b"".join(field(f"t{kind}x{n}", kind, n, b"\1" * (size * n))
                        for kind, size in sizes.items() for n in (0, 1, 2, 100))
        result = molt("state", self.write(stream([("s", 0, 1, 0, data)])))
        self.expect(result, 0)
        fields = json.loads(result.stdout)["sections"][0]["fields"]
        one = {1: True, 2: 1, 3: 0x101, 4: 0x1010101, 5: "0x101010101010101"}
        expected = {}
        for kind, value in one.items():
            expected |= {f"t{kind}x{n}": [value] * n for n in (0, 2, 100)}
            expected[f"t{kind}x1"] = value
        expected["t2x100"] = "01" * 100
        self.assertEqual({f["name"]: f["value"] for f in fields}, expected)

    def test_summary(self):
        result = molt("state", "--summary", self.write(self.sample()))
        self.expect(result, 0)
        lines = [line.split() for line in result.stdout.splitlines()]
        self.assertEqual(lines[0][:2], ["format", "1,"])
        self.assertEqual(lines[1][:3], ["uart", "2", "v3"])
        self.assertEqual(lines[2], ["hint", "0", "v1", "0", "bytes", "ignorable"])

    def test_no_file(self):
        os.mkfifo(f"{self.dir}/fifo")
        self.expect(molt("state", f"{self.dir}/fifo"), 1, "", "not a regular file")
        self.expect(molt("state", self.dir), 1, "", "not a regular file")

    def test_damage_is_named(self):
        good = self.sample()
        self.expect(molt("state", self.write(good[:-1])), 1, "", "state:")
        bad = bytearray(good)
        bad[200] ^= 1
        self.expect(molt("state", self.write(bytes(bad))), 1, "", "uart")
        self.expect(molt("state", self.write(b"")), 1, "", "state:")
        self.expect(molt("state", f"{self.dir}/none"), 1, "", "No such file")
        self.expect(molt("state", self.dir), 1, "", "not a regular file")
        self.expect(molt("state"), 2, "", "FILE")


class Main(Base):
    def test_no_arguments(self):
        self.expect(molt(), 2, "", "usage: molt")

    def test_unknown_command(self):
        self.expect(molt("updaet"), 2, "", "did you mean 'update'?")
        self.expect(molt("xyzzy"), 2, "", "commands: run update ctl stats state version help")
        self.expect(molt("foo"), 2, "", "unknown command 'foo'\n")
        self.expect(molt("help", "xyzzy"), 2, "", "unknown command 'xyzzy'")

    def test_unknown_option(self):
        for args in (["--kernle", "x"], ["run", "--kernle", "x"], ["run", "--kernle=x"]):
            self.expect(molt(*args), 2, "", "did you mean '--kernel'?")
            self.expect(molt(*args), 2, "", "try 'molt run --help'")

    def test_help(self):
        for args in (["help"], ["--help"], ["-h"], ["help", "--help"], ["help", "-h"], ["help", "help"]):
            result = molt(*args)
            self.expect(result, 0)
            for sub in ("run", "update", "ctl", "stats", "state", "version", "io"):
                self.assertIn(f"\n  {sub} ", result.stdout)
        for args in (["help", "ctl"], ["--help", "ctl"], ["-h", "ctl"]):
            self.assertEqual(molt(*args).stdout, molt("ctl", "--help").stdout)

    def test_help_fits_a_terminal(self):
        for sub in ("run", "update", "ctl", "stats", "state", "version", "io"):
            for line in molt("help", sub).stdout.splitlines():
                self.assertLess(len(line), 80, line)

    def test_version(self):
        text = molt("version").stdout
        self.assertRegex(text, r"^molt \d+\.\d+\.\d+\n$")
        for args in (["--version"], ["-V"]):
            self.expect(molt(*args), 0, text)
        versions = json.loads(molt("version", "--json").stdout)
        self.assertEqual(f"molt {versions['version']}\n", text)
        self.assertEqual(versions["qmp"], "10.2.0")

    def test_full_disk_is_noticed(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            self.expect(molt("version", stdout=full), 1, None, "cannot write")

    def test_closed_standard_output_is_noticed(self):
        result = subprocess.run(["sh", "-c", '"$1" version >&-', "sh", MOLT], check=False,
                                capture_output=True, text=True)
        self.expect(result, 1, "", "cannot write")


def disk_stats(reads):
    kinds = {f"{k}_latency_histogram": {"boundaries": [1000, 2000, 4000], "bins": [reads, 0, 0, 0]}
             for k in ("rd", "wr", "flush", "unmap")}
    return {"rd_operations": reads, "failed_rd_operations": 1, "rd_bytes": 4096 * reads, "rd_total_time_ns": 500 * reads,
            "kicks": 3, "held_total_time_ns": 1500000000, **kinds}


def stats_answers(reads=8, queues=1, **disk):
    """What a molt answers to what one sample asks."""
    stats = {"device": "d0", "stats": disk_stats(reads), **disk}
    block = {"device": "d0", "inserted": {"file": "/img", "iops": 5, "image": {"virtual-size": 1 << 20}},
             "back-end": {"type": "molt-io", "state": "running", "engine": "io_uring", "pid": 77, "outdated": reads == 8},
             **disk}
    return [{"return": {"status": "running", "running": True}},
            {"return": {"updates": 2, "last": {"blackout-us": 250}}}, {"return": [block]}, {"return": [stats]}] + (
            [{"return": [{**stats, "queues": [disk_stats(reads)] * queues}]}] if queues else [])


class Stats(Base):
    SAMPLE = r'[a-z_]+(\{[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*\})? [0-9.]+(e-?[0-9]+)?'

    def test_table(self):
        self.serve(*stats_answers(queues=0))
        result = molt("stats", self.path)
        self.expect(result, 0)
        self.assertIn("d0  running  io_uring  1.0 MiB  /img  I/O process of the binary before\n", result.stdout)
        self.assertRegex(result.stdout, r"read +9 +32.0 KiB +1 +0.4 +1.0\n")
        self.assertIn("guest running, 2 updates", result.stdout)

    def test_json(self):
        server = self.serve(*stats_answers())
        result = molt("stats", "--json", self.path)
        self.expect(result, 0)
        said = json.loads(result.stdout)
        self.assertEqual(said["update"]["updates"], 2)
        self.assertEqual(len(said["blockstats"][0]["queues"]), 1)
        self.assertEqual(server.requests[-1], {"execute": "query-blockstats",
                                               "arguments": {"device": "d0", "queues": True}})

    def families(self, text):
        """{metric: lines}; the format is right, and each metric's samples stand together."""
        found, name, kind = {}, None, None
        self.assertTrue(text.endswith("\n"))
        for line in text.splitlines():
            if line.startswith("# HELP "):
                name = line.split()[2]
                self.assertNotIn(name, found)
                found[name] = []
            elif line.startswith("# TYPE "):
                self.assertEqual(line.split()[2], name)
                kind = line.split()[3]
                self.assertEqual(kind == "counter", name.endswith("_total"), line)
            else:
                self.assertRegex(line, "^" + self.SAMPLE + "$")
                ends = ("_bucket{", "_sum{", "_count{") if kind == "histogram" else ("{", " ")
                self.assertTrue(line.startswith(tuple(name + end for end in ends)), line)
                found[name].append(line)
        return found

    def test_prometheus(self):
        self.serve(*stats_answers(queues=2))
        result = molt("stats", "--prometheus", self.path)
        self.expect(result, 0)
        found = self.families(result.stdout)
        self.assertIn('molt_disk_requests_total{id="d0",queue="1",kind="read"} 9',
                      found["molt_disk_requests_total"])
        self.assertIn('molt_disk_errors_total{id="d0",queue="0",kind="read"} 1', found["molt_disk_errors_total"])
        self.assertIn('molt_disk_held_seconds_total{id="d0",queue="0"} 1.500000000',
                      found["molt_disk_held_seconds_total"])
        self.assertIn('molt_disk_limit_operations{id="d0"} 5', found["molt_disk_limit_operations"])
        self.assertIn('molt_disk_io_process_outdated{id="d0"} 1', found["molt_disk_io_process_outdated"])
        histogram = found["molt_disk_request_duration_seconds"]
        self.assertIn('molt_disk_request_duration_seconds_bucket{id="d0",kind="read",le="1e-06"} 8', histogram)
        self.assertIn('molt_disk_request_duration_seconds_bucket{id="d0",kind="read",le="+Inf"} 8', histogram)
        self.assertIn('molt_disk_request_duration_seconds_count{id="d0",kind="read"} 8', histogram)

    def test_what_a_server_may_say(self):
        evil = 'x"} 1\n# \x1b]0;\x07\\\x9b\u202e'
        for answers in ([{"return": x}] * 4 for x in (1, [], {}, [1, [], {}], "x", None)):
            for option in ([], ["--json"], ["--prometheus"]):
                self.serve(*answers, {"return": 1})
                result = molt("stats", *option, self.path)
                self.expect(result, 0)
                os.unlink(self.path)
        disks = stats_answers(device=evil)
        disks[2]["return"] *= 70
        disks[3]["return"] *= 70
        disks[4]["return"] *= 2
        for option, answers in (([], disks), (["--json"], disks), (["--prometheus"], disks),
                                (["--prometheus"], stats_answers(queues=70, device=evil))):
            self.serve(*answers[:4], *answers[4:] * 64)
            result = molt("stats", *option, self.path)
            self.expect(result, 0)
            self.assertFalse(set(result.stdout) & set("\x1b\x07\x9b\u202e"))
            if option == ["--prometheus"]:
                for line in result.stdout.splitlines():
                    self.assertRegex(line, "^(# .*|" + self.SAMPLE + ")$")
                self.assertEqual(len(re.findall("^molt_disk_kicks_total{", result.stdout, re.M)), 64)
            os.unlink(self.path)

    def test_errors(self):
        self.expect(molt("stats"), 2, "", "which control socket?")
        self.expect(molt("stats", self.path, "x"), 2, "", "one argument too many")
        self.expect(molt("stats", "--json", "--watch", self.path), 2, "", "one of them")
        self.expect(molt("stats", self.path), 1, "", "there is none")
        self.serve({"return": {}}, {"return": {}}, {"error": {"class": "CommandNotFound", "desc": "old molt"}})
        self.expect(molt("stats", self.path), 1, "", "molt stats: old molt")
        os.unlink(self.path)
        self.serve({"return": {}}, None)
        self.expect(molt("stats", self.path), 1, "", "the connection was lost")
        os.unlink(self.path)
        self.talk(json.dumps(GREETING).encode() + b'{"return": {}}')
        self.expect(molt("stats", "--timeout", "0.2", self.path), 1, "", "no answer in time")
        with open("/dev/full", "w", encoding="ascii") as full:
            for option in ([], ["--json"], ["--prometheus"]):
                os.unlink(self.path)
                self.serve(*stats_answers(queues=bool(option)))
                self.expect(molt("stats", *option, self.path, stdout=full), 1, None, "cannot write")

    def watch(self, answers, sig=None, **popen):
        self.serve(*answers)
        with subprocess.Popen([MOLT, "stats", "--watch", self.path], stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, **popen) as proc:
            if sig:
                self.assertIn("guest running", proc.stdout.readline())
                proc.send_signal(sig)
            out, err = proc.communicate(timeout=20)
        return proc.returncode, out, err

    def test_watch_shows_what_happens(self):
        answers = [*stats_answers(0, 0), *stats_answers(1000, 0)]
        status, out, err = self.watch(answers, stdout=subprocess.PIPE)
        self.assertEqual((status, err), (0, ""))  # the guest has ended
        rate = re.search(r"read +(\d+) +([0-9.]+) MiB +0 +0.5 +1.0\n", out)
        self.assertTrue(rate, out)
        self.assertLess(500, int(rate[1]))
        self.assertLessEqual(int(rate[1]), 1000)
        self.assertIn("requests/s", out)
        self.assertNotIn("\x1b", out)

    def test_watch_ends_with_ctrl_c(self):
        for sig in (signal.SIGINT, signal.SIGTERM):
            status, _, err = self.watch(stats_answers(0, 0) * 50, sig, stdout=subprocess.PIPE)
            self.assertEqual((status, err), (0, ""))
            os.unlink(self.path)

    def test_watch_is_interrupted_while_a_server_is_silent(self):
        self.talk(json.dumps(GREETING).encode() + b'{"return": {}}')
        with subprocess.Popen([MOLT, "stats", "--watch", self.path], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as proc:
            time.sleep(0.3)
            proc.send_signal(signal.SIGINT)
            self.assertEqual((proc.communicate(timeout=5), proc.returncode), (("", ""), 0))

    def test_watch_nobody_reads(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            status, _, err = self.watch(stats_answers(0, 0) * 5, stdout=full)
        self.assertEqual(status, 1)
        self.assertIn("cannot write", err)

    def test_watch_leaves_a_terminal_as_it_was(self):
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        self.serve(*stats_answers(0, 0) * 50)
        with subprocess.Popen([MOLT, "stats", "--watch", self.path], stdin=slave, stdout=slave, stderr=slave,
                              start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) as proc:
            text = b""
            while b"resubmitted" not in text:
                text += os.read(master, 4096)
            os.write(master, b"\x03")
            self.assertEqual(proc.wait(timeout=20), 0)
            while select.select([master], [], [], 0.1)[0]:
                text += os.read(master, 4096)
        self.assertEqual(termios.tcgetattr(slave), before)
        self.assertEqual(set(re.findall(rb"\x1b\[[0-9;?]*[A-Za-z]", text)), {b"\x1b[H", b"\x1b[J"})
        os.close(slave)
        os.close(master)


class Completion(Base):
    """What the shells themselves make of what scripts/make-completion.py makes."""

    # What is typed, and what it may become.
    CASES = [
        ("molt ", {"run", "update", "ctl", "stats", "state", "version", "io", "help"}),
        ("molt up", {"update"}),
        ("molt help st", {"state", "stats"}),
        ("molt --init", {"--initramfs", "--initrd"}),
        ("molt run --s", {"--serial", "--serial2", "--sandbox"}),
        ("molt update --", {"--state", "--json", "--check", "--no-check", "--no-io", "--timeout", "--help"}),
        ("molt run --log-level ", {"error", "warn", "info", "debug"}),
        ("molt run --pause --log-level w", {"warn"}),
        ("molt run --serial ", {"tty", "pty", "null", "file=", "socket="}),
        ("molt run --kernel bz", {"bzImage"}),
        ("molt --initrd in", {"initrd.img"}),
        ("molt ctl so", {"some.sock"}),
        ("molt state st", {"stream"}),
        ("molt run --memory ", set()),
    ]
    # Bash's words end at '=': the answer is what comes behind.
    BASH = [
        ("molt run --log-level=", {"error", "warn", "info", "debug"}),
        ("molt --sandbox=o", {"on", "off"}),
        ("molt run --serial file=bz", {"bzImage"}),
        ("molt run --serial=socket=so", {"some.sock"}),
        ("molt run --kernel=bz", {"bzImage"}),
        ("molt version x", set()),
        ("molt update some.sock -- ./mo", {"./molt-new"}),
        ("molt update some.sock -- ./molt-new run --log-level d", {"debug"}),
        ("molt run --user roo", {"root"}),
    ]
    BASH_SCRIPT = """source "$1"; COMP_LINE=$2 COMP_POINT=${#2}
                     COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
                     _molt; printf '%s\\n' "${COMPREPLY[@]}" """
    # The shell that completes has molt as a function, which tells what became of the words.
    TOLD = "molt() { local w; for w in \"$@\"; do printf '<%s>' \"$w\"; done; echo .; }"

    def make(self, shell, name):
        script = os.path.join(os.path.dirname(__file__), "..", "scripts", "make-completion.py")
        text = subprocess.run([sys.executable, script, shell, MOLT], check=True,
                              capture_output=True).stdout
        os.mkdir(f"{self.dir}/made")
        path = f"{self.dir}/made/{name}"
        with open(path, "wb") as out:
            out.write(text)
        for other in ("bzImage", "initrd.img", "some.sock", "stream", "molt-new"):
            with open(f"{self.dir}/{other}", "wb"):
                pass
        return path

    def need(self, shell):
        if not shutil.which(shell):
            self.skipTest(f"there is no {shell} here")

    def type(self, argv, setup, ready, text, told):
        """At a terminal, where Tab completes."""
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(self.dir)
            os.environ.update(TERM="dumb", PS1="READY ", PROMPT="READY ", HISTFILE="/dev/null")
            os.execvp(argv[0], argv)
        try:
            self.read_until(fd, ready)
            os.write(fd, setup.encode() + b"\n")
            self.read_until(fd, b"is-set-up")
            for key in text + "\n":
                os.write(fd, key.encode())
                if key == "\t":
                    self.settle(fd)
            self.read_until(fd, told.encode())
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(fd)

    @staticmethod
    def settle(fd):
        """Until nothing more comes: zsh throws away what is typed while it completes."""
        while select.select([fd], [], [], 0.5)[0]:
            os.read(fd, 4096)

    def read_until(self, fd, words):
        got, end = b"", time.monotonic() + 20
        while words not in got:
            ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
            self.assertTrue(ready, (words, got))
            got += os.read(fd, 4096)

    def test_bash(self):
        self.need("bash")
        path = self.make("bash", "molt")
        for typed, meant in self.CASES + self.BASH:
            result = subprocess.run(["bash", "--norc", "-c", self.BASH_SCRIPT, "bash", path, typed],
                                    cwd=self.dir, capture_output=True, text=True, check=False)
            self.assertEqual((typed, set(result.stdout.split()), result.stderr), (typed, meant, ""))

    def test_bash_at_a_terminal(self):
        self.need("bash")
        path = self.make("bash", "molt")
        self.type(["bash", "--norc", "--noprofile", "-i"],
                  f"{self.TOLD}; source {path}; echo is-set-'up'; echo", b"READY ",
                  "molt run --log-le\tw\t--serial=fi\tbz\t--kernel=bz\t",
                  "<run><--log-level><warn><--serial=file=bzImage><--kernel=bzImage>.")

    def test_zsh(self):
        self.need("zsh")
        path = os.path.dirname(self.make("zsh", "_molt"))
        self.type(["zsh", "-f", "-i"],
                  f"{self.TOLD}; fpath=({path} $fpath); autoload -Uz compinit; compinit -u -D; "
                  "echo is-set-'up'; echo", b"READY ",
                  "molt ru\t--log-le\tw\t--serial=fi\tbz\t --kernel=bz\t",
                  "<run><--log-level=warn><--serial=file=bzImage><--kernel=bzImage>.")

    def test_fish(self):
        self.need("fish")
        path = self.make("fish", "molt.fish")
        for typed, meant in self.CASES:
            result = subprocess.run(["fish", "--no-config", "-c",
                                     "source $argv[1]; complete -C $argv[2]", path, typed],
                                    cwd=self.dir, capture_output=True, text=True, check=False)
            found = {line.split("\t")[0] for line in result.stdout.splitlines()}
            self.assertEqual((typed, found, result.stderr), (typed, meant, ""))


class TapResult(unittest.TestResult):
    """Prints a line for each test, for `meson test`."""

    def startTest(self, test):
        super().startTest(test)
        self.bad = len(self.failures) + len(self.errors)

    def stopTest(self, test):
        bad = (self.failures + self.errors)[self.bad:]
        skipped = [f"# SKIP {why}" for what, why in self.skipped if what is test]
        print("not ok" if bad else "ok", self.testsRun, test.id().removeprefix("__main__."),
              *skipped, flush=True)
        for _, why in bad:
            print("".join(f"# {line}\n" for line in why.splitlines()), end="", flush=True)
        super().stopTest(test)


def run_tap():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
    print(f"1..{suite.countTestCases()}", flush=True)
    result = TapResult()
    suite.run(result)
    return result.wasSuccessful()


if __name__ == "__main__":
    TAP = sys.argv[1:2] == ["--tap"] and bool(sys.argv.pop(1))
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    MOLT = os.path.abspath(sys.argv.pop(1))
    if TAP:
        sys.exit(0 if run_tap() else 1)
    unittest.main()
