/* SPDX-License-Identifier: MIT */
/*
 * Linux bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst; section names in
 * quotes below are its).
 *
 * Theory of operation
 *
 * A bzImage is a 16-bit setup part of (setup_sects + 1) sectors, which is not run here, and the
 * protected-mode kernel, the payload. The setup header at offset 0x1f1 is copied into a zeroed
 * struct boot_params and completed there. The payload goes to where the kernel will decompress
 * itself in place, and is entered 0x200 bytes in, in long mode on identity page tables.
 *
 * The load address is pref_address. The protocol lets a relocatable kernel be loaded lower too, but
 * a 64-bit Linux then decompresses itself to pref_address all the same: where pref_address to
 * pref_address + init_size is not all RAM, the guest would die without a word. So that is an error
 * here, with the amount of memory that would do.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include <molt/boot/acpi.h>
#include <molt/boot/boot.h>
#include <molt/boot/image.h>
#include <molt/boot/memory_map.h>

#define SECTOR 512u
#define HEADER_START 0x1f1u
#define HEADER_LEN_BYTE 0x201u  /* the header ends at 0x202 plus this byte */
#define HEADER_MAX_END 0x290u   /* room for it in struct boot_params */
#define HEAD_BYTES (2 * SECTOR) /* as much as the smallest setup part has */
#define DEFAULT_SETUP_SECTS 4u  /* what 0 means */
#define BOOT_FLAG 0xaa55
#define VERSION(major, minor) ((major) << 8 | (minor))
#define ENTRY64_OFFSET 0x200u
#define LOADER_UNDEFINED 0xff

#define PTE_PRESENT 0x1ull
#define PTE_WRITE 0x2ull
#define PTE_LARGE 0x80ull
#define PTES 512u
#define LARGE_PAGE 0x200000ull
#define PTE_LARGE_FLAGS (PTE_PRESENT | PTE_WRITE | PTE_LARGE)
#define MAPPED_GIB 4u

_Static_assert(offsetof(struct boot_params, hdr) == HEADER_START, "boot_params ABI");
_Static_assert(sizeof(struct boot_params) == 4096, "boot_params ABI");
_Static_assert(HEADER_START + sizeof(struct setup_header) <= HEADER_MAX_END, "boot_params ABI");
_Static_assert(E820_MAX_ENTRIES_ZEROPAGE >= BOOT_MAP_MAX, "the map fits into boot_params");

struct bzimage {
	uint8_t head[HEAD_BYTES];
	uint32_t header_end;     /* offset in head where the header's fields end */
	struct setup_header hdr; /* copy, zero behind header_end */
	uint64_t payload_off;
	uint64_t payload_len;
	uint64_t load; /* gpa */
	uint64_t end;  /* first gpa that the kernel does not need to start */
};

/* Reads the header and refuses a kernel without the fields and the entry that we use. */
static int read_header(const struct boot_image *img, struct bzimage *bz, struct error *err)
{
	uint32_t end;
	size_t len;
	int ret;

	ret = boot_image_read(img, 0, bz->head, HEAD_BYTES, "kernel's setup header", err);
	if (ret < 0)
		return ret;
	end = 0x202u + bz->head[HEADER_LEN_BYTE];
	bz->header_end = end < HEADER_MAX_END ? end : HEADER_MAX_END;
	len = bz->header_end - HEADER_START;
	if (len > sizeof(bz->hdr))
		len = sizeof(bz->hdr);
	memcpy(&bz->hdr, bz->head + HEADER_START, len);

	if (bz->hdr.boot_flag != BOOT_FLAG)
		return err_set(err, ENOEXEC,
			       "%s: damaged bzImage: boot flag 0x%04x instead of "
			       "0x%04x",
			       img->name, bz->hdr.boot_flag, BOOT_FLAG);
	if (bz->hdr.version < VERSION(2, 12))
		return err_set(err, ENOEXEC,
			       "%s: boot protocol %u.%02u is too old: 2.12 "
			       "(Linux 3.8) or later is needed",
			       img->name, bz->hdr.version >> 8, bz->hdr.version & 0xff);
	if (bz->header_end < HEADER_START + offsetof(struct setup_header, handover_offset))
		return err_set(err, ENOEXEC,
			       "%s: damaged bzImage: its setup header ends at offset "
			       "0x%x, too early for boot protocol %u.%02u",
			       img->name, bz->header_end, bz->hdr.version >> 8,
			       bz->hdr.version & 0xff);
	if (!(bz->hdr.xloadflags & XLF_KERNEL_64))
		return err_set(err, ENOEXEC,
			       "%s: has no 64-bit entry (xloadflags 0x%04x): it is a "
			       "32-bit kernel",
			       img->name, bz->hdr.xloadflags);
	if (!(bz->hdr.loadflags & LOADED_HIGH))
		return err_set(err, ENOEXEC,
			       "%s: is a zImage (loadflags 0x%02x), which only runs "
			       "below 1 MiB: use the bzImage",
			       img->name, bz->hdr.loadflags);
	return 0;
}

