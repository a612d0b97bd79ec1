#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The README's half page "A stock Debian on its own disk", word by word, in the lab.

Run by lab_test.py, with --disks 1. The lines come out of README.md, so it cannot promise what does not work. Two of
them are done outside of the nested host, which has no network: packages are installed there, and image.py runs
make-debian-image.sh (with fio and PostgreSQL besides). Its disk is the nested host's /dev/vda, a link to which has the
name that the README says; molt, from another directory, has its place as well.
"""
import os
import pty
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "lib")]

from guest_shell import GuestGone, GuestShell  # noqa: E402
from report import Report  # noqa: E402
import moltvm  # noqa: E402

README = os.path.join(HERE, "..", "..", "README.md")
BEGINS = "A stock Debian on its own disk"
BOOT_LIMIT = 600     # nothing is switched off in this one
COPY_LIMIT = 300


def half_page():
    """(command lines of the host, lines of the console, what is run in another terminal)"""
    with open(README, encoding="utf-8") as f:
        text = f.read().partition(BEGINS)[2].partition("\n\nThe script makes a disk")[0]
    lines = re.findall(r"^    (.*)$", text.replace("\\\n", ""), re.M)
    console = [line for line in lines if "login: " in line or "~# " in line]
    return [line for line in lines if line not in console], console, re.search(r"`(build/molt update [^`]*)`", text)[1]


def fill(path):
    """As a clone is after the README's commands."""
    os.mkdir(os.path.join(path, "build"))
    os.symlink(moltvm.molt_binary(), os.path.join(path, "build", "molt"))
    os.symlink("/dev/vda", os.path.join(path, "debian.img"))
    os.symlink(os.environ["MOLT_LAB_DEBIAN_KERNEL"], os.path.join(path, "debian.vmlinuz"))
    os.symlink(os.environ["MOLT_LAB_DEBIAN_INITRAMFS"], os.path.join(path, "debian.initrd"))


def on_terminal(command, where):
    """What a shell runs on a terminal of its own, and that terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(["/bin/sh", "-c", "exec " + command], cwd=where, stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True)
    os.close(slave)
    return process, GuestShell(master)


def wait_end(process, terminal, seconds):
    """Its exit status; what it still says is taken off the terminal."""
    deadline = time.monotonic() + seconds
    try:
        while process.poll() is None and time.monotonic() < deadline:
            terminal.hear(0.2)
    except GuestGone:
        pass
    return process.wait(max(1, deadline - time.monotonic()))


def readme_debian(report):
    with tempfile.TemporaryDirectory(prefix="readme-") as where:
        fill(where)
        tell(report, where)


def tell(report, where):
    host, console, update = half_page()
    run = [line for line in host if " run " in line]
    report.check("the README installs, makes the image and runs", len(host) == 3 and len(run) == 1, "\n".join(host))
    report.check("by the script that has made this one",
                 host[1].split() == ["scripts/make-debian-image.sh", "--output", "debian.img"], host[1])
    process, terminal = on_terminal(run[0], where)
    try:
        (prompt, user), (shell, copy) = console[0].split(": "), console[1].split("# ")
        began = time.monotonic()
        terminal.wait_for(prompt + ": ", BOOT_LIMIT)
        report.check("the login is on the console", True, "%.0f s" % (time.monotonic() - began))
        terminal.send(user + "\r")
        terminal.wait_for(shell + "# ", 90)
        terminal.send(copy + "\r")
        terminal.wait_for("copied", COPY_LIMIT)
        done = subprocess.run(update.split(), cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=300)
        terminal.hear(0)
        report.check("an update while the disk is written to",
                     done.returncode == 0 and b"records out" not in terminal.pending, done.stdout)
        terminal.wait_for(re.compile(rb"\d+\+0 records out"), COPY_LIMIT)
        terminal.wait_for(shell + "# ", 90)
        report.check("the copy is made, in the same process", process.poll() is None)
        terminal.send("poweroff\r")
        report.check("'poweroff' ends molt with exit status 0", wait_end(process, terminal, 300) == 0)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(Report().run([("readme-debian", readme_debian)]))
