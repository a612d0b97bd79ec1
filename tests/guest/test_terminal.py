#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
A molt that a user starts in a shell, on a terminal: however it is stopped, continued or ended, by
whichever process, the terminal is as the shell had it, or raw while the guest has it. And signals
that whoever started molt ignores.
"""
import contextlib
import os
import pty
import select
import shutil
import signal
import sys
import tempfile
import termios
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import release
from moltvm import (SANITIZER, Qmp, QmpError, Skip, firmware, molt_binary, need_kvm, process_status,
                    run_cases, sanitized, session_states, write_script)

SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "dash": ["dash", "-i"]}
TIMEOUT = 60


def wait_for(condition, what):
    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("no %s within %d s" % (what, TIMEOUT))
        time.sleep(0.01)


def is_running(state):
    return state not in "TtZX"


class Shell:
    """An interactive shell with job control, that leads the session of a terminal of its own."""

    def __init__(self, name, binary=None):
        if not shutil.which(name):
            raise Skip("there is no %s here" % name)
        self.name = name
        self.dir = tempfile.mkdtemp(prefix="molt-terminal-")
        self.control = self.path("control")
        write_script(self.path("vm"), "#!/bin/sh\nexec %s run --memory 32M --kernel %s --serial tty"
                     " --control %s --log-file %s \"$@\"\n" % (
                         binary or molt_binary(), firmware("echo"), self.control, self.path("log")))
        self.lines = 0
        self.shown = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.chdir(self.dir)
            env = dict(os.environ, PS1="$ ", TERM="dumb", HISTFILE="", ENV="")
            os.execvpe(name, SHELLS[name], env)
        self.open = True
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.before = self.settings()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and kind is not Skip:
            sys.stderr.write("--- %s: processes %s, settings %s\nterminal:\n%s\nlog:\n%s\n" % (
                self.name, session_states(self.pid), self.attributes(),
                self.shown[-3000:].decode(errors="replace"), self.text("log")))
        wait_for(self.kill, "end of the session")
        os.waitpid(self.pid, 0)
        self.hang_up()
        said = self.shown.decode(errors="replace") + self.text("log") + self.text("nohup.out")
        shutil.rmtree(self.dir, ignore_errors=True)
        if kind is None and SANITIZER.search(said):
            raise AssertionError("a sanitizer complains:\n" + said)

    def kill(self):
        alive = [pid for pid, state in session_states(self.pid).items() if state not in "ZX"]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not alive

    def hang_up(self):
        if self.open:
            self.open = False
            self.reader.join()  # who reads holds it open
            os.close(self.master)

    def path(self, name):
        return os.path.join(self.dir, name)

    def text(self, name):
        with contextlib.suppress(FileNotFoundError), open(self.path(name), errors="replace") as f:
            return f.read()
        return ""

    # ---- the terminal ----

    def read(self):
        with contextlib.suppress(OSError):
            while self.open:
                if select.select([self.master], [], [], 0.05)[0]:
                    self.shown += os.read(self.master, 65536)

    def type(self, keys):
        os.write(self.master, keys.encode())

    def attributes(self):
        return termios.tcgetattr(self.master) if self.open else None

    def is_raw(self):
        return not self.attributes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def wait_shown(self, text, after=0):
        wait_for(lambda: text.encode() in self.shown[after:], "%r on the terminal" % text)

    # ---- the shell ----

    def begin(self, command, separator=";"):
        """Types a command; the number by which wait_status() knows it."""
        self.lines += 1
        self.type("%s%s echo $? >status.%d\n" % (command, separator, self.lines))
        return self.lines

    def wait_status(self, line):
        """Waits until the shell goes on after a command; the command's exit status."""
        name = "status.%d" % line
        wait_for(lambda: self.text(name).endswith("\n"), "end of command %d" % line)
        return int(self.text(name))

    def run(self, command, separator=";"):
        return self.wait_status(self.begin(command, separator))

    def settings(self):
        """As a command that the shell runs in the foreground finds them."""
        assert self.run("stty -g >settings") == 0
        return self.text("settings")

    def check_right(self):
        assert not self.is_raw()
        now = self.settings()
        assert now == self.before, "%s instead of %s" % (now, self.before)

    # ---- the guest ----

    def guests(self):
        """{pid: state} of the processes that run, or are about to run, the guest."""
        found = {}
        for pid, state in session_states(self.pid).items():
            with contextlib.suppress(OSError), open("/proc/%d/cmdline" % pid) as f:
                if self.control in f.read().split("\0") and state not in "ZX":
                    found[pid] = state
        return found

    def guest(self):
        """The one process that runs it."""
        wait_for(lambda: len(self.guests()) == 1, "single process with the guest")
        return next(iter(self.guests()))

    def state(self):
        return self.guests().get(self.guest(), "X")

    def gone(self):
        return not self.guests()

    @contextlib.contextmanager
    def qmp(self):
        clients = []

        def connect():
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                clients.append(Qmp(self.control))
            return clients

        wait_for(connect, "control socket")
        try:
            yield clients[0]
        finally:
            clients[0].close()

    def update(self, count=1, **arguments):
        for _ in range(count):
            with self.qmp() as client:
                assert client.command("update", **arguments)["pid"] == self.guest()

    def onto(self, binary):
        """One update to another molt."""
        self.update(command=[binary, "run", "--control", self.control])

    def fail_update(self, command):
        """The process that runs the guest after an update that had to fail."""
        with self.qmp() as client:
            try:
                client.command("update", command=command, no_check=True, timeout=1000)
            except QmpError:
                return client.wait_event("UPDATE_FAILED")["data"]["pid"]
        raise AssertionError("%s took the guest over" % command)

    def running(self):
        with self.qmp() as client:
            return client.command("query-status")["running"]

    def boot(self, *args):
        """Starts a guest in the foreground, and waits until it has the terminal."""
        after = len(self.shown)
        line = self.begin(" ".join(("./vm",) + args))
        self.wait_shown("echo: ready", after)
        self.check_guest_has_it()
        return line

    def guest_is_in_foreground(self):
        return os.tcgetpgrp(self.master) == os.getpgid(self.guest())

    def check_guest_has_it(self):
        wait_for(self.guest_is_in_foreground, "guest in the foreground")
        wait_for(self.is_raw, "raw terminal")
        after = len(self.shown)
        self.lines += 1
        self.type("<\x03\x1a%d>" % self.lines)  # Ctrl-C and Ctrl-Z, too, are the guest's
        self.wait_shown("<\x03\x1a%d>" % self.lines, after)

    def signal(self, sig):
        os.kill(self.guest(), sig)

    def stop(self, line, sig):
        self.signal(sig)
        assert self.wait_status(line) == 128 + sig
        assert self.state() == "T"

    def quit(self):
        with self.qmp() as client:
            client.command("quit")


