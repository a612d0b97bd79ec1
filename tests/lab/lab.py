#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run a command in the lab: a nested host, emulated in software, with a real kvm_amd in it.

    lab.py run [--cpus N | --icount] [--mem SIZE] [--timeout S] [--rw DIR] [--disk FILE]... [--new-kernel]
               -- COMMAND ARGS...

The command sees this machine's files read-only, DIR writable at its own path, fresh /tmp, /run, /dev/shm, /proc and
/sys, and a working /dev/kvm.  Its output comes out here as it is written; its exit status is lab.py's.  Statuses of
the lab's own: 122 the nested host broke under the command (its kernel panicked or stood still, or the emulator crashed),
123 there is no lab to be had here (it cannot be fetched, or does not boot), 124 the command ran out of time, 125 the lab
died under the command.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import cpio
import emulator
import fetch
import modules

HOST_BROKEN = 122
UNAVAILABLE = 123
TIMED_OUT = 124
LAB_FAILED = 125

# Seconds from the start of QEMU to the command.  Four or so on an idle machine; a busy one may be many times slower.
BOOT_LIMIT = 150

# Seconds without a sign of life (init gives one every five) after which the nested host is given up. Where time counts
# instructions, those five may be a minute and a half.
SILENCE_LIMIT = 90
SILENCE_LIMIT_ICOUNT = 900
# The part of them after which it is looked at what the CPU does.
LOOK_AFTER = 1 / 6
PROD_SECONDS = 1

HOST_MODULES = ["virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "tun", "kvm_amd"]

# tsc=reliable: under emulation the clock watchdog sees jitter and would throw the TSC out, and with it kvm's master
# clock, on which guests' clocks stand.  A CPU that is stuck never comes back: better a panic, which says so at once.
# The rest makes for a fast and quiet boot.
KERNEL_COMMAND_LINE = ("console=ttyS0 quiet loglevel=4 panic=-1 softlockup_panic=1 sysctl.kernel.panic_on_rcu_stall=1 "
                       "tsc=reliable no_timer_check mitigations=off random.trust_cpu=on audit=0 apparmor=0 rdinit=/init")


class BootFailed(Exception):
    """The nested host did not get as far as the command."""


class LabFailed(Exception):
    """The nested host died under the command."""


class HostBroken(LabFailed):
    """No command can be the cause of that; see "Faults of the emulated CPU" in README.md."""


def parse(argv):
    parser = argparse.ArgumentParser(prog="lab.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    run = parser.add_subparsers(dest="verb", required=True).add_parser("run", help="run a command in the lab")
    run.add_argument("--cpus", type=int, default=2, help="CPUs of the nested host (2)")
    run.add_argument("--icount", action="store_true", help="one CPU, and time is what it executes: 1 ns an instruction")
    run.add_argument("--mem", default="4G", help="its memory, as QEMU's -m (4G; 12G makes the boot 2 s longer)")
    run.add_argument("--timeout", type=float, default=None, help="seconds that the command may take (no limit)")
    run.add_argument("--rw", default=None, metavar="DIR", help="a directory that the command may write to")
    run.add_argument("--disk", action="append", default=[], metavar="FILE",
                     help="a raw image that the command finds as /dev/vda, the next as /dev/vdb; writes do not reach it")
    run.add_argument("--module", action="append", default=[], help="one more kernel module for the nested host")
    run.add_argument("--new-kernel", action="store_true", help="the nested host's kernel is Debian 13's or newer")
    run.add_argument("--verbose", action="store_true", help="say on stderr how long things took")
    run.add_argument("command", nargs="*", metavar="-- COMMAND ARGS")
    # Cut at "--" here: what argparse does with a second one among ARGS depends on Python's version.
    cut = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:cut])
    args.command += argv[cut + 1:]
    if not args.command:
        parser.error("which command?")
    if args.icount:
        args.cpus = 1
    return args


