/* SPDX-License-Identifier: MIT */
/* The ACPI tables, read back from guest RAM as an operating system reads them. */
#include "boot_image.h"

#define HEADER_LEN 36

struct acpi_test {
	struct memory mem;
	struct error err;
	uint8_t dsdt[256];
};

static void begin(struct acpi_test *t)
{
	memset(t, 0, sizeof(*t));
	assert_int_equal(memory_create(&t->mem, MEMORY_MIN_BYTES, NULL, NULL, &t->err), 0);
	make_dsdt(t->dsdt, sizeof(t->dsdt));
}

static void end(struct acpi_test *t)
{
	memory_destroy(&t->mem);
}

static void begin_with_tables(struct acpi_test *t, uint32_t cpus)
{
	begin(t);
	if (acpi_write_tables(&t->mem, t->dsdt, sizeof(t->dsdt), cpus, 1, &t->err) < 0)
		fail_msg("acpi_write_tables: %s", t->err.text);
}

static uint64_t get(const struct acpi_test *t, uint64_t gpa, size_t len)
{
	uint64_t value = 0;

	assert_int_equal(memory_read(&t->mem, gpa, &value, len), 0);
	return value;
}

/* A table that is where it may be, with a good checksum; returns its length. */
static uint32_t check_table(const struct acpi_test *t, uint64_t gpa, const char *signature)
{
	uint32_t len = (uint32_t)get(t, gpa + 4, 4);
	const uint8_t *p;

	assert_true(gpa >= ACPI_TABLES_GPA && gpa + len <= ACPI_TABLES_END);
	assert_true(len >= HEADER_LEN);
	p = memory_ptr(&t->mem, gpa, len);
	assert_non_null(p);
	assert_memory_equal(p, signature, 4);
	assert_int_equal(sum_of(p, len), 0);
	return len;
}

/* By way of RSDP and XSDT; the gpa, or 0 where there is no such table. */
static uint64_t find_table(const struct acpi_test *t, const char *signature)
{
	uint64_t xsdt = get(t, ACPI_RSDP_GPA + 24, 8);
	uint32_t len = check_table(t, xsdt, "XSDT");

	assert_int_equal((len - HEADER_LEN) % 8, 0);
	for (uint32_t at = HEADER_LEN; at < len; at += 8) {
		uint64_t gpa = get(t, xsdt + at, 8);

		if (memcmp(memory_ptr(&t->mem, gpa, 4), signature, 4) == 0) {
			check_table(t, gpa, signature);
			return gpa;
		}
	}
	return 0;
}

static void rsdp_is_found_and_sums_up(void **state)
{
	struct acpi_test t;
	const uint8_t *rsdp;

	(void)state;
	begin_with_tables(&t, 1);
	rsdp = memory_ptr(&t.mem, ACPI_RSDP_GPA, 36);
	assert_non_null(rsdp);
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_memory_equal(rsdp + 9, "MOLT  ", 6);
	assert_int_equal(rsdp[15], 2);
	assert_int_equal(sum_of(rsdp, 20), 0);
	assert_int_equal(sum_of(rsdp, 36), 0);
	assert_int_equal(get(&t, ACPI_RSDP_GPA + 20, 4), 36);
	end(&t);
}

static void all_tables_are_listed(void **state)
{
	struct acpi_test t;

	(void)state;
	begin_with_tables(&t, 4);
	assert_int_not_equal(find_table(&t, "FACP"), 0);
	assert_int_not_equal(find_table(&t, "APIC"), 0);
	assert_int_not_equal(find_table(&t, "MCFG"), 0);
	assert_int_equal(find_table(&t, "HPET"), 0);
	end(&t);
}

static void headers_name_the_maker(void **state)
{
	const char *const names[] = { "FACP", "APIC", "MCFG" };
	struct acpi_test t;

	(void)state;
	begin_with_tables(&t, 1);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const uint8_t *p = memory_ptr(&t.mem, find_table(&t, names[i]), HEADER_LEN);

		assert_memory_equal(p + 10, "MOLT  ", 6);
		assert_memory_equal(p + 16, "MOLTVM01", 8);
		assert_memory_equal(p + 28, "MOLT", 4);
	}
	end(&t);
}

