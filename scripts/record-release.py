#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Record a release: its state streams go to tests/state/VERSION/, its line to tests/state/releases.

    scripts/record-release.py VERSION COMMIT

builds that commit from this repository's history in a scratch directory, runs its guests in a few configurations on
this machine's /dev/kvm, updates each onto the same binary with the stream kept, and stores the streams compressed. The
streams, and the line, are then to be committed: every later molt is tested to load them, and to be updated to and from
this release. VERSION is what that commit's 'molt version' says.
"""
import gzip
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))

import moltvm  # noqa: E402
import release  # noqa: E402

PROBE = {"kernel": "probe", "cmdline": "period_ms=100 lost_ms=30000"}
TICKER = {"kernel": "ticker", "cmdline": "period_ms=50"}

# name: (options, guest, what happens to it before the update)
RECORDINGS = {
    "1cpu": (("--memory", "16M"), PROBE, None),
    "2cpu": (("--memory", "16M", "--cpus", "2"), PROBE, None),
    "deadline": (("--memory", "16M"), {**PROBE, "cmdline": PROBE["cmdline"] + " timer=deadline timer_us=3000"}, None),
    "high-ram": (("--memory", "5G", "--no-reboot"), TICKER, None),
    "paused": (("--memory", "16M", "--name", "paused guest"), TICKER, "stop"),
    "prelaunch": (("--memory", "16M", "--pause"), TICKER, None),
    "builtin": ((), {"cmdline": ""}, None),
}


def record(name, binary, scratch):
    """The bytes of one stream."""
    options, guest, command = RECORDINGS[name]
    place = os.path.join(scratch, name)
    os.mkdir(place)
    with moltvm.Vm(*options, binary=binary, directory=place, **guest) as vm:
        if name != "prelaunch":
            vm.wait_serial(r"(probe: pass|tick) 2 .*\n")
        if command:
            vm.qmp.command(command)
        vm.update(state_file=vm.path("state"))
        with open(vm.path("state"), "rb") as f:
            return f.read()


def show(binary, data, scratch):
    """The release must read its own stream; its summary is for whoever records it."""
    path = os.path.join(scratch, "shown")
    with open(path, "wb") as f:
        f.write(data)
    return subprocess.run([binary, "state", "--summary", path], stdout=subprocess.PIPE, text=True, check=True).stdout


def store(version, streams):
    place = os.path.join(ROOT, "tests", "state", version)
    os.makedirs(place)
    for name, data in streams.items():
        with open(os.path.join(place, name + ".state.gz"), "wb") as f:
            with gzip.GzipFile(fileobj=f, mode="wb", filename="", mtime=0) as z:
                z.write(data)
        print("%s: %d bytes, %d unpacked" % (f.name, os.path.getsize(f.name), len(data)))


def main():
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    version = sys.argv[1]
    if version in dict(release.releases()):
        sys.exit("tests/state/releases has %s already" % version)
    commit = release.git("rev-parse", "--verify", sys.argv[2] + "^{commit}").stdout.decode().strip()
    if not commit:
        sys.exit("'%s' is no commit of this repository" % sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="molt-release-") as scratch:
        built = release.build(commit, cache=scratch)
        binary = os.path.join(built, "molt")
        os.environ["MOLT_FIRMWARE"] = os.path.join(built, "firmware")
        said = subprocess.run([binary, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        if not re.search(r"\b%s\b" % re.escape(version), said):
            sys.exit("commit %s says '%s', not %s" % (commit, said.strip(), version))
        streams = {name: record(name, binary, scratch) for name in RECORDINGS}
        print(show(binary, streams["2cpu"], scratch), end="")
        store(version, streams)
    with open(release.LIST, "a") as f:
        f.write("%s %s\n" % (version, commit))
    print("recorded %s as %s; commit tests/state" % (commit, version))


if __name__ == "__main__":
    try:
        main()
    except release.Unavailable as e:
        sys.exit(str(e))
