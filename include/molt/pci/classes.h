/* SPDX-License-Identifier: MIT */
/* The device classes of this room, for the class table in src/devices.c. */
#ifndef MOLT_PCI_CLASSES_H
#define MOLT_PCI_CLASSES_H

#include <molt/vm/device.h>

extern const struct device_class pci_host_class; /* root bus by ECAM, with its host bridge */

#endif