def command_script(command):
    """A shell script that becomes the command: same words, environment and directory as here."""
    environment = [name + b"=" + value for name, value in os.environb.items()]
    words = [b"/usr/bin/env", b"-i", *environment]
    if "=" in command[0]:
        words += [b"/bin/sh", b"-c", b'exec "$@"', b"sh"]  # or env would take the command for a variable
    words += map(os.fsencode, command)
    quoted = b" ".join(os.fsencode(shlex.quote(os.fsdecode(word))) for word in words)
    directory = os.fsencode(shlex.quote(os.getcwd()))
    return b"cd %s 2>/dev/null || cd /\nexec %s\n" % (directory, quoted)


def build_initramfs(path, manifest, args):
    archive = cpio.Archive()
    for name in ("proc", "sys", "dev", "host"):
        archive.directory(name)
    archive.device("dev/console", 5, 1)
    archive.copy("bin/busybox", manifest["busybox"])
    archive.symlink("bin/sh", "busybox")
    archive.copy("init", os.path.join(os.path.dirname(os.path.abspath(__file__)), "init"))
    ordered = modules.ModuleSet(manifest["host_modules"]).load_order(
        HOST_MODULES + args.module + (["virtio_blk"] if args.disk else []))
    for name, image in ordered:
        archive.file(f"lab/{name}.ko", image)
    archive.file("lab/modules", "\n".join(name for name, _ in ordered).encode())
    archive.file("lab/rw", os.fsencode(args.rw or ""))
    archive.file("lab/command", command_script(args.command))
    archive.write(path)


def qemu_arguments(manifest, args, work):
    share = "local,security_model=none,multidevs=remap"
    arguments = [
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", "q35", "-cpu", "EPYC,+svm,+npt",
        # While it is idle, time goes to the next timer at once.
        *(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"] if args.icount
          else ["-accel", "tcg,thread=multi"]),
        "-smp", str(args.cpus), "-m", args.mem,
        "-kernel", manifest["host_kernel"], "-initrd", os.path.join(work, "initramfs"),
        "-append", KERNEL_COMMAND_LINE,
        "-chardev", f"file,id=console,path={work}/console.log", "-serial", "chardev:console",
        "-chardev", f"file,id=control,path={work}/control",
        # Not "stdio": its end-of-file on stdin would count as the far side having hung up.
        "-chardev", "file,id=output,path=/dev/stdout",
        "-device", "virtio-serial-pci",
        "-device", "virtserialport,chardev=control,name=lab.control",
        "-device", "virtserialport,chardev=output,name=lab.output",
        *emulator.arguments(work),
        "-device", "virtio-rng-pci",
        "-virtfs", f"{share},readonly=on,path=/,mount_tag=root",
    ]
    if args.rw:
        arguments += ["-virtfs", f"{share},path={args.rw.replace(',', ',,')},mount_tag=rw"]
    for i, disk in enumerate(args.disk):
        # The file may be a disk of several labs at once: what this one writes goes to a file that is unlinked at once.
        arguments += ["-drive", f"if=none,id=disk{i},file={disk.replace(',', ',,')},format=raw,snapshot=on,cache=unsafe,"
                      "discard=unmap", "-device", f"virtio-blk-pci,drive=disk{i}"]
    return arguments


def control_bytes(work):
    try:
        return os.path.getsize(os.path.join(work, "control"))
    except OSError:
        return 0


def control_lines(work):
    try:
        with open(os.path.join(work, "control")) as f:
            return [line.rstrip("\n") for line in f if line.endswith("\n")]
    except OSError:
        return []


def relay(source):
    """QEMU's stdout to ours, byte for byte, as it comes."""
    while True:
        data = os.read(source.fileno(), 65536)
        if not data:
            return
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def watch(qemu, args, work, times):
    """Wait for the end of QEMU; give up on a boot, or on a command, that takes too long, and on a host that is silent."""
    started = alive = time.monotonic()
    silence = SILENCE_LIMIT_ICOUNT if args.icount else SILENCE_LIMIT
    booted = looked = None
    prodded = started
    said = 0
    while qemu.poll() is None:
        time.sleep(0.05)
        now = time.monotonic()
        if said != (said := control_bytes(work)):
            alive = now
        if booted is None and control_lines(work):
            booted = now
            times["boot"] = now - started
        if booted is None and now - started > BOOT_LIMIT:
            raise BootFailed(f"no boot within {BOOT_LIMIT} seconds")
        if booted is not None and args.timeout and now - booted > args.timeout:
            raise TimeoutError
        # Where time counts instructions the CPU's own thread fires the timers, and all that it does can be repeated.
        if not args.icount and now - prodded >= PROD_SECONDS:
            prodded = now
            emulator.prod(work)
        if booted is not None and now - alive > silence * LOOK_AFTER and looked != alive:
            looked = alive
            emulator.look(work, now - alive)
        if booted is not None and now - alive > silence:
            raise HostBroken(why_broken(work) or f"the nested host gave no sign of life for {silence} seconds")
    times["all"] = time.monotonic() - started


