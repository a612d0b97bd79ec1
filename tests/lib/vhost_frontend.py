# SPDX-License-Identifier: MIT
"""A vhost-user front-end for tests of `molt io`: it keeps all that the VMM keeps (guest RAM, sockets, eventfds, rings,
boards, the inflight table), starts the process, kills it, starts another, and is the guest's driver as well.

Facts are from the vhost-user and virtio 1.2 specifications; nothing is taken from molt's sources but the board's layout.
"""
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import time

from moltvm import molt_binary

(GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE,
 SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
 SET_VRING_ENABLE, SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG, GET_INFLIGHT_FD, SET_INFLIGHT_FD, RESET_DEVICE) = (
     1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 21, 24, 25, 31, 32, 34)
VERSION_1, EVENT_IDX, INDIRECT, PROTOCOL, RESET = 1 << 32, 1 << 29, 1 << 28, 1 << 30, 1 << 40
BLK_SEG_MAX, BLK_RO, BLK_SIZE, BLK_FLUSH, BLK_TOPOLOGY, BLK_MQ, BLK_DISCARD, BLK_ZEROES = (
    1 << n for n in (2, 5, 6, 9, 10, 12, 13, 14))
P_MQ, P_REPLY_ACK, P_BACKEND_REQ, P_CONFIG, P_INFLIGHT, P_RESET = (1 << n for n in (0, 3, 5, 9, 12, 13))
ACK = 8  # need_reply
IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
F_ADD_SEALS, SEALS = 1033, 7
NEXT, WRITE, TABLE = 1, 2, 4
PAGE = 4096
KINDS = ("read", "write", "flush", "discard")
BOARD_MAGIC, BOARD_HEADER, BOARD_QUEUE, BUCKETS = 0x6472616f626f696d, 168, 1848, 48
LIBC = ctypes.CDLL(None, use_errno=True)


class Gone(Exception):
    """The back-end has closed the connection."""


def memfd(size, name="test", seals=SEALS):
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def make_ring(entries):
    """As io_ring_make() does: disabled, restricted, enabled. The descriptor and the params."""
    params = ctypes.create_string_buffer(120)
    struct.pack_into("<I", params, 8, 1 << 6 | 1 << 8 | 1 << 9)  # R_DISABLED, COOP_TASKRUN, TASKRUN_FLAG
    fd = LIBC.syscall(425, entries, params)
    if fd < 0:
        return None, b""
    ops = (0, 22, 23, 1, 2, 4, 5, 3, 17, 6, 7, 14, 11, 12)
    table = b"".join(struct.pack("<HBBIII", 1, op, 0, 0, 0, 0) for op in ops)
    assert LIBC.syscall(427, fd, 11, table, len(ops)) == 0, os.strerror(ctypes.get_errno())
    assert LIBC.syscall(427, fd, 12, None, 0) == 0
    return fd, params.raw


