#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Successors that do not take over: none may cost the guest its life, whichever way back is needed.

The check would refuse most of these before the pause, so they are forced with no-check.
"""
import contextlib
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import *  # noqa: E402,F403

need_kvm()

PROBE = dict(kernel="probe", cmdline="period_ms=50 lost_ms=5000 ram_mib=32")
KILLS = int(os.environ.get("MOLT_KILLS", "50" if full() else "15"))


def need_threads_to_follow():
    if sanitized():
        raise Skip("sanitizers keep books on threads, which another process that takes over the memory lacks")


def start_probe(*args, **kw):
    vm = Vm("--memory", "64M", *args, **PROBE, **kw)
    vm.wait_serial("probe: ready")
    return vm


def check_alive(vm):
    """Two more passes of the guest's own verification, and not a thing changed."""
    vm.wait_serial(r"(probe: pass \d+ [^\n]*\n.*){2}", after=len(vm.serial()))
    assert "CHANGED" not in vm.serial(), vm.serial()[-3000:]


def fail(vm, command, **arguments):
    """An update that has to fail; the sentence, and where the guest runs from now on."""
    try:
        report = vm.update(command=command, no_check=True, **arguments)
    except QmpError as err:
        event = vm.qmp.wait_event("UPDATE_FAILED")["data"]
        assert event["error"] == str(err), event
        return str(err), event["pid"]
    raise AssertionError("the update was reported as done: %s" % report)


def check_taken_back(command, **arguments):
    need_threads_to_follow()
    with start_probe() as vm:
        sentence, pid = fail(vm, command, **arguments)
        assert pid != vm.pid, "the stand-in is another process"
        check_alive(vm)
        assert vm.qmp.command("query-status")["status"] == "running"
        assert vm.update()["pid"] == pid
        check_alive(vm)
        return sentence


def test_successor_that_says_no_by_its_exit_status():
    assert "ended before it took the guest over" in check_taken_back(["/bin/false"])


def test_successor_that_ends_well_without_having_done_anything():
    assert "ended before it took the guest over" in check_taken_back(["/bin/true"])


def test_successor_that_kills_itself():
    check_taken_back(["/bin/sh", "-c", "kill -9 $$"])


def test_successor_that_does_not_know_an_option():
    check_taken_back([molt_binary(), "run", "--option-of-another-age"])


def test_take_backs_in_a_row_leave_nothing():
    """Of a process that ended nothing stays, though the next one lives on what that one had made."""
    need_threads_to_follow()
    many = 40 if full() else 12

    def has():
        with open("/proc/%d/maps" % pid) as maps:
            return len(maps.readlines()), len(os.listdir("/proc/%d/fd" % pid))

    with start_probe() as vm:
        for turn in range(many):
            pid = fail(vm, ["/bin/false"])[1]
            if turn == 3:
                settled = has()
        maps, fds = has()
        print("# %d mappings, %d descriptors; %d take-backs before %d, %d"
              % (maps, fds, many - 4, *settled))
        assert fds <= settled[1], (settled, fds)
        assert maps < settled[0] + 6, (settled, maps)  # each would leave three
        check_alive(vm)
        assert vm.update()["pid"] == pid
        check_alive(vm)


def test_successor_that_hangs():
    began = time.monotonic()
    sentence = check_taken_back(["/bin/sh", "-c", "exec sleep 60"], timeout=500)
    assert "in time" in sentence, sentence
    assert time.monotonic() - began < 30


