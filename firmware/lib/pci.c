/* SPDX-License-Identifier: MIT */
#include "pci.h"

/* Where configuration space is: molt's place, or what a q35 chipset's host bridge says. */
#define ECAM 0xe0000000u
#define Q35_BRIDGE 0x29c08086u
#define Q35_PCIEXBAR 0x60
#define Q35_ECAM_MASK 0xf0000000u

#define BAR_64 0x4u
#define ECAM_BYTES 0x100000u
#define ADDRESS_PORT 0xcf8
#define DATA_PORT 0xcfc
#define ADDRESS_ENABLE 0x80000000u
#define MOST_CAPABILITIES 48

static uint32_t ecam = ECAM;

void pci_init(void)
{
	if (pci_port_read(0, PCI_VENDOR, 4) == Q35_BRIDGE)
		ecam = pci_port_read(0, Q35_PCIEXBAR, 4) & Q35_ECAM_MASK;
	map_range(ecam, ecam + ECAM_BYTES, PTE_UNCACHED);
}

uint32_t pci_read(unsigned int slot, unsigned int offset, unsigned int size)
{
	return (uint32_t)mmio_read(ecam + (slot << 15) + offset, size);
}

void pci_write(unsigned int slot, unsigned int offset, uint32_t value, unsigned int size)
{
	mmio_write(ecam + (slot << 15) + offset, value, size);
}

static uint16_t select(unsigned int slot, unsigned int offset)
{
	outl(ADDRESS_PORT, ADDRESS_ENABLE | slot << 11 | (offset & 0xfc));
	return (uint16_t)(DATA_PORT + (offset & 3));
}

uint32_t pci_port_read(unsigned int slot, unsigned int offset, unsigned int size)
{
	uint16_t port = select(slot, offset);

	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

void pci_port_write(unsigned int slot, unsigned int offset, uint32_t value, unsigned int size)
{
	uint16_t port = select(slot, offset);

	if (size == 1)
		outb(port, (uint8_t)value);
	else if (size == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, value);
}

unsigned int pci_capability(unsigned int slot, unsigned int id, unsigned int after)
{
	unsigned int at = pci_read(slot, after ? after + 1 : PCI_CAPABILITIES, 1);

	for (unsigned int n = 0; at && n < MOST_CAPABILITIES; n++) {
		if (pci_read(slot, at, 1) == id)
			return at;
		at = pci_read(slot, at + 1, 1);
	}
	return 0;
}

uint64_t pci_bar_read(unsigned int slot)
{
	return (uint64_t)pci_read(slot, PCI_BAR1, 4) << 32 | pci_read(slot, PCI_BAR0, 4);
}

void pci_bar_write(unsigned int slot, uint64_t value)
{
	pci_write(slot, PCI_BAR0, (uint32_t)value, 4);
	pci_write(slot, PCI_BAR1, (uint32_t)(value >> 32), 4);
}

uint64_t pci_memory_bar(unsigned int slot, unsigned int bar)
{
	unsigned int at = PCI_BAR0 + 4 * bar;
	uint64_t low = pci_read(slot, at, 4), high = 0;

	if (low & BAR_64 && bar + 1 < PCI_BARS)
		high = pci_read(slot, at + 4, 4);
	return high << 32 | (low & ~15ull);
}

void pci_command(unsigned int slot, uint32_t set, uint32_t clear)
{
	uint32_t was = pci_read(slot, PCI_COMMAND, 2);

	pci_write(slot, PCI_COMMAND, (was & ~clear) | set, 2);
}
