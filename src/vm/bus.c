/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <molt/vm/bus.h>
#include <molt/vm/device.h>

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b ? b - a < a_len : a - b < b_len;
}

int bus_add(struct bus *bus, const struct bus_region *region, uint64_t base, struct device *dev,
	    struct error *err)
{
	const uint64_t last = region->kind == BUS_PIO ? 0xffff : UINT64_MAX;
	unsigned int kind = region->kind, n = bus->count[kind], at = 0;
	struct bus_slot *slots = bus->slots[kind];

	if (base > last || region->len - 1 > last - base)
		return err_set(err, ERANGE, "bus: region 0x%llx+0x%llx of '%s' has no place there",
			       (unsigned long long)base, (unsigned long long)region->len,
			       dev->cls->name);
	if (n == BUS_MAX_REGIONS)
		return err_set(err, ENOSPC, "bus: no room for another region at 0x%llx",
			       (unsigned long long)base);
	while (at < n && slots[at].base < base)
		at++;
	for (unsigned int i = at ? at - 1 : 0; i < n && i <= at; i++)
		if (!region->beneath && !slots[i].region->beneath &&
		    overlap(base, region->len, slots[i].base, slots[i].region->len))
			return err_set(err, EEXIST,
				       "bus: region 0x%llx+0x%llx of '%s' overlaps that of '%s'",
				       (unsigned long long)base, (unsigned long long)region->len,
				       dev->cls->name, slots[i].dev->cls->name);
	memmove(&slots[at + 1], &slots[at], (n - at) * sizeof(slots[0]));
	slots[at] = (struct bus_slot){ .base = base, .region = region, .dev = dev };
	bus->count[kind]++;
	return 0;
}

void bus_remove(struct bus *bus, const struct bus_region *region, struct device *dev)
{
	struct bus_slot *slots = bus->slots[region->kind];
	unsigned int *count = &bus->count[region->kind];

	for (unsigned int i = 0; i < *count; i++)
		if (slots[i].region == region && slots[i].dev == dev) {
			--*count;
			memmove(&slots[i], &slots[i + 1], (*count - i) * sizeof(slots[0]));
			return;
		}
}

static bool holds(const struct bus_slot *slot, uint64_t addr, unsigned int size)
{
	uint64_t offset = addr - slot->base, len = slot->region->len;

	return addr >= slot->base && offset < len && size <= len - offset;
}

/*
 * The last region that begins at or below addr, if the access lies inside it; else the last of
 * those that are beneath others, if it lies inside that; else -1.
 */
static int find(const struct bus *bus, enum bus_kind kind, uint64_t addr, unsigned int size)
{
	int low = 0, high = (int)bus->count[kind] - 1, hit = -1;

	while (low <= high) {
		int mid = (low + high) / 2;

		if (bus->slots[kind][mid].base <= addr) {
			hit = mid;
			low = mid + 1;
		} else {
			high = mid - 1;
		}
	}
	while (hit >= 0 && !holds(&bus->slots[kind][hit], addr, size))
		do
			hit--;
		while (hit >= 0 && !bus->slots[kind][hit].region->beneath);
	return hit;
}

void bus_access(struct bus *bus, enum bus_kind kind, uint64_t addr, void *data, unsigned int size,
		bool write)
{
	int hit = find(bus, kind, addr, size);
	const struct bus_region *r;
	struct device *dev;
	uint64_t value = 0, offset;

	if (hit < 0) {
		if (!write)
			memset(data, 0xff, size);
		return;
	}
	r = bus->slots[kind][hit].region;
	dev = bus->slots[kind][hit].dev;
	offset = addr - bus->slots[kind][hit].base;
	if (write)
		memcpy(&value, data, size);
	pthread_mutex_lock(&dev->lock);
	if (write)
		r->write(dev, offset, value, size);
	else
		value = r->read(dev, offset, size);
	pthread_mutex_unlock(&dev->lock);
	if (!write)
		memcpy(data, &value, size);
}
