#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What happens while the guest runs in the stand-in: it is served, whoever waits is served in the end, and it ends as it would
have without an update. The successor is one that hangs, so that there is time.
"""
import os
import signal
import socket
import sys
import time
from contextlib import closing

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp, QmpError, Skip, Vm, molt_binary, need_kvm, run_cases, sanitized, write_script  # noqa: E402

TICKER = "period_ms=20"
HANGS = ["/bin/sh", "-c", "exec sleep 600"]
HURRY_S = 3  # src/update/stand_in_self.c


def need_threads_to_follow():
    if sanitized():
        raise Skip("sanitizers keep books on threads, which another process that takes over the memory lacks")


def stand_in_of(vm):
    """The stand-in, once it runs the guest: its process id."""
    for pid in vm.others():
        with open("/proc/%d/comm" % pid) as comm:
            if comm.read().strip() == "molt-stand-in":
                return pid
    return None


def begin(vm, command, **arguments):
    """Starts an update and leaves it there, the guest being in the stand-in."""
    vm.qmp.send("update", dict(arguments, command=command, **{"no-check": True}))
    vm.wait_for(lambda: stand_in_of(vm), "the stand-in")
    vm.wait_for(lambda: os.readlink("/proc/%d/exe" % vm.pid) != molt_binary(), "the exec")
    return stand_in_of(vm)


def test_guest_is_served_while_a_successor_hangs():
    """Timers, and output to a file, which a thread writes. It stops for no longer than at a hand-off."""
    need_threads_to_follow()
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        had = len(vm.ticks())
        begin(vm, HANGS, timeout=1500)
        vm.wait_ticks(40)
        assert "error" in vm.qmp.answer()
        vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
        vm.wait_ticks(3)
        vm.check_ticks()
        assert len(vm.ticks()) - had > 40, vm.ticks()[had:]
        assert vm.update()["pid"] == vm.pid
        vm.wait_ticks(3)
        vm.check_ticks()


def test_output_of_more_than_the_queue_holds_is_not_lost():
    need_threads_to_follow()
    with Vm(cmdline="period_ms=1") as vm:
        vm.wait_ticks(2)
        begin(vm, HANGS, timeout=3000)
        assert "error" in vm.qmp.answer()
        vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
        vm.wait_ticks(3)
        vm.check_ticks()


def test_output_goes_on_after_an_exec_that_failed():
    """The guest was in the stand-in for a moment, and what wrote for it there is gone."""
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        nonsense = write_script(vm.path("nonsense"), "no program\n")
        for _ in range(3):
            vm.qmp.send("update", {"command": [nonsense], "no-check": True})
            assert "Exec format error" in vm.qmp.answer()["error"]["desc"]
            vm.wait_ticks(3)
            vm.check_ticks()


def test_a_command_is_not_left_waiting():
    """Who waits has the successor hurry: it is given up after some seconds, not after its deadline."""
    need_threads_to_follow()
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        pid = begin(vm, HANGS, timeout=60000)
        began = time.monotonic()
        with closing(Qmp(vm.control_path, timeout=30)) as other:
            assert other.command("query-status")["running"]
            assert HURRY_S - 1 < time.monotonic() - began < HURRY_S + 10, time.monotonic() - began
            try:
                other.command("update", check_only=True)
            except QmpError as err:
                raise AssertionError("the update is over: %s" % err) from None
        vm.follow(pid)
        vm.wait_ticks(3)
        vm.check_ticks()


def test_quit_in_the_stand_in():
    need_threads_to_follow()
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        begin(vm, HANGS, timeout=60000)
        with closing(Qmp(vm.control_path, timeout=30)) as other:
            other.command("quit")
            assert other.wait_event("SHUTDOWN")["data"]["reason"] == "host-qmp-quit"
        vm.wait_for(lambda: not [pid for pid, state in vm.others().items() if state != "Z"], "the end of all")


def test_stop_and_cont_in_the_stand_in():
    need_threads_to_follow()
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        pid = begin(vm, HANGS, timeout=60000)
        with closing(Qmp(vm.control_path, timeout=30)) as other:
            other.command("stop")
            time.sleep(0.2)  # what was printed before is written to the file by a thread
            had = vm.ticks()
            time.sleep(0.3)
            assert vm.ticks() == had, (had[-3:], vm.ticks()[-3:])
            other.command("cont")
        vm.follow(pid)
        vm.wait_ticks(3)
        vm.check_ticks()


def test_client_that_hangs_up():
    """The one that asked, and another: the update goes on, and so does the guest."""
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        slow = write_script(vm.path("slow"), '#!/bin/sh\nsleep 0.5\nexec "%s" run "$@"\n' % molt_binary())
        with closing(Qmp(vm.control_path)) as asks, closing(Qmp(vm.control_path)) as other:
            asks.send("update", {"command": [slow], "no-check": True})
            vm.wait_for(lambda: stand_in_of(vm), "the stand-in")
            other.close()
            asks.close()
        vm.wait_for(lambda: vm.qmp.command("query-update")["status"] == "completed", "the update")
        vm.wait_ticks(3)
        vm.check_ticks()


def test_signal_is_the_successors():
    """It was sent to the process, and that is whoever it becomes."""
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        slow = write_script(vm.path("slow"), "#!%s\nimport os, sys, time\ntime.sleep(0.5)\n"
                            "os.execv('%s', ['%s', 'run'] + sys.argv[2:])\n" % (sys.executable, molt_binary(), molt_binary()))
        vm.qmp.send("update", {"command": [slow, "run"], "no-check": True})
        vm.wait_for(lambda: stand_in_of(vm), "the stand-in")
        os.kill(vm.pid, signal.SIGTERM)
        assert vm.qmp.result()["pid"] == vm.pid
        assert vm.qmp.wait_event("SHUTDOWN")["data"]["reason"] == "host-signal"
        assert vm.proc.wait(20) == 128 + signal.SIGTERM, vm.proc.returncode


def test_signal_to_a_successor_that_hangs():
    """Whoever sent it meant the guest, which runs on in the stand-in, and ends there."""
    need_threads_to_follow()
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        begin(vm, HANGS, timeout=1500)
        os.kill(vm.pid, signal.SIGTERM)
        assert "error" in vm.qmp.answer()
        vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
        assert vm.qmp.wait_event("SHUTDOWN")["data"]["reason"] == "host-signal"
        assert vm.qmp.closed()


def test_a_full_queue_is_carried():
    """All that a serial port keeps for a peer that is not there crosses the switch."""
    with Vm(cmdline="period_ms=0", start=False) as vm:
        path = vm.path("com1")
        vm.argv[vm.argv.index("--serial") + 1] = "socket=" + path
        vm.start()
        vm.wait_log("bytes dropped so far", timeout=60)
        report = vm.update()
        assert report["pid"] == vm.pid and report["state-bytes"] > 60000, report
        with closing(socket.socket(socket.AF_UNIX)) as peer:
            peer.settimeout(20)
            peer.connect(path)
            assert b"tick" in peer.recv(65536)


def test_serial_peer_that_goes():
    """A peer that hangs up meanwhile is no descriptor that is missed: the successor sees it go."""
    with Vm(cmdline="period_ms=1", start=False) as vm:
        path = vm.path("com1")
        vm.argv[vm.argv.index("--serial") + 1] = "socket=" + path
        vm.start()
        with closing(socket.socket(socket.AF_UNIX)) as peer:
            peer.connect(path)
            assert peer.recv(4096)
            slow = write_script(vm.path("slow"), '#!/bin/sh\nsleep 0.5\nexec "%s" run "$@"\n' % molt_binary())
            vm.qmp.send("update", {"command": [slow], "no-check": True})
            vm.wait_for(lambda: stand_in_of(vm), "the stand-in")
        assert vm.qmp.result()["pid"] == vm.pid
        with closing(socket.socket(socket.AF_UNIX)) as peer:
            peer.settimeout(20)
            peer.connect(path)
            assert peer.recv(4096)


if __name__ == "__main__":
    need_kvm()
    run_cases(globals())
