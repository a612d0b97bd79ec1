/* SPDX-License-Identifier: MIT */
/*
 * Synthetic kernels for the tests of src/boot: a bzImage and a PVH ELF that are right in every
 * field, so that a test spoils just the one it is about.
 */
#ifndef MOLT_TESTS_BOOT_IMAGE_H
#define MOLT_TESTS_BOOT_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/boot/acpi.h>
#include <molt/boot/boot.h>
#include <molt/boot/memory_map.h>

#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

#define TEST_CPUS 2
#define TEST_DSDT_LEN 36

/* One boot: RAM, what to boot, and what came of it. */
struct boot_test {
	struct memory mem;
	struct boot_source src;
	struct boot_entry entry;
	struct error err;
	uint8_t dsdt[TEST_DSDT_LEN];
};

/* The byte that a synthetic file has at an offset: telling, and never zero. */
static inline uint8_t pattern(uint64_t off)
{
	return (uint8_t)(1 + (off * 7 + (off >> 8)) % 255);
}

static inline uint8_t sum_of(const void *data, size_t len)
{
	unsigned int sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += ((const uint8_t *)data)[i];
	return (uint8_t)sum;
}

/* A DSDT without contents, len bytes long. */
static inline void make_dsdt(uint8_t *dsdt, size_t len)
{
	uint32_t len32 = (uint32_t)len;

	memset(dsdt, 0, len);
	memcpy(dsdt, "DSDT", 4);
	memcpy(dsdt + 4, &len32, sizeof(len32));
	dsdt[8] = 2;
	dsdt[9] = (uint8_t)(0x100 - sum_of(dsdt, len));
}

static inline int make_file(const void *bytes, size_t len)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, bytes, len), 0);
	return fd;
}

static inline int make_pattern_file(size_t len)
{
	uint8_t *bytes = malloc(len);
	int fd;

	assert_non_null(bytes);
	for (size_t i = 0; i < len; i++)
		bytes[i] = pattern(i);
	fd = make_file(bytes, len);
	free(bytes);
	return fd;
}

/* Takes the kernel's descriptor. */
static inline void test_begin(struct boot_test *t, uint64_t ram, int kernel_fd)
{
	memset(t, 0, sizeof(*t));
	assert_int_equal(memory_create(&t->mem, ram, NULL, NULL, &t->err), 0);
	make_dsdt(t->dsdt, sizeof(t->dsdt));
	t->src = (struct boot_source){
		.kernel_fd = kernel_fd,
		.kernel_name = "test-kernel",
		.initramfs_fd = -1,
		.initramfs_name = "test-initramfs",
		.cmdline = "console=ttyS0",
		.dsdt = t->dsdt,
		.dsdt_len = sizeof(t->dsdt),
		.cpus = TEST_CPUS,
		.machine_version = 1,
	};
}

static inline void test_end(struct boot_test *t)
{
	memory_destroy(&t->mem);
	fd_close(&t->src.kernel_fd);
	fd_close(&t->src.initramfs_fd);
}

static inline int test_load(struct boot_test *t)
{
	return boot_load(&t->src, &t->mem, &t->entry, &t->err);
}

static inline void assert_loads(struct boot_test *t)
{
	int ret = test_load(t);

	if (ret < 0)
		fail_msg("boot_load: %s", t->err.text);
}

/* The load fails with -code, and the sentence has both texts in it. */
static inline void assert_refused(struct boot_test *t, int code, const char *name, const char *text)
{
	int ret = test_load(t);

	if (ret != -code || !strstr(t->err.text, name) || !strstr(t->err.text, text))
		fail_msg("expected %d \"%s ... %s\", got %d \"%s\"", -code, name, text, ret,
			 t->err.text);
	assert_int_equal(t->err.code, code);
}

static inline const void *ram_at(const struct boot_test *t, uint64_t gpa, uint64_t len)
{
	const void *p = memory_ptr(&t->mem, gpa, len);

	assert_non_null(p);
	return p;
}

/* len bytes of RAM are those of a synthetic file from off on. */
static inline void assert_pattern(const struct boot_test *t, uint64_t gpa, uint64_t len,
				  uint64_t off)
{
	const uint8_t *p = ram_at(t, gpa, len);

	for (uint64_t i = 0; i < len; i++) {
		if (p[i] != pattern(off + i))
			fail_msg("byte %llu at gpa 0x%llx is 0x%02x, not 0x%02x",
				 (unsigned long long)i, (unsigned long long)gpa, p[i],
				 pattern(off + i));
	}
}

/* A small generator with a fixed seed: a failing run can be repeated. */
static inline uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 33);
}

/* ---- bzImage ---- */

#define BZ_SETUP_SECTS 3
#define BZ_PAYLOAD_OFF ((BZ_SETUP_SECTS + 1) * 512)
#define BZ_PAYLOAD_LEN 0x3000
#define BZ_FILE_LEN (BZ_PAYLOAD_OFF + BZ_PAYLOAD_LEN)
#define BZ_LOAD 0x1000000ull
#define BZ_INIT_SIZE 0x800000u
#define BZ_CMDLINE_SIZE 255

struct bz_file {
	struct setup_header hdr;
	uint8_t bytes[BZ_FILE_LEN];
};

