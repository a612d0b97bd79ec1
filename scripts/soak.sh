#!/bin/sh
# SPDX-License-Identifier: MIT
# Builds molt and updates a verifying guest many times: scripts/soak.sh --help
set -eu

cd "$(dirname "$0")/.."
./scripts/install-deps.sh build
if [ ! -c /dev/kvm ] || [ ! -w /dev/kvm ]; then
	echo "soak.sh: /dev/kvm is missing or may not be opened" >&2
	exit 1
fi
build=build/soak
# meson does not go on with a directory whose set-up failed or was interrupted.
if [ ! -f "$build/build.ninja" ]; then
	rm -rf "$build"
	meson setup "$build" -Dbuildtype=release -Dtests=false >/dev/null
fi
ninja -C "$build" --quiet
MOLT=$PWD/$build/molt MOLT_FIRMWARE=$PWD/$build/firmware PYTHONDONTWRITEBYTECODE=1
export MOLT MOLT_FIRMWARE PYTHONDONTWRITEBYTECODE
exec python3 tests/soak.py "$@"
