#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""No file of these rooms calls, or reads, what calls it in turn, and none what the C library has better kept to itself:
by the symbols in its object file.

    check-circles.py ARCHIVE...
"""
import collections
import re
import subprocess
import sys

ROOMS = ("update", "vm")
# error_text() says why.
AVOIDED = {"strerror", "strerror_r", "__xpg_strerror_r", "perror"}


def symbols(archive):
    """(object, name, whether it is defined there) of all that other files see."""
    listing = subprocess.run(["nm", "--print-file-name", "--extern-only", archive], stdout=subprocess.PIPE, text=True,
                             check=True).stdout
    for line in listing.splitlines():
        found = re.match(r".*src_(\w+)\.c\.o:.*\s([A-Za-z])\s(\w+)$", line)
        if found:
            yield found[1], found[3], found[2] != "U"


def arrows(seen):
    """{file: {file that it needs: names}}, as ROOM_FILE."""
    home = {name: file for file, name, defined in seen if defined}
    needs = collections.defaultdict(lambda: collections.defaultdict(list))
    for file, name, defined in seen:
        if not defined and home.get(name, file) != file:
            needs[file][home[name]].append(name)
    return needs


def circle(file, needs):
    """[file, ..., file], each of which needs the next; or None."""
    ways, todo = {}, [file]
    while todo:
        here = todo.pop(0)
        for there in needs.get(here, ()):
            if there == file:
                path = [here]
                while path[0] != file:
                    path.insert(0, ways[path[0]])
                return path + [file]
            if there not in ways:
                ways[there] = here
                todo.append(there)
    return None


def path_of(file):
    return "src/%s.c" % file.replace("_", "/", 1)


def main():
    seen = [symbol for archive in sys.argv[1:] for symbol in symbols(archive)]
    needs = arrows(seen)
    ours = sorted(file for file in needs if file.split("_")[0] in ROOMS)
    assert len(ours) > 40, "these archives have no symbols of the rooms: %d files" % len(ours)
    avoided = ["%s calls %s" % (path_of(file), name) for file, name, _ in seen if name in AVOIDED]
    print("TAP version 13\n1..%d" % (len(ours) + 1))
    for number, file in enumerate(ours, 1):
        found = circle(file, needs)
        print("%s %d - %s" % ("not ok" if found else "ok", number, path_of(file)))
        for above, below in zip(found or [], (found or [])[1:]):
            print("# %s takes from %s: %s" % (path_of(above), path_of(below), ", ".join(sorted(needs[above][below]))))
    print("%s %d - error_text() in strerror's place" % ("not ok" if avoided else "ok", len(ours) + 1))
    print("".join("# %s\n" % line for line in avoided), end="")


if __name__ == "__main__":
    main()
