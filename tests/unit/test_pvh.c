/* SPDX-License-Identifier: MIT */
/* PVH ELF kernels: where everything goes, and every way to be refused. */
#include "boot_image.h"

#define INFO_MAGIC 0x336ec578
#define INFO_VERSION 1

/* Offsets in Xen's struct hvm_start_info (public/arch-x86/hvm/start_info.h). */
enum {
	INFO_MODLIST = 16,
	INFO_CMDLINE = 24,
	INFO_RSDP = 32,
	INFO_MEMMAP = 40,
	INFO_MEMMAP_ENTRIES = 48,
	MEMMAP_ENTRY_SIZE = 24,
};

static uint64_t read64(const struct boot_test *t, uint64_t gpa)
{
	uint64_t value;

	assert_int_equal(memory_read(&t->mem, gpa, &value, sizeof(value)), 0);
	return value;
}

static uint32_t read32(const struct boot_test *t, uint64_t gpa)
{
	uint32_t value;

	assert_int_equal(memory_read(&t->mem, gpa, &value, sizeof(value)), 0);
	return value;
}

static void begin_with(struct boot_test *t, uint64_t ram, struct elf_file *elf)
{
	test_begin(t, ram, elf_fd(elf, ELF_FILE_LEN));
}

/* ---- what is placed where ---- */

static void segments_go_to_their_addresses(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	assert_int_equal(t.entry.mode, BOOT_PVH32);
	assert_int_equal(t.entry.rip, ELF_ENTRY);
	assert_pattern(&t, ELF_TEXT_GPA, ELF_TEXT_LEN, ELF_TEXT_OFF);
	assert_pattern(&t, ELF_DATA_GPA, ELF_DATA_LEN, ELF_DATA_OFF);
	assert_int_equal(*(const uint8_t *)ram_at(&t, ELF_DATA_GPA + ELF_DATA_LEN, 1), 0);
	assert_int_equal(*(const uint8_t *)ram_at(&t, ELF_TEXT_GPA + ELF_TEXT_LEN, 1), 0);
	test_end(&t);
}

static void physical_not_virtual_addresses_count(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.ph[0].p_vaddr = 0xffffffff81000000;
	elf.ph[1].p_vaddr = 0;
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	assert_pattern(&t, ELF_DATA_GPA, ELF_DATA_LEN, ELF_DATA_OFF);
	test_end(&t);
}

static void segment_above_4_gib(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_paddr = GIB(5) - ELF_DATA_MEM + GIB(1);
	begin_with(&t, GIB(5), &elf);
	t.src.initramfs_fd = make_pattern_file(100); /* goes below all the same */
	assert_loads(&t);
	assert_pattern(&t, GIB(3) - 4096, 100, 0);
	assert_pattern(&t, elf.ph[1].p_paddr, ELF_DATA_LEN, ELF_DATA_OFF);
	test_end(&t);
}

static void segments_that_touch(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_paddr = ELF_TEXT_GPA + ELF_TEXT_LEN;
	begin_with(&t, MIB(2), &elf);
	assert_loads(&t);
	test_end(&t);
}

static void segments_without_memory_are_skipped(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.ph[3] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = UINT64_MAX, .p_paddr = 0 };
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	test_end(&t);
}

static void bss_alone_may_have_any_offset(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.ph[3] = (Elf64_Phdr){ .p_type = PT_LOAD,
				  .p_offset = ELF_FILE_LEN + 4096,
				  .p_paddr = MIB(3),
				  .p_memsz = 4096 };
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	test_end(&t);
}

static void position_independent_kernel(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.eh.e_type = ET_DYN;
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	test_end(&t);
}

/* ---- hvm_start_info ---- */

static void start_info_without_modules(void **state)
{
	struct elf_file elf;
	struct boot_test t;
	uint64_t info;

	(void)state;
	elf_make(&elf);
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	info = t.entry.params;
	assert_int_equal(read32(&t, info), INFO_MAGIC);
	assert_int_equal(read32(&t, info + 4), INFO_VERSION);
	assert_int_equal(read32(&t, info + 8), 0);
	assert_int_equal(read32(&t, info + 12), 0);
	assert_int_equal(read64(&t, info + INFO_MODLIST), 0);
	assert_string_equal(ram_at(&t, read64(&t, info + INFO_CMDLINE), 14), "console=ttyS0");
	assert_int_equal(read64(&t, info + INFO_RSDP), ACPI_RSDP_GPA);
	assert_memory_equal(ram_at(&t, ACPI_RSDP_GPA, 8), "RSD PTR ", 8);
	test_end(&t);
}

