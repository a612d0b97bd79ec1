#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The CPU that a guest sees: host's or a model's, on a real KVM, and over updates."""
import fcntl
import json
import os
import re
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import Vm, expect_error, molt, molt_binary, need_kvm, run_cases

LINE = re.compile(rb"cpuid: ([0-9a-f]+)\.(\d+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)\r?\n")
EAX, EBX, ECX, EDX = range(4)

# psABI, "Micro-Architecture Levels": name, leaf, register, bit
LEVELS = {
    "x86-64-v2": [("cx16", 1, ECX, 13), ("lahf_lm", 0x80000001, ECX, 0), ("popcnt", 1, ECX, 23), ("pni", 1, ECX, 0),
                  ("sse4_1", 1, ECX, 19), ("sse4_2", 1, ECX, 20), ("ssse3", 1, ECX, 9)],
    "x86-64-v3": [("avx", 1, ECX, 28), ("avx2", 7, EBX, 5), ("bmi1", 7, EBX, 3), ("bmi2", 7, EBX, 8),
                  ("f16c", 1, ECX, 29), ("fma", 1, ECX, 12), ("abm", 0x80000001, ECX, 5), ("movbe", 1, ECX, 22),
                  ("xsave", 1, ECX, 26)],
    "x86-64-v4": [("avx512f", 7, EBX, 16), ("avx512bw", 7, EBX, 30), ("avx512cd", 7, EBX, 28),
                  ("avx512dq", 7, EBX, 17), ("avx512vl", 7, EBX, 31)],
}
# Of every level, and what molt itself adds for one vCPU: x2APIC, TSC deadline, hypervisor.
V1_ECX, V1_EDX, V1_EXT_EDX = 1 << 21 | 1 << 24 | 1 << 31, 0x078bfbfd, 1 << 11 | 1 << 20 | 1 << 29


class CpuidVm:
    """A guest that prints CPUID, and the serial line to ask it again."""

    def __init__(self, *args):
        self.vm = Vm("--memory", "32M", *args, kernel="cpuid", serial="socket=com1", start=False)
        self.vm.popen["cwd"] = self.vm.dir
        self.line = socket.socket(socket.AF_UNIX)
        self.asked = 0

    def __enter__(self):
        try:
            self.vm.start()
            self.line.connect(self.vm.path("com1"))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *why):
        self.line.close()
        self.vm.__exit__(*why)

    def answer(self, byte):
        """What the guest prints for the byte. One that comes before it has set up its port is lost."""
        heard, end = b"", time.monotonic() + 60
        self.line.settimeout(2)
        while b"cpuid: end " + byte not in heard:
            assert time.monotonic() < end, (heard, self.vm.log())
            if b"cpuid: 0.0" not in heard:
                self.line.sendall(byte)
            try:
                part = self.line.recv(65536)
            except TimeoutError:
                continue
            assert part, (heard, self.vm.log())
            heard += part
        return heard[:heard.index(b"cpuid: end " + byte)]

    def leaves(self):
        """Asks, and gives {(leaf, subleaf): [EAX, EBX, ECX, EDX]}."""
        self.asked += 1
        heard = self.answer(b"abcdefgh"[self.asked:self.asked + 1]).rpartition(b"cpuid: end")[2]
        found = {(int(m[1], 16), int(m[2])): [int(m[i], 16) for i in range(3, 7)] for m in LINE.finditer(heard)}
        assert (0, 0) in found, heard
        return found


def register(leaves, leaf, reg, subleaf=0):
    return leaves.get((leaf, subleaf), [0] * 4)[reg]


def kvm_offers():
    """KVM_GET_SUPPORTED_CPUID in the form of CpuidVm.leaves()."""
    entries = bytearray(8 + 256 * 40)
    struct.pack_into("I", entries, 0, 256)
    with open("/dev/kvm", "rb", buffering=0) as kvm:
        fcntl.ioctl(kvm, 0xC008AE05, entries)
    found = {}
    for i in range(struct.unpack_from("I", entries)[0]):
        leaf, subleaf, _, *registers = struct.unpack_from("7I", entries, 8 + 40 * i)
        found[leaf, subleaf] = registers
    return found


def lacks(host, level):
    """Features of the level and of those below that KVM does not offer."""
    missing = []
    for name, features in LEVELS.items():
        missing += [f for f, leaf, reg, bit in features if not register(host, leaf, reg) >> bit & 1]
        if name == level:
            return missing
    return missing


def bits_of(level):
    """{(leaf, reg): mask} of the features of the level."""
    masks = {(1, ECX): V1_ECX, (1, EDX): V1_EDX, (0x80000001, EDX): V1_EXT_EDX, (7, EBX): 0, (7, ECX): 0, (7, EDX): 0}
    for name, features in LEVELS.items():
        if level == "x86-64-v1":
            break
        for _, leaf, reg, bit in features:
            masks[leaf, reg] = masks.get((leaf, reg), 0) | 1 << bit
        if name == level:
            break
    return masks


