#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Updates between versions, with a running guest: to and from the newest release, built from the
repository's own history, and to and from a molt as it will be when a device is added
(next_devices.c: this molt with one machine version more).
"""
import json
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import release
from moltvm import Skip, Vm, beneath_a_release, expect_error, molt, molt_binary, need_kvm, run_cases
from soak import PROBE, clean_pass, tsc_offsets


def released():
    try:
        return release.newest()
    except release.Unavailable as why:
        raise Skip(str(why))


def next_binary():
    return os.environ["MOLT_NEXT"]


def newest_version():
    return json.loads(molt("version", "--json").stdout)["machine-version"]


def onto(vm, binary):
    """One update with the arguments that the guest was started with; the guest verifies itself on."""
    path = vm.path("state")
    report = vm.update(binary, *vm.argv[1:], state_file=path)
    assert report["pid"] == vm.pid and vm.executable() == binary, (report, vm.executable())
    clean_pass(vm)
    return tsc_offsets(path)


def there_and_back(first, second, *options):
    """From first to second, back, and there again: nothing has changed for the guest."""
    with Vm("--memory", "32M", *options, kernel="probe", cmdline=PROBE, binary=first, env=beneath_a_release()) as vm:
        vm.wait_serial("probe: ready")
        clean_pass(vm)
        offsets = [onto(vm, binary) for binary in (second, first, second)]
        assert offsets[0] and offsets.count(offsets[0]) == 3, offsets


# ---- the newest release ----

def test_release_upgrades():
    there_and_back(released(), molt_binary())


def test_release_upgrades_two_vcpus():
    there_and_back(released(), molt_binary(), "--cpus", "2")


def test_release_takes_over():
    """A guest that was started in this molt, with the release's newest machine version."""
    version = json.loads(molt("version", "--json", binary=released()).stdout)["machine-version"]
    there_and_back(molt_binary(), released(), "--machine", str(version))


def test_sandbox_of_the_release():
    """A newer level comes on top, once, and stays in force beneath the release; other images add nothing."""
    with Vm("--memory", "32M", cmdline="period_ms=20", binary=released(), env=beneath_a_release()) as vm:
        vm.wait_ticks(2)
        for binary, filters in ((released(), 1), (molt_binary(), 2), (molt_binary(), 2), (released(), 2),
                                (molt_binary(), 2)):
            vm.update(binary, *vm.argv[1:])
            vm.wait_ticks(2)
            assert vm.status("Seccomp_filters") == filters, binary
        assert vm.log().count("sandbox: level 2") == 1 and "not in force" not in vm.log(), vm.log()


def test_release_and_the_path_of_a_serial_socket():
    """A release does not tell which file is its socket's: that is removed, and no other is."""
    for binaries in ([released(), molt_binary()], [molt_binary(), released(), molt_binary()]):
        for replaced in (False, True):
            machine = ["--machine", "1"] if binaries[0] == molt_binary() else []
            with Vm("--memory", "32M", *machine, cmdline="period_ms=20", binary=binaries[0], start=False,
                    env=beneath_a_release()) as vm:
                path = vm.path("com1")
                vm.argv[vm.argv.index("--serial") + 1] = "socket=" + path
                vm.start()
                for binary in binaries[1:]:
                    vm.update(binary, *vm.argv[1:])
                    assert vm.executable() == binary
                if replaced:
                    os.unlink(path)
                with socket.socket(socket.AF_UNIX) as other:
                    if replaced:
                        other.bind(path)
                        other.listen()
                    vm.qmp.command("quit")
                    assert vm.wait_exit(20) == 0
                    assert os.path.exists(path) == replaced, (binaries, replaced)


def test_cpu_model_goes_through_the_release():
    """The release has no --cpu and does not send the model on: it is read in what the guest sees."""
    version = json.loads(molt("version", "--json", binary=released()).stdout)["machine-version"]
    with Vm("--memory", "32M", "--machine", str(version), "--cpu", "x86-64-v1", kernel="probe", cmdline=PROBE,
            env=beneath_a_release()) as vm:
        vm.wait_serial("probe: ready")
        expect_error(lambda: vm.update(released(), *vm.argv[1:]), "check", "unknown option '--cpu'")
        vm.update(released(), "run", "--control", vm.control_path)
        clean_pass(vm)
        assert vm.executable() == released()
        expect_error(lambda: vm.update(molt_binary(), "run", "--cpu", "host"),
                     "--cpu host, but the guest has x86-64-v1")
        vm.update(molt_binary(), *vm.argv[1:], state_file=vm.path("state"))
        clean_pass(vm)
        assert vm.executable() == molt_binary() and vm.running()


for _case in (test_release_upgrades, test_release_upgrades_two_vcpus, test_release_takes_over,
              test_release_and_the_path_of_a_serial_socket, test_cpu_model_goes_through_the_release):
    _case.timeout = 600  # the first of them builds it


# ---- a release to come ----

def test_next_release_takes_over():
    """It offers this one's machine version, and so the guest can come back."""
    there_and_back(molt_binary(), next_binary(), "--cpus", "2")


def test_next_release_makes_machines_for_this_one():
    there_and_back(next_binary(), molt_binary(), "--machine", str(newest_version()))


def test_machine_of_the_next_version_is_refused():
    """Before the pause, in words; and where it was not asked, the guest comes back in the same process."""
    version = newest_version() + 1
    with Vm("--memory", "32M", kernel="probe", cmdline=PROBE, binary=next_binary()) as vm:
        vm.wait_serial("probe: ready")
        words = "machine version %d: this molt offers 1 to %d" % (version, version - 1)
        text = expect_error(lambda: vm.update(molt_binary(), "run"), "the successor cannot take over", words,
                            "no device for section 'scratch' 0")
        assert text.startswith("check: "), text
        assert vm.executable() == next_binary()
        expect_error(lambda: vm.update(molt_binary(), "run", no_check=True), words)
        assert vm.running() and vm.executable() == next_binary()
        clean_pass(vm)
        onto(vm, next_binary())


def test_command_line_of_the_next_version_is_refused():
    """Guests are started with options that an older release lacks."""
    with Vm("--memory", "32M", kernel="probe", cmdline=PROBE) as vm:
        vm.wait_serial("probe: ready")
        expect_error(lambda: vm.update(molt_binary(), "run", "--from-the-future"), "check", "cannot take over",
                     "unknown option '--from-the-future'")
        expect_error(lambda: vm.update(molt_binary(), "run", "word"), "unexpected argument 'word'")
        expect_error(lambda: vm.update(molt_binary(), "run", "--help"), "check", "--help")
        expect_error(lambda: vm.update(molt_binary(), "run", "--machine", "2000000"), "--machine", "out of range")
        onto(vm, molt_binary())


def test_another_machine_version_is_refused():
    with Vm("--memory", "32M", "--machine", str(newest_version()), kernel="probe", cmdline=PROBE,
            binary=next_binary()) as vm:
        vm.wait_serial("probe: ready")
        version = newest_version() + 1
        expect_error(lambda: vm.update(next_binary(), "run", "--machine", str(version)), "check",
                     "--machine %d, but the guest has machine version %d" % (version, version - 1))
        clean_pass(vm)


need_kvm()
run_cases(globals())
