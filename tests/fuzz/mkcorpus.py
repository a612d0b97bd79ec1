#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the first inputs of every fuzz target into corpus/: real data, as small as it gets.

What fuzzing found later is beside them under other names and is kept.

usage: mkcorpus.py BUILD [BZIMAGE]
"""
import pathlib
import struct
import subprocess
import sys

CORPUS = pathlib.Path(__file__).parent / 'corpus'
BOOT_HEAD = bytes([30, 8, 4, 2])  # 32 MiB, command line, initramfs, hole: see boot_fuzz.h

QMP = [
    b'{"execute":"qmp_capabilities"}',
    b'{"execute":"query-commands","id":1}{"execute":"query-version"}\x02{"execute":"query-status"}',
    b'{"execute":"query-cpus-fast","id":[1,{"a":null}]}[1]"x"{"execute":"query-uuid","id":1e3}',
    b"{'execute':'stop'}\x01{'execute':'cont'}{'execute':'system_reset'}"
    b"{'execute':'system_powerdown'}",
    b'{"execute":"update","arguments":{"command":["/molt","run"],"timeout":1000,'
    b'"check-only":true},"id":"u"}\x02\x01{"execute":"query-update"}',
    b'{"execute":"update","arguments":{"state-file":"/s","no-check":true}}\x01'
    b'{"execute":"update","arguments":{"timeout":1001}}\x01{"execute":"query-update"}',
    b'{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-exec",'
    b'"cpr-exec-command":["f"]}}{"execute":"query-migrate-parameters"}'
    b'{"execute":"migrate","arguments":{"uri":"file:/s"}}\x01{"execute":"query-migrate"}',
    b'{"execute":"migrate","arguments":{"channels":[{"channel-type":"main","addr":'
    b'{"transport":"file","filename":"/s","offset":0}}]}}\x03{"execute":"quit"}',
    b'{"execute":"migrate-set-capabilities","arguments":{"capabilities":'
    b'[{"capability":"events","state":true}]}}\x04\x60\x00\x01\x04\x90\x00\x08{"exec',
    b'\x05{"execute":"getfd","arguments":{"fdname":"a"}}\x01\x05 \x02'
    b'{"execute":"getfd","arguments":{"fdname":"b"}}{"execute":"update","arguments":'
    b'{"command":["/m"],"command-fd":"a","state-fd":"b"}}\x01\x05 {"execute":"closefd",'
    b'"arguments":{"fdname":"b"}}\x04\x60\x00\x01',
]
ARGS = [
    b'\x00--kernel\nvmlinuz\n--memory=512M\n--cpus\n4\n--serial\nfile=/x\n--no-reboot\n--mem\n1G',
    b'\x01/run/molt.sock\n--check\n--no-check\n--timeout=5\n--\n/usr/bin/molt\nrun\n--cpus\n2',
    b'\x02/run/molt.sock\nquery-status\n-h',
    b'\x05512M', b'\x050x1000', b'\x0599999', b'\x050.25', b'\x0518446744073709551615',
    b'\x06512M,hugepages=2M,thp=on', b'\x06size=a,,b,prefault=on,thp=',
]


def piece(at, data):
    return struct.pack('<HB', at, len(data)) + data


# See fuzz_client.c: a command line, the state that the server writes, what it sends.
STREAM = (struct.pack('<8sII32s16s16sII', b'MOLTSTRM', 1, 1, b'fuzz', bytes(16), bytes(16), 0, 0) +
          struct.pack('<IIIII48sI', 0x54434553, 0, 1, 0, 0, b's', 0) +
          struct.pack('<IIII', 0x21444e45, 1, 0, 0))
# See fuzz_vhostfront.c: all is asked and answered; the device is started, with a queue at 64 KiB.
SERVED, UPDATE, CHANGE = b'\x0c', b'\x09', b'\x01\x00\x0c' + struct.pack('<III', 2, 9, 0)
BEGUN = SERVED + b'\x03' + bytes(8) + b'\x05' + struct.pack('<BBBBHB', 6, 0x40, 0x50, 0x60, 0, 1)
STOPS = {False: b'\x04' + SERVED, True: b'\x14' + SERVED}
VHOST = {
    'life': BEGUN + SERVED + STOPS[False] + BEGUN + SERVED + STOPS[True],
    'update': BEGUN + UPDATE + b'\x0d\x0d' + UPDATE + SERVED + UPDATE + b'\x04\x0d' + UPDATE + SERVED,
    'config': BEGUN + SERVED + CHANGE + b'\x0d\x0d' + CHANGE + UPDATE + SERVED,
    'lost': BEGUN + SERVED + b'\x18\x0d\x07' + SERVED + b'\x06\x01\x0d\x0b\x00\x80\x0d\x07' + SERVED,
    'spoilt': BEGUN + SERVED + b'\x19\x03\x10\x00\x01\x20\x00\x07\x30\x01\x09' + SERVED,
    'rings': BEGUN + SERVED + b'\x0a\x05\x00\x60\x02\x0a\x09\x00\x50\x02\x18\x0d\x07' + SERVED,
    'half': b'\x0d\x00\x00\x06\x01\x00\x00\x00\x05\x00' + UPDATE + b'\x0d\x00\x01\x02\x00\x00' + UPDATE,
    'wrong': b'\x0d\x42\x04\x05\x08\x01\x0c\x01\x10\xff\x0d\x07\x0d\x32\x00\x02\x05\x04' + SERVED,
}
HELLO = b'{"QMP":{"version":{},"capabilities":[]}}\r\n\x01{"return":{}}\r\n\x01'
EVENT = b'{"event":"UPDATE_FAILED","data":{"error":"no","pid":7},"timestamp":{"seconds":1}}\r\n'
ERROR = b'{"error":{"class":"GenericError","desc":"no \\u001b[2J\\u202e\\nmolt update: yes"}}\r\n'
REPORT = (b'{"return":{"pid":7,"previous-pid":6,"version":"1","previous-version":"0","updates":1,'
          b'"state-bytes":9,"total-us":9,"blackout-us":5,"stages":[{"name":"save","us":1}]}}\r\n')
GIVEN = b'{"return":{}}\r\n\x01'
DISKS = (b'[{"device":"d\\"\\u009b0","stats":{"rd_operations":5,"failed_rd_operations":-1,"rd_total_time_ns":1e9,'
         b'"rd_latency_histogram":{"boundaries":[1000,2000],"bins":[1,9223372036854775807,3,4]},"broken":true},'
         b'"queues":[{"kicks":4,"wr_bytes":7},0]}]')
STATS = (b'{"return":{"status":"running","running":true}}{"return":{"updates":2,"last":{"blackout-us":5}}}'
         b'{"return":[{"device":"d\\"\\u009b0","inserted":{"file":"/\\u202e","image":{"virtual-size":99999}},'
         b'"back-end":{"state":"running"}}]}{"return":' + DISKS + b'}')
CLIENT = {
    'answer': (0, b'', HELLO + b'{"return":{"a":[1,-2.5,null,true,"\\u009b\\u061c\xc3\xa9"]}}\r\n'),
    'compact': (1, b'', HELLO + EVENT + b'\x01{"return":[[[[]]],{}]}'),
    'error': (0, b'', HELLO + ERROR),
    'refusal': (0, b'', ERROR),
    'no-qmp': (0, b'', b'220 mail ESMTP\r\n'),
    'events': (2, b'', HELLO + EVENT + b'\x02' + EVENT + b'\x03{"event":"STOP"}'),
    'events-and-answer': (3, b'', HELLO + EVENT + b'\x01{"return":{}}' + EVENT),
    'silence': (0, b'', HELLO + b'\x02' * 70),
    'endless-talk': (0, b'', HELLO + b'\x04' + b'{"event":1}\x01' * 70 + b'{"return":1}'),
    'report': (4, b'', HELLO + REPORT),
    'report-json': (5, b'', HELLO + b'\x03' + REPORT),
    'update-error': (4, b'', HELLO + ERROR + EVENT + b'\x01{"return":{}}'),
    'update-lost': (4, b'', HELLO),
    'check': (6, b'', HELLO + b'{"return":{"check":"passed"}}'),
    'state': (0x87, STREAM, HELLO + GIVEN + REPORT),
    'state-and-successor': (0x88, STREAM, HELLO + GIVEN + GIVEN + b'\x06' + REPORT),
    'state-and-script': (0x89, STREAM, HELLO + GIVEN + REPORT),
    'state-refused': (0x88, STREAM, HELLO + GIVEN + ERROR),
    'state-huge': (0x87, STREAM, HELLO + GIVEN + b'\x05' + REPORT),
    'state-cut': (0x87, STREAM, HELLO + GIVEN + b'\x07' + REPORT),
    'state-none': (7, b'no state', HELLO + GIVEN + REPORT),
    'stats': (10, b'', HELLO + STATS),
    'stats-json': (11, b'', HELLO + STATS + b'{"return":' + DISKS + b'}'),
    'stats-prometheus': (12, b'', HELLO + STATS + b'{"return":' + DISKS + b'}'),
    'stats-strange': (12, b'', HELLO + b'{"return":1}{"return":[]}{"return":{"a":1}}'
                      b'{"return":[{"device":"\u001b"},3,{"stats":[]}]}{"return":[[]]}'),
}
JSON = [
    b'\x01{"execute":"x","arguments":{"a":[1,-2.5e3,true,null,"\\u00e9\\n\\\\"]}}\n[]',
    b"\x04{'a':'it\\'s \"q\"'}1 2 null\"s\"{]\x01{}",
    b'\x02' + b'[' * 64 + b']' * 64 + b'[' * 65,
    b'\x03{"id":18446744073709551616,"execute":"x"}{"id":[-1.5e999, "\\u0000"],"a":}'
    b"{'\\u0069d':'it\\'s'}",
]
# See fuzz_virtqueue.c: the queue's shape, then pieces of guest RAM.
VIRTQUEUE_CHAIN = (piece(0, struct.pack('<QIHHQIHHQIHH', 0x8000, 16, 1, 1, 0x9000, 512, 3, 2,
                                        0xa000, 1, 2, 0)) +
                   piece(0x1000, struct.pack('<HHHH', 0, 1, 0, 0)))
VIRTQUEUE_TABLE = (piece(0x4000, struct.pack('<QIHHQIHH', 0x8000, 16, 1, 1, 0x9000, 512, 2, 0)) +
                   piece(0, struct.pack('<QIHHQIHH', 0xa000, 8, 1, 1, 0x4000, 32, 4, 0)) +
                   piece(0x1000, struct.pack('<HHHH', 0, 1, 0, 0)))
# See fuzz_virtio.c: steps of an operation, a slot, log2 of the access's size, and what the operation takes.
VIRTIO_RING = (b'\4\0\0' + struct.pack('<HB', 0x1000, 16) + struct.pack('<QIHH', 0x8000, 64, 2, 0) +
               b'\4\0\0' + struct.pack('<HB', 0x2000, 6) + struct.pack('<HHH', 0, 1, 0))
VIRTIOS = {
    'entropy': b'\6\1\0' + VIRTIO_RING + b'\5\1\0' + b'\7\0\0',
    'bar-moves': b'\0\1\2' + struct.pack('<HQ', 0x10, 0x300000) + b'\3\0\2' + struct.pack('<QQ', 0x300000, 1) +
                 b'\1\2\2\x10\0' + struct.pack('<Q', 0xffffffff) + b'\7\0\0',
    'msix': b'\6\1\0' + b'\2\1\2' + struct.pack('<HQ', 0x4010, 0xfee00000) + b'\2\1\2' +
            struct.pack('<HQ', 0x401c, 0) + b'\0\1\1' + struct.pack('<HQ', 0x42, 0x8000) + VIRTIO_RING + b'\5\1\0',
    'queue-reset': b'\6\2\0' + b'\2\2\1' + struct.pack('<HQ', 0x3a, 1) + b'\5\2\0',
}
VIRTQUEUES = {
    'chain': bytes([0x03, 7, 0, 0, 0, 0]) + VIRTQUEUE_CHAIN,
    'event-idx': bytes([0x0b, 7, 0, 0, 0, 0]) + VIRTQUEUE_CHAIN + piece(0x1003, b'\0'),
    'indirect': bytes([0x13, 7, 0, 0, 0, 0]) + VIRTQUEUE_TABLE,
    'no-indirect': bytes([0x03, 7, 0, 0, 0, 0]) + VIRTQUEUE_TABLE,
    'size': bytes([0x80, 3, 0, 7, 0, 0, 0, 0]),
    'addresses': bytes([0x22, 7, 0, 0]) + struct.pack('<QQQHH', 0x5000, 2**64 - 2, 0x7000, 0, 0),
}
# See fuzz_backend.c: steps.
BACKEND_REQUEST = (piece(0x300, struct.pack('<IIQ', 0, 0, 3)) +
                   b'\x03' + piece(0, struct.pack('<QIHHQIHHQIHH', 0x300, 16, 1, 1, 0x4000, 512, 3, 2,
                                                 0x310, 1, 2, 0)) +
                   b'\x03' + piece(0x1000, struct.pack('<HHHH', 0, 1, 0, 0)))
BACKENDS = {
    'read': b'\x07\x02' + bytes(10) + b'\x03' + BACKEND_REQUEST + b'\x05\x06',
    'two-queues': b'\x02' + bytes(10) + b'\x0a' + bytes(10) + b'\x03' + BACKEND_REQUEST + b'\x05\x05\x06\x0e',
    'messages': b''.join(bytes([0, size, request, 8, fds]) + bytes(fds) + bytes(size) for request, size, fds in (
        (1, 0, 0), (16, 8, 0), (2, 8, 0), (5, 40, 1), (31, 24, 0), (32, 24, 1), (8, 8, 0), (9, 40, 0), (10, 8, 0),
        (12, 8, 1), (13, 8, 1), (14, 8, 1), (18, 8, 0), (24, 12, 0), (21, 0, 1), (11, 8, 0), (34, 0, 0))),
}
# See fuzz_device.c: register accesses, then what the host does.
DEVICES = {
    'serial': bytes([13, 1, 0, 3, 0x80, 1, 0, 0, 1, 1, 0, 3, 3, 1, 0, 1, 5, 1, 0, 4, 0xb,
                     1, 0, 2, 0xc7, 5, 20]) + b'hello, guest!!!!!!!!' +
              bytes([1, 0, 0, 0x41, 0, 0, 0, 0, 0, 2, 10, 1, 0, 4, 0x1f, 1, 0, 0, 0x55, 9, 6,
                     11, 2, 0x80, 0, 1, 13, 0, 13, 7, 8]),
    'rtc': bytes([1, 0, 0, 0xb, 1, 0, 1, 0x72, 1, 1, 0, 1, 0xff, 1, 1, 0, 3, 0xff, 12, 30, 1, 0, 0,
                  0xc, 0, 0, 1, 10, 1, 0, 0, 0xb, 1, 0, 1, 0x82, 1, 0, 0, 0x32, 1, 0, 1, 0x20,
                  1, 0, 0, 0xb, 1, 0, 1, 2, 9, 1, 0, 0, 9, 0, 0, 1, 12, 220, 11, 1, 0x90, 0, 1]),
    'i8042': bytes([1, 4, 0, 0xaa, 0, 0, 0, 1, 4, 0, 0x60, 1, 0, 0, 0x47, 10, 1, 4, 0, 0xd1, 9,
                    1, 0, 0, 0xfe, 1, 4, 0, 0xfe, 11, 1, 0x80, 0, 1]),
    'power': bytes([1, 1, 2, 0, 1, 15, 0, 1, 0, 10, 1, 1, 0, 0, 1, 1, 5, 0, 0, 0x34, 1, 8, 0, 6,
                    9, 11, 1, 0x90, 0, 1]),
    'pvpanic': bytes([0, 0, 0, 1, 0, 0, 1, 10, 9, 8]),
    'pci-host': bytes([0, 2, 0, 0, 0, 1, 1, 4, 0, 0, 7, 5, 1, 0, 12, 0, 0, 16, 0, 3, 0, 0, 16,
                       0, 2, 0, 16, 0, 10, 9, 11, 1, 0x90, 0, 1, 7]),
    'irqchip': bytes([14]) + bytes(range(1, 255)) + bytes([10, 9, 11, 1, 0x90, 0, 1]),
    'pit': bytes([14]) + bytes(range(1, 255)) + bytes([10, 9, 12, 20, 11, 1, 0x90, 0, 1]),
    'clock': bytes([14]) + bytes(range(1, 255)) + bytes([10, 12, 20, 9, 12, 220, 10, 11, 1, 0x90,
                                                         0, 1, 8, 10]),
}


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def elf(path, note_align=4):
    """A guest's headers, notes and the beginning of its code; sections and the rest go."""
    data = bytearray(path.read_bytes())
    phoff, = struct.unpack_from('<Q', data, 32)
    phnum, = struct.unpack_from('<H', data, 56)
    end = phoff + 56 * phnum
    for i in range(phnum):
        kind, _, offset = struct.unpack_from('<IIQ', data, phoff + 56 * i)
        filesz, = struct.unpack_from('<Q', data, phoff + 56 * i + 32)
        if kind == 4:
            end = max(end, offset + filesz)
            struct.pack_into('<Q', data, phoff + 56 * i + 48, note_align)
    # Entry and code may be in the hole behind the file.
    return bytes(data[:end])


