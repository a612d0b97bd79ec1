# SPDX-License-Identifier: MIT
"""A running molt for tests: start it, speak QMP with it, read its serial output, look at its process.

Only the standard library: meson needs Python anyway, so the tests need nothing more.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SKIP = 77  # meson's exit status for "could not run here"


def molt_binary():
    path = os.environ.get("MOLT")
    if not path:
        sys.exit("MOLT names the binary to test; run this through 'meson test'")
    return path


def firmware(name):
    return os.path.join(os.environ["MOLT_FIRMWARE"], name + ".elf")


def need_kvm():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIP: /dev/kvm cannot be opened here; the lab runs these tests in a nested host")
        sys.exit(SKIP)


class QmpError(Exception):
    def __init__(self, error):
        super().__init__(error.get("desc", str(error)))
        self.error = error


class Qmp:
    """One connection to the control socket."""

    def __init__(self, path, negotiate=True, timeout=60):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.buf = b""
        self.events = []
        self.greeting = self.message()
        if negotiate:
            self.command("qmp_capabilities")

    def send_raw(self, data):
        self.sock.sendall(data)

    def message(self):
        while b"\n" not in self.buf:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the control connection was closed")
            self.buf += data
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def answer(self):
        while True:
            msg = self.message()
            if "event" not in msg:
                return msg
            self.events.append(msg)

    def command(self, name, **arguments):
        request = {"execute": name}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.send_raw(json.dumps(request).encode() + b"\n")
        msg = self.answer()
        if "error" in msg:
            raise QmpError(msg["error"])
        return msg["return"]

    def wait_event(self, name):
        while True:
            for i, ev in enumerate(self.events):
                if ev["event"] == name:
                    del self.events[: i + 1]
                    return ev
            msg = self.message()
            if "event" in msg:
                self.events.append(msg)

    def close(self):
        self.sock.close()


class Vm:
    """A molt process with a control socket and, unless told otherwise, its serial port in a file."""

    def __init__(self, *args, kernel=None, cmdline=None, serial=None, binary=None, env=None,
                 stdin=subprocess.DEVNULL, control=True, start=True, **popen):
        self.dir = tempfile.mkdtemp(prefix="molt-test-")
        self.control_path = os.path.join(self.dir, "control")
        self.serial_path = os.path.join(self.dir, "serial")
        self.log_path = os.path.join(self.dir, "log")
        self.argv = [binary or molt_binary(), "run"]
        if kernel:
            self.argv += ["--kernel", firmware(kernel) if "/" not in kernel else kernel]
        if cmdline is not None:
            self.argv += ["--cmdline", cmdline]
        self.argv += ["--serial", serial or "file=" + self.serial_path]
        if control:
            self.argv += ["--control", self.control_path]
        self.argv += list(args)
        self._qmp = None
        if start:
            with open(self.log_path, "ab") as log:
                self.proc = subprocess.Popen(self.argv, stdin=stdin, stderr=log, env=env, **popen)
            if control:
                self.wait_for(lambda: os.path.exists(self.control_path), "the control socket")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            sys.stderr.write("--- %s\nlog:\n%s\nserial (end):\n%s\n" % (
                " ".join(self.argv), self.log(), self.serial()[-3000:]))
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def kill(self):
        if self._qmp:
            self._qmp.close()
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()

    @property
    def pid(self):
        return self.proc.pid

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.control_path)
        return self._qmp

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def serial(self):
        if not os.path.exists(self.serial_path):
            return ""
        with open(self.serial_path, errors="replace") as f:
            return f.read()

    def wait_for(self, condition, what, timeout=60):
        end = time.monotonic() + timeout
        while not condition():
            if self.proc.poll() is not None and not condition():
                raise AssertionError("molt ended with %d before %s\n%s" % (
                    self.proc.returncode, what, self.log()))
            if time.monotonic() > end:
                raise AssertionError("no %s within %d s\n%s\n%s" % (
                    what, timeout, self.log(), self.serial()[-2000:]))
            time.sleep(0.01)

    def wait_serial(self, pattern, timeout=60, after=0):
        """Waits for a regular expression in the serial output; returns the match."""
        found = []

        def seen():
            m = re.compile(pattern).search(self.serial(), after)
            if m:
                found.append(m)
            return m is not None

        self.wait_for(seen, "'%s' on the serial port" % pattern, timeout)
        return found[0]

    def wait_exit(self, timeout=60):
        return self.proc.wait(timeout)

    def update(self, **arguments):
        return self.qmp.command("update", **arguments)

    # ---- what the kernel says of the process ----

    def fds(self):
        base = "/proc/%d/fd" % self.pid
        return sorted(os.readlink(os.path.join(base, n)) for n in os.listdir(base))

    def status(self, key):
        with open("/proc/%d/status" % self.pid) as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        raise KeyError(key)

    def threads(self):
        return self.status("Threads")

    def signal(self, sig):
        os.kill(self.pid, sig)


def run_cases(namespace):
    """Runs every test_* function of a module as one TAP case; a case may raise Skip."""
    cases = [(n, f) for n, f in namespace.items() if n.startswith("test_") and callable(f)]
    wanted = sys.argv[1:]
    if wanted:
        cases = [(n, f) for n, f in cases if n in wanted]
    print("1..%d" % len(cases), flush=True)
    failed = 0
    for i, (name, case) in enumerate(cases, 1):
        began = time.monotonic()
        try:
            case()
            print("ok %d - %s # %.1f s" % (i, name, time.monotonic() - began), flush=True)
        except Skip as why:
            print("ok %d - %s # SKIP %s" % (i, name, why), flush=True)
        except Exception:
            import traceback
            traceback.print_exc()
            print("not ok %d - %s" % (i, name), flush=True)
            failed += 1
    sys.exit(1 if failed else 0)


class Skip(Exception):
    """The case cannot run here, with the reason."""


signal.signal(signal.SIGPIPE, signal.SIG_DFL)
