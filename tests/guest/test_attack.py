#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What could be done in the place of main, with and without a disk, a vCPU thread, the stand-in or the check's child.

tests/sandbox/attempts.c tries it where they are: as the successor that `molt update` starts, in check mode and without
a check, after which the stand-in has the guest and it runs on. Once as root and once as another user. The table in
docs/sandbox.md is what came out; --write puts it there. A line that is not possible here without a sandbox either (the
kernel lacks it, say) says nothing and is left out.
"""
import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Skip, Vm, expect_error, molt_binary, need_kvm, process_status, run_cases, sanitized

WRITE = "--write" in sys.argv
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENT = os.path.join(ROOT, "docs", "sandbox.md")
BLOCK = re.compile(r"(<!-- attempts -->\n).*?(<!-- end of attempts -->)", re.S)
ATTEMPTS = os.environ.get("MOLT_ATTEMPTS") or os.path.join(os.path.dirname(molt_binary()), "tests/sandbox/attempts")
WITH_DISK = "main with a disk"
COLUMNS = ("main", WITH_DISK, "vCPU thread", "stand-in", "check's child")
LANDLOCK = 6          # the table is for this ABI or newer
USER = 12345
AS_ROOT = ("--user", "root")          # options that leave molt root where root starts it
AS_USER = ("--user", "%d:%d" % (USER, USER))
# Version 2, effective, permitted CAP_NET_ADMIN: struct vfs_cap_data of linux/capability.h
FILE_CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0)


class Place:
    """Where everything that is tried would work; files of root's and of the user's, daemons, a victim."""

    def __init__(self, uid):
        self.uid = uid
        self.dir = tempfile.mkdtemp(prefix="molt-attack-")
        os.chmod(self.dir, 0o777)
        for name in ("roots", "own", "removable", "movable", "attributed"):
            with open(self.path(name), "w") as f:
                f.write("x")
        os.setxattr(self.path("attributed"), "user.molt", b"x")
        with open(self.path("disk"), "wb") as f:
            f.truncate(1 << 20)
        for name in ("writable", "mount"):
            os.mkdir(self.path(name))
        with open(self.path("writable/kept"), "w"):
            pass
        for name in ("setuid", "filecaps", "attempts"):
            shutil.copy(ATTEMPTS, self.path(name))
        for name in ("own", "disk", "removable", "movable", "attributed", "mount", "writable", "writable/kept"):
            os.chown(self.path(name), uid, uid)
        os.chmod(self.path("setuid"), 0o4755)
        os.setxattr(self.path("filecaps"), "security.capability", FILE_CAPABILITY)
        self.daemons = [self.daemon(socket.SOCK_STREAM, self.path("stream")),
                        self.daemon(socket.SOCK_STREAM, "\0molt-attack"),
                        self.daemon(socket.SOCK_DGRAM, self.path("datagram"))]
        self.terminal = pty.openpty()
        self.victim = self.start("victim", terminal=False)
        end = time.monotonic() + 20
        while not os.path.exists(self.path("victim")):
            assert time.monotonic() < end and self.victim.poll() is None, "no victim"
            time.sleep(0.01)

    @staticmethod
    def daemon(kind, name):
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(name)
        if name[0] != "\0":
            os.chmod(name, 0o777)
        if kind == socket.SOCK_STREAM:
            sock.listen(100)
        return sock

    def path(self, name):
        return os.path.join(self.dir, name)

    def on_terminal(self):
        """Arguments for Popen: a session whose terminal is standard output, and whose leader's end is no hang-up."""
        slave = self.terminal[1]

        def take_terminal():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        return {"stdout": slave, "preexec_fn": take_terminal}

    def start(self, how, output="-", terminal=True):
        who = {"user": self.uid, "group": self.uid, "extra_groups": []} if self.uid else {}
        if terminal:
            who.update(self.on_terminal())
        return subprocess.Popen([self.path("attempts"), how, self.dir, output], stdin=subprocess.DEVNULL,
                                start_new_session=True, **who)

    def result(self, name):
        with open(self.path("writable/" + name)) as f:
            return {what: answer == "yes" for answer, what in (line.rstrip("\n").split("\t") for line in f)}

    def run(self, how):
        done = self.start(how, self.path("writable/" + how))
        assert done.wait(120) == 0, how
        return self.result(how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.victim.kill()
        self.victim.wait()
        for daemon in self.daemons:
            daemon.close()
        for fd in self.terminal:
            os.close(fd)
        shutil.rmtree(self.dir)


def status(pid):
    keys = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
            "Seccomp_filters")
    found = process_status(pid)
    return {key: found.get(key) for key in keys}


