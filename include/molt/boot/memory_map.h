/* SPDX-License-Identifier: MIT */
/* The physical address map that a guest is told; the same by every boot protocol. */
#ifndef MOLT_BOOT_MEMORY_MAP_H
#define MOLT_BOOT_MEMORY_MAP_H

#include <stdint.h>

/* One range of the guest's physical address map, which is both e820 and PVH's memmap. */
struct boot_range {
	uint64_t gpa;
	uint64_t size;
	uint32_t type;
};

/* The types' numbers are the same in e820 (ACPI 6.3, table 15-374) and in PVH's memmap. */
#define BOOT_RANGE_RAM 1u
#define BOOT_RANGE_RESERVED 2u

#define BOOT_MAP_MAX 8

/*
 * The map of a machine with ram bytes of RAM (MEMORY_MIN_BYTES..MEMORY_MAX_BYTES), by ascending
 * gpa, without overlaps; returns the number of ranges.
 */
unsigned int boot_memory_map(uint64_t ram, struct boot_range map[BOOT_MAP_MAX]);

#endif
