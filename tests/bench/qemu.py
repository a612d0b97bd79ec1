# SPDX-License-Identifier: MIT
"""
QEMU's cpr-exec with the same guest, RAM and vCPUs, by the sequence of its docs/devel/migration/CPR.rst.

What helps QEMU is given to it: no devices but those of the machine, RAM in a shared memfd, state file
in a tmpfs.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))
import fetch
from contestants import SETTLE, Contestant
from mailbox import Gone, Mailbox
from moltvm import Qmp

PROGRAM = "qemu-system-x86_64"
NEEDED = (10, 2)    # the first with cpr-exec


class Unusable(Exception):
    """Why this QEMU cannot be measured."""


def version(argv, env):
    said = subprocess.run(argv + ["--version"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)(\.\d+)?", said)
    if not found:
        raise Unusable("%s: no QEMU: %s" % (argv[0], said.strip()[:200]))
    if (int(found.group(1)), int(found.group(2))) < NEEDED:
        raise Unusable("%s is %s: cpr-exec needs %d.%d" % (argv[0], found.group(0), *NEEDED))
    return found.group(0).split()[1]


def fetched(suite):
    try:
        return fetch.qemu_command(fetch.ensure_qemu(suite))
    except fetch.FetchError as err:
        raise Unusable(str(err)) from err


def find(wanted):
    """
    (argv, env, version) of the QEMU that --qemu names: a path, `fetch` for Debian sid's, or None for
    whichever is there already. `none` gives None.
    """
    if wanted == "none":
        return None
    if wanted == "fetch":
        argv, env = fetched("sid")
    elif wanted or shutil.which(PROGRAM):
        path = shutil.which(wanted or PROGRAM)
        if not path:
            raise Unusable("%s: no such program" % wanted)
        argv, env = [path], dict(os.environ)
    elif fetch.has_qemu("sid"):
        argv, env = fetched("sid")
    else:
        raise Unusable("no %s here; --qemu fetch gets one" % PROGRAM)
    return argv, env, version(argv, env)


class Qemu(Contestant):
    name = "qemu"
    proc = None

    def start(self):
        case = self.case
        self.dir = tempfile.mkdtemp(prefix="molt-bench-", dir="/dev/shm")
        self.socket, self.state = os.path.join(self.dir, "qmp"), os.path.join(self.dir, "state")
        argv, env, _ = case.tools.qemu
        backend = "memory-backend-memfd,id=ram0,share=on,size=%dM" % case.mib
        if case.pages == "2M":
            backend += ",hugetlb=on,hugetlbsize=2M"
        self.argv = argv + [
            "-nodefaults", "-no-user-config", "-display", "none", "-accel", "kvm", "-cpu", "host",
            "-machine", "q35,hpet=off,memory-backend=ram0,aux-ram-share=on", "-smp", str(case.cpus),
            "-m", "%dM" % case.mib, "-object", backend, "-kernel", case.tools.guest,
            "-append", "cpus=%d" % case.cpus, "-serial", "null",
            "-chardev", "socket,id=qmp,path=%s,server=on,wait=off" % self.socket, "-mon", "qmp,mode=control"]
        with open(os.path.join(self.dir, "log"), "w") as log:
            self.proc = subprocess.Popen(self.argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         start_new_session=True)

    def pid(self):
        return self.proc.pid

    def attach(self):
        self.mailbox = Mailbox(self.proc.pid, "memory-backend", self.alive)

    def alive(self):
        return self.proc.poll() is None

    def log(self):
        with open(os.path.join(self.dir, "log")) as f:
            return f.read()[-300:]

    def settle(self):
        time.sleep(SETTLE)

    def connect(self):
        """Its socket is made anew by the successor: there is none, or nobody at it, for a while."""
        end = time.monotonic() + 60
        while True:
            try:
                return Qmp(self.socket)
            except (OSError, EOFError) as err:
                if not self.alive():
                    raise Gone("QEMU ended: " + self.log()) from err
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)

    def prepare(self, command):
        qmp = self.connect()
        qmp.command("migrate-set-parameters", mode="cpr-exec")
        qmp.command("migrate-set-parameters", cpr_exec_command=command)
        return qmp

    def replace(self):
        qmp = self.prepare(self.argv + ["-incoming", "file:" + self.state])
        try:
            qmp.command("migrate", uri="file:" + self.state)
            while True:
                qmp.message()
        except (EOFError, OSError):
            qmp.close()     # the exec
        self.wait_running()
        return {}

    def wait_running(self):
        qmp = self.connect()
        end = time.monotonic() + 60
        while qmp.command("query-status")["status"] != "running":
            if time.monotonic() > end:
                raise Gone("QEMU does not run the guest after its update")
            time.sleep(0.005)
        qmp.close()

    def stop(self):
        if self.proc:
            self.proc.kill()
            self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