/* The tables' contents are those of version 1, until a version differs. */
static void ids_name_the_machine_version(void **state)
{
	struct acpi_test one, twelve;

	(void)state;
	begin_with_tables(&one, 1);
	begin(&twelve);
	assert_int_equal(acpi_write_tables(&twelve.mem, twelve.dsdt, sizeof(twelve.dsdt), 1, 12,
					   &twelve.err),
			 0);
	for (size_t i = 0; i < 2; i++) {
		uint64_t gpa = find_table(&one, i ? "APIC" : "FACP");
		uint8_t *a = memory_ptr(&one.mem, gpa, HEADER_LEN);
		uint8_t *b = memory_ptr(&twelve.mem, gpa, HEADER_LEN);
		uint64_t len = get(&one, gpa + 4, 4);

		assert_int_equal(find_table(&twelve, i ? "APIC" : "FACP"), gpa);
		assert_memory_equal(b + 16, "MOLTVM12", 8);
		assert_memory_equal(a + HEADER_LEN, b + HEADER_LEN, len - HEADER_LEN);
	}
	assert_int_equal(acpi_write_tables(&twelve.mem, twelve.dsdt, sizeof(twelve.dsdt), 1, 0,
					   &twelve.err),
			 -EINVAL);
	assert_int_equal(acpi_write_tables(&twelve.mem, twelve.dsdt, sizeof(twelve.dsdt), 1, 100,
					   &twelve.err),
			 -EINVAL);
	assert_non_null(strstr(twelve.err.text, "machine version 1 to 99, not 100"));
	end(&twelve);
	end(&one);
}

/* ---- FADT: offsets of ACPI 6.3, table 5-33 ---- */

static void fadt_says_what_there_is(void **state)
{
	struct acpi_test t;
	uint64_t fadt;

	(void)state;
	begin_with_tables(&t, 1);
	fadt = find_table(&t, "FACP");
	assert_int_equal(get(&t, fadt + 4, 4), 276);
	assert_int_equal(get(&t, fadt + 8, 1), 6);
	assert_int_equal(get(&t, fadt + 46, 2), 9);      /* SCI_INT */
	assert_int_equal(get(&t, fadt + 48, 4), 0);      /* SMI_CMD */
	assert_int_equal(get(&t, fadt + 56, 4), 0x600);  /* PM1a_EVT_BLK */
	assert_int_equal(get(&t, fadt + 64, 4), 0x604);  /* PM1a_CNT_BLK */
	assert_int_equal(get(&t, fadt + 76, 4), 0);      /* PM_TMR_BLK */
	assert_int_equal(get(&t, fadt + 80, 4), 0);      /* GPE0_BLK */
	assert_int_equal(get(&t, fadt + 88, 1), 4);      /* PM1_EVT_LEN */
	assert_int_equal(get(&t, fadt + 89, 1), 2);      /* PM1_CNT_LEN */
	assert_int_equal(get(&t, fadt + 91, 1), 0);      /* PM_TMR_LEN */
	assert_int_equal(get(&t, fadt + 108, 1), 0x32);  /* CENTURY */
	assert_int_equal(get(&t, fadt + 109, 2), 0x15);  /* legacy devices, no VGA, no ASPM */
	assert_int_equal(get(&t, fadt + 112, 4), 0x465); /* Flags */
	assert_int_equal(get(&t, fadt + 131, 1), 3);     /* 6.3 */
	end(&t);
}

