# SPDX-License-Identifier: MIT
"""A file whose reads and writes take as long as a test likes: a FUSE file system of one file, in a thread.

The protocol is the kernel's (linux/fuse.h). Direct I/O goes to it at once and several at a time, like to a device, so
what a process has submitted may be under way when the process is gone.
"""
import ctypes
import os
import struct
import tempfile
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
LOOKUP, GETATTR, OPEN, READ, WRITE, FSYNC, FLUSH, INIT, RELEASE, INTERRUPT, STATFS, FORGET = (
    1, 3, 14, 15, 16, 20, 25, 26, 18, 36, 17, 2)
ASYNC_READ, BIG_WRITES, ASYNC_DIO = 1 << 0, 1 << 5, 1 << 15
ENOSYS, ENOENT = 38, 2


class SlowDisk:
    """
    path is the file, which may grow; delay in seconds for each read and write. log has (what, offset, from, to) of
    each.
    """

    def __init__(self, size, delay=0.0):
        self.delay, self.data, self.log = delay, bytearray(size), []
        self.lock = threading.Lock()
        self.fd = os.open("/dev/fuse", os.O_RDWR)
        self.dir = tempfile.mkdtemp(prefix="molt-slow-")
        self.path = os.path.join(self.dir, "disk")
        options = "fd=%d,rootmode=40000,user_id=%d,group_id=%d" % (self.fd, os.getuid(), os.getgid())
        if LIBC.mount(b"slow", self.dir.encode(), b"fuse.slow", 0, options.encode()) < 0:
            error = ctypes.get_errno()
            os.close(self.fd)
            os.rmdir(self.dir)
            raise OSError(error, "mount")
        threading.Thread(target=self.serve, daemon=True).start()

    def close(self):
        self.delay = 0
        LIBC.umount2(self.dir.encode(), 2)
        os.close(self.fd)
        os.rmdir(self.dir)

    def attributes(self, node):
        mode = 0o40755 if node == 1 else 0o100666
        size = 0 if node == 1 else len(self.data)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(),
                           os.getgid(), 0, 4096, 0)

    def answer(self, unique, data=b"", error=0):
        try:
            os.write(self.fd, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)
        except OSError:
            pass  # the caller is gone

    def slowly(self, unique, opcode, offset, size, payload):
        start = time.monotonic()
        time.sleep(self.delay)
        with self.lock:
            if opcode == WRITE:
                self.data[offset:offset + size] = payload
            self.log.append(("write" if opcode == WRITE else "read", offset, start, time.monotonic()))
            data = bytes(self.data[offset:offset + size])
        self.answer(unique, struct.pack("<II", size, 0) if opcode == WRITE else data)

    def serve(self):
        while True:
            try:
                request = os.read(self.fd, (1 << 20) + 4096)
            except OSError:
                return
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            body = request[40:]
            if opcode == INIT:
                major, minor, ahead, flags = struct.unpack_from("<IIII", body)
                self.answer(unique, struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), ahead,
                                                flags & (ASYNC_READ | BIG_WRITES | ASYNC_DIO), 64, 48, 1 << 20, 1, 256, 0,
                                                0))
                assert major == 7
            elif opcode == LOOKUP:
                if body.rstrip(b"\0") == b"disk":
                    self.answer(unique, struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self.attributes(2))
                else:
                    self.answer(unique, error=ENOENT)
            elif opcode == GETATTR:
                self.answer(unique, struct.pack("<QII", 3600, 0, 0) + self.attributes(node))
            elif opcode == OPEN:
                self.answer(unique, struct.pack("<QII", 1, 0, 0))
            elif opcode in (READ, WRITE):
                offset, size = struct.unpack_from("<QI", body, 8)
                threading.Thread(target=self.slowly, args=(unique, opcode, offset, size, body[40:]), daemon=True).start()
            elif opcode in (FLUSH, FSYNC, RELEASE):
                self.answer(unique)
            elif opcode not in (FORGET, INTERRUPT):
                self.answer(unique, error=ENOSYS)
