# SPDX-License-Identifier: MIT
"""What this machine is, in words that name nobody's machine, and whether it has the memory for a case."""
import contextlib
import os
import platform
import re

HUGE = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
HUGE_MIB = 2


def favour(pid):
    """What `nice` gave the bench for a process: a scheduler that groups by sessions looks at the session's."""
    with contextlib.suppress(OSError):
        with open("/proc/%d/autogroup" % pid, "w") as f:
            f.write("%d" % os.nice(0))


def read(path):
    with open(path) as f:
        return f.read()


def kvm_module():
    loaded = set(re.findall(r"^(kvm_\w+)", read("/proc/modules"), re.M)) if os.path.exists("/proc/modules") else set()
    built_in = {name for name in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.exists("/sys/module/" + name)}
    return " ".join(sorted(loaded | built_in)) or "kvm"


def describe():
    model = re.search(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), re.M)
    return {"cpus": os.cpu_count(), "cpu": model.group(1) if model else "unknown", "kvm": kvm_module(),
            "kernel": "Linux " + re.match(r"\d+\.\d+", platform.release()).group(0), "load": os.getloadavg()[0]}


def available_mib():
    return int(re.search(r"^MemAvailable:\s+(\d+)", read("/proc/meminfo"), re.M).group(1)) // 1024


def free_huge():
    return int(read(HUGE + "free_hugepages"))


def set_pool(pages):
    with open(HUGE + "nr_hugepages", "w") as f:
        f.write(str(pages))


@contextlib.contextmanager
def pages_for(case, reserve):
    """Yields what the machine lacks for the case, or None; huge pages are reserved meanwhile if asked to."""
    if available_mib() < case.mib + 512:
        yield "%d MiB of memory are available" % available_mib()
        return
    if case.pages != "2M":
        yield None
        return
    if not os.path.exists(HUGE):
        yield "this kernel has no 2 MiB pages"
        return
    had, need = int(read(HUGE + "nr_hugepages")), case.mib // HUGE_MIB
    try:
        if reserve and free_huge() < need:
            set_pool(had + need - free_huge())
        have = free_huge()
        yield None if have >= need else "%d of %d 2 MiB pages are free in %snr_hugepages (--reserve)" % (
            have, need, HUGE)
    finally:
        if reserve:
            set_pool(had)
