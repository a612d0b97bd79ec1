/* SPDX-License-Identifier: MIT */
/* What both kernel formats share: files, initramfs, the address map, the first registers. */
#include "boot_image.h"

#include <fcntl.h>
#include <stdio.h>

static void begin_bz(struct boot_test *t, uint64_t ram, struct bz_file *bz)
{
	test_begin(t, ram, bz_fd(bz, BZ_FILE_LEN));
}

static void begin_elf(struct boot_test *t, uint64_t ram, struct elf_file *elf)
{
	test_begin(t, ram, elf_fd(elf, ELF_FILE_LEN));
}

static struct boot_params loaded_params(const struct boot_test *t)
{
	struct boot_params bp;

	assert_int_equal(memory_read(&t->mem, t->entry.params, &bp, sizeof(bp)), 0);
	return bp;
}

/* ---- things that are no kernel file ---- */

static void not_a_file(int fd, int code, const char *text)
{
	struct boot_test t;

	assert_true(fd >= 0);
	test_begin(&t, MIB(64), fd);
	assert_refused(&t, code, "test-kernel", text);
	test_end(&t);
}

static void empty_file(void **state)
{
	(void)state;
	not_a_file(make_file("", 0), ENOEXEC, "is empty");
}

static void text_file(void **state)
{
	(void)state;
	not_a_file(make_file("#!/bin/sh\n", 10), ENOEXEC, "neither an ELF file");
}

static void directory(void **state)
{
	(void)state;
	not_a_file(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), EISDIR, "is a directory");
}

static void character_device(void **state)
{
	(void)state;
	not_a_file(open("/dev/null", O_RDONLY | O_CLOEXEC), EINVAL, "not a regular file");
}

static void closed_descriptor(void **state)
{
	struct boot_test t;
	int fd = make_file("x", 1);

	(void)state;
	test_begin(&t, MIB(64), fd);
	close(fd);
	assert_refused(&t, EBADF, "test-kernel", "cannot ask for its size");
	t.src.kernel_fd = -1;
	test_end(&t);
}

static void write_only_descriptor(void **state)
{
	int file = make_file("kernel", 6);
	struct boot_test t;
	char path[32];

	(void)state;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	test_begin(&t, MIB(64), open(path, O_WRONLY | O_CLOEXEC));
	assert_refused(&t, EBADF, "test-kernel", "cannot read");
	test_end(&t);
	close(file);
}

static void no_kernel_at_all(void **state)
{
	struct boot_test t;

	(void)state;
	test_begin(&t, MIB(64), -1);
	assert_refused(&t, ENOEXEC, "no kernel", "");
	test_end(&t);
}

/* ---- the built-in guest, the command line ---- */

static void builtin_guest_is_loaded(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf_assemble(&elf);
	test_begin(&t, MIB(4), -1);
	t.src.builtin = elf.bytes;
	t.src.builtin_len = ELF_FILE_LEN;
	assert_loads(&t);
	assert_pattern(&t, ELF_TEXT_GPA, ELF_TEXT_LEN, ELF_TEXT_OFF);
	t.src.builtin_len--;
	assert_refused(&t, ENOEXEC, "built-in guest", "truncated");
	test_end(&t);
}

static void a_file_goes_before_the_builtin_guest(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	begin_elf(&t, MIB(4), &elf);
	t.src.builtin = "not a kernel";
	t.src.builtin_len = 12;
	assert_loads(&t);
	test_end(&t);
}

static void cmdline_fits_its_place(void **state)
{
	static char line[0x10001];
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	begin_elf(&t, MIB(4), &elf);
	memset(line, 'x', sizeof(line) - 1);
	t.src.cmdline = line;
	assert_refused(&t, E2BIG, "has 65536 bytes", "at most 65535");
	t.src.cmdline++;
	assert_loads(&t);
	test_end(&t);
}

/* ---- initramfs ---- */

