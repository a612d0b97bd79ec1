#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`molt io` on a file whose requests take a second, as those of a device may."""
import os
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
# pylint: disable=wrong-import-position
import vhost_frontend as vf
from moltvm import Skip, run_cases
from slow_disk import SlowDisk
from test_io import MIB, image
from vhost_frontend import IN, OK, OUT, Disk, Io

BLOCK = 4096


def slowly(case):
    """The case with io_uring and with threads, on a disk that gets slow when it says so."""
    def run():
        for uring in (True, False):
            try:
                slow = SlowDisk(2 * MIB)
            except OSError as error:
                raise Skip("no FUSE file system can be mounted here: %s" % error) from error
            try:
                case(slow, uring)
            finally:
                slow.close()
    run.__doc__ = case.__doc__
    return run


def direct(slow, uring, **more):
    return Disk(slow.path, uring=uring, flags=os.O_RDWR | os.O_DIRECT, **more)


@slowly
def test_what_a_device_has_is_waited_for(slow, uring):
    """
    A write is under way when its process is killed. It is done again, but not before the first one has ended: the
    driver could have overwritten the block by then, and the first one would come last.
    """
    with Io(direct(slow, uring)) as io:
        q = io.disks[0].queues[0]
        assert q.do(OUT, 0, b"0" * BLOCK).status == OK
        for turn in range(3):
            slow.log.clear()
            slow.delay = 0.5
            writes = [q.add(OUT, 8 * i, bytes([65 + turn]) * BLOCK) for i in range(3)]
            reads = [q.add(IN, 800 + 8 * i, size=BLOCK) for i in range(2)]
            time.sleep(0.15)
            io.kill()
            q.collect()
            slow.delay = 0
            io.restart()
            assert len(q.wait(len(q.pending))) <= 5 and {r.status for r in writes + reads} == {OK}
            for offset in (0, BLOCK, 2 * BLOCK, 400 * 1024):
                spans = sorted(entry[2:] for entry in slow.log if entry[1] == offset)
                assert len(spans) == 2 or (not uring and len(spans) == 1), slow.log
                assert spans[0][1] <= spans[-1][0] or len(spans) == 1, "two at once: %s" % spans
        assert io.disks[0].board.queue(0)["resubmitted"] == 15
        assert q.do(IN, 0, size=BLOCK).read == b"C" * BLOCK


@slowly
def test_what_a_reset_gave_up_is_waited_for(slow, uring):
    """The driver was told that its reset is over; then it writes the same block by another queue."""
    with Io(direct(slow, uring, queues=2)) as io:
        d, (q, other) = io.disks[0], io.disks[0].queues
        assert q.do(OUT, 0, b"0" * BLOCK).status == OK
        slow.delay = 0.5
        other.add(OUT, 0, b"1" * BLOCK)
        time.sleep(0.15)
        slow.delay = 0
        io.kill()
        d.inflight, q.base = None, 1
        io.spawn()
        d.start([q])
        assert q.do(OUT, 0, b"2" * BLOCK).status == OK
        time.sleep(0.5)
        assert q.do(IN, 0, size=BLOCK).read == b"2" * BLOCK


@slowly
def test_drain_takes_as_long_as_the_disk(slow, uring):
    """And holds up nobody else: another queue, another disk, messages of the other disk."""
    path = image()
    other = Disk(path, name="d1", uring=uring)
    with Io(direct(slow, uring, queues=2), other) as io:
        q, second = io.disks[0].queues
        slow.delay = 0.6
        q.add(OUT, 0, b"1" * BLOCK)
        time.sleep(0.1)
        drained = []
        thread = threading.Thread(target=lambda: drained.append((q.stop(), time.monotonic())))
        start = time.monotonic()
        thread.start()
        for i in range(20):
            assert other.queues[0].do(OUT, i, b"o" * 512).status == OK
            assert struct.unpack("<Q", other.config(0, 8)) == (16384,)
        assert time.monotonic() - start < 0.4 and not drained
        slow.delay = 0
        if uring:  # FUSE lets one thread at a time write
            assert second.do(OUT, 8, b"2" * BLOCK).status == OK and not drained
        thread.join()
        assert drained[0][0] == 1 and drained[0][1] - start > 0.1
        assert q.collect()[0].status == OK
        q.start()
        assert q.do(IN, 0, size=BLOCK).read == b"1" * BLOCK
    os.unlink(path)


@slowly
def test_queues_drain_together(slow, uring):
    """All that are asked back take nothing new from then on, not only the first of them."""
    with Io(direct(slow, uring, queues=3)) as io:
        d = io.disks[0]
        slow.delay = 0.6
        request = d.queues[0].add(IN, 0, size=BLOCK)
        time.sleep(0.1)
        for index in range(3):
            d.send(vf.GET_VRING_BASE, struct.pack("<II", index, 0))
        d.send(vf.GET_FEATURES)
        time.sleep(0.1)
        late = [q.add(IN, 8, size=BLOCK) for q in d.queues[1:]]
        answers = [d.receive() for _ in range(4)]
        assert [a[0] for a in answers] == 3 * [vf.GET_VRING_BASE] + [vf.GET_FEATURES], answers
        assert [struct.unpack("<II", a[1]) for a in answers[:3]] == [(0, 1), (1, 0), (2, 0)], answers
        assert d.queues[0].collect() == [request] and request.status == OK
        assert not any(q.collect() for q in d.queues[1:])
        slow.delay = 0
        for q in d.queues:
            q.start()
        for q, waited in zip(d.queues[1:], late):
            assert q.wait() == [waited] and waited.status == OK


@slowly
def test_in_flight_twice(slow, uring):
    """A head that is offered again before it was given back ends the queue; what is in flight is finished, once."""
    with Io(direct(slow, uring)) as io:
        q = io.disks[0].queues[0]
        slow.delay = 0.4
        request = q.add(OUT, 0, b"1" * BLOCK)
        time.sleep(0.1)
        q.offer(request.head)
        time.sleep(0.1)
        assert os.eventfd_read(q.err) == 1 and io.disks[0].board.queue(0)["broken"] == 2
        assert q.wait() == [request] and request.status == OK
        time.sleep(0.5)
        assert not q.collect() and len(slow.log) == 1


@slowly
def test_ends_at_once(slow, uring):
    """Nobody waits for a request whose front-end is gone, but the kernel for its own calls."""
    with Io(direct(slow, uring)) as io:
        slow.delay = 0.8
        io.disks[0].queues[0].add(OUT, 0, b"1" * BLOCK)
        time.sleep(0.1)
        start = time.monotonic()
        assert io.end() == 0
        assert time.monotonic() - start < (0.4 if uring else 1.5)
        slow.delay = 0


@slowly
def test_reset_waits_as_well(slow, uring):
    """After RESET_DEVICE nothing of guest RAM is touched any more."""
    with Io(direct(slow, uring)) as io:
        d, q = io.disks[0], io.disks[0].queues[0]
        slow.delay = 0.4
        q.add(IN, 0, size=BLOCK)
        time.sleep(0.1)
        slow.delay = 0
        d.tell(vf.RESET_DEVICE)
        assert [entry[0] for entry in slow.log] == ["read"] and len(q.collect()) == 1


if __name__ == "__main__":
    run_cases(globals())
