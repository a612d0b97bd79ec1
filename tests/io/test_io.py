#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`molt io` by real descriptors: each case is a front-end and a driver of its own; no KVM."""
import os
import resource
import signal
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
# pylint: disable=wrong-import-position
from moltvm import Skip, molt, run_cases
import vhost_frontend as vf
from vhost_frontend import (DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, UNSUPP, WRITE, ZEROES, Disk, Io, Ram)

MIB = 1 << 20


def image(size=8 * MIB, folder="/tmp"):
    fd, path = tempfile.mkstemp(dir=folder)
    os.ftruncate(fd, size)
    os.close(fd)
    return path


def segment(sector, count, flags=0):
    return struct.pack("<QII", sector, count, flags)


def both(case):
    """The case with io_uring and with threads."""
    def run():
        for uring in (True, False):
            path = image()
            try:
                case(path, uring)
            finally:
                os.unlink(path)
    run.__doc__ = case.__doc__
    return run


def is_broken(q):
    """Its err descriptor was written to."""
    for _ in range(200):
        try:
            return os.eventfd_read(q.err) > 0
        except BlockingIOError:
            time.sleep(0.01)
    return False


@both
def test_read_write_flush(path, uring):
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        done = q.do(OUT, 8, b"a" * 4096)
        assert (done.status, done.used_len) == (OK, 1), vars(done)
        assert q.do(FLUSH).status == OK
        done = q.do(IN, 7, size=8192)
        assert (done.status, done.used_len) == (OK, 8193), vars(done)
        assert done.read == bytes(512) + b"a" * 4096 + bytes(3584)
        with open(path, "rb") as file:
            assert file.read(16384).strip(b"\0") == b"a" * 4096
        for kind, count, size in (("read", 1, 8192), ("write", 1, 4096), ("flush", 1, 0)):
            c = io.disks[0].board.counters(0, kind)
            assert (c["requests"], c["bytes"], c["errors"]) == (count, size, 0), (kind, c)
            assert sum(c["latency"]) == count and c["ns"] > 0


@both
def test_many_at_once(path, uring):
    """The ring is full for a while, and every block ends up where it belongs."""
    with Io(Disk(path, uring=uring, size=256)) as io:
        q = io.disks[0].queues[0]
        for turn in range(8):
            blocks = [struct.pack("<II", turn, i) * 512 for i in range(64)]
            for i, block in enumerate(blocks):
                q.add(OUT, i * 8, block, kick=i % 7 == 0 or i == 63)
            assert all(r.status == OK for r in q.wait(64))
            heads = {q.add(IN, i * 8, size=4096).head: i for i in range(64)}
            for r in q.wait(64):
                assert r.read == blocks[heads[r.head]]


@both
def test_several_queues_and_disks(path, uring):
    other = image()
    with Io(Disk(path, queues=3, uring=uring), Disk(other, name="d1", uring=uring)) as io:
        for i, q in enumerate(io.disks[0].queues):
            assert q.do(OUT, i, bytes([i + 1]) * 512).status == OK
        assert io.disks[1].queues[0].do(OUT, 0, b"x" * 512).status == OK
        assert io.disks[0].queues[2].do(IN, 0, size=1536).read == b"\1" * 512 + b"\2" * 512 + b"\3" * 512
        assert vf.struct.unpack("<H", io.disks[0].config(34, 2))[0] == 3
    os.unlink(other)


