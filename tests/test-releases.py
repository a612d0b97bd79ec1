#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The recorded releases: the list and the directories of streams belong together, and 'molt state' prints every stream.

usage: MOLT=FILE test-releases.py
"""
import gzip
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import release
from moltvm import Skip, molt, run_cases

STATES = os.path.dirname(release.LIST)
SUFFIX = ".state.gz"


def streams():
    """[(version, path)]"""
    known = [version for version, _ in release.releases()]
    if not known:
        raise Skip("no release is recorded in tests/state/releases yet")
    return [(version, os.path.join(STATES, version, name)) for version in known
            for name in sorted(os.listdir(os.path.join(STATES, version)))]


def test_list_and_directories_belong_together():
    known = [version for version, _ in release.releases()]
    assert len(set(known)) == len(known), known
    found = sorted(name for name in os.listdir(STATES) if os.path.isdir(os.path.join(STATES, name)))
    assert found == sorted(known), (found, known)
    empty = [version for version in known if not os.listdir(os.path.join(STATES, version))]
    assert not empty, empty


def test_commits_are_in_the_history():
    known = release.releases()
    if not known:
        raise Skip("no release is recorded in tests/state/releases yet")
    for version, commit in known:
        try:
            release.need_commit(commit)
        except release.Unavailable as why:
            raise Skip("%s: %s" % (version, why))
        assert release.git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0, (version, commit)


def check_stream(version, path, scratch):
    assert path.endswith(SUFFIX), path
    plain = os.path.join(scratch, "state")
    with gzip.open(path) as packed, open(plain, "wb") as f:
        f.write(packed.read())
    done = molt("state", plain)
    assert done.returncode == 0, (path, done.stderr)
    state = json.loads(done.stdout)
    assert state["header"]["producer"] == version, (path, state["header"])
    by_name = {}
    for section in state["sections"]:
        assert section["fields"] or section["name"] == "pvpanic", (path, section["name"])
        by_name.setdefault(section["name"], []).append(section)
    cpus = [f["value"] for f in by_name["machine"][0]["fields"] if f["name"] == "cpus"]
    assert [len(by_name["vcpu"])] == cpus, (path, cpus)
    summary = molt("state", "--summary", plain).stdout.splitlines()
    assert len(summary) == 1 + len(state["sections"]), summary


def test_molt_state_prints_every_stream():
    with tempfile.TemporaryDirectory(prefix="molt-test-") as scratch:
        for version, path in streams():
            check_stream(version, path, scratch)


run_cases(globals())