def each_shell(case, binary=None):
    """A case for each shell, as far as there are any."""
    missing = []
    for name in SHELLS:
        try:
            with Shell(name, binary) as shell:
                case(shell)
        except Skip as why:
            missing.append(str(why))
    if missing:
        raise Skip("in part: " + ", ".join(missing))


def need_threads_to_follow():
    if sanitized():
        raise Skip("sanitizers keep books on threads, which a process that takes over the memory lacks")


# ---- ends ----

def end_by_signal(sig):
    return 128 + sig, lambda shell: shell.signal(sig)


ENDS = {
    "power-off": (0, lambda shell: shell.type("\x04")),
    "escape": (0, lambda shell: shell.type("\x01x")),
    "quit": (0, lambda shell: shell.quit()),
    "SIGTERM": end_by_signal(signal.SIGTERM),
    "SIGINT": end_by_signal(signal.SIGINT),
    "SIGHUP": end_by_signal(signal.SIGHUP),
}


def check_end(shell, line, name):
    status, end = ENDS[name]
    end(shell)
    got = shell.wait_status(line)
    assert got == status, (name, got)
    shell.check_right()
    assert shell.gone(), shell.guests()


def check_ends(shell):
    for updates in (0, 1):
        for name in ENDS:
            line = shell.boot()
            shell.update(updates)
            check_end(shell, line, name)