static void memmap_is_the_address_map(void **state)
{
	struct boot_range map[BOOT_MAP_MAX];
	unsigned int n = boot_memory_map(GIB(5), map);
	struct elf_file elf;
	struct boot_test t;
	uint64_t at;

	(void)state;
	elf_make(&elf);
	begin_with(&t, GIB(5), &elf);
	assert_loads(&t);
	assert_int_equal(n, 8);
	assert_int_equal(read32(&t, t.entry.params + INFO_MEMMAP_ENTRIES), n);
	at = read64(&t, t.entry.params + INFO_MEMMAP);
	for (unsigned int i = 0; i < n; i++, at += MEMMAP_ENTRY_SIZE) {
		assert_int_equal(read64(&t, at), map[i].gpa);
		assert_int_equal(read64(&t, at + 8), map[i].size);
		assert_int_equal(read32(&t, at + 16), map[i].type);
		assert_int_equal(read32(&t, at + 20), 0);
	}
	test_end(&t);
}

static void initramfs_is_module_0(void **state)
{
	struct elf_file elf;
	struct boot_test t;
	uint64_t module;

	(void)state;
	elf_make(&elf);
	begin_with(&t, MIB(4), &elf);
	t.src.initramfs_fd = make_pattern_file(5000);
	assert_loads(&t);
	assert_int_equal(read32(&t, t.entry.params + 12), 1);
	module = read64(&t, t.entry.params + INFO_MODLIST);
	assert_int_equal(read64(&t, module), MIB(4) - 0x2000);
	assert_int_equal(read64(&t, module + 8), 5000);
	assert_int_equal(read64(&t, module + 16), 0);
	assert_int_equal(read64(&t, module + 24), 0);
	assert_pattern(&t, MIB(4) - 0x2000, 5000, 0);
	test_end(&t);
}

/* ---- the note ---- */

struct note_bytes {
	uint8_t bytes[256];
	size_t len;
};

static size_t round_up(size_t n, size_t align)
{
	return (n + align - 1) / align * align;
}

static void note_put(struct note_bytes *n, size_t align, const char *name, uint32_t type,
		     const void *desc, size_t len)
{
	Elf64_Nhdr nh = { (uint32_t)strlen(name) + 1, (uint32_t)len, type };
	size_t at = n->len + round_up(sizeof(nh) + nh.n_namesz, align);

	assert_true(at + len + align <= sizeof(n->bytes));
	memcpy(n->bytes + n->len, &nh, sizeof(nh));
	strcpy((char *)n->bytes + n->len + sizeof(nh), name);
	memcpy(n->bytes + at, desc, len);
	n->len = round_up(at + len, align);
}

static void note_put_entry(struct note_bytes *n, size_t align)
{
	const uint64_t entry = ELF_ENTRY;

	note_put(n, align, "Xen", ELF_NOTE_PHYS32_ENTRY, &entry, sizeof(entry));
}

static void entry_of_four_bytes(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	elf.note.head.n_descsz = 4;
	elf.note.entry |= 0xdead00000000;
	elf.ph[2].p_filesz -= 4;
	begin_with(&t, MIB(4), &elf);
	assert_loads(&t);
	assert_int_equal(t.entry.rip, ELF_ENTRY);
	test_end(&t);
}

/* Boots with these bytes as the segment of notes. */
static void check_notes(const struct note_bytes *n, uint64_t align)
{
	struct elf_file elf;
	struct boot_test t;

	elf_make(&elf);
	elf.ph[2].p_align = align;
	elf.ph[2].p_filesz = n->len;
	elf_assemble(&elf);
	memcpy(elf.bytes + ELF_NOTE_OFF, n->bytes, n->len);
	test_begin(&t, MIB(4), make_file(elf.bytes, ELF_FILE_LEN));
	assert_loads(&t);
	assert_int_equal(t.entry.rip, ELF_ENTRY);
	test_end(&t);
}

