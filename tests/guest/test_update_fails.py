#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Updates that cannot work: the client is told why, the guest runs on as if nothing had been asked,
nothing is left behind in the process, and the next update works.
"""
import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Qmp, Skip, Vm, expect_error, molt, molt_binary, need_kvm, run_cases, sanitized,
                    write_script)


@contextlib.contextmanager
def mounted(path, options):
    os.makedirs(path, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "molt-test", path],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Skip("no tmpfs can be mounted here: " + done.stdout.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@contextlib.contextmanager
def ticking(updated=0):
    """A guest that must be as it was, to the last descriptor flag, when the block ends."""
    with Vm("--memory", "64M", cmdline="period_ms=20") as vm:
        vm.wait_ticks(2)
        for _ in range(updated):
            vm.update()
            vm.settle()
        vm.qmp.command("query-status")
        traces = vm.lasting_traces()
        yield vm
        vm.wait_ticks(2)
        left = vm.left_behind(traces)
        assert not left, left
        vm.check_ticks()
        assert vm.running()
        assert vm.update()["updates"] == updated + 1  # nothing that failed was counted
        vm.wait_ticks(2)
        vm.check_ticks()


def fails(vm, *words, **arguments):
    """The update fails with these words, in the answer, in the event and in query-update."""
    vm.qmp.events.clear()
    text = expect_error(lambda: vm.update(**arguments), *words)
    query = vm.qmp.command("query-update")
    assert query["status"] == "failed" and query["error"] == text, query
    assert vm.qmp.wait_event("UPDATE_FAILED")["data"] == {"error": text, "pid": vm.pid}
    vm.wait_log("update failed, the guest runs on")
    assert vm.running()


# ---- the successor ----

def test_missing_binary():
    with ticking() as vm:
        fails(vm, "/no/such/molt", "no such file", command=["/no/such/molt", "run"])


def test_own_binary_is_gone():
    with Vm("--pause", start=False) as vm:
        vm.argv[0] = vm.path("molt")
        shutil.copy(molt_binary(), vm.path("molt"))
        vm.start()
        os.rename(vm.path("molt"), vm.path("away"))
        fails_paused(vm, vm.path("molt"), "no such file")
        os.rename(vm.path("away"), vm.path("molt"))
        vm.update()


def fails_paused(vm, *words):
    expect_error(vm.update, *words)
    assert vm.qmp.command("query-status")["status"] == "prelaunch"


def test_directory():
    with ticking() as vm:
        fails(vm, vm.dir, "directory", command=[vm.dir, "run"])


def test_not_executable():
    with ticking() as vm:
        shutil.copy(molt_binary(), vm.path("molt"))
        os.chmod(vm.path("molt"), 0o644)
        fails(vm, vm.path("molt"), "permission denied", command=[vm.path("molt"), "run"])


def exec_fails(vm, path, *words):
    """
    Found out by the check, while the guest runs; and without it by execve itself, after the pause and
    with the descriptors ready for the successor: all of that is undone.
    """
    for no_check in (False, True):
        fails(vm, path, *words, command=[path, "run"], no_check=no_check)


def test_not_a_program():
    with ticking() as vm:
        exec_fails(vm, write_script(vm.path("molt"), "this is no program\n"), "exec format error")


def test_empty_program():
    with ticking() as vm:
        exec_fails(vm, write_script(vm.path("molt"), ""), "exec format error")


def test_interpreter_missing():
    with ticking() as vm:
        exec_fails(vm, write_script(vm.path("molt"), "#!/no/such/interpreter\n"), "no such file")


def test_no_molt():
    """A program that ends, well or not, without a word."""
    with ticking() as vm:
        for program in ("/bin/true", "/bin/false"):
            fails(vm, program, "no molt", command=[program])


def test_binary_is_being_written():
    """As by a copy that is still under way."""
    with ticking() as vm:
        shutil.copy(molt_binary(), vm.path("molt"))
        with open(vm.path("molt"), "ab"):
            exec_fails(vm, vm.path("molt"), "text file busy")


def test_device_as_binary():
    with ticking() as vm:
        fails(vm, "/dev/null", "not a regular file", command=["/dev/null"])


def test_mount_forbids_execution():
    with ticking() as vm, mounted(vm.path("noexec"), "noexec,size=8m") as d:
        write_script(d + "/molt", "#!/bin/sh\n")
        fails(vm, d + "/molt", "permission denied", command=[d + "/molt", "run"])


def test_commands_that_are_none():
    """Refused before anything begins: no update has failed, none was tried."""
    with ticking() as vm:
        for command in ([], [""], [1], "molt", {}, [None], ["molt", 2]):
            expect_error(lambda c=command: vm.update(command=c), "command")
        expect_error(lambda: vm.update(state_file=5), "state-file")
        expect_error(lambda: vm.update(sate_file="/x"), "sate-file", "unexpected")
        assert vm.qmp.command("query-update")["status"] == "none"
        assert "UPDATE_FAILED" not in vm.qmp.event_names()


def test_check_that_says_no_is_no_failed_update():
    """Whichever step says no: the successor is missing, cannot be executed, is no molt, has no room for its state."""
    with ticking() as vm:
        script = write_script(vm.path("molt"), "this is no program\n")
        for arguments in (dict(command=["/no/such/molt"]), dict(command=[script]), dict(command=["/bin/true"]),
                          dict(state_file=vm.dir)):
            expect_error(lambda a=arguments: vm.update(check_only=True, **a))
            assert vm.qmp.command("query-update")["status"] == "none"
            assert "UPDATE_FAILED" not in vm.qmp.event_names()
        assert "update failed" not in vm.log()
        assert vm.update(check_only=True) == {"check": "passed"}


# ---- the state file ----

def test_state_in_a_missing_directory():
    with ticking() as vm:
        fails(vm, "/no/such/dir/state", "no such file", state_file="/no/such/dir/state")


def test_state_in_an_unwritable_directory():
    with ticking() as vm, mounted(vm.path("ro"), "ro,size=1m") as d:
        fails(vm, d + "/state", "read-only", state_file=d + "/state")


def test_state_in_proc():
    """Where not even root may create a file."""
    with ticking() as vm:
        fails(vm, "/proc/sys/state", state_file="/proc/sys/state")


def test_state_is_a_directory():
    with ticking() as vm:
        fails(vm, vm.dir, "directory", state_file=vm.dir)


def test_state_of_another():
    """What somebody else has put there is neither followed nor written to, and he can read nothing."""
    with ticking() as vm:
        victim, link, two = vm.path("victim"), vm.path("link"), vm.path("two")
        for name in (victim, two):
            with open(name, "w", encoding="ascii") as f:
                f.write("as it was")
        os.symlink("victim", link)
        os.link(two, vm.path("two-too"))
        fails(vm, link, "symbolic link", state_file=link)
        fails(vm, two, "2 names", state_file=two)
        if os.getuid() == 0:
            os.chown(victim, 1, 1)
            fails(vm, victim, "belongs to user 1", state_file=victim)
        for name in (victim, two):
            with open(name, encoding="ascii") as f:
                assert f.read() == "as it was"


def test_state_in_the_place_of_an_own_file():
    """It is replaced, and not written to: who has the old one open reads nothing."""
    with Vm("--pause") as vm, open(vm.path("state"), "w+", encoding="ascii") as old:
        os.chmod(vm.path("state"), 0o666)
        vm.update(state_file=vm.path("state"))
        assert old.read() == "" and stat.S_IMODE(os.stat(vm.path("state")).st_mode) == 0o600
        assert not [name for name in os.listdir(vm.dir) if name.startswith("state.")]


def test_state_is_a_fifo():
    with ticking() as vm:
        os.mkfifo(vm.path("fifo"))
        fails(vm, vm.path("fifo"), "not a regular file", state_file=vm.path("fifo"))


def test_state_is_a_device():
    with ticking() as vm:
        fails(vm, "/dev/full", "not a regular file", state_file="/dev/full")


def test_state_on_a_full_disk():
    with ticking() as vm, mounted(vm.path("full"), "size=64k") as d:
        with open(d + "/filler", "wb") as filler:
            filler.write(bytes(56 << 10))
        fails(vm, d + "/state", "no space left", state_file=d + "/state")
        assert os.listdir(d) == ["filler"], "a failed update leaves no half state file behind"


def test_state_of_an_earlier_update_stays():
    """An update that fails before it has a state leaves the last one's as it was."""
    with ticking() as vm:
        kept = vm.path("state")
        with Vm("--pause", "--sandbox", "write=" + vm.dir) as other:
            other.update(state_file=kept)
        with open(kept, "rb") as f:
            before = f.read()
        expect_error(lambda: vm.update("/no/such/molt", state_file=kept), "no such file")
        expect_error(lambda: vm.update("/bin/true", state_file=kept), "no molt")
        with open(kept, "rb") as f:
            assert f.read() == before
        assert molt("state", "--summary", kept).returncode == 0


