#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
molt as the only program of a pid name space, as in a container: the guest survives every kind of bad successor there,
too, and whoever started the container gets signals through and the exit status back.

Process numbers are those in the name space: the VMM is never its process 1.
"""
import os
import signal
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Skip, Vm, expect_error, hanging_program, molt, molt_binary, need_kvm, process_status, run_cases,
                    sanitized)

TICKER = "period_ms=20"
SPACE = ["unshare", "--pid", "--fork", "--mount", "--mount-proc"]


class Container(Vm):
    """The process that was started is unshare(1), which waits for the name space's process 1."""

    def __init__(self, *args, prefix=(), **kw):
        if os.getuid() != 0 or subprocess.run(SPACE + ["true"], stderr=subprocess.DEVNULL,
                                              check=False).returncode:
            raise Skip("no pid name space can be made here")
        super().__init__("--memory", "64M", *args, start=False, **kw)
        self.argv = [*SPACE, *prefix, *self.argv]
        self.start()

    @staticmethod
    def children(pid):
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return [int(word) for word in f.read().split()]

    @property
    def init(self):
        """The name space's process 1, as seen from here."""
        return self.children(self.proc.pid)[0]

    def inside(self, pid):
        """The number that a process has in the name space."""
        return int(process_status(pid)["NSpid"].split()[-1])

    def runs_on(self):
        self.wait_ticks(3)
        self.check_ticks()


def fails(vm, *command, **arguments):
    """Where, in the name space's numbers, the guest runs on after this update."""
    expect_error(lambda: vm.update(*command, no_check=True, **arguments))
    pid = vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"]
    vm.runs_on()
    return pid


def test_every_bad_successor():
    if sanitized():
        raise Skip("sanitizers keep books on threads, which another process that takes over the memory lacks")
    with Container(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        first = vm.update()["pid"]
        assert first != 1
        # It cannot load: the same process.
        assert fails(vm, molt_binary(), "run", "--incoming", "file:/no") == first
        # It dies; then another one dies where the guest was taken back; one hangs.
        second = fails(vm, "/bin/false")
        assert second not in (1, first)
        assert vm.update()["pid"] == second
        third = fails(vm, "/bin/sh", "-c", "kill -9 $$")
        assert third not in (1, first, second)
        fourth = fails(vm, hanging_program(vm.path("hangs")), timeout=500)
        assert fourth not in (1, first, second, third)
        report = vm.update()
        assert report["pid"] == fourth and report["updates"] == 3
        vm.runs_on()
        # What has ended was waited for: only init's one child is left, and it has no other.
        vm.wait_for(lambda: [vm.inside(p) for p in vm.children(vm.init)] == [fourth], "the end of the others")
        vm.qmp.command("quit")
        assert vm.wait_exit() == 0


def test_exit_status():
    for kernel, cmdline, status in (("exit", None, 0), ("fault", "how=triple", 3)):
        with Container(kernel=kernel, cmdline=cmdline, control=False) as vm:
            assert vm.wait_exit() == status, (kernel, vm.log())
    with Container("--no-such-option", control=False) as vm:
        assert vm.wait_exit() == 2


def test_exit_status_after_a_guest_was_taken_back():
    if sanitized():
        raise Skip("sanitizers keep books on threads, which another process that takes over the memory lacks")
    with Container(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        fails(vm, "/bin/true")
        os.kill(vm.init, signal.SIGTERM)
        assert vm.wait_exit() == 128 + signal.SIGTERM
        vm.wait_log("ended by signal %d" % signal.SIGTERM)


def test_signals_are_passed_on():
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Container(cmdline=TICKER) as vm:
            vm.wait_ticks(2)
            os.kill(vm.init, sig)
            assert vm.wait_exit() == 128 + sig


def test_killed_guest():
    """The VMM is killed and nobody is left to run the guest: the container ends, and says how."""
    with Container(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        os.kill(vm.children(vm.init)[0], signal.SIGKILL)
        assert vm.wait_exit() == 128 + signal.SIGKILL


def test_orphans_are_waited_for():
    """What a wrapper leaves behind becomes a child of process 1, and does not stay a zombie."""
    with Container("--sandbox", "off", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        vm.update("/bin/sh", "-c", '(sleep 0.2 &); exec "$0" run --sandbox off "$@"', molt_binary(), no_check=True)
        vm.wait_for(lambda: len(vm.children(vm.init)) == 2, "the orphan")
        vm.wait_for(lambda: len(vm.children(vm.init)) == 1, "the orphan's end")
        vm.runs_on()


def test_service_manager_is_told_by_process_one():
    """It knows the container by that one; the numbers inside mean nothing to it."""
    with Vm("--pause", start=False) as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(directory.path("notify"))
        manager.settimeout(20)
        with Container(cmdline=TICKER, env=dict(os.environ, NOTIFY_SOCKET=manager.getsockname())) as vm:
            assert manager.recv(4096) == b"READY=1\n"
            vm.update()
            vm.runs_on()
            manager.settimeout(0.3)
            try:
                raise AssertionError(manager.recv(4096))
            except socket.timeout:
                pass


def test_process_one_becomes_the_user():
    """A container's root without CAP_KILL: signals reach a molt that became another user all the same."""
    prefix = ["setpriv", "--bounding-set=-kill"]
    nobody = 65534
    with tempfile.TemporaryDirectory(prefix="molt-test-") as own:
        os.chown(own, nobody, nobody)
        with Container("--user", str(nobody), prefix=prefix, directory=own, cmdline=TICKER) as vm:
            signals_reach(vm, nobody)


def signals_reach(vm, nobody):
    vm.wait_ticks(2)
    vm.update()

    def ids(key):
        return process_status(vm.init)[key].split()

    vm.wait_for(lambda: ids("Uid") == [str(nobody)] * 4, "process 1 to be that user", 20)
    assert ids("Gid") == [str(nobody)] * 4 and ids("Groups") == [] and int(ids("CapEff")[0], 16) == 0
    os.kill(vm.init, signal.SIGTERM)
    assert vm.wait_exit() == 128 + signal.SIGTERM


def test_executable_memfds_are_forbidden():
    """A name space of its own has a setting of its own: vm.memfd_noexec=2, and `molt update` works all the same."""
    prefix = ["sh", "-c", 'echo 2 >/proc/sys/vm/memfd_noexec && exec "$@"', "sh"]
    with Container(cmdline=TICKER, prefix=prefix) as vm:
        vm.wait_ticks(2)
        for n in (1, 2):
            done = molt("update", vm.control_path, "--", molt_binary(), "run")
            assert done.returncode == 0, done
            assert vm.qmp.command("query-update")["updates"] == n
        vm.runs_on()


need_kvm()
run_cases(globals())