static void fadt_extended_registers(void **state)
{
	struct acpi_test t;
	uint64_t fadt;

	(void)state;
	begin_with_tables(&t, 1);
	fadt = find_table(&t, "FACP");
	/* space, bit width, bit offset, access size; address */
	assert_int_equal(get(&t, fadt + 116, 4), 0x01000801);
	assert_int_equal(get(&t, fadt + 120, 8), 0xcf9);
	assert_int_equal(get(&t, fadt + 128, 1), 0x06);
	assert_int_equal(get(&t, fadt + 148, 4), 0x02002001);
	assert_int_equal(get(&t, fadt + 152, 8), 0x600);
	assert_int_equal(get(&t, fadt + 172, 4), 0x02001001);
	assert_int_equal(get(&t, fadt + 176, 8), 0x604);
	assert_int_equal(get(&t, fadt + 208, 8), 0); /* X_PM_TMR_BLK */
	assert_int_equal(get(&t, fadt + 220, 8), 0); /* X_GPE0_BLK */
	end(&t);
}

static void facs_is_aligned_and_named_once(void **state)
{
	struct acpi_test t;
	uint64_t fadt, facs;

	(void)state;
	begin_with_tables(&t, 254);
	fadt = find_table(&t, "FACP");
	facs = get(&t, fadt + 36, 4);
	assert_int_equal(facs % 64, 0);
	assert_memory_equal(memory_ptr(&t.mem, facs, 64), "FACS", 4);
	assert_int_equal(get(&t, facs + 4, 4), 64);
	assert_int_equal(get(&t, fadt + 132, 8), 0); /* X_FIRMWARE_CTRL */
	end(&t);
}

static void dsdt_is_the_one_given(void **state)
{
	struct acpi_test t;
	uint64_t fadt, dsdt;

	(void)state;
	begin_with_tables(&t, 1);
	fadt = find_table(&t, "FACP");
	dsdt = get(&t, fadt + 40, 4);
	assert_int_equal(get(&t, fadt + 140, 8), dsdt); /* X_DSDT */
	assert_int_equal(check_table(&t, dsdt, "DSDT"), sizeof(t.dsdt));
	assert_memory_equal(memory_ptr(&t.mem, dsdt, sizeof(t.dsdt)), t.dsdt, sizeof(t.dsdt));
	end(&t);
}

/* ---- MADT ---- */

static void check_madt(uint32_t cpus)
{
	const uint8_t tail[] = {
		1, 12, 0,    0, 0x00, 0x00, 0xc0, 0xfe, 0,    0, 0, 0, /* IOAPIC 0 at 0xfec00000 */
		2, 10, 0,    9, 9,    0,    0,    0,    0x0d, 0, /* ISA 9 is GSI 9, active high,
								    level */
		4, 6,  0xff, 0, 0,    1,                         /* NMI at LINT1 of all CPUs */
	};
	struct acpi_test t;
	uint64_t madt, at;

	begin_with_tables(&t, cpus);
	madt = find_table(&t, "APIC");
	assert_int_equal(get(&t, madt + 4, 4), 44 + cpus * 8 + sizeof(tail));
	assert_int_equal(get(&t, madt + 36, 4), 0xfee00000);
	assert_int_equal(get(&t, madt + 40, 4), 1);
	at = madt + 44;
	for (uint32_t i = 0; i < cpus; i++, at += 8) {
		assert_int_equal(get(&t, at, 2), 0x0800);
		assert_int_equal(get(&t, at + 2, 1), i);
		assert_int_equal(get(&t, at + 3, 1), i);
		assert_int_equal(get(&t, at + 4, 4), 1);
	}
	assert_memory_equal(memory_ptr(&t.mem, at, sizeof(tail)), tail, sizeof(tail));
	end(&t);
}

static void madt_lists_every_cpu(void **state)
{
	(void)state;
	check_madt(1);
	check_madt(2);
	check_madt(254);
}

static void mcfg_has_bus_0_alone(void **state)
{
	struct acpi_test t;
	uint64_t mcfg;

	(void)state;
	begin_with_tables(&t, 1);
	mcfg = find_table(&t, "MCFG");
	assert_int_equal(get(&t, mcfg + 4, 4), 60);
	assert_int_equal(get(&t, mcfg + 44, 8), 0xe0000000);
	assert_int_equal(get(&t, mcfg + 52, 2), 0);
	assert_int_equal(get(&t, mcfg + 54, 1), 0);
	assert_int_equal(get(&t, mcfg + 55, 1), 0);
	end(&t);
}

