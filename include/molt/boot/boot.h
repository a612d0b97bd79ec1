/* SPDX-License-Identifier: MIT */
/*
 * Direct boot: a kernel, its initramfs and command line, and the ACPI tables go into guest RAM, and
 * vCPU 0 gets the registers that the kernel's boot protocol asks for. No firmware runs.
 *
 * Two formats are told apart by their first bytes:
 *	bzImage		Linux, 64-bit boot protocol 2.12 or later (Documentation/arch/x86/boot.rst)
 *	ELF64		any kernel with a PVH entry note (Xen, docs/misc/pvh.pandoc)
 *
 * Kernel and initramfs are hostile input: a malformed one gets a sentence, never a crash, and
 * nothing is allocated or read by a length that was not checked.
 */
#ifndef MOLT_BOOT_BOOT_H
#define MOLT_BOOT_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/vm/kvm.h>
#include <molt/vm/memory.h>

/* What to boot. Everything stays the caller's; the descriptors' file offsets are not used. */
struct boot_source {
	int kernel_fd;           /* a regular file or memfd; -1: boot `builtin` */
	const char *kernel_name; /* path, for sentences; not needed with kernel_fd -1 */
	int initramfs_fd;        /* -1: none */
	const char *initramfs_name;
	const char *cmdline; /* NULL is the empty one */
	const void *builtin; /* an ELF64 image, such as the built-in demo guest */
	size_t builtin_len;
	const void *dsdt; /* a whole DSDT as iasl makes it */
	size_t dsdt_len;
	uint32_t cpus;            /* 1..254 */
	uint32_t machine_version; /* what the guest sees: in the ACPI tables' ids */
};

enum boot_mode {
	BOOT_LINUX64, /* long mode, identity page tables, RSI = struct boot_params */
	BOOT_PVH32,   /* 32-bit protected mode without paging, EBX = struct hvm_start_info */
};

/* Where vCPU 0 starts. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;    /* gpa of the first instruction; below 4 GiB */
	uint64_t params; /* gpa of what the kernel is told, for RSI or EBX */
};

/*
 * Loads everything into mem and fills entry. RAM must read as zeroes, as memory_create() and
 * memory_clear() leave it: bytes that an image leaves zero (.bss) are not written. Reads the files
 * from offset 0, so it can run again on each reset. After an error RAM's contents are undefined.
 *
 * Errors, each with a sentence that names the file and the numbers:
 *	-ENOEXEC  not a kernel that can be booted: unknown, malformed, truncated, too old
 *	-ENOMEM   does not fit into guest RAM
 *	-E2BIG    the command line is too long
 *	-EISDIR, -EINVAL  a file is a directory, or another thing that is not a regular file
 *	-EINVAL   cpus or dsdt are not what they must be
 *	-ENOSPC   the ACPI tables do not fit
 *	others    reading failed
 */
int boot_load(const struct boot_source *src, struct memory *mem, struct boot_entry *entry,
	      struct error *err);

/*
 * Sets vCPU 0's registers, general and system, for entry. The vCPU must be fresh from
 * KVM_CREATE_VCPU: what is not named by the boot protocol (APIC base, FPU, MSRs) stays as it is.
 * 0 or what KVM said.
 */
int boot_set_registers(const struct boot_entry *entry, struct kvm *kvm, int vcpu_fd,
		       struct error *err);

#endif
