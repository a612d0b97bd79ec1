/* SPDX-License-Identifier: MIT */
#include <molt/pci/config.h>

uint32_t pci_config_read(const struct pci_config *c, uint64_t offset, unsigned int size)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < size && offset + i < PCI_CONFIG_BYTES; i++)
		value |= (uint32_t)c->bytes[offset + i] << (8 * i);
	return value;
}

void pci_config_write(struct pci_config *c, const struct pci_config *writable, uint64_t offset,
		      uint32_t value, unsigned int size)
{
	for (unsigned int i = 0; i < size && offset + i < PCI_CONFIG_BYTES; i++) {
		uint8_t mask = writable->bytes[offset + i];
		uint8_t byte = (uint8_t)(value >> (8 * i));

		c->bytes[offset + i] = (uint8_t)((c->bytes[offset + i] & ~mask) | (byte & mask));
	}
}
