/* SPDX-License-Identifier: MIT */
/* Linux bzImage: where everything goes, and every way to be refused. */
#include "boot_image.h"

static void begin_with(struct boot_test *t, uint64_t ram, struct bz_file *bz)
{
	test_begin(t, ram, bz_fd(bz, BZ_FILE_LEN));
}

static struct boot_params loaded_params(const struct boot_test *t)
{
	struct boot_params bp;

	assert_int_equal(memory_read(&t->mem, t->entry.params, &bp, sizeof(bp)), 0);
	return bp;
}

/* ---- what is placed where ---- */

static void kernel_goes_to_its_preferred_address(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_int_equal(t.entry.mode, BOOT_LINUX64);
	assert_int_equal(t.entry.rip, BZ_LOAD + 0x200);
	assert_pattern(&t, BZ_LOAD, BZ_PAYLOAD_LEN, BZ_PAYLOAD_OFF);
	test_end(&t);
}

static void boot_params_are_completed(void **state)
{
	struct boot_params bp;
	struct boot_test t;
	struct bz_file bz;
	struct screen_info none = { 0 };

	(void)state;
	bz_make(&bz);
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	bp = loaded_params(&t);
	assert_memory_equal(&bp.screen_info, &none, sizeof(none));
	assert_int_equal(bp.sentinel, 0);
	assert_int_equal(bp.hdr.header, 0x53726448);
	assert_int_equal(bp.hdr.version, 0x020f);
	assert_int_equal(bp.hdr.init_size, BZ_INIT_SIZE);
	assert_int_equal(bp.hdr.type_of_loader, 0xff);
	assert_int_equal(bp.hdr.setup_data, 0);
	assert_int_equal(bp.hdr.ramdisk_image, 0);
	assert_int_equal(bp.hdr.ramdisk_size, 0);
	assert_int_equal(bp.acpi_rsdp_addr, ACPI_RSDP_GPA);
	assert_string_equal(ram_at(&t, bp.hdr.cmd_line_ptr, 14), "console=ttyS0");
	test_end(&t);
}

static void bytes_behind_the_header_are_not_copied(void **state)
{
	const uint8_t zeroes[0x290 - 0x26c] = { 0 };
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_memory_equal(ram_at(&t, t.entry.params + 0x26c, sizeof(zeroes)), zeroes,
			    sizeof(zeroes));
	test_end(&t);
}

static void fields_newer_than_ours_are_copied(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.jump = 0x7feb; /* up to 0x281 */
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_pattern(&t, t.entry.params + 0x26c, 0x281 - 0x26c, 0x26c);
	assert_int_equal(*(const uint8_t *)ram_at(&t, t.entry.params + 0x281, 1), 0);
	test_end(&t);
}

static void header_cannot_reach_beyond_its_room(void **state)
{
	const uint8_t zeroes[0x2d0 - 0x290] = { 0 };
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.jump = 0xffeb; /* up to 0x301, over the e820 table */
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_memory_equal(ram_at(&t, t.entry.params + 0x290, sizeof(zeroes)), zeroes,
			    sizeof(zeroes));
	test_end(&t);
}

static void no_rsdp_field_before_2_14(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.version = 0x020d;
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_int_equal(loaded_params(&t).acpi_rsdp_addr, 0);
	test_end(&t);
}

static void relocatable_kernel_is_aligned(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.pref_address = 0x1000;
	bz.hdr.kernel_alignment = 0x400000;
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_int_equal(t.entry.rip, 0x400000 + 0x200);
	assert_pattern(&t, 0x400000, BZ_PAYLOAD_LEN, BZ_PAYLOAD_OFF);
	test_end(&t);
}

static void fixed_kernel_is_not_moved(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.relocatable_kernel = 0;
	bz.hdr.kernel_alignment = 0;
	bz.hdr.pref_address = 0x123000;
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_int_equal(t.entry.rip, 0x123000 + 0x200);
	test_end(&t);
}

static void zero_setup_sects_mean_four(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.setup_sects = 0;
	bz.hdr.syssize -= 512 / 16;
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	assert_pattern(&t, BZ_LOAD, BZ_PAYLOAD_LEN - 512, 5 * 512);
	test_end(&t);
}

static void signature_behind_the_kernel_is_welcome(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.syssize -= 0x100;
	begin_with(&t, MIB(256), &bz);
	assert_loads(&t);
	test_end(&t);
}

static void cmdline_may_be_missing(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_with(&t, MIB(256), &bz);
	t.src.cmdline = NULL;
	assert_loads(&t);
	assert_string_equal(ram_at(&t, loaded_params(&t).hdr.cmd_line_ptr, 1), "");
	test_end(&t);
}

static void cmdline_may_fill_its_size(void **state)
{
	char line[BZ_CMDLINE_SIZE + 1];
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	memset(line, 'x', BZ_CMDLINE_SIZE);
	line[BZ_CMDLINE_SIZE] = '\0';
	begin_with(&t, MIB(256), &bz);
	t.src.cmdline = line;
	assert_loads(&t);
	assert_string_equal(ram_at(&t, loaded_params(&t).hdr.cmd_line_ptr, sizeof(line)), line);
	test_end(&t);
}