def attempt(manifest, args, work):
    """One boot and one run: the command's exit status."""
    with open(os.path.join(work, "qemu.log"), "wb") as log:
        argv, env = fetch.qemu_command(manifest)
        qemu = subprocess.Popen(argv + qemu_arguments(manifest, args, work), env=env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=log)
    copier = threading.Thread(target=relay, args=(qemu.stdout,), daemon=True)
    copier.start()
    times = {}
    try:
        watch(qemu, args, work, times)
    finally:
        qemu.kill()
        qemu.wait()
        copier.join(10)
    if os.path.exists(os.path.join(work, "monitor.log")) and qemu.returncode == 0:
        print(f"lab: the nested host was silent for a while; logs: {keep_logs(work)}", file=sys.stderr, flush=True)
    lines = control_lines(work)
    if "booted" not in lines:
        raise BootFailed(f"QEMU ended (status {qemu.returncode}) before the command started")
    for line in lines:
        if line.startswith("exit "):
            if args.verbose:
                print(f"lab: boot {times.get('boot', 0):.1f} s, all {times['all']:.1f} s", file=sys.stderr)
            return int(line.split()[1])
    why = why_broken(work)
    if not why and qemu.returncode < 0:
        why = f"the emulator crashed (signal {-qemu.returncode})"
    if why:
        raise HostBroken(why)
    raise LabFailed(f"the nested host died under the command (QEMU's status: {qemu.returncode})")


def why_broken(work):
    """What the nested host's kernel said first of its end, or None."""
    with open(os.path.join(work, "console.log"), errors="replace") as f:
        match = re.search(r"\] ((?:watchdog: |rcu: INFO: )?(?:BUG: |Oops: |Kernel panic |general protection fault|"
                          r"rcu_\w+ (?:self-)?detected ).*)", f.read())
    return match and "the nested host's kernel: " + match.group(1).strip()


def keep_logs(work):
    """The logs to a place that outlives this run."""
    kept = tempfile.mkdtemp(prefix="molt-lab-failed-")
    for name in ("console.log", "qemu.log", "monitor.log"):
        if os.path.exists(os.path.join(work, name)):
            shutil.copy(os.path.join(work, name), kept)
    return kept


def run(args):
    if args.rw:
        args.rw = os.path.realpath(args.rw)
        os.makedirs(args.rw, exist_ok=True)
    try:
        manifest = (fetch.ensure_new_kernel if args.new_kernel else fetch.ensure)()
    except fetch.FetchError as e:
        print(f"lab: {e}", file=sys.stderr)
        return UNAVAILABLE
    for last in (False, True):
        with tempfile.TemporaryDirectory(prefix="molt-lab-") as work:
            build_initramfs(os.path.join(work, "initramfs"), manifest, args)
            try:
                return attempt(manifest, args, work)
            except TimeoutError:
                what, status = f"the command took more than {args.timeout:g} seconds", TIMED_OUT
            except LabFailed as e:
                what, status = str(e), HOST_BROKEN if isinstance(e, HostBroken) else LAB_FAILED
            except BootFailed as e:
                what, status = str(e), None
            print(f"lab: {what}; logs: {keep_logs(work)}", file=sys.stderr, flush=True)
        if status is not None:
            return status
        if not last:
            print("lab: booting once more", file=sys.stderr, flush=True)
    return UNAVAILABLE


def main():
    # A polite kill must take QEMU along too: raise, so that "finally" runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(run(parse(sys.argv[1:])))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
