#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The lab's Debian on a disk, made by scripts/make-debian-image.sh, kept in the lab's cache.

    image.py [--refresh]        makes it where it is missing; prints the paths of disk, kernel and initramfs

It is as a user would make it, with two packages more: fio and PostgreSQL. Making it takes root, debootstrap, a mirror,
and a minute and a half. It is made again when the script or the list of packages changes.
"""
import argparse
import collections
import glob
import hashlib
import os
import shutil
import subprocess
import sys

import fetch

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "make-debian-image.sh")
PACKAGES = "fio,postgresql"
SIZE = "2G"

# The image is left as it is; for a quick boot of emulated CPUs some units are switched off from outside: those that
# look after a machine that runs for days, and would start at any moment of a test, and mounts, modules and consoles
# that nothing here needs.
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer
    man-db.timer systemd-tmpfiles-clean.timer e2scrub_reap.service cron.service
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount systemd-binfmt.service networking.service
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@loop.service getty-static.service getty@tty1.service systemd-pstore.service
""".split()
KERNEL_COMMAND_LINE = " ".join([
    "root=/dev/vda rw console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off audit=0",
    *("systemd.mask=" + unit for unit in MASKED)])

Image = collections.namedtuple("Image", "disk kernel initramfs")


def directory():
    return os.path.join(fetch.cache_dir(), "debian-image")


def recipe():
    """What the image depends on but for Debian's packages, as a name."""
    with open(SCRIPT, "rb") as f:
        text = f.read()
    return hashlib.sha256(text + f"{fetch.release_codename()} {PACKAGES} {SIZE}".encode()).hexdigest()[:16]


def parts(name):
    stem = os.path.join(directory(), name)
    return Image(stem + ".img", stem + ".vmlinuz", stem + ".initrd")


def complete(image):
    """The disk gets its name last."""
    return all(map(os.path.exists, image))


def make(image):
    if os.geteuid() != 0:
        raise fetch.FetchError("the Debian image for the tests of disks can only be made by root")
    if not shutil.which("debootstrap", path=os.environ["PATH"] + ":/usr/sbin"):
        raise fetch.FetchError("the Debian image for the tests of disks needs the package debootstrap")
    fetch.say_lab("a Debian image with " + PACKAGES)
    done = subprocess.run([SCRIPT, "--output", image.disk, "--force", "--packages", PACKAGES, "--size", SIZE, "--suite",
                           fetch.release_codename(), "--cache", os.path.join(directory(), "packages")],
                          stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise fetch.FetchError("make-debian-image.sh: %s" % (done.stderr.strip().splitlines() or ["failed"])[-1])


def ensure(refresh=False):
    """An Image that is complete; older ones are gone then."""
    image = parts(recipe())
    if complete(image) and not refresh:
        return image
    os.makedirs(directory(), exist_ok=True)
    with fetch.locked(directory()):
        if refresh or not complete(image):
            make(image)
            for old in set(glob.glob(os.path.join(directory(), "*.*"))) - set(image):
                os.unlink(old)
    return image


def main():
    parser = argparse.ArgumentParser(description="Make the lab's Debian image.")
    parser.add_argument("--refresh", action="store_true", help="make it again, of newer packages")
    try:
        print(*ensure(parser.parse_args().refresh), sep="\n")
    except fetch.FetchError as e:
        sys.exit(f"lab: {e}")


if __name__ == "__main__":
    main()
