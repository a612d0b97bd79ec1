#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds molt, boots the built-in demo guest, replaces the molt beneath it three times, and shows what
# each update took, that the process stayed the same, and what the guest itself noticed.
set -eu

cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
	echo "usage: scripts/demo.sh"
	case "$1" in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi

./scripts/install-deps.sh build
if [ ! -c /dev/kvm ] || [ ! -w /dev/kvm ]; then
	echo "demo.sh: /dev/kvm is missing or may not be opened. Load kvm_intel or kvm_amd (in a virtual" >&2
	echo "machine: enable nested virtualisation), and run this as root or in the group 'kvm'." >&2
	exit 1
fi
build=$PWD/build/demo
# meson does not go on with a directory whose set-up was interrupted.
if [ ! -f "$build/is-set-up" ]; then
	rm -rf "$build"
	meson setup "$build" -Dbuildtype=release -Dtests=false >/dev/null
	touch "$build/is-set-up"
fi
ninja -C "$build" --quiet
molt=$build/molt

# A demo that was killed could not end its molt: run.N belongs to the script in process N.
for old in "$build"/run.*; do
	if [ -d "$old" ] && ! kill -0 "${old##*.}" 2>/dev/null; then
		(cd "$old" && "$molt" ctl --timeout 5 ./control quit) >/dev/null 2>&1 || true
		rm -rf "$old"
	fi
done

dir=$build/run.$$
pid=
clean_up() {
	trap '' HUP INT TERM
	if [ -n "$pid" ]; then
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Relative paths from here on: that of a Unix socket must be short, and this one may be anywhere.
mkdir "$dir"
cd "$dir"
# This directory is of whoever runs the demo, and root's molt would become another user.
as_root=
[ "$(id -u)" -ne 0 ] || as_root="--user root"
# shellcheck disable=SC2086 # two words, or none
"$molt" run --cmdline "period_ms=500" --serial file=serial --control ./control --log-level warn $as_root &
pid=$!
for _ in $(seq 100); do
	grep -q '^tick 2 ' serial 2>/dev/null && break
	kill -0 "$pid" 2>/dev/null || { wait "$pid" || true; echo "demo.sh: molt ended" >&2; exit 1; }
	sleep 0.1
done
echo "molt $("$molt" version | cut -d' ' -f2) runs the demo guest in process $pid"
for n in 1 2 3; do
	echo
	echo "update $n"
	"$molt" update ./control
	kill -0 "$pid" || { echo "demo.sh: process $pid is gone" >&2; exit 1; }
	sleep 1
done
"$molt" ctl ./control system_powerdown >/dev/null
status=0
wait "$pid" || status=$?
echo
echo "what the guest printed (gap_us: largest gap between two readings of its TSC since the last tick)"
sed 's/^/    /' serial
# A pause that falls between two characters of a print is counted there.
largest=$(sed -n 's/^tick [0-9]* gap_us=\([0-9]*\) .*print_gap_us=\([0-9]*\).*/\1\n\2/p' serial |
	sort -n | tail -1)
echo
echo "three updates in one process ($pid), exit status $status after the guest powered off"
echo "largest gap the guest saw in its TSC: $largest us"
pid=
exit "$status"
