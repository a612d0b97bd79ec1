/* SPDX-License-Identifier: MIT */
/*
 * The class table: one line a device. The order is that of creation and of loading; the irqchip
 * comes first, for KVM makes vCPUs with a LAPIC only after it.
 */
#include <molt/hw/classes.h>
#include <molt/pci/classes.h>
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
	NULL
};
