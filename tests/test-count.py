#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/count-tests.py counts right: the numbers that a run of all tests ends with."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "lib"))
from moltvm import run_cases  # noqa: E402

COUNT = os.path.join(HERE, "..", "scripts", "count-tests.py")


def entry(result, *lines, name="t"):
    return {"name": name, "result": result, "returncode": 0, "stdout": "\n".join(lines) + "\n"}


def counted(*entries, arguments=()):
    """(exit status, lines)"""
    with tempfile.TemporaryDirectory() as scratch:
        log = os.path.join(scratch, "log")
        with open(log, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(e) + "\n" for e in entries)
        done = subprocess.run([sys.executable, COUNT, log, *arguments], stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout.splitlines()


def test_cases_and_programs():
    status, lines = counted(entry("OK", "1..3", "ok 1 - a", "ok 2 - b # SKIP no KVM", "ok 3 - c"),
                            entry("OK", "no TAP"))
    assert (status, lines[-1]) == (0, "3 passed, 0 failed, 1 skipped"), lines


def test_failures_have_names():
    status, lines = counted(entry("FAIL", "ok 1 - a", "not ok 2 - b", "# because"), entry("OK", "ok 1 - a"))
    assert (status, lines[-1]) == (1, "2 passed, 1 failed, 0 skipped"), lines
    assert "    not ok 2 - b" in lines and "    # because" in lines, lines


def test_a_crash_and_a_timeout_are_failures():
    for result in ("ERROR", "TIMEOUT", "FAIL", "INTERRUPT"):
        status, lines = counted(entry(result, "1..9", "ok 1 - a"))
        assert (status, lines[-1]) == (1, "1 passed, 1 failed, 0 skipped"), lines


def test_nothing_is_no_success():
    assert counted() == (1, ["0 told again", "0 passed, 0 failed, 0 skipped"])
    assert counted(entry("SKIP", "1..0 # SKIP no lab"))[1][-1] == "0 passed, 0 failed, 1 skipped"


def test_what_was_told_again_is_told():
    status, lines = counted(entry("OK", "# TOLD AGAIN: linux: FAULT OF THE EMULATED CPU: triple fault", "ok 1 - a"),
                            arguments=("231", "2"))
    assert status == 0, lines
    assert lines == ["TOLD AGAIN linux: FAULT OF THE EMULATED CPU: triple fault", "tests took 231 s on 2 cores",
                     "1 told again", "1 passed, 0 failed, 0 skipped"], lines


if __name__ == "__main__":
    run_cases(globals())
