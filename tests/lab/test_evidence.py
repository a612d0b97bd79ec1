#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is taken for the emulated CPU's fault, and what is not: no lab is run here."""
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "lib")]
import lab
import stalled
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


def test_panics_are_found():
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "console.log")
        for text, found in (("[    1.0] all is well\n", None), ("[   20.7] BUG: TASK stack guard page was hit\n[  28] x\n",
                                                                "BUG: TASK stack guard page was hit"),
                            ("[    2.1] Kernel panic - not syncing: x\n", "Kernel panic - not syncing: x")):
            with open(path, "w", encoding="ascii") as f:
                f.write(text)
            assert lab.panic_line(work) == found, (text, lab.panic_line(work))


if __name__ == "__main__":
    run_cases(globals())
