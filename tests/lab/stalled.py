# SPDX-License-Identifier: MIT
"""A guest that says nothing any more: what its vCPUs wait for, by a state stream as `molt state` prints it.

And whether the emulated CPU is to blame for it (README.md, "Faults of the emulated CPU"): then a vCPU has registers of
the nested host itself, a CR3 first of all, which is a page of the host's and not one of the guest's RAM. molt cannot
have put it there: it never sees a physical address of the host it runs on.
"""

# Of those that make or wait for interrupts: the TSC deadline, and KVM's own, kvmclock to the migration control.
INTERRUPT_MSRS = {0x6e0, *range(0x4b564d00, 0x4b564d09)}
WORDS = ("regs.rip", "regs.rflags", "regs.rsp", "sregs.cr3", "mp_state.mp_state", "events.interrupt.injected",
         "events.interrupt.nr", "events.exception.pending", "events.exception.nr")
LOW_RAM_END = 3 << 30
HIGH_RAM = 4 << 30
PAGE = ~0xfff & (1 << 52) - 1


def sections(state, name):
    """The fields of all sections of a name, in the order of their instances: [{field: value}]."""
    found = [s for s in state["sections"] if s["name"] == name]
    found.sort(key=lambda section: section["instance"])
    return [{field["name"]: field["value"] for field in section["fields"]} for section in found]


def vectors(register):
    """The set bits of a LAPIC register of 256: eight words, 16 bytes from one to the next."""
    return [32 * i + bit for i in range(8) for bit in range(32)
            if int.from_bytes(register[16 * i:16 * i + 4], "little") >> bit & 1]


def words(vcpu):
    """Of a vCPU's fields: where it is, and which interrupts wait for what."""
    lapic = bytes.fromhex(vcpu["lapic.regs"])
    found = {name: vcpu[name] for name in WORDS}
    found.update(irr=vectors(lapic[0x200:]), isr=vectors(lapic[0x100:]), tpr=lapic[0x80], lvtt=lapic[0x320:0x324].hex())
    found["msrs"] = {"%#x" % i: v for i, v in zip(vcpu["msr_index"], vcpu["msr_value"]) if i in INTERRUPT_MSRS}
    return found


def foreign_page_tables(state):
    """A sentence, where a vCPU's page tables are outside of the guest's RAM; else None."""
    size = int(str(sections(state, "machine")[0]["ram_size"]), 0)
    for i, vcpu in enumerate(sections(state, "vcpu")):
        page = int(vcpu["sregs.cr3"], 0) & PAGE
        if LOW_RAM_END <= page < HIGH_RAM or page >= size + (HIGH_RAM - LOW_RAM_END if size > LOW_RAM_END else 0):
            return "vCPU %d has page tables at %#x, where the guest has no RAM: %s" % (i, page, words(vcpu))
    return None
