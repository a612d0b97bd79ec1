# SPDX-License-Identifier: MIT
"""qemu-storage-daemon, as Debian packages it: a qcow2 file over a block device, served as a vhost-user-blk back-end.

    with StorageDaemon(directory, "/dev/vdb") as daemon:
        daemon.start()
        ... "--vhost-user", "socket=%s,type=blk" % daemon.socket
"""
import json
import os
import shutil
import signal
import subprocess
import time

PROGRAM = shutil.which("qemu-storage-daemon")
FUSE_MOUNT_LIMIT = 30


class StorageDaemon:
    """base: a raw image or block device, which stays as it is; what is written goes to a qcow2 file in directory."""

    def __init__(self, directory, base):
        self.base = base
        self.file = os.path.join(directory, "overlay.qcow2")
        self.socket = os.path.join(directory, "blk.sock")
        self.raw = os.path.join(directory, "raw")
        self.log = open(os.path.join(directory, "qemu-storage-daemon.log"), "ab")
        self.process = None
        self.create()

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.stop(signal.SIGKILL)
        self.log.close()

    @staticmethod
    def quoted(path):
        return path.replace(",", ",,")

    def base_words(self):
        driver = "host_device" if self.base.startswith("/dev/") else "file"
        return ["--blockdev", "driver=%s,node-name=base,filename=%s,read-only=on,auto-read-only=off" % (
            driver, self.quoted(self.base))]

    def run(self, words, **popen):
        return subprocess.Popen([PROGRAM, *self.base_words(), *words], stderr=self.log, **popen)

    def serve(self, writable, export):
        """A daemon that has the qcow2 file open as "disk", and exports it."""
        flags = "" if writable else ",read-only=on"
        self.process = self.run([
            "--blockdev", "driver=file,node-name=file,filename=%s%s" % (self.quoted(self.file), flags),
            "--blockdev", "driver=qcow2,node-name=disk,file=file,backing=base,discard=unmap%s" % flags,
            "--export", "id=export,node-name=disk," + export], stdin=subprocess.DEVNULL)

    # ---- making the file ----

    def create(self):
        """An empty qcow2 file with the base behind it, by a daemon's own commands."""
        with open(self.base, "rb") as f:
            size = f.seek(0, os.SEEK_END)
        kind = "host_device" if self.base.startswith("/dev/") else "file"
        maker = self.run(["--chardev", "stdio,id=qmp", "--monitor", "qmp"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        try:
            maker.stdout.readline()
            self.ask(maker, "qmp_capabilities")
            self.job(maker, {"driver": "file", "filename": self.file, "size": 0})
            self.ask(maker, "blockdev-add", **{"driver": "file", "node-name": "new", "filename": self.file})
            self.job(maker, {"driver": "qcow2", "file": "new", "size": size, "backing-file": "json:" + json.dumps(
                {"driver": kind, "filename": self.base}), "backing-fmt": "raw"})
        finally:
            maker.kill()
            maker.communicate()

    def job(self, maker, options):
        """Runs a job to its end; it is called by its driver's name."""
        name = options["driver"]
        self.ask(maker, "blockdev-create", **{"job-id": name, "options": options})
        while True:
            job = next(j for j in self.ask(maker, "query-jobs") if j["id"] == name)
            if job["status"] == "concluded":
                break
            time.sleep(0.05)
        if "error" in job:
            raise AssertionError("qemu-storage-daemon cannot create %s: %s" % (self.file, job["error"]))
        self.ask(maker, "job-dismiss", id=name)

    @staticmethod
    def ask(maker, command, **arguments):
        maker.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        maker.stdin.flush()
        while True:
            answer = json.loads(maker.stdout.readline())
            if "error" in answer:
                raise AssertionError("qemu-storage-daemon: %s: %s" % (command, answer["error"]["desc"]))
            if "return" in answer:
                return answer["return"]

    # ---- serving it ----

    def start(self, queues=1):
        """Serves the disk on the socket; returns when it listens there."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.serve(True, "type=vhost-user-blk,writable=on,num-queues=%d,addr.type=unix,addr.path=%s" % (
            queues, self.quoted(self.socket)))
        self.wait(lambda: os.path.exists(self.socket), "listen on its socket")

    def stop(self, sig=signal.SIGTERM):
        if self.process:
            self.process.send_signal(sig)
            self.process.wait(60)
            self.process = None

    def wait(self, condition, what):
        deadline = time.monotonic() + FUSE_MOUNT_LIMIT
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("qemu-storage-daemon did not " + what)
            time.sleep(0.05)

    def as_raw(self):
        """The path of a file with the disk's content, which exists until stop(); by FUSE."""
        with open(self.raw, "w"):
            pass
        device = os.stat(self.raw).st_dev
        self.serve(False, "type=fuse,mountpoint=%s" % self.quoted(self.raw))
        self.wait(lambda: os.stat(self.raw).st_dev != device, "mount the disk by FUSE")
        return self.raw
