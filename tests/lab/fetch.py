#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Fetch what the lab is made of into a cache directory; install nothing.

Four parts, all named by Debian package only:

  host kernel   linux-image-amd64          the nested host's kernel and its modules
  guest kernel  linux-image-cloud-amd64    what molt boots in the lab
  busybox       busybox-static             user space of both initramfs images
  qemu          qemu-system-x86            the emulator, with every library it needs

and, in a cache of its own, for those who ask for it, a newer host kernel.

Theory of operation: apt runs with a configuration, state and cache of its own inside the cache directory, and with
an *empty* dpkg status file.  So apt believes nothing is installed, and one download-only install of QEMU yields
QEMU and its whole tree of libraries, down to libc and the dynamic loader.  Unpacked side by side they run through
their own loader (see qemu_command), whatever the machine itself has installed, and later upgrades of the machine
cannot break them.  No root is needed either.

The mirror is the one the machine's own apt sources name for its Debian release, found at run time; only the suite
changes where a backport is wanted.
"""

import argparse
import contextlib
import fcntl
import glob
import json
import os
import shutil
import subprocess
import sys

# Bump it when the layout of the cache changes: an older cache is then thrown away and fetched again.
LAYOUT = 1

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# QEMU 7.2's TCG dies at random under a nested kvm-amd; 10.0 does not, and is twice as fast.
QEMU_FROM_BACKPORTS = {"bookworm"}

# A KVM with KVM_PRE_FAULT_MEMORY, Linux 6.11, is in Debian 13 and newer.
NEW_KERNEL_FROM_BACKPORTS = {"bookworm"}


class FetchError(Exception):
    """A sentence for the user: why the lab's parts cannot be had."""


def cache_dir():
    default = os.path.join(os.path.expanduser("~"), ".cache", "molt-lab")
    return os.path.abspath(os.environ.get("MOLT_LAB_CACHE") or default)


@contextlib.contextmanager
def locked(cache):
    """One fetcher (or builder) at a time; the others wait, then find the work done."""
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def release_codename():
    with open("/etc/os-release") as f:
        fields = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line)
    name = fields.get("ID", "").strip('"')
    code = fields.get("VERSION_CODENAME", "").strip('"')
    if name != "debian" or not code:
        raise FetchError(f"the lab is fetched from a Debian release's packages; this is '{name} {code}'")
    return code


def debian_sources(codename):
    """(uri, suite) pairs of this Debian release, as the machine's apt sources name them."""
    # --no-release-info: say what *would* be downloaded, so that it works before the first "apt-get update".
    out = run(["apt-get", "indextargets", "--no-release-info", "--format",
               "$(CREATED_BY)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)"])
    wanted = (codename, codename + "-updates", codename + "-security")
    pairs = []
    for line in out.splitlines():
        kind, component, suite, uri = line.split("|", 3)
        if kind == "Packages" and component == "main" and suite in wanted and (uri, suite) not in pairs:
            pairs.append((uri, suite))
    if not any(suite == codename for _, suite in pairs):
        raise FetchError(f"the machine's apt sources name no mirror of Debian {codename} main")
    return pairs


