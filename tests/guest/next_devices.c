/* SPDX-License-Identifier: MIT */
/*
 * The class table of a release to come: all classes of this one and, from the machine version after
 * this one's newest on, one device more. test_compat.py updates from and to a molt with this table.
 */
#include <assert.h>
#include <string.h>

#include "../molts/this_devices.h"

struct scratch_guest {
	uint8_t value;
};

static_assert(sizeof(struct scratch_guest) == 1, "no padding: every byte is saved");

struct scratch {
	struct device dev;
	struct scratch_guest guest;
};

static const struct vmstate_field scratch_fields[] = { VMSTATE_U8(struct scratch_guest, value),
						       VMSTATE_END };

static const struct vmstate scratch_vmstate = {
	.name = "scratch",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct scratch_guest),
	.fields = scratch_fields,
};

static void scratch_reset(struct device *dev)
{
	((struct scratch *)dev)->guest.value = 0x5a;
}

static struct device_class scratch_class = {
	.name = "scratch",
	.board = 1,
	.size = sizeof(struct scratch),
	.guest_offset = offsetof(struct scratch, guest),
	.guest_size = sizeof(struct scratch_guest),
	.state = &scratch_vmstate,
	.reset = scratch_reset,
};

static const struct device_class *classes[THIS_CLASSES + 2];
struct this_model machine_model; /* const to all others */

__attribute__((constructor)) static void make(void)
{
	machine_model = (struct this_model){ .classes = classes, .newest = this_model.newest + 1 };
	scratch_class.since = machine_model.newest;
	memcpy(classes, this_classes, sizeof(this_classes));
	classes[THIS_CLASSES] = &scratch_class;
}