/* ---- refusals ---- */

static void refused(uint32_t cpus, const void *dsdt, size_t len, int code, const char *text)
{
	struct acpi_test t;

	begin(&t);
	if (!dsdt) {
		dsdt = t.dsdt;
		len = sizeof(t.dsdt);
	}
	assert_int_equal(acpi_write_tables(&t.mem, dsdt, len, cpus, 1, &t.err), -code);
	if (!strstr(t.err.text, text))
		fail_msg("expected \"%s\", got \"%s\"", text, t.err.text);
	end(&t);
}

static void cpus_out_of_range(void **state)
{
	(void)state;
	refused(0, NULL, 0, EINVAL, "1 to 254 CPUs, not 0");
	refused(255, NULL, 0, EINVAL, "1 to 254 CPUs, not 255");
	refused(UINT32_MAX, NULL, 0, EINVAL, "not 4294967295");
}

static void damaged_dsdt(void **state)
{
	uint8_t dsdt[64];

	(void)state;
	make_dsdt(dsdt, sizeof(dsdt));
	refused(1, dsdt, 0, EINVAL, "DSDT of 0 bytes");
	refused(1, dsdt, 35, EINVAL, "DSDT of 35 bytes");
	refused(1, dsdt, 63, EINVAL, "DSDT of 63 bytes");
	dsdt[50] ^= 1;
	refused(1, dsdt, sizeof(dsdt), EINVAL, "checksum");
	make_dsdt(dsdt, sizeof(dsdt));
	memcpy(dsdt, "SSDT", 4);
	dsdt[9] = (uint8_t)(dsdt[9] - sum_of(dsdt, sizeof(dsdt)));
	refused(1, dsdt, sizeof(dsdt), EINVAL, "signature");
}

/* The largest DSDT that fits with 254 CPUs, and one byte more. */
static void dsdt_too_long(void **state)
{
	static uint8_t dsdt[ACPI_TABLES_END - ACPI_TABLES_GPA];
	struct acpi_test t;
	uint64_t gpa;
	size_t room;

	(void)state;
	begin_with_tables(&t, 254);
	gpa = get(&t, find_table(&t, "FACP") + 40, 4);
	end(&t);
	room = ACPI_TABLES_END - gpa;
	assert_in_range(room, 120 << 10, sizeof(dsdt));
	make_dsdt(dsdt, room);
	begin(&t);
	assert_int_equal(acpi_write_tables(&t.mem, dsdt, room, 254, 1, &t.err), 0);
	end(&t);
	make_dsdt(dsdt, room + 1);
	refused(254, dsdt, room + 1, ENOSPC, "do not fit into 131072 bytes");
}

static void nothing_is_written_outside_the_area(void **state)
{
	struct acpi_test t;

	(void)state;
	begin_with_tables(&t, 254);
	for (uint64_t gpa = 0; gpa < MEMORY_MIN_BYTES; gpa += 8) {
		if (gpa == ACPI_TABLES_GPA)
			gpa = ACPI_TABLES_END;
		assert_int_equal(get(&t, gpa, 8), 0);
	}
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rsdp_is_found_and_sums_up),
		cmocka_unit_test(all_tables_are_listed),
		cmocka_unit_test(headers_name_the_maker),
		cmocka_unit_test(ids_name_the_machine_version),
		cmocka_unit_test(fadt_says_what_there_is),
		cmocka_unit_test(fadt_extended_registers),
		cmocka_unit_test(facs_is_aligned_and_named_once),
		cmocka_unit_test(dsdt_is_the_one_given),
		cmocka_unit_test(madt_lists_every_cpu),
		cmocka_unit_test(mcfg_has_bus_0_alone),
		cmocka_unit_test(cpus_out_of_range),
		cmocka_unit_test(damaged_dsdt),
		cmocka_unit_test(dsdt_too_long),
		cmocka_unit_test(nothing_is_written_outside_the_area),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