def run(argv, **kwargs):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive"), **kwargs)
    if done.returncode:
        raise FetchError(f"{' '.join(argv[:1] + argv[-3:])} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


class Apt:
    """apt with everything of its own but the machine's proxy settings."""

    def __init__(self, directory, pairs):
        self.debs = os.path.join(directory, "cache", "archives")
        for sub in ("state/lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(directory, sub), exist_ok=True)
        status, sources = os.path.join(directory, "status"), os.path.join(directory, "sources.list")
        open(status, "w").close()
        with open(sources, "w") as f:
            for uri, suite in pairs:
                f.write(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
        options = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": os.path.join(directory, "state"),
            "Dir::State::status": status,
            "Dir::Cache": os.path.join(directory, "cache"),
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # root's own download directory need not be open to the _apt user.
            "APT::Sandbox::User": "root",
        }
        self.options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def get(self, *words):
        return run(["apt-get", "-q", "-y", *self.options, *words], cwd=self.debs)

    def real_package(self, meta):
        """The versioned package that a kernel metapackage stands for."""
        out = run(["apt-cache", *self.options, "depends", "--important", meta])
        for line in out.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == "Depends:" and words[1].startswith("linux-image-"):
                return words[1]
        raise FetchError(f"{meta} depends on no linux-image package")

    def take(self, into, *words):
        """Download by one apt-get command, unpack all it brought under a new directory."""
        for old in glob.glob(self.debs + "/*.deb"):
            os.unlink(old)
        self.get(*words)
        debs = sorted(glob.glob(self.debs + "/*.deb"))
        if not debs:
            raise FetchError(f"apt-get {' '.join(words)} brought no package")
        staging = into + ".new"
        for stale in (staging, into):
            shutil.rmtree(stale, ignore_errors=True)
        os.makedirs(staging)
        # A package of the older split may ship /lib/..., another /usr/lib/...: give both the same home.
        for name in ("bin", "sbin", "lib", "lib64"):
            os.makedirs(os.path.join(staging, "usr", name))
            os.symlink("usr/" + name, os.path.join(staging, name))
        for deb in debs:
            unpack(deb, staging)
            os.unlink(deb)
        os.rename(staging, into)
        return [os.path.basename(deb)[:-4].replace("%3a", ":") for deb in debs]


def unpack(deb, into):
    # Not "dpkg -x": that replaces the merged-/usr symlinks by directories.
    make = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    untar = subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", into],
                           stdin=make.stdout)
    make.stdout.close()
    if make.wait() or untar.returncode:
        raise FetchError(f"cannot unpack {deb}")


def only(pattern):
    found = glob.glob(pattern)
    if len(found) != 1:
        raise FetchError(f"expected one file for {pattern}, found {len(found)}")
    return found[0]


def other_suite(pairs, codename, suite):
    """That suite on the mirror of the machine's own release."""
    return next(uri for uri, own in pairs if own == codename), suite


def take_kernel(apt, cache, part, meta, manifest, say):
    package = apt.real_package(meta)
    say(f"{part} kernel: {package}")
    tree = os.path.join(cache, part + "-kernel")
    manifest["packages"] += apt.take(tree, "download", package)
    manifest[part + "_kernel"] = only(tree + "/boot/vmlinuz-*")
    manifest[part + "_modules"] = only(tree + "/usr/lib/modules/*")


def fetch(cache, say):
    codename = release_codename()
    pairs = debian_sources(codename)
    if codename in QEMU_FROM_BACKPORTS:
        pairs.append(other_suite(pairs, codename, codename + "-backports"))
    apt = Apt(os.path.join(cache, "apt"), pairs)
    say("package lists")
    apt.get("update")
    manifest = {"layout": LAYOUT, "release": codename, "packages": []}

    take_kernel(apt, cache, "host", "linux-image-amd64", manifest, say)
    take_kernel(apt, cache, "guest", "linux-image-cloud-amd64", manifest, say)

    say("busybox-static")
    manifest["packages"] += apt.take(os.path.join(cache, "busybox-static"), "download", "busybox-static")
    manifest["busybox"] = only(cache + "/busybox-static/usr/bin/busybox")

    suite = codename + "-backports" if codename in QEMU_FROM_BACKPORTS else codename
    say(f"qemu-system-x86 from {suite}, with its libraries")
    root = os.path.join(cache, "qemu")
    manifest["packages"] += apt.take(root, "install", "--download-only", "-t", suite, "qemu-system-x86")
    manifest["qemu_root"] = root
    shutil.rmtree(os.path.join(cache, "apt"))
    return manifest


def fetch_qemu(suite):
    """A fetcher of nothing but another suite's QEMU, for whoever needs one newer than the lab's."""
    def fetch_it(cache, say):
        codename = release_codename()
        apt = Apt(os.path.join(cache, "apt"), [other_suite(debian_sources(codename), codename, suite)])
        say("package lists")
        apt.get("update")
        say(f"qemu-system-x86 from {suite}, with its libraries")
        root = os.path.join(cache, "qemu")
        packages = apt.take(root, "install", "--download-only", "qemu-system-x86")
        shutil.rmtree(os.path.join(cache, "apt"))
        return {"layout": LAYOUT, "release": suite, "packages": packages, "qemu_root": root}
    return fetch_it


def fetch_new_kernel(cache, say):
    codename = release_codename()
    apt = Apt(os.path.join(cache, "apt"), [other_suite(debian_sources(codename), codename, codename + "-backports")])
    say("package lists")
    apt.get("update")
    manifest = {"layout": LAYOUT, "release": codename + "-backports", "packages": []}
    take_kernel(apt, cache, "host", "linux-image-amd64", manifest, say)
    shutil.rmtree(os.path.join(cache, "apt"))
    return manifest


PARTS = ("host_kernel", "host_modules", "guest_kernel", "busybox", "qemu_root")
NEW_KERNEL_PARTS = ("host_kernel", "host_modules")
QEMU_PARTS = ("qemu_root",)


def load_manifest(cache, parts):
    """The manifest of a complete cache, or None.  It is written last, so it vouches for the rest."""
    try:
        with open(os.path.join(cache, "manifest.json")) as f:
            manifest = json.load(f)
    except (OSError, ValueError):
        return None
    if manifest.get("layout") != LAYOUT:
        return None
    return manifest if all(os.path.exists(manifest[key]) for key in parts) else None


def say_lab(text):
    print("lab: fetching", text, file=sys.stderr, flush=True)


def ensure_in(cache, parts, fetcher, refresh=False, say=say_lab):
    manifest = None if refresh else load_manifest(cache, parts)
    if manifest:
        return manifest
    with locked(cache):
        manifest = None if refresh else load_manifest(cache, parts)
        if not manifest:
            manifest = fetcher(cache, say)
            path = os.path.join(cache, "manifest.json")
            with open(path + ".new", "w") as f:
                json.dump(manifest, f, indent=1)
            os.rename(path + ".new", path)
    return manifest


def ensure(refresh=False, say=say_lab):
    """The manifest of a complete cache, fetched first where needed."""
    return ensure_in(cache_dir(), PARTS, fetch, refresh, say)


def ensure_new_kernel(refresh=False, say=say_lab):
    """ensure()'s manifest with a host kernel of Debian 13 or newer, from a directory beside the lab's."""
    manifest = ensure(refresh, say)
    if release_codename() in NEW_KERNEL_FROM_BACKPORTS:
        newer = ensure_in(cache_dir() + "-new-kernel", NEW_KERNEL_PARTS, fetch_new_kernel, refresh, say)
        manifest = {**manifest, **{key: newer[key] for key in NEW_KERNEL_PARTS}}
    return manifest


def qemu_cache(suite):
    return f"{cache_dir()}-qemu-{suite}"


def has_qemu(suite):
    """Whether ensure_qemu() would have nothing to fetch."""
    return load_manifest(qemu_cache(suite), QEMU_PARTS) is not None


def ensure_qemu(suite, refresh=False, say=say_lab):
    """Likewise of a directory beside the lab's that has only that suite's QEMU: for qemu_command()."""
    return ensure_in(qemu_cache(suite), QEMU_PARTS, fetch_qemu(suite), refresh, say)


def qemu_command(manifest):
    """(argv, env) that start the fetched QEMU with its own loader, libraries, modules and firmware."""
    usr = os.path.join(manifest["qemu_root"], "usr")
    libraries = os.path.join(usr, "lib", "x86_64-linux-gnu")
    # Not lib64/ld-linux-x86-64.so.2: that is an absolute symlink, which leads to the machine's own loader.
    argv = [os.path.join(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries,
            os.path.join(usr, "bin", "qemu-system-x86_64"),
            "-L", os.path.join(usr, "share", "qemu"), "-L", os.path.join(usr, "share", "seabios")]
    return argv, dict(os.environ, QEMU_MODULE_DIR=os.path.join(libraries, "qemu"))


def main():
    parser = argparse.ArgumentParser(description="Fetch the lab's kernels, busybox and QEMU into the cache.")
    parser.add_argument("--refresh", action="store_true", help="fetch again, even if the cache is complete")
    parser.add_argument("--new-kernel", action="store_true", help="a host kernel of Debian 13 or newer as well")
    parser.add_argument("--qemu", metavar="SUITE", help="fetch only QEMU, from that suite, into a cache of its own")
    args = parser.parse_args()
    try:
        if args.qemu:
            manifest = ensure_qemu(args.qemu, args.refresh)
        else:
            manifest = (ensure_new_kernel if args.new_kernel else ensure)(args.refresh)
        json.dump(manifest, sys.stdout, indent=1)
        print()
    except FetchError as e:
        sys.exit(f"lab: {e}")


if __name__ == "__main__":
    main()
