/* SPDX-License-Identifier: MIT */
/*
 * The address map that the guest is told is fixed but for the size of RAM:
 *
 *	0		RAM, the boot data in it
 *	0x9fc00		reserved: what a PC has for EBDA, VGA and BIOS; from 0xe0000 the ACPI tables
 *	0x100000	RAM, up to 3 GiB
 *	0xc0000000	PCI windows, not listed; the host bridge in the DSDT describes them
 *	0xe0000000	reserved: ECAM. Linux does not use an ECAM that nobody reserved.
 *	0xfec00000	reserved: IOAPIC
 *	0xfee00000	reserved: local APICs
 *	0xfffbc000	reserved: KVM's identity-map page and real-mode TSS (Intel hosts need them)
 *	0x100000000	RAM above 3 GiB
 *
 * The tables' area is of type reserved, not "ACPI reclaimable", since the FACS is in it, which ACPI
 * wants out of what the OS may use as memory (ACPI 6.3, 5.2.10).
 */
#include <molt/base/fd.h>
#include <molt/boot/acpi.h>
#include <molt/boot/image.h>
#include <molt/boot/memory_map.h>

#define KVM_PAGES_GPA 0xfffbc000ull
#define KVM_PAGES_SIZE 0x4000ull

unsigned int boot_memory_map(uint64_t ram, struct boot_range map[BOOT_MAP_MAX])
{
	uint64_t low = ram < MEMORY_LOW_MAX ? ram : MEMORY_LOW_MAX;
	const struct boot_range all[] = {
		{ 0, BOOT_LOW_RAM_END, BOOT_RANGE_RAM },
		{ BOOT_LOW_RAM_END, ACPI_TABLES_END - BOOT_LOW_RAM_END, BOOT_RANGE_RESERVED },
		{ BOOT_KERNEL_MIN_GPA, low - BOOT_KERNEL_MIN_GPA, BOOT_RANGE_RAM },
		{ ACPI_ECAM_GPA, ACPI_ECAM_SIZE, BOOT_RANGE_RESERVED },
		{ ACPI_IOAPIC_GPA, BOOT_PAGE_SIZE, BOOT_RANGE_RESERVED },
		{ ACPI_LAPIC_GPA, BOOT_PAGE_SIZE, BOOT_RANGE_RESERVED },
		{ KVM_PAGES_GPA, KVM_PAGES_SIZE, BOOT_RANGE_RESERVED },
		{ MEMORY_HIGH_BASE, ram - low, BOOT_RANGE_RAM },
	};
	unsigned int n = 0;

	_Static_assert(ARRAY_SIZE(all) == BOOT_MAP_MAX, "the map holds all ranges");
	_Static_assert(ACPI_TABLES_END == BOOT_KERNEL_MIN_GPA, "no gap between tables and RAM");
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (all[i].size > 0)
			map[n++] = all[i];
	}
	return n;
}