static void check_initramfs_at(uint64_t ram, uint32_t addr_max, size_t len, uint64_t gpa)
{
	struct boot_params bp;
	struct boot_test t;
	struct bz_file bz;

	bz_make(&bz);
	bz.hdr.initrd_addr_max = addr_max;
	begin_bz(&t, ram, &bz);
	t.src.initramfs_fd = make_pattern_file(len);
	assert_loads(&t);
	bp = loaded_params(&t);
	assert_int_equal(bp.hdr.ramdisk_image, gpa);
	assert_int_equal(bp.hdr.ramdisk_size, len);
	assert_pattern(&t, gpa, len, 0);
	test_end(&t);
}

static void initramfs_goes_to_the_end_of_ram(void **state)
{
	(void)state;
	check_initramfs_at(MIB(256), 0x7fffffff, 5000, MIB(256) - 0x2000);
	check_initramfs_at(MIB(256), 0x7fffffff, 8192, MIB(256) - 0x2000);
}

static void initramfs_stays_below_its_limit(void **state)
{
	(void)state;
	check_initramfs_at(GIB(3), 0x7fffffff, 5000, GIB(2) - 0x2000);
	check_initramfs_at(GIB(3), 0x37ffffff, 5000, 0x38000000 - 0x2000);
}

static void initramfs_stays_below_the_pci_hole(void **state)
{
	(void)state;
	check_initramfs_at(GIB(5), 0xffffffff, 5000, GIB(3) - 0x2000);
}

static void initramfs_may_fill_all_room(void **state)
{
	const size_t room = MIB(32) - (BZ_LOAD + BZ_INIT_SIZE);

	(void)state;
	check_initramfs_at(MIB(32), 0x7fffffff, room, BZ_LOAD + BZ_INIT_SIZE);
}

static void initramfs_too_big(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_bz(&t, MIB(32), &bz);
	t.src.initramfs_fd = make_pattern_file(MIB(32) - (BZ_LOAD + BZ_INIT_SIZE) + 1);
	assert_refused(&t, ENOMEM, "test-initramfs", "8388609 bytes");
	test_end(&t);
}

/* It would fit but for the page boundary it must begin on. */
static void initramfs_too_big_by_rounding(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.init_size = BZ_INIT_SIZE + 1;
	begin_bz(&t, MIB(32), &bz);
	t.src.initramfs_fd = make_pattern_file(MIB(32) - (BZ_LOAD + BZ_INIT_SIZE) - 1);
	assert_refused(&t, ENOMEM, "test-initramfs", "8388607 bytes");
	test_end(&t);
}

static void initramfs_with_no_room_at_all(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	bz.hdr.initrd_addr_max = 0;
	begin_bz(&t, MIB(256), &bz);
	t.src.initramfs_fd = make_pattern_file(1);
	assert_refused(&t, ENOMEM, "test-initramfs", "are 0;");
	test_end(&t);
}

static void initramfs_empty(void **state)
{
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_bz(&t, MIB(256), &bz);
	t.src.initramfs_fd = make_file("", 0);
	assert_refused(&t, ENOEXEC, "test-initramfs", "is empty");
	test_end(&t);
}

static void initramfs_over_a_segment(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	begin_elf(&t, MIB(4), &elf);
	t.src.initramfs_fd = make_pattern_file(MIB(2) - ELF_DATA_MEM + 1);
	assert_refused(&t, ENOMEM, "test-initramfs", "kernel's end (0x205000)");
	test_end(&t);
}

static void initramfs_is_no_file(void **state)
{
	struct elf_file elf;
	struct boot_test t;
	int fds[2];

	(void)state;
	elf_make(&elf);
	begin_elf(&t, MIB(4), &elf);
	assert_int_equal(pipe(fds), 0);
	t.src.initramfs_fd = fds[0];
	assert_refused(&t, EINVAL, "test-initramfs", "not a regular file");
	close(fds[1]);
	test_end(&t);
}

/* ---- the address map ---- */

/* A range of RAM in the map is RAM in fact, and the map has all RAM above 1 MiB. */
static void address_map_is_true(void **state)
{
	const uint64_t sizes[] = { MIB(2), MIB(256), GIB(3), GIB(3) + 4096, GIB(5) };
	struct boot_range map[BOOT_MAP_MAX];
	struct error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		unsigned int n = boot_memory_map(sizes[i], map);
		uint64_t ram = 0, end = 0;
		struct memory mem;

		assert_int_equal(memory_create(&mem, sizes[i], NULL, NULL, &err), 0);
		for (unsigned int r = 0; r < n; r++) {
			assert_true(map[r].gpa >= end);
			end = map[r].gpa + map[r].size;
			if (map[r].type != BOOT_RANGE_RAM)
				continue;
			assert_non_null(memory_ptr(&mem, map[r].gpa, map[r].size));
			ram += map[r].size;
		}
		assert_int_equal(ram, sizes[i] - (MIB(1) - 0x9fc00));
		memory_destroy(&mem);
	}
}

