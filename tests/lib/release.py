# SPDX-License-Identifier: MIT
"""Released versions of molt, built from the repository's own history.

tests/state/releases lists them. A release is built once a commit, in a directory for it under the cache (MOLT_RELEASES,
by default build/releases): the binary `molt` and its guests in `firmware/`.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIST = os.path.join(ROOT, "tests", "state", "releases")


class Unavailable(Exception):
    """This release cannot be built here, with the reason."""


def releases():
    """[(version, commit)], oldest first."""
    with open(LIST) as f:
        lines = [line.split("#")[0].split() for line in f]
    wrong = [line for line in lines if line and (len(line) != 2 or not re.fullmatch("[0-9a-f]{40}", line[1]))]
    if wrong:
        raise ValueError("%s: '%s' is not 'version commit'" % (LIST, " ".join(wrong[0])))
    return [tuple(line) for line in lines if line]


def cache_dir():
    return os.environ.get("MOLT_RELEASES") or os.path.join(ROOT, "build", "releases")


def git(*args, **popen):
    try:
        return subprocess.run(["git", "-C", ROOT, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              **popen)
    except FileNotFoundError:
        raise Unavailable("there is no git here to take the release's source from")


def need_commit(commit):
    done = git("cat-file", "-e", commit + "^{commit}")
    if done.returncode == 0:
        return
    inside = git("rev-parse", "--is-shallow-repository")
    if inside.returncode:
        why = "this is no git repository: " + inside.stderr.decode(errors="replace").strip()
    elif inside.stdout.strip() == b"true":
        why = "this clone is shallow; 'git fetch --unshallow' gets the rest"
    else:
        why = "it is not in this repository's history"
    raise Unavailable("release %s cannot be built: %s" % (commit[:12], why))


def extract(commit, where):
    os.makedirs(where)
    archive = git("archive", commit)
    if archive.returncode:
        raise Unavailable("git archive %s: %s" % (commit[:12], archive.stderr.decode(errors="replace").strip()))
    subprocess.run(["tar", "-x", "-C", where], input=archive.stdout, check=True)


def run(*command):
    """A step of the build; what it says is only of interest where it fails, and then it is a failure."""
    # What a sanitized or cross build around us set is not for the release.
    env = {k: v for k, v in os.environ.items() if k not in ("CFLAGS", "LDFLAGS", "MESON_TEST_ITERATION")}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=env, check=False)
    if done.returncode:
        raise RuntimeError("%s ended with %d:\n%s" % (" ".join(command), done.returncode, done.stdout[-4000:]))


def build(commit, cache=None):
    """The directory with that commit's release build; builds it if it is not there."""
    place = os.path.join(cache or cache_dir(), commit)
    if os.path.exists(os.path.join(place, "molt")):
        return place
    need_commit(commit)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=commit[:12] + "-", dir=os.path.dirname(place)) as scratch:
        source, built, result = (os.path.join(scratch, name) for name in ("source", "build", "result"))
        extract(commit, source)
        run("meson", "setup", "-Dbuildtype=release", "-Dtests=false", built, source)
        run("ninja", "-C", built)
        os.makedirs(os.path.join(result, "firmware"))
        for name in os.listdir(os.path.join(built, "firmware")):
            if name.endswith(".elf"):
                shutil.copy(os.path.join(built, "firmware", name), os.path.join(result, "firmware"))
        shutil.copy(os.path.join(built, "molt"), result)
        try:
            os.rename(result, place)
        except OSError:  # somebody else was faster
            if not os.path.exists(os.path.join(place, "molt")):
                raise
    return place


def newest():
    """The binary of the newest release: MOLT_RELEASE if set, else built. Unavailable where there is none.

    MOLT_NO_RELEASE is the reason where it was tried before, outside of the lab.
    """
    given = os.environ.get("MOLT_RELEASE")
    if given:
        return given
    if os.environ.get("MOLT_NO_RELEASE"):
        raise Unavailable(os.environ["MOLT_NO_RELEASE"])
    known = releases()
    if not known:
        raise Unavailable("no release is recorded in tests/state/releases yet")
    return os.path.join(build(known[-1][1]), "molt")


def built():
    """The same if it needs no building; otherwise None."""
    known = releases()
    place = os.path.join(cache_dir(), known[-1][1], "molt") if known else ""
    return os.environ.get("MOLT_RELEASE") or (place if os.path.exists(place) else None)


if __name__ == "__main__":
    try:
        print(newest())
    except Unavailable as e:
        sys.exit(str(e))
