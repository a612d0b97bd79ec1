#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How molt ends, and with which exit code; and how it goes on when the guest resets."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Qmp, Vm, need_kvm, run_cases

REGISTERS = r"rip=[0-9a-f]{16} rflags=[0-9a-f]{16}"


def small(*args, **kw):
    return Vm("--memory", "32M", *args, **kw)


def updates(vm, n):
    for _ in range(n):
        vm.update()


def updates_before_the_end(vm, said):
    """Of a guest that ends by itself soon after it said this: it is paused meanwhile."""
    vm.wait_serial(said)
    vm.qmp.command("stop")
    updates(vm, 2)
    client = Qmp(vm.control_path)
    vm.qmp.command("cont")
    return client


# ---- the guest ends ----

def test_power_off():
    with small(kernel="exit", control=False) as vm:
        assert vm.wait_exit(20) == 0
        assert "the guest powered off" in vm.log()


def test_power_off_after_updates():
    with small(cmdline="period_ms=20") as vm:
        updates(vm, 3)
        vm.qmp.command("system_powerdown")
        assert vm.wait_exit(20) == 0
        assert "ticker: done" in vm.serial()


def test_triple_fault():
    with small(kernel="fault", cmdline="how=triple", control=False) as vm:
        assert vm.wait_exit(20) == 3
        vm.wait_log("triple fault")
        vm.wait_log(REGISTERS)
        assert "still here" not in vm.serial()


def test_triple_fault_after_updates():
    with small(kernel="fault", cmdline="how=triple after_ms=1000") as vm:
        client = updates_before_the_end(vm, "fault: booted")
        event = client.wait_event("GUEST_PANICKED")
        assert event["data"]["action"] == "poweroff", event
        client.wait_event("SHUTDOWN")
        assert vm.wait_exit(20) == 3
        vm.wait_log(REGISTERS)


def test_internal_error():
    with small(kernel="fault", cmdline="how=badpc", control=False) as vm:
        assert vm.wait_exit(20) == 4
        vm.wait_log("internal error")
        vm.wait_log(REGISTERS)


def test_internal_error_after_updates():
    with small(kernel="fault", cmdline="how=badpc after_ms=1000") as vm:
        updates_before_the_end(vm, "fault: booted")
        assert vm.wait_exit(20) == 4
        vm.wait_log(REGISTERS)


def test_exception_in_the_guest_is_its_own_affair():
    with small(kernel="fault", cmdline="how=trap", control=False) as vm:
        assert vm.wait_exit(20) == 0
        assert "EXCEPTION vec=6" in vm.serial()


# ---- the guest resets ----

def boots(vm):
    return vm.serial().count("reset: booted marker=5")


def reset_in_place(how):
    with small(kernel="reset", cmdline="marker=5 after_ms=20 how=" + how) as vm:
        vm.wait_for(lambda: boots(vm) >= 3, "three boots")
        assert vm.proc.poll() is None and "still here" not in vm.serial()
        event = vm.qmp.wait_event("RESET")
        assert event["data"] == {"guest": True, "reason": "guest-reset"}, event
        vm.qmp.command("stop")  # not in the middle of a reset, which makes the KVM VM anew
        traces = vm.lasting_traces()
        vm.qmp.command("cont")
        n = boots(vm)
        vm.wait_for(lambda: boots(vm) >= n + 20, "twenty more boots")
        vm.qmp.command("stop")
        left = vm.left_behind(traces)
        assert not left, left
        vm.update()
        n = boots(vm)
        vm.qmp.command("cont")
        vm.wait_for(lambda: boots(vm) >= n + 2, "boots after an update")
        vm.qmp.command("quit")
        assert vm.wait_exit(20) == 0


def test_reset_by_the_keyboard_controller():
    reset_in_place("port64")


def test_reset_by_port_cf9():
    reset_in_place("cf9")


def test_reset_with_four_vcpus():
    with small("--cpus", "4", kernel="reset", cmdline="marker=5 after_ms=20") as vm:
        vm.wait_for(lambda: boots(vm) >= 3, "three boots")
        vm.update()
        n = boots(vm)
        vm.wait_for(lambda: boots(vm) >= n + 3, "three more boots")


def test_no_reboot():
    for how in ("port64", "cf9"):
        with small("--no-reboot", kernel="reset", cmdline="marker=5 how=" + how,
                   control=False) as vm:
            assert vm.wait_exit(20) == 0
            assert boots(vm) == 1


def test_no_reboot_survives_updates():
    with small("--no-reboot", kernel="reset", cmdline="marker=5 after_ms=1000") as vm:
        client = updates_before_the_end(vm, "reset: booted")
        event = client.wait_event("SHUTDOWN")
        assert event["data"] == {"guest": True, "reason": "guest-reset"}, event
        assert vm.wait_exit(20) == 0
        assert boots(vm) == 1


# ---- the host ends it ----

def ended_by(sig, count):
    with small(cmdline="period_ms=20") as vm:
        vm.wait_ticks(1)
        updates(vm, count)
        client = Qmp(vm.control_path)
        vm.signal(sig)
        event = client.wait_event("SHUTDOWN")
        assert event["data"] == {"guest": False, "reason": "host-signal"}, event
        assert vm.wait_exit(20) == 128 + sig
        assert not os.path.exists(vm.control_path)
        vm.wait_log("ended by signal %d" % sig)


def test_signals():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ended_by(sig, 0)


def test_signals_after_updates():
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ended_by(sig, 2)


def test_signal_before_the_guest_was_started():
    with small("--pause") as vm:
        vm.update()
        vm.signal(signal.SIGTERM)
        assert vm.wait_exit(20) == 128 + signal.SIGTERM


def test_sigpipe_and_sigxfsz_are_not_the_end():
    with small(cmdline="period_ms=20") as vm:
        for count in range(2):
            updates(vm, count)
            for sig in (signal.SIGPIPE, signal.SIGXFSZ):
                vm.signal(sig)
            vm.wait_ticks(2)


def test_quit():
    for count in (0, 2):
        with small(cmdline="period_ms=20") as vm:
            updates(vm, count)
            vm.qmp.command("quit")
            assert vm.wait_exit(20) == 0
            assert not os.path.exists(vm.control_path)


def test_killed_ones_leave_nothing_odd():
    """The next start finds stale sockets, of control and serial port, and replaces them."""
    with small(cmdline="period_ms=20", start=False) as vm:
        vm.argv[vm.argv.index("--serial") + 1] = "socket=" + vm.path("com1")
        for count in range(3):
            vm.start()
            updates(vm, count)
            assert vm.running()
            vm.kill()
            assert os.path.exists(vm.control_path) and os.path.exists(vm.path("com1"))
        vm.start()
        vm.qmp.command("quit")
        assert vm.wait_exit(20) == 0
        assert not os.path.exists(vm.control_path) and not os.path.exists(vm.path("com1"))


if __name__ == "__main__":
    need_kvm()
    run_cases(globals())
