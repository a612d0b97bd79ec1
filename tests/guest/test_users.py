#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
Which user molt is, what it opens as whom, and where a control socket with a name is. Each case has /etc/passwd,
/etc/subuid, /run and /var/lib of its own, in a mount name space.
"""
import os
import pty
import shutil
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import release
from moltvm import (Skip, Vm, beneath_a_release, expect_error, molt_binary, need_kvm, process_status,
                    run_cases, sanitized)

TICKER = "period_ms=20"
MOLT_UID = 4321
FIRST = 700000


class Host:
    """What a host's administrator has set up. Programs for it are in a directory that everybody may enter."""

    def __init__(self, user=True, subuid=None):
        self.dir = tempfile.mkdtemp(prefix="molt-host-")
        os.chmod(self.dir, 0o755)
        for name in ("run", "lib", "bin"):
            os.mkdir(self.path(name))
        for source in ("passwd", "group"):
            with open("/etc/" + source, encoding="utf-8") as f:
                lines = [line for line in f if not line.startswith("molt:")]
            if user:
                lines.append("molt:x:%d:%s\n" % (MOLT_UID, "%d::/:/bin/false" % MOLT_UID if source == "passwd" else ""))
            self.write(source, "".join(lines))
        self.write("subuid", subuid or "other:100000:65536\nmolt:%d:3\n" % FIRST)
        self.molt = shutil.copy(molt_binary(), self.path("bin/molt"))

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()

    def prefix(self, *unshare):
        script = "".join("mount --bind %s %s && " % (self.path(name), where) for name, where in (
            ("passwd", "/etc/passwd"), ("group", "/etc/group"), ("subuid", "/etc/subuid"), ("lib", "/var/lib"),
            ("run", "/run")))
        # Some hosts have no /etc/subuid; the mount point is then made in a copy of /etc.
        if not os.path.exists("/etc/subuid"):
            script = "mount -t tmpfs none /etc && touch /etc/passwd /etc/group /etc/subuid && " + script
        return ["unshare", "--mount", *unshare, "sh", "-c", script + 'exec "$@"', "sh"]

    def run(self, *args, **kw):
        return subprocess.run([*self.prefix(), self.molt, *args], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, check=False, **kw)

    def __enter__(self):
        if os.getuid() != 0 or subprocess.run([*self.prefix(), "true"], stderr=subprocess.DEVNULL,
                                              check=False).returncode:
            shutil.rmtree(self.dir)
            raise Skip("only root can become another user, in a mount name space of its own")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)


class HostVm(Vm):
    """Started as root on that host with a socket that has a name; its own directory is a user's."""

    own_directory = False

    def __init__(self, host, *args, name="web1", uid=MOLT_UID, unshare=(), beneath=(), binary=None, **kw):
        self.host = host
        super().__init__("--memory", "64M", *args, start=False, binary=binary or host.molt, **kw)
        os.chmod(self.dir, 0o755)
        os.chown(self.dir, uid, uid)
        self.argv = [*host.prefix(*unshare), *beneath, *self.argv]
        self.argv[self.argv.index("--control") + 1] = "name=" + name
        self.control_path = host.path("run/molt/%s/control" % name)
        self.start()

    def defaults(self, args):
        return []

    def uids(self, pid=None):
        status = process_status(pid or self.pid)
        assert not status["Groups"].split(), status
        return {int(word) for key in ("Uid", "Gid") for word in status[key].split()}

    def runs_on(self):
        self.wait_ticks(2)
        self.check_ticks()


def moved(vm, *command, **arguments):
    """Where the guest runs after an update that fails."""
    vm.qmp.event_names()
    vm.qmp.events.clear()
    expect_error(lambda: vm.update(*command, no_check=True, **arguments))
    vm.runs_on()
    return vm.qmp.wait_event("UPDATE_FAILED")["data"]["pid"]