static inline void bz_make(struct bz_file *bz)
{
	for (size_t i = 0; i < BZ_FILE_LEN; i++)
		bz->bytes[i] = pattern(i);
	bz->hdr = (struct setup_header){
		.setup_sects = BZ_SETUP_SECTS,
		.syssize = BZ_PAYLOAD_LEN / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb,       /* header ends at 0x202 + 0x6a */
		.header = 0x53726448, /* "HdrS" */
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = BZ_CMDLINE_SIZE,
		.pref_address = BZ_LOAD,
		.init_size = BZ_INIT_SIZE,
		.setup_data = 0x1234, /* left behind by nobody: the loader clears it */
	};
}

static inline int bz_fd(struct bz_file *bz, size_t len)
{
	memcpy(bz->bytes + 0x1f1, &bz->hdr, sizeof(bz->hdr));
	return make_file(bz->bytes, len);
}

/* ---- PVH ELF ---- */

#define ELF_PHDRS 4 /* 0: text, 1: data, 2: note, 3: spare, PT_NULL */
#define ELF_NOTE_OFF 0x400
#define ELF_TEXT_OFF 0x1000
#define ELF_TEXT_LEN 0x1800
#define ELF_TEXT_GPA 0x100000ull
#define ELF_DATA_OFF 0x2800
#define ELF_DATA_LEN 0x700
#define ELF_DATA_MEM 0x5000
#define ELF_DATA_GPA 0x200000ull
#define ELF_ENTRY (ELF_TEXT_GPA + 0x10)
#define ELF_FILE_LEN (ELF_DATA_OFF + ELF_DATA_LEN)
#define ELF_NOTE_PHYS32_ENTRY 18

struct elf_note {
	Elf64_Nhdr head;
	char name[4];
	uint64_t entry;
};

struct elf_file {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[ELF_PHDRS];
	struct elf_note note;
	uint8_t bytes[ELF_FILE_LEN];
};

static inline void elf_make(struct elf_file *elf)
{
	memset(elf, 0, sizeof(*elf));
	for (size_t i = 0; i < ELF_FILE_LEN; i++)
		elf->bytes[i] = pattern(i);
	memcpy(elf->eh.e_ident, ELFMAG, SELFMAG);
	elf->eh.e_ident[EI_CLASS] = ELFCLASS64;
	elf->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	elf->eh.e_ident[EI_VERSION] = EV_CURRENT;
	elf->eh.e_type = ET_EXEC;
	elf->eh.e_machine = EM_X86_64;
	elf->eh.e_version = EV_CURRENT;
	elf->eh.e_phoff = sizeof(Elf64_Ehdr);
	elf->eh.e_ehsize = sizeof(Elf64_Ehdr);
	elf->eh.e_phentsize = sizeof(Elf64_Phdr);
	elf->eh.e_phnum = ELF_PHDRS;
	elf->ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				   .p_offset = ELF_TEXT_OFF,
				   .p_paddr = ELF_TEXT_GPA,
				   .p_vaddr = ELF_TEXT_GPA,
				   .p_filesz = ELF_TEXT_LEN,
				   .p_memsz = ELF_TEXT_LEN };
	elf->ph[1] = (Elf64_Phdr){ .p_type = PT_LOAD,
				   .p_offset = ELF_DATA_OFF,
				   .p_paddr = ELF_DATA_GPA,
				   .p_vaddr = ELF_DATA_GPA,
				   .p_filesz = ELF_DATA_LEN,
				   .p_memsz = ELF_DATA_MEM };
	elf->ph[2] = (Elf64_Phdr){ .p_type = PT_NOTE,
				   .p_offset = ELF_NOTE_OFF,
				   .p_filesz = sizeof(struct elf_note),
				   .p_align = 4 };
	elf->note = (struct elf_note){
		.head = { .n_namesz = 4, .n_descsz = 8, .n_type = ELF_NOTE_PHYS32_ENTRY },
		.name = "Xen",
		.entry = ELF_ENTRY,
	};
}

static inline void elf_assemble(struct elf_file *elf)
{
	memcpy(elf->bytes, &elf->eh, sizeof(elf->eh));
	memcpy(elf->bytes + sizeof(elf->eh), elf->ph, sizeof(elf->ph));
	memcpy(elf->bytes + ELF_NOTE_OFF, &elf->note, sizeof(elf->note));
}

static inline int elf_fd(struct elf_file *elf, size_t len)
{
	elf_assemble(elf);
	return make_file(elf->bytes, len);
}

/* ---- a KVM that remembers what was set ---- */

struct fake_kvm {
	struct kvm kvm;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	int vcpu_fd;                /* the last one named */
	unsigned long fail_request; /* this one fails with EIO */
};

static inline int fake_ioctl(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_kvm *fake = kvm->opaque;

	fake->vcpu_fd = fd;
	if (request == fake->fail_request)
		return -EIO;
	if (request == KVM_GET_SREGS)
		*(struct kvm_sregs *)arg = fake->sregs;
	else if (request == KVM_SET_SREGS)
		fake->sregs = *(const struct kvm_sregs *)arg;
	else if (request == KVM_SET_REGS)
		fake->regs = *(const struct kvm_regs *)arg;
	else
		return -ENOTTY;
	return 0;
}

static inline void fake_kvm_init(struct fake_kvm *fake)
{
	memset(fake, 0, sizeof(*fake));
	memset(&fake->sregs, 0xff, sizeof(fake->sregs));
	memset(&fake->regs, 0xff, sizeof(fake->regs));
	fake->sregs.apic_base = 0xfee00900;
	fake->kvm.ioctl = fake_ioctl;
	fake->kvm.opaque = fake;
}

#endif
