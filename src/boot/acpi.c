/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables, built in guest RAM in the order RSDP, XSDT, FADT, FACS, MADT, MCFG, DSDT.
 * Section numbers are those of ACPI 6.3.
 *
 * The machine has fixed hardware (PM1 event and control blocks: power button, S5), but no PM timer,
 * no general purpose events and no SMI: it is in ACPI mode from the start. KVM's clock and the TSC
 * are better timers, and nothing here would use an event register.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <molt/boot/acpi.h>

#define TABLES_SIZE (ACPI_TABLES_END - ACPI_TABLES_GPA)
#define TABLE_ALIGN 16u
#define FACS_ALIGN 64u

#define OEM_ID "MOLT  "
#define OEM_TABLE_ID "MOLTVM%02u" /* machine version */
#define MAX_VERSION 99u
#define CREATOR_ID "MOLT"

struct table_header { /* 5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct rsdp { /* 5.2.5.3 */
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));

#define RSDP_V1_LEN 20

struct xsdt { /* 5.2.8 */
	struct table_header header;
	uint64_t entries[3];
} __attribute__((packed));

struct gas { /* generic address structure, 5.2.3.2 */
	uint8_t space;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size;
	uint64_t address;
} __attribute__((packed));

#define GAS_IO 1
#define GAS_ACCESS_BYTE 1
#define GAS_ACCESS_WORD 2

struct fadt { /* 5.2.9 */
	struct table_header header;
	uint32_t firmware_ctrl;
	uint32_t dsdt;
	uint8_t reserved1;
	uint8_t preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable;
	uint8_t acpi_disable;
	uint8_t s4bios_req;
	uint8_t pstate_cnt;
	uint32_t pm1a_evt_blk;
	uint32_t pm1b_evt_blk;
	uint32_t pm1a_cnt_blk;
	uint32_t pm1b_cnt_blk;
	uint32_t pm2_cnt_blk;
	uint32_t pm_tmr_blk;
	uint32_t gpe0_blk;
	uint32_t gpe1_blk;
	uint8_t pm1_evt_len;
	uint8_t pm1_cnt_len;
	uint8_t pm2_cnt_len;
	uint8_t pm_tmr_len;
	uint8_t gpe0_blk_len;
	uint8_t gpe1_blk_len;
	uint8_t gpe1_base;
	uint8_t cst_cnt;
	uint16_t p_lvl2_lat;
	uint16_t p_lvl3_lat;
	uint16_t flush_size;
	uint16_t flush_stride;
	uint8_t duty_offset;
	uint8_t duty_width;
	uint8_t day_alrm;
	uint8_t mon_alrm;
	uint8_t century;
	uint16_t iapc_boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_revision;
	uint64_t x_firmware_ctrl;
	uint64_t x_dsdt;
	struct gas x_pm1a_evt_blk;
	struct gas x_pm1b_evt_blk;
	struct gas x_pm1a_cnt_blk;
	struct gas x_pm1b_cnt_blk;
	struct gas x_pm2_cnt_blk;
	struct gas x_pm_tmr_blk;
	struct gas x_gpe0_blk;
	struct gas x_gpe1_blk;
	struct gas sleep_control_reg;
	struct gas sleep_status_reg;
	uint64_t hypervisor_vendor;
} __attribute__((packed));

#define FADT_REVISION 6
#define FADT_MINOR_REVISION 3

/* Fixed feature flags, table 5-34. Power button: bit 4 clear means that it is fixed hardware. */
#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_SLP_BUTTON (1u << 5) /* no fixed sleep button */
#define FADT_FIX_RTC (1u << 6)    /* no RTC wake status in PM1 */
#define FADT_RESET_REG_SUP (1u << 10)

/*
 * IA-PC boot architecture flags, table 5-35. The 8042 bit stays clear although port 0x64 resets the
 * machine: there is no keyboard to probe for.
 */
#define BOOT_ARCH_LEGACY_DEVICES (1u << 0)
#define BOOT_ARCH_VGA_NOT_PRESENT (1u << 2)
#define BOOT_ARCH_NO_ASPM (1u << 4)

/* Worst-case latencies that say: there is no C2 and no C3 (5.2.9). */
#define NO_C2_LATENCY 0xfff
#define NO_C3_LATENCY 0xfff

struct facs { /* 5.2.10; it has no checksum */
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
} __attribute__((packed));