def test_any_id_comes_back_from_whoever_runs_the_guest():
    need_threads_to_follow()
    with start_probe() as vm:
        gives_back = [molt_binary(), "run", "--incoming", "file:/nonexistent"]
        for command, moves in (gives_back, False), (["/bin/false"], True):
            vm.qmp.send("update", {"command": command, "no-check": True}, id=2**64)
            answer = vm.qmp.answer()
            assert answer["id"] == 2**64 and "error" in answer, answer
            assert (vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"] != vm.pid) == moves
            check_alive(vm)


def test_successor_that_notices_gives_back_in_the_same_process():
    with start_probe() as vm:
        for uri, why in (("file:/nonexistent", "No such file"), ("file:/dev/null", "regular file"),
                         ("tcp:1234", "only file:PATH")):
            sentence, pid = fail(vm, [molt_binary(), "run", "--incoming", uri])
            assert why in sentence, sentence
            assert pid == vm.pid
            check_alive(vm)
        assert vm.update()["updates"] == 1


def test_state_of_an_earlier_update_is_refused():
    with start_probe() as vm:
        stale = vm.path("stale")
        report = vm.update(state_file=stale)
        sentence, pid = fail(vm, [molt_binary(), "run", "--incoming", "file:" + stale])
        assert "not written for this update" in sentence, sentence
        assert pid == vm.pid
        assert vm.qmp.command("query-update")["last"] == report, "what went well before is known still"
        check_alive(vm)


def test_state_of_another_guest_is_refused():
    with start_probe() as vm, start_probe() as other:
        state = other.path("state")
        other.update(state_file=state)
        sentence, pid = fail(vm, [molt_binary(), "run", "--incoming", "file:" + state])
        assert "not written for this update" in sentence, sentence
        check_alive(vm)
        check_alive(other)


def test_kept_binary_is_the_default_again_after_a_way_back():
    with start_probe() as vm:
        fail(vm, [molt_binary(), "run", "--incoming", "file:/nonexistent"])
        assert vm.update()["updates"] == 1
        assert vm.update()["updates"] == 2
        check_alive(vm)


def test_every_client_stays_connected():
    need_threads_to_follow()
    with start_probe() as vm:
        other, mute = Qmp(vm.control_path), Qmp(vm.control_path, negotiate=False)
        for command in (["/bin/true"], [molt_binary(), "run", "--incoming", "file:/nonexistent"]):
            fail(vm, command)
            assert other.wait_event("UPDATE_FAILED")["data"]["error"]
            assert other.command("query-status")["running"]
        mute.command("qmp_capabilities")
        assert mute.command("query-status")["running"]


def peer(path):
    """The process that the kernel says is at the other end of a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def test_clients_see_who_serves():
    """Not the process that has made the socket and is dead; `molt update` finds the binary by it."""
    need_threads_to_follow()
    with tempfile.TemporaryDirectory() as directory:
        serial = directory + "/serial"
        with Vm("--memory", "64M", serial="socket=" + serial) as vm:
            assert peer(vm.control_path) == peer(serial) == vm.pid
            _, pid = fail(vm, ["/bin/true"])
            assert pid != vm.pid and peer(vm.control_path) == peer(serial) == pid
            done = molt("update", vm.control_path)
            assert done.returncode == 0 and "process %d is now" % pid in done.stdout, done


def test_paused_guest_stays_paused():
    need_threads_to_follow()
    with start_probe() as vm:
        vm.qmp.command("stop")
        fail(vm, ["/bin/true"])
        assert vm.qmp.command("query-status")["status"] == "paused"
        had = len(vm.serial())
        time.sleep(0.3)
        assert len(vm.serial()) == had
        vm.qmp.command("cont")
        check_alive(vm)


def test_signal_ends_the_guest_in_the_stand_in():
    need_threads_to_follow()
    with start_probe() as vm:
        _, pid = fail(vm, ["/bin/true"])
        os.kill(pid, 15)
        shutdown = vm.qmp.wait_event("SHUTDOWN")["data"]
        assert shutdown["reason"] == "host-signal", shutdown
        assert vm.qmp.closed()


def test_killed_at_random_moments_between_exec_and_commit():
    """
    The successor is a shell that waits for 10 ms, becomes molt, and is killed -9 at a moment from then
    until about when it has the guest, which is later on a slow host. What it had committed by then decides
    who has the guest, and somebody always has: either the update succeeded and the process was killed after
    it (then there is no guest to ask, and that is no loss: an owner was killed), or the guest runs on.
    """
    need_threads_to_follow()
    survived, committed, took = 0, 0, 0
    become_molt = 'sleep 0.01; exec "$0" run "$@"'
    vm = None
    try:
        for _ in range(KILLS):
            if not vm:
                vm = start_probe()
                took = vm.update(command=["/bin/sh", "-c", become_molt, molt_binary()], no_check=True)["total-us"] / 1e6
            command = ["/bin/sh", "-c", "(sleep %.4f; kill -9 $$) & %s" % (random.uniform(0.006, took), become_molt),
                       molt_binary()]
            try:
                vm.update(command=command, no_check=True)
                committed += 1
            except QmpError:
                vm.qmp.wait_event("UPDATE_FAILED")
                survived += 1
                check_alive(vm)
                continue
            except (EOFError, OSError):
                committed += 1  # killed in the middle of its answer
            vm.kill()
            vm.__exit__(None, None, None)
            vm = None
        print("# %d kills: %d before the commit, all survived; %d after it" % (
            KILLS, survived, committed))
        assert survived + committed == KILLS
        assert survived > KILLS // 20, "the moments missed the time before the commit"
    finally:
        if vm:
            vm.__exit__(None, None, None)


test_killed_at_random_moments_between_exec_and_commit.timeout = 240 + 5 * KILLS


def test_wrapper_that_starts_molt_as_a_child():
    """The check refuses it; without the check the guest moves to another process, and the report says so."""
    with start_probe() as vm:
        wrapper = write_script(vm.path("wrapper"), '#!/bin/sh\n%s run "$@"\n' % molt_binary())
        text = expect_error(lambda: vm.update(wrapper), "check", wrapper, "as a child", "exec molt run")
        assert vm.qmp.wait_event("UPDATE_FAILED")["data"] == {"error": text, "pid": vm.pid}
        check_alive(vm)
        report = vm.update(wrapper, no_check=True)
        assert report["previous-pid"] == vm.pid and report["pid"] != vm.pid, report
        vm.follow(report["pid"])
        vm.wait_log(r"process %d, not in %d" % (vm.pid, vm.proc.pid))
        check_alive(vm)
        # From there on it is as good a process as any, and its stand-in no child that it would wait for.
        assert "previous-pid" not in vm.update(molt_binary(), "run")
        check_alive(vm)


def test_check_starts_programs_with_default_signals():
    with start_probe("--sandbox", "off") as vm:
        wrapper = write_script(vm.path("wrapper"), """#!/bin/sh
grep -E '^Sig(Blk|Ign)' /proc/self/status >>%s
exec %s run "$@"
""" % (vm.path("masks"), molt_binary()))
        vm.update(wrapper, check_only=True)
        with open(vm.path("masks")) as f:
            blocked, ignored = (int(line.split()[1], 16) for line in f)
        assert blocked == 0, hex(blocked)
        for sig in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            assert not ignored & 1 << (sig - 1), (sig, hex(ignored))


def test_service_manager_is_told_which_process_to_watch():
    need_threads_to_follow()
    with tempfile.TemporaryDirectory() as directory, socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.path.join(directory, "notify"))
        manager.settimeout(20)

        def told():
            return dict(line.split("=") for line in manager.recv(4096).decode().split())

        with start_probe(env=dict(os.environ, NOTIFY_SOCKET=manager.getsockname())) as vm:
            assert told() == {"MAINPID": str(vm.pid), "READY": "1"}
            vm.update()
            stand_in = told()["MAINPID"]
            assert stand_in != str(vm.pid)
            assert told() == {"MAINPID": str(vm.pid)}
            _, pid = fail(vm, ["/bin/true"])
            assert told() == {"MAINPID": str(pid)}
            assert told() == {"MAINPID": str(pid)}


def test_service_manager_that_is_busy():
    """
    Its queue has room for one word, the stand-in's. So the stand-in, whose end it would take for the guest's, waits
    until there is room for another, and the next update waits for the stand-in.
    """
    need_threads_to_follow()
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        manager.bind(os.path.join(directory, "notify"))
        manager.settimeout(20)
        others.connect(manager.getsockname())
        others.setblocking(False)
        with start_probe(env=dict(os.environ, NOTIFY_SOCKET=manager.getsockname())) as vm:
            assert b"READY=1" in manager.recv(4096)
            with contextlib.suppress(BlockingIOError):
                while True:
                    others.send(b"X")
            manager.recv(4096)
            vm.update()
            check_alive(vm)
            expect_error(vm.update, "the service manager does not read")
            check_alive(vm)
            said = []
            while len(said) < 2:
                text = manager.recv(4096).decode()
                if text.startswith("MAINPID="):
                    said.append(int(text[8:]))
                    with open("/proc/%d/comm" % said[0]) as comm:
                        assert "molt" in comm.read(), said
            assert said[0] != vm.pid and said[1] == vm.pid, said
            vm.wait_for(lambda: not os.path.exists("/proc/%d" % said[0]), "the end of the stand-in")
            vm.update()
            check_alive(vm)


def test_service_manager_of_another_process_is_not_told():
    """A daemon that systemd has started starts a molt, and has left the variables as they were."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.path.join(directory, "notify"))
        manager.settimeout(0.3)
        with start_probe(env=dict(os.environ, NOTIFY_SOCKET=manager.getsockname(),
                                  SYSTEMD_EXEC_PID=str(os.getpid()))) as vm:
            vm.update()
            check_alive(vm)
            try:
                raise AssertionError(manager.recv(4096))
            except socket.timeout:
                pass


def test_service_manager_that_cannot_be_told():
    """It is said, and the guest runs."""
    for name in ("/no/such/socket", "relative", "/" + 200 * "x"):
        with start_probe(env=dict(os.environ, NOTIFY_SOCKET=name)) as vm:
            vm.wait_log("warn: the service manager will not be told of this guest: NOTIFY_SOCKET='%s'" % name)
            vm.update()
            check_alive(vm)


if __name__ == "__main__":
    run_cases(globals())