def test_ends():
    each_shell(check_ends)


def check_triple_fault(shell):
    for updates in (0, 1):
        line = shell.begin("./vm --kernel %s --cmdline 'how=triple after_ms=%d'"
                           % (firmware("fault"), 100 + 3000 * updates))
        if updates:
            shell.update(updates)
            assert shell.is_raw()
        assert shell.wait_status(line) == 3
        shell.check_right()


def test_triple_fault():
    each_shell(check_triple_fault)


def check_failed_start(shell):
    assert shell.run("./vm --control /no/such/dir/x") == 1
    assert "/no/such/dir/x" in shell.text("log"), "it failed later than the terminal was opened"
    shell.check_right()


def test_failed_start():
    each_shell(check_failed_start)


def check_terminal_gone(shell):
    """The shell's end is the job's, unless the job ignores it."""
    shell.boot()
    shell.hang_up()
    wait_for(shell.gone, "end of the guest")


def test_terminal_gone():
    each_shell(check_terminal_gone)


def main_cpu_seconds(pid):
    with open("/proc/%d/task/%d/stat" % (pid, pid)) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_terminal_gone_ignored(shell):
    after = len(shell.shown)
    shell.begin("(trap '' HUP; exec ./vm)")
    shell.wait_shown("echo: ready", after)
    shell.check_guest_has_it()
    pid = shell.guest()
    shell.hang_up()
    wait_for(lambda: session_states(shell.pid).get(shell.pid, "Z") == "Z", "end of the shell")
    # A terminal that is hung up is always readable, which must not keep main busy.
    before, began = main_cpu_seconds(pid), time.monotonic()
    while time.monotonic() - began < 1:
        assert shell.running()
        time.sleep(0.1)
    assert main_cpu_seconds(pid) - before < 0.5
    shell.update()
    shell.quit()
    wait_for(shell.gone, "end of the guest")


def test_terminal_gone_and_hangup_ignored():
    each_shell(check_terminal_gone_ignored)


# ---- stops ----

def check_stop_and_foreground(shell):
    for sig in (signal.SIGTSTP, signal.SIGSTOP):
        for before, meanwhile in ((0, 0), (1, 0), (0, 1)):
            line = shell.boot()
            shell.update(before)
            pid = shell.guest()
            for _ in range(2):
                shell.stop(line, sig)
                if sig == signal.SIGTSTP or shell.name == "bash":
                    shell.check_right()
                line = shell.begin("fg")
                shell.check_guest_has_it()
                shell.update(meanwhile)
                shell.check_guest_has_it()
                assert shell.guest() == pid
            check_end(shell, line, "escape")


def test_stop_and_foreground():
    each_shell(check_stop_and_foreground)


def check_stop_and_background(shell):
    for sig in (signal.SIGTSTP, signal.SIGSTOP):
        line = shell.boot()
        shell.stop(line, sig)
        assert shell.run("bg") == 0
        wait_for(lambda: is_running(shell.state()), "guest that runs")
        wait_for(shell.running, "answer of the guest in the background")
        # By whomever: a shell with a line editor has settings of its own at its prompt.
        wait_for(lambda: not shell.is_raw(), "terminal of the shell's")
        shell.check_right()
        shell.update()
        shell.check_right()
        line = shell.begin("fg")
        shell.check_guest_has_it()
        check_end(shell, line, "SIGTERM")


def test_stop_and_background():
    each_shell(check_stop_and_background)


def check_end_while_stopped(shell):
    """SIGTERM takes effect when it goes on; the terminal is the shell's all the while."""
    line = shell.boot()
    shell.stop(line, signal.SIGTSTP)
    shell.signal(signal.SIGTERM)
    assert shell.run("fg") == 128 + signal.SIGTERM
    shell.check_right()


def test_end_while_stopped():
    each_shell(check_end_while_stopped)