class Board:
    def __init__(self, nqueues, rings=()):
        size = BOARD_HEADER + nqueues * BOARD_QUEUE
        self.fd = os.memfd_create("board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        os.pwrite(self.fd, struct.pack("<QIIIII", BOARD_MAGIC, 1, size, BOARD_HEADER, BOARD_QUEUE, nqueues), 0)
        for i, params in enumerate(rings):
            os.pwrite(self.fd, params, BOARD_HEADER + i * BOARD_QUEUE + BOARD_QUEUE - 128)
        fcntl.fcntl(self.fd, F_ADD_SEALS, SEALS)
        self.map = mmap.mmap(self.fd, size)
        self.nqueues = nqueues

    def u64(self, at):
        return struct.unpack_from("<Q", self.map, at)[0]

    def counters(self, queue, kind):
        at = BOARD_HEADER + queue * BOARD_QUEUE + KINDS.index(kind) * (32 + 8 * BUCKETS)
        names = ("requests", "errors", "bytes", "ns")
        return dict(zip(names, struct.unpack_from("<4Q", self.map, at)),
                    latency=struct.unpack_from("<%dQ" % BUCKETS, self.map, at + 32))

    def queue(self, queue):
        at = BOARD_HEADER + queue * BOARD_QUEUE + 4 * (32 + 8 * BUCKETS)
        names = ("invalid", "held", "held_ns", "kicks", "calls", "resubmitted", "generation", "broken")
        return dict(zip(names, struct.unpack_from("<6Q2I", self.map, at)))

    def limit(self, which, rate, burst):
        """0: operations, 1: bytes."""
        struct.pack_into("<QQQ", self.map, 32 + 24 * which, rate, burst, 0)

    @property
    def capacity(self):
        return self.u64(32 + 48 + 8)

    def ask_resize(self):
        asked, = struct.unpack_from("<I", self.map, 80)
        struct.pack_into("<I", self.map, 80, asked + 1)

    def resize_done(self):
        asked, done = struct.unpack_from("<II", self.map, 80)
        return asked == done


class Disk:
    """A disk's descriptors and the front-end's side of its connection. uring: None takes rings where they can be had."""

    def __init__(self, path, queues=1, size=64, uring=True, flags=os.O_RDWR, name="d0", options="", ram=None):
        self.name, self.nqueues, self.size, self.options = name, queues, size, options
        self.file = os.open(path, flags | os.O_CLOEXEC)
        rings = [make_ring(max(8, 2 * size)) for _ in range(queues)] if uring else []
        self.rings = [fd for fd, _ in rings]
        self.board = Board(queues, [params for _, params in rings])
        self.event = os.eventfd(0, os.EFD_CLOEXEC)
        self.ram = ram or Ram(16 << 20)
        self.queues = [Queue(self, i) for i in range(queues)]
        self.features = VERSION_1 | EVENT_IDX | INDIRECT | PROTOCOL | BLK_FLUSH
        self.protocol = P_MQ | P_REPLY_ACK | P_BACKEND_REQ | P_CONFIG | P_INFLIGHT | P_RESET
        self.inflight = None  # (payload, fd)
        self.conn = self.channel = None

    def argument(self):
        text = "id=%s,socket=%d,file=%d,board=%d,event=%d,queues=%d,queue-size=%d" % (
            self.name, self.theirs.fileno(), self.file, self.board.fd, self.event, self.nqueues, self.size)
        if self.rings:
            text += ",rings=" + ":".join(map(str, self.rings))
        return text + ("," + self.options if self.options else "")

    def fds(self):
        return [self.theirs.fileno(), self.file, self.board.fd, self.event, *self.rings]

    def new_connection(self):
        for old in (self.conn, self.channel):
            if old:
                old.close()
        self.conn, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.conn.settimeout(20)
        self.channel = None

    # The protocol.
    def send(self, request, payload=b"", fds=(), flags=1):
        data = struct.pack("<III", request, flags, len(payload)) + payload
        socket.send_fds(self.conn, [data], list(fds))

    def receive(self):
        head, fds = b"", []
        while len(head) < 12:
            more, got, _, _ = socket.recv_fds(self.conn, 12 - len(head), 8)
            if not more:
                raise Gone()
            head, fds = head + more, fds + list(got)
        request, flags, size = struct.unpack("<III", head)
        assert flags == 5, "flags %d of a reply" % flags
        payload = b""
        while len(payload) < size:
            more = self.conn.recv(size - len(payload))
            if not more:
                raise Gone()
            payload += more
        return request, payload, fds

    def ask(self, request, payload=b"", fds=()):
        self.send(request, payload, fds)
        answer, payload, fds = self.receive()
        assert answer == request, "an answer to %d, not to %d" % (answer, request)
        return (payload, fds) if fds else payload

    def ask_u64(self, request, payload=b""):
        return struct.unpack("<Q", self.ask(request, payload))[0]

    def tell(self, request, payload=b"", fds=(), works=True):
        """With an acknowledgement."""
        self.send(request, payload, fds, flags=1 | ACK)
        answer, payload, _ = self.receive()
        assert answer == request and (payload == bytes(8)) == works, (request, answer, payload)

    def set_features(self):
        offered = self.ask_u64(GET_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self.protocol))
        self.tell(SET_OWNER)
        self.tell(SET_FEATURES, struct.pack("<Q", self.features & offered))
        return offered

    def set_memory(self):
        table = struct.pack("<II", len(self.ram.regions), 0)
        for gpa, size, _, _ in self.ram.regions:
            table += struct.pack("<QQQQ", gpa, size, gpa, 0)
        self.tell(SET_MEM_TABLE, table, [fd for _, _, fd, _ in self.ram.regions])

    def set_inflight(self):
        if not self.inflight:
            payload, fds = self.ask(GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, self.nqueues, self.size, 0))
            self.inflight = payload, fds[0]
        self.tell(SET_INFLIGHT_FD, self.inflight[0], [self.inflight[1]])

    def set_channel(self):
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(10)
        self.tell(SET_BACKEND_REQ_FD, b"", [theirs.fileno()])
        theirs.close()

    def start(self, queues=None):
        self.set_features()
        self.set_memory()
        if self.protocol & P_INFLIGHT:
            self.set_inflight()
        if self.protocol & P_BACKEND_REQ:
            self.set_channel()
        for q in self.queues if queues is None else queues:
            q.start()

    def config(self, offset=0, size=60):
        return self.ask(GET_CONFIG, struct.pack("<III", offset, size, 0) + bytes(size))[12:]

    def look(self):
        os.eventfd_write(self.event, 1)

    def close(self):
        for fd in self.fds()[1:]:
            os.close(fd)
        for sock in (self.conn, self.channel, self.theirs):
            if sock:
                sock.close()


