#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`molt io` killed at any moment, and another one in its place: every request is done, and given back once."""
import os
import random
import select
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
# pylint: disable=wrong-import-position
from moltvm import Skip, full, run_cases
from test_io import MIB, both, folder_type, image
from vhost_frontend import DISCARD, FLUSH, IN, OK, OUT, Disk, Io

BLOCK = 4096
BLOCKS = 1024
KILLS = 300 if full() else 40


class Model:
    """What the disk must hold, and a driver that keeps many requests in flight, never two on the same block."""

    def __init__(self, io, queues, rng):
        self.io, self.queues, self.rng = io, queues, rng
        self.content = {}
        self.busy = {}
        self.number = 0
        self.done = 0

    def add(self, q):
        block = self.rng.randrange(BLOCKS)
        kind = self.rng.choices((OUT, IN, FLUSH, DISCARD), (50, 40, 8, 2))[0]
        if kind in (OUT, IN, DISCARD) and block in self.busy.values():
            kind = FLUSH
        if kind == OUT:
            self.number += 1
            data = struct.pack("<II", block, self.number) * (BLOCK // 8)
            request = q.add(OUT, block * 8, data)
            self.content[block] = data
        elif kind == IN:
            request = q.add(IN, block * 8, size=BLOCK)
            request.expected = self.content.get(block, bytes(BLOCK))
        elif kind == DISCARD:
            request = q.add(DISCARD, data=struct.pack("<QII", block * 8, 8, 0))
            self.content[block] = bytes(BLOCK)
        else:
            request = q.add(FLUSH)
        if kind != FLUSH:
            self.busy[(q.index, request.head)] = block

    def check(self, q, done):
        for r in done:
            assert r.status == OK, r.status
            self.busy.pop((q.index, r.head), None)
            if hasattr(r, "expected"):
                assert r.read == r.expected, "a block has %r, not %r" % (r.read[:8], r.expected[:8])
            self.done += 1

    def fill(self):
        for q in self.queues:
            self.check(q, q.collect())
            while len(q.free) > q.size // 4 - self.rng.randrange(1, 13):
                self.add(q)

    def finish(self):
        for q in self.queues:
            self.check(q, q.wait(len(q.pending)))


def kill_often(path, uring, kills=KILLS, **disk):
    rng = random.Random(os.urandom(8) if full() else 9)
    with Io(Disk(path, uring=uring, queues=2, **disk)) as io:
        model = Model(io, io.disks[0].queues, rng)
        for _ in range(kills):
            end = time.monotonic() + rng.random() * 0.004
            model.fill()
            while time.monotonic() < end:
                model.fill()
            io.kill()
            io.restart()
            if rng.random() < 0.3:
                model.finish()
        model.finish()
        again = sum(io.disks[0].board.queue(i)["resubmitted"] for i in range(2))
        print("# %s: %d requests, %d of them done again, %d kills" % (
            "io_uring" if uring else "threads", model.done, again, kills))
        assert again > 0, "no kill ever hit a request"
        q = io.disks[0].queues[0]
        for block in range(BLOCKS):
            data = q.do(IN, block * 8, size=BLOCK).read
            assert data == model.content.get(block, bytes(BLOCK)), block


@both
def test_random_kills(path, uring):
    kill_often(path, uring)


def test_random_kills_direct():
    """The device has requests that outlive their process, and the next one waits for them."""
    folder = "/var/tmp"
    for uring in (True, False):
        path = image(8 * MIB, folder)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
            kill_often(path, uring, flags=os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            raise Skip("no direct I/O in %s (%s)" % (folder, folder_type(folder))) from error
        finally:
            os.unlink(path)


@both
def test_killed_while_idle(path, uring):
    """Nothing was in flight: nothing is done again, and a request that nobody heard of is found."""
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        assert q.do(OUT, 0, b"i" * 512).status == OK
        for _ in range(10):
            io.kill()
            request = q.add(IN, 0, size=512, kick=False)
            io.restart()
            assert q.wait()[0] is request and request.read == b"i" * 512
        assert io.disks[0].board.queue(0)["resubmitted"] == 0


@both
def test_killed_with_a_held_request(path, uring):
    """A limit holds one: it is in flight, and done once, by whoever comes next."""
    disk = Disk(path, uring=uring)
    disk.board.limit(0, 2, 1)
    with Io(disk) as io:
        q = io.disks[0].queues[0]
        assert q.do(OUT, 0, b"1" * 512).status == OK
        first, second = q.add(OUT, 0, b"2" * 512), q.add(OUT, 1, b"3" * 512)
        time.sleep(0.05)
        io.kill()
        assert not q.collect()
        start = time.monotonic()
        io.restart()
        assert {*q.wait(2)} == {first, second}
        assert time.monotonic() - start < 0.7  # the level was carried over, the first does not pay twice
        assert disk.board.queue(0)["resubmitted"] == 1


@both
def test_kill_loses_no_interrupt(path, uring):
    """The used ring was written, the driver not called: the next one calls."""
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        assert q.do(OUT, 0, b"1" * 512).status == OK
        io.kill()
        try:
            os.eventfd_read(q.call)
        except BlockingIOError:
            pass
        io.restart()
        assert select.select([q.call], [], [], 10)[0], "the driver is not called"
        assert os.eventfd_read(q.call) >= 1


if __name__ == "__main__":
    run_cases(globals())