def check_start_in_background(shell):
    for tostop in ("-tostop", "tostop"):
        shell.run("stty " + tostop)
        shell.before = shell.settings()
        for updates in (0, 1):
            after = len(shell.shown)
            shell.run("./vm &", "")
            shell.wait_shown("echo: ready", after)  # output comes, whatever tostop says
            assert is_running(shell.state()), shell.state()
            shell.check_right()
            shell.update(updates)
            assert shell.running()
            shell.check_right()
            line = shell.begin("fg")
            shell.check_guest_has_it()
            shell.update(updates)
            shell.check_guest_has_it()
            check_end(shell, line, "power-off")
        shell.run("./vm &", "")
        assert shell.running()
        shell.quit()
        wait_for(shell.gone, "end of the guest in the background")
        shell.check_right()


def test_start_in_background():
    each_shell(check_start_in_background)


def check_keys_without_raw_mode(shell):
    for updates in (0, 1):
        line = shell.begin("./vm --serial null")
        assert shell.running()
        shell.update(updates)
        shell.type("\x1a")
        assert shell.wait_status(line) == 128 + signal.SIGTSTP
        assert shell.state() == "T"
        line = shell.begin("fg")
        wait_for(lambda: is_running(shell.state()), "guest that runs")
        assert shell.running()
        shell.update(updates)
        shell.type("\x03")
        assert shell.wait_status(line) == 128 + signal.SIGINT
        shell.check_right()


def test_keys_without_raw_mode():
    each_shell(check_keys_without_raw_mode)


def check_orphaned(shell):
    """Nobody could continue it, so the kernel does not let it be stopped."""
    shell.run("(setsid ./vm --serial null </dev/null >/dev/null 2>&1 &)")
    with shell.qmp() as client:
        pid = client.command("update")["pid"]
        try:
            os.kill(pid, signal.SIGTSTP)
            for _ in range(3):
                assert client.command("query-status")["running"]
        finally:
            client.command("quit")


def test_orphaned():
    each_shell(check_orphaned)


# ---- updates that fail ----

def check_failed_update(shell):
    line = shell.boot()
    pid = shell.guest()
    assert shell.fail_update(["/no/such/molt"]) == pid
    shell.check_guest_has_it()
    check_end(shell, line, "SIGINT")


def test_failed_update():
    each_shell(check_failed_update)


def check_take_back(shell):
    """The job ends for the shell. The guest runs on in another process, in the background."""
    need_threads_to_follow()
    killed = write_script(shell.path("killed"), "#!/bin/sh\nkill -9 $$\n")
    hangs = write_script(shell.path("hangs"), "#!/bin/sh\nexec sleep 1000\n")
    for successor in (killed, hangs):
        for updates in (0, 1):
            line = shell.boot()
            shell.update(updates)
            first = shell.guest()
            pid = shell.fail_update([successor])
            assert pid != first
            assert shell.wait_status(line) == 128 + signal.SIGKILL
            # Where the shell is late the stand-in had it for a moment.
            wait_for(lambda: not shell.is_raw(), "terminal of the shell's")
            shell.check_right()
            assert shell.guest() == pid
            assert shell.running()
            shell.check_right()
            shell.update(updates)
            assert shell.guest() == pid
            shell.check_right()
            shell.quit()
            wait_for(shell.gone, "end of the guest")
            shell.check_right()


def test_take_back():
    each_shell(check_take_back)


def check_take_back_beneath_a_script(shell):
    """A script's group keeps the foreground until the script ends, of which no signal tells."""
    need_threads_to_follow()
    killed = write_script(shell.path("killed"), "#!/bin/sh\nkill -9 $$\n")
    write_script(shell.path("script"), "#!/bin/sh\n./vm\nuntil [ -e go ]; do sleep 0.05; done\n")
    after = len(shell.shown)
    line = shell.begin("./script")
    shell.wait_shown("echo: ready", after)
    first = shell.guest()
    pid = shell.fail_update([killed])
    assert pid != first
    shell.check_guest_has_it()
    shell.update()
    assert shell.guest() == pid
    shell.check_guest_has_it()
    with open(shell.path("go"), "w"):
        pass
    shell.wait_status(line)
    wait_for(lambda: not shell.is_raw(), "terminal of the shell's")
    if shell.name != "bash":  # it takes what it finds after a job that ends by itself
        shell.check_right()
    assert shell.running()
    shell.quit()
    wait_for(shell.gone, "end of the guest")


