#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The ELF kernel out of a bzImage, for booting by PVH: vmlinux.py BZIMAGE OUTPUT

The compressed kernel lies in the bzImage where its setup header says (payload_offset and payload_length, boot protocol
2.08). LZ4, which Python's library does not have, is decompressed here, in a few seconds.
"""
import lzma
import os
import shutil
import struct
import subprocess
import sys
import zlib

SETUP_SECTS, SIGNATURE, VERSION, PAYLOAD = 0x1f1, 0x202, 0x206, 0x248
PT_NOTE = 4
XEN_ELFNOTE_PHYS32_ENTRY = 18


class Unsupported(Exception):
    """A sentence: why there is no vmlinux to be had."""


def payload(image):
    if image[SIGNATURE:SIGNATURE + 4] != b"HdrS" or struct.unpack_from("<H", image, VERSION)[0] < 0x208:
        raise Unsupported("not a bzImage, or one older than boot protocol 2.08")
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = ((image[SETUP_SECTS] or 4) + 1) * 512 + offset
    return image[start:start + length]


def long_length(block, at, length):
    """Lengths of 15 and more go on in further bytes, until one is not 255."""
    if length < 15:
        return at, length
    while True:
        byte = block[at]
        at += 1
        length += byte
        if byte != 255:
            return at, length


def lz4_block(block):
    """One LZ4 block: sequences of a token, literals, and a copy of what was put out earlier."""
    out = bytearray()
    at, end = 0, len(block)
    while at < end:
        token = block[at]
        at, literals = long_length(block, at + 1, token >> 4)
        out += block[at:at + literals]
        at += literals
        if at >= end:
            break  # the last sequence has no copy
        distance = block[at] | block[at + 1] << 8
        at, copy = long_length(block, at + 2, token & 15)
        copy += 4
        start = len(out) - distance
        if distance >= copy:
            out += out[start:start + copy]
        else:  # the copy overlaps itself: a repeated pattern
            pattern = bytes(out[start:])
            out += (pattern * (copy // distance + 1))[:copy]
    return out


def lz4_legacy(data):
    """The kernel's framing: the magic, then blocks of 8 MiB, each after its length."""
    out, at = bytearray(), 4
    while at + 4 <= len(data):
        length = struct.unpack_from("<I", data, at)[0]
        if not 0 < length <= len(data) - at - 4:
            break  # not a block: the length of the whole that the kernel's build appends
        out += lz4_block(data[at + 4:at + 4 + length])
        at += 4 + length
    return bytes(out)


def xz(data):
    return lzma.LZMADecompressor().decompress(data)


def zstd(data):
    program = shutil.which("zstd")
    if not program:
        raise Unsupported("the kernel is compressed with zstd, which is not installed")
    # It complains of what the kernel's build appended, after all is put out.
    return subprocess.run([program, "-dc"], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=False).stdout


FORMATS = {
    b"\x02\x21\x4c\x18": lz4_legacy,
    b"\xfd7zX": xz,
    b"\x28\xb5\x2f\xfd": zstd,
    b"\x1f\x8b\x08": lambda data: zlib.decompressobj(31).decompress(data),
}


def has_pvh_entry(elf):
    """Whether a note names a PVH entry point."""
    phoff, = struct.unpack_from("<Q", elf, 32)
    phentsize, phnum = struct.unpack_from("<HH", elf, 54)
    for i in range(phnum):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", elf, phoff + i * phentsize)
        at, end = offset, offset + size
        while kind == PT_NOTE and at + 12 <= end:
            namesz, descsz, number = struct.unpack_from("<III", elf, at)
            if number == XEN_ELFNOTE_PHYS32_ENTRY and elf[at + 12:at + 16] == b"Xen\0":
                return True
            at += 12 + (namesz + 3 & ~3) + (descsz + 3 & ~3)
    return False


def extract(bzimage):
    """The ELF file's bytes; raises Unsupported."""
    with open(bzimage, "rb") as f:
        data = payload(f.read())
    for magic, decompress in FORMATS.items():
        if data.startswith(magic):
            elf = decompress(data)
            break
    else:
        raise Unsupported(f"{bzimage}: unknown compression (it begins with {data[:4].hex()})")
    if elf[:4] != b"\x7fELF":
        raise Unsupported(f"{bzimage}: what was compressed is no ELF file")
    if not has_pvh_entry(elf):
        raise Unsupported(f"{bzimage}: a kernel without a PVH entry point")
    return elf


def cached(bzimage, directory):
    """The path of the extracted kernel, made anew when the bzImage is newer."""
    path = os.path.join(directory, os.path.basename(bzimage).replace("vmlinuz", "vmlinux"))
    if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(bzimage):
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as f:
            f.write(extract(bzimage))
        os.rename(temporary, path)
    return path


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    try:
        with open(sys.argv[2], "wb") as f:
            f.write(extract(sys.argv[1]))
    except Unsupported as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
