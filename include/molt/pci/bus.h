/* SPDX-License-Identifier: MIT */
/* PCI bus 0: which function is in which slot. It belongs to the host bridge (src/pci/host.c). */
#ifndef MOLT_PCI_BUS_H
#define MOLT_PCI_BUS_H

#include <stdint.h>

#include <molt/base/error.h>

struct machine;
struct pci_function;

#define PCI_SLOTS 32 /* slot 0 is the host bridge */

struct pci_bus {
	struct pci_function *functions[PCI_SLOTS]; /* function 0 of each; there are no others */
};

/* The machine's; NULL where it has none, or none yet. */
struct pci_bus *pci_bus_of(struct machine *m);

/*
 * Puts a function into a slot, 0 for the lowest that is free. Returns the slot, 1..31; -EEXIST
 * where it is taken, -ENOSPC where all are, -EINVAL where there is no such slot.
 */
int pci_bus_add(struct pci_bus *bus, struct pci_function *f, uint32_t slot, struct error *err);
void pci_bus_remove(struct pci_bus *bus, const struct pci_function *f);

#endif
