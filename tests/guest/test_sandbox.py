#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The sandbox: what is in force, that updates go through it, that layers do not pile up, --user."""
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import (Skip, Vm, expect_error, molt, molt_binary, need_kvm, process_status, run_cases,
                    sanitized, write_script)

TICKER = "period_ms=20"
NOBODY = 65534


def filters(pid, tid=None):
    s = process_status(pid, tid)
    if "Seccomp_filters" not in s:
        raise Skip("this kernel does not tell the number of filters (before Linux 5.9)")
    return int(s["Seccomp_filters"])


def failed_pid(vm):
    """Who runs the guest after an update that has just failed."""
    return vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"]


def forget_events(vm):
    """Those that are on their way, too."""
    vm.qmp.event_names()
    vm.qmp.events.clear()


def vcpu_threads(vm):
    return [cpu["thread-id"] for cpu in vm.qmp.command("query-cpus-fast")]


def check_confined(vm, pid=None):
    """Main and the first vCPU's thread have what they should have, and not twice."""
    pid = pid or vm.pid
    main = process_status(pid)
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(main[key], 16) == 0, main
    assert main["NoNewPrivs"].strip() == "1" and main["Seccomp"].strip() == "2", main
    if os.getuid() == 0:
        assert int(main["CapBnd"], 16) == 0, main
    assert filters(pid) == 1, main
    if sanitized():
        return
    for tid in vcpu_threads(vm)[:1]:
        # One that has not left KVM_RUN yet is not confined, nor need it be.
        # Those of a cold start were made before main's list, all others inherit it.
        vm.wait_for(lambda t=tid: "2" in process_status(pid, t)["Seccomp"] and
                    filters(pid, t) == vm.expected_filters, "the vCPU thread's filter")
        assert int(process_status(pid, tid)["CapEff"], 16) == 0


class StrictVm(Vm):
    """With what a user gets who says nothing of files."""

    own_directory = False


class SandboxVm(StrictVm):
    expected_filters = 1

    def updated(self, *command, **arguments):
        result = self.update(*command, **arguments)
        self.expected_filters = 2
        return result


def runs_on(vm):
    vm.wait_ticks(2)
    vm.check_ticks()


