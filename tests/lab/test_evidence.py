#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is taken for the emulated CPU's fault, and what is not: no lab is run here."""
import json
import os
import socket
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import emulator
import lab
import report
import stalled
import stock_guest
from moltvm import run_cases

MIB = 1 << 20


def state(ram_mib, *cr3):
    def section(name, instance, fields):
        return {"name": name, "instance": instance,
                "fields": [{"name": key, "value": value} for key, value in fields.items()]}

    lapic = bytearray(1024)
    lapic[0x210] = 0x04     # IRR: 34
    vcpu = dict(dict.fromkeys(stalled.WORDS, "0x0"), msr_index=[0x6e0, 0x10], msr_value=["0x1", "0x2"])
    vcpu["lapic.regs"] = lapic.hex()
    return {"sections": [section("machine", 0, {"ram_size": hex(ram_mib * MIB)})] + [
        section("vcpu", i, {**vcpu, "sregs.cr3": hex(value)}) for i, value in enumerate(cr3)]}


def foreign(ram_mib, *cr3):
    return stalled.foreign_page_tables(state(ram_mib, *cr3))


def test_page_tables_in_ram_are_the_guests():
    assert foreign(256, 0x10b000, 256 * MIB - 0x1000) is None
    assert foreign(5 * 1024, 0x1000, (4 << 30) + 2048 * MIB - 0x1000) is None
    assert foreign(256, 0x10b000 | 1 << 63 | 0x18) is None   # the flags of a CR3 are no address


def test_page_tables_elsewhere_are_not():
    assert "vCPU 1" in foreign(256, 0x10b000, 0x1008a2000)
    assert foreign(256, 256 * MIB)
    assert foreign(5 * 1024, 3 << 30)                       # the hole below 4 GiB
    assert foreign(5 * 1024, (4 << 30) + 2048 * MIB)


def test_words_name_what_waits():
    found = stalled.words(stalled.sections(state(64, 0x1000), "vcpu")[0])
    assert found["irr"] == [34] and found["isr"] == [] and found["msrs"] == {"0x6e0": "0x1"}, found


CONSOLES = (
    ("[    1.0] all is well\n", None),
    ("[    1.0] rcu: \tOffload RCU callbacks from CPUs: (none).\n", None),
    ("[   20.7] BUG: TASK stack guard page was hit\n[  28.0] x\n", "BUG: TASK stack guard page was hit"),
    ("[    2.1] Kernel panic - not syncing: x\n", "Kernel panic - not syncing: x"),
    ("[  472.8] watchdog: BUG: soft lockup - CPU#1 stuck for 52s! [molt:398]\n", "watchdog: BUG: soft lockup - CPU#1 stuck for "
     "52s! [molt:398]"),
    ("[  437.8] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n", "rcu: INFO: rcu_preempt detected stalls on "
     "CPUs/tasks:"),
)


def test_a_slow_timer_interrupt_is_no_news():
    slow = "[   25.976882] hrtimer: interrupt took %d ns"
    news = ["[   26.000000] rcu: INFO: rcu_sched self-detected stall on CPU", slow % 1_000_000_000,
            "[   27.000000] clocksource: timekeeping watchdog on CPU0: %s" % slow % 9]
    assert stock_guest.kernel_news(news[:1] + [slow % 9_325_929] + news[1:]) == news


def test_the_end_of_the_nested_host_is_found():
    with tempfile.TemporaryDirectory() as work:
        for text, found in CONSOLES:
            with open(os.path.join(work, "console.log"), "w", encoding="ascii") as f:
                f.write(text)
            said = lab.why_broken(work)
            assert said == (found and "the nested host's kernel: " + found), (text, said)


class Emulator:
    """A QEMU that runs, and one that has crashed."""

    def __init__(self, *polls):
        self.polls = list(polls)

    def poll(self):
        return self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]


def test_a_silent_nested_host_is_given_up():
    args = lab.parse(["run", "--timeout", "60", "--", "true"])
    limit, lab.SILENCE_LIMIT = lab.SILENCE_LIMIT, 0.3
    try:
        with tempfile.TemporaryDirectory() as work:
            open(os.path.join(work, "console.log"), "w", encoding="ascii").close()
            with open(os.path.join(work, "control"), "w", encoding="ascii") as f:
                f.write("booted\n")
            try:
                lab.watch(Emulator(None), args, work, {})
            except lab.HostBroken as why:
                assert "no sign of life" in str(why), why
            else:
                raise AssertionError("it was not given up")
            with open(os.path.join(work, "monitor.log"), encoding="utf-8") as f:
                looked = f.read()
            assert looked.count("silent for 0 seconds") == 1 and "does not answer" in looked, looked
            times = {}
            lab.watch(Emulator(None, None, 0), args, work, times)   # one that ends in time is not
            assert "all" in times
    finally:
        lab.SILENCE_LIMIT = limit


def test_the_emulated_cpu_is_looked_at():
    asked = []

    def monitor(listener):
        with listener.accept()[0] as peer, peer.makefile("rw") as f:
            print('{"QMP": {}}', file=f, flush=True)
            for line in f:
                request = json.loads(line)
                asked.append(request.get("arguments", {}).get("command-line") or request["execute"])
                print('{"event": "STOP"}\n{"return": "RIP=%d"}' % len(asked), file=f, flush=True)

    with tempfile.TemporaryDirectory() as work, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(work, "monitor"))
        listener.listen()
        server = threading.Thread(target=monitor, args=(listener,))
        server.start()
        emulator.look(work, 15.2)
        server.join()
        with open(os.path.join(work, "monitor.log"), encoding="utf-8") as f:
            looked = f.read()
    assert asked == ["qmp_capabilities", "info registers -a", "info lapic"], asked
    assert "silent for 15 seconds" in looked and looked.endswith("RIP=3"), looked


def test_the_nested_host_is_prodded():
    args = lab.parse(["run", "--", "true"])
    period, lab.PROD_SECONDS = lab.PROD_SECONDS, 0.1
    try:
        with tempfile.TemporaryDirectory() as work, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(work, "prod"))
            listener.listen(64)
            listener.settimeout(0)
            lab.watch(Emulator(*[None] * 20, 0), args, work, {})
            for _ in range(5):      # or it raises: nobody has connected
                listener.accept()[0].close()
    finally:
        lab.PROD_SECONDS = period


def test_what_is_told_again_is_counted():
    """Once by a story, and the other failures and a third fault not at all: they fail."""
    def told(faults, error=report.GuestFaulted):
        def story(r):
            if len(tries) < faults:
                tries.append(1)
                raise error("triple fault\nand all that there is to see of it")
            r.check("told", True)

        tries, lines = [], []
        r = report.Report()
        r.line = lines.append
        return r.run([("a story", story)]), [line for line in lines if line.startswith("# TOLD AGAIN: a story: ")]

    assert told(0) == (False, [])
    status, again = told(2)
    assert not status and len(again) == 2 and again[0].endswith("triple fault"), again
    assert told(3)[0] and told(1, AssertionError) == (True, [])


if __name__ == "__main__":
    run_cases(globals())
