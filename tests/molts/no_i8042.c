/* SPDX-License-Identifier: MIT */
/* A molt without one device of this one: what it is sent, it cannot take. */
#include <string.h>

#include "this_devices.h"

static const struct device_class *classes[THIS_CLASSES];
struct this_model machine_model; /* const to all others */

__attribute__((constructor)) static void make(void)
{
	size_t n = 0;

	for (size_t i = 0; i < THIS_CLASSES; i++)
		if (strcmp(this_classes[i]->name, "i8042") != 0)
			classes[n++] = this_classes[i];
	machine_model = (struct this_model){ .classes = classes, .newest = this_model.newest };
}
