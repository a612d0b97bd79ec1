#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Successors that run but are the wrong ones: refused before the pause where it can be known then, and
survived where nobody asks them.
"""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import QmpError, Skip, Vm, molt_binary, need_kvm, other_molt, run_cases, sanitized  # noqa: E402


def start_probe(binary=None):
    vm = Vm("--memory", "64M", kernel="probe", cmdline="period_ms=50 lost_ms=5000 ram_mib=32", binary=binary)
    vm.wait_serial("probe: ready")
    return vm


def check_alive(vm):
    vm.wait_serial(r"(probe: pass \d+ [^\n]*\n.*){2}", after=len(vm.serial()))
    assert "CHANGED" not in vm.serial(), vm.serial()[-3000:]
    assert vm.running()


def fails(vm, command, **arguments):
    """The sentence; whoever has the guest now is followed."""
    vm.qmp.events.clear()
    try:
        report = vm.update(command=command, **arguments)
    except QmpError as err:
        event = vm.qmp.wait_event("UPDATE_FAILED")["data"]
        assert event["error"] == str(err), event
        vm.follow(event["pid"])
        check_alive(vm)
        return str(err)
    raise AssertionError("it took over: %s" % report)


def refused(vm, command, *words, **arguments):
    """By the check, before any pause."""
    pid = vm.pid
    why = fails(vm, command, **arguments)
    assert why.startswith("check: "), why
    assert all(word in why for word in words), (words, why)
    assert vm.pid == pid


def survived(vm, command, *words, **arguments):
    """Nobody asked it first."""
    if sanitized():
        raise Skip("sanitizers keep books on threads, which another process that takes over the memory lacks")
    why = fails(vm, command, no_check=True, **arguments)
    assert all(word in why for word in words), (words, why)


def right_one_still_works(vm):
    assert vm.update()["pid"] == vm.pid
    check_alive(vm)


def test_programs_that_are_no_molt():
    with start_probe() as vm:
        for command in (["/bin/true"], ["/bin/false"]):
            refused(vm, command, "no answer")
            survived(vm, command, "ended before")
        right_one_still_works(vm)


def test_program_that_sleeps():
    with start_probe() as vm:
        refused(vm, ["/bin/sleep", "60"], "answer")  # --incoming is too much for it: it ends at once
        refused(vm, ["/bin/sh", "-c", "exec sleep 60"], "did not answer", timeout=500)
        survived(vm, ["/bin/sh", "-c", "exec sleep 60"], "in time", timeout=500)
        right_one_still_works(vm)


def test_a_binary_that_cannot_be_read():
    """It could take over, and would be the last one that ever did."""
    with start_probe() as vm:
        binary = vm.path("molt")
        shutil.copy(molt_binary(), binary)
        os.chmod(binary, 0o111)
        refused(vm, [binary, "run"], "molt's own binary, " + binary, "must read it")
        os.chmod(binary, 0o555)
        vm.update(command=[binary, "run"])
        right_one_still_works(vm)


def test_a_guest_whose_binary_cannot_be_read():
    """The log says so before anybody asks for an update, and what helps."""
    with Vm("--memory", "64M", kernel="probe", cmdline="period_ms=50 lost_ms=5000 ram_mib=32", start=False) as vm:
        binary = vm.argv[vm.argv.index(molt_binary())] = vm.path("molt")
        shutil.copy(molt_binary(), binary)
        os.chmod(binary, 0o111)
        vm.start()
        vm.wait_serial("probe: ready")
        assert "this guest cannot be updated" in vm.log() and "own binary, %s: perm" % binary in vm.log(), vm.log()
        why = fails(vm, [molt_binary(), "run"])
        assert "must read it" in why, why
        os.chmod(binary, 0o555)
        right_one_still_works(vm)


def test_device_class_removed():
    with start_probe() as vm:
        refused(vm, [other_molt("no-i8042"), "run"], "i8042")
        survived(vm, [other_molt("no-i8042"), "run"], "no device here for section 'i8042'")
        right_one_still_works(vm)


def test_stream_format_of_another_age():
    """The successor of a newer molt is older than the stream, or it does not read the old format any more."""
    for mine, other in ((other_molt("format2"), molt_binary()), (molt_binary(), other_molt("format2"))):
        with start_probe(mine) as vm:
            refused(vm, [other, "run"], "stream format")
            # It cannot even read the fd table, so it has no way to say why.
            survived(vm, [other, "run"], "ended before")
            right_one_still_works(vm)


def test_machine_version_of_another_age():
    with start_probe(os.environ["MOLT_NEXT"]) as vm:
        refused(vm, [molt_binary(), "run"], "machine version 3")
        survived(vm, [molt_binary(), "run"], "machine version 3")
        right_one_still_works(vm)


def test_state_that_is_not_of_this_update():
    """Only the nonce in the stream tells, and that is written in the pause: the way back, same process."""
    with start_probe() as vm, start_probe() as neighbour:
        stale, foreign = vm.path("stale"), neighbour.path("state")
        vm.update(state_file=stale)
        neighbour.update(state_file=foreign)
        for path in (stale, foreign):
            pid = vm.pid
            assert "not written for this update" in fails(vm, [molt_binary(), "run", "--incoming", "file:" + path])
            assert vm.pid == pid
        right_one_still_works(vm)
        check_alive(neighbour)


def test_wrong_options():
    """Not asked before, it goes back in the same process, and its predecessor knows why."""
    with start_probe() as vm:
        for options, words in ((("--log-level", "loud"), "--log-level 'loud'"),
                               (("--sandbox", "maybe"), "--sandbox 'maybe'"),
                               (("--sandbox", "on,write=here"), "the path must be absolute")):
            pid = vm.pid
            refused(vm, [molt_binary(), "run", *options], words)
            survived(vm, [molt_binary(), "run", *options], words)
            assert vm.pid == pid, (options, vm.pid)
            right_one_still_works(vm)


def test_less_memory():
    """What the guest sees comes from the stream: a successor that nobody asked takes it as it is."""
    with start_probe() as vm:
        refused(vm, [molt_binary(), "run", "--memory", "32M"], "--memory", "67108864")
        vm.update(command=[molt_binary(), "run", "--memory", "32M"], no_check=True)
        check_alive(vm)
        vm.wait_log("the guest keeps its 67108864 bytes of RAM")


if __name__ == "__main__":
    need_kvm()
    run_cases(globals())
