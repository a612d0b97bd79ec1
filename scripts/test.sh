#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs what is missing, builds molt and runs its tests.
set -eu

usage() {
	cat <<-END
	usage: scripts/test.sh [--all] [--suite NAME]... [--sanitize LIST] [--build DIR]

	  --all            everything there is, at full length: all faults, kills, soaks and
	                   stories of the lab, and fuzzing; without it, what every change has to
	                   pass, in minutes
	  --suite NAME     run only this suite (may be repeated):
	                   house, unit, guest, io, faults, lab, fuzz; with --all: fuzz-smoke
	  --sanitize LIST  build with sanitizers: address,undefined or thread
	  --build DIR      build directory (default: build/test, or build/LIST with --sanitize)

	Exit status 0 if nothing failed. The last line counts test cases.
	END
}

cd "$(dirname "$0")/.."
began=$(date +%s)
suites= sanitize=none build= tier=quick
while [ $# -gt 0 ]; do
	case "$1" in
	--all) tier=all; shift ;;
	--suite | --sanitize | --build)
		[ $# -ge 2 ] || { echo "test.sh: $1 needs a value" >&2; exit 2; }
		case "$1" in
		--suite) suites="$suites --suite $2" ;;
		--sanitize) sanitize=$2 ;;
		--build) build=$2 ;;
		esac
		shift 2 ;;
	-h | --help) usage; exit 0 ;;
	*) echo "test.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
	esac
done
if [ -z "$build" ]; then
	build=build/test
	[ "$sanitize" = none ] || build=build/$(echo "$sanitize" | tr , -)
fi

packages=all
[ "$tier" = all ] || suites="$suites --no-suite long" packages=test

./scripts/install-deps.sh "$packages"
# meson does not go on with a directory whose set-up failed or was interrupted.
if [ ! -f "$build/build.ninja" ]; then
	rm -rf "$build/meson-private" "$build/meson-info"
	said=$(meson setup "$build" -Dwerror=true -Db_sanitize="$sanitize") || { echo "$said"; exit 1; }
fi
ninja -C "$build" --quiet
status=0 log=$build/meson-logs/testlog-$tier.json
rm -f "$log"
# shellcheck disable=SC2086 # a list of words
meson test -C "$build" --no-rebuild --print-errorlogs --setup "$tier" $suites || status=$?
seconds=$(($(date +%s) - began))
python3 scripts/count-tests.py "$log" "$seconds" "$(nproc)" || status=1
exit "$status"
