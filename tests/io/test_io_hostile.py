#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`molt io` and a front-end that is wrong, or means no good: refused or cut off, and other disks are unharmed."""
import contextlib
import glob
import os
import random
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
# pylint: disable=wrong-import-position
from moltvm import full, run_cases, sanitized
import vhost_frontend as vf
from test_io import MIB, both, image
from vhost_frontend import OK, OUT, Disk, Gone, Io, memfd

INPUTS = 20000 if full() else 2000


def gone(d):
    """It has closed the connection, whatever was still in it."""
    try:
        while d.conn.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def fresh(path, uring, **options):
    """A process whose first disk has not been set up, and whose second is there to see whether it suffers."""
    other = Disk(image(), name="other", uring=uring)
    io = Io(Disk(path, uring=uring, queues=2, **options), other, start=False)
    other.start()
    return io, io.disks[0], other.queues[0]


@both
def test_refused(path, uring):
    """Impossible, but well-formed: an answer says so, and nothing is lost."""
    io, d, other = fresh(path, uring)
    eventfd, ram, plain = os.eventfd(0), memfd(MIB), os.open("/dev/null", os.O_RDWR)
    open_ended = memfd(MIB, seals=0)

    def region(gpa=0, size=MIB, user=None, offset=0):
        return struct.pack("<IIQQQQ", 1, 0, gpa, size, gpa if user is None else user, offset)

    def pair(first, second):
        return region(*first)[:0] + struct.pack("<II", 2, 0) + region(*first)[8:] + region(*second)[8:]
    with io:
        d.set_features()
        d.set_memory()
        state = "<II"
        for request, payload, fds in (
                (vf.SET_FEATURES, struct.pack("<Q", 1 << 50), []), (vf.SET_FEATURES, bytes(8), []),
                (vf.SET_PROTOCOL_FEATURES, struct.pack("<Q", 1 << 63), []),
                (vf.SET_MEM_TABLE, struct.pack("<II", 0, 0), []),
                (vf.SET_MEM_TABLE, region(size=2 * MIB), [ram]), (vf.SET_MEM_TABLE, region(size=MIB - 1), [ram]),
                (vf.SET_MEM_TABLE, region(offset=4096), [ram]), (vf.SET_MEM_TABLE, region(offset=2**64 - 4096), [ram]),
                (vf.SET_MEM_TABLE, region(user=4096), [ram]), (vf.SET_MEM_TABLE, region(gpa=2**64 - 4096), [ram]),
                (vf.SET_MEM_TABLE, region(size=0), [ram]), (vf.SET_MEM_TABLE, region(), [open_ended]),
                (vf.SET_MEM_TABLE, region(), [plain]), (vf.SET_MEM_TABLE, region(), [eventfd]),
                (vf.SET_MEM_TABLE, pair((0,), (0,)), [ram, ram]), (vf.SET_MEM_TABLE, pair((MIB,), (0,)), [ram, ram]),
                (vf.SET_VRING_NUM, struct.pack(state, 2, 16), []), (vf.SET_VRING_ADDR, struct.pack("<IIQQQQ", 99, *[0] * 5),
                                                                    []),
                (vf.SET_VRING_KICK, struct.pack("<Q", 0x100), []), (vf.SET_VRING_KICK, struct.pack("<Q", 0), [plain]),
                (vf.SET_VRING_KICK, struct.pack("<Q", 0), [ram]), (vf.SET_VRING_KICK, struct.pack("<Q", 77), [eventfd]),
                (vf.SET_VRING_CALL, struct.pack("<Q", 0), []), (vf.SET_VRING_CALL, struct.pack("<Q", 0), [d.file]),
                (vf.SET_VRING_ERR, struct.pack("<Q", 5), [eventfd]),
                (vf.SET_VRING_ENABLE, struct.pack(state, 7, 1), []),
                (vf.SET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8), []),
                (vf.SET_INFLIGHT_FD, struct.pack("<QQHHI", 4096, 0, 2, 64, 0), [ram]),
                (vf.SET_INFLIGHT_FD, struct.pack("<QQHHI", 2**63, 2**63, 2, 64, 0), [ram]),
                (vf.SET_INFLIGHT_FD, struct.pack("<QQHHI", 4096, 0, 65535, 65535, 0), [ram]),
                (4, b"", []), (6, bytes(16), []), (200, b"x" * 100, [])):
            d.tell(request, payload, fds, works=False)
        assert other.do(OUT, 0, b"o" * 512).status == OK
        for q in d.queues:  # after all of that it works
            q.start()
        assert d.queues[1].do(OUT, 0, b"x" * 512).status == OK
        # And what a running queue stands on stays as it is.
        q = d.queues[1]
        for request, payload, fds in ((vf.SET_FEATURES, struct.pack("<Q", vf.VERSION_1), []),
                                      (vf.SET_MEM_TABLE, region(), [ram]),
                                      (vf.SET_VRING_NUM, struct.pack(state, 1, 16), []),
                                      (vf.SET_VRING_BASE, struct.pack(state, 1, 0), [])):
            d.tell(request, payload, fds, works=False)
        assert q.do(OUT, 0, b"x" * 512).status == OK