/* As Linux and Xen write them: name and contents are padded each to 4. */
static void note_after_another(void **state)
{
	const uint64_t aligns[] = { 0, 1, 4, 8 };
	const uint8_t property[16] = { 2, 0, 0, 0xc0, 4, 0, 0, 0, 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(aligns); i++) {
		struct note_bytes n = { 0 };

		note_put(&n, 4, "GNU", 5, property, sizeof(property));
		note_put(&n, 4, "Linux", 0x101, "abcd", 4);
		note_put(&n, 4, "GN", ELF_NOTE_PHYS32_ENTRY, "abcde", 5);
		note_put_entry(&n, 4);
		check_notes(&n, aligns[i]);
	}
}

/* The gABI's way, binutils' and glibc's, in segments aligned to 8. */
static void note_after_another_rounded_to_8(void **state)
{
	struct note_bytes n = { 0 };

	(void)state;
	note_put(&n, 8, "Linux", 0x101, "abcd", 4);
	note_put(&n, 8, "GN", ELF_NOTE_PHYS32_ENTRY, "abcde", 5);
	note_put_entry(&n, 8);
	check_notes(&n, 8);
}

/* What a linker makes of sections of both kinds. */
static void notes_of_both_kinds_in_one_segment(void **state)
{
	const uint8_t property[16] = { 2, 0, 0, 0xc0, 4, 0, 0, 0, 1 };
	struct note_bytes n = { 0 };

	(void)state;
	note_put(&n, 4, "Linux", 0x101, "", 0);
	n.len += 4; /* up to where the next section may begin */
	note_put(&n, 8, "GNU", 5, property, sizeof(property));
	note_put(&n, 8, "Linux", 0x101, "abcd", 4);
	note_put_entry(&n, 4);
	check_notes(&n, 8);
}

static void note_after_a_damaged_one(void **state)
{
	const uint32_t bad[] = { 1000, UINT32_MAX };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct note_bytes n = { 0 };

		note_put(&n, 4, "Linux", 0x101, "abcd", 4);
		memcpy(n.bytes + 4, &bad[i], sizeof(bad[i]));
		note_put(&n, 4, "Xen", ELF_NOTE_PHYS32_ENTRY, "abcdefg", 7);
		note_put_entry(&n, 4);
		check_notes(&n, 4);
	}
}

/* Damage of any kind in one segment is none of the next one's. */
static void note_in_another_segment(void **state)
{
	const Elf64_Phdr bad[] = {
		{ .p_type = PT_NOTE, .p_offset = 4, .p_filesz = 100 },
		{ .p_type = PT_NOTE, .p_offset = 0, .p_filesz = MIB(1) + 1 },
		{ .p_type = PT_NOTE, .p_offset = ELF_FILE_LEN - 4, .p_filesz = 16 },
		{ .p_type = PT_NOTE, .p_offset = UINT64_MAX, .p_filesz = 16 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct elf_file elf;
		struct boot_test t;

		elf_make(&elf);
		elf.ph[3] = elf.ph[2];
		elf.ph[2] = bad[i];
		begin_with(&t, MIB(4), &elf);
		assert_loads(&t);
		assert_int_equal(t.entry.rip, ELF_ENTRY);
		test_end(&t);
	}
}

static void refused(struct elf_file *elf, uint64_t ram, int code, const char *text)
{
	struct boot_test t;

	begin_with(&t, ram, elf);
	assert_refused(&t, code, "test-kernel", text);
	test_end(&t);
}

static void no_note(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[2].p_type = PT_NULL;
	refused(&elf, MIB(4), ENOEXEC, "without a PVH entry note");
}

static void notes_of_others_alone(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.note.head.n_type = 17;
	refused(&elf, MIB(4), ENOEXEC, "without a PVH entry note");
	elf.note.head.n_type = ELF_NOTE_PHYS32_ENTRY;
	elf.note.name[0] = 'x';
	refused(&elf, MIB(4), ENOEXEC, "without a PVH entry note");
	elf.ph[2].p_filesz = 0;
	refused(&elf, MIB(4), ENOEXEC, "without a PVH entry note");
}

static void note_beyond_its_segment(void **state)
{
	const uint32_t bad[] = { 9, 0x7fffffff, UINT32_MAX - 2, UINT32_MAX };
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		elf.note.head.n_descsz = bad[i];
		elf.note.head.n_namesz = 4;
		refused(&elf, MIB(4), ENOEXEC, "goes beyond the 24 bytes");
		elf.note.head.n_descsz = 8;
		elf.note.head.n_namesz = bad[i];
		refused(&elf, MIB(4), ENOEXEC, "goes beyond the 24 bytes");
	}
}

