#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A stock Debian on a disk, in the lab: updates, failed updates and dying back-ends beneath fio and PostgreSQL.

Run by lab_test.py, with --disks 2. Arguments: the stories to run. Without any: the first, and with MOLT_TIER=all, all.
What a story does how often is in these variables of the environment, for a quick run of one's own:

    MOLT_DISK_UPDATES       updates that work (30)
    MOLT_DISK_FAILURES      and then pairs of one that works and one that fails after the exec (5)
    MOLT_DISK_PAUSE         seconds from one to the next (2)
    MOLT_IO_KILLS           kill -9 of the I/O process (50)
    MOLT_BACKEND_OUTAGE     seconds without qemu-storage-daemon (90)
    MOLT_POSTGRES_KILLS     kill -9 right after an acknowledged commit (20)
    MOLT_FIO_MIB            size of the file that fio writes and verifies (32)
"""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "lib"), os.path.join(os.path.dirname(HERE), "faults")]

import storage_daemon  # noqa: E402
from debian_guest import DebianGuest  # noqa: E402
from report import DataLost, Report  # noqa: E402
from stock_linux import use_huge_pages  # noqa: E402
from walk import Walker  # noqa: E402
import moltvm  # noqa: E402

UPDATES = int(os.environ.get("MOLT_DISK_UPDATES", "30"))
FAILURES = int(os.environ.get("MOLT_DISK_FAILURES", "5"))
PAUSE = float(os.environ.get("MOLT_DISK_PAUSE", "2"))
IO_KILLS = int(os.environ.get("MOLT_IO_KILLS", "50"))
OUTAGE = float(os.environ.get("MOLT_BACKEND_OUTAGE", "90"))
POSTGRES_KILLS = int(os.environ.get("MOLT_POSTGRES_KILLS", "20"))
FIO_MIB = int(os.environ.get("MOLT_FIO_MIB", "32"))

# The nested host's own, each with the Debian image; the second is only ever read.
DISK, BASE = "/dev/vda", "/dev/vdb"


# ---- what all of them do ----

class FailedUpdates(Walker):
    """Updates of a running guest that fail after the exec, by a successor that gives the guest back or dies."""

    def __init__(self, guest):
        super().__init__(guest.binary)
        self.guest, self.vm = guest, guest.vm

    def fail(self, scenario):
        end, why = self.update(scenario)
        if end == "done":
            raise AssertionError("the update '%s' ought to have failed" % scenario)
        self.guest.follow(self.vm.pid)
        return "%s: %s" % (scenario, why)

    def __exit__(self, *what):
        self.tmp.cleanup()

    def __enter__(self):
        return self


def boot(report, guest):
    seconds = guest.boot()
    state = guest.wait_booted()
    report.check("Debian boots to its login, and all of its units start", state == "running",
                 "%.1f s to the login; %s" % (seconds, state))
    mounts = guest.must("findmnt -n -o SOURCE,FSTYPE,OPTIONS /")
    report.check("its root is the disk, and can be written", "/dev/vda" in mounts and " rw" in mounts, mounts)


@contextlib.contextmanager
def verified_load(report, guest):
    """fio before, while and after something happens: no bad block, no new line in the kernel's log."""
    kernel_lines = guest.plant_kernel_line()
    guest.start_fio(FIO_MIB)
    guest.wait_fio_passes(1)
    before, began = guest.fio_passes(), time.monotonic()
    yield
    during, seconds = guest.fio_passes() - before, time.monotonic() - began
    guest.wait_fio_passes(2)
    passes = guest.stop_fio()
    report.check("fio found no bad block, and went on to the end", passes >= before + 2,
                 "%d whole passes of %d MiB, %d of them in those %.0f s\n%s" % (
                     passes, FIO_MIB, during, seconds, guest.fio_figures()))
    new = guest.kernel_lines_since(kernel_lines)
    report.check("the guest's kernel has said nothing since", new == [], "\n".join(new))
    mounts = guest.must("findmnt -n -o OPTIONS /")
    report.check("its root is still writable", mounts.startswith("rw"), mounts)


def power_off(report, guest):
    guest.shell.send("poweroff\r")
    report.check("'poweroff' ends molt with status 0, and all of its processes", guest.wait_end() == 0)