def test_take_back_beneath_a_script():
    each_shell(check_take_back_beneath_a_script)


# ---- signals that are ignored ----

def signal_set(pid, key):
    mask = int(process_status(pid)[key], 16)
    return {n for n in range(1, 65) if mask >> (n - 1) & 1}


def check_left_alone(shell, signals):
    pid = shell.guest()
    assert not signals & signal_set(pid, "SigBlk"), signal_set(pid, "SigBlk")
    for sig in signals:
        os.kill(pid, sig)
        assert shell.running()
    assert shell.guest() == pid


def check_ignored(shell, signals):
    """In a cold start, a successor and a stand-in."""
    check_left_alone(shell, signals)
    shell.update()
    check_left_alone(shell, signals)
    if not sanitized():
        shell.fail_update(["/bin/false"])
        check_left_alone(shell, signals)
        shell.update()
        check_left_alone(shell, signals)


def check_nohup(shell):
    shell.run("nohup ./vm --serial null &", "")
    assert shell.running()
    check_ignored(shell, {signal.SIGHUP})
    shell.signal(signal.SIGTERM)
    wait_for(shell.gone, "end of the guest")


def test_nohup():
    each_shell(check_nohup)


def check_background_of_a_script(shell):
    """Ctrl-C at a script is not for the guest that it has started with &."""
    for updates in (0, 1):
        write_script(shell.path("script"), "#!/bin/sh\n./vm --serial null &\nsleep 1000\n")
        shell.type("./script\n")
        assert shell.running()
        shell.update(updates)
        shell.type("\x03")
        shell.check_right()
        check_ignored(shell, {signal.SIGINT, signal.SIGQUIT})
        shell.signal(signal.SIGTERM)
        wait_for(shell.gone, "end of the guest")
        shell.check_right()


def test_background_of_a_script():
    each_shell(check_background_of_a_script)


def check_all_ignored(shell):
    """SIGTSTP as well; SIGCHLD is molt's own affair, and updates need it."""
    shell.run("(trap '' HUP INT QUIT TERM TSTP CHLD; exec ./vm --serial null) &", "")
    assert shell.running()
    assert signal.SIGCHLD not in signal_set(shell.guest(), "SigIgn")
    check_ignored(shell, {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM,
                          signal.SIGTSTP})
    assert is_running(shell.state())
    shell.quit()
    wait_for(shell.gone, "end of the guest")


def test_all_ignored():
    each_shell(check_all_ignored)


# ---- the newest release, which does not follow the foreground and obeys ignored signals ----

def released():
    if sanitized():
        raise Skip("beneath a release's sandbox the leak checker has no ptrace")
    try:
        return release.newest()
    except release.Unavailable as why:
        raise Skip(str(why)) from why


def check_from_a_release_and_back(shell, binary):
    for back in (False, True):
        line = shell.boot()
        shell.onto(molt_binary())
        shell.check_guest_has_it()
        shell.stop(line, signal.SIGTSTP)
        shell.check_right()
        line = shell.begin("fg")
        shell.check_guest_has_it()
        if back:
            shell.onto(binary)
            shell.check_guest_has_it()
        check_end(shell, line, "escape")


def test_release_on_a_terminal():
    binary = released()
    each_shell(lambda shell: check_from_a_release_and_back(shell, binary), binary)


def check_release_that_blocks_what_is_ignored(shell):
    shell.run("nohup ./vm --serial null &", "")
    assert shell.running()
    shell.onto(molt_binary())
    check_left_alone(shell, {signal.SIGHUP})
    shell.quit()
    wait_for(shell.gone, "end of the guest")


def test_release_that_blocks_what_is_ignored():
    each_shell(check_release_that_blocks_what_is_ignored, released())


for _case in (test_release_on_a_terminal, test_release_that_blocks_what_is_ignored):
    _case.timeout = 600  # the release may have to be built

need_kvm()
run_cases(globals())