@both
def test_no_queue_before_the_owner(path, uring):
    """Until SET_OWNER another process may be serving the disk."""
    io, d, other = fresh(path, uring)
    with io:
        d.ask_u64(vf.GET_FEATURES)
        d.send(vf.SET_PROTOCOL_FEATURES, struct.pack("<Q", d.protocol))
        d.tell(vf.SET_FEATURES, struct.pack("<Q", d.features))
        d.set_memory()
        with contextlib.suppress(AssertionError):
            d.queues[0].start()
            raise RuntimeError("a queue was started")
        d.tell(vf.SET_OWNER)
        d.queues[0].start()
        assert d.queues[0].do(OUT, 0, b"x" * 512).status == OK
        assert other.do(OUT, 0, b"o" * 512).status == OK


@both
def test_bad_rings(path, uring):
    """Addresses and sizes that a queue cannot have are told with what would start it."""
    io, d, _ = fresh(path, uring)
    with io:
        d.set_features()
        d.set_memory()
        eventfd = os.eventfd(0)
        d.tell(vf.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        for size, desc, avail, used in ((0, 0, 4096, 8192), (3, 0, 4096, 8192), (128, 0, 4096, 8192), (64, 8, 4096, 8192),
                                        (64, 0, 4097, 8192), (64, 0, 4096, 8194), (64, 1 << 40, 4096, 8192),
                                        (64, 0, 16 * MIB - 8, 8192), (64, 0, 4096, 2**64 - 4), (2**32 - 1, 0, 0, 0)):
            d.tell(vf.SET_VRING_NUM, struct.pack("<II", 0, size))
            d.tell(vf.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, desc, used, avail, 0))
            d.tell(vf.SET_VRING_KICK, struct.pack("<Q", 0), [eventfd], works=False)
        d.queues[0].start()
        assert d.queues[0].do(OUT, 0, b"x" * 512).status == OK
        d.queues[0].stop()
        payload, fds = d.ask(vf.GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 1, 32, 0))
        d.tell(vf.SET_INFLIGHT_FD, payload, fds)  # too small for the queue
        d.tell(vf.SET_VRING_KICK, struct.pack("<Q", 0), [eventfd], works=False)


@both
def test_cut_off(path, uring):
    """What cannot be a message ends the connection, not the process."""
    for data in (struct.pack("<III", 1, 2, 0), struct.pack("<III", 1, 5, 0), struct.pack("<III", 2, 1, 2**32 - 1),
                 struct.pack("<III", 5, 1, 8) + struct.pack("<II", 2**32 - 1, 0), struct.pack("<III", 24, 1, 4) + bytes(4),
                 struct.pack("<III", 24, 1, 12) + struct.pack("<III", 2**32 - 4, 8, 0), b"\xff" * 500,
                 struct.pack("<III", 2, 1, 8) + struct.pack("<Q", 1 << 60)):
        io, d, other = fresh(path, uring)
        with io:
            d.conn.sendall(data)
            assert gone(d)
            assert other.do(OUT, 0, b"o" * 512).status == OK
    io, d, other = fresh(path, uring)
    with io:  # half a message, for ever, is nobody's trouble
        d.conn.sendall(b"\1\0\0")
        time.sleep(0.1)
        assert other.do(OUT, 0, b"o" * 512).status == OK


