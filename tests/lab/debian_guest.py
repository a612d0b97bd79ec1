# SPDX-License-Identifier: MIT
"""A stock Debian on a disk of its own, for the tests in the lab: its login, fio and PostgreSQL in it, its kernel's log.

    with DebianGuest("--disk", "path=/dev/vda") as guest:
        guest.boot()
        guest.start_fio()
        guest.update()
        guest.stop_fio()
"""
import base64
import os
import re
import signal
import time

from guest_shell import GuestTimeout
from report import DataLost
from stock_guest import StockGuest

import moltvm  # noqa: E402 -- found by stock_guest's path

# To the login on emulated CPUs: 40 seconds on an idle machine.
BOOT_LIMIT = 300

# Each pass writes every block of the file once, in a random order, and reads it back as it goes along.
FIO = """#!/bin/sh
cd /var/tmp
pass=0
while [ ! -e /run/fio/stop ]; do
    fio --name=blocks --filename=fio.dat --size=%(mib)dM --rw=randwrite --bsrange=4k-32k --direct=1 --ioengine=libaio \\
        --iodepth=32 --fsync=64 --verify=crc32c --verify_backlog=512 --verify_fatal=1 --randseed=$pass \\
        --output=/run/fio/log || { echo failed >/run/fio/bad; break; }
    pass=$((pass + 1))
    echo $pass >/run/fio/passes
done
: >/run/fio/done
"""

# Says of each row that its transaction was committed, as psql hears it from the server.
COMMITS = r"""#!/bin/sh
cd /
row=$1
while :; do
    printf 'INSERT INTO acked VALUES (%d);\n\\echo ack=%d.\n' "$row" "$row"
    row=$((row + 1))
done | su postgres -c 'psql -qAt -v ON_ERROR_STOP=1'
"""


class DebianGuest(StockGuest):
    files = "MOLT_LAB_DEBIAN"

    def __init__(self, *options, postgres=False, **keywords):
        if not postgres:
            keywords["cmdline"] = "systemd.mask=postgresql.service"    # half of the boot
        super().__init__("--cpus", "2", "--memory", "768M", *options, **keywords)

    def boot(self):
        """Seconds until the login, after which a plain shell awaits commands."""
        began = time.monotonic()
        self.shell.wait_for("login: ", BOOT_LIMIT)
        seconds = time.monotonic() - began
        self.shell.send("root\r")
        self.shell.wait_for("~# ", 90)
        # No line editor, no pager; the quotes keep the echo of the line from looking like the prompt.
        self.shell.send("cd /; exec env TERM=dumb PAGER=cat PS1='GUEST''# ' bash --norc --noediting\r")
        self.shell.wait_for_prompt(90)
        return seconds

    def wait_booted(self):
        """Until systemd has nothing to start any more, whose answer is returned: "running", if nothing failed."""
        return self.shell.run("systemctl is-system-running --wait; udevadm settle", BOOT_LIMIT)[0].strip()

    def must(self, command, timeout=60):
        output, status = self.shell.run(command, timeout)
        if status:
            raise AssertionError("in the guest: %s: exit status %d: %s" % (command, status, output))
        return output

    def put_script(self, path, text):
        """In pieces, for the guest's terminal takes no long lines."""
        coded = base64.b64encode(text.encode()).decode()
        self.must(": >/run/coded")
        for i in range(0, len(coded), 700):
            self.must("echo %s >>/run/coded" % coded[i:i + 700])
        self.must("base64 -d /run/coded >%s" % path)

    # ---- fio ----

    def start_fio(self, mib=32):
        self.must("rm -rf /run/fio; mkdir /run/fio; echo 0 >/run/fio/passes")
        self.put_script("/run/fio/load", FIO % {"mib": mib})
        self.must("(setsid sh /run/fio/load </dev/null >/run/fio/out 2>&1 &)")

    def fio_passes(self):
        """How often every block was written and found as it was written; raises if one was not."""
        words = self.must("cat /run/fio/passes; cat /run/fio/bad 2>/dev/null || echo good", 90).split()
        if words[1] != "good":
            raise DataLost("fio: " + self.must("tail -n 30 /run/fio/log /run/fio/out", 90))
        return int(words[0])

    def wait_fio_passes(self, more, timeout=300):
        deadline, wanted = time.monotonic() + timeout, self.fio_passes() + more
        while self.fio_passes() < wanted:
            if time.monotonic() > deadline:
                raise GuestTimeout("%d more passes of fio" % more, "")
            time.sleep(1)

    def stop_fio(self):
        """Whole passes in all. The one that was begun is ended first."""
        self.must("touch /run/fio/stop")
        self.must("until [ -e /run/fio/done ]; do sleep 0.5; done", 300)
        return self.fio_passes()

    def fio_figures(self):
        return self.must("grep -E 'IOPS=|err=' /run/fio/log", 90).strip()

    # ---- PostgreSQL ----

    def sql(self, statement, timeout=120):
        return self.must("su postgres -c 'psql -qAt -v ON_ERROR_STOP=1 -c \"%s\"'" % statement, timeout).strip()

    def wait_postgres(self):
        self.must("until su postgres -c 'psql -qAtc \"select 1\"' >/dev/null 2>&1; do sleep 0.5; done", BOOT_LIMIT)

    def start_commits(self, first):
        """From now on the serial line says "ack=N." of each row that was committed."""
        self.put_script("/run/commits", COMMITS)
        self.shell.send("sh /run/commits %d\r" % first)

    def wait_ack(self, timeout=90):
        """The next row whose commit is acknowledged."""
        pattern = re.compile(rb"ack=(\d+)\.")
        return int(pattern.search(self.shell.wait_for(pattern, timeout).encode()).group(1))

    # ---- processes on the host ----

    def io_processes(self):
        """Process ids of `molt io` for this guest; by the session, for their parent may have died."""
        found = []
        for pid, state in moltvm.session_states(self.vm.proc.pid).items():
            try:
                with open("/proc/%d/cmdline" % pid) as f:
                    words = f.read().split("\0")
            except OSError:
                continue
            if state not in "ZX" and words[1:2] == ["io"]:
                found.append(pid)
        return found

    def kill_io(self):
        """kill -9 of what runs of `molt io`: the ids."""
        killed = self.io_processes()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        return killed

    def wait_new_io(self, killed, timeout=60):
        self.vm.wait_for(lambda: set(self.io_processes()) - set(killed), "a new I/O process", timeout)

    def follow(self, pid):
        """After a way back: the guest runs in this process."""
        self.vm.follow(pid)
        self.pid = pid

    def wait_end(self, timeout=120):
        """The exit status of whatever process had the guest last."""
        status = super().wait_end(timeout) if not self.vm.moved else self.wait_moved_end(timeout)
        self.vm.wait_for(lambda: not moltvm.session_lives(self.vm.proc.pid), "end of all of molt's processes", timeout)
        return status

    def wait_moved_end(self, timeout):
        """A subreaper's child (see walk.become_subreaper)."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.vm.moved, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        raise AssertionError("process %d, which had the guest, does not end" % self.vm.moved)