def host_leaves():
    with CpuidVm() as guest:
        return guest.leaves()


def kvm_adds_bits(host, offered):
    """Whether a guest sees features that KVM does not offer: one without hardware's help cannot hide all."""
    return any(register(host, 7, reg) & ~register(offered, 7, reg) for reg in (EBX, ECX, EDX))


def check_model(leaves, level, host, exact):
    for (leaf, reg), mask in bits_of(level).items():
        seen = register(leaves, leaf, reg)
        if (leaf, reg) == (0x80000001, ECX):
            seen &= ~2  # CMP_LEGACY, of topology
        if (leaf, reg) == (1, ECX):
            seen &= ~(1 << 27)  # OSXSAVE, which the guest turned on itself
        assert seen & mask == mask and (seen == mask or not exact), (
            "%s: leaf %#x register %d: %#x, not %#x" % (level, leaf, reg, seen, mask))
    assert leaves[0, 0][1:] == host[0, 0][1:], "vendor"
    intel = host[0, 0][EBX] == 0x756e6547
    assert register(leaves, 1, EAX) == (0xf61 if intel else 0x60fb1), leaves[1, 0]
    name = b"".join(register(leaves, leaf, reg).to_bytes(4, "little") for leaf in range(0x80000002, 0x80000005)
                    for reg in range(4)).rstrip(b"\0")
    assert name == level.encode(), name
    assert register(leaves, 0, EAX) == 0xd and register(leaves, 0x80000000, EAX) == 0x80000008
    assert register(leaves, 0x80000008, EAX) == 0x3027
    assert register(leaves, 0x40000001, EAX) == 0x0100004b
    xcr0 = {"x86-64-v3": 7, "x86-64-v4": 0xe7}.get(level, 0)
    assert register(leaves, 0xd, EAX) == xcr0 or not exact, leaves.get((0xd, 0))


def test_models():
    """Each level: as promised where this host has it, else refused with the names of what is missing."""
    host, offered, made = host_leaves(), kvm_offers(), 0
    exact = not kvm_adds_bits(host, offered)
    for level in ("x86-64-v1", *LEVELS):
        missing = [] if level == "x86-64-v1" else lacks(offered, level)
        if missing:
            done = molt("run", "--cpu", level, "--serial", "null")
            assert done.returncode == 1, done
            assert "CPU model %s: this host or its KVM lacks" % level in done.stderr, done.stderr
            for name in missing:
                assert re.search(r"\b%s\b" % name, done.stderr), (name, done.stderr)
            continue
        with CpuidVm("--cpu", level) as guest:
            check_model(guest.leaves(), level, host, exact)
        made += 1
    assert made, "not even x86-64-v1"


def test_host_has_no_shadow_stacks():
    """Nor anything else that no update carries: here with this host's KVM, all of them in unit tests."""
    host = host_leaves()
    assert not register(host, 7, ECX) >> 7 & 1 and not register(host, 7, EDX) >> 20 & 1
    assert not register(host, 1, ECX) >> 5 & 1 and not register(host, 0x80000001, ECX) >> 2 & 1
    assert register(host, 0xd, ECX, 1) == 0
    for leaf, subleaf in host:
        assert leaf not in (0x12, 0x14, 0x8000000a, 0x8000001f), (leaf, subleaf)


def test_model_stays_over_updates():
    with CpuidVm("--cpu", "x86-64-v1") as guest:
        vm, before = guest.vm, guest.leaves()
        path = vm.path("state")
        report = vm.update(molt_binary(), *vm.argv[1:], state_file=path)
        assert report["pid"] == vm.pid
        assert guest.leaves() == before
        machine = json.loads(molt("state", path).stdout)["sections"][0]
        assert [f["value"] for f in machine["fields"] if f["name"] == "cpu_model"] == ["x86-64-v1"], machine
        for argv in (["run", "--cpu", "host"], ["run", "--cpu", "x86-64-v2"]):
            expect_error(lambda: vm.update(molt_binary(), *argv), "check",
                         "--cpu %s, but the guest has x86-64-v1" % argv[2])
        expect_error(lambda: vm.update(molt_binary(), "run", "--cpu", "z80"), "check", "'z80' does not exist")
        vm.update(molt_binary(), "run")  # says nothing of it: the guest keeps it
        assert guest.leaves() == before and vm.running()


def test_wrong_name():
    done = molt("run", "--cpu", "x86-64-v5", "--serial", "null")
    assert done.returncode in (1, 2) and "'x86-64-v5' does not exist" in done.stderr, done


need_kvm()
run_cases(globals())
