# SPDX-License-Identifier: MIT
"""A running molt for tests: start it, speak QMP with it, read its serial output, look at its process.

Only the standard library: meson needs Python anyway, so the tests need nothing more.
"""
import collections
import json
import os
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
import time
import traceback

SKIP = 77           # meson's exit status for "could not run here"
CASE_TIMEOUT = 300  # seconds after which a case has failed; it may set another as `timeout`
O_CLOEXEC = 0o2000000
WRITERS = ("log", "serial-file")  # threads

# The tests may have been started by nohup, or in a script's background. What they start is not to inherit that.
for _sig in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP):
    if signal.getsignal(_sig) == signal.SIG_IGN:
        signal.signal(_sig, signal.SIG_DFL)

# What a sanitizer says; it goes to standard error, which is the log of a Vm.
SANITIZER = re.compile(r"Sanitizer|runtime error:")


def molt_binary():
    path = os.environ.get("MOLT")
    if not path:
        sys.exit("MOLT names the binary to test; run this through 'meson test'")
    return path


def firmware(name):
    return os.path.join(os.environ["MOLT_FIRMWARE"], name + ".elf")


def sanitized():
    """Whether molt was built with a sanitizer: it is slower then, and its memory is not its own."""
    return os.environ.get("MOLT_SANITIZE", "none") != "none"


def emulated():
    """Whether this is the lab, whose CPU is a program among others: times mean little."""
    return "MOLT_EMULATED" in os.environ


def full():
    """Whether all there is runs, and not what every commit has to pass: "scripts/test.sh --all"."""
    return os.environ.get("MOLT_TIER") == "all"


def beneath_a_release():
    """The environment of a release: its sandbox stays in force in a sanitized successor, and refuses the leak checker's ptrace."""
    return dict(os.environ, ASAN_OPTIONS="detect_leaks=0") if sanitized() else None


def need_kvm():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("1..0 # SKIP /dev/kvm cannot be opened here; the lab runs these tests in a nested host "
              "(scripts/test.sh --all)")
        sys.exit(0)


def molt(*args, timeout=60, binary=None, **popen):
    """Runs a subcommand that ends by itself; returns it with its output as text."""
    popen.setdefault("stdin", subprocess.DEVNULL)
    if "stdout" not in popen:
        popen["stdout"] = subprocess.PIPE
    done = subprocess.run([binary or molt_binary(), *args], stderr=subprocess.PIPE, text=True,
                          errors="replace", timeout=timeout, check=False, **popen)
    if SANITIZER.search(done.stderr):
        raise AssertionError("a sanitizer complains about molt %s:\n%s" % (args, done.stderr))
    return done