def test_molt_is_the_default():
    """In every image; its socket is its own, and root's programs reach it by its name. Root has logged in."""
    with Host() as host, HostVm(host, cmdline=TICKER, env=dict(os.environ, XDG_RUNTIME_DIR="/run/user/0")) as vm:
        vm.wait_ticks(2)
        where = os.path.dirname(vm.control_path)
        assert os.stat(where).st_uid == MOLT_UID and stat.S_IMODE(os.stat(where).st_mode) == 0o700
        assert os.stat(vm.control_path).st_uid == MOLT_UID and os.stat(vm.serial_path).st_uid == MOLT_UID
        assert "runs as root" not in vm.log() and "not molt's alone" not in vm.log(), vm.log()
        for _ in range(3):
            assert vm.uids() == {MOLT_UID}
            vm.runs_on()
            done = host.run("update", "web1")
            assert done.returncode == 0, done
        done = host.run("update", "web1", "--", host.molt, "run")
        assert done.returncode == 0 and "guest stopped for" in done.stdout, done
        assert host.run("ctl", "--compact", "web1", "query-status").stdout.startswith('{"'), done
        os.chmod(host.path("bin"), 0o700)
        done = host.run("update", "web1")
        assert done.returncode == 1 and "named to 'molt update'" in done.stderr, done
        assert host.run("update", "web1", "--", host.molt, "run").returncode == 0
        os.chmod(host.path("bin"), 0o755)
        assert moved(vm, host.molt, "run", "--incoming", "file:/none") == vm.pid
        assert vm.uids() == {MOLT_UID}
        if not sanitized():
            vm.follow(moved(vm, "/bin/false"))
            assert vm.uids() == {MOLT_UID}
        vm.update()
        vm.qmp.command("quit")
        vm.wait_for(lambda: not os.listdir(where), "end of the socket")


def test_a_release_and_back():
    """0.1.0 knows nothing of that user, and runs as him; a guest that it started as root stays root's."""
    try:
        old = release.newest()
    except release.Unavailable as why:
        raise Skip(str(why)) from why
    with Host() as host:
        old = shutil.copy(old, host.path("bin/old"))
        with HostVm(host, "--machine", "1", cmdline=TICKER, env=beneath_a_release()) as vm:
            vm.wait_ticks(2)
            for binary in (old, host.molt, old, host.molt):
                vm.update(binary, "run", "--control", "name=web1", "--serial", "file=" + vm.serial_path)
                assert (vm.uids(), vm.executable()) == ({MOLT_UID}, binary), (vm.uids(), vm.executable(), binary)
                vm.runs_on()
            assert "not in force" not in vm.log(), vm.log()


def test_nobody_to_become():
    """It is said; and it is not where root is what was asked for."""
    with Host(user=False) as host:
        with HostVm(host, cmdline=TICKER, uid=0) as vm:
            vm.runs_on()
            assert vm.uids() == {0} and "molt runs as root" in vm.log(), vm.log()
        with HostVm(host, "--user", "root", cmdline=TICKER, uid=0) as vm:
            assert vm.uids() == {0} and "molt runs as root" not in vm.log(), vm.log()


def test_user_name_space_without_him():
    with Host() as host:
        if subprocess.run([*host.prefix("--user", "--map-root-user"), "true"], stderr=subprocess.DEVNULL,
                          check=False).returncode:
            raise Skip("no user name space can be made here")
        with HostVm(host, cmdline=TICKER, uid=0, unshare=("--user", "--map-root-user")) as vm:
            vm.runs_on()
            assert "molt stays root" in vm.log(), vm.log()


def test_root_without_capabilities():
    """A container's root may be unable to become anybody."""
    with Host() as host:
        prefix = ["capsh", "--drop=cap_setuid", "--", "-c", 'exec "$@"', "sh"]
        if not shutil.which("capsh"):
            raise Skip("needs capsh")
        with HostVm(host, cmdline=TICKER, uid=0, beneath=prefix) as vm:
            vm.runs_on()
            assert "molt stays root: without CAP_SETUID" in vm.log(), vm.log()
            vm.update()
            vm.runs_on()


