# SPDX-License-Identifier: MIT
"""What the nested host's KVM did, for a guest that ended badly: trace events in ring buffers.

KVM on AMD resets a vCPU's registers before it tells user space of a triple fault, so molt's log cannot say where the
guest was. The trace can: its exit "shutdown" has RIP and, in intr_info and error_code, the event that could not be
delivered; the lines before it are what each vCPU did last, what was injected and which pages were missing.

A second buffer keeps the exits that prove the emulated CPU wrong: those that name an *exception* with an interrupt's
vector. QEMU delivers an injected interrupt a second time as such; see "Faults of the emulated CPU" in README.md.

    trace = KvmTrace()
    ...
    print(trace.last(), trace.delivered_twice())
"""
import glob
import os
import re
import subprocess

TRACEFS = "/sys/kernel/tracing"
EVENTS = ["kvm_entry", "kvm_exit", "kvm_inj_exception", "kvm_inj_virq", "kvm_page_fault", "kvm_apic_accept_irq",
          "kvm_async_pf_not_present", "kvm_async_pf_ready"]
# intr_info is EXITINTINFO (AMD64 manual volume 2, "Event Injection"): bits 0-7 the vector, 8-10 the type, which is 3
# for an exception, 31 whether the delivery was cut short. No exception has a vector above 31.
TWICE = " || ".join("(intr_info >= %#x && intr_info <= %#x)" % (cut | 0x320, cut | 0x3ff) for cut in (0, 1 << 31))
LINES_BEFORE = 100
LINES_AFTER = 10


def mount():
    if not os.path.exists(TRACEFS + "/instances"):
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], check=True)


class Instance:
    """A ring buffer of its own, empty and recording."""

    def __init__(self, name, kib_per_cpu, events, event_filter=None):
        self.dir = "%s/instances/molt-%s" % (TRACEFS, name)
        os.makedirs(self.dir, exist_ok=True)
        self.write("buffer_size_kb", str(kib_per_cpu))
        for event in events:
            if event_filter:
                self.write("events/kvm/%s/filter" % event, event_filter)
            self.write("events/kvm/%s/enable" % event, "1")
        self.write("trace", "")
        self.write("tracing_on", "1")

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(text)

    def count(self):
        """All that were recorded, those included for which there was no room any more."""
        total = 0
        for path in glob.glob(self.dir + "/per_cpu/cpu*/stats"):
            with open(path) as f:
                total += sum(int(n) for n in re.findall(r"^(?:entries|overrun): (\d+)", f.read(), re.M))
        return total

    def stop(self):
        """All lines, with single spaces; nothing is recorded any more."""
        self.write("tracing_on", "0")
        with open(self.dir + "/trace", errors="replace") as f:
            return [" ".join(line.split()) for line in f if not line.startswith("#")]


class KvmTrace:
    """Begins anew with each guest."""

    def __init__(self):
        mount()
        self.all = Instance("all", 512, EVENTS)
        self.twice = Instance("twice", 16, ["kvm_exit"], TWICE)

    def last(self):
        """The lines around the last triple fault, or the very last ones."""
        lines = self.all.stop()
        faults = [i for i, line in enumerate(lines) if "reason shutdown" in line]
        end = faults[-1] + 1 + LINES_AFTER if faults else len(lines)
        return "\n".join(lines[max(0, end - LINES_AFTER - LINES_BEFORE):end])

    def last_of_each(self, number=12):
        """{thread: its last lines}: where each vCPU was when nothing came any more."""
        threads = {}
        for line in self.all.stop():
            threads.setdefault(line.split()[0], []).append(line)
        return {thread: lines[-number:] for thread, lines in threads.items()}

    def delivered_twice(self):
        """The exits that show an interrupt delivered as an exception."""
        return self.twice.stop()


class FaultCounter:
    """How often a guest, of whatever VM, met a page that KVM's second-level tables did not have."""

    def __init__(self):
        mount()
        self.faults = None

    def start(self):
        self.faults = Instance("faults", 16, ["kvm_page_fault"])

    def stop(self):
        self.faults.write("tracing_on", "0")
        return self.faults.count()