class Skip(Exception):
    """The case cannot run here, with the reason."""


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
        self.progress = []  # events, too, which come only where an update takes long
        self.greeting = self.message()
        if negotiate:
            self.command("qmp_capabilities")

    def send_raw(self, data):
        self.sock.sendall(data)

    def message(self):
        while True:
            while b"\n" not in self.buf:
                data = self.sock.recv(65536)
                if not data:
                    raise EOFError("the control connection was closed")
                self.buf += data
            line, self.buf = self.buf.split(b"\n", 1)
            msg = json.loads(line)
            if msg.get("event") != "UPDATE_PROGRESS":
                return msg
            self.progress.append(msg)

    def answer(self):
        while True:
            msg = self.message()
            if "event" not in msg:
                return msg
            self.events.append(msg)

    def answered(self):
        """Whether an answer is here, or the end of the connection; neither is taken."""
        while select.select([self.sock], [], [], 0)[0]:
            data = self.sock.recv(65536)
            if not data:
                return True
            self.buf += data
        return any("event" not in json.loads(line) for line in self.buf.split(b"\n")[:-1])

    def send(self, name, arguments=None, **members):
        request = {"execute": name, **members}
        if arguments:
            request["arguments"] = arguments
        self.send_raw(json.dumps(request).encode() + b"\n")

    def result(self):
        msg = self.answer()
        if "error" in msg:
            raise QmpError(msg["error"])
        return msg["return"]

    def command(self, name, **arguments):
        self.send(name, {k.replace("_", "-"): v for k, v in arguments.items()})
        return self.result()

    def give_fd(self, name, fd):
        """The server gets a copy of the descriptor and calls it name."""
        request = {"execute": "getfd", "arguments": {"fdname": name}}
        socket.send_fds(self.sock, [json.dumps(request).encode() + b"\n"], [fd])
        return self.result()

    def wait_event(self, name):
        """The next event of this name; those before it are forgotten."""
        while True:
            for i, ev in enumerate(self.events):
                if ev["event"] == name:
                    del self.events[: i + 1]
                    return ev
            msg = self.message()
            assert "event" in msg, msg
            self.events.append(msg)

    def event_names(self):
        """All events so far: an answered command is the proof that none is on its way any more."""
        self.command("query-name")
        return [ev["event"] for ev in self.events]

    def closed(self):
        """Whether the other side hangs up now; what it said before is dropped."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except socket.timeout:
            return False
        return True

    def close(self):
        self.sock.close()


def process_status(pid, tid=None):
    """What the kernel says of a process, or of one of its threads: {key: text}."""
    with open("/proc/%d/task/%d/status" % (pid, tid or pid)) as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def process_stats(session=None):
    """(pid, fields of its /proc/PID/stat from the state on) of all processes, or of those of one session."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if session is not None and os.getsid(int(name)) != session:
                continue  # asked so, for most are the kernel's threads, and a file of each takes ten times as long
            fd = os.open("/proc/%s/stat" % name, os.O_RDONLY)  # half the time that open() takes
            try:
                text = os.read(fd, 4096)
            finally:
                os.close(fd)
        except OSError:
            continue  # it has just ended
        yield int(name), text.decode(errors="replace").rpartition(")")[2].split()


def session_states(session):
    """{pid: state} of all processes of a session."""
    return {pid: fields[0] for pid, fields in process_stats(session)}


def session_lives(pid):
    """
    Whether a process of that session is there, zombies aside. Two looks: one may miss a stand-in that is made meanwhile
    while it is too late for the process that it is made by.
    """
    return any(state not in "ZX" for _ in range(2) for state in session_states(pid).values())


def hurry(pid):
    """Who takes an old VM apart does so at the lowest priority: for seconds where a guest has the only CPU."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, os.nice(0))
    except OSError:
        pass  # it has just ended, or only root may


def is_io(pid):
    """Whether that process moves a guest's data: `molt io`."""
    try:
        with open("/proc/%d/cmdline" % pid) as f:
            return f.read().split("\0")[1:2] == ["io"]
    except OSError:
        return False


def other_molt(name):
    """One of tests/molts, which are wrong as successors, or as predecessors."""
    if "MOLT_OTHERS" not in os.environ:
        raise Skip("MOLT_OTHERS does not name the molts that are wrong")
    return os.path.join(os.environ["MOLT_OTHERS"], "molt-" + name)


def io_processes(vm):
    """The process ids of those that move a guest's data: `molt io`, children of whoever runs the guest."""
    return sorted(pid for pid, fields in process_stats() if int(fields[1]) == vm.pid and is_io(pid))


def describe(left):
    """A process by what it is doing, as far as the kernel tells; anything else by its name."""
    words = [str(left)]
    for name in ("comm", "stat", "wchan", "syscall", "stack") if isinstance(left, int) else ():
        try:
            with open("/proc/%d/%s" % (left, name)) as f:
                words.append(name + " " + " ".join(f.read().split()))
        except OSError:
            pass
    return "; ".join(words)


