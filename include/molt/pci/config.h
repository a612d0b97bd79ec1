/* SPDX-License-Identifier: MIT */
/* The configuration space of one PCI function (PCI Local Bus Specification 3.0, chapter 6). */
#ifndef MOLT_PCI_CONFIG_H
#define MOLT_PCI_CONFIG_H

#include <stdint.h>

#define PCI_CONFIG_BYTES 256u

struct pci_config {
	uint8_t bytes[PCI_CONFIG_BYTES];
};

/*
 * An access of 1, 2 or 4 bytes at offset. Beyond the configuration space (the extended one, which
 * no function here has) reads give zeroes, as the specification asks of an empty capability list.
 */
uint32_t pci_config_read(const struct pci_config *c, uint64_t offset, unsigned int size);

/* Changes the bits that are set in writable, which has the layout of the space. */
void pci_config_write(struct pci_config *c, const struct pci_config *writable, uint64_t offset,
		      uint32_t value, unsigned int size);

#endif
