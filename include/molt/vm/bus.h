/* SPDX-License-Identifier: MIT */
/*
 * The PIO and MMIO buses: which device answers at an address. Regions come, go and move while every
 * vCPU is parked; look-ups take no lock, the device's own lock is taken around the call.
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
 * A device's registers at one place. offset is relative to that; size is 1, 2, 4 or 8 and the
 * access lies inside the region whole. read returns the value, its higher bytes are ignored.
 */
struct bus_region {
	enum bus_kind kind;
	uint64_t base;              /* where the first device of a class has it */
	const uint64_t *more_bases; /* and the others, where there may be some */
	uint64_t len;
	bool beneath; /* regions of others may lie over parts of it; they win */
	uint64_t (*read)(struct device *dev, uint64_t offset, unsigned int size);
	void (*write)(struct device *dev, uint64_t offset, uint64_t value, unsigned int size);
};

#define BUS_MAX_REGIONS 128

struct bus_slot {
	uint64_t base;
	const struct bus_region *region;
	struct device *dev;
};

struct bus {
	struct bus_slot slots[2][BUS_MAX_REGIONS]; /* by kind, ascending base */
	unsigned int count[2];
};

/*
 * Puts a region at base. -EEXIST where it overlaps another one, -ENOSPC when the bus is full,
 * -ERANGE where it would go beyond the last address. The region must live as long as it is there.
 */
int bus_add(struct bus *bus, const struct bus_region *region, uint64_t base, struct device *dev,
	    struct error *err);

/* Takes the device's region off, if it is on. */
void bus_remove(struct bus *bus, const struct bus_region *region, struct device *dev);

/*
 * One guest access of size bytes at data. Where nobody answers, or the access crosses a region's
 * end, reads give all ones and writes are dropped, as on a PC.
 */
void bus_access(struct bus *bus, enum bus_kind kind, uint64_t addr, void *data, unsigned int size,
		bool write);

#endif