/* ---- the address map ---- */

static void check_e820(uint64_t ram, const struct boot_e820_entry *want, unsigned int n)
{
	struct boot_params bp;
	struct boot_test t;
	struct bz_file bz;

	bz_make(&bz);
	begin_with(&t, ram, &bz);
	assert_loads(&t);
	bp = loaded_params(&t);
	assert_int_equal(bp.e820_entries, n);
	assert_memory_equal(bp.e820_table, want, n * sizeof(*want));
	test_end(&t);
}

#define E820_LOW \
	{ 0, 0x9fc00, 1 }, \
	{ \
		0x9fc00, 0x60400, 2 \
	}
#define E820_HOLE \
	{ 0xe0000000, 0x100000, 2 }, { 0xfec00000, 0x1000, 2 }, { 0xfee00000, 0x1000, 2 }, \
	{ \
		0xfffbc000, 0x4000, 2 \
	}

static void e820_at_256_mib(void **state)
{
	const struct boot_e820_entry want[] = {
		E820_LOW,
		{ 0x100000, 0xff00000, 1 },
		E820_HOLE,
	};

	(void)state;
	check_e820(MIB(256), want, ARRAY_SIZE(want));
}

static void e820_at_3_gib(void **state)
{
	const struct boot_e820_entry want[] = {
		E820_LOW,
		{ 0x100000, 0xbff00000, 1 },
		E820_HOLE,
	};

	(void)state;
	check_e820(GIB(3), want, ARRAY_SIZE(want));
}

static void e820_at_5_gib(void **state)
{
	const struct boot_e820_entry want[] = {
		E820_LOW,
		{ 0x100000, 0xbff00000, 1 },
		E820_HOLE,
		{ 0x100000000, 0x80000000, 1 },
	};

	(void)state;
	check_e820(GIB(5), want, ARRAY_SIZE(want));
}

/* ---- refusals ---- */

static void refused(struct bz_file *bz, uint64_t ram, int code, const char *text)
{
	struct boot_test t;

	begin_with(&t, ram, bz);
	assert_refused(&t, code, "test-kernel", text);
	test_end(&t);
}

static void every_truncation_is_refused(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	test_begin(&t, MIB(64), -1);
	for (size_t len = 1; len < BZ_FILE_LEN; len += len < 0x900 ? 1 : 97) {
		t.src.kernel_fd = bz_fd(&bz, len);
		assert_refused(&t, ENOEXEC, "test-kernel", "");
		fd_close(&t.src.kernel_fd);
	}
	test_end(&t);
}

static void truncation_is_told_with_both_sizes(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	test_begin(&t, MIB(64), bz_fd(&bz, BZ_FILE_LEN - 1));
	assert_refused(&t, ENOEXEC, "make 14336 bytes", "the file has 14335");
	test_end(&t);
}

static void kernel_without_an_entry(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.syssize = 0;
	test_begin(&t, MIB(64), bz_fd(&bz, BZ_PAYLOAD_OFF + 0x200));
	assert_refused(&t, ENOEXEC, "test-kernel", "truncated");
	test_end(&t);
}

static void bad_magic(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.header ^= 1;
	refused(&bz, MIB(64), ENOEXEC, "neither an ELF file nor a Linux bzImage");
}

static void bad_boot_flag(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.boot_flag = 0x55aa;
	refused(&bz, MIB(64), ENOEXEC, "boot flag 0x55aa");
}

static void protocol_too_old(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.version = 0x020b;
	refused(&bz, MIB(64), ENOEXEC, "boot protocol 2.11 is too old");
}

static void header_too_short_for_its_version(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.jump = 0x61eb; /* ends at 0x263, one byte before init_size does */
	refused(&bz, MIB(64), ENOEXEC, "header ends at offset 0x263");
}

static void no_64_bit_entry(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.xloadflags = XLF_CAN_BE_LOADED_ABOVE_4G;
	refused(&bz, MIB(64), ENOEXEC, "no 64-bit entry");
}

static void zimage(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.loadflags = 0;
	refused(&bz, MIB(64), ENOEXEC, "is a zImage");
}

static void bad_alignment(void **state)
{
	const uint32_t bad[] = { 0, 3, 0x300000 };
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		bz.hdr.kernel_alignment = bad[i];
		refused(&bz, MIB(64), ENOEXEC, "not a power of two");
	}
}

static void fixed_kernel_over_the_boot_data(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.relocatable_kernel = 0;
	bz.hdr.pref_address = 0xfffff;
	refused(&bz, MIB(64), ENOEXEC, "loaded at 0xfffff");
}

static void ram_too_small_for_init_size(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	refused(&bz, MIB(24) - 4096, ENOMEM, "must have 24 MiB, not 23");
}

static void ram_just_large_enough(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_with(&t, MIB(24), &bz);
	assert_loads(&t);
	test_end(&t);
}

static void payload_larger_than_init_size(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.init_size = 1;
	begin_with(&t, BZ_LOAD + 0x2000, &bz);
	assert_refused(&t, ENOMEM, "test-kernel", "needs 12288 bytes");
	test_end(&t);
}

