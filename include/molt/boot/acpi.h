/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables (ACPI 6.3). They say what the machine is made of, so the
 * numbers here are part of the guest ABI: they never change for a machine version once released.
 */
#ifndef MOLT_BOOT_ACPI_H
#define MOLT_BOOT_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/vm/memory.h>

/* Where the tables are: the area that a guest without a pointer to the RSDP searches (5.2.5.1). */
#define ACPI_TABLES_GPA 0xe0000ull
#define ACPI_TABLES_END 0x100000ull
#define ACPI_RSDP_GPA ACPI_TABLES_GPA

#define ACPI_MAX_CPUS 254u /* xAPIC ids 0..253 */

/* Fixed hardware (4.8), implemented by the power device. */
#define ACPI_PM1A_EVT_PORT 0x600
#define ACPI_PM1A_EVT_LEN 4
#define ACPI_PM1A_CNT_PORT 0x604
#define ACPI_PM1A_CNT_LEN 2
#define ACPI_SCI_IRQ 9
#define ACPI_RESET_PORT 0xcf9
#define ACPI_RESET_VALUE 0x06
#define ACPI_CMOS_CENTURY 0x32

#define ACPI_LAPIC_GPA 0xfee00000u
#define ACPI_IOAPIC_GPA 0xfec00000u
#define ACPI_ECAM_GPA 0xe0000000ull
#define ACPI_ECAM_SIZE 0x100000ull /* bus 0 alone */

/*
 * Writes RSDP, XSDT, FADT, FACS, MADT, MCFG and a copy of the DSDT into guest RAM from
 * ACPI_TABLES_GPA on. cpus: 1..ACPI_MAX_CPUS; the CPU with index n has APIC id and processor UID n.
 * machine_version, 1..99, is in the OEM table ids.
 * -EINVAL for cpus or machine_version out of range or a DSDT whose header does not fit its bytes,
 * -ENOSPC where the tables need more room than there is up to ACPI_TABLES_END.
 */
int acpi_write_tables(struct memory *mem, const void *dsdt, size_t dsdt_len, uint32_t cpus,
		      uint32_t machine_version, struct error *err);

#endif
