#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs the Debian packages that building and testing molt needs; says nothing when all are there.
# usage: scripts/install-deps.sh [build|test|all]
#	build	molt itself
#	test	and what scripts/test.sh runs
#	all	and what only scripts/test.sh --all runs: fuzzing
set -eu

# gcc, C library, build system; JSON; capabilities, the seccomp filters' compiler; io_uring; USDT probes; the ASL compiler
# for the DSDT
build="gcc libc6-dev pkg-config meson ninja-build python3 libjansson-dev libcap-dev libseccomp-dev liburing-dev systemtap-sdt-dev acpica-tools"
# unit tests; releases from the history; fetching kernels for the lab; manual page check; checks of the sources;
# shells whose completion is tested; Debian images (make-debian-image.sh); qemu-storage-daemon, in Debian 12 and 13
tests="libcmocka-dev git ca-certificates cpio kmod xz-utils mandoc clang-format clang-tidy cppcheck shellcheck"
tests="$tests zsh fish debootstrap e2fsprogs qemu-system-common qemu-utils"
# libFuzzer
fuzzing="clang libclang-rt-dev"

case "${1:-build}" in
build) want=$build ;;
test) want="$build $tests" ;;
all) want="$build $tests $fuzzing" ;;
*) echo "install-deps: '$1' is not build, test or all" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "install-deps: this is not a Debian system. Install what these Debian packages hold," >&2
	echo "then run the script again with MOLT_DEPS=present in the environment:" >&2
	echo "  $want" >&2
	[ "${MOLT_DEPS:-}" = present ] && exit 0
	exit 1
fi

missing=
for package in $want; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "install-deps: missing packages; as root run: apt-get install$missing" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
