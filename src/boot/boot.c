/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * boot_load() opens the images, recognises the kernel by its magic and hands it to the loader of
 * its format; the loader places kernel, initramfs, command line and the structure that tells the
 * kernel about them. The ACPI tables are the same for both. Nothing is remembered between loads.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/boot/acpi.h>
#include <molt/boot/boot.h>
#include <molt/boot/image.h>

#define CR0_PE (1ull << 0)
#define CR0_ET (1ull << 4)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_FIXED (1ull << 1)

/* Segment types (Intel SDM volume 3, 3.4.5.1 and 3.5; AMD APM volume 2, 4.7 and 4.8). */
#define SEG_CODE_READ_ACCESSED 11
#define SEG_DATA_WRITE_ACCESSED 3
#define SEG_TSS_BUSY 11 /* 32-bit TSS, in long mode the 64-bit one */
#define TSS_LIMIT 0x67

#define BZIMAGE_MAGIC_OFFSET 0x202
#define BZIMAGE_MAGIC "HdrS"
#define MAGIC_LEN 4

static int open_images(const struct boot_source *src, struct boot_job *job, struct error *err)
{
	int ret;

	if (src->kernel_fd >= 0) {
		ret = boot_image_open(&job->kernel, src->kernel_fd, src->kernel_name, err);
		if (ret < 0)
			return ret;
	} else {
		if (!src->builtin || src->builtin_len == 0)
			return err_set(err, ENOEXEC, "there is no kernel to boot");
		job->kernel = (struct boot_image){ .name = "the built-in guest",
						   .fd = -1,
						   .data = src->builtin,
						   .size = src->builtin_len };
	}
	if (src->initramfs_fd < 0)
		return 0;
	job->has_initramfs = true;
	return boot_image_open(&job->initramfs, src->initramfs_fd, src->initramfs_name, err);
}

static int load_kernel(const struct boot_job *job, struct boot_entry *entry, struct error *err)
{
	const struct boot_image *kernel = &job->kernel;
	uint8_t magic[MAGIC_LEN];
	int ret;

	ret = boot_image_read(kernel, 0, magic, sizeof(magic), "kernel's magic number", err);
	if (ret < 0)
		return ret;
	if (memcmp(magic, ELFMAG, SELFMAG) == 0)
		return pvh_load(job, entry, err);
	if (kernel->size >= BZIMAGE_MAGIC_OFFSET + MAGIC_LEN) {
		ret = boot_image_read(kernel, BZIMAGE_MAGIC_OFFSET, magic, sizeof(magic),
				      "kernel's magic number", err);
		if (ret < 0)
			return ret;
		if (memcmp(magic, BZIMAGE_MAGIC, MAGIC_LEN) == 0)
			return bzimage_load(job, entry, err);
	}
	return err_set(err, ENOEXEC,
		       "%s: is no kernel that can be booted: neither an ELF file nor "
		       "a Linux bzImage (\"%s\" at offset 0x%x)",
		       kernel->name, BZIMAGE_MAGIC, BZIMAGE_MAGIC_OFFSET);
}

int boot_load(const struct boot_source *src, struct memory *mem, struct boot_entry *entry,
	      struct error *err)
{
	struct boot_job job = {
		.cmdline = src->cmdline ? src->cmdline : "",
		.mem = mem,
		.low_end = mem->size < MEMORY_LOW_MAX ? mem->size : MEMORY_LOW_MAX,
	};
	int ret;

	ret = open_images(src, &job, err);
	if (ret < 0)
		return ret;
	ret = load_kernel(&job, entry, err);
	if (ret < 0)
		return ret;
	return acpi_write_tables(mem, src->dsdt, src->dsdt_len, src->cpus, src->machine_version,
				 err);
}

/* Flat: base 0, limit 4 GiB, present, ring 0. */
static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = long_mode,
		.db = !long_mode,
	};
}

static void set_sregs(const struct boot_entry *entry, struct kvm_sregs *sregs)
{
	bool long_mode = entry->mode == BOOT_LINUX64;
	struct kvm_segment data = flat_segment(BOOT_SEL_DS, SEG_DATA_WRITE_ACCESSED, false);

	sregs->cs = flat_segment(BOOT_SEL_CS, SEG_CODE_READ_ACCESSED, long_mode);
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->tr = (struct kvm_segment){ .limit = TSS_LIMIT,
					  .selector = BOOT_SEL_TSS,
					  .type = SEG_TSS_BUSY,
					  .present = 1 };
	sregs->ldt = (struct kvm_segment){ .unusable = 1 };
	sregs->gdt = (struct kvm_dtable){ .base = 0 };
	sregs->idt = (struct kvm_dtable){ .base = 0 };
	sregs->cr0 = CR0_PE | CR0_ET;
	sregs->cr2 = 0;
	sregs->cr3 = 0;
	sregs->cr4 = 0;
	sregs->efer = 0;
	if (!long_mode)
		return;
	sregs->gdt = (struct kvm_dtable){ .base = BOOT_GDT_GPA, .limit = BOOT_GDT_ENTRIES * 8 - 1 };
	sregs->cr0 |= CR0_PG;
	sregs->cr3 = BOOT_PAGE_TABLES_GPA;
	sregs->cr4 = CR4_PAE;
	sregs->efer = EFER_LME | EFER_LMA;
}

int boot_set_registers(const struct boot_entry *entry, struct kvm *kvm, int vcpu_fd,
		       struct error *err)
{
	struct kvm_regs regs = { .rip = entry->rip, .rflags = RFLAGS_FIXED };
	struct kvm_sregs sregs;
	int ret;

	if (entry->mode == BOOT_LINUX64)
		regs.rsi = entry->params;
	else
		regs.rbx = entry->params;
	ret = kvm_call(kvm, vcpu_fd, KVM_GET_SREGS, &sregs);
	if (ret < 0)
		return err_sys(err, -ret, "cannot read vCPU 0's system registers (KVM_GET_SREGS)");
	set_sregs(entry, &sregs);
	ret = kvm_call(kvm, vcpu_fd, KVM_SET_SREGS, &sregs);
	if (ret < 0)
		return err_sys(err, -ret, "cannot set vCPU 0's system registers (KVM_SET_SREGS)");
	ret = kvm_call(kvm, vcpu_fd, KVM_SET_REGS, &regs);
	if (ret < 0)
		return err_sys(err, -ret, "cannot set vCPU 0's registers (KVM_SET_REGS)");
	return 0;
}