@both
def test_offers(path, uring):
    """Features and configuration space (virtio 1.2, 5.2.4)."""
    with Io(Disk(path, uring=uring)) as io:
        d = io.disks[0]
        want = (vf.VERSION_1 | vf.EVENT_IDX | vf.INDIRECT | vf.PROTOCOL | vf.RESET | vf.BLK_SEG_MAX | vf.BLK_SIZE |
                vf.BLK_FLUSH | vf.BLK_TOPOLOGY | vf.BLK_DISCARD | vf.BLK_ZEROES)
        assert d.ask_u64(vf.GET_FEATURES) == want
        assert d.ask_u64(vf.GET_QUEUE_NUM) == 1
        capacity, size_max, seg_max = struct.unpack("<QII", d.config(0, 16))
        assert (capacity, size_max, seg_max) == (8 * MIB // 512, 0, 62)
        assert struct.unpack("<I", d.config(20, 4)) == (512,)
        assert struct.unpack("<H", d.config(34, 2)) == (1,)
        assert d.config(0, 60)[20:24] == d.config(20, 4)
        assert d.config(200, 50) == bytes(50)
        assert d.board.capacity == 8 * MIB


@both
def test_readonly(path, uring):
    with Io(Disk(path, uring=uring, flags=os.O_RDONLY, options="readonly=on")) as io:
        q = io.disks[0].queues[0]
        offered = io.disks[0].ask_u64(vf.GET_FEATURES)
        assert offered & vf.BLK_RO and not offered & (vf.BLK_DISCARD | vf.BLK_ZEROES)
        assert q.do(IN, 0, size=512).status == OK
        assert q.do(OUT, 0, b"a" * 512).status == IOERR
        assert q.do(ZEROES, 0, struct.pack("<QII", 0, 8, 0)).status == UNSUPP
        assert q.do(FLUSH).status == OK
    with open(path, "rb") as file:
        assert file.read().strip(b"\0") == b""


@both
def test_get_id(path, uring):
    with Io(Disk(path, uring=uring, options="serial=twenty-bytes-exactly")) as io:
        q = io.disks[0].queues[0]
        done = q.do(GET_ID, size=20)
        assert (done.status, done.read, done.used_len) == (OK, b"twenty-bytes-exactly", 21)
        done = q.do(GET_ID, size=5)
        assert (done.status, done.read, done.used_len) == (OK, b"twent", 6)
        done = q.do(GET_ID, size=32)  # a gap before the status, so only the name counts
        assert (done.status, done.read, done.used_len) == (OK, b"twenty-bytes-exactly" + bytes(12), 20)
    with Io(Disk(path, uring=uring, name="short")) as io:
        assert io.disks[0].queues[0].do(GET_ID, size=20).read == b"short" + bytes(15)


@both
def test_discard_and_zeroes(path, uring):
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        for i in range(32):
            assert q.do(OUT, i * 128, b"z" * 65536).status == OK
        assert q.do(FLUSH).status == OK
        before = os.stat(path).st_blocks
        assert q.do(DISCARD, data=segment(0, 1024)).status == OK
        assert os.stat(path).st_blocks <= before - 1024 or "tmpfs" in folder_type(path)
        assert q.do(IN, 0, size=512).read == bytes(512)
        assert q.do(ZEROES, data=segment(1024, 128)).status == OK
        assert q.do(ZEROES, data=segment(2049, 3, 1)).status == OK
        assert q.do(IN, 1024, size=65536).read == bytes(65536)
        assert q.do(IN, 2048, size=2560).read == b"z" * 512 + bytes(1536) + b"z" * 512
        assert q.do(IN, 1152, size=512).read == b"z" * 512
        for kind, data, status in (
                (DISCARD, segment(16384, 8), IOERR), (DISCARD, segment(16380, 8), IOERR),
                (DISCARD, segment(2**64 - 4, 8), IOERR), (DISCARD, segment(0, 2**32 - 1), IOERR),
                (DISCARD, segment(0, 8, 1), UNSUPP), (ZEROES, segment(0, 8, 2), UNSUPP),
                (ZEROES, segment(0, 1 << 17), IOERR), (ZEROES, segment(0, 8) * 2, IOERR),
                (ZEROES, segment(0, 8)[:15], IOERR), (DISCARD, b"", IOERR)):
            assert q.do(kind, data=data).status == status, (kind, data)
        c = io.disks[0].board.counters(0, "discard")
        assert c["requests"] == 13 and c["errors"] == 10 and c["bytes"] == 512 * (1024 + 128 + 3), c
    with Io(Disk(path, uring=uring, options="discard=off")) as io:
        assert not io.disks[0].ask_u64(vf.GET_FEATURES) & (vf.BLK_DISCARD | vf.BLK_ZEROES)
        assert io.disks[0].queues[0].do(DISCARD, data=segment(0, 8)).status == UNSUPP


def folder_type(path):
    return molt_free(["stat", "-f", "-c", "%T", path])


def molt_free(command):
    return vf.subprocess.run(command, stdout=vf.subprocess.PIPE, text=True, check=True).stdout.strip()


def test_zeroes_where_the_file_system_cannot():
    """tmpfs has no FALLOC_FL_ZERO_RANGE: they are written, more than fit into one request's buffers."""
    if not os.path.isdir("/dev/shm") or "tmpfs" not in folder_type("/dev/shm"):
        raise Skip("no tmpfs")
    for uring in (True, False):
        path = image(40 * MIB, "/dev/shm")
        try:
            with Io(Disk(path, uring=uring)) as io, open(path, "r+b") as file:
                file.write(b"q" * 40 * MIB)
                q = io.disks[0].queues[0]
                assert q.do(ZEROES, data=struct.pack("<QII", 3, 65536, 0)).status == OK
                file.seek(0)
                data = file.read()
                assert data[:1536] == b"q" * 1536 and data[1536 + 32 * MIB:].strip(b"q") == b""
                assert data[1536:1536 + 32 * MIB] == bytes(32 * MIB)
                assert q.do(DISCARD, data=struct.pack("<QII", 0, 2048, 0)).status == OK
        finally:
            os.unlink(path)


@both
def test_bad_requests(path, uring):
    """Told by their status; the queue goes on."""
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        end = 8 * MIB // 512
        for kind, sector, data, size, status in (
                (IN, end, b"", 512, IOERR), (IN, end - 1, b"", 1024, IOERR), (IN, 2**64 - 1, b"", 512, IOERR),
                (IN, 2**55, b"", 512, IOERR), (IN, 0, b"", 511, IOERR), (IN, 0, b"", 513, IOERR),
                (OUT, end, b"x" * 512, 0, IOERR), (OUT, 0, b"x" * 100, 0, IOERR), (OUT, 2**63, b"x" * 512, 0, IOERR),
                (99, 0, b"", 512, UNSUPP), (0x80000000, 0, b"", 512, UNSUPP), (2, 0, b"", 0, UNSUPP),
                (IN, 0, b"", 0, OK), (OUT, 0, b"", 0, OK), (IN, end - 1, b"", 512, OK)):
            done = q.do(kind, sector, data, size)
            assert done.status == status, (kind, sector, done.status)
            assert done.used_len == (size + 1 if status == OK else 0 if size else 1), (kind, done.used_len)
        assert io.disks[0].board.queue(0)["invalid"] == 12
        assert io.disks[0].board.queue(0)["broken"] == 0
    with open(path, "rb") as file:
        assert file.read().strip(b"\0") == b""


@both
def test_any_split(path, uring):
    """Where buffers end says nothing about what is in them (virtio 1.2, 2.7.4.2)."""
    with Io(Disk(path, uring=uring, size=256)) as io:
        q, ram = io.disks[0].queues[0], io.disks[0].ram
        header, data, back = 0x300000, 0x301000, 0x310000
        ram.write(data, bytes(range(256)) * 4)
        ram.write(header, struct.pack("<IIQ", OUT, 0, 5) + ram.read(data, 1024) + b"\xff")
        # Header and data in one buffer; then each of 3 bytes; status on its own.
        cuts = [(header + i, min(3, 1040 - i), 0) for i in range(0, 300, 3)] + [(header + 300, 740, 0)]
        for parts in ([(header, 1040, 0)], [(header, 7, 0), (header + 7, 1033, 0)], cuts):
            ram.write(header + 1040, b"\xff")
            q.raw(parts + [(header + 1040, 1, WRITE)])
            assert q.wait()[0].status == OK
        # Data and status in one buffer, in pieces of 100 bytes, the status alone.
        ram.write(header, struct.pack("<IIQ", IN, 0, 5))
        for cut in (1025, 100, 1024):
            ram.write(back, bytes(1024) + b"\xff")
            parts = [(back + i, min(cut, 1025 - i), WRITE) for i in range(0, 1025, cut)]
            q.raw([(header, 16, 0)] + parts)
            done = q.wait()[0]
            assert (done.status, done.used_len) == (OK, 1025), (cut, vars(done))
            assert ram.read(back, 1024) == bytes(range(256)) * 4, cut


@both
def test_indirect_and_two_regions(path, uring):
    disk = Disk(path, uring=uring, ram=Ram(16 * MIB, 4 * MIB))
    with Io(disk) as io:
        q, ram, high = io.disks[0].queues[0], disk.ram, 1 << 32
        ram.write(0x300000, struct.pack("<IIQ", OUT, 0, 0))
        ram.write(high, b"h" * 4096)
        q.descriptors(high + 0x10000, [(0x300000, 16, 0), (high, 4096, 0), (0x300010, 1, WRITE)], indirect=True)
        q.raw([(high + 0x10000, 48, vf.TABLE)])
        q.pending[0].status_gpa = 0x300010
        assert q.wait()[0].status == OK
        assert q.do(IN, 0, size=4096).read == b"h" * 4096


def broken(make, code):
    def case(path, uring):
        with Io(Disk(path, queues=2, uring=uring)) as io:
            q, other = io.disks[0].queues
            make(q)
            assert is_broken(q)
            assert io.disks[0].board.queue(0)["broken"] == code, io.disks[0].board.queue(0)
            assert other.do(OUT, 0, b"o" * 512).status == OK  # others are unharmed
            # Who begins where it stopped finds it, too: nobody may have listened to the first.
            assert q.stop() == 0
            q.start()
            assert is_broken(q) and q.stop() == 0
            q.new()
            q.start()
            assert q.do(IN, 0, size=512).read == b"o" * 512  # and it works again after a reset
    return both(case)


test_broken_no_status = broken(lambda q: q.raw([(0x300000, 16, 0)]), 5)
test_broken_short_header = broken(lambda q: q.raw([(0x300000, 15, 0), (0x301000, 1, WRITE)]), 5)
test_broken_head = broken(lambda q: q.offer(64), 2)
test_broken_address = broken(lambda q: q.raw([(0x300000, 16, 0), (1 << 40, 512, WRITE)]), 13)
test_broken_far_ahead = broken(lambda q: (q.ram.pack(q.avail + 2, "<H", 65), os.eventfd_write(q.kick, 1)), 1)


@both
def test_drain(path, uring):
    """GET_VRING_BASE comes when all is done, and the next one goes on from there."""
    with Io(Disk(path, uring=uring, size=256, queues=2)) as io:
        d, q, other = io.disks[0], *io.disks[0].queues
        for turn in range(20):
            for i in range(48):
                q.add(OUT, i * 8, bytes([turn + 1]) * 4096, kick=i % 16 == 15)
            base = q.stop()
            done = q.collect()
            assert (base - q.used_idx) & 0xffff == 0 and base == (q.avail_idx - len(q.pending)) & 0xffff
            assert all(r.status == OK for r in done)
            assert other.do(FLUSH).status == OK  # it runs meanwhile
            q.start()
            q.wait(len(q.pending))
        assert q.do(IN, 0, size=4096).read == b"\x14" * 4096
        assert d.board.queue(0)["resubmitted"] == 0


@both
def test_drain_gives_back_what_a_limit_holds(path, uring):
    disk = Disk(path, uring=uring)
    disk.board.limit(0, 1, 1)
    with Io(disk) as io:
        q = io.disks[0].queues[0]
        assert q.do(OUT, 0, b"1" * 512).status == OK
        for i in range(4):
            q.add(OUT, 1, bytes([i]) * 512)
        start = time.monotonic()
        assert q.stop() == 1 and time.monotonic() - start < 0.5
        assert not q.collect()
        disk.board.limit(0, 0, 0)
        q.start()
        assert len(q.wait(4)) == 4


@both
def test_reset_device(path, uring):
    with Io(Disk(path, uring=uring, queues=2)) as io:
        d = io.disks[0]
        for q in d.queues:
            q.do(OUT, 0, b"1" * 512)
        d.tell(vf.RESET_DEVICE)
        for q in d.queues:
            q.new()
        d.start()
        for q in d.queues:
            assert q.do(IN, 0, size=512).read == b"1" * 512


@both
def test_stops_one_behind_the_other(path, uring):
    """Requests that wait for queues to stop, and are there before the one before them is answered."""
    with Io(Disk(path, queues=2, uring=uring)) as io:
        d = io.disks[0]
        for _ in range(20):
            for q in d.queues:
                q.do(OUT, 0, b"1" * 512)
            for index in (0, 1, 0):
                d.send(vf.GET_VRING_BASE, struct.pack("<II", index, 0))
            d.send(vf.RESET_DEVICE, flags=1 | vf.ACK)
            d.send(vf.RESET_DEVICE)
            d.send(vf.GET_FEATURES)
            assert [d.receive()[0] for _ in range(5)] == 3 * [vf.GET_VRING_BASE] + [vf.RESET_DEVICE, vf.GET_FEATURES]
            for q in d.queues:
                q.new()
            d.start()


@both
def test_one_process_after_another(path, uring):
    """The old one drains, a new one serves: nothing is resubmitted, nothing is lost, counters go on."""
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        for turn in range(5):
            for i in range(8):
                q.add(OUT, 8 * i, bytes([turn * 8 + i]) * 4096)
            q.stop()
            assert io.end() == 0
            io.restart()
            assert len(q.wait(len(q.pending))) <= 8
        assert q.do(IN, 56, size=4096).read == bytes([39]) * 4096
        assert io.disks[0].board.counters(0, "write")["requests"] == 40
        assert io.disks[0].board.queue(0)["resubmitted"] == 0


@both
def test_next_one_waits_beside(path, uring):
    """It answers, and leaves the disk to the one that serves, until it is its turn; then it knows the disk as it is."""
    d = Disk(path, uring=uring)
    with Io(d) as io:
        q, serving = d.queues[0], (d.conn, d.channel)
        d.conn = d.channel = None
        follower = Io(d, start=False)
        assert d.ask_u64(vf.GET_FEATURES) & vf.VERSION_1
        waiting = d.conn
        d.conn, d.channel = serving
        for i in range(9, 29):
            os.truncate(path, i * MIB)
            d.board.ask_resize()
            d.look()
            assert d.channel.recv(100) == struct.pack("<III", 2, 1, 0)  # CONFIG_CHANGE_MSG
        os.truncate(path, 40 * MIB)
        q.stop()
        assert io.end() == 0
        io.process, d.conn, d.channel = follower.process, waiting, None
        d.start()
        assert struct.unpack("<Q", d.config(0, 8)) == (40 * 2048,) and d.board.capacity == 40 * MIB
        assert q.do(OUT, 40 * 2048 - 1, b"n" * 512).status == OK


@both
def test_new_eventfds_while_it_runs(path, uring):
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        for i in range(5):
            assert q.do(OUT, i, b"k" * 512).status == OK
            q.kick, q.call = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
            io.disks[0].tell(vf.SET_VRING_KICK, struct.pack("<Q", 0), [q.kick])
            io.disks[0].tell(vf.SET_VRING_CALL, struct.pack("<Q", 0), [q.call])
        assert q.do(IN, 0, size=512).read == b"k" * 512


@both
def test_without_event_idx_and_inflight(path, uring):
    disk = Disk(path, uring=uring)
    disk.features = vf.VERSION_1 | vf.PROTOCOL
    disk.protocol = vf.P_REPLY_ACK | vf.P_CONFIG
    with Io(disk) as io:
        q = io.disks[0].queues[0]
        for _ in range(50):
            assert q.do(OUT, 0, b"a" * 512).status == OK
        assert q.ram.unpack(q.used, "<H") == (0,) or q.do(FLUSH).status == OK


@both
def test_resize(path, uring):
    with Io(Disk(path, uring=uring)) as io:
        d, q = io.disks[0], io.disks[0].queues[0]
        assert q.do(IN, 16384, size=512).status == IOERR
        os.truncate(path, 16 * MIB + 100)
        d.board.ask_resize()
        d.look()
        assert d.channel.recv(100) == struct.pack("<III", 2, 1, 0)  # CONFIG_CHANGE_MSG
        assert struct.unpack("<Q", d.config(0, 8)) == (32768,) and d.board.capacity == 16 * MIB
        assert d.board.resize_done()
        assert q.do(OUT, 32767, b"e" * 512).status == OK
        os.truncate(path, 4 * MIB)  # smaller, and nobody has said so yet: an I/O error, and no more
        assert q.do(IN, 16384, size=512).status == IOERR
        assert q.do(IN, 0, size=512).status == OK


def exactly(seconds, spent):
    """Never sooner; and not later, for once, on a machine where others work as well."""
    for _ in range(10):
        time.sleep(0.1)  # the bucket is full again
        took = spent()
        assert took >= seconds - 0.001, took
        if took < seconds + 0.015:
            return
    raise AssertionError("%.4f s instead of %.4f" % (took, seconds))


@both
def test_limits(path, uring):
    """Operations, then bytes: exact, with a burst, changed while a request waits."""
    disk = Disk(path, uring=uring)
    disk.board.limit(0, 200, 10)
    with Io(disk) as io:
        q = io.disks[0].queues[0]

        def spent(count, size=512):
            start = time.monotonic()
            for i in range(count):
                q.add(OUT, 0, b"x" * size)
                if len(q.pending) == 16:
                    q.wait()
            q.wait(len(q.pending))
            return time.monotonic() - start
        exactly(0.25, lambda: spent(60))  # 10 at once, 50 at 200 a second
        assert disk.board.queue(0)["held"] >= 10 and disk.board.queue(0)["held_ns"] > 0.1e9
        assert q.do(FLUSH).status == OK and q.do(GET_ID, size=20).status == OK  # these cost nothing
        disk.board.limit(0, 0, 0)
        disk.board.limit(1, 4 * MIB, 64 << 10)
        exactly(17 / 64, lambda: spent(18, 65536))  # one at once, 17 at 64 a second
        disk.board.limit(1, 512, 512)
        q.do(OUT, 0, b"x" * 512)
        start = time.monotonic()
        q.add(OUT, 0, b"x" * 512)
        time.sleep(0.05)
        disk.board.limit(1, 0, 0)
        disk.look()
        q.wait()
        assert time.monotonic() - start < 0.5


def test_direct():
    """O_DIRECT, with buffers that are aligned and some that are not."""
    folder = os.path.dirname(os.path.abspath(__file__)) if "tmpfs" in folder_type("/tmp") else "/var/tmp"
    for uring in (True, False):
        path = image(8 * MIB, folder)
        try:
            disk = Disk(path, uring=uring, flags=os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            os.unlink(path)
            raise Skip("no direct I/O in " + folder) from error
        with Io(disk) as io:
            q, ram = io.disks[0].queues[0], io.disks[0].ram
            block, = struct.unpack("<I", disk.config(20, 4))
            assert q.do(OUT, 8, b"d" * 4096).status == OK
            assert q.do(IN, 8, size=4096).read == b"d" * 4096
            assert q.do(OUT, 16, b"u" * 4096, at=0x500001).status == OK
            assert q.do(IN, 16, size=4096, at=0x500003).read == b"u" * 4096
            ram.write(0x300000, struct.pack("<IIQ", IN, 0, 8))
            q.raw([(0x300000, 16, 0), (0x600100, 4095, WRITE), (0x608001, 4097, WRITE), (0x300010, 1, WRITE)])
            assert q.wait()[0].status == OK
            assert ram.read(0x600100, 4095) + ram.read(0x608001, 4097) == b"d" * 4096 + b"u" * 4096
            if block > 512:
                assert q.do(IN, 1, size=512).status == IOERR
        os.unlink(path)


@both
def test_signals(path, uring):
    """Those of a terminal are for others; SIGTERM ends it."""
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        for sig in (signal.SIGINT, signal.SIGTSTP, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU, signal.SIGPIPE):
            io.process.send_signal(sig)
        assert q.do(OUT, 0, b"s" * 512).status == OK
        io.kill(signal.SIGTERM)
        assert io.process.returncode == -signal.SIGTERM


@both
def test_file_that_may_not_grow(path, uring):
    """RLIMIT_FSIZE: an error of that request, not the end of the process."""
    with Io(Disk(path, uring=uring)) as io:
        q = io.disks[0].queues[0]
        resource.prlimit(io.process.pid, resource.RLIMIT_FSIZE, (MIB, MIB))
        assert q.do(OUT, 2 * MIB // 512, b"x" * 512).status == IOERR
        assert q.do(OUT, 0, b"s" * 512).status == OK
        assert io.process.poll() is None


@both
def test_ends_with_its_front_ends(path, uring):
    other = image()
    with Io(Disk(path, uring=uring), Disk(other, name="d1", uring=uring)) as io:
        io.disks[0].conn.close()
        assert io.disks[1].queues[0].do(OUT, 0, b"s" * 512).status == OK
        time.sleep(0.05)
        assert io.process.poll() is None
    assert io.process.returncode == 0
    os.unlink(other)


def test_command_line():
    for args, words in ((["io"], "--disk is missing"), (["io", "--disk", "id=a"], "socket is missing"),
                        (["io", "--disk", "id=a,socket=3,file=4,board=5,queue-size=3"], "Number"),
                        (["io", "--disk", "id=a,socket=3,file=4,board=5,queue-size=24"], "power of 2"),
                        (["io", "--disk", "id=a,socket=3,file=4,board=5,rings=6:7"], "one descriptor for each"),
                        (["io", "--disk", "id=a,socket=3,file=4,board=5,readonly=maybe"], "on or off"),
                        (["io", "--disk", "id=a,socket=3,file=4,board=5"], "descriptor 3 is no stream socket"),
                        (["io", "--disk", "socket=3,file=4,board=5"], "id is missing")):
        done = molt(*args)
        assert done.returncode and (words in done.stderr or words == "Number"), (args, done)
    assert "not for people" in molt("io", "--help").stdout


if __name__ == "__main__":
    run_cases(globals())