def test_auto():
    """One user a name, the same the next time; who starts at the same time gets another."""
    with Host() as host:
        for name, uid in (("web1", FIRST), ("web2", FIRST + 1), ("web1", FIRST)):
            with HostVm(host, "--user", "auto", "--name", name, name=name, uid=uid, cmdline=TICKER) as vm:
                assert vm.uids() == {uid}
                vm.update()
                assert vm.uids() == {uid}
        assert host.read("lib/molt/users") == "%d web1\n%d web2\n" % (FIRST, FIRST + 1)
        host.write("subuid", "molt:%d:1000\n" % FIRST)
        runs = [subprocess.Popen([*host.prefix(), host.molt, "run", "--user", "auto", "--name", "many %d" % n,
                                  "--serial", "file=/none"], stderr=subprocess.DEVNULL) for n in range(12)]
        assert [run.wait(60) for run in runs] == [1] * 12
        lines = host.read("lib/molt/users").splitlines()
        assert len({line.split()[0] for line in lines}) == len(lines) == 14, lines


def test_auto_refuses():
    with Host() as host:
        def refused(words):
            done = host.run("run", "--serial", "null", "--user", "auto", "--name", "web1")
            assert done.returncode == 1 and words in done.stderr, done

        os.mkdir(host.path("lib/molt"))
        users = host.path("lib/molt/users")
        for text, words in (("1 web1\n", "not of the range"), ("0 web1\n", "not of the range"),
                            ("".join("%d x%d\n" % (FIRST + n, n) for n in range(3)), "have guests")):
            host.write("lib/molt/users", text)
            refused(words)
            assert host.read("lib/molt/users") == text
        host.write("lib/molt/users", "")
        os.chmod(users, 0o666)
        refused("root's alone")
        os.chmod(users, 0o644)
        os.chown(users, 1, 1)
        refused("root's alone")
        os.unlink(users)
        os.symlink("/etc/passwd", users)
        refused(users.replace(host.path("lib"), "/var/lib"))
        for text in ("", "molt:0:10\n", "molt:4294967290:10\n", "molt:1:0\n", "molt:x:y\n"):
            host.write("subuid", text)
            refused("/etc/subuid")


def test_planted_links_open_nothing():
    """A guest that took molt over once may have put anything into its user's directory."""
    with Host() as host:
        secret = host.path("passwd")
        before = host.read("passwd")
        os.chmod(secret, 0o600)
        mine = host.path("mine")
        os.mkdir(mine, 0o700)
        os.symlink(secret, mine + "/link")
        for path in (mine, mine + "/link"):
            os.chown(path, MOLT_UID, MOLT_UID, follow_symlinks=False)
        link = mine + "/link"
        for args in (("--serial", "file=" + link), ("--serial", "null", "--log-file", link),
                     ("--serial", "null", "--kernel", link), ("--serial", "null", "--control", link),
                     ("--serial", "socket=" + link)):
            for user in ((), ("--user", "molt")):
                done = host.run("run", "--memory", "64M", *args, *user)
                assert done.returncode == 1 and link in done.stderr, done
                if "another kind of file" not in done.stderr:
                    assert "Permission denied" in done.stderr, done
                    assert "files are opened as user %d" % MOLT_UID in done.stderr, done
        assert host.read("passwd") == before and os.stat(secret).st_uid == 0


