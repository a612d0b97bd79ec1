# SPDX-License-Identifier: MIT
"""Many short trials, done by a few walkers at once, each with a guest of its own that it keeps while it can."""
import os
import queue
import sys
import threading
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from moltvm import emulated  # noqa: E402

WALKERS = min(2, os.cpu_count() or 1)
SAY_EVERY = 60  # seconds

# "K/N": of all jobs, the Kth of N parts.
PART, PARTS = map(int, (os.environ.get("MOLT_FAULTS_PART") or "1/1").split("/"))


def case_seconds(everything):
    """Limit for a test case."""
    return 7200 if everything or emulated() else 600


class Jobs:
    def __init__(self, jobs, walker_class, binary):
        self.walker_class = walker_class
        self.binary = binary
        self.jobs = queue.Queue()
        # By name: what is recorded, of which they are made, is not the same to the last point in each part.
        self.mine = [job for job in jobs if zlib.crc32(self.name(job).encode()) % PARTS == PART - 1]
        for job in self.mine:
            self.jobs.put(job)
        self.lost = []
        self.lock = threading.Lock()

    def one(self, walker, job):
        """A trial, with a guest started if there is none. If it raises anything, that is not to be trusted any more."""
        raise NotImplementedError

    def name(self, job):
        raise NotImplementedError

    def work(self):
        walker = self.walker_class(self.binary)
        while True:
            try:
                job = self.jobs.get_nowait()
            except queue.Empty:
                break
            try:
                self.one(walker, job)
            except Exception as why:  # noqa: BLE001
                self.note_lost(walker, job, why)
        walker.__exit__(None, None, None)

    def note_lost(self, walker, job, why):
        log = walker.vm.log()[-1500:] if walker.vm else ""
        with self.lock:
            self.lost.append("%s: %s: %s\n%s" % (self.name(job), type(why).__name__, why, log))
        try:
            walker.stop()
        except Exception as again:  # noqa: BLE001
            print("# %s" % again)

    def run(self):
        threads = [threading.Thread(target=self.work) for _ in range(WALKERS)]
        for thread in threads:
            thread.start()
        self.say_how_far(threads)
        self.tell()

    def say_how_far(self, threads):
        """Until all are done."""
        said = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            if time.monotonic() > said + SAY_EVERY:
                said = time.monotonic()
                print("# %d of %d to go" % (self.jobs.qsize(), len(self.mine)), flush=True)

    def tell(self):
        assert not self.lost, "%d guests lost:\n%s" % (len(self.lost), "\n".join(self.lost))