@both
def test_descriptors_are_not_collected(path, uring):
    io, d, other = fresh(path, uring)
    with io:
        d.set_features()
        before = len(os.listdir("/proc/%d/fd" % io.process.pid))
        ram = memfd(MIB)
        for _ in range(50):
            d.tell(vf.SET_VRING_KICK, struct.pack("<Q", 77), [ram], works=False)
            d.tell(200, b"", [ram] * 8, works=False)
            d.tell(vf.SET_VRING_CALL, struct.pack("<Q", 0), [other.call])
            payload, fds = d.ask(vf.GET_INFLIGHT_FD, struct.pack("<QQHHI", 0, 0, 2, 64, 0))
            d.tell(vf.SET_INFLIGHT_FD, payload, fds)
            d.set_memory()
            os.close(fds[0])
        assert len(os.listdir("/proc/%d/fd" % io.process.pid)) == before
        with open("/proc/%d/maps" % io.process.pid, encoding="utf-8") as maps:
            assert sum("inflight" in line for line in maps) == 2  # each disk has one


@both
def test_noise(path, uring):
    """Random messages with random descriptors; the process stays, and serves the other disk."""
    rng = random.Random(os.urandom(8) if full() else 5)
    io, d, other = fresh(path, uring)
    fds = [memfd(MIB), os.eventfd(0), os.open("/dev/null", os.O_RDWR), d.file]
    with io:
        for number in range(INPUTS):
            request = rng.choice((*range(1, 26), 31, 32, 34, 99))
            payload = bytes(rng.choice((0, 0, 0, 1, 2, 64, 255)) for _ in range(rng.choice((0, 8, 8, 12, 24, 40, 72))))
            flags = rng.choice((1, 9, 9, 9))
            try:
                d.send(request, payload, rng.choices(fds, k=rng.choice((0, 0, 1, 2))), flags)
                d.conn.setblocking(False)
                while d.conn.recv(65536):
                    pass
                raise BrokenPipeError()
            except BlockingIOError:
                d.conn.settimeout(20)
            except (BrokenPipeError, ConnectionResetError):
                break
        if number % 100 == 0:
            assert other.do(OUT, 0, b"o" * 512).status == OK
        assert io.process.poll() is None
        assert other.do(OUT, 0, b"o" * 512).status == OK


def test_is_confined():
    """What the kernel says of each of its threads."""
    path = image()
    with Io(Disk(path, queues=2)) as io:
        for status in glob.glob("/proc/%d/task/*/status" % io.process.pid):
            with open(status, encoding="utf-8") as file:
                fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
            assert fields["NoNewPrivs"] == "1", status
            assert {fields[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}, fields
            assert sanitized() or fields["Seccomp"] == "2", status
        assert sanitized() or not os.access("/proc/%d/mem" % io.process.pid, os.R_OK) or os.geteuid() == 0
        # Nothing is open but what it was given, and eventfds, an epoll and a log of its own.
        links = [os.readlink(link) for link in glob.glob("/proc/%d/fd/*" % io.process.pid)]
        assert all(link.startswith(("anon_inode:", "socket:", "/memfd:molt-io", "/memfd:board", "/dev/", "pipe:", path))
                   or "/log" in link or link == os.readlink("/proc/self/fd/2") for link in links), links
    os.unlink(path)


def test_no_descriptor_but_its_own():
    """What its parent forgot to close is closed."""
    path = image()
    secret = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(secret, True)
    disk = Disk(path)
    more = disk.fds
    disk.fds = lambda: more() + [secret]
    with Io(disk) as io:
        assert not any(os.readlink(link) == "/etc/hostname" for link in glob.glob("/proc/%d/fd/*" % io.process.pid))
        disk.fds = more
    os.unlink(path)


def test_a_front_end_that_does_not_read():
    """Answers wait, up to a bound; then the connection is closed. The other disk goes on."""
    path = image()
    io, d, other = fresh(path, True)
    with io:
        d.conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        d.conn.settimeout(0.2)
        try:
            for _ in range(100000):
                d.send(vf.GET_FEATURES)
        except (BlockingIOError, TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert other.do(OUT, 0, b"o" * 512).status == OK
    os.unlink(path)


if __name__ == "__main__":
    run_cases(globals())
