# SPDX-License-Identifier: MIT
"""The iops guest (firmware/iops.c) under molt and under QEMU, each with disks, and the phases that it runs."""
import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import host
from mailbox import Gone, Mailbox
from moltvm import Vm, io_processes

MIB = 1 << 20
RAM_MIB = 256
# What is asked for, then what comes of it (struct iops_phase).
PHASE = "write sequential bytes depth queues sleeps ms requests errors ticks kicks interrupts slowest".split()


class Iops(Mailbox):
    MAGIC = struct.pack("<Q", 0x53504F4945424D4F)
    FIELDS = ("magic tsc_khz first ready sectors features ask ask_done stop reset reset_done now gap gap_end "
              "io_last io_gap io_gap_end").split() + PHASE

    def begin(self, **phase):
        """Starts a phase: what is not named is 0, but for one queue of blocks of 4 KiB."""
        phase = {"bytes": 4096, "queues": 1, "depth": 1, **phase}
        for name in PHASE:
            self[name] = phase.get(name, 0)
        self["ask"] = self["ask"] + 1

    def end(self, timeout=60):
        self.wait(lambda: self["ask_done"] == self["ask"], "end of a phase", timeout)
        done = {name: self[name] for name in PHASE}
        if done["errors"]:
            raise Gone("%d requests failed" % done["errors"])
        return done

    def stop(self, timeout=60):
        self["stop"] = 1
        return self.end(timeout)

    def run(self, **phase):
        self.begin(**phase)
        return self.end()

    def clock(self):
        """(CLOCK_MONOTONIC, the guest's TSC) at the same time, to some microseconds."""
        self.begin(queues=0, depth=0, ms=60000)
        seen, found = self["now"], []
        self.wait(lambda: self["now"] != seen, "a reading of the TSC")
        for _ in range(500):
            before, now, after = time.monotonic(), self["now"], time.monotonic()
            found.append((after - before, (before + after) / 2, now))
        self.stop()
        return min(found)[1:]


def make_file(path, size):
    """Written, not only allocated: a hole is read faster, and the first write to it is slower."""
    block = os.urandom(MIB)
    with open(path, "wb") as f:
        for _ in range(size // MIB):
            f.write(block)
        f.flush()
        os.fsync(f.fileno())


class Guest:
    """A VMM that runs the iops guest with some disks: [(file, direct)]."""

    def __init__(self, tools, disks, queues=1, wait=True):
        self.tools, self.disks, self.queues = tools, disks, queues
        self.dir = tempfile.mkdtemp(prefix="molt-iops-", dir="/dev/shm")
        self.serial_path = os.path.join(self.dir, "serial")
        self.mailbox = None
        self.cmdline = "run=asked queues=%d%s" % (queues, "" if disks else " disk=none")
        try:
            self.started = time.monotonic()
            self.start()
            host.favour(self.pid())
            if wait:
                self.attach()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def serial(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.serial_path, errors="replace") as f:
                return f.read()
        return ""

    def attach(self):
        """Only when it is ready: to search for the mailbox touches RAM."""
        end = time.monotonic() + 60
        while "iops: ready" not in self.serial():
            if not self.alive() or "FAILED" in self.serial() or time.monotonic() > end:
                raise Gone("%s: the guest does not begin: %s" % (self.name, self.serial() + self.log()))
            time.sleep(0.005)
        self.mailbox = Iops(self.pid(), self.memfd, self.alive)

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(self.dir, "log")) as f:
                return f.read()[-500:]
        return ""

    def close(self):
        if self.mailbox:
            self.mailbox.close()
        self.end()
        shutil.rmtree(self.dir, ignore_errors=True)

    def pss(self):
        """KiB of all its processes, what is shared counted in parts; without guest RAM."""
        return sum(pss_outside(pid, self.memfd) for pid in self.processes())


def pss_outside(pid, memfd):
    total, counts = 0, True
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            word = line.split()[0]
            if "-" in word and not word.endswith(":"):
                counts = "memfd:" + memfd not in line
            elif word == "Pss:" and counts:
                total += int(line.split()[1])
    return total


class MoltGuest(Guest):
    name, memfd = "molt", "molt-ram"
    vm = None

    def start(self):
        words = []
        for path, direct in self.disks:
            words += ["--disk", "path=%s,queues=%d,direct=%s" % (path, self.queues, "on" if direct else "off")]
        self.vm = Vm("--memory", "%dM" % RAM_MIB, "--log-level", "warn", *words, kernel=self.tools.guest,
                     binary=self.tools.molt, cmdline=self.cmdline, directory=self.dir)
        self.argv = self.vm.argv

    def pid(self):
        return self.vm.pid

    def alive(self):
        return self.vm.proc.poll() is None

    def processes(self):
        return [self.vm.pid] + io_processes(self.vm)

    def settle(self):
        """Until nothing is left of the last update; its last process runs at the lowest priority."""
        for pid in self.vm.others():
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, pid, 0)
        self.vm.wait_for(lambda: not [p for p in self.vm.others() if p not in io_processes(self.vm)],
                         "end of what an update leaves for later")
        time.sleep(0.02)

    def end(self):
        if self.vm:
            self.vm.__exit__(None, None, None)


class QemuGuest(Guest):
    name, memfd = "qemu", "memory-backend"
    proc = None

    def start(self):
        argv, env, _ = self.tools.qemu
        words = ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "kvm", "-cpu", "host",
                 "-machine", "q35,hpet=off,memory-backend=ram0", "-smp", "1", "-m", "%dM" % RAM_MIB,
                 "-object", "memory-backend-memfd,id=ram0,share=on,size=%dM" % RAM_MIB,
                 "-kernel", self.tools.guest, "-append", self.cmdline, "-serial", "file:" + self.serial_path]
        for i, (path, direct) in enumerate(self.disks):
            words += ["-object", "iothread,id=io%d" % i, "-blockdev",
                      "driver=file,node-name=f%d,filename=%s,aio=io_uring,cache.direct=%s" % (
                          i, path, "on" if direct else "off"),
                      "-device", "virtio-blk-pci,drive=f%d,iothread=io%d,disable-legacy=on,num-queues=%d,"
                      "queue-size=128" % (i, i, self.queues)]
        self.argv = argv + words
        with open(os.path.join(self.dir, "log"), "w") as log:
            # A session of its own, as molt has: the scheduler shares CPUs out among sessions.
            self.proc = subprocess.Popen(self.argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         start_new_session=True)

    def pid(self):
        return self.proc.pid

    def alive(self):
        return self.proc.poll() is None

    def processes(self):
        return [self.proc.pid]

    def end(self):
        if self.proc:
            self.proc.kill()
            self.proc.wait()
