/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <molt/vm/bus.h>
#include <molt/vm/device.h>

int bus_add(struct bus *bus, const struct bus_region *region, struct device *dev, struct error *err)
{
	unsigned int kind = region->kind, n = bus->count[kind], at = 0;

	if (n == BUS_MAX_REGIONS)
		return err_set(err, ENOSPC, "bus: no room for another region at 0x%llx",
			       (unsigned long long)region->base);
	while (at < n && bus->slots[kind][at].region->base < region->base)
		at++;
	if ((at > 0 && region->base - bus->slots[kind][at - 1].region->base <
			       bus->slots[kind][at - 1].region->len) ||
	    (at < n && bus->slots[kind][at].region->base - region->base < region->len))
		return err_set(err, EEXIST, "bus: region 0x%llx+0x%llx of '%s' overlaps another",
			       (unsigned long long)region->base, (unsigned long long)region->len,
			       dev->cls->name);
	memmove(&bus->slots[kind][at + 1], &bus->slots[kind][at],
		(n - at) * sizeof(bus->slots[kind][0]));
	bus->slots[kind][at].region = region;
	bus->slots[kind][at].dev = dev;
	bus->count[kind]++;
	return 0;
}

/* The last region that begins at or below addr, if the access lies inside it; else -1. */
static int find(const struct bus *bus, enum bus_kind kind, uint64_t addr, unsigned int size)
{
	int low = 0, high = (int)bus->count[kind] - 1, hit = -1;

	while (low <= high) {
		int mid = (low + high) / 2;

		if (bus->slots[kind][mid].region->base <= addr) {
			hit = mid;
			low = mid + 1;
		} else {
			high = mid - 1;
		}
	}
	if (hit >= 0) {
		const struct bus_region *r = bus->slots[kind][hit].region;

		if (addr - r->base >= r->len || size > r->len - (addr - r->base))
			return -1;
	}
	return hit;
}

void bus_access(struct bus *bus, enum bus_kind kind, uint64_t addr, void *data, unsigned int size,
		bool write)
{
	int hit = find(bus, kind, addr, size);
	const struct bus_region *r;
	struct device *dev;
	uint64_t value = 0;

	if (hit < 0) {
		if (!write)
			memset(data, 0xff, size);
		return;
	}
	r = bus->slots[kind][hit].region;
	dev = bus->slots[kind][hit].dev;
	if (write)
		memcpy(&value, data, size);
	pthread_mutex_lock(&dev->lock);
	if (write)
		r->write(dev, addr - r->base, value, size);
	else
		value = r->read(dev, addr - r->base, size);
	pthread_mutex_unlock(&dev->lock);
	if (!write)
		memcpy(data, &value, size);
}