#define FACS_VERSION 2

struct madt { /* 5.2.12 */
	struct table_header header;
	uint32_t lapic;
	uint32_t flags;
} __attribute__((packed));

#define MADT_REVISION 5
#define MADT_PCAT_COMPAT 1u /* there are 8259 PICs to be masked */

enum madt_type {
	MADT_LOCAL_APIC = 0,
	MADT_IOAPIC = 1,
	MADT_SOURCE_OVERRIDE = 2,
	MADT_LOCAL_APIC_NMI = 4,
};

struct madt_local_apic {
	uint8_t type;
	uint8_t length;
	uint8_t uid;
	uint8_t apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type;
	uint8_t length;
	uint8_t id;
	uint8_t reserved;
	uint32_t address;
	uint32_t gsi_base;
} __attribute__((packed));

struct madt_override {
	uint8_t type;
	uint8_t length;
	uint8_t bus;
	uint8_t source;
	uint32_t gsi;
	uint16_t flags;
} __attribute__((packed));

struct madt_lapic_nmi {
	uint8_t type;
	uint8_t length;
	uint8_t uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

#define LAPIC_ENABLED 1u
#define MPS_ACTIVE_HIGH 1u
#define MPS_LEVEL (3u << 2)
#define UID_ALL 0xff

/* Everything of the MADT behind the list of local APICs. */
struct madt_tail {
	struct madt_ioapic ioapic;
	struct madt_override sci;
	struct madt_lapic_nmi nmi;
} __attribute__((packed));

struct mcfg { /* PCI Firmware Specification 3.2, 4.1.2 */
	struct table_header header;
	uint64_t reserved1;
	uint64_t base;
	uint16_t segment;
	uint8_t start_bus;
	uint8_t end_bus;
	uint32_t reserved2;
} __attribute__((packed));

_Static_assert(sizeof(struct table_header) == 36, "ACPI 5.2.6");
_Static_assert(sizeof(struct rsdp) == 36, "ACPI 5.2.5.3");
_Static_assert(sizeof(struct fadt) == 276, "ACPI 5.2.9");
_Static_assert(offsetof(struct fadt, flags) == 112, "ACPI 5.2.9");
_Static_assert(offsetof(struct fadt, x_dsdt) == 140, "ACPI 5.2.9");
_Static_assert(sizeof(struct facs) == 64, "ACPI 5.2.10");
_Static_assert(sizeof(struct madt) == 44, "ACPI 5.2.12");
_Static_assert(sizeof(struct madt_tail) == 12 + 10 + 6, "ACPI 5.2.12");
_Static_assert(sizeof(struct mcfg) == 60, "PCI firmware 4.1.2");

/* The tables' area, filled from its start. */
struct area {
	uint8_t *base;
	uint64_t used;
};

/* Room for a table, or NULL where the area is full; *gpa is where the guest finds it. */
static void *take(struct area *area, uint64_t len, uint64_t align, uint32_t *gpa)
{
	uint64_t start = (area->used + align - 1) & ~(align - 1);

	if (start > TABLES_SIZE || len > TABLES_SIZE - start)
		return NULL;
	area->used = start + len;
	*gpa = (uint32_t)(ACPI_TABLES_GPA + start);
	return area->base + start;
}

static uint8_t byte_sum(const void *data, size_t len)
{
	const uint8_t *p = data;
	unsigned int sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += p[i];
	return (uint8_t)sum;
}

static uint8_t checksum(const void *data, size_t len)
{
	return (uint8_t)(0x100u - byte_sum(data, len));
}

/* Completes a table whose contents are all there. */
static void finish(struct table_header *h, const char *signature, size_t len, uint8_t revision,
		   uint32_t version)
{
	char id[sizeof(OEM_TABLE_ID)];

	snprintf(id, sizeof(id), OEM_TABLE_ID, version % (MAX_VERSION + 1));
	memcpy(h->signature, signature, sizeof(h->signature));
	h->length = (uint32_t)len;
	h->revision = revision;
	memcpy(h->oem_id, OEM_ID, sizeof(h->oem_id));
	memcpy(h->oem_table_id, id, sizeof(h->oem_table_id));
	h->oem_revision = 1;
	memcpy(h->creator_id, CREATOR_ID, sizeof(h->creator_id));
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = checksum(h, len);
}

static void fill_rsdp(struct rsdp *rsdp, uint32_t xsdt)
{
	*rsdp = (struct rsdp){ .revision = 2, .length = sizeof(*rsdp), .xsdt = xsdt };
	memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
	memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
	rsdp->checksum = checksum(rsdp, RSDP_V1_LEN);
	rsdp->extended_checksum = checksum(rsdp, sizeof(*rsdp));
}

static struct gas io_register(uint16_t port, uint8_t bits, uint8_t access)
{
	return (struct gas){ .space = GAS_IO,
			     .bit_width = bits,
			     .access_size = access,
			     .address = port };
}

/* The FACS is named by its 32-bit field alone: 5.2.9 wants one of the two to be zero. */
static void fill_fadt(struct fadt *fadt, uint32_t facs, uint32_t dsdt, uint32_t version)
{
	*fadt = (struct fadt){
		.firmware_ctrl = facs,
		.dsdt = dsdt,
		.sci_int = ACPI_SCI_IRQ,
		.pm1a_evt_blk = ACPI_PM1A_EVT_PORT,
		.pm1a_cnt_blk = ACPI_PM1A_CNT_PORT,
		.pm1_evt_len = ACPI_PM1A_EVT_LEN,
		.pm1_cnt_len = ACPI_PM1A_CNT_LEN,
		.p_lvl2_lat = NO_C2_LATENCY,
		.p_lvl3_lat = NO_C3_LATENCY,
		.century = ACPI_CMOS_CENTURY,
		.iapc_boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_VGA_NOT_PRESENT |
				  BOOT_ARCH_NO_ASPM,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
			 FADT_RESET_REG_SUP,
		.reset_reg = io_register(ACPI_RESET_PORT, 8, GAS_ACCESS_BYTE),
		.reset_value = ACPI_RESET_VALUE,
		.minor_revision = FADT_MINOR_REVISION,
		.x_dsdt = dsdt,
		.x_pm1a_evt_blk = io_register(ACPI_PM1A_EVT_PORT, ACPI_PM1A_EVT_LEN * 8,
					      GAS_ACCESS_WORD),
		.x_pm1a_cnt_blk = io_register(ACPI_PM1A_CNT_PORT, ACPI_PM1A_CNT_LEN * 8,
					      GAS_ACCESS_WORD),
	};
	finish(&fadt->header, "FACP", sizeof(*fadt), FADT_REVISION, version);
}

static void fill_facs(struct facs *facs)
{
	*facs = (struct facs){ .length = sizeof(*facs), .version = FACS_VERSION };
	memcpy(facs->signature, "FACS", sizeof(facs->signature));
}

/*
 * Interrupts are wired one to one, IRQ n to IOAPIC pin n, as in KVM's default routing; so the only
 * override is the SCI's, which unlike other ISA interrupts is level-triggered.
 */
static void fill_madt_tail(struct madt_tail *tail)
{
	*tail = (struct madt_tail){
		.ioapic = { .type = MADT_IOAPIC,
			    .length = sizeof(tail->ioapic),
			    .address = ACPI_IOAPIC_GPA },
		.sci = { .type = MADT_SOURCE_OVERRIDE,
			 .length = sizeof(tail->sci),
			 .source = ACPI_SCI_IRQ,
			 .gsi = ACPI_SCI_IRQ,
			 .flags = MPS_ACTIVE_HIGH | MPS_LEVEL },
		.nmi = { .type = MADT_LOCAL_APIC_NMI,
			 .length = sizeof(tail->nmi),
			 .uid = UID_ALL,
			 .lint = 1 },
	};
}

static size_t madt_size(uint32_t cpus)
{
	return sizeof(struct madt) + cpus * sizeof(struct madt_local_apic) +
	       sizeof(struct madt_tail);
}

static void fill_madt(struct madt *madt, uint32_t cpus, uint32_t version)
{
	struct madt_local_apic *lapic = (void *)(madt + 1);

	*madt = (struct madt){ .lapic = ACPI_LAPIC_GPA, .flags = MADT_PCAT_COMPAT };
	for (uint32_t i = 0; i < cpus; i++)
		lapic[i] = (struct madt_local_apic){ .type = MADT_LOCAL_APIC,
						     .length = sizeof(*lapic),
						     .uid = (uint8_t)i,
						     .apic_id = (uint8_t)i,
						     .flags = LAPIC_ENABLED };
	fill_madt_tail((void *)(lapic + cpus));
	finish(&madt->header, "APIC", madt_size(cpus), MADT_REVISION, version);
}

static void fill_mcfg(struct mcfg *mcfg, uint32_t version)
{
	*mcfg = (struct mcfg){ .base = ACPI_ECAM_GPA };
	finish(&mcfg->header, "MCFG", sizeof(*mcfg), 1, version);
}

static void fill_xsdt(struct xsdt *xsdt, uint32_t fadt, uint32_t madt, uint32_t mcfg,
		      uint32_t version)
{
	*xsdt = (struct xsdt){ .entries = { fadt, madt, mcfg } };
	finish(&xsdt->header, "XSDT", sizeof(*xsdt), 1, version);
}

static int check_arguments(const void *dsdt, size_t len, uint32_t cpus, uint32_t version,
			   struct error *err)
{
	struct table_header h = { .length = 0 };

