/* SPDX-License-Identifier: MIT */
/*
 * The device classes of this room, for the class table in src/devices.c. What each one shows to the
 * guest is written at the top of its file and in docs/guest-abi.md.
 */
#ifndef MOLT_HW_CLASSES_H
#define MOLT_HW_CLASSES_H

#include <molt/vm/device.h>

/* In-kernel devices: KVM emulates them, these carry their state. */
extern const struct device_class irqchip_class; /* PIC, IOAPIC, interrupt routes */
extern const struct device_class pit_class;     /* i8254 timer and port 0x61 */
extern const struct device_class clock_class;   /* kvmclock */

/* Emulated here. */
extern const struct device_class serial_class;  /* COM1: ports 0x3f8-0x3ff, IRQ 4 */
extern const struct device_class rtc_class;     /* CMOS clock: ports 0x70-0x71, IRQ 8 */
extern const struct device_class i8042_class;   /* reset by keyboard controller: 0x60, 0x64 */
extern const struct device_class power_class;   /* ACPI PM1a and reset register, IRQ 9 */
extern const struct device_class pvpanic_class; /* guest panic notification: port 0x505 */

#endif
