#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Has other programs look at the sources. What they find changes from version to version: each counts in the one that
the tree is clean for, and is skipped, with the reason, where that is not installed.

usage: check-tools.py format|tidy|cppcheck|shellcheck|subjects SOURCE_ROOT BUILD_ROOT
"""
import os
import re
import subprocess
import sys

SUBJECT_MAX = 100
CPPCHECK = ["--quiet", "--std=c11", "--enable=warning,portability", "--error-exitcode=1", "-j2",
            "--template={file}:{line}: {id}: {message}",
            # Symbols of the linker; macros of jansson; C11 that it cannot read; attribute cleanup,
            # which it does not know.
            "--suppress=comparePointers", "--suppress=unknownMacro", "--suppress=internalAstError",
            "--suppress=memleak", "--suppress=resourceLeak"]


class Skip(Exception):
    pass


def output(*command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          check=False, **more)


def need(tool, version=""):
    """Skips unless the tool is there, of that version."""
    try:
        said = output(tool, "--version").stdout
    except FileNotFoundError:
        raise Skip("%s is not installed" % tool) from None
    found = re.search(r"\d+\.\d+", said)
    if version and not (found and (found.group(0) + ".").startswith(version + ".")):
        raise Skip("%s is another version than %s" % (tool, version))


def tracked(*patterns):
    """Files of the repository, or skips."""
    need("git")
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    files = [name for name in done.stdout.split("\0") if os.path.exists(name)]
    if done.returncode or not files:
        raise Skip("this is no git repository")
    return files


def findings(done):
    return [] if done.returncode == 0 else done.stdout.splitlines() or ["exit status %d" % done.returncode]


def check_format(_build):
    need("clang-format", "14")
    return findings(output("clang-format", "--dry-run", "-Werror", *tracked("*.c", "*.h")))


def check_tidy(build):
    need("clang-tidy", "14")
    files = [name for name in tracked("src/*.c") if name != "src/sandbox/mkfilter.c"]
    done = output("clang-tidy", "-p", build, "--quiet", "--extra-arg=-Wno-unknown-warning-option",
                  "--extra-arg=-Wno-gnu-variable-sized-type-not-at-end", *files)
    return [line for line in findings(done) if not re.match(r"\d+ warnings", line)]


def check_cppcheck(_build):
    need("cppcheck", "2.10")
    return findings(output("cppcheck", *CPPCHECK, "-I", "include", "-I", ".", "src"))


def check_shellcheck(_build):
    need("shellcheck", "0.9")
    scripts = []
    for name in tracked():
        with open(name, "rb") as f:
            if re.match(rb"#!/bin/(ba)?sh\b", f.readline(64)):
                scripts.append(name)
    # SC2317: it does not see who calls what a trap names. SC1007: "a= b=1". SC2013: words, and not lines, are meant.
    return findings(output("shellcheck", "--exclude=SC2317,SC1007,SC2013", *scripts))


def wrong_subject(subject):
    """What is wrong with the first line of a commit's message, or None."""
    if len(subject) > SUBJECT_MAX:
        return "is longer than %d characters" % SUBJECT_MAX
    if subject.endswith("."):
        return "ends in a full stop"
    if re.match(r"(fixup|squash|amend)!|wip\b", subject, re.I):
        return "is not for others to read"
    if not re.match(r"[A-Za-z_0-9.]+(\(|:|\b)", subject):
        return "does not begin with a word"
    return None


def check_subjects(_build):
    """Those since the last release, for what was released does not change any more."""
    with open("tests/state/releases", encoding="ascii") as f:
        last = [line.split()[1] for line in f if line.strip() and not line.startswith("#")][-1]
    need("git")
    done = output("git", "log", "--no-merges", "--format=%h %s", last + "..HEAD")
    if done.returncode:
        raise Skip("the history is not here: " + done.stdout.strip())
    commits = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
    return ["%s '%s' %s" % (commit, subject, wrong_subject(subject)) for commit, subject in commits
            if wrong_subject(subject)]


def self_test():
    """A check that finds nothing anywhere is no check."""
    for subject in ("x" * 101, "Do it.", "fixup! Do it", "WIP", " indented", ""):
        assert wrong_subject(subject), subject
    for subject in ("Do it", "x" * 100, "Lab: tell a story again", "molt update --check asks", "64-bit BARs"):
        assert not wrong_subject(subject), subject


def main():
    name, root, build = sys.argv[1:]
    os.chdir(root)
    self_test()
    print("1..1")
    try:
        wrong = globals()["check_" + name](build)
    except Skip as why:
        print("ok 1 - %s # SKIP %s" % (name, why))
        return 0
    print("%sok 1 - %s" % ("not " if wrong else "", name))
    for line in wrong:
        print("# " + line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