class Ram:
    def __init__(self, *sizes):
        self.regions = []
        for i, size in enumerate(sizes):
            fd = memfd(size, "ram")
            self.regions.append((i << 32, size, fd, mmap.mmap(fd, size)))
        self.next = 0x100000

    def at(self, gpa):
        for start, size, _, m in self.regions:
            if start <= gpa < start + size:
                return m, gpa - start
        raise AssertionError("gpa 0x%x" % gpa)

    def write(self, gpa, data):
        m, at = self.at(gpa)
        m[at:at + len(data)] = data

    def read(self, gpa, size):
        m, at = self.at(gpa)
        return m[at:at + size]

    def store16(self, gpa, value):
        """In one piece: struct writes a byte at a time, and somebody is reading."""
        ctypes.c_uint16.from_buffer(*self.at(gpa)).value = value

    def load16(self, gpa):
        return ctypes.c_uint16.from_buffer(*self.at(gpa)).value

    def pack(self, gpa, fmt, *values):
        m, at = self.at(gpa)
        struct.pack_into(fmt, m, at, *values)

    def unpack(self, gpa, fmt):
        m, at = self.at(gpa)
        return struct.unpack_from(fmt, m, at)


class Request:
    def __init__(self, head, data, size, status):
        self.head, self.data, self.size, self.status_gpa = head, data, size, status
        self.used_len = None