def bzimage(path):
    """The setup header of a real kernel, with a payload that fits into the hole."""
    data = bytearray(path.read_bytes()[:0x800])
    data[0x1f1] = 3
    struct.pack_into('<I', data, 0x1f4, 0x1000)
    struct.pack_into('<I', data, 0x260, 0x400000)
    data[:0x1f1] = bytes(0x1f1)
    return bytes(data)


def main():
    build = pathlib.Path(sys.argv[1])
    for number, text in enumerate(QMP):
        start = b'' if number == 0 else QMP[0]
        write('control', f'session-{number}', start + text)
    for number, text in enumerate(ARGS):
        write('cli', f'args-{number}', text)
    for number, text in enumerate(JSON):
        write('json', f'text-{number}', text)
    for name, (line, state, text) in CLIENT.items():
        write('client', name, struct.pack('<BH', line, len(state)) + state + text)
    for name, ops in DEVICES.items():
        write('device_' + name, 'ops', ops)
    for name, data in BACKENDS.items():
        write('backend', name, data)
    for name, data in VIRTIOS.items():
        write('virtio', name, data)
    for name, data in VIRTQUEUES.items():
        write('virtqueue', name, data)
    for name, text in VHOST.items():
        write('vhostfront', name, text)
    for name in ('ticker', 'reset'):
        write('pvh', name, BOOT_HEAD + elf(build / f'firmware/{name}.elf'))
    write('pvh', 'notes-aligned-to-8', BOOT_HEAD + elf(build / 'firmware/ticker.elf', 8))
    if len(sys.argv) > 2:
        write('bzimage', 'linux', BOOT_HEAD + bzimage(pathlib.Path(sys.argv[2])))
    write('check', 'yes', b'\xff\xff{"reasons":[]}')
    write('check', 'no', b'\xff\xff{"reasons":["no device for section \'net\' 0","other"]}')
    for target in ('stream', 'vmstate', 'fdtable'):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
    subprocess.run([build / 'tests/fuzz/fuzz_seeds', CORPUS], check=True)


main()