static void note_of_the_wrong_size(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.note.head.n_descsz = 7;
	refused(&elf, MIB(4), ENOEXEC, "has 7 bytes instead of 4 or 8");
}

static void notes_without_end(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[2].p_filesz = MIB(1) + 1;
	refused(&elf, MIB(4), ENOEXEC, "1048577 bytes of ELF notes");
	elf.ph[2].p_filesz = MIB(1);
	refused(&elf, MIB(4), ENOEXEC, "truncated: the segment of ELF notes");
}

static void entry_outside_all_segments(void **state)
{
	const uint64_t bad[] = { 0, ELF_TEXT_GPA - 1, ELF_TEXT_GPA + ELF_TEXT_LEN,
				 ELF_DATA_GPA + ELF_DATA_LEN, UINT64_MAX };
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		elf.note.entry = bad[i];
		refused(&elf, MIB(4), ENOEXEC, "is in no loaded segment");
	}
}

static void entry_above_4_gib(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[0].p_paddr = GIB(4);
	elf.note.entry = GIB(4) + 0x10;
	refused(&elf, GIB(5), ENOEXEC, "below 4 GiB");
}

/* ---- headers and segments ---- */

static void every_truncation_is_refused(void **state)
{
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	elf_make(&elf);
	test_begin(&t, MIB(4), -1);
	for (size_t len = 1; len < ELF_FILE_LEN; len += len < 0x500 ? 1 : 61) {
		t.src.kernel_fd = elf_fd(&elf, len);
		assert_refused(&t, ENOEXEC, "test-kernel", "");
		fd_close(&t.src.kernel_fd);
	}
	test_end(&t);
}

static void elf_for_another_machine(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.eh.e_machine = EM_AARCH64;
	refused(&elf, MIB(4), ENOEXEC, "not for x86-64 (class 2, data 1, machine 183)");
	elf_make(&elf);
	elf.eh.e_ident[EI_CLASS] = ELFCLASS32;
	refused(&elf, MIB(4), ENOEXEC, "not for x86-64 (class 1");
	elf_make(&elf);
	elf.eh.e_ident[EI_DATA] = ELFDATA2MSB;
	refused(&elf, MIB(4), ENOEXEC, "not for x86-64 (class 2, data 2");
}

static void elf_object_file(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.eh.e_type = ET_REL;
	refused(&elf, MIB(4), ENOEXEC, "ELF type 1 is not an executable");
}

static void bad_program_header_table(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.eh.e_phentsize = 32;
	refused(&elf, MIB(4), ENOEXEC, "program headers of 32 bytes");
	elf_make(&elf);
	elf.eh.e_phnum = 0;
	refused(&elf, MIB(4), ENOEXEC, "has 0 program headers");
	elf.eh.e_phnum = 0xffff;
	refused(&elf, MIB(4), ENOEXEC, "has 65535 program headers");
	elf_make(&elf);
	elf.eh.e_phoff = UINT64_MAX - 8;
	refused(&elf, MIB(4), ENOEXEC, "truncated: the table of program headers");
}

static void nothing_to_load(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[0].p_type = PT_NULL;
	elf.ph[1].p_type = PT_NULL;
	refused(&elf, MIB(4), ENOEXEC, "is in no loaded segment");
}

static void segment_longer_in_file_than_in_memory(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_memsz = ELF_DATA_LEN - 1;
	refused(&elf, MIB(4), ENOEXEC, "segment 1 has 1792 bytes in the file but 1791");
}

static void segment_beyond_the_file(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_offset++;
	refused(&elf, MIB(4), ENOEXEC, "truncated: segment 1");
	elf.ph[1].p_offset = UINT64_MAX;
	refused(&elf, MIB(4), ENOEXEC, "truncated: segment 1");
}

static void segment_that_wraps(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_memsz = UINT64_MAX;
	refused(&elf, MIB(4), ENOEXEC, "beyond the end of the address space");
	elf_make(&elf);
	elf.ph[1].p_paddr = UINT64_MAX - 0x10;
	refused(&elf, MIB(4), ENOEXEC, "beyond the end of the address space");
}

static void segment_over_the_first_mib(void **state)
{
	const uint64_t bad[] = { 0, 0x7000, 0xe0000, 0xfffff };
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		elf.ph[1].p_paddr = bad[i];
		refused(&elf, MIB(4), ENOEXEC, "below 0x100000 are taken");
	}
}