static void load_address_out_of_reach(void **state)
{
	const uint64_t bad[] = { GIB(3), GIB(4), UINT64_MAX, UINT64_MAX - 0x1000 };
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		bz.hdr.pref_address = bad[i];
		refused(&bz, GIB(5), ENOMEM, "never goes beyond 0xc0000000");
	}
}

static void init_size_beyond_low_ram(void **state)
{
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.init_size = 0xffffffff;
	refused(&bz, GIB(5), ENOMEM, "4 GiB never goes beyond 0xc0000000");
}

static void cmdline_too_long(void **state)
{
	char line[BZ_CMDLINE_SIZE + 2];
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	memset(line, 'x', BZ_CMDLINE_SIZE + 1);
	line[BZ_CMDLINE_SIZE + 1] = '\0';
	begin_with(&t, MIB(64), &bz);
	t.src.cmdline = line;
	assert_refused(&t, E2BIG, "has 256 bytes", "at most 255");
	test_end(&t);
}

static void cmdline_longer_than_its_place(void **state)
{
	static char line[0x10001];
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.cmdline_size = 0x10000;
	memset(line, 'x', sizeof(line) - 1);
	begin_with(&t, MIB(64), &bz);
	t.src.cmdline = line;
	assert_refused(&t, E2BIG, "has 65536 bytes", "at most 65535");
	test_end(&t);
}

/* ---- again, and at random ---- */

static void loads_again_after_clear(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_with(&t, MIB(64), &bz);
	t.src.initramfs_fd = make_pattern_file(3000);
	assert_loads(&t);
	assert_int_equal(memory_clear(&t.mem, &t.err), 0);
	assert_int_equal(*(const uint8_t *)ram_at(&t, BZ_LOAD, 1), 0);
	assert_loads(&t);
	assert_pattern(&t, BZ_LOAD, BZ_PAYLOAD_LEN, BZ_PAYLOAD_OFF);
	assert_pattern(&t, MIB(64) - 4096, 3000, 0);
	test_end(&t);
}

/* Whatever the header says, the answer is a load inside RAM or a sentence about the file. */
static void random_headers_do_no_harm(void **state)
{
	uint64_t seed = 1;
	struct bz_file bz;
	struct boot_test t;
	unsigned int loaded = 0;

	(void)state;
	test_begin(&t, MIB(64), -1);
	for (int i = 0; i < 3000; i++) {
		bz_make(&bz);
		for (uint32_t n = next_random(&seed) % 4; n > 0; n--)
			((uint8_t *)&bz.hdr)[next_random(&seed) % sizeof(bz.hdr)] = (uint8_t)
				next_random(&seed);
		t.src.kernel_fd = bz_fd(&bz, BZ_FILE_LEN);
		t.err = ERROR_INIT;
		if (test_load(&t) == 0) {
			assert_non_null(memory_ptr(&t.mem, t.entry.rip, 1));
			loaded++;
		} else {
			assert_non_null(strstr(t.err.text, "test-kernel"));
		}
		fd_close(&t.src.kernel_fd);
	}
	assert_in_range(loaded, 100, 2900);
	test_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kernel_goes_to_its_preferred_address),
		cmocka_unit_test(boot_params_are_completed),
		cmocka_unit_test(bytes_behind_the_header_are_not_copied),
		cmocka_unit_test(fields_newer_than_ours_are_copied),
		cmocka_unit_test(header_cannot_reach_beyond_its_room),
		cmocka_unit_test(no_rsdp_field_before_2_14),
		cmocka_unit_test(relocatable_kernel_is_aligned),
		cmocka_unit_test(fixed_kernel_is_not_moved),
		cmocka_unit_test(zero_setup_sects_mean_four),
		cmocka_unit_test(signature_behind_the_kernel_is_welcome),
		cmocka_unit_test(cmdline_may_be_missing),
		cmocka_unit_test(cmdline_may_fill_its_size),
		cmocka_unit_test(e820_at_256_mib),
		cmocka_unit_test(e820_at_3_gib),
		cmocka_unit_test(e820_at_5_gib),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(truncation_is_told_with_both_sizes),
		cmocka_unit_test(kernel_without_an_entry),
		cmocka_unit_test(bad_magic),
		cmocka_unit_test(bad_boot_flag),
		cmocka_unit_test(protocol_too_old),
		cmocka_unit_test(header_too_short_for_its_version),
		cmocka_unit_test(no_64_bit_entry),
		cmocka_unit_test(zimage),
		cmocka_unit_test(bad_alignment),
		cmocka_unit_test(fixed_kernel_over_the_boot_data),
		cmocka_unit_test(ram_too_small_for_init_size),
		cmocka_unit_test(ram_just_large_enough),
		cmocka_unit_test(payload_larger_than_init_size),
		cmocka_unit_test(load_address_out_of_reach),
		cmocka_unit_test(init_size_beyond_low_ram),
		cmocka_unit_test(cmdline_too_long),
		cmocka_unit_test(cmdline_longer_than_its_place),
		cmocka_unit_test(loads_again_after_clear),
		cmocka_unit_test(random_headers_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
