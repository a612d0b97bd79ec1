/* SPDX-License-Identifier: MIT */
/*
 * What the loaders of src/boot share: bounded reading from an image, the layout of the boot data in
 * low RAM, and placing of command line and initramfs. Not for other rooms.
 */
#ifndef MOLT_BOOT_IMAGE_H
#define MOLT_BOOT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/boot/boot.h>
#include <molt/vm/memory.h>

/*
 * Boot data lives in the first 640 KiB, above the real-mode interrupt vectors and the BIOS data
 * area; kernels are loaded from 1 MiB up. The guest may reuse all of it once it has read it.
 */
#define BOOT_GDT_GPA 0x6000ull
#define BOOT_PARAMS_GPA 0x7000ull      /* struct boot_params */
#define BOOT_START_INFO_GPA 0x8000ull  /* struct hvm_start_info and its lists */
#define BOOT_PAGE_TABLES_GPA 0x9000ull /* PML4, PDPT, four page directories */
#define BOOT_CMDLINE_GPA 0x20000ull
#define BOOT_CMDLINE_SIZE 0x10000ull /* with the NUL */
#define BOOT_LOW_RAM_END 0x9fc00ull
#define BOOT_KERNEL_MIN_GPA 0x100000ull

#define BOOT_PAGE_SIZE 4096ull

/* Selectors of the GDT at BOOT_GDT_GPA; the first two are named by the Linux boot protocol. */
#define BOOT_SEL_CS 0x10
#define BOOT_SEL_DS 0x18
#define BOOT_SEL_TSS 0x20
#define BOOT_GDT_ENTRIES 4

/* A file, or bytes in memory. */
struct boot_image {
	const char *name;
	int fd; /* -1: data */
	const uint8_t *data;
	uint64_t size;
};

/* All that a loader needs. */
struct boot_job {
	struct boot_image kernel;
	struct boot_image initramfs;
	bool has_initramfs;
	const char *cmdline; /* never NULL */
	struct memory *mem;
	uint64_t low_end; /* first gpa after RAM below 4 GiB */
};

/* Takes an open file. -EISDIR, -EINVAL for what is no regular file, -ENOEXEC if it is empty. */
int boot_image_open(struct boot_image *img, int fd, const char *name, struct error *err);

/*
 * Reads exactly len bytes from off on into buf. -ENOEXEC where the image ends before; what names
 * the part of the image, for the sentence.
 */
int boot_image_read(const struct boot_image *img, uint64_t off, void *buf, uint64_t len,
		    const char *what, struct error *err);

/* The same into guest RAM at gpa; -ENOMEM where not all of it is RAM. */
int boot_image_load(const struct boot_image *img, uint64_t off, uint64_t len, struct memory *mem,
		    uint64_t gpa, const char *what, struct error *err);

/* Copies boot data into low RAM; -ENOMEM where that is no RAM. */
int boot_put(struct memory *mem, uint64_t gpa, const void *data, size_t len, const char *what,
	     struct error *err);

/* Puts the command line at BOOT_CMDLINE_GPA. limit: what the kernel takes, without the NUL. */
int boot_put_cmdline(const struct boot_job *job, uint64_t limit, struct error *err);

/*
 * Loads the initramfs as high as it goes in [floor, ceiling), on a page boundary, and says where.
 * *gpa is 0 without an initramfs.
 */
int boot_put_initramfs(const struct boot_job *job, uint64_t floor, uint64_t ceiling, uint64_t *gpa,
		       struct error *err);

/* The loaders: job->kernel was recognised by its magic, nothing else of it is known. */
int bzimage_load(const struct boot_job *job, struct boot_entry *entry, struct error *err);
int pvh_load(const struct boot_job *job, struct boot_entry *entry, struct error *err);

/* Bytes in whole MiB, rounded up: for sentences that say how much memory a guest needs. */
static inline uint64_t boot_mib(uint64_t bytes)
{
	return (bytes >> 20) + ((bytes & 0xfffff) != 0);
}

#endif