/* ---- the first registers ---- */

/* Walks the tables in RAM as the processor would. */
static uint64_t translate(const struct boot_test *t, uint64_t cr3, uint64_t addr)
{
	const uint64_t address_bits = 0xffffffffff000ull;
	uint64_t entry = cr3;

	for (unsigned int shift = 39; shift >= 21; shift -= 9) {
		const uint64_t *table = ram_at(t, entry & address_bits, 4096);

		entry = table[(addr >> shift) & 511];
		assert_int_equal(entry & 3, 3);
		if (entry & 0x80) {
			assert_int_equal(shift, 21);
			return (entry & address_bits) | (addr & 0x1fffff);
		}
	}
	fail_msg("0x%llx is not mapped by a large page", (unsigned long long)addr);
	return 0;
}

static void long_mode_registers(void **state)
{
	struct fake_kvm fake;
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_bz(&t, MIB(256), &bz);
	assert_loads(&t);
	fake_kvm_init(&fake);
	assert_int_equal(boot_set_registers(&t.entry, &fake.kvm, 42, &t.err), 0);
	assert_int_equal(fake.vcpu_fd, 42);
	assert_int_equal(fake.regs.rip, BZ_LOAD + 0x200);
	assert_int_equal(fake.regs.rsi, t.entry.params);
	assert_int_equal(fake.regs.rflags, 2);
	assert_int_equal(fake.sregs.cr0, 0x80000011);
	assert_int_equal(fake.sregs.cr4, 0x20);
	assert_int_equal(fake.sregs.efer, 0x500);
	assert_int_equal(fake.sregs.apic_base, 0xfee00900);
	assert_int_equal(fake.sregs.cs.selector, 0x10);
	assert_int_equal(fake.sregs.cs.l, 1);
	assert_int_equal(fake.sregs.cs.db, 0);
	assert_int_equal(fake.sregs.ds.selector, 0x18);
	assert_int_equal(fake.sregs.ss.selector, 0x18);
	assert_int_equal(fake.sregs.tr.type, 11);
	test_end(&t);
}

static void gdt_says_what_the_segments_are(void **state)
{
	struct fake_kvm fake;
	const uint64_t *gdt;
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_bz(&t, MIB(256), &bz);
	assert_loads(&t);
	fake_kvm_init(&fake);
	assert_int_equal(boot_set_registers(&t.entry, &fake.kvm, 3, &t.err), 0);
	assert_int_equal(fake.sregs.gdt.limit, 0x1f);
	gdt = ram_at(&t, fake.sregs.gdt.base, 0x20);
	assert_int_equal(gdt[2], 0x00af9b000000ffff);
	assert_int_equal(gdt[3], 0x00cf93000000ffff);
	test_end(&t);
}

static void four_gib_are_mapped_one_to_one(void **state)
{
	struct fake_kvm fake;
	struct boot_test t;
	struct bz_file bz;

	(void)state;
	bz_make(&bz);
	begin_bz(&t, MIB(256), &bz);
	assert_loads(&t);
	fake_kvm_init(&fake);
	assert_int_equal(boot_set_registers(&t.entry, &fake.kvm, 3, &t.err), 0);
	for (uint64_t addr = 0x1234; addr < GIB(4); addr += MIB(2))
		assert_int_equal(translate(&t, fake.sregs.cr3, addr), addr);
	test_end(&t);
}

static void registers_that_kvm_refuses(void **state)
{
	const unsigned long requests[] = { KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_REGS };
	struct boot_entry entry = { .mode = BOOT_LINUX64, .rip = BZ_LOAD };
	struct fake_kvm fake;
	struct error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		fake_kvm_init(&fake);
		fake.fail_request = requests[i];
		err = ERROR_INIT;
		assert_int_equal(boot_set_registers(&entry, &fake.kvm, 3, &err), -EIO);
		assert_non_null(strstr(err.text, "vCPU 0"));
	}
}