class Vm:
    """A molt process with a control socket and, unless told otherwise, its serial port in a file."""

    def __init__(self, *args, kernel=None, cmdline=None, serial=None, binary=None, env=None,
                 stdin=subprocess.DEVNULL, control=True, start=True, directory=None, **popen):
        self.dir = directory or tempfile.mkdtemp(prefix="molt-test-")
        self.own_dir = directory is None
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
        self.argv += self.defaults(args)
        self._qmp = None
        self.proc = None
        self.moved = None
        self.env, self.stdin, self.control, self.popen = env, stdin, control, popen
        if start:
            try:
                self.start()
            except BaseException:
                self.__exit__(*sys.exc_info())
                raise

    own_directory = True  # molt may change what is in it; there is more in it than molt's own files

    def defaults(self, args):
        """What a test needs that says nothing of it: its files are its user's, and may be changed."""
        words = []
        if os.getuid() == 0 and "--user" not in args:
            words += ["--user", "root"]
        if self.own_directory and "--sandbox" not in args:
            words += ["--sandbox", "write=" + self.dir]
        return words

    def start(self):
        with open(self.log_path, "ab") as log:
            # A session of its own: whoever is left of it, a stand-in for instance, is found by it.
            self.proc = subprocess.Popen(self.argv, stdin=self.stdin, stderr=log, env=self.env,
                                         start_new_session=True, **self.popen)
        if self.control:
            self.wait_for(self.answers, "the control socket")

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(self.control_path)
                return sock.recv(1) == b"{"
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and kind is not Skip:
            sys.stderr.write("--- %s\nlog (end):\n%s\nserial (end):\n%s\n" % (
                " ".join(self.argv), self.log()[-6000:], self.serial()[-3000:]))
        self.kill()
        log = self.log()
        if self.own_dir:
            shutil.rmtree(self.dir, ignore_errors=True)
        if kind is None and SANITIZER.search(log):
            raise AssertionError("a sanitizer complains:\n" + log)

    def kill(self):
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        if not self.proc:
            return
        try:
            # A stand-in that sees its molt die would run the guest on: both at once.
            os.killpg(self.proc.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.proc.wait()
        # A process that dies keeps its sockets until its memory is taken apart.
        end = time.monotonic() + 30
        while session_lives(self.proc.pid) and time.monotonic() < end:
            time.sleep(0.005)
        for pipe in (self.proc.stdin, self.proc.stdout):
            if pipe:
                pipe.close()

    @property
    def pid(self):
        """Where the guest runs: what was started, or the stand-in that was followed."""
        return self.moved or self.proc.pid

    def follow(self, pid):
        """After a way back: the guest runs in this process now."""
        self.moved = pid if pid != self.proc.pid else None

    @property
    def qmp(self):
        if not self._qmp:
            self._qmp = Qmp(self.control_path)
        return self._qmp

    def path(self, name):
        return os.path.join(self.dir, name)

    def log(self):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def serial(self):
        if not os.path.exists(self.serial_path):
            return ""
        with open(self.serial_path, errors="replace") as f:
            return f.read()

    def wait_for(self, condition, what, timeout=60):
        """what: the words for it, or a function that finds them when it is too late."""
        left, now = timeout, time.monotonic()
        while not condition():
            # Whoever runs the guest, a stand-in perhaps, is in the session that start() made.
            if self.proc.poll() is not None and not session_lives(self.proc.pid) and not condition():
                raise AssertionError("molt ended with %d before %s\n%s" % (
                    self.proc.returncode, what() if callable(what) else what, self.log()))
            if left < 0:
                raise AssertionError("no %s within %d s\n%s\n%s" % (
                    what() if callable(what) else what, timeout, self.log(), self.serial()[-2000:]))
            time.sleep(0.005)
            before, now = now, time.monotonic()
            left -= min(now - before, 1)  # while the whole machine stood still, molt did, too

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

    def wait_log(self, pattern, timeout=60):
        self.wait_for(lambda: re.search(pattern, self.log()), "'%s' in the log" % pattern, timeout)
        return re.search(pattern, self.log())

    def wait_exit(self, timeout=60):
        return self.proc.wait(timeout)

    def update(self, *command, **arguments):
        if command:
            arguments["command"] = list(command)
        path = arguments.get("state_file")
        before = self.state_file_now(path)
        report = self.qmp.command("update", **arguments)
        if path and not arguments.get("check_only"):
            self.wait_for(lambda: self.state_file_now(path) != before, "the copy of the state in %s" % path)
        return report

    def fail_update(self, command, words=""):
        """An update that nobody checks and that fails, for these reasons: who runs the guest then."""
        try:
            self.update(command=command, no_check=True)
        except QmpError as err:
            assert words in str(err), err
            return self.qmp.wait_event("UPDATE_FAILED")["data"]["pid"]
        raise AssertionError("%s took over" % command)

    @staticmethod
    def state_file_now(path):
        """What tells a file there from another: the copy is made once the guest runs again."""
        try:
            st = os.stat(path)
        except (OSError, TypeError):
            return None
        return st.st_ino, st.st_mtime_ns

    def running(self):
        return self.qmp.command("query-status")["status"] == "running"

    # ---- the ticker guest ----

    TICK = re.compile(r"^tick (\d+) (?:gap|late)_us=(\d+) print_us=(\d+) print_gap_us=(\d+)$", re.M)

    def ticks(self, text=None):
        """Every whole line of the ticker as (number, gap, printing, longest character)."""
        text = self.serial() if text is None else text
        return [tuple(map(int, m.groups()))
                for m in self.TICK.finditer(text[: text.rfind("\n") + 1])]

    def wait_ticks(self, n):
        """Waits for n more lines; returns them."""
        had = len(self.ticks())
        self.wait_for(lambda: len(self.ticks()) >= had + n, "%d more ticks" % n)
        return self.ticks()[had:]

    def check_ticks(self, text=None):
        """Not one line of the ticker is missing, doubled or torn."""
        text = self.serial() if text is None else text
        numbers = [t[0] for t in self.ticks(text)]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        lines = text.replace("\r", "").split("\n")[:-1]
        strange = [line for line in lines
                   if not self.TICK.match(line) and not line.startswith("ticker: ")]
        assert not strange, strange

    # ---- what the kernel says of the process ----

    def fds(self):
        """{number: (what it is, whether it is close-on-exec)}"""
        base = "/proc/%d/" % self.pid
        table = {}
        for name in os.listdir(base + "fd"):
            try:
                with open(base + "fdinfo/" + name) as f:
                    flags = int(re.search(r"^flags:\s+(\d+)", f.read(), re.M).group(1), 8)
                table[int(name)] = (os.readlink(base + "fd/" + name), bool(flags & O_CLOEXEC))
            except FileNotFoundError:
                pass  # closed meanwhile
        return table

    def others(self):
        """{pid: state} of our session besides the guest's process, once those whom we inherited are buried."""
        self.proc.poll()
        states = session_states(self.proc.pid)
        states.pop(self.pid, None)
        for pid in [pid for pid, state in states.items() if state == "Z"]:
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    del states[pid]
            except ChildProcessError:
                pass  # it has a parent, which is to bury it
        return states

    def settle(self, bodies=True):
        """
        Waits until what an update leaves for later is gone, for its answer comes before: the descriptors kept for a
        way back, all other processes, and the thread that mapped RAM, which ends behind everybody else.
        bodies: a dead process may be left, which the next update buries.
        """
        disks = self.argv.count("--disk")  # each with a process that stays, and its pidfd

        def left():
            others = self.others()
            io = [pid for pid in others if is_io(pid)]  # whose parent may have been the predecessor
            for pid in set(others) - set(io):
                hurry(pid)
            alive = [pid for pid, state in others.items() if pid not in io and (not bodies or state != "Z")]
            if alive:
                return alive
            held = [what for what, _ in self.fds().values() if "molt-state" in what or "pidfd" in what]
            pidfds = sum("pidfd" in what for what in held)
            if len(io) == disks and pidfds == disks:
                held = [what for what in held if "pidfd" not in what]
            return held + ["thread " + name for name in self.threads() if name == "refault"]

        self.wait_for(lambda: not left(), lambda: "end of what an update leaves for later: " + ", ".join(
            map(describe, left())))

    def status(self, key):
        return int(process_status(self.pid)[key].split()[0])

    def threads(self):
        """The names of all threads. A new one bears that of its maker until it has got round to its own."""
        names = []
        for tid in os.listdir("/proc/%d/task" % self.pid):
            try:
                with open("/proc/%d/task/%s/comm" % (self.pid, tid)) as f:
                    names.append(f.read().strip())
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended meanwhile
        return sorted(names)

    def traces(self):
        """
        What a failed update must leave as it was: descriptors ([(what, close-on-exec)]) and threads (["thread", ...]),
        less those that write, for each of them is made once, when there is something to write, and less a disk's
        inflight table, which is not there between the driver's reset and its next start.
        """
        fds = sorted((re.sub(r"\[\d+\]", "", what), cloexec) for what, cloexec in self.fds().values())
        tables = [fd for fd in fds if "molt-io-inflight" in fd[0]]
        for table in tables[:self.argv.count("--disk")]:
            fds.remove(table)
        # The kernel's own threads are with whoever made the KVM VM, who may be dead.
        threads = [name for name in self.threads() if not name.startswith("kvm-")]
        writers = [name for name in threads if name in WRITERS]
        assert len(set(writers)) == len(writers), threads
        return fds, ["thread"] * (len(threads) - len(writers))

    def lasting_traces(self):
        """The same, once they last: no thread is on its way to its name."""
        traces, since, end = self.traces(), time.monotonic(), time.monotonic() + 60
        while time.monotonic() - since < 0.1:
            time.sleep(0.01)
            now = self.traces()
            names = [name for name in self.threads() if not name.startswith("kvm-")]
            # A thread begins with the name of whoever made it: on a busy machine it may be a while until its own.
            if now != traces or len(set(names)) < len(names):
                assert time.monotonic() < end, (traces, now)
                traces, since = now, time.monotonic()
        return traces

    def left_behind(self, before):
        """What is there besides these traces (+) or no longer (-) though there was time; empty: nothing."""
        end, now = time.monotonic() + 10, self.traces()
        while now != before and time.monotonic() < end:
            time.sleep(0.02)
            now = self.traces()
        words = []
        for was, is_ in zip(map(collections.Counter, before), map(collections.Counter, now)):
            words += ["+%s" % (x,) for x in (is_ - was).elements()] + [
                # KVM's statistics of a vCPU only spare calls: where they were not to be had they are not missed.
                "-%s" % (x,) for x in (was - is_).elements() if "kvm-vcpu-stats" not in str(x)]
        return ", ".join(words)

    def arguments(self):
        with open("/proc/%d/cmdline" % self.pid) as f:
            return f.read().rstrip("\0").split("\0")

    def executable(self):
        return os.readlink("/proc/%d/exe" % self.pid)

    def limit(self, what, value):
        """Sets a soft resource limit of the process; returns the one that was."""
        soft, hard = resource.prlimit(self.pid, what)
        resource.prlimit(self.pid, what, (value, hard))
        return soft

    def signal(self, sig):
        os.kill(self.pid, sig)


def write_script(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o755)
    return path


def hanging_program(path):
    """Does nothing: pause() for ever."""
    return tiny_program(path, bytes([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]))


def ending_program(path, after_ms=0):
    """Ends with status 1 after less than a second."""
    code = b"\x68" + struct.pack("<I", after_ms * 1000000)             # push: struct timespec, from its end
    code += bytes([0x6a, 0, 0x48, 0x89, 0xe7, 0x31, 0xf6])             # push 0; mov %rsp,%rdi; xor %esi,%esi
    code += bytes([0xb8, 35, 0, 0, 0, 0x0f, 0x05]) if after_ms else b""     # nanosleep
    code += bytes([0xbf, 1, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05])       # exit_group(1)
    return tiny_program(path, code)


def tiny_program(path, code):
    """A static program that needs nothing, not even a loader."""
    base, size = 0x400000, 64 + 56 + len(code)
    with open(path, "wb") as f:
        f.write(b"\x7fELF" + bytes([2, 1, 1]) + bytes(9))
        f.write(struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0))
        f.write(struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code)
    os.chmod(path, 0o755)
    return path


def expect_error(call, *words):
    """The QMP command fails, and its sentence has all the words."""
    try:
        result = call()
    except QmpError as err:
        for word in words:
            assert word.lower() in str(err).lower(), "'%s' is not in '%s'" % (word, err)
        return str(err)
    raise AssertionError("it worked: %s" % (result,))


def on_alarm(signum, frame):
    raise TimeoutError("the case took too long")


def run_case(case):
    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(getattr(case, "timeout", CASE_TIMEOUT))
    try:
        case()
    finally:
        signal.alarm(0)


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
            run_case(case)
            print("ok %d - %s (%.1f s)" % (i, name, time.monotonic() - began), flush=True)
        except Skip as why:
            print("ok %d - %s # SKIP %s" % (i, name, why), flush=True)
        except Exception as why:
            traceback.print_exc()
            print("not ok %d - %s" % (i, name))
            print("# %s: %s" % (type(why).__name__, str(why).replace("\n", "\n# ")), flush=True)
            failed += 1
    sys.exit(1 if failed else 0)