def test_relative_state_path():
    with ticking() as vm:
        expect_error(lambda: vm.update(state_file="state"), "state", "absolute")


def test_state_beyond_the_file_size_limit():
    """The signal that comes with it would be the guest's end."""
    with ticking() as vm:
        size = os.path.getsize(vm.serial_path) + (1 << 20)  # the guest's output must go on
        before = vm.limit(resource.RLIMIT_FSIZE, min(size, 16 << 10))
        try:
            fails(vm, vm.path("state"), "file too large", state_file=vm.path("state"))
        finally:
            vm.limit(resource.RLIMIT_FSIZE, before)


def test_no_descriptor_left():
    with ticking() as vm:
        before = vm.limit(resource.RLIMIT_NOFILE, max(vm.fds()) + 1)
        try:
            fails(vm, "too many open files")
        finally:
            vm.limit(resource.RLIMIT_NOFILE, before)


def test_one_descriptor_left():
    """Enough for the fd table, not for the state."""
    with ticking() as vm:
        before = vm.limit(resource.RLIMIT_NOFILE, max(vm.fds()) + 2)
        try:
            fails(vm, "too many open files")
        finally:
            vm.limit(resource.RLIMIT_NOFILE, before)


# ---- after it ----

def test_every_client_hears_of_it():
    with ticking() as vm:
        other = Qmp(vm.control_path)
        fails(vm, command=["/no/such/molt"])
        assert "/no/such/molt" in other.wait_event("UPDATE_FAILED")["data"]["error"]
        other.close()
        vm.wait_for(lambda: sum("socket" in what for what, _ in vm.fds().values()) == 3,
                    "the client's end")


