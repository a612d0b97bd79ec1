#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Updates whose files come as descriptors over the control socket: the successor's executable and the
state file. molt itself then needs no access to any file.
"""
import os
import shutil
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Skip, Vm, expect_error, hanging_program, molt, molt_binary, need_kvm, run_cases,
                    sanitized, write_script)

TICKER = "period_ms=20"
MEMFD = "/memfd:molt (deleted)"


def given(vm, path, *arguments, **more):
    """An update to the executable at path, which is opened here."""
    with open(path, "rb") as f:
        vm.qmp.give_fd("molt", f.fileno())
    if arguments:
        more["command"] = list(arguments)
    return vm.qmp.command("update", command_fd="molt", **more)


def runs_on(vm):
    vm.wait_ticks(2)
    vm.check_ticks()


def test_executable():
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        given(vm, molt_binary(), vm.path("new"), "run", "--log-level", "debug")
        assert vm.executable() == MEMFD and vm.arguments()[0] == vm.path("new")
        runs_on(vm)
        # The path that was given is where the next one is looked for, and there is nothing.
        assert vm.qmp.command("query-update")["path"] == vm.path("new")
        expect_error(vm.update, vm.path("new"), "no such file")
        shutil.copy(molt_binary(), vm.path("new"))
        vm.update()
        assert vm.executable() == vm.path("new") and "debug" in vm.arguments()
        runs_on(vm)


def test_own_path_is_kept():
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        for _ in range(3):
            given(vm, molt_binary())
            assert vm.qmp.command("query-update")["path"] == molt_binary()
            assert vm.arguments()[0] == molt_binary()
        runs_on(vm)


def test_descriptors_do_not_pile_up():
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        given(vm, molt_binary())
        vm.settle()
        fds = vm.fds()
        for _ in range(5):
            given(vm, molt_binary())
            vm.settle()
        assert len(vm.fds()) == len(fds), (fds, vm.fds())
        assert all(cloexec for n, (_, cloexec) in vm.fds().items() if n > 2), vm.fds()
        expect_error(lambda: given(vm, "/bin/true", "/bin/true"), "no molt")
        vm.settle()
        assert len(vm.fds()) == len(fds), (fds, vm.fds())
        runs_on(vm)


def test_descriptors_survive_an_update():
    """Those that a client has sent and not used, named or not, are there in the successor."""
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        with open(molt_binary(), "rb") as f:
            vm.qmp.give_fd("one", f.fileno())
            vm.qmp.give_fd("two", f.fileno())
        vm.update()
        vm.settle()
        assert len([w for w, _ in vm.fds().values() if w == molt_binary()]) == 2, vm.fds()
        vm.qmp.command("update", command_fd="two")
        assert vm.executable() == MEMFD
        vm.qmp.command("closefd", fdname="one")
        expect_error(lambda: vm.qmp.command("closefd", fdname="two"), "has not been found")
        runs_on(vm)


def test_bad_executables():
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        with open(vm.path("molt"), "wb") as f:
            f.write(b"\x7fELF and no more")
        for check in ({}, {"no_check": True}):
            expect_error(lambda c=check: given(vm, vm.path("molt"), **c), "nobody may execute")
            os.chmod(vm.path("molt"), 0o755)
            expect_error(lambda c=check: given(vm, vm.path("molt"), **c), "exec format error")
            os.chmod(vm.path("molt"), 0o644)
        script = write_script(vm.path("script"), "#!/bin/sh\n")
        expect_error(lambda: given(vm, script), "script", "path")
        expect_error(lambda: vm.qmp.command("update", command_fd="none"), "none")
        assert vm.running()
        given(vm, molt_binary())
        runs_on(vm)


def test_state_file():
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        with open(vm.path("state"), "w+b") as f:
            vm.qmp.give_fd("s", f.fileno())
            vm.qmp.command("update", state_fd="s")
        # A copy, made behind the answer.
        vm.wait_for(lambda: molt("state", "--summary", vm.path("state")).returncode == 0, "the state in the file")
        with open(vm.path("state"), "rb") as f:
            vm.qmp.give_fd("s", f.fileno())
            expect_error(lambda: vm.qmp.command("update", state_fd="s"), "reading and writing")
        runs_on(vm)


def test_way_back_and_guardian():
    """The predecessor that was executed from a descriptor is found again both ways."""
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        given(vm, molt_binary())
        with open("/dev/zero", "rb") as f:
            stale = f.read(4096)
        with open(vm.path("stale"), "wb") as f:
            f.write(stale)
        expect_error(lambda: vm.update(molt_binary(), "run", "--incoming",
                                       "file:" + vm.path("stale"), no_check=True), "stale")
        runs_on(vm)
        given(vm, molt_binary())
        runs_on(vm)
        if not sanitized():
            expect_error(lambda: given(vm, "/bin/true", "/bin/true", no_check=True), "ended before")
            runs_on(vm)


def test_command_line_tool():
    with Vm(cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        done = molt("update", vm.control_path)
        assert done.returncode == 0 and vm.executable() == molt_binary(), (done, vm.executable())
        done = molt("update", vm.control_path, "--", molt_binary(), "run")
        assert done.returncode == 0 and vm.executable() == MEMFD, (done, vm.executable())
        assert vm.arguments()[0] == molt_binary()
        # A script goes by its path.
        script = write_script(vm.path("wrapper"), '#!/bin/sh\nexec %s run "$@"\n' % molt_binary())
        done = molt("update", "--state", vm.path("state"), vm.control_path, "--", script)
        assert done.returncode == 0 and vm.executable() == molt_binary(), done
        os.unlink(vm.path("state"))
        # What a failed update made is not left behind, what was there is.
        done = molt("update", "--state", vm.path("state"), vm.control_path, "--", "/bin/true")
        assert done.returncode == 1 and not os.path.exists(vm.path("state")), done
        done = molt("update", "--check", "--state", vm.path("state"), vm.control_path)
        assert done.returncode == 0 and not os.path.exists(vm.path("state")), done
        runs_on(vm)


def given_back(vm, *command, binary=None, **arguments):
    """The process in which the guest runs on after an update to this command has failed."""
    expect_error(lambda: given(vm, binary or molt_binary(), *command, no_check=True, **arguments))
    pid = vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"]
    runs_on(vm)
    return pid


def test_empty_root_directory():
    """In a chroot with nothing left in it, not even /proc, one update after the other."""
    if sanitized() or os.getuid() != 0:
        raise Skip("only root can change its root directory, and only a static molt runs there")
    with Vm("--memory", "64M", start=False) as vm:
        root = vm.path("root")
        os.makedirs(root + "/dev")
        shutil.copy(molt_binary(), root + "/molt")
        os.mknod(root + "/dev/kvm", 0o600 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        vm.argv = ["/molt", "run", "--memory", "64M", "--cmdline", TICKER, "--serial",
                   "file=/serial", "--control", "/control"]
        vm.popen["preexec_fn"] = lambda: os.chroot(root)
        vm.control_path, vm.serial_path = root + "/control", root + "/serial"
        vm.start()
        vm.wait_ticks(2)
        # With its binary still there the tool finds it beneath that root.
        done = molt("update", vm.control_path)
        assert done.returncode == 0 and vm.arguments()[0] == "/molt", done
        shutil.rmtree(root + "/dev")
        os.unlink(root + "/molt")
        os.rename(root + "/serial", vm.path("serial"))
        vm.serial_path = vm.path("serial")
        for _ in range(3):
            done = molt("update", "--state", vm.path("state"), vm.control_path, "--",
                        molt_binary(), "run")
            assert done.returncode == 0, done
            runs_on(vm)
        assert os.listdir(root) == ["control"]
        # A successor that cannot load gives back in the same process, again and again, with updates between.
        for _ in range(2):
            for _ in range(2):
                assert given_back(vm, molt_binary(), "run", "--incoming", "file:/no") == vm.pid
            assert given(vm, molt_binary(), molt_binary(), "run")["pid"] == vm.pid
            runs_on(vm)
        # One that dies or hangs leaves the guest to another process, and that one can be updated.
        pid = given_back(vm, molt_binary(), "--no-such-option")
        assert pid != vm.pid
        vm.follow(pid)
        assert given(vm, molt_binary(), molt_binary(), "run")["pid"] == pid
        assert given_back(vm, molt_binary(), "run", "--incoming", "file:/no") == pid
        pid = given_back(vm, "/hangs", binary=hanging_program(vm.path("hangs")), timeout=500)
        assert pid != vm.pid
        vm.follow(pid)
        assert given(vm, molt_binary(), molt_binary(), "run")["pid"] == pid
        runs_on(vm)


need_kvm()
run_cases(globals())
