# SPDX-License-Identifier: MIT
"""A guest's mailbox (firmware/bench.h, firmware/iops.h), read and written in guest RAM from outside."""
import mmap
import os
import struct
import time

SEARCHED = 64 << 20  # the guest's image is at 1 MiB


class Gone(Exception):
    """The process that runs the guest ended."""


class Mailbox:
    """Of the guest that a process runs, in the first of its memfds whose name has `memfd`."""

    MAGIC = struct.pack("<Q", 0x48434E45424D4F4C)
    NOTED = 128     # the newest gaps, each as its end and its length
    FIELDS = ("magic entry page_tables stack ram_bytes tsc_khz ready entries last gap gap_end reset reset_done "
              "touch touch_done touch_ticks touch_bytes gaps".split() + 2 * NOTED * ["noted"] +
              "updates handoff_begin handoff_end switch_begin switch_end".split())

    def __init__(self, pid, memfd, alive, timeout=120):
        self.alive = alive
        self.map = None
        self.wait(lambda: self.find(pid, memfd), "the guest's mailbox", timeout)
        self.wait(lambda: self["ready"], "the guest's loop", timeout)

    def find(self, pid, memfd):
        for name in os.listdir("/proc/%d/fd" % pid):
            path = "/proc/%d/fd/%s" % (pid, name)
            try:
                if memfd in os.readlink(path) and self.find_in(path):
                    return True
            except FileNotFoundError:
                continue
        return False

    def find_in(self, path):
        size = os.stat(path).st_size
        if not size:
            return False
        with open(path, "r+b") as f:
            ram = mmap.mmap(f.fileno(), min(size, SEARCHED))
        for at in range(0, len(ram), mmap.PAGESIZE):
            if ram[at:at + 8] == self.MAGIC:
                self.map, self.at = ram, at
                return True
        ram.close()
        return False

    def offset(self, name):
        return self.at + 8 * self.FIELDS.index(name)

    def __getitem__(self, name):
        return struct.unpack_from("<Q", self.map, self.offset(name))[0]

    def __setitem__(self, name, value):
        struct.pack_into("<Q", self.map, self.offset(name), value)

    def wait(self, condition, what, timeout=60):
        end = time.monotonic() + timeout
        while not condition():
            if not self.alive():
                raise Gone("the guest's process ended before %s" % what)
            if time.monotonic() > end:
                raise TimeoutError("no %s within %d s" % (what, timeout))
            time.sleep(0.002)

    def ask(self, what, timeout=60):
        """Counts a request up and waits until the guest has served it."""
        self[what] = self[what] + 1
        self.wait(lambda: self[what + "_done"] == self[what], "answer to '%s'" % what, timeout)

    def us(self, ticks):
        return ticks * 1000 / self["tsc_khz"]

    def reset(self):
        self.ask("reset")

    def gap_us(self):
        """The largest gap since the reset, once the guest runs again."""
        last = self["last"]
        self.wait(lambda: self["last"] != last, "sign of life")
        return self.us(self["gap"])

    def noted(self):
        """[(end, ticks)] of the newest gaps that the guest has noted since the reset, oldest first."""
        words = struct.unpack_from("<%dQ" % (2 * self.NOTED), self.map, self.offset("noted"))
        return sorted(list(zip(words[::2], words[1::2]))[:self["gaps"]])

    def gap_within_us(self, begin, end):
        """The largest noted gap that overlaps a time on the TSC; 0 if there is none."""
        return self.us(max([ticks for at, ticks in self.noted() if at > begin and at - ticks < end], default=0))

    def touch_us(self, timeout=300):
        """How long the guest took to write to each page of its RAM."""
        self.ask("touch", timeout)
        return self.us(self["touch_ticks"])

    def close(self):
        self.map.close()