def test_id_comes_back():
    with ticking() as vm:
        for id in {"a": [1, "b"]}, 2**64:
            vm.qmp.send("update", {"command": ["/no/such/molt"]}, id=id)
            answer = vm.qmp.answer()
            assert answer["id"] == id and "error" in answer, answer


def test_paused_guest_stays_paused():
    with ticking() as vm:
        write_script(vm.path("molt"), "this is no program\n")
        vm.qmp.command("stop")
        expect_error(lambda: vm.update(vm.path("molt"), no_check=True), "exec format error")
        assert vm.qmp.command("query-status")["status"] == "paused"
        text = vm.serial()
        expect_error(lambda: vm.update("/no/such/molt"), "no such file")
        assert vm.serial() == text
        vm.qmp.command("cont")


def test_many_failures_leak_nothing():
    with ticking() as vm:
        write_script(vm.path("molt"), "this is no program\n")

        def fail(times):
            for _ in range(times):
                expect_error(lambda: vm.update(vm.path("molt"), "run", no_check=True), "exec format")
                expect_error(lambda: vm.update("/no/such/molt"), "no such file")
                expect_error(lambda: vm.update(state_file=vm.dir), "directory")
                vm.qmp.events.clear()

        fail(50)  # buffers are touched as far as they ever will be
        size, rss = vm.status("VmSize"), vm.status("RssAnon")
        fail(200)
        if not sanitized():
            assert vm.status("VmSize") - size <= 512, (size, vm.status("VmSize"))
            assert vm.status("RssAnon") - rss <= 128, (rss, vm.status("RssAnon"))


def test_failure_after_an_update():
    """The successor can fail as well as its predecessor, and its descriptors are closed on exec again."""
    with ticking(updated=2) as vm:
        assert all(cloexec for n, (_, cloexec) in vm.fds().items() if n > 2), vm.fds()
        exec_fails(vm, write_script(vm.path("molt"), "this is no program\n"), "exec format error")


need_kvm()
run_cases(globals())
