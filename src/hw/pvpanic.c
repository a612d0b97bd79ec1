/* SPDX-License-Identifier: MIT */
/*
 * pvpanic, as QEMU's docs/specs/pvpanic describes it: one port through which the guest says that it
 * panicked. The DSDT announces it as QEMU0001. There is nothing to migrate.
 */
#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#define PVPANIC_PORT 0x505
#define PVPANIC_PANICKED 0x01u

struct pvpanic {
	struct device dev;
};

/* Reading gives the events that are understood. */
static uint64_t pvpanic_read(struct device *dev, uint64_t offset, unsigned int size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return PVPANIC_PANICKED;
}

static void pvpanic_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	(void)offset;
	(void)size;
	if (value & PVPANIC_PANICKED)
		machine_request(dev->machine, MACHINE_REQ_PANICKED);
}

static const struct bus_region pvpanic_regions[] = {
	{
		.kind = BUS_PIO,
		.base = PVPANIC_PORT,
		.len = 1,
		.read = pvpanic_read,
		.write = pvpanic_write,
	},
};

/*
 * Nothing to remember; but a successor without the device is to miss it, not to take its port away.
 */
static const struct vmstate_field pvpanic_fields[] = { VMSTATE_END };

static const struct vmstate pvpanic_vmstate = {
	.name = "pvpanic",
	.version = 1,
	.min_version = 1,
	.fields = pvpanic_fields,
};

const struct device_class pvpanic_class = {
	.name = "pvpanic",
	.since = 1,
	.board = 1,
	.size = sizeof(struct pvpanic),
	.guest_offset = sizeof(struct pvpanic),
	.state = &pvpanic_vmstate,
	.regions = pvpanic_regions,
	.nregions = ARRAY_SIZE(pvpanic_regions),
};
