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
build=build/demo
[ -d "$build" ] || meson setup "$build" -Dbuildtype=release -Dtests=false >/dev/null
ninja -C "$build" --quiet

dir=$(mktemp -d)
pid=
clean_up() {
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

molt=$PWD/$build/molt
"$molt" run --cmdline "period_ms=500" --serial "file=$dir/serial" --control "$dir/control" \
	--log-level warn &
pid=$!
for _ in $(seq 100); do
	grep -q '^tick 2 ' "$dir/serial" 2>/dev/null && break
	kill -0 "$pid" 2>/dev/null || { wait "$pid" || true; echo "demo.sh: molt ended" >&2; exit 1; }
	sleep 0.1
done
echo "molt $("$molt" version | cut -d' ' -f2) runs the demo guest in process $pid"
for n in 1 2 3; do
	echo
	echo "update $n"
	"$molt" update "$dir/control"
	kill -0 "$pid" || { echo "demo.sh: process $pid is gone" >&2; exit 1; }
	sleep 1
done
"$molt" ctl "$dir/control" system_powerdown >/dev/null
status=0
wait "$pid" || status=$?
echo
echo "what the guest printed (gap_us: largest gap between two readings of its TSC since the last tick)"
sed 's/^/    /' "$dir/serial"
# A pause that falls between two characters of a print is counted there.
largest=$(sed -n 's/^tick [0-9]* gap_us=\([0-9]*\) .*print_gap_us=\([0-9]*\).*/\1\n\2/p' "$dir/serial" |
	sort -n | tail -1)
echo
echo "three updates in one process ($pid), exit status $status after the guest powered off"
echo "largest gap the guest saw in its TSC: $largest us"
pid=
exit "$status"