def test_twenty_updates():
    """More than Landlock has layers: nothing piles up, nothing is lost, the guest notices nothing."""
    with SandboxVm("--memory", "64M", "--cpus", "2", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        check_confined(vm)
        for n in range(1, 21):
            assert vm.updated()["updates"] == n
            runs_on(vm)
            if n in (1, 2, 20):
                check_confined(vm)
        assert "error" not in vm.log() and "not in force" not in vm.log(), vm.log()


def test_probe_guest():
    """The guest that touches everything, with every device: no call was forgotten in the list."""
    with SandboxVm("--memory", "64M", "--cpus", "2", kernel="probe",
                   cmdline="period_ms=50 lost_ms=20000 clock_us=20000") as vm:
        for _ in range(5):
            vm.wait_serial(r"probe: pass \d+ .*\n", after=len(vm.serial()))
            vm.updated()
        vm.wait_serial(r"probe: pass \d+ .*\n", after=len(vm.serial()))
        check_confined(vm)
        assert "CHANGED" not in vm.serial(), re.findall(".*CHANGED.*", vm.serial())
        vm.qmp.command("system_reset")
        vm.wait_serial(r"probe: ready", after=len(vm.serial()) // 2)
        vm.qmp.command("system_powerdown")
        assert vm.wait_exit() == 0


def test_guest_that_ends_badly_is_logged():
    """The registers are read and written to the log by the confined thread."""
    with SandboxVm("--log-level", "warn", kernel="fault", cmdline="how=triple after_ms=50") as vm:
        assert vm.wait_exit() == 3
        assert re.search(r"vCPU 0: rip=", vm.log()), vm.log()


def test_way_back_and_guardian():
    with SandboxVm("--memory", "64M", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        vm.updated()
        with open(vm.path("stale"), "wb") as f:
            f.write(bytes(4096))
        expect_error(lambda: vm.update(molt_binary(), "run", "--incoming",
                                       "file:" + vm.path("stale"), no_check=True), "stale")
        runs_on(vm)
        check_confined(vm)
        if sanitized():
            raise Skip("the stand-in cannot take over in a build with a sanitizer")
        for program in ("/bin/false", "/bin/sleep"):
            forget_events(vm)
            expect_error(lambda p=program: vm.update(p, "60", no_check=True, timeout=300))
            pid = failed_pid(vm)
            runs_on(vm)
            check_confined(vm, pid)
        vm.updated()
        runs_on(vm)


def test_off():
    with Vm("--sandbox", "off", "--memory", "64M", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        assert process_status(vm.pid)["Seccomp"].strip() == "0"
        vm.update()
        runs_on(vm)
        assert process_status(vm.pid)["Seccomp"].strip() == "0"
        # The way back has no options of its own: what molt was started with counts again.
        expect_error(lambda: vm.update(molt_binary(), "run", "--sandbox", "off", "--incoming", "file:/nonexistent",
                                       no_check=True), "/nonexistent")
        runs_on(vm)
        assert process_status(vm.pid)["Seccomp"].strip() == "0"
        # A successor may be the first to have one.
        vm.update(molt_binary(), "run")
        runs_on(vm)
        assert filters(vm.pid) == 1 and process_status(vm.pid)["NoNewPrivs"].strip() == "1"
        # And it cannot be lifted.
        for n in (1, 2):
            vm.update(molt_binary(), "run", "--sandbox", "off")
            runs_on(vm)
            assert filters(vm.pid) == 1
            vm.wait_for(lambda n=n: vm.log().count("cannot be lifted") == n, "a log of %d refusals" % n)


def test_forbidden_calls_of_main():
    """As a wrapper sees them, and it goes on."""
    script = ('import ctypes, os\n'
              'libc = ctypes.CDLL(None, use_errno=True)\n'
              'for name, *args in (("mount", b"none", b"/", b"tmpfs", 0, 0), ("setns", -1, 0),\n'
              '                    ("unshare", 0x10000000), ("sethostname", b"x", 1)):\n'
              '    r = getattr(libc, name)(*args)\n'
              '    print(name, r, ctypes.get_errno(), file=open("{out}", "a"))\n'
              'os.environ.pop("MOLT_FDTABLE", None)\n')
    with Vm("--memory", "64M", cmdline=TICKER) as vm, tempfile.TemporaryDirectory(prefix="molt-test-") as outside:
        vm.wait_ticks(2)
        os.chmod(outside, 0o777)  # so that it is not the mode that keeps molt out
        escape = os.path.join(outside, "escape")
        with open(vm.path("calls.py"), "w") as f:
            f.write(script.format(out=vm.path("out")))
        wrapper = write_script(vm.path("wrapper"), '#!/bin/sh\n%s %s\n: >/dev/null\n(: >%s) 2>/dev/null '
                               '&& echo WROTE >>%s\nexec %s run "$@"\n' % (
                                   sys.executable, vm.path("calls.py"), escape,
                                   vm.path("out"), molt_binary()))
        vm.update(wrapper)
        runs_on(vm)
        with open(vm.path("out")) as f:
            lines = f.read().split("\n")
        assert lines[:4] == [n + " -1 1" for n in ("mount", "setns", "unshare", "sethostname")], lines
        if "Landlock ABI" in vm.log():
            assert "WROTE" not in lines and not os.path.exists(escape), lines


# What a wrapper may do, and what is refused; it goes on in any case. "$1" is a directory of write=.
SHELL_WRAPPER = r"""#!%(shell)s
set -e
cd %(dir)s
umask 077; ulimit -n 500
for word in $(echo one two | tr a-z A-Z); do echo "$word"; done >words
sort words | grep -c ONE | { read n; echo "$n" >count; }
cat <<END >text
$(uname -s) $(id -u)
END
cp text copy; mv copy moved; ln -s moved link; rm link; mkdir d; rmdir d
test -s "$(mktemp)" || [ "$(cat count)" = 1 ]
trap 'echo unexpected >>log' EXIT
sleep 0.01 & wait $!
nice -n 0 timeout 20 env TZ=UTC date >>log
kill -0 $$
%(more)s
for refused in "chmod 700 text" "touch text" "touch -d @0 text" "cp -p text kept" "chown 0:1 text" "mkfifo fifo" \
	"chroot / true" "unshare -U true" "nc -z 127.0.0.1 1" "%(python)s -c 'import socket; socket.socket()'"; do
	if (eval "$refused") 2>/dev/null; then echo "$refused" >>allowed; fi
done
trap - EXIT
echo %(shell)s >>done
exec %(molt)s run "$@"
"""
PYTHON_WRAPPER = r"""#!%(python)s
import asyncio, concurrent.futures, json, logging, os, resource, shutil, socket, subprocess, sys, tempfile
os.chdir("%(dir)s")
with tempfile.NamedTemporaryFile("w", dir=".") as f:
    json.dump({"argv": sys.argv}, f)
with tempfile.TemporaryDirectory(dir=".") as d:
    shutil.copyfile("words", d + "/words")
assert subprocess.run(["/bin/sh", "-c", "cat words | wc -l"], capture_output=True, check=True).stdout.strip() == b"2"
assert subprocess.Popen(["true"], preexec_fn=lambda: None, close_fds=False).wait() == 0
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
async def child():
    return await (await asyncio.create_subprocess_exec("true")).wait()
assert asyncio.run(child()) == 0
resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
logging.warning("to standard error")
one, two = socket.socketpair()
one.sendall(b"x")
def refused(call, *args):
    try:
        call(*args)
    except OSError:
        return
    open("allowed", "a").write("%%s %%s\n" %% (call, args))
refused(os.chmod, "text", 0o700)
refused(os.utime, "text")
refused(os.setxattr, "text", "user.molt", b"x")
refused(os.kill, -1, 0)
refused(shutil.copy, "text", "copy")
refused(socket.create_connection, ("127.0.0.1", 1))
refused(socket.socket, socket.AF_INET6)
refused(socket.socket(socket.AF_UNIX).connect, "%(control)s")
open("done", "a").write("python\n")
os.execv("%(molt)s", ["molt", "run", *sys.argv[1:]])
"""


def test_wrappers():
    """Scripts for sh, bash and Python do everyday things, are refused others, and end in molt."""
    with tempfile.TemporaryDirectory(prefix="molt-test-wrapper-") as work, SandboxVm(
            "--memory", "64M", "--sandbox", "write=" + work, cmdline=TICKER,
            env=dict(os.environ, TMPDIR=work, PYTHONDONTWRITEBYTECODE="1")) as vm:
        vm.wait_ticks(2)
        words = {"dir": work, "molt": molt_binary(), "python": sys.executable, "control": vm.control_path}
        scripts = [SHELL_WRAPPER % dict(words, shell="/bin/sh", more="")]
        if os.path.exists("/bin/bash"):
            more = '[[ "$(< count)" == 1 ]]; read -r x <<<word; diff <(echo "$x") <(echo word); a=(1 2); ((${#a[@]}))'
            scripts.append(SHELL_WRAPPER % dict(words, shell="/bin/bash", more=more))
        scripts.append(PYTHON_WRAPPER % words)
        for n, script in enumerate(scripts, 1):
            wrapper = write_script(os.path.join(work, "wrapper%d" % n), script)
            vm.updated(wrapper)
            runs_on(vm)
            with open(os.path.join(work, "done")) as f:
                # For the check and for the update.
                assert len(f.read().split()) == 2 * n
        assert not os.path.exists(os.path.join(work, "allowed")), open(os.path.join(work, "allowed")).read()
        check_confined(vm)


def test_writing():
    """Beneath the directories that molt was told of; elsewhere with write= or as a descriptor."""
    with Vm("--memory", "64M", cmdline=TICKER) as vm, Vm("--pause", start=False) as other:
        vm.wait_ticks(2)
        vm.update(state_file=vm.path("state"))
        if "Landlock ABI" not in vm.log():
            raise Skip("no Landlock here")
        expect_error(lambda: vm.update(state_file=other.path("state")), "permission denied", "write=DIR")
        done = molt("update", "--state", other.path("state"), vm.control_path)
        assert done.returncode == 0, done
        runs_on(vm)
    with Vm(start=False) as other, Vm("--memory", "64M", "--sandbox", "write=/nowhere:" + other.dir,
                                      cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        vm.update(state_file=other.path("state"))
        runs_on(vm)


def in_a_directory_of_its_own(vm):
    """Moves the control socket there; the directory of the Vm has more in it."""
    os.mkdir(vm.path("own"), 0o700)
    vm.control_path = vm.path("own/control")
    vm.argv[vm.argv.index("--control") + 1] = vm.control_path


def test_socket_is_removed_at_the_end():
    for relative in (False, True):
        with StrictVm("--pause", start=False) as vm:
            in_a_directory_of_its_own(vm)
            if relative:
                vm.popen["cwd"] = vm.path("own")
                vm.argv[vm.argv.index("--control") + 1] = "control"
            vm.start()
            vm.update()
            vm.qmp.command("quit")
            assert vm.wait_exit() == 0 and not os.path.exists(vm.control_path)
            assert "cannot remove" not in vm.log() and "not molt's alone" not in vm.log()


def test_directory_of_others_is_not_opened():
    """Neither root's rights nor the same directory make others' files molt's: a socket is left there."""
    for others in ("file", "mode"):
        with StrictVm("--pause", start=False) as vm:
            in_a_directory_of_its_own(vm)
            if others == "file":
                with open(vm.path("own/other.pid"), "w", encoding="ascii") as f:
                    f.write("1")
            else:
                os.chmod(vm.path("own"), 0o777)
            vm.argv += ["--log-file", vm.path("own/molt.log")]
            vm.log_path = vm.path("own/molt.log")
            vm.start()
            if "Landlock ABI" not in vm.log():
                raise Skip("no Landlock here")
            assert "own is not molt's alone" in vm.log(), vm.log()
            removes = write_script(vm.path("removes"), '#!/bin/sh\nrm -f %s\nexec %s run "$@"\n' % (
                vm.path("own/control"), molt_binary()))
            vm.update(removes)
            assert os.path.exists(vm.control_path)
            expect_error(lambda: vm.qmp.command("log-reopen"), "hold no other files")
            vm.qmp.command("quit")
            assert vm.wait_exit() == 0 and os.path.exists(vm.control_path)
            assert "cannot remove" in vm.log(), vm.log()


def test_log_in_a_directory_of_its_own():
    with StrictVm("--pause", start=False) as vm:
        os.mkdir(vm.path("logs"), 0o700)
        vm.argv += ["--log-file", vm.path("logs/web1.log")]
        vm.start()
        for name in ("web1.log", "web1.log.1"):
            os.rename(vm.path("logs/web1.log"), vm.path("logs/web1.log.1"))
            vm.qmp.command("log-reopen")
            assert os.path.exists(vm.path("logs/web1.log")), name
            vm.update()


def need_root():
    if os.getuid() != 0:
        raise Skip("only root can become another user")


class UserVm(SandboxVm):
    """Run as another user, in a directory of his."""

    uid = NOBODY

    def start(self):
        os.chmod(self.dir, 0o755)
        os.chown(self.dir, self.uid, self.uid)
        shutil.copy(molt_binary(), self.path("molt"))
        self.argv[0] = self.path("molt")
        super().start()


def test_user():
    need_root()
    with UserVm("--user", "nobody", "--memory", "64M", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        user = pwd.getpwnam("nobody")
        for _ in range(3):
            s = process_status(vm.pid)
            assert s["Uid"].split() == [str(user.pw_uid)] * 4, s
            assert s["Gid"].split() == [str(user.pw_gid)] * 4 and not s["Groups"].split(), s
            assert os.stat(vm.control_path).st_uid == user.pw_uid
            check_confined(vm)
            runs_on(vm)
            vm.updated()
        done = molt("update", vm.control_path)
        assert done.returncode == 0, done
        # A successor that this user could not even read.
        shutil.copy(molt_binary(), vm.path("private"))
        os.chmod(vm.path("private"), 0o700)
        done = molt("update", vm.control_path, "--", vm.path("private"), "run", "--user", "nobody")
        assert done.returncode == 0, done
        os.chmod(vm.path("private"), 0o755)
        expect_error(lambda: vm.update(vm.path("molt"), "run", "--incoming", "file:/dev/null",
                                       no_check=True), "/dev/null")
        runs_on(vm)
        if not sanitized():
            forget_events(vm)
            expect_error(lambda: vm.update("/bin/true", no_check=True), "ended before")
            pid = failed_pid(vm)
            runs_on(vm)
            assert process_status(pid, vcpu_threads(vm)[0])["Uid"].split() == [str(user.pw_uid)] * 4
        vm.updated()
        runs_on(vm)


def may_look_into(pid, user):
    """Whether a process of that user could read the memory of another."""
    return subprocess.run(["/bin/sh", "-c", "exec 3</proc/%d/mem" % pid], user=user, group=user, extra_groups=[],
                          stderr=subprocess.DEVNULL, check=False, timeout=60).returncode == 0


def test_nobody_of_the_same_user_looks_in():
    """In no image: not in a successor, the way back, the stand-in. But where that was asked for."""
    need_root()
    if sanitized():
        raise Skip("a build with a sanitizer has a leak checker that looks in")
    with UserVm("--user", "nobody", "--memory", "64M", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        for _ in range(3):
            assert not may_look_into(vm.pid, NOBODY)
            vm.updated()
        expect_error(lambda: vm.update(vm.path("molt"), "run", "--incoming", "file:/dev/null",
                                       no_check=True), "/dev/null")
        runs_on(vm)
        assert not may_look_into(vm.pid, NOBODY)
        forget_events(vm)
        expect_error(lambda: vm.update("/bin/true", no_check=True), "ended before")
        assert not may_look_into(failed_pid(vm), NOBODY)
        runs_on(vm)
    with UserVm("--user", "nobody", "--sandbox", "off", "--memory", "64M", cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        vm.update()  # the change of user has hidden the first image
        assert may_look_into(vm.pid, NOBODY)


class NumberVm(UserVm):
    uid = 12345


def test_user_by_number():
    need_root()
    with NumberVm("--user", "12345:23456", "--sandbox", "off", "--memory", "64M",
                cmdline=TICKER) as vm:
        vm.wait_ticks(2)
        vm.update()
        s = process_status(vm.pid)
        assert s["Uid"].split() == ["12345"] * 4 and s["Gid"].split() == ["23456"] * 4, s
        runs_on(vm)


def test_user_errors():
    for spec, words in (("no-such-user", "/etc/passwd"), ("0:no-such-group", "/etc/group"),
                        ("", "NAME or UID"), ("nobody:", "NAME or UID"), ("4294967295", "/etc/passwd")):
        done = molt("run", "--serial", "null", "--user", spec)
        assert done.returncode == 2 and words in done.stderr, (spec, done)
    need_root()
    with tempfile.TemporaryDirectory(prefix="molt-test-") as directory:
        os.chmod(directory, 0o755)
        binary = shutil.copy(molt_binary(), directory)
        done = subprocess.run([binary, "run", "--serial", "null", "--user", "1"],
                              user=NOBODY, group=NOBODY, extra_groups=[], stderr=subprocess.PIPE,
                              text=True, timeout=60, check=False)
        assert done.returncode == 1 and "only root" in done.stderr, done


def test_bad_modes():
    for mode, words in (("of", "on or off"), ("reed=/x", "reed"), ("write=x", "absolute"),
                        ("on,write=:", "empty directory")):
        done = molt("run", "--serial", "null", "--sandbox", mode)
        assert done.returncode == 2 and words in done.stderr, (mode, done)


need_kvm()
run_cases(globals())
