# SPDX-License-Identifier: MIT
"""TAP output for the tests inside the lab: stories that make many points each.

A boot in the lab costs seconds, so one guest is asked many questions. A story is a function that takes a Report and
makes points with check(); an exception ends the story with a failed point, and the next one begins.
"""
import time
import traceback


RETELLINGS = 2    # on a busy machine two in a row were seen


class GuestFaulted(Exception):
    """The guest ended as the emulated CPU's faults make guests end. See "Faults of the emulated CPU" in README.md."""


class DataLost(Exception):
    """What was written is not there. No fault of the emulated CPU's does that, so such a story is never told again."""


class Report:
    def __init__(self):
        self.points = 0
        self.failed = 0
        self.story = ""
        self.began = time.monotonic()

    def check(self, what, passed, detail=""):
        """One point. detail: what was measured, told whether it passed or not."""
        self.points += 1
        self.failed += not passed
        self.line("%s %d - %s: %s # at %.1f s" % ("ok" if passed else "not ok", self.points, self.story, what,
                                                  time.monotonic() - self.began))
        if detail:
            self.note(detail)

    def skip(self, what, why):
        self.points += 1
        self.line("ok %d - %s: %s # SKIP %s" % (self.points, self.story, what, why))

    def note(self, text):
        for line in str(text).splitlines():
            self.line("#   " + line)

    def again(self, what, why):
        """The emulated CPU may be what broke it: that is counted (scripts/count-tests.py), and told again."""
        self.line("# TOLD AGAIN: %s: FAULT OF THE EMULATED CPU: %s" % (what, str(why).partition("\n")[0]))
        self.note(str(why).partition("\n")[2])

    @staticmethod
    def line(text):
        print(text, flush=True)

    def tell(self, story):
        """Once more where the emulated CPU may be what broke the guest, and at most RETELLINGS times."""
        for _ in range(RETELLINGS):
            try:
                story(self)
                return
            except GuestFaulted as e:
                self.again(self.story, e)
        story(self)

    def run(self, stories):
        """All stories, then the plan: the exit status."""
        for name, story in stories:
            self.story = name
            self.began = time.monotonic()
            try:
                self.tell(story)
            except Exception:  # noqa: BLE001 -- a failed story must not take the others along
                self.check("told to its end", False, traceback.format_exc())
            self.line("# %s took %.1f s" % (name, time.monotonic() - self.began))
        self.line("1..%d" % self.points)
        return self.failed != 0
