#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds the fuzz targets with clang and runs each for some seconds, as many at a time as there are CPUs.
set -eu

usage() {
	cat <<-END
	usage: tests/fuzz/run.sh [SECONDS [TARGET...]]

	Builds in build/fuzz and runs every target, or those named, for SECONDS (default 20).
	Inputs that reach new code are kept in build/fuzz/corpus/TARGET, what fails in
	build/fuzz/findings. JOBS=N in the environment: so many at a time, instead of as many as
	there are CPUs. Exit status: 0 no finding, 1 findings, 2 wrong usage, 77 no clang or no
	libFuzzer here.
	END
}

case "${1:-}" in
-h | --help) usage; exit 0 ;;
*[!0-9]*) usage >&2; exit 2 ;;
esac
case "${JOBS:-1}" in
0* | *[!0-9]*) usage >&2; exit 2 ;;
esac
seconds=${1:-20}
[ $# -eq 0 ] || shift

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build/fuzz

probe=$(mktemp)
trap 'rm -f "$probe"' EXIT
if ! echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n < 0; }' |
	clang -fsanitize=fuzzer,address,undefined -x c - -o "$probe" 2>/dev/null; then
	echo "fuzzing needs clang and its runtime libraries (libclang-rt-dev)"
	exit 77
fi

if [ ! -f "$build/build.ninja" ]; then
	CC=clang meson setup "$build" "$root" -Dfuzz=true -Dstatic=false \
		-Db_sanitize=address,undefined -Db_lundef=false \
		-Dc_args='-fsanitize=fuzzer-no-link -fno-sanitize-recover=all' >"$probe.log" ||
		{ cat "$probe.log"; exit 1; }
	rm -f "$probe.log"
fi
# shellcheck disable=SC2046 # names without blanks
[ $# -gt 0 ] || set -- $(ls "$here/corpus")
# The program of device_CLASS is fuzz_device, which finds the class in the name of the corpus.
# shellcheck disable=SC2046
ninja -C "$build" --quiet $(printf '%s\n' "$@" | sed 's/_.*//; s,^,tests/fuzz/fuzz_,' | sort -u)

# Most of the time would go into the memory that address sanitizer keeps from being used again.
export ASAN_OPTIONS="quarantine_size_mb=32${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
mkdir -p "$build/findings"

# Those that run, each as PID:TARGET.
batch= status=0

start() {
	options="-max_total_time=$seconds -timeout=20 -rss_limit_mb=3072 -max_len=65536"
	[ ! -f "$here/$1.dict" ] || options="$options -dict=$here/$1.dict"
	mkdir -p "$build/corpus/$1"
	# shellcheck disable=SC2086 # a list of words
	"$build/tests/fuzz/fuzz_${1%%_*}" $options -artifact_prefix="$build/findings/$1-" -print_final_stats=1 \
		"$build/corpus/$1" "$here/corpus/$1" >"$build/$1.log" 2>&1 &
	batch="$batch $!:$1"
}

finish() {
	for job in $batch; do
		target=${job#*:}
		if wait "${job%%:*}"; then
			echo "ok   $target: $(sed -n 's/stat::number_of_executed_units: *//p' \
				"$build/$target.log") inputs"
		else
			echo "FAIL $target: see $build/$target.log"
			tail -n 40 "$build/$target.log"
			status=1
		fi
	done
	batch=
}

stop() {
	for job in $batch; do
		kill "${job%%:*}" 2>/dev/null || true
	done
	exit 130
}

trap stop INT TERM
jobs=${JOBS:-$(nproc)} running=0
for target; do
	start "$target"
	running=$((running + 1))
	[ $((running % jobs)) -ne 0 ] || finish
done
finish
exit $status