def alone(uid, how):
    with Place(uid) as place:
        return place.run(how)


def attack_molt(uid, column):
    """{what: possible} in a real molt. The guest runs on, if need be in the stand-in, confined as main was."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(Place(uid))
        disk = ("--disk", "path=" + place.path("disk")) if column == WITH_DISK else ()
        vm = stack.enter_context(Vm("--memory", "64M", "--sandbox", "write=" + place.path("writable"), *disk,
                                    *(AS_USER if uid else AS_ROOT), cmdline="period_ms=20", start=False,
                                    **place.on_terminal()))
        os.chmod(vm.dir, 0o755)
        os.chown(vm.dir, uid, uid)
        vm.start()
        vm.wait_ticks(2)
        found = re.search(r"Landlock ABI (\d+)", vm.log())
        if not found or int(found[1]) < LANDLOCK:
            raise Skip("the table is for Landlock ABI %d or newer" % LANDLOCK)
        before = status(vm.pid)
        assert before["Uid"].split() == [str(uid)] * 4 and int(before["CapBnd"], 16) == 0, before
        how = "stand-in" if column == "stand-in" else "plain"
        command = [place.path("attempts"), how, place.dir, place.path("writable/result")]
        if column == "check's child":
            expect_error(lambda: vm.update(*command, timeout=100000), "gave no answer")
            assert status(vm.pid) == before
        else:
            expect_error(lambda: vm.update(*command, no_check=True, timeout=100000), "ended before")
            pid = vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"]
            assert pid != vm.proc.pid and status(pid) == before, (status(pid), before)
        vm.wait_ticks(2)
        vm.check_ticks()
        return place.result("result")


def attack(uid):
    """{column: {what: possible}}, each in a place of its own: nothing is left over from the one before."""
    return {column: alone(uid, "vcpu") if column == "vCPU thread" else attack_molt(uid, column) for column in COLUMNS}


def cell(as_root, as_user):
    if as_root == as_user:
        return "**yes**" if as_root else "no"
    return "**as root**" if as_root else "**not as root**"


def table(root, user):
    lines = ["| | %s |" % " | ".join(COLUMNS), "|---" * (len(COLUMNS) + 1) + "|"]
    for what in root["main"]:
        lines.append("| %s | %s |" % (what, " | ".join(cell(root[c][what], user[c][what]) for c in COLUMNS)))
    return lines


def name_of(line):
    return line.split(" | ")[0]


def test_table():
    if os.getuid() != 0:
        raise Skip("only root can become another user")
    if sanitized():
        raise Skip("vCPU threads are not confined in builds with a sanitizer")
    plain = [alone(uid, "plain") for uid in (0, USER)]
    possible = {what for column in plain for what, yes in column.items() if yes}
    lines = table(attack(0), attack(USER))
    with open(DOCUMENT, encoding="utf-8") as f:
        text = f.read()
    if WRITE:
        with open(DOCUMENT, "w", encoding="utf-8") as f:
            f.write(BLOCK.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text))
        return
    documented = BLOCK.search(text)
    assert documented, "there is no table in " + DOCUMENT
    documented = documented[0].split("\n")[1:-1]
    for what in plain[0]:
        if what not in possible:
            print("# not possible here without a sandbox either: " + what)
    assert list(map(name_of, documented)) == list(map(name_of, lines)), "other lines than in " + DOCUMENT
    wrong = [(is_, was) for is_, was in zip(lines, documented)
             if is_ != was and name_of(is_)[2:] in possible | {""}]
    assert not wrong, "not as in %s (%s --write writes it):\n%s" % (
        DOCUMENT, sys.argv[0], "\n".join("%s\n  documented: %s" % pair for pair in wrong))


need_kvm()
sys.argv = [arg for arg in sys.argv if arg != "--write"]
run_cases(globals())
