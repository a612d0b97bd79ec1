/* SPDX-License-Identifier: MIT */
/*
 * ELF64 kernels by the PVH boot protocol (Xen: docs/misc/pvh.pandoc, and the structures of
 * public/arch-x86/hvm/start_info.h).
 *
 * Theory of operation
 *
 * A kernel says that it can be entered this way by an ELF note, name "Xen", type 18, whose contents
 * are the physical address of a 32-bit entry (elf_notes.c). Linux's vmlinux (CONFIG_PVH), FreeBSD,
 * unikernels and molt's own guests have it. The PT_LOAD segments go to their physical addresses;
 * what the kernel must know (address map, modules, command line, RSDP) is in hvm_start_info.
 *
 * Every number in the file is checked before the first segment goes to guest RAM. A segment may not
 * touch the first MiB, which holds the boot data and the ACPI tables, may not overlap another one,
 * and must be RAM to its last byte. The part beyond p_filesz is not written: RAM is zero already,
 * and zeroing it would make the host allocate whatever size the file claims.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

#include <molt/base/fd.h>
#include <molt/boot/acpi.h>
#include <molt/boot/boot.h>
#include <molt/boot/image.h>
#include <molt/boot/memory_map.h>

#include "elf_notes.h"

#define MAX_PHDRS 128u /* keeps the search for overlaps short; kernels have fewer than ten */

#define HVM_START_MAGIC 0x336ec578u
#define HVM_START_VERSION 1u

struct hvm_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr; /* from version 1 on */
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct hvm_modlist_entry {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};

struct hvm_memmap_entry {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

/* All of it in one piece at BOOT_START_INFO_GPA. */
struct start_block {
	struct hvm_start_info info;
	struct hvm_modlist_entry module;
	struct hvm_memmap_entry map[BOOT_MAP_MAX];
};

_Static_assert(sizeof(struct hvm_start_info) == 56, "start_info ABI");
_Static_assert(sizeof(struct hvm_modlist_entry) == 32, "start_info ABI");
_Static_assert(sizeof(struct hvm_memmap_entry) == 24, "start_info ABI");
_Static_assert(BOOT_START_INFO_GPA + sizeof(struct start_block) <= BOOT_PAGE_TABLES_GPA,
	       "the start_info block has a page");

struct elf_kernel {
	const struct boot_image *img;
	Elf64_Ehdr ehdr;
	Elf64_Phdr phdrs[MAX_PHDRS];
	unsigned int nphdrs;
	uint64_t entry;
	uint64_t low_top; /* end of the highest segment below 4 GiB */
};

static int read_headers(struct elf_kernel *k, struct error *err)
{
	const char *name = k->img->name;
	const Elf64_Ehdr *eh = &k->ehdr;
	int ret;

	ret = boot_image_read(k->img, 0, &k->ehdr, sizeof(k->ehdr), "ELF header", err);
	if (ret < 0)
		return ret;
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != EM_X86_64)
		return err_set(err, ENOEXEC,
			       "%s: is an ELF file, but not for x86-64 (class %u, "
			       "data %u, machine %u)",
			       name, eh->e_ident[EI_CLASS], eh->e_ident[EI_DATA], eh->e_machine);
	if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
		return err_set(err, ENOEXEC, "%s: ELF type %u is not an executable", name,
			       eh->e_type);
	if (eh->e_phentsize != sizeof(Elf64_Phdr))
		return err_set(err, ENOEXEC,
			       "%s: damaged ELF file: program headers of %u bytes "
			       "instead of %zu",
			       name, eh->e_phentsize, sizeof(Elf64_Phdr));
	if (eh->e_phnum == 0 || eh->e_phnum > MAX_PHDRS)
		return err_set(err, ENOEXEC, "%s: has %u program headers; 1 to %u can be loaded",
			       name, eh->e_phnum, MAX_PHDRS);
	k->nphdrs = eh->e_phnum;
	return boot_image_read(k->img, eh->e_phoff, k->phdrs, k->nphdrs * sizeof(Elf64_Phdr),
			       "table of program headers", err);
}

/* A segment that has anything to load. */
static bool is_load(const Elf64_Phdr *ph)
{
	return ph->p_type == PT_LOAD && ph->p_memsz > 0;
}

static int check_segment(const struct elf_kernel *k, unsigned int i, struct memory *mem,
			 struct error *err)
{
	const char *name = k->img->name;
	const Elf64_Phdr *ph = &k->phdrs[i];

	if (ph->p_filesz > ph->p_memsz)
		return err_set(err, ENOEXEC,
			       "%s: damaged ELF file: segment %u has %" PRIu64
			       " bytes in the file but %" PRIu64 " in memory",
			       name, i, ph->p_filesz, ph->p_memsz);
	if (ph->p_filesz > 0 &&
	    (ph->p_offset > k->img->size || ph->p_filesz > k->img->size - ph->p_offset))
		return err_set(err, ENOEXEC,
			       "%s: truncated: segment %u is %" PRIu64 " bytes at "
			       "offset %" PRIu64 ", but the file has %" PRIu64 " bytes",
			       name, i, ph->p_filesz, ph->p_offset, k->img->size);
	if (ph->p_memsz > UINT64_MAX - ph->p_paddr)
		return err_set(err, ENOEXEC,
			       "%s: damaged ELF file: segment %u of %" PRIu64 " bytes at 0x%" PRIx64
			       " goes beyond the end of the address space",
			       name, i, ph->p_memsz, ph->p_paddr);
	if (ph->p_paddr < BOOT_KERNEL_MIN_GPA)
		return err_set(err, ENOEXEC,
			       "%s: segment %u is at 0x%" PRIx64 "; the addresses "
			       "below 0x%llx are taken by boot data and ACPI tables",
			       name, i, ph->p_paddr, BOOT_KERNEL_MIN_GPA);
	if (!memory_ptr(mem, ph->p_paddr, ph->p_memsz))
		return err_set(err, ENOMEM,
			       "%s: segment %u needs RAM from 0x%" PRIx64 " to 0x%" PRIx64
			       ", which the guest with %" PRIu64 " MiB does not have",
			       name, i, ph->p_paddr, ph->p_paddr + ph->p_memsz, mem->size >> 20);
	return 0;
}

