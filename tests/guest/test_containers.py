#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
molt in what containers are made of, without a container runtime: read-only roots, a /proc that shows little, user name
spaces.
"""
import os
import shutil
import stat
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Skip, Vm, molt, molt_binary, need_kvm, run_cases, sanitized, write_script

TICKER = "period_ms=20"
NOBODY = 65534
SPACE = ["unshare", "--pid", "--fork", "--mount", "--kill-child"]


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(word) for word in f.read().split()]


def status(pid, key):
    with open("/proc/%d/status" % pid) as f:
        return [line for line in f if line.startswith(key + ":")][0].split()[1:]


class Container(Vm):
    """What was started is a shell script in name spaces, whose last words are "$@", molt's."""

    def __init__(self, script, *args, space=(), **kw):
        if os.getuid() != 0 or subprocess.run(SPACE + ["true"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Skip("no name spaces can be made here")
        if sanitized():
            raise Skip("a molt with a sanitizer needs libraries and a /proc, and guardians cannot take over in one")
        super().__init__("--memory", "64M", *args, start=False, cmdline=TICKER, **kw)
        self.root = self.path("root")
        os.makedirs(self.root)
        self.argv = [*SPACE, *space, "sh", "-ec", script, self.root, *self.argv]

    @property
    def init(self):
        return children(self.proc.pid)[0]

    def runs_on(self):
        self.wait_ticks(3)
        self.check_ticks()


def every_end(vm):
    """An update by path, one by descriptor, one that is taken back, and one after that."""
    vm.wait_ticks(2)
    vm.update()
    done = molt("update", vm.control_path, "--", molt_binary(), "run")
    assert done.returncode == 0, done
    with open(vm.path("dies"), "wb") as f:
        f.write(dying_program())
    os.chmod(vm.path("dies"), 0o755)
    done = molt("update", "--no-check", vm.control_path, "--", vm.path("dies"))
    assert done.returncode == 1 and "guest runs on in process" in done.stderr, done
    vm.runs_on()
    done = molt("update", vm.control_path, "--", molt_binary(), "run")
    assert done.returncode == 0, done
    vm.runs_on()


def dying_program():
    """Static, and needs no file: exit(1)."""
    code = bytes([0xb8, 60, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x0f, 0x05])
    base, size = 0x400000, 64 + 56 + len(code)
    return (struct.pack("<4s5B7x", b"\x7fELF", 2, 1, 1, 0, 0) +
            struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0) +
            struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code)


def quits(vm):
    vm.qmp.command("quit")
    assert vm.wait_exit() == 0
    assert not os.path.exists(vm.control_path)


# ---- file systems ----

def test_read_only_root():
    """Nothing in it but molt and /dev/kvm; one directory can be written to: control socket, log, serial output."""
    script = ('mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; mount --bind "$0/../run" "$0/run"\n'
              'if touch "$0/written" 2>"$0/run/touch"; then exit 99; fi\n'
              'exec chroot "$0" "$@"')
    with Container(script, "--log-file", "/run/molt.log") as vm:
        os.makedirs(vm.root + "/dev")
        os.makedirs(vm.root + "/run")
        os.makedirs(vm.path("run"))
        shutil.copy(molt_binary(), vm.root + "/molt")
        os.mknod(vm.root + "/dev/kvm", 0o600 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        vm.argv = [{molt_binary(): "/molt", vm.control_path: "/run/control",
                    "file=" + vm.serial_path: "file=/run/serial"}.get(word, word) for word in vm.argv]
        vm.control_path, vm.serial_path = vm.path("run/control"), vm.path("run/serial")
        vm.start()
        every_end(vm)
        done = molt("update", "--state", vm.path("state"), vm.control_path, "--", molt_binary(), "run")
        assert done.returncode == 0 and molt("state", "--summary", vm.path("state")).returncode == 0, done
        os.rename(vm.path("run/molt.log"), vm.path("run/molt.log.1"))
        vm.qmp.command("log-reopen")
        assert os.path.exists(vm.path("run/molt.log"))
        quits(vm)


def test_proc_that_hides():
    """Only numbers of the user's own processes, some of it masked and read-only, and molt is another user."""
    script = ('mount -t proc -o hidepid=2 proc /proc; mount --bind /dev/null /proc/keys\n'
              'mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys; mount -t tmpfs -o ro none /sys\n'
              'exec "$@"')
    with Container(script, "--user", str(NOBODY)) as vm:
        os.chmod(vm.dir, 0o777)
        vm.start()
        every_end(vm)
        os.chmod(vm.dir, 0o700)
        os.chown(vm.dir, NOBODY, NOBODY)
        quits(vm)


def test_proc_of_processes_only():
    """subset=pid, as for a container within a container (Linux 5.8)."""
    if subprocess.run([*SPACE, "mount", "-t", "proc", "-o", "subset=pid", "proc", "/proc"],
                      stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip("no proc with subset=pid")
    with Container('mount -t proc -o subset=pid proc /proc; exec "$@"') as vm:
        vm.start()
        every_end(vm)
        quits(vm)


# ---- user name spaces ----

INNER = 100000  # where user 0 of the name space is outside
GROUP = 4242    # owns the device


class UserSpace(Container):
    """User 0 inside is INNER outside, or any other maps. uid_map and gid_map are written from here."""

    def __init__(self, *args, uids="0 %d 65536" % INNER, gids="0 %d 65536" % INNER, kvm=(INNER, INNER, 0o600), **kw):
        super().__init__('mount --bind "$0/../kvm" /dev/kvm; exec "$0/../enter" "$@"', *args, **kw)
        os.mknod(self.path("kvm"), 0o600 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chown(self.path("kvm"), kvm[0], kvm[1])
        os.chmod(self.path("kvm"), kvm[2])
        os.mkfifo(self.path("mapped"))
        self.maps = {"uid_map": uids, "gid_map": gids}
        write_script(self.path("enter"), "#!/bin/sh\nexec unshare --user --keep-caps sh -c ': >%s; read x <%s; exec "
                     "setpriv --reuid 0 --regid 0 %s \"$@\"' sh \"$@\"\n" % (
                         self.path("ready"), self.path("mapped"), kw.get("groups", "--clear-groups")))
        os.mkfifo(self.path("ready"))
        os.chmod(self.dir, 0o777)
        if subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Skip("no user name space can be made here")

    def start(self):
        control, self.control = self.control, False
        super().start()
        with open(self.path("ready")):
            pass
        for name, text in self.maps.items():
            with open("/proc/%d/%s" % (self.init, name), "w") as f:
                f.write(text)
        with open(self.path("mapped"), "w"):
            pass
        self.control = control
        if control:
            self.wait_for(lambda: os.path.exists(self.control_path), "the control socket")

    def as_user(self, uid, *command):
        """molt ctl from outside of the name space, as this user."""
        return molt(*command, preexec_fn=lambda: (os.setgroups([]), os.setresgid(uid, uid, uid),
                                                  os.setresuid(uid, uid, uid)))

    def inside(self, uid, *command):
        """The same from inside."""
        return subprocess.run(["nsenter", "--user", "--pid", "--target", str(self.init), "--setuid", str(uid),
                               "--setgid", str(uid), molt_binary(), *command], capture_output=True, text=True,
                              check=False, timeout=60)


def refused(done):
    return done.returncode == 1 and "name space does not know" in done.stderr


def test_user_name_space():
    """Its root runs the guest. The host's root is nobody there, and is refused; its owner and its root are not."""
    with UserSpace() as vm:
        vm.start()
        assert status(vm.init, "Uid") == [str(INNER)] * 4
        asks = ("ctl", "--compact", vm.control_path, "query-status")
        vm.wait_ticks(2)
        assert vm.inside(0, *asks).returncode == 0, vm.inside(0, *asks)
        assert vm.as_user(INNER, *asks).returncode == 0, vm.as_user(INNER, *asks)
        done = molt(*asks)
        assert refused(done), done
        os.chmod(vm.control_path, 0o666)
        for uid in (1, NOBODY, INNER + NOBODY):
            done = vm.as_user(uid, *asks)
            assert done.returncode == 1 and "refused" in done.stderr, (uid, done)
        for _ in range(2):
            done = vm.as_user(INNER, "update", vm.control_path, "--", molt_binary(), "run")
            assert done.returncode == 0, done
        vm.runs_on()
        assert vm.as_user(INNER, "ctl", vm.control_path, "quit").returncode == 0
        assert vm.wait_exit() == 0


def test_nobody_of_a_user_name_space():
    """Whom the name space does not know has the number of its nobody, and is not taken for him."""
    with UserSpace("--user", str(NOBODY)) as vm:
        vm.start()
        vm.wait_ticks(2)
        vmm = children(vm.init)[0]
        assert status(vmm, "Uid") == [str(INNER + NOBODY)] * 4
        os.chmod(vm.control_path, 0o666)
        asks = ("ctl", "--compact", vm.control_path, "query-status")
        for uid in (0, 1, NOBODY):
            done = vm.as_user(uid, *asks)
            assert refused(done), (uid, done)
        # That number is no proof inside either; its root is.
        assert refused(vm.inside(NOBODY, *asks))
        assert vm.inside(0, *asks).returncode == 0


def test_user_that_the_name_space_does_not_know():
    with UserSpace("--user", "1", uids="0 %d 1" % INNER, gids="0 %d 1" % INNER, control=False) as vm:
        vm.start()
        assert vm.wait_exit() == 1
        assert "--user" in vm.log() and "Invalid argument" in vm.log(), vm.log()


def test_rootless():
    """One user alone is mapped, by himself; /dev/kvm is his by a group that is not."""
    def leave_root():
        os.setgroups([GROUP])
        os.setresgid(INNER, INNER, INNER)
        os.setresuid(INNER, INNER, INNER)

    with Vm("--memory", "64M", start=False, cmdline=TICKER) as vm:
        if os.getuid() != 0 or sanitized() or subprocess.run(
                ["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"], preexec_fn=leave_root,
                stderr=subprocess.DEVNULL, check=False).returncode:
            raise Skip("no name space for users other than root")
        os.chmod(vm.dir, 0o777)
        kvm = vm.path("kvm")
        os.mknod(kvm, 0o600 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chown(kvm, 0, GROUP)
        os.chmod(kvm, 0o660)
        vm.argv = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /dev/kvm; exec setpriv --reuid %d --regid %d '
                   '--groups %d unshare --user --map-root-user --pid --fork --mount-proc "$@"' % (INNER, INNER, GROUP),
                   kvm, *vm.argv]
        vm.control = False
        vm.start()
        vm.wait_for(lambda: os.path.exists(vm.control_path), "the control socket")
        vm.wait_ticks(2)
        done = molt("update", vm.control_path, "--", molt_binary(), "run")
        assert refused(done), done

        def become():
            os.setgroups([])
            os.setresgid(INNER, INNER, INNER)
            os.setresuid(INNER, INNER, INNER)

        for _ in range(2):
            done = molt("update", vm.control_path, "--", molt_binary(), "run", preexec_fn=become)
            assert done.returncode == 0, done
        vm.wait_ticks(2)
        vm.check_ticks()


need_kvm()
run_cases(globals())
