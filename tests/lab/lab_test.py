#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run a test script in the lab and pass its TAP on; the outside half of the lab's tests, started by meson.

    lab_test.py --molt FILE --next FILE --others DIR --attempts FILE --firmware DIR --labcheck FILE
                [--cpus N | --icount] [--mem SIZE] [--timeout S] [--disks N] [--module NAME]... [--new-kernel]
                [--for-want-of-kvm] SCRIPT [ARGS...]

SCRIPT is a file of this directory. All that it needs is copied into one directory, which the nested host sees: sources
and build may lie under /tmp, of which the nested host has its own. Where the lab cannot be had the test is skipped, and
says why.
"""
import argparse
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path[:0] = [HERE, os.path.join(HERE, "guest"), os.path.join(TESTS, "lib")]

import fetch  # noqa: E402
import image  # noqa: E402
import lab  # noqa: E402
import mkguest  # noqa: E402
import release  # noqa: E402

TAP = re.compile(rb"(ok|not ok|1\.\.\d|#|Bail out!)")
COUNT = re.compile(rb"^(ok |not ok |1\.\.)(\d+)")
BREAKS = 4     # of the nested host, after which the script begins anew


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molt", required=True)
    parser.add_argument("--next", required=True, help="molt-next of tests/guest")
    parser.add_argument("--molt-faults", help="molt with failure points")
    parser.add_argument("--others", required=True, help="directory of the molts that cannot take over")
    parser.add_argument("--attempts", required=True, help="what test_attack.py runs")
    parser.add_argument("--firmware", required=True)
    parser.add_argument("--labcheck", required=True)
    parser.add_argument("--cpus", default="2")
    parser.add_argument("--mem", default="4G")
    parser.add_argument("--timeout", default="600", help="seconds that the script may take in the lab")
    parser.add_argument("--disks", type=int, default=0, help="how often it has the Debian image, as /dev/vda ...")
    parser.add_argument("--module", action="append", default=[], help="one more kernel module for the nested host")
    parser.add_argument("--new-kernel", action="store_true", help="the nested host's kernel is Debian 13's or newer")
    parser.add_argument("--icount", action="store_true", help="the nested host's time counts instructions")
    parser.add_argument("--for-want-of-kvm", action="store_true", help="skip it where this machine has a KVM")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs="*")
    return parser.parse_args()


def skip_all(why):
    print("1..0 # SKIP " + " ".join(why.split()))
    sys.exit(0)


def copy_tests(stage):
    for part in ("bench", "lab", "lib", "guest", "faults"):
        os.makedirs(os.path.join(stage, "tests", part))
        for script in glob.glob(os.path.join(TESTS, part, "*.py")):
            shutil.copy(script, os.path.join(stage, "tests", part))
    shutil.copytree(os.path.join(TESTS, "..", "docs"), os.path.join(stage, "docs"))
    shutil.copytree(os.path.join(TESTS, "..", "scripts"), os.path.join(stage, "scripts"))
    shutil.copy(os.path.join(TESTS, "..", "README.md"), stage)


def stage_release(stage):
    """The newest release, for the lab: it cannot be built there."""
    try:
        return {"MOLT_RELEASE": shutil.copy(release.newest(), os.path.join(stage, "molt-release"))}
    except release.Unavailable as e:
        return {"MOLT_NO_RELEASE": str(e)}


def stage_debian(stage, args):
    """Kernel and initramfs of the Debian on a disk; the disks themselves are the nested host's."""
    if not args.disks:
        return {}
    debian = image.ensure()
    return {
        "MOLT_LAB_DEBIAN_KERNEL": shutil.copy(debian.kernel, os.path.join(stage, "debian.vmlinuz")),
        "MOLT_LAB_DEBIAN_INITRAMFS": shutil.copy(debian.initramfs, os.path.join(stage, "debian.initrd")),
        "MOLT_LAB_DEBIAN_CMDLINE": image.KERNEL_COMMAND_LINE,
    }