static void protected_mode_registers(void **state)
{
	struct fake_kvm fake;
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	begin_elf(&t, MIB(4), &elf);
	assert_loads(&t);
	fake_kvm_init(&fake);
	assert_int_equal(boot_set_registers(&t.entry, &fake.kvm, 7, &t.err), 0);
	assert_int_equal(fake.vcpu_fd, 7);
	assert_int_equal(fake.regs.rip, ELF_ENTRY);
	assert_int_equal(fake.regs.rbx, t.entry.params);
	assert_int_equal(fake.regs.rsi, 0);
	assert_int_equal(fake.regs.rflags, 2);
	assert_int_equal(fake.sregs.cr0, 0x11);
	assert_int_equal(fake.sregs.cr3, 0);
	assert_int_equal(fake.sregs.cr4, 0);
	assert_int_equal(fake.sregs.efer, 0);
	assert_int_equal(fake.sregs.apic_base, 0xfee00900);
	test_end(&t);
}

static void protected_mode_segments(void **state)
{
	struct boot_entry entry = { .mode = BOOT_PVH32, .rip = ELF_ENTRY };
	struct fake_kvm fake;
	struct error err;
	const struct kvm_sregs *s = &fake.sregs;
	const struct kvm_segment *data[] = { &s->ds, &s->es, &s->ss };

	(void)state;
	fake_kvm_init(&fake);
	assert_int_equal(boot_set_registers(&entry, &fake.kvm, 7, &err), 0);
	assert_int_equal(s->cs.base, 0);
	assert_int_equal(s->cs.limit, 0xffffffff);
	assert_int_equal(s->cs.type, 11);
	assert_int_equal(s->cs.db, 1);
	assert_int_equal(s->cs.l, 0);
	assert_int_equal(s->cs.dpl, 0);
	assert_int_equal(s->cs.unusable, 0);
	for (size_t i = 0; i < ARRAY_SIZE(data); i++) {
		assert_int_equal(data[i]->base, 0);
		assert_int_equal(data[i]->limit, 0xffffffff);
		assert_int_equal(data[i]->type, 3);
		assert_int_equal(data[i]->db, 1);
		assert_int_equal(data[i]->unusable, 0);
	}
	assert_int_equal(s->tr.base, 0);
	assert_int_equal(s->tr.limit, 0x67);
	assert_int_equal(s->tr.type, 11);
	assert_int_equal(s->tr.s, 0);
	assert_int_equal(s->ldt.unusable, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty_file),
		cmocka_unit_test(text_file),
		cmocka_unit_test(directory),
		cmocka_unit_test(character_device),
		cmocka_unit_test(closed_descriptor),
		cmocka_unit_test(write_only_descriptor),
		cmocka_unit_test(no_kernel_at_all),
		cmocka_unit_test(builtin_guest_is_loaded),
		cmocka_unit_test(a_file_goes_before_the_builtin_guest),
		cmocka_unit_test(cmdline_fits_its_place),
		cmocka_unit_test(initramfs_goes_to_the_end_of_ram),
		cmocka_unit_test(initramfs_stays_below_its_limit),
		cmocka_unit_test(initramfs_stays_below_the_pci_hole),
		cmocka_unit_test(initramfs_may_fill_all_room),
		cmocka_unit_test(initramfs_too_big),
		cmocka_unit_test(initramfs_too_big_by_rounding),
		cmocka_unit_test(initramfs_with_no_room_at_all),
		cmocka_unit_test(initramfs_empty),
		cmocka_unit_test(initramfs_over_a_segment),
		cmocka_unit_test(initramfs_is_no_file),
		cmocka_unit_test(address_map_is_true),
		cmocka_unit_test(long_mode_registers),
		cmocka_unit_test(gdt_says_what_the_segments_are),
		cmocka_unit_test(four_gib_are_mapped_one_to_one),
		cmocka_unit_test(registers_that_kvm_refuses),
		cmocka_unit_test(protected_mode_registers),
		cmocka_unit_test(protected_mode_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