/* syssize tells a truncated file; the file may be longer, by a signature that does no harm. */
static int find_payload(const struct boot_image *img, struct bzimage *bz, struct error *err)
{
	uint32_t sects = bz->hdr.setup_sects ? bz->hdr.setup_sects : DEFAULT_SETUP_SECTS;
	uint64_t wanted = (uint64_t)bz->hdr.syssize * 16;

	bz->payload_off = (uint64_t)(sects + 1) * SECTOR;
	if (wanted <= ENTRY64_OFFSET)
		wanted = ENTRY64_OFFSET + 1;
	if (img->size < bz->payload_off || img->size - bz->payload_off < wanted)
		return err_set(err, ENOEXEC,
			       "%s: truncated: %u setup sectors and %" PRIu64
			       " bytes of kernel make %" PRIu64 " bytes, but the file has %" PRIu64,
			       img->name, sects, wanted, bz->payload_off + wanted, img->size);
	bz->payload_len = img->size - bz->payload_off;
	return 0;
}

/* "Details of Header Fields": pref_address, kernel_alignment, init_size. */
static int choose_load_address(const struct boot_job *job, struct bzimage *bz, struct error *err)
{
	const char *name = job->kernel.name;
	uint64_t need = bz->hdr.init_size > bz->payload_len ? bz->hdr.init_size : bz->payload_len;
	uint64_t align = bz->hdr.kernel_alignment;
	uint64_t load = bz->hdr.pref_address;

	if (bz->hdr.relocatable_kernel) {
		if (align == 0 || (align & (align - 1)) != 0)
			return err_set(err, ENOEXEC,
				       "%s: damaged bzImage: kernel_alignment "
				       "0x%" PRIx64 " is not a power of two",
				       name, align);
		if (load < BOOT_KERNEL_MIN_GPA)
			load = BOOT_KERNEL_MIN_GPA;
		if (load < MEMORY_LOW_MAX)
			load = (load + align - 1) & ~(align - 1);
	}
	if (load < BOOT_KERNEL_MIN_GPA)
		return err_set(err, ENOEXEC,
			       "%s: wants to be loaded at 0x%" PRIx64 " and nowhere "
			       "else; kernels are loaded from 0x%llx up",
			       name, load, BOOT_KERNEL_MIN_GPA);
	if (load >= MEMORY_LOW_MAX || need > MEMORY_LOW_MAX - load)
		return err_set(err, ENOMEM,
			       "%s: needs %" PRIu64 " bytes of RAM at 0x%" PRIx64
			       ", but RAM below 4 GiB never goes beyond 0x%llx",
			       name, need, load, MEMORY_LOW_MAX);
	if (load + need > job->low_end)
		return err_set(err, ENOMEM,
			       "%s: needs %" PRIu64 " bytes of RAM at 0x%" PRIx64
			       " to start: the guest must have %" PRIu64 " MiB, not %" PRIu64,
			       name, need, load, boot_mib(load + need), job->mem->size >> 20);
	bz->load = load;
	bz->end = load + need;
	return 0;
}