class Queue:
    """The driver's side. Each head has a place of its own in RAM for header, status and data."""
    DATA = 64 << 10

    def __init__(self, disk, index):
        self.disk, self.index, self.ram = disk, index, disk.ram
        self.kick, self.call, self.err = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(3))
        self.size = disk.size
        base = 0x10000 + index * 0x20000
        self.desc, self.avail, self.used, self.headers = base, base + 0x8000, base + 0x9000, base + 0x10000
        self.data = 0x400000 + index * 0x100000
        self.new()

    def new(self):
        """As a driver does after a reset."""
        self.avail_idx = self.used_idx = self.base = 0
        self.free = list(range(0, self.size, 4))
        self.pending = {}
        self.ram.write(self.avail, bytes(6 + 2 * self.size))
        self.ram.write(self.used, bytes(6 + 8 * self.size))

    def start(self):
        d = self.disk
        d.tell(SET_VRING_NUM, struct.pack("<II", self.index, self.size))
        d.tell(SET_VRING_ADDR, struct.pack("<IIQQQQ", self.index, 0, self.desc, self.used, self.avail, 0))
        d.tell(SET_VRING_BASE, struct.pack("<II", self.index, self.base))
        d.tell(SET_VRING_CALL, struct.pack("<Q", self.index), [self.call])
        d.tell(SET_VRING_ERR, struct.pack("<Q", self.index), [self.err])
        d.tell(SET_VRING_ENABLE, struct.pack("<II", self.index, 1))
        d.tell(SET_VRING_KICK, struct.pack("<Q", self.index), [self.kick])

    def stop(self):
        index, self.base = struct.unpack("<II", self.disk.ask(GET_VRING_BASE, struct.pack("<II", self.index, 0)))
        assert index == self.index
        return self.base

    def descriptors(self, at, parts, indirect=False):
        for i, (gpa, size, flags) in enumerate(parts):
            more = NEXT if i + 1 < len(parts) else 0
            self.ram.pack((at if indirect else self.desc) + 16 * (i if indirect else at + i), "<QIHH", gpa, size,
                          flags | more, (i if indirect else at + i) + 1)

    def offer(self, head, kick=True):
        self.ram.pack(self.avail + 4 + 2 * (self.avail_idx % self.size), "<H", head % 65536)
        self.avail_idx = (self.avail_idx + 1) & 0xffff
        self.ram.store16(self.avail + 2, self.avail_idx)
        if kick:
            os.eventfd_write(self.kick, 1)

    def add(self, kind, sector=0, data=b"", size=0, kick=True, at=None):
        """A request of header, at most one data buffer, status. data goes out, size bytes come in."""
        head = self.free.pop()
        header, buf = self.headers + 32 * head, self.data + (head // 4) * self.DATA if at is None else at
        self.ram.pack(header, "<IIQB", kind, 0, sector, 0xff)
        parts = [(header, 16, 0)]
        if data:
            self.ram.write(buf, data)
            parts.append((buf, len(data), 0))
        elif size:
            parts.append((buf, size, WRITE))
        parts.append((header + 16, 1, WRITE))
        self.descriptors(head, parts)
        request = Request(head, buf, size, header + 16)
        self.pending[head] = request
        self.offer(head, kick)
        return request

    def collect(self):
        """What is in the used ring: requests that are done. A request that nobody made, or twice, is an error."""
        done = []
        while True:
            now = self.ram.load16(self.used + 2)
            if self.used_idx == now:
                # Ask for the next interrupt, both ways, and look once more.
                self.ram.store16(self.avail + 4 + 2 * self.size, self.used_idx)
                if self.ram.load16(self.used + 2) == now:
                    return done
                continue
            head, length = self.ram.unpack(self.used + 4 + 8 * (self.used_idx % self.size), "<II")
            self.used_idx = (self.used_idx + 1) & 0xffff
            assert head in self.pending, "head %d was given back, but it is not in flight" % head
            request = self.pending.pop(head)
            request.used_len = length
            request.status, = self.ram.unpack(request.status_gpa, "<B")
            request.read = self.ram.read(request.data, request.size)
            self.free.append(head)
            done.append(request)

    def wait(self, count=1, timeout=20):
        """Waits by interrupts alone."""
        done, end = self.collect(), time.monotonic() + timeout
        while len(done) < count:
            left = end - time.monotonic()
            assert left > 0, "%d of %d requests are done" % (len(done), count)
            if select.select([self.call], [], [], left)[0]:
                os.eventfd_read(self.call)
            done += self.collect()
        return done

    def do(self, kind, sector=0, data=b"", size=0, **more):
        self.add(kind, sector, data, size, **more)
        done, = self.wait()
        return done

    def raw(self, parts, head=0, kick=True):
        """A chain made by hand, for the requests that no driver makes: parts are (gpa, size, flags)."""
        self.descriptors(head, parts)
        self.pending[head] = Request(head, 0, 0, parts[-1][0] + parts[-1][1] - 1)
        if head in self.free:
            self.free.remove(head)
        self.offer(head, kick)


class Io:
    """The process."""

    def __init__(self, *disks, start=True, log=None, wrapper=()):
        self.disks, self.log, self.wrapper = disks, log, list(wrapper)
        self.process = None
        self.spawn()
        if start:
            for d in disks:
                d.start()

    def spawn(self):
        args = [*self.wrapper, molt_binary(), "io", "--log-level", "debug"]
        for d in self.disks:
            d.new_connection()
            args += ["--disk", d.argument()]
        self.process = subprocess.Popen(args, pass_fds=[fd for d in self.disks for fd in d.fds()],
                                        stdin=subprocess.DEVNULL, stderr=self.log)
        for d in self.disks:
            d.theirs.close()

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        self.process.wait(30)

    def restart(self):
        """After a kill: what is kept is given to another one."""
        self.spawn()
        for d in self.disks:
            d.start()

    def end(self):
        """By closing the sockets; the status."""
        for d in self.disks:
            d.conn.close()
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            status = self.end()
            assert kind or status == 0, "molt io has ended with %s" % status
        for d in self.disks:
            d.close()
