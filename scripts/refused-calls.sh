#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Which calls does the sandbox refuse in what molt does every day? Runs guest tests under strace and
# prints each call that ended with EPERM or ENOSYS, with the number of times and the program. What
# the tests refuse on purpose is among it, as is what C libraries try first and can do without
# (clone3). Anything else of molt's own, or of a wrapper's, is a hole in src/sandbox/main.list.
#
# usage: scripts/refused-calls.sh BUILD TEST [CASE ...]	for instance: build/test test_update_fd.py
set -eu

[ $# -ge 2 ] || { sed -n '/^# usage/s/^# //p' "$0"; exit 2; }
command -v strace >/dev/null || { echo "refused-calls.sh: strace is not installed" >&2; exit 1; }
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
test=$2
shift 2
trace=$(mktemp -d)
trap 'rm -rf "$trace"' EXIT

export MOLT="$build/molt" MOLT_FIRMWARE="$build/firmware" MOLT_NEXT="$build/tests/guest/molt-next"
export MOLT_OTHERS="$build/tests/molts" MOLT_RELEASES="${MOLT_RELEASES:-$build/releases}"
export PYTHONDONTWRITEBYTECODE=1

# One file a process; -D: the tests have no tracer for a parent.
strace -D -ff -qq -e 'signal=none' -o "$trace/t" \
	python3 "$root/tests/guest/$test" "$@" >&2 || echo "the test failed" >&2
python3 - "$trace" <<'END'
import collections, glob, re, sys

CALL = re.compile(r"^(\w+)\((.*)\)\s+= -1 (EPERM|ENOSYS)")
EXEC = re.compile(r'^execve(?:at)?\((?:\d+, )?"([^"]*)", \["([^"]*)".*= 0$')
seen = collections.Counter()
for path in glob.glob(sys.argv[1] + "/t.*"):
    program = "(child)"
    with open(path, errors="replace") as file:
        for line in file:
            if m := EXEC.match(line):
                program = (m[1] or m[2]).rpartition("/")[2]
            elif m := CALL.match(line):
                arguments = re.sub(r"0x[0-9a-f]+|\b\d{3,}\b", "N", re.sub(r"CAP_\w+", "CAP_...", m[2]))
                seen[program, m[3], m[1], arguments[:70]] += 1
for (program, error, name, arguments), n in sorted(seen.items()):
    print(f"{n:6} {program:16} {error:6} {name}({arguments})")
END