def prepare(stage, args):
    """Fill the directory; the environment for the script."""
    os.chmod(stage, 0o755)  # some tests have molt run as another user
    copy_tests(stage)
    shutil.copy(args.molt, os.path.join(stage, "molt"))
    shutil.copy(args.next, os.path.join(stage, "molt-next"))
    if args.molt_faults:
        shutil.copy(args.molt_faults, os.path.join(stage, "molt-faults"))
    shutil.copy(args.labcheck, os.path.join(stage, "labcheck"))
    shutil.copy(args.attempts, os.path.join(stage, "attempts"))
    os.makedirs(os.path.join(stage, "others"))
    for other in glob.glob(os.path.join(args.others, "molt-*")):
        if os.path.isfile(other):
            shutil.copy(other, os.path.join(stage, "others"))
    os.makedirs(os.path.join(stage, "firmware"))
    for guest in glob.glob(os.path.join(args.firmware, "*.elf")):
        shutil.copy(guest, os.path.join(stage, "firmware"))
    kernel, initramfs = mkguest.build(os.path.join(stage, "initramfs"), args.labcheck)
    environment = {
        **stage_release(stage),
        **stage_debian(stage, args),
        "MOLT": os.path.join(stage, "molt"),
        "MOLT_NEXT": os.path.join(stage, "molt-next"),
        "MOLT_FIRMWARE": os.path.join(stage, "firmware"),
        "MOLT_FAULTS_BINARY": os.path.join(stage, "molt-faults") if args.molt_faults else "",
        "MOLT_OTHERS": os.path.join(stage, "others"),
        "MOLT_ATTEMPTS": os.path.join(stage, "attempts"),
        "MOLT_LABCHECK": os.path.join(stage, "labcheck"),
        "MOLT_LAB_KERNEL": shutil.copy(kernel, stage),
        "MOLT_LAB_INITRAMFS": initramfs,
        "MOLT_LAB_CMDLINE": mkguest.KERNEL_COMMAND_LINE,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return environment


def relay(source, before):
    """The script's TAP as it comes, counted on from the points before it; all else as TAP's comments. The points now."""
    def counted(match):
        return match.group(1) + b"%d" % (int(match.group(2)) + before)

    points = before
    for line in source:
        points += line.startswith((b"ok ", b"not ok "))
        line = COUNT.sub(counted, line) if TAP.match(line) else b"# " + line
        sys.stdout.buffer.write(line if line.endswith(b"\n") else line + b"\n")
        sys.stdout.buffer.flush()
    return points


def collect(source, into):
    """The lab's own words: on to stderr, and kept."""
    for line in source:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        into.append(line.decode(errors="replace").strip())


def run_in_lab(stage, args, environment, before):
    """(exit status, what the lab itself said, points with those before)"""
    command = [sys.executable, os.path.join(HERE, "lab.py"), "run", "--cpus", args.cpus, "--mem", args.mem, "--timeout",
               args.timeout, "--rw", stage]
    for name in args.module:
        command += ["--module", name]
    if args.new_kernel:
        command += ["--new-kernel"]
    if args.icount:
        command += ["--icount"]
    for _ in range(args.disks):
        command += ["--disk", image.ensure().disk]
    command += ["--", "/usr/bin/env", "python3", os.path.join(stage, "tests", "lab", args.script), *args.arguments]
    said = []
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    listener = threading.Thread(target=collect, args=(process.stderr, said), daemon=True)
    listener.start()
    try:
        points = relay(process.stdout, before)
        status = process.wait()
    finally:
        process.terminate()
        process.wait()
    listener.join(10)
    return status, said, points


def main():
    # A polite kill must take the lab along too: raise, so that "finally" runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args = parse()
    if args.for_want_of_kvm and os.access("/dev/kvm", os.R_OK | os.W_OK):
        skip_all("these tests run on this machine's own KVM")
    try:
        (fetch.ensure_new_kernel if args.new_kernel else fetch.ensure)()
        if args.disks:
            image.ensure()
    except fetch.FetchError as e:
        skip_all("the lab cannot be fetched: %s" % e)
    with tempfile.TemporaryDirectory(prefix="molt-lab-test-") as stage:
        environment, points = prepare(stage, args), 0
        for last in (False,) * BREAKS + (True,):
            status, said, points = run_in_lab(stage, args, environment, points)
            if status != lab.HOST_BROKEN or last:
                break
            print("# TOLD AGAIN: %s: FAULT OF THE EMULATED CPU: %s" % (args.script, " ".join(said[-1:])), flush=True)
    if status == lab.UNAVAILABLE:
        skip_all("the lab does not work here: %s" % (said[-1] if said else "no reason given"))
    if status in (lab.TIMED_OUT, lab.LAB_FAILED, lab.HOST_BROKEN):
        print("Bail out! " + " ".join(said[-1:]))
    sys.exit(status)


if __name__ == "__main__":
    main()