static void segment_outside_ram(void **state)
{
	const uint64_t bad[] = { MIB(4) - ELF_DATA_MEM + 1, MIB(4), GIB(3), GIB(4) };
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		elf.ph[1].p_paddr = bad[i];
		refused(&elf, MIB(4), ENOMEM, "the guest with 4 MiB does not have");
	}
}

static void segment_into_the_pci_hole(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_paddr = GIB(3) - ELF_DATA_MEM + 1;
	refused(&elf, GIB(5), ENOMEM, "segment 1 needs RAM from 0xbfffb001 to 0xc0000001");
	elf.ph[1].p_paddr = GIB(3) - 4096;
	elf.ph[1].p_memsz = GIB(1) + 8192;
	refused(&elf, GIB(5), ENOMEM, "segment 1 needs RAM");
}

static void segments_that_overlap(void **state)
{
	struct elf_file elf;

	(void)state;
	elf_make(&elf);
	elf.ph[1].p_paddr = ELF_TEXT_GPA + ELF_TEXT_LEN - 1;
	refused(&elf, MIB(4), ENOEXEC, "segment 1 (0x1017ff to 0x1067ff) overlaps segment 0");
	elf.ph[1].p_paddr = ELF_TEXT_GPA;
	refused(&elf, MIB(4), ENOEXEC, "overlaps segment 0");
}

/* Whatever the headers say, the answer is a load inside RAM or a sentence about the file. */
static void random_headers_do_no_harm(void **state)
{
	const size_t span = sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr);
	unsigned int loaded = 0;
	uint64_t seed = 2;
	struct elf_file elf;
	struct boot_test t;

	(void)state;
	test_begin(&t, MIB(4), -1);
	for (int i = 0; i < 5000; i++) {
		elf_make(&elf);
		elf_assemble(&elf);
		for (uint32_t n = next_random(&seed) % 3; n > 0; n--) {
			uint32_t at = next_random(&seed);

			at = at & 1 ? at % (uint32_t)span : ELF_NOTE_OFF + at % 24;
			elf.bytes[at] = (uint8_t)next_random(&seed);
		}
		t.src.kernel_fd = make_file(elf.bytes, ELF_FILE_LEN);
		t.err = ERROR_INIT;
		if (test_load(&t) == 0) {
			assert_non_null(memory_ptr(&t.mem, t.entry.rip, 1));
			loaded++;
		} else {
			assert_non_null(strstr(t.err.text, "test-kernel"));
		}
		fd_close(&t.src.kernel_fd);
	}
	assert_in_range(loaded, 100, 4900);
	test_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_go_to_their_addresses),
		cmocka_unit_test(physical_not_virtual_addresses_count),
		cmocka_unit_test(segment_above_4_gib),
		cmocka_unit_test(segments_that_touch),
		cmocka_unit_test(segments_without_memory_are_skipped),
		cmocka_unit_test(bss_alone_may_have_any_offset),
		cmocka_unit_test(position_independent_kernel),
		cmocka_unit_test(start_info_without_modules),
		cmocka_unit_test(memmap_is_the_address_map),
		cmocka_unit_test(initramfs_is_module_0),
		cmocka_unit_test(entry_of_four_bytes),
		cmocka_unit_test(note_after_another),
		cmocka_unit_test(note_after_another_rounded_to_8),
		cmocka_unit_test(notes_of_both_kinds_in_one_segment),
		cmocka_unit_test(note_after_a_damaged_one),
		cmocka_unit_test(note_in_another_segment),
		cmocka_unit_test(no_note),
		cmocka_unit_test(notes_of_others_alone),
		cmocka_unit_test(note_beyond_its_segment),
		cmocka_unit_test(note_of_the_wrong_size),
		cmocka_unit_test(notes_without_end),
		cmocka_unit_test(entry_outside_all_segments),
		cmocka_unit_test(entry_above_4_gib),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(elf_for_another_machine),
		cmocka_unit_test(elf_object_file),
		cmocka_unit_test(bad_program_header_table),
		cmocka_unit_test(nothing_to_load),
		cmocka_unit_test(segment_longer_in_file_than_in_memory),
		cmocka_unit_test(segment_beyond_the_file),
		cmocka_unit_test(segment_that_wraps),
		cmocka_unit_test(segment_over_the_first_mib),
		cmocka_unit_test(segment_outside_ram),
		cmocka_unit_test(segment_into_the_pci_hole),
		cmocka_unit_test(segments_that_overlap),
		cmocka_unit_test(random_headers_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
