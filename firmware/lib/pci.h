/* SPDX-License-Identifier: MIT */
/* Configuration space of the functions on PCI bus 0, by both ways that a machine has. */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include "guest.h"

#define PCI_SLOTS 32
#define PCI_NONE 0xffffffffu

#define PCI_VENDOR 0x00
#define PCI_DEVICE 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_BAR0 0x10
#define PCI_BAR1 0x14
#define PCI_CAPABILITIES 0x34
#define PCI_BARS 6

#define PCI_COMMAND_MEMORY 0x0002u
#define PCI_COMMAND_MASTER 0x0004u
#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

#define MSIX_CONTROL 2 /* offset in the capability */
#define MSIX_ENABLE 0x8000u
#define MSIX_MASK_ALL 0x4000u

/* Once, on the boot CPU, before all others here: finds configuration space. */
void pci_init(void);

/* Memory-mapped; size is 1, 2 or 4. The offset may reach into other functions of the slot. */
uint32_t pci_read(unsigned int slot, unsigned int offset, unsigned int size);
void pci_write(unsigned int slot, unsigned int offset, uint32_t value, unsigned int size);

/* The same by 0xcf8 and 0xcfc: only the boot CPU may use ports. */
uint32_t pci_port_read(unsigned int slot, unsigned int offset, unsigned int size);
void pci_port_write(unsigned int slot, unsigned int offset, uint32_t value, unsigned int size);

/* The next capability with this id behind the one at `after` (0: from the first on), or 0. */
unsigned int pci_capability(unsigned int slot, unsigned int id, unsigned int after);

/* The 64-bit BAR that begins with register 0. */
uint64_t pci_bar_read(unsigned int slot);
void pci_bar_write(unsigned int slot, uint64_t value);

/* Where a memory BAR of either size is; register: 0 to 5. */
uint64_t pci_memory_bar(unsigned int slot, unsigned int bar);

/* Sets and clears bits of the command register. */
void pci_command(unsigned int slot, uint32_t set, uint32_t clear);

#endif
