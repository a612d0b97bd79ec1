# SPDX-License-Identifier: MIT
"""The toucher guest (tests/firmware), asked for one pass over its RAM at a time."""
import re
import socket


class Toucher:
    """The guest at the other end of its serial port, a socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(600)
        self.sock.connect(path)
        self.buf = b""

    def line(self, pattern):
        while True:
            while b"\n" not in self.buf:
                self.buf += self.sock.recv(4096)
            line, self.buf = self.buf.split(b"\n", 1)
            m = re.search(pattern, line.decode())
            if m:
                return m

    def touch(self):
        """One pass, in microseconds."""
        self.sock.sendall(b"t")
        m = self.line(r"pass \d+ us=(\d+) slowest_us=\d+ changes=(\d+)")
        if m.group(2) != "0":
            raise AssertionError("RAM has changed: " + m.group(0))
        return int(m.group(1))