	if (cpus == 0 || cpus > ACPI_MAX_CPUS)
		return err_set(err, EINVAL,
			       "the ACPI tables can describe 1 to %u CPUs, not "
			       "%" PRIu32,
			       ACPI_MAX_CPUS, cpus);
	if (version == 0 || version > MAX_VERSION)
		return err_set(err, EINVAL,
			       "the ACPI tables can name machine version 1 to %u, not "
			       "%" PRIu32,
			       MAX_VERSION, version);
	if (len >= sizeof(h))
		memcpy(&h, dsdt, sizeof(h));
	if (memcmp(h.signature, "DSDT", sizeof(h.signature)) != 0 || h.length != len ||
	    byte_sum(dsdt, len) != 0)
		return err_set(err, EINVAL,
			       "the DSDT of %zu bytes is damaged: signature, length "
			       "(%" PRIu32 ") or checksum is wrong",
			       len, h.length);
	return 0;
}

int acpi_write_tables(struct memory *mem, const void *dsdt, size_t dsdt_len, uint32_t cpus,
		      uint32_t version, struct error *err)
{
	uint32_t rsdp_gpa, xsdt_gpa, fadt_gpa, facs_gpa, madt_gpa, mcfg_gpa, dsdt_gpa;
	struct area area = { .base = memory_ptr(mem, ACPI_TABLES_GPA, TABLES_SIZE) };
	void *rsdp, *xsdt, *fadt, *facs, *madt, *mcfg, *dsdt_copy;
	int ret;

	ret = check_arguments(dsdt, dsdt_len, cpus, version, err);
	if (ret < 0)
		return ret;
	if (!area.base)
		return err_set(err, ENOMEM, "no guest RAM for the ACPI tables at 0x%llx",
			       ACPI_TABLES_GPA);
	rsdp = take(&area, sizeof(struct rsdp), TABLE_ALIGN, &rsdp_gpa);
	xsdt = take(&area, sizeof(struct xsdt), TABLE_ALIGN, &xsdt_gpa);
	fadt = take(&area, sizeof(struct fadt), TABLE_ALIGN, &fadt_gpa);
	facs = take(&area, sizeof(struct facs), FACS_ALIGN, &facs_gpa);
	madt = take(&area, madt_size(cpus), TABLE_ALIGN, &madt_gpa);
	mcfg = take(&area, sizeof(struct mcfg), TABLE_ALIGN, &mcfg_gpa);
	dsdt_copy = take(&area, dsdt_len, TABLE_ALIGN, &dsdt_gpa);
	if (!rsdp || !xsdt || !fadt || !facs || !madt || !mcfg || !dsdt_copy)
		return err_set(err, ENOSPC,
			       "the ACPI tables, with a DSDT of %zu bytes and %" PRIu32
			       " CPUs, do not fit into %llu bytes at 0x%llx",
			       dsdt_len, cpus, TABLES_SIZE, ACPI_TABLES_GPA);
	memcpy(dsdt_copy, dsdt, dsdt_len);
	fill_mcfg(mcfg, version);
	fill_madt(madt, cpus, version);
	fill_facs(facs);
	fill_fadt(fadt, facs_gpa, dsdt_gpa, version);
	fill_xsdt(xsdt, fadt_gpa, madt_gpa, mcfg_gpa, version);
	fill_rsdp(rsdp, xsdt_gpa);
	return 0;
}
