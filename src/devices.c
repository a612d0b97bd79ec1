/* SPDX-License-Identifier: MIT */
/*
 * The class table: one line a device. The order is that of creation and of loading; the irqchip
 * comes first, for KVM makes vCPUs with a LAPIC only after it.
 */
#include <molt/hw/classes.h>
#include <molt/pci/classes.h>
#include <molt/virtio/classes.h>
#include <molt/vm/device.h>

const struct device_class *const device_classes[] = {
	&irqchip_class,
	&pit_class,
	&clock_class,
	&serial_class,
	&rtc_class,
	&i8042_class,
	&power_class,
	&pvpanic_class,
	&pci_host_class,
	&virtio_rng_class,
	&disk_class,
	&vhost_user_class,
	NULL
};

/*
 * A class that is added once a release is out has `since` one above that release's newest machine
 * version, and so has this: docs/state-format.md, "A new device class".
 */
const struct machine_model machine_model = { .classes = device_classes, .newest = 2 };
