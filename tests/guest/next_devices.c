/* SPDX-License-Identifier: MIT */
/*
 * The class table of a release to come: all classes of this one (MOLT_CLASSES, which meson.build
 * reads from src/devices.c) and, from the machine version after MOLT_NEWEST on, one device more.
 * test_compat.py updates from and to a molt with this table.
 */
#include <assert.h>

#include <molt/hw/classes.h>
#include <molt/pci/classes.h>
#include <molt/vm/device.h>

struct scratch_guest {
	uint8_t value;
};

static_assert(sizeof(struct scratch_guest) == 1, "no padding: every byte is saved");

struct scratch {
	struct device dev;
	struct scratch_guest guest;
};

static const struct vmstate_field scratch_fields[] = {
	VMSTATE_U8(struct scratch_guest, value),
	VMSTATE_END
};

static const struct vmstate scratch_vmstate = {
	.name = "scratch", .version = 1, .min_version = 1, .size = sizeof(struct scratch_guest),
	.fields = scratch_fields,
};

static void scratch_reset(struct device *dev)
{
	((struct scratch *)dev)->guest.value = 0x5a;
}

static const struct device_class scratch_class = {
	.name = "scratch",
	.since = MOLT_NEWEST + 1,
	.size = sizeof(struct scratch),
	.guest_offset = offsetof(struct scratch, guest),
	.guest_size = sizeof(struct scratch_guest),
	.state = &scratch_vmstate,
	.reset = scratch_reset,
};

const struct device_class *const device_classes[] = { MOLT_CLASSES, &scratch_class, NULL };

const struct machine_model machine_model = {
	.classes = device_classes, .newest = MOLT_NEWEST + 1,
};
