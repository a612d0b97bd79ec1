/* SPDX-License-Identifier: MIT */
/*
 * The PIO and MMIO buses: which device answers at an address. Regions are added before the vCPUs
 * run; look-ups take no lock, the device's own lock is taken around the call.
 */
#ifndef MOLT_VM_BUS_H
#define MOLT_VM_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>

struct device;

enum bus_kind {
	BUS_PIO,
	BUS_MMIO,
};

/*
 * A device's registers at one place. offset is relative to base; size is 1, 2, 4 or 8 and the
 * access lies inside the region whole. read returns the value, its higher bytes are ignored.
 */
struct bus_region {
	enum bus_kind kind;
	uint64_t base;
	uint64_t len;
	uint64_t (*read)(struct device *dev, uint64_t offset, unsigned int size);
	void (*write)(struct device *dev, uint64_t offset, uint64_t value, unsigned int size);
};

#define BUS_MAX_REGIONS 128

struct bus {
	struct {
		const struct bus_region *region;
		struct device *dev;
	} slots[2][BUS_MAX_REGIONS]; /* by kind, ascending base */
	unsigned int count[2];
};

/* -EEXIST where it overlaps another region, -ENOSPC when the bus is full. */
int bus_add(struct bus *bus, const struct bus_region *region, struct device *dev,
	    struct error *err);

/*
 * One guest access of size bytes at data. Where nobody answers, or the access crosses a region's
 * end, reads give all ones and writes are dropped, as on a PC.
 */
void bus_access(struct bus *bus, enum bus_kind kind, uint64_t addr, void *data, unsigned int size,
		bool write);

#endif
