#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
The command line with a real KVM behind it: what is accepted and boots, and what is refused with a
sentence that says why. (How options are parsed, and the client's side of the socket, is tested
without KVM elsewhere.)
"""
import json
import os
import random
import stat
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import test_exit_codes  # noqa: E402
from moltvm import SANITIZER, Skip, Vm, firmware, molt, molt_binary, need_kvm, run_cases


def refused(code, *args, words=(), **popen):
    """molt run ends by itself with this code and a sentence that has all the words."""
    done = molt("run", *args, **popen)
    assert done.returncode == code, done
    for word in words:
        assert word in done.stderr, (word, done.stderr)
    assert "\n" in done.stderr and len(done.stderr.splitlines()) <= 3, done.stderr
    return done


def boots(*args, said="exit", **kw):
    with Vm(*args, kernel=said, control=False, **kw) as vm:
        assert vm.wait_exit(30) == 0, vm.log()


# ---- help and wrong usage ----

def test_help():
    for command in ("run", "update", "ctl", "state", "version"):
        for args in ((command, "--help"), (command, "-h"), ("help", command)):
            done = molt(*args)
            assert done.returncode == 0 and not done.stderr, done
            assert done.stdout.startswith("usage: molt " + command), done.stdout
    assert "--kernel FILE" in molt("run", "--help").stdout
    assert molt("--help").returncode == 0


def test_unknown_options_name_the_nearest():
    for typed, meant in (("--kernal", "--kernel"), ("--initrmfs", "--initramfs"),
                         ("--cmd-line", "--cmdline"), ("--cpuss", "--cpus"), ("--ser", "--serial"),
                         ("--no_reboot", "--no-reboot"), ("-kernel", "--kernel")):
        refused(2, typed, "x", words=("'%s'" % typed, "did you mean '%s'?" % meant))
    done = refused(2, "--xyzzyplugh")
    assert "did you mean" not in done.stderr, done.stderr
    refused(2, "guest.elf", words=("guest.elf",))
    refused(2, "--kernel", words=("needs a value",))
    refused(2, "--pause=yes", words=("takes no value",))


# ---- files ----

def test_kernel_files():
    with Vm(start=False) as vm:
        with open(firmware("exit"), "rb") as f:
            elf = f.read()
        with open(vm.path("garbage"), "wb") as f:
            f.write(random.Random(2).randbytes(100000))
        with open(vm.path("empty"), "wb"):
            pass
        with open(vm.path("text"), "w") as f:
            f.write("#!/bin/sh\necho no kernel\n")
        for name in ("garbage", "empty", "text", "missing"):
            refused(1, "--kernel", vm.path(name), words=(vm.path(name),))
        refused(1, "--kernel", vm.path("missing"), words=("No such file",))
        refused(1, "--kernel", vm.dir, words=(vm.dir,))
        refused(1, "--kernel", "/dev/null", words=("/dev/null",))
        refused(1, "--kernel", molt_binary(), words=(molt_binary(),))
        for cut in (1, 4, 63, 64, 100, 200, len(elf) // 2):
            with open(vm.path("cut"), "wb") as f:
                f.write(elf[:cut])
            refused(1, "--kernel", vm.path("cut"), words=(vm.path("cut"),))


def test_initramfs_files():
    kernel = ("--kernel", firmware("exit"))
    refused(1, *kernel, "--initramfs", "/no/such/file", words=("/no/such/file", "No such file"))
    refused(2, "--initramfs", "/no/such/file", words=("--kernel",))
    with Vm(start=False) as vm:
        with open(vm.path("big"), "wb") as f:
            f.truncate(64 << 20)
        refused(1, *kernel, "--memory", "32M", "--initramfs", vm.path("big"),
                words=(vm.path("big"),))
        with open(vm.path("small"), "wb") as f:
            f.write(b"x" * 5000)
        boots("--initrd", vm.path("small"))


def test_files_may_go_after_the_start():
    """Kernel and initramfs are open: resets and updates need their paths no more."""
    with Vm("--memory", "32M", kernel="reset", cmdline="after_ms=20", start=False) as vm:
        kernel = vm.path("kernel")
        with open(firmware("reset"), "rb") as src, open(kernel, "wb") as dst:
            dst.write(src.read())
        vm.argv[vm.argv.index("--kernel") + 1] = kernel
        vm.start()
        vm.wait_serial("reset: booted")
        os.unlink(kernel)
        vm.update()
        count = vm.serial().count("reset: booted")
        vm.wait_for(lambda: vm.serial().count("reset: booted") > count + 3, "more boots")


# ---- sizes and numbers ----

def test_bad_sizes():
    for value in ("", "x", "-1", "1.5G", "12Q", "0x", "99999999999999999999", "17000000T", "size=",
                  "64M,64M", "64M,colour=red", "64M,,", "1M 2M"):
        refused(2, "--memory", value, words=("--memory",))
    for value in ("0", "1", "4095", "1T"):
        refused(2, "--memory", value)
    for value in ("", "0", "255", "-1", "x", "1.5", "2,sockets=1"):
        refused(2, "--cpus", value, words=("--cpus",))
    refused(2, "--log-level", "loud", words=("loud", "debug"))
    refused(2, "--name", "x" * 100, words=("63",))


def test_sizes():
    for value in ("16M", "16384K", "16777216", "16MiB", "size=16m", "1G"):
        boots("--memory", value)
    for value in ("2", "count=3"):
        boots("--cpus", value)


def test_aliases():
    with Vm("--mem", "16M", "--append", "period_ms=20", "--name=alias", control=False,
            start=False) as vm:
        vm.argv += ["--api-socket=" + vm.control_path]
        vm.control = True
        vm.start()
        vm.wait_ticks(3)
        assert vm.qmp.command("query-name") == {"name": "alias"}
        vm.update()
        vm.wait_ticks(2)
        vm.check_ticks()


def test_run_is_the_default():
    with Vm("--memory", "16M", cmdline="ticks=2 period_ms=20", control=False, start=False) as vm:
        vm.argv.remove("run")
        vm.start()
        assert vm.wait_exit(30) == 0
        assert "ticker: done" in vm.serial()


def test_default_of_a_shortened_command_line_is_updated():
    with Vm("--memory", "16M", cmdline="period_ms=20", start=False) as vm:
        vm.argv.remove("run")
        vm.start()
        vm.wait_ticks(1)
        vm.update()
        vm.update()
        vm.wait_ticks(2)
        vm.check_ticks()


def test_more_than_4_gib():
    """RAM above the PCI hole, filled in part: the guest finds all of it and it survives an update."""
    with Vm("--memory", "5G", kernel="probe", cmdline="ram_mib=128 period_ms=100") as vm:
        vm.wait_serial("probe: ready")
        vm.update()
        for _ in range(2):
            size = len(vm.serial())
            vm.wait_serial("probe: pass", after=size)
        assert "CHANGED" not in vm.serial(), vm.serial()
    with Vm("--memory", "5G", cmdline="period_ms=20") as vm:
        vm.wait_ticks(2)
        with open("/proc/%d/maps" % vm.pid) as f:
            sizes = [int(b, 16) - int(a, 16) for a, b in
                     (line.split()[0].split("-") for line in f if "molt-ram" in line)]
        assert sum(sizes) == 5 << 30, sizes
        vm.update()
        vm.wait_ticks(2)
        vm.check_ticks()


# ---- state files ----

def saved_state(vm):
    path = vm.path("state")
    vm.update(state_file=path)
    with open(path, "rb") as f:
        return path, f.read()


def test_state():
    with Vm("--memory", "32M", "--cpus", "2", cmdline="period_ms=20") as vm:
        path, data = saved_state(vm)
        state = json.loads(molt("state", path).stdout)
            # One of them only says that it is there.
        assert [s["name"] for s in state["sections"] if not s["fields"]] == ["pvpanic"]
        summary = molt("state", "--summary", path)
        for section in state["sections"]:
            assert section["name"] in summary.stdout
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert molt("state", vm.path("none")).returncode == 1
        assert molt("state", vm.dir).returncode == 1
        assert molt("state", "/dev/null").returncode == 1
        assert molt("state").returncode == 2


def test_damaged_states():
    rand = random.Random(3)
    with Vm("--memory", "32M", cmdline="period_ms=20") as vm:
        path, data = saved_state(vm)
        samples = [data[:cut] for cut in (0, 1, 7, 64, len(data) // 2, len(data) - 1)]
        samples += [data + b"\0", data[:100] + data[101:], data[64:]]
        for at in [0, 8, len(data) - 1] + [rand.randrange(len(data)) for _ in range(20)]:
            flipped = bytearray(data)
            flipped[at] ^= 1 << rand.randrange(8)
            samples.append(bytes(flipped))
        for i, sample in enumerate(samples):
            bad = vm.path("bad")
            with open(bad, "wb") as f:
                f.write(sample)
            done = molt("state", bad)
            assert done.returncode == 1 and bad in done.stderr and not done.stdout, (i, done)


def test_incoming_is_not_for_people():
    """The state alone is no guest: RAM and descriptors come from the running molt."""
    with Vm("--memory", "32M", cmdline="period_ms=20") as vm:
        path, _ = saved_state(vm)
        for uri in ("file:" + path, "file:/none", "tcp:localhost:1", "", "file:"):
            refused(1, "--incoming", uri, words=("molt update",))
        assert vm.running()


def test_hostile_fd_tables():
    """What the environment names may be anything."""
    with Vm("--memory", "32M", cmdline="period_ms=20") as vm:
        path, data = saved_state(vm)
        name = fd_table_variable(vm)
        for value in ("", "x", "-1", "99999", "1e3", "4294967296", "0", "1", "2"):
            refused(1, "--incoming", "file:" + path, env=dict(os.environ, **{name: value}))
        for content in (b"", b"molt", data, data[:1000]):
            with open(vm.path("table"), "wb") as f:
                f.write(content)
            with open(vm.path("table"), "rb") as f:
                refused(1, "--incoming", "file:" + path, pass_fds=[f.fileno()],
                        env=dict(os.environ, **{name: str(f.fileno())}))


def fd_table_variable(vm):
    with open("/proc/%d/environ" % vm.pid) as f:
        names = [entry.split("=")[0] for entry in f.read().split("\0")]
    found = [n for n in names if n.startswith("MOLT") and "FD" in n and n not in os.environ]
    assert len(found) == 1, names
    return found[0]


# ---- output ----

def test_standard_output_closed_or_full():
    with Vm("--memory", "32M", cmdline="period_ms=20") as vm:
        path, _ = saved_state(vm)
        for args in (("state", path), ("--help",), ("ctl", vm.control_path, "query-status"),
                     ("update", vm.control_path)):
            with open("/dev/full", "w") as full:
                done = molt(*args, stdout=full)
                assert done.returncode == 1 and "standard output" in done.stderr, done
            done = subprocess.run(["sh", "-c", '"$0" "$@" >&-', molt_binary(), *args],
                                  stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            assert done.returncode == 1 and "standard output" in done.stderr, done
        vm.wait_ticks(2)  # the updates took place all the same
        assert vm.qmp.command("query-update")["updates"] == 3
        vm.check_ticks()


def test_log_file():
    with Vm("--memory", "32M", cmdline="period_ms=20", start=False) as vm:
        log = vm.path("molt.log")
        with open(log, "w") as f:
            f.write("precious\n")
        vm.argv += ["--log-file", log, "--log-level", "debug"]
        vm.start()
        for _ in range(3):
            vm.update()

        def lines(path, wanted):  # they are written by a thread, soon
            vm.wait_for(lambda: wanted in open(path, encoding="utf-8").read(), wanted)
            with open(path, encoding="utf-8") as f:
                return f.read()

        text = lines(log, "update 3 from")
        assert text.startswith("precious\n"), text
        for i in (1, 2, 3):
            assert "update %d from" % i in text, text
        os.rename(log, log + ".1")  # it stays open: nothing is reopened by its path
        vm.update()
        vm.qmp.command("stop")
        assert not SANITIZER.search(lines(log + ".1", "update 4 from"))
        assert not os.path.exists(log)
        refused(1, "--log-file", "/no/such/dir/log", words=("/no/such/dir/log",))


def test_a_failed_start_is_told_on_standard_error_too():
    """Who starts it looks there; and the disk that the log is on may be full."""
    with tempfile.TemporaryDirectory() as tmp:
        log = os.path.join(tmp, "log")
        for path in (log, "/dev/full"):
            refused(1, "--log-file", path, "--kernel", "/no/such/kernel", words=("/no/such/kernel",))
        with open(log, encoding="utf-8") as f:
            assert "/no/such/kernel" in f.read()
        done = refused(1, "--log-file", "/dev/stderr", "--kernel", "/no/such/kernel", words=("/no/such/kernel",))
        assert done.stderr.count("/no/such/kernel") == 1, done.stderr


def test_log_to_a_full_disk():
    with Vm("--memory", "32M", "--log-file", "/dev/full", cmdline="period_ms=20") as vm:
        vm.wait_ticks(1)
        vm.update()
        vm.wait_ticks(2)
        vm.check_ticks()


def test_kvm_missing():
    """In a mount namespace with an empty /dev, where one can be made."""
    script = 'mount -t tmpfs none /dev && exec "$0" run --serial null </proc/self/cmdline'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, molt_binary()], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        raise Skip("no mount namespace can be made here: " + done.stderr.strip())
    assert done.returncode == 1 and "/dev/kvm" in done.stderr, done


if __name__ == "__main__":
    need_kvm()
    # How molt ends is the other half of how it is called: one suite.
    run_cases({**globals(), **{name: case for name, case in vars(test_exit_codes).items() if name.startswith("test_")}})
