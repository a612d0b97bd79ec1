/* SPDX-License-Identifier: MIT */
/*
 * One boot from a fuzzed kernel file. Input: RAM in MiB less 2, length of the command line, of the
 * initramfs in KiB, and of a hole of 64 KiB pieces behind the file, so that a large kernel takes
 * little input; then the kernel.
 */
#ifndef MOLT_TESTS_BOOT_FUZZ_H
#define MOLT_TESTS_BOOT_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/boot/acpi.h>
#include <molt/boot/boot.h>
#include <molt/boot/image.h>

#include "fuzz.h"

#define BOOT_FUZZ_DSDT 36

struct boot_fuzz {
	int kernel_fd;
	int initramfs_fd;
	uint8_t dsdt[BOOT_FUZZ_DSDT];
	char cmdline[256];
};

static inline void boot_fuzz_init(struct boot_fuzz *b)
{
	unsigned int sum = 0;

	b->kernel_fd = memfd_create("fuzz-kernel", MFD_CLOEXEC);
	b->initramfs_fd = memfd_create("fuzz-initramfs", MFD_CLOEXEC);
	memcpy(b->dsdt, "DSDT", 4);
	b->dsdt[4] = sizeof(b->dsdt);
	b->dsdt[8] = 2;
	for (size_t i = 0; i < sizeof(b->dsdt); i++)
		sum += b->dsdt[i];
	b->dsdt[9] = (uint8_t)(0x100 - sum);
}

/* What a guest that was loaded must find. */
static inline void boot_fuzz_check(const struct boot_fuzz *b, const struct memory *mem,
				   const struct boot_entry *entry)
{
	const char *cmdline = memory_ptr(mem, BOOT_CMDLINE_GPA, sizeof(b->cmdline));
	const char *rsdp = memory_ptr(mem, ACPI_RSDP_GPA, 8);

	fuzz_must(entry->rip >= BOOT_KERNEL_MIN_GPA && entry->rip <= UINT32_MAX);
	fuzz_must(memory_ptr(mem, entry->rip, 1));
	fuzz_must(memory_ptr(mem, entry->params, 4096));
	fuzz_must(entry->params < BOOT_LOW_RAM_END);
	fuzz_must(strcmp(cmdline, b->cmdline) == 0);
	fuzz_must(memcmp(rsdp, "RSD PTR ", 8) == 0);
}

static inline void boot_fuzz_load(struct boot_fuzz *b, struct fuzz_input *in, const char *magic,
				  size_t magic_offset, enum boot_mode mode)
{
	uint64_t ram = (2 + fuzz_u8(in) % 31u) << 20;
	size_t cmdline = fuzz_u8(in);
	uint32_t initramfs = fuzz_u8(in) * 1024u, hole = fuzz_u8(in) % 64u * 65536u;
	struct boot_source src = {
		.kernel_fd = b->kernel_fd,
		.kernel_name = "kernel",
		.initramfs_fd = initramfs ? b->initramfs_fd : -1,
		.initramfs_name = "initramfs",
		.cmdline = b->cmdline,
		.dsdt = b->dsdt,
		.dsdt_len = sizeof(b->dsdt),
		.cpus = 2,
		.machine_version = 1,
	};
	struct boot_entry entry, again;
	struct error err = ERROR_INIT;
	struct memory mem;
	int r;

	memset(b->cmdline, 0, sizeof(b->cmdline));
	memset(b->cmdline, 'c', cmdline);
	fuzz_fill(b->kernel_fd, in->data, in->len);
	fuzz_must(ftruncate(b->kernel_fd, (off_t)(in->len + hole)) == 0);
	/* It is this loader that is to be fuzzed. */
	fuzz_must(pwrite(b->kernel_fd, magic, 4, (off_t)magic_offset) == 4);
	fuzz_must(ftruncate(b->initramfs_fd, initramfs) == 0);
	fuzz_must_work(memory_create(&mem, ram, NULL, NULL, &err), &err);
	r = boot_load(&src, &mem, &entry, &err);
	if (r < 0) {
		fuzz_must_explain(r, &err);
	} else {
		fuzz_must(entry.mode == mode);
		boot_fuzz_check(b, &mem, &entry);
		/* As after a guest reset: the same again. */
		fuzz_must_work(memory_clear(&mem, &err), &err);
		fuzz_must_work(boot_load(&src, &mem, &again, &err), &err);
		fuzz_must(entry.rip == again.rip && entry.params == again.params);
		boot_fuzz_check(b, &mem, &again);
	}
	memory_destroy(&mem);
}

#endif