/* Called in order, so that both have passed check_segment() and no sum wraps. */
static int check_overlap(const struct elf_kernel *k, unsigned int i, unsigned int j,
			 struct error *err)
{
	const Elf64_Phdr *a = &k->phdrs[i];
	const Elf64_Phdr *b = &k->phdrs[j];

	if (a->p_paddr >= b->p_paddr + b->p_memsz || b->p_paddr >= a->p_paddr + a->p_memsz)
		return 0;
	return err_set(err, ENOEXEC,
		       "%s: damaged ELF file: segment %u (0x%" PRIx64 " to 0x%" PRIx64
		       ") overlaps segment %u (0x%" PRIx64 " to 0x%" PRIx64 ")",
		       k->img->name, i, a->p_paddr, a->p_paddr + a->p_memsz, j, b->p_paddr,
		       b->p_paddr + b->p_memsz);
}

static int check_segments(struct elf_kernel *k, const struct boot_job *job, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < k->nphdrs && ret == 0; i++) {
		const Elf64_Phdr *ph = &k->phdrs[i];
		uint64_t end = ph->p_paddr + ph->p_memsz;

		if (!is_load(ph))
			continue;
		ret = check_segment(k, i, job->mem, err);
		for (unsigned int j = 0; j < i && ret == 0; j++) {
			if (is_load(&k->phdrs[j]))
				ret = check_overlap(k, i, j, err);
		}
		if (ret == 0 && end <= job->low_end && end > k->low_top)
			k->low_top = end;
	}
	return ret;
}

static int find_entry(struct elf_kernel *k, struct error *err)
{
	int ret = elf_notes_find_entry(k->img, k->phdrs, k->nphdrs, &k->entry, err);

	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < k->nphdrs; i++) {
		const Elf64_Phdr *ph = &k->phdrs[i];

		if (is_load(ph) && k->entry >= ph->p_paddr &&
		    k->entry - ph->p_paddr < ph->p_filesz && k->entry <= UINT32_MAX)
			return 0;
	}
	return err_set(err, ENOEXEC,
		       "%s: the PVH entry 0x%" PRIx64 " is in no loaded segment "
		       "below 4 GiB",
		       k->img->name, k->entry);
}

static int load_segments(const struct elf_kernel *k, struct memory *mem, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < k->nphdrs && ret == 0; i++) {
		const Elf64_Phdr *ph = &k->phdrs[i];

		if (is_load(ph) && ph->p_filesz > 0)
			ret = boot_image_load(k->img, ph->p_offset, ph->p_filesz, mem, ph->p_paddr,
					      "segment", err);
	}
	return ret;
}

static int put_start_info(const struct boot_job *job, uint64_t initramfs, struct error *err)
{
	struct boot_range map[BOOT_MAP_MAX];
	unsigned int n = boot_memory_map(job->mem->size, map);
	struct start_block block = {
		.info = {
			.magic = HVM_START_MAGIC,
			.version = HVM_START_VERSION,
			.cmdline_paddr = BOOT_CMDLINE_GPA,
			.rsdp_paddr = ACPI_RSDP_GPA,
			.memmap_paddr = BOOT_START_INFO_GPA + offsetof(struct start_block, map),
			.memmap_entries = n,
		},
	};

	if (job->has_initramfs) {
		block.info.nr_modules = 1;
		block.info.modlist_paddr = BOOT_START_INFO_GPA +
					   offsetof(struct start_block, module);
		block.module.paddr = initramfs;
		block.module.size = job->initramfs.size;
	}
	for (unsigned int i = 0; i < n; i++)
		block.map[i] = (struct hvm_memmap_entry){ .addr = map[i].gpa,
							  .size = map[i].size,
							  .type = map[i].type };
	return boot_put(job->mem, BOOT_START_INFO_GPA, &block, sizeof(block), "PVH start info",
			err);
}

int pvh_load(const struct boot_job *job, struct boot_entry *entry, struct error *err)
{
	struct elf_kernel k = { .img = &job->kernel, .low_top = BOOT_KERNEL_MIN_GPA };
	uint64_t initramfs;
	int ret;

	ret = read_headers(&k, err);
	if (ret == 0)
		ret = find_entry(&k, err);
	if (ret == 0)
		ret = check_segments(&k, job, err);
	if (ret == 0)
		ret = boot_put_cmdline(job, BOOT_CMDLINE_SIZE - 1, err);
	if (ret == 0)
		ret = boot_put_initramfs(job, k.low_top, job->low_end, &initramfs, err);
	if (ret == 0)
		ret = load_segments(&k, job->mem, err);
	if (ret == 0)
		ret = put_start_info(job, initramfs, err);
	if (ret < 0)
		return ret;
	*entry = (struct boot_entry){ .mode = BOOT_PVH32,
				      .rip = k.entry,
				      .params = BOOT_START_INFO_GPA };
	return 0;
}
