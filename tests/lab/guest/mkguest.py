#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Build the initramfs of the lab's guests: busybox, labcheck, and an init with a shell on the serial console.

    mkguest.py [--output FILE] [--labcheck BINARY] [--module NAME]...

Prints two lines, "kernel=..." and "initramfs=...".  As a module: build() returns the same pair.
"""

import argparse
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import cpio  # noqa: E402
import fetch  # noqa: E402
import modules  # noqa: E402

# The cloud kernel has the serial port built in, but neither ACPI's power button nor the way to read it.
GUEST_MODULES = ["button", "evdev"]

COMPILE = ["-std=c11", "-O2", "-Wall", "-Wextra", "-static", "-pthread"]

# What boots the stock cloud kernel soonest; see README.md for what each word is worth.
KERNEL_COMMAND_LINE = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off audit=0 apparmor=0"


def compile_labcheck(directory):
    """labcheck from its source, unless the binary there is newer."""
    source, binary = os.path.join(HERE, "labcheck.c"), os.path.join(directory, "labcheck")
    if not os.path.exists(binary) or os.path.getmtime(binary) < os.path.getmtime(source):
        temporary = f"{binary}.{os.getpid()}"
        subprocess.run([os.environ.get("CC", "gcc"), *COMPILE, "-o", temporary, source], check=True)
        os.rename(temporary, binary)
    return binary


def build(output=None, labcheck=None, extra_modules=()):
    """(kernel, initramfs): paths, the second one written anew."""
    manifest = fetch.ensure()
    cache = fetch.cache_dir()
    output = output or os.path.join(cache, "guest-initramfs")
    archive = cpio.Archive()
    for name in ("proc", "sys", "dev", "run", "tmp"):
        archive.directory(name)
    archive.device("dev/console", 5, 1)
    archive.copy("bin/busybox", manifest["busybox"])
    archive.symlink("bin/sh", "busybox")
    archive.copy("bin/labcheck", labcheck or compile_labcheck(cache))
    archive.copy("init", os.path.join(HERE, "init"))
    ordered = modules.ModuleSet(manifest["guest_modules"]).load_order([*GUEST_MODULES, *extra_modules])
    for name, image in ordered:
        archive.file(f"modules/{name}.ko", image)
    archive.file("modules/order", "\n".join(name for name, _ in ordered).encode())
    archive.write(output)
    return manifest["guest_kernel"], output


def main():
    parser = argparse.ArgumentParser(description="Build the initramfs of the lab's guests.")
    parser.add_argument("--output", help="the file to write (in the lab's cache)")
    parser.add_argument("--labcheck", help="a static labcheck binary (compiled here if not given)")
    parser.add_argument("--module", action="append", default=[], help="one more kernel module to load in the guest")
    args = parser.parse_args()
    try:
        kernel, initramfs = build(args.output, args.labcheck, args.module)
    except fetch.FetchError as e:
        sys.exit(f"lab: {e}")
    print(f"kernel={kernel}\ninitramfs={initramfs}")


if __name__ == "__main__":
    main()