/* One-to-one for the first 4 GiB, with 2 MiB pages. */
static int put_page_tables(struct memory *mem, struct error *err)
{
	const uint64_t base = BOOT_PAGE_TABLES_GPA;
	uint64_t table[PTES] = { (base + BOOT_PAGE_SIZE) | PTE_PRESENT | PTE_WRITE };
	int ret;

	ret = boot_put(mem, base, table, sizeof(table), "page tables", err);
	if (ret < 0)
		return ret;
	for (uint64_t i = 0; i < MAPPED_GIB; i++)
		table[i] = (base + (2 + i) * BOOT_PAGE_SIZE) | PTE_PRESENT | PTE_WRITE;
	ret = boot_put(mem, base + BOOT_PAGE_SIZE, table, sizeof(table), "page tables", err);
	for (uint64_t i = 0; i < MAPPED_GIB && ret == 0; i++) {
		for (uint64_t j = 0; j < PTES; j++)
			table[j] = (i * PTES + j) * LARGE_PAGE | PTE_LARGE_FLAGS;
		ret = boot_put(mem, base + (2 + i) * BOOT_PAGE_SIZE, table, sizeof(table),
			       "page tables", err);
	}
	return ret;
}

/* "64-bit BOOT PROTOCOL": a GDT with flat __BOOT_CS (0x10) and __BOOT_DS (0x18). */
static int put_gdt(struct memory *mem, struct error *err)
{
	const uint64_t gdt[BOOT_GDT_ENTRIES] = {
		[BOOT_SEL_CS / 8] = 0x00af9b000000ffff, /* 64-bit code */
		[BOOT_SEL_DS / 8] = 0x00cf93000000ffff, /* data */
	};

	return boot_put(mem, BOOT_GDT_GPA, gdt, sizeof(gdt), "GDT", err);
}

static int put_boot_params(const struct boot_job *job, const struct bzimage *bz, uint64_t initramfs,
			   struct error *err)
{
	struct boot_range map[BOOT_MAP_MAX];
	unsigned int n = boot_memory_map(job->mem->size, map);
	struct boot_params bp;

	memset(&bp, 0, sizeof(bp));
	memcpy((uint8_t *)&bp + HEADER_START, bz->head + HEADER_START,
	       bz->header_end - HEADER_START);
	bp.hdr.type_of_loader = LOADER_UNDEFINED;
	bp.hdr.setup_data = 0;
	bp.hdr.cmd_line_ptr = (uint32_t)BOOT_CMDLINE_GPA;
	bp.hdr.ramdisk_image = (uint32_t)initramfs;
	bp.hdr.ramdisk_size = job->has_initramfs ? (uint32_t)job->initramfs.size : 0;
	if (bz->hdr.version >= VERSION(2, 14))
		bp.acpi_rsdp_addr = ACPI_RSDP_GPA;
	for (unsigned int i = 0; i < n; i++)
		bp.e820_table[i] = (struct boot_e820_entry){ .addr = map[i].gpa,
							     .size = map[i].size,
							     .type = map[i].type };
	bp.e820_entries = (uint8_t)n;
	return boot_put(job->mem, BOOT_PARAMS_GPA, &bp, sizeof(bp), "boot parameters", err);
}

static int load_initramfs(const struct boot_job *job, const struct bzimage *bz, uint64_t *gpa,
			  struct error *err)
{
	uint64_t ceiling = (uint64_t)bz->hdr.initrd_addr_max + 1;

	if (ceiling > job->low_end)
		ceiling = job->low_end;
	return boot_put_initramfs(job, bz->end, ceiling, gpa, err);
}

int bzimage_load(const struct boot_job *job, struct boot_entry *entry, struct error *err)
{
	struct bzimage bz = { 0 };
	uint64_t initramfs;
	int ret;

	ret = read_header(&job->kernel, &bz, err);
	if (ret == 0)
		ret = find_payload(&job->kernel, &bz, err);
	if (ret == 0)
		ret = choose_load_address(job, &bz, err);
	if (ret == 0)
		ret = boot_put_cmdline(job, bz.hdr.cmdline_size, err);
	if (ret == 0)
		ret = load_initramfs(job, &bz, &initramfs, err);
	if (ret == 0)
		ret = boot_image_load(&job->kernel, bz.payload_off, bz.payload_len, job->mem,
				      bz.load, "kernel", err);
	if (ret == 0)
		ret = put_page_tables(job->mem, err);
	if (ret == 0)
		ret = put_gdt(job->mem, err);
	if (ret == 0)
		ret = put_boot_params(job, &bz, initramfs, err);
	if (ret < 0)
		return ret;
	*entry = (struct boot_entry){ .mode = BOOT_LINUX64,
				      .rip = bz.load + ENTRY64_OFFSET,
				      .params = BOOT_PARAMS_GPA };
	return 0;
}