def test_directories_of_sockets():
    """The one of a name is molt's user's, and above it nobody else can do anything."""
    with Host() as host:
        run, mine = host.path("run/molt"), host.path("run/molt/web1")

        def refused(words, named="name=web1"):
            done = host.run("run", "--memory", "64M", "--serial", "null", "--control", named)
            assert done.returncode in (1, 2) and words in done.stderr, done

        os.symlink("/tmp", run)
        refused("/run/molt")
        os.unlink(run)
        os.mkdir(run)
        os.chmod(run, 0o777)
        refused("others may write to it")
        os.chmod(run, 0o755)
        os.mkdir(mine)
        os.chown(mine, 1, 1)
        refused("belongs to user 1")
        os.rmdir(mine)
        os.symlink("/tmp", mine)
        refused("/run/molt/web1")
        os.unlink(mine)
        for named in ("", ".", "..", ".hidden", "a/b"):
            refused("begin with a dot", "name=" + named)
        refused("Permission denied", "/run/web1")
        # One that root left, of a guest that ran as root.
        with HostVm(host, "--user", "root", cmdline=TICKER, uid=0) as vm:
            vm.wait_ticks(1)
        assert os.path.exists(vm.control_path)
        with HostVm(host, cmdline=TICKER) as vm:
            vm.runs_on()
            assert os.stat(mine).st_uid == MOLT_UID
        with HostVm(host, "--user", "root", cmdline=TICKER, uid=0, name="web2") as vm:
            refused("another user, listens there", "name=web2")
            vm.runs_on()
        done = host.run("ctl", "none", "query-status")
        assert done.returncode == 1 and "/run/molt/none/control" in done.stderr, done


def test_users_own_directory():
    """Who is not root has them where his session's are."""
    with Host() as host:
        mine = host.path("session")
        os.mkdir(mine, 0o700)
        os.chown(mine, 65534, 65534)
        done = subprocess.run([host.molt, "ctl", "web1", "query-status"], user=65534, group=65534, text=True,
                              env={"XDG_RUNTIME_DIR": mine}, capture_output=True, timeout=60, check=False)
        assert done.returncode == 1 and mine + "/molt/web1/control" in done.stderr, done
        # The user may open /dev/kvm.
        limited = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "+dac_override",
                   "--ambient-caps", "+dac_override"]
        if not shutil.which("setpriv"):
            raise Skip("needs setpriv")
        os.mknod(host.path("kvm"), 0o666 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chmod(host.path("kvm"), 0o666)
        for_all = ["sh", "-c", 'mount --bind %s /dev/kvm && exec "$@"' % host.path("kvm"), "sh", *limited[:-4]]
        started = [host.molt, "run", "--memory", "64M", "--serial", "null", "--control", "name=web1"]
        done = subprocess.run([*host.prefix(), *for_all, *started],
                              env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "give --control a path" in done.stderr, done
        with subprocess.Popen([*limited, *started], env={"XDG_RUNTIME_DIR": mine}) as run:
            path, end = mine + "/molt/web1/control", time.monotonic() + 60
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.01)
            assert os.stat(path).st_uid == 65534 and stat.S_IMODE(os.stat(mine + "/molt/web1").st_mode) == 0o700
            done = subprocess.run([host.molt, "ctl", "web1", "quit"], user=65534, group=65534, text=True,
                                  env={"XDG_RUNTIME_DIR": mine}, capture_output=True, timeout=60, check=False)
            assert done.returncode == 0 and run.wait(60) == 0, done


def test_terminal_of_root():
    """It is opened while that is possible, and so output to it does not block."""
    with Host() as host:
        primary, secondary = pty.openpty()
        os.chmod(os.ttyname(secondary), 0o600)
        with HostVm(host, serial="tty", stdin=secondary, stdout=secondary, cmdline=TICKER) as vm:
            assert os.get_blocking(secondary)  # what others have of it stays as it was
            os.close(secondary)
            text = b""
            while b"tick 3 " not in text:
                text += os.read(primary, 4096)
            for _ in range(2):
                with open("/proc/%d/fdinfo/1" % vm.pid, encoding="ascii") as f:
                    flags = int(f.read().split("flags:")[1].split()[0], 8)
                assert flags & os.O_NONBLOCK, oct(flags)
                vm.update()
            vm.qmp.command("quit")
            assert vm.wait_exit() == 0
        os.close(primary)


need_kvm()
run_cases(globals())
