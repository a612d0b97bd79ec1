#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a stock Linux makes of a CPU model, in the lab: run by lab_test.py. Arguments: the stories to run (all)."""
import os
import re
import subprocess
import sys

from report import Report
from stock_guest import HERE, StockGuest

# The level x86-64-v3 and what every model has, as docs/guest-abi.md says.
LEVEL = set("""
    fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 x2apic arat syscall nx
    lm cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave
    """.split())
# What molt adds for the machine.
MACHINE = {"ht", "hypervisor", "tsc_deadline_timer", "cmp_legacy"}
# What Linux says of itself, or concludes: 3dnowprefetch from lm on AMD, constant_tsc from the family on Intel.
LINUX = {"rep_good", "nopl", "cpuid", "extd_apicid", "tsc_known_freq", "xtopology", "pti", "vmmcall", "k8", "up",
         "3dnowprefetch", "constant_tsc"}


def cpuinfo(guest):
    """{name: value} of the first processor, and how many there are."""
    text = guest.shell.run("cat /proc/cpuinfo", 60)[0]
    first = dict(re.findall(r"^(\w[\w ]*?)\s*: ?(.*?)\r?$", text.split("\n\n", maxsplit=1)[0], re.M))
    return first, len(re.findall(r"^processor", text, re.M))


def linux_on_v3(report):
    with StockGuest("--cpus", "2", "--memory", "256M", "--cpu", "x86-64-v3") as guest:
        seconds = guest.boot()
        info, cpus = cpuinfo(guest)
        flags = set(info["flags"].split())
        report.check("boots to a shell on x86-64-v3", cpus == 2, "%.1f s" % seconds)
        report.check("its name is the model's", info["model name"] == "x86-64-v3", str(info))
        missing, beyond = LEVEL - flags, flags - LEVEL - MACHINE - LINUX
        # Linux takes out what it does not trust, and says so; what it needs of the level must be there.
        report.check("/proc/cpuinfo has all of the level", not missing, " ".join(sorted(missing)))
        report.check("/proc/cpuinfo has no more than the level", not beyond, " ".join(sorted(beyond)))
        guest.type_across_update(0)
        report.check("after an update it is the same", cpuinfo(guest)[0].get("flags") == info["flags"] and
                     guest.vm.proc.poll() is None)
        guest.shell.send("poweroff\r")
        report.check("'poweroff' ends molt with status 0", guest.wait_end() == 0)


def tiny_guests(report):
    """tests/guest/test_cpu.py, which compares CPUID bit by bit where KVM hides what it was not told to show."""
    script = os.path.join(os.path.dirname(HERE), "guest", "test_cpu.py")
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=300, check=False)
    report.check("test_cpu.py on a real kvm_amd", done.returncode == 0 and "\nok " in done.stdout, done.stdout[-3000:])


STORIES = [("linux-v3", linux_on_v3), ("tiny-guests", tiny_guests)]

if __name__ == "__main__":
    wanted = sys.argv[1:]
    unknown = set(wanted) - {name for name, _ in STORIES}
    if unknown:
        sys.exit("no such story: " + " ".join(unknown))
    sys.exit(Report().run([s for s in STORIES if not wanted or s[0] in wanted]))
