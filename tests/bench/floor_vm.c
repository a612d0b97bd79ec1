/* SPDX-License-Identifier: MIT */
/*
 * The floor's VM: RAM, vCPUs, and the bench guest in it, entered without a boot. In the old order
 * there is no irqchip at all; a stand-in's vCPUs have KVM's local APICs, for without these no vCPU
 * can be halted in the kernel, as those of a VMM are.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "floor.h"

#define LOW_MAX (3072ull << 20)
#define HIGH_BASE (1ull << 32)
#define IOAPIC_PINS 24

void fail(const char *what)
{
	perror(what);
	exit(1);
}

int kvm_call(int fd, unsigned long request, uintptr_t arg, const char *what)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		fail(what);
	return r;
}

void *map_shared(int fd, size_t bytes, const char *what)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

	if (at == MAP_FAILED)
		fail(what);
	return at;
}

struct bench_mailbox *mailbox_of(const struct floor *f)
{
	return (struct bench_mailbox *)(f->ram + f->mailbox);
}

static void set_slot(int vm, unsigned int slot, uint64_t gpa, uint64_t bytes, void *hva)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)hva,
	};

	kvm_call(vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region, "memslot");
}

static void add_local_apics(int vm)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };

	kvm_call(vm, KVM_ENABLE_CAP, (uintptr_t)&cap, "KVM_CAP_SPLIT_IRQCHIP");
}

/* Everything that cannot be inherited. */
void build(struct floor *f)
{
	int vm = kvm_call(f->kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
	uint64_t low = f->bytes < LOW_MAX ? f->bytes : LOW_MAX;
	int used = f->page_fd < 0 ? 1 : f->vcpus; /* the old order enters the first alone */

	set_slot(vm, 0, 0, low, f->ram);
	if (f->bytes > low)
		set_slot(vm, 1, HIGH_BASE, f->bytes - low, f->ram + low);
	if (f->page_fd >= 0)
		add_local_apics(vm);
	for (int i = 0; i < f->vcpus; i++)
		f->vcpu[i] = kvm_call(vm, KVM_CREATE_VCPU, (uintptr_t)i, "KVM_CREATE_VCPU");
	if (f->page && f->page->full)
		rest_cpuid(f);
	for (int i = 0; i < used; i++)
		f->run[i] = map_shared(f->vcpu[i], f->run_bytes, "kvm_run");
}

/* The guest's TSC is the host's, so that it goes on across the exec. */
void set_tsc(int vcpu)
{
	uint64_t offset = 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};

	kvm_call(vcpu, KVM_SET_DEVICE_ATTR, (uintptr_t)&attr, "KVM_VCPU_TSC_OFFSET");
}

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool code)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.dpl = 3,
		.s = 1,
		.g = 1,
		.l = code,
		.db = !code,
	};
}

void enter_guest(const struct floor *f, int vcpu)
{
	const struct bench_mailbox *m = mailbox_of(f);
	struct kvm_regs regs = { .rip = m->entry, .rsp = m->stack, .rflags = 2 };
	struct kvm_sregs sregs;

	kvm_call(vcpu, KVM_GET_SREGS, (uintptr_t)&sregs, "KVM_GET_SREGS");
	sregs.cr0 = 0x80010033;
	sregs.cr3 = m->page_tables;
	sregs.cr4 = 0x620;
	sregs.efer = 0x500;
	sregs.cs = flat(0x2b, 11, true);
	sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = flat(0x23, 3, false);
	kvm_call(vcpu, KVM_SET_SREGS, (uintptr_t)&sregs, "KVM_SET_SREGS");
	kvm_call(vcpu, KVM_SET_REGS, (uintptr_t)&regs, "KVM_SET_REGS");
	set_tsc(vcpu);
}

static void load_segment(struct floor *f, int fd, const Elf64_Phdr *ph)
{
	if (ph->p_type != PT_LOAD)
		return;
	if (ph->p_paddr > f->bytes || ph->p_filesz > f->bytes - ph->p_paddr ||
	    pread(fd, f->ram + ph->p_paddr, ph->p_filesz, (off_t)ph->p_offset) !=
		    (ssize_t)ph->p_filesz) {
		fprintf(stderr, "floor: cannot load the guest\n");
		exit(1);
	}
}

void load_guest(struct floor *f, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Phdr ph;
	Elf64_Ehdr eh;

	if (fd < 0 || pread(fd, &eh, sizeof(eh), 0) != sizeof(eh))
		fail(path);
	for (unsigned int i = 0; i < eh.e_phnum; i++) {
		if (pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) != sizeof(ph))
			fail(path);
		load_segment(f, fd, &ph);
	}
	close(fd);
	for (uint64_t gpa = 0; gpa < 16u << 20 && gpa < f->bytes; gpa += 4096)
		if (((struct bench_mailbox *)(f->ram + gpa))->magic == BENCH_MAGIC)
			f->mailbox = gpa;
	if (!f->mailbox) {
		fprintf(stderr, "floor: %s: not the bench guest\n", path);
		exit(1);
	}
	mailbox_of(f)->ram_bytes = f->bytes;
}