def check_file_system(report, path):
    done = subprocess.run(["/sbin/e2fsck", "-f", "-n", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    report.check("fsck on the host finds nothing", done.returncode == 0, done.stdout[-2000:])


def many_updates(report, guest):
    for _ in range(UPDATES):
        time.sleep(PAUSE)
        guest.update()
    report.check("%d updates, %g s apart: one process" % (UPDATES, PAUSE),
                 guest.updates == UPDATES and guest.vm.proc.poll() is None)
    said = []
    with FailedUpdates(guest) as failed:
        for number in range(FAILURES):
            time.sleep(PAUSE)
            guest.update()
            time.sleep(PAUSE)
            said.append(failed.fail(("give-back", "stand-in")[number % 2]))
    report.check("%d more, of which every second failed after the exec" % (2 * FAILURES),
                 guest.updates == UPDATES + FAILURES and len(said) == FAILURES, "\n".join(said))


# ---- the stories ----

def disk_updates(report):
    with DebianGuest("--disk", "path=" + DISK) as guest:
        boot(report, guest)
        with verified_load(report, guest):
            many_updates(report, guest)
        power_off(report, guest)
    check_file_system(report, DISK)


def disk_io_kills(report):
    with DebianGuest("--disk", "path=%s,direct=on" % DISK) as guest:
        boot(report, guest)
        with verified_load(report, guest):
            for _ in range(IO_KILLS):
                time.sleep(random.uniform(0.02, 1.5))
                killed = guest.kill_io()
                if not killed:
                    raise AssertionError("no I/O process to kill: %s" % guest.vm.others())
                guest.wait_new_io(killed)
            report.check("kill -9 of the I/O process at %d random moments: the same VMM, a new I/O process each time" %
                         IO_KILLS, guest.vm.proc.poll() is None and len(guest.io_processes()) == 1)
            guest.update()
            report.check("an update after it", guest.updates == 1)
        power_off(report, guest)
    check_file_system(report, DISK)


@contextlib.contextmanager
def qcow2_guest(report):
    """A guest whose disk is qemu-storage-daemon's, and that daemon; powered off and checked in the end."""
    directory = tempfile.mkdtemp(prefix="stock-disk-")
    try:
        with storage_daemon.StorageDaemon(directory, BASE) as daemon:
            daemon.start()
            with DebianGuest("--vhost-user", "socket=%s,type=blk" % daemon.socket) as guest:
                boot(report, guest)
                yield guest, daemon
                power_off(report, guest)
            daemon.stop()
            check_file_system(report, daemon.as_raw())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def have_daemon(report):
    if not storage_daemon.PROGRAM:
        report.skip("a disk from qemu-storage-daemon", "there is no qemu-storage-daemon here")
    return storage_daemon.PROGRAM


def qcow2_updates(report):
    if not have_daemon(report):
        return
    with qcow2_guest(report) as (guest, _):
        with verified_load(report, guest):
            many_updates(report, guest)


def qcow2_outage(report):
    if not have_daemon(report):
        return
    with qcow2_guest(report) as (guest, daemon):
        with verified_load(report, guest):
            daemon.stop()
            time.sleep(OUTAGE / 2)
            guest.update()
            time.sleep(OUTAGE / 2)
            report.check("the guest answers without its disk, before an update and after it",
                         guest.must("echo here") == "here\n" and guest.updates == 1)
            daemon.start()
            guest.wait_fio_passes(1)
            report.check("qemu-storage-daemon stopped for %g s and started again: the guest goes on" % OUTAGE, True)


# ---- PostgreSQL ----

def kill_vmm(guest):
    os.kill(guest.pid, signal.SIGKILL)


def kill_io(guest):
    """The guest goes on, with more commits; then its VMM is told to end at once, as by a power cut."""
    killed = guest.kill_io()
    guest.wait_new_io(killed)
    for _ in range(3):
        acked = guest.wait_ack()
    guest.vm.qmp.command("quit")
    return acked


def kill_both(guest):
    kill_vmm(guest)
    guest.kill_io()


VICTIMS = (("the VMM", kill_vmm), ("the I/O process", kill_io), ("both", kill_both))


def commit_until_killed(guest, first, victim):
    """The last row that was acknowledged."""
    guest.start_commits(first)
    acked, end = guest.wait_ack(), time.monotonic() + random.uniform(0.5, 4)
    while time.monotonic() < end:
        acked = guest.wait_ack()
    acked = victim(guest) or acked
    guest.vm.wait_for(lambda: not moltvm.session_lives(guest.vm.proc.pid), "end of all of molt's processes")
    return acked


class Tally:
    """A number in the directory that outlives the nested host: should that break, the story goes on where it was."""

    def __init__(self, name):
        self.path = os.path.join(os.path.dirname(moltvm.molt_binary()), name)

    def get(self):
        try:
            with open(self.path) as f:
                return int(f.read())
        except FileNotFoundError:
            return 0

    def set(self, number):
        with open(self.path, "w") as f:
            f.write(str(number))


def postgres_kills(report):
    acked, newest, tally = 0, 0, Tally("postgres-kills")
    begun = tally.get()
    for number in range(begun, POSTGRES_KILLS + 1):
        with DebianGuest("--disk", "path=" + DISK, postgres=True) as guest:
            seconds = guest.boot()
            guest.wait_postgres()
            guest.sql("CREATE TABLE IF NOT EXISTS acked (row integer PRIMARY KEY)")
            there = int(guest.sql("SELECT count(*) FROM acked WHERE row <= %d" % acked))
            if there != acked:
                raise DataLost("kill %d lost %d of %d acknowledged rows" % (number, acked - there, acked))
            newest = int(guest.sql("SELECT coalesce(max(row), 0) FROM acked"))
            tally.set(number)
            if number == POSTGRES_KILLS:
                power_off(report, guest)
                break
            name, victim = VICTIMS[number % len(VICTIMS)]
            acked = commit_until_killed(guest, newest + 1, victim)
            report.note("kill %d, of %s: %d rows acknowledged, of which the guest was started again with %d; "
                        "login after %.0f s" % (number + 1, name, acked, newest, seconds))
    report.check("%d kills right after a commit: every acknowledged row was there again" % POSTGRES_KILLS,
                 acked >= POSTGRES_KILLS - begun, "%d rows acknowledged, %d there in the end" % (acked, newest))
    check_file_system(report, DISK)


STORIES = [
    ("disk-updates", disk_updates),
    ("disk-io-kills", disk_io_kills),
    ("qcow2-updates", qcow2_updates),
    ("qcow2-outage", qcow2_outage),
    ("postgres-kills", postgres_kills),
]


def main():
    wanted = sys.argv[1:]
    unknown = set(wanted) - {name for name, _ in STORIES}
    if unknown:
        sys.exit("no such story: " + " ".join(unknown))
    use_huge_pages()
    told = [s for s in STORIES if s[0] in wanted] if wanted else STORIES if moltvm.full() else STORIES[:1]
    sys.exit(Report().run(told))


if __name__ == "__main__":
    main()
