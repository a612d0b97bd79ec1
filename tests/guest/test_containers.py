#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
What docs/deploy.md says, made of the kernel's own parts, without a container runtime: read-only roots, a /proc that
shows little, user name spaces, limits of memory, system call filters, a systemd unit.
"""
import ctypes
import errno
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from groups import control_group
from moltvm import (Skip, Vm, expect_error, full, hanging_program, molt, molt_binary, need_kvm,
                    process_status, run_cases, sanitized, write_script)

TICKER = "period_ms=20"
NOBODY = 65534
SPACE = ["unshare", "--pid", "--fork", "--mount", "--kill-child"]
DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "deploy.md")


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(word) for word in f.read().split()]


def status(pid, key):
    return process_status(pid)[key].split()


class Container(Vm):
    """What was started is a shell script in name spaces, whose last words are "$@", molt's."""

    def __init__(self, script, *args, space=(), **kw):
        if os.getuid() != 0 or subprocess.run(SPACE + ["true"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Skip("no name spaces can be made here")
        if sanitized():
            raise Skip("a molt with a sanitizer needs libraries and a /proc, and stand-ins cannot take over in one")
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
              'if touch "$0/written" 2>"$0/../touch"; then exit 99; fi\n'
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
        if subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            raise Skip("no user name space can be made here")
        super().__init__('mount --bind "$0/../kvm" /dev/kvm; exec "$0/../enter" "$@"', *args, **kw)
        os.mknod(self.path("kvm"), 0o600 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chown(self.path("kvm"), kvm[0], kvm[1])
        os.chmod(self.path("kvm"), kvm[2])
        os.mkfifo(self.path("mapped"))
        self.maps = {"uid_map": uids, "gid_map": gids}
        write_script(self.path("enter"), "#!/bin/sh\nexec unshare --user --keep-caps sh -c ': >%s; read x <%s; exec "
                     "setpriv --reuid 0 --regid 0 --clear-groups \"$@\"' sh \"$@\"\n" % (
                         self.path("ready"), self.path("mapped")))
        os.mkfifo(self.path("ready"))
        os.chmod(self.dir, 0o777)

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


# ---- system call filters ----

SECCOMP_ALLOW, SECCOMP_ERRNO = 0x7fff0000, 0x00050000

# What the default profiles of container runtimes refuse without further capabilities (clone3 by ENOSYS, as they do).
REFUSED = """acct add_key bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig
    fsmount fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
    kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
    name_to_handle_at open_by_handle_at open_tree perf_event_open personality pidfd_getfd pivot_root process_madvise
    process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key set_mempolicy setdomainname setns
    sethostname settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup vmsplice""".split()


def call_numbers():
    for path in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"):
        if os.path.exists(path):
            with open(path) as f:
                return {name: int(n) for name, n in re.findall(r"#define __NR_(\w+) (\d+)", f.read())}
    raise Skip("no header has the numbers of the system calls")


def documented_calls():
    with open(DOCUMENT) as f:
        return re.search(r"<!-- system calls -->\n```\n(.*?)```", f.read(), re.S).group(1).split()


def filtered(special, otherwise):
    """What a child is to do before it executes: the action for each number that has one, and for all other calls."""
    numbers, code = call_numbers(), [struct.pack("<HBBI", 0x20, 0, 0, 0)]
    for name, action in special.items():
        if name in numbers:
            code += [struct.pack("<HBBI", 0x15, 0, 1, numbers[name]), struct.pack("<HBBI", 0x06, 0, 0, action)]
    code.append(struct.pack("<HBBI", 0x06, 0, 0, otherwise))
    program = ctypes.create_string_buffer(b"".join(code))
    libc = ctypes.CDLL(None, use_errno=True)

    def enter():
        prog = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(program))
        if os.getuid() != 0 and libc.prctl(38, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        if libc.prctl(22, 2, prog, 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp filter")
    return enter


def under_filter(special, otherwise, *args):
    if sanitized():
        raise Skip("a sanitizer makes calls of its own, and the stand-in cannot take over")
    with Vm("--memory", "64M", "--log-file", "/dev/stderr", *args, start=False, cmdline=TICKER) as vm:
        vm.popen["preexec_fn"] = filtered(special, otherwise)
        vm.start()
        for _ in range(2):
            vm.wait_ticks(2)
            vm.update()
            vm.wait_ticks(2)
            done = molt("update", vm.control_path, "--", molt_binary(), "run")
            assert done.returncode == 0, done
            expect_error(lambda: vm.update(molt_binary(), "run", "--incoming", "file:/no", no_check=True))
            for program in (vm.path("dies"), hanging_program(vm.path("hangs"))):
                with open(vm.path("dies"), "wb") as f:
                    f.write(dying_program())
                os.chmod(vm.path("dies"), 0o755)
                expect_error(lambda p=program: vm.update(p, no_check=True, timeout=500))
                vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
                vm.wait_ticks(2)
        vm.check_ticks()
        vm.qmp.command("system_reset")
        vm.qmp.wait_event("RESET")
        vm.wait_ticks(2)
        assert "sandbox: level" in vm.log() and "error: sandbox" not in vm.log(), vm.log()
        assert "mapping guest RAM" not in vm.log(), vm.log()
        vm.qmp.command("quit")
        vm.wait_for(lambda: not os.path.exists(vm.control_path), "the socket's removal")


def test_filter_of_a_container_runtime():
    special = {name: SECCOMP_ERRNO | errno.EPERM for name in REFUSED}
    under_filter({**special, "clone3": SECCOMP_ERRNO | errno.ENOSYS}, SECCOMP_ALLOW)


def test_documented_calls_are_enough():
    calls = documented_calls()
    assert not set(calls) & set(REFUSED), set(calls) & set(REFUSED)
    numbers = call_numbers()
    assert all(name in numbers for name in calls if not name.startswith("landlock")), set(calls) - set(numbers)
    under_filter({name: SECCOMP_ALLOW for name in calls}, SECCOMP_ERRNO | errno.EPERM)


def disk_under_documented_calls(options, engine, *more):
    """The guest writes, reads and flushes, and verifies it, before three updates, between them and after."""
    if sanitized():
        raise Skip("a sanitizer makes calls of its own")
    special = {name: SECCOMP_ALLOW for name in (*documented_calls(), *more)}
    with tempfile.TemporaryDirectory(prefix="molt-test-") as directory:
        image = os.path.join(directory, "image")
        with open(image, "wb") as f:
            f.truncate(8 << 20)
        with Vm("--memory", "48M", "--disk", "path=%s%s" % (image, options), kernel="disk", start=False,
                cmdline="first=zero requests=500") as vm:
            vm.popen["preexec_fn"] = filtered(special, SECCOMP_ERRNO | errno.EPERM)
            vm.start()
            for _ in range(3):
                passes(vm, 2)
                vm.update()
            passes(vm, 2)
            last = re.findall(r"^disk: pass .*", vm.serial(), re.M)[-1]
            assert "BAD" not in vm.serial() and " errors=0 " in last, vm.serial()[-2000:]
            assert vm.qmp.command("query-block")[0]["back-end"]["engine"] == engine
            refused = [line for line in vm.log().splitlines() if "not permitted" in line and "by threads" not in line]
            assert not refused, refused
            vm.qmp.command("quit")
            assert vm.wait_exit() == 0


def test_documented_calls_are_enough_for_a_disk():
    disk_under_documented_calls("", "threads")


def test_documented_calls_are_enough_for_io_uring():
    disk_under_documented_calls(",engine=io_uring", "io_uring", "io_uring_setup", "io_uring_register",
                                "io_uring_enter")


def test_filter_that_does_not_know_landlock():
    """As of an older runtime: the guest runs, without that wall."""
    special = {name: SECCOMP_ERRNO | errno.EPERM for name in (
        "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "memfd_secret", "close_range")}
    under_filter(special, SECCOMP_ALLOW)


# ---- memory ----

def passes(vm, n=1):
    def count():
        return len(re.findall(r"^(?:toucher|disk): pass .*\n", vm.serial(), re.M))
    had = count()
    vm.wait_for(lambda: count() >= had + n, "%d more passes" % n)


def busiest(ram, cpus, limit=None, updates=3):
    """The most that a guest of so many MiB, all of which it uses, and its updates and one take-back took."""
    if sanitized():
        raise Skip("a sanitizer's memory is not molt's")
    with control_group("memory", limit) as group:
        with Vm("--memory", "%dM" % ram, "--cpus", str(cpus), kernel="toucher", cmdline="period_ms=1",
                start=False) as vm:
            vm.popen["preexec_fn"] = group.enter
            vm.start()
            passes(vm)
            for _ in range(updates):
                done = molt("update", vm.control_path, "--", molt_binary(), "run")
                assert done.returncode == 0, done
                passes(vm)
                vm.settle()  # a predecessor's memory that is still being taken apart would count twice
            expect_error(lambda: vm.update("/bin/false", no_check=True))
            vm.follow(vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"])
            passes(vm)
            vm.update()
            passes(vm)
            return group.peak() if limit is None else 0


def test_memory_beside_ram():
    """Measured, and what docs/deploy.md says is enough."""
    for ram, cpus in ((64, 1), (64, 4), (64, 16), (256, 1)) + (((512, 1),) if full() else ()):
        extra = busiest(ram, cpus) - (ram << 20)
        print("# RAM %d MiB, %d vCPU(s): RAM + %.1f MiB" % (ram, cpus, extra / 2**20), flush=True)
        assert extra < allowance(ram, cpus) << 20, (ram, cpus, extra)


def allowance(ram, cpus):
    """MiB beside RAM, as docs/deploy.md has it."""
    return 16 + ram // 64 + cpus


def test_memory_limit():
    busiest(128, 2, (128 + allowance(128, 2)) << 20)


# ---- service managers ----

def test_systemd_unit():
    if not shutil.which("systemd-analyze"):
        raise Skip("no systemd-analyze here")
    with open(DOCUMENT) as f:
        unit = re.search(r"^    # /etc/systemd/system/(molt@\.service)\n((?:    .*\n|\n)*)", f.read(), re.M)
    text = re.sub("^    ", "", unit.group(2), flags=re.M)
    with tempfile.TemporaryDirectory(prefix="molt-test-") as directory:
        path = os.path.join(directory, unit.group(1))
        with open(path, "w") as f:
            f.write(text.replace("/usr/local/bin/molt", molt_binary()))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", path.replace("@", "@web1")], check=False,
                              capture_output=True, text=True, timeout=60)
        if "bad unit" not in done.stderr and re.search("D-Bus|Failed to (connect|initialize)", done.stderr):
            raise Skip("systemd-analyze does not work here: " + done.stderr)
        complaints = [line for line in done.stderr.splitlines() if "molt" in line]
        assert not complaints, done


need_kvm()
run_cases(globals())
