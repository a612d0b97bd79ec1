# SPDX-License-Identifier: MIT
"""Talk with the shell on a lab guest's serial console.

    shell = GuestShell(stream)            # a connected socket, a file descriptor (pty), or an object with fileno()
    shell.wait_for_prompt(timeout=60)
    output, status = shell.run("labcheck pattern 64", timeout=30)

The console is one stream with everything on it: the shell's echo of what we type, the command's output, messages from
background processes and, if it must, the kernel's.  So run() puts markers around the output, spelt such that the echo
of the command line does not contain them, and takes out the kernel's lines.
"""

import os
import re
import select
import shlex
import time

PROMPT = "GUEST# "

# "[    1.234567] ..." : a printk with timestamps, which may begin anywhere in a line.
KERNEL_LINE = re.compile(r"\[ *\d+\.\d{6}\] [^\n]*\n?")

# busybox's line editor asks for the cursor's position, and moves it.
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

# Longer lines do not fit into the guest's line editor.
LONGEST_COMMAND = 900


class GuestTimeout(Exception):
    """What was waited for did not come; .heard is what came instead."""

    def __init__(self, what, heard):
        super().__init__(f"no {what!r} from the guest in time; its last words: {heard[-600:]!r}")
        self.heard = heard


class GuestGone(Exception):
    """The stream ended: the VMM closed its end of the serial line."""


class GuestShell:
    def __init__(self, stream, log=None):
        """log: a binary file that gets all that the guest says."""
        self.stream = stream  # kept, so that its descriptor stays open
        self.fd = stream if isinstance(stream, int) else stream.fileno()
        self.log = log
        self.pending = b""  # heard, but not yet consumed
        self.counter = 0

    def send(self, text):
        """Type something, exactly as given."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            select.select([], [self.fd], [], 10)
            data = data[os.write(self.fd, data):]

    def hear(self, timeout):
        """Take in what comes within the time; False if nothing did."""
        ready, _, _ = select.select([self.fd], [], [], max(0, timeout))
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as e:  # a pty whose other end was closed says EIO
            raise GuestGone(str(e)) from e
        if not data:
            raise GuestGone("end of file on the guest's serial line")
        if self.log:
            self.log.write(data)
            self.log.flush()
        self.pending += data
        return True

    def wait_for(self, what, timeout=30):
        """All that the guest says up to and with `what` (text, or a compiled pattern of bytes)."""
        pattern = what if isinstance(what, re.Pattern) else re.compile(re.escape(what.encode()))
        deadline = time.monotonic() + timeout
        while True:
            found = pattern.search(self.pending)
            if found:
                heard, self.pending = self.pending[:found.end()], self.pending[found.end():]
                return heard.decode(errors="replace").replace("\r\n", "\n")
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestTimeout(what, self.pending.decode(errors="replace"))
            self.hear(left)

    def wait_for_prompt(self, timeout=60):
        return self.wait_for(PROMPT, timeout)

    def forget(self):
        """Drop what was heard and not asked for."""
        while self.hear(0):
            pass
        self.pending = b""

    def run(self, command, timeout=30, kernel_lines=False):
        """(output, exit status) of a command line; the shell must be at its prompt, and is there again after.

        kernel_lines: leave the kernel's messages in, as for dmesg, whose output cannot be told from them.
        """
        self.counter += 1
        begin, end = f"<<{self.counter}:", f":{self.counter}="
        # One line, so that nothing is typed ahead and echoed into the output; eval, so that the command may end in
        # "&".  The empty quotes keep the echo of the line from looking like the markers.
        line = f"echo '<<''{self.counter}:'; eval {shlex.quote(command)}; echo ':''{self.counter}='$?'>>'"
        if len(line) > LONGEST_COMMAND:
            raise ValueError("command too long for the guest's line editor")
        self.send(line.replace("\n", "\r") + "\r")
        deadline = time.monotonic() + timeout
        self.wait_for(begin, timeout)
        last = re.compile(re.escape(end.encode()) + rb"(\d+)>>")
        text = self.wait_for(last, deadline - time.monotonic())
        status = int(last.search(text.encode()).group(1))
        self.wait_for_prompt(max(5, deadline - time.monotonic()))
        return self._clean(text[:text.rindex(end)], kernel_lines), status

    @staticmethod
    def _clean(text, kernel_lines):
        text = ESCAPE.sub("", text if kernel_lines else KERNEL_LINE.sub("", text))
        return text.replace("\r", "").lstrip("\n")

    def values(self, command, timeout=30):
        """The key=value words that a command prints, as a dict of int where they are numbers."""
        output, status = self.run(command, timeout)
        if status:
            raise RuntimeError(f"{command}: exit status {status}: {output}")
        return parse_values(output)


def parse_values(text):
    result = {}
    for key, value in re.findall(r"(\S+?)=(\S+)", text):
        try:
            result[key] = int(value, 0)
        except ValueError:
            result[key] = value
    return result
