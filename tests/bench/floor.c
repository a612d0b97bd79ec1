/* SPDX-License-Identifier: MIT */
/*
 * The floor under an update's blackout: the same exec with no state at all.
 *
 * Theory of operation. A program runs the bench guest (firmware/bench.c) in a KVM VM. On request it
 * execs itself beside a CLONE_VM child that holds the old address space, and the new image makes
 * VM, memslots and vCPUs and enters the guest again. There is no irqchip, no CPUID, no thread, and
 * of a vCPU only what it takes to get into the guest's loop: segments, instruction pointer and a
 * TSC that does not start anew. So no VMM that replaces itself by exec can go below; molt adds the
 * state. The guest measures the gap between two readings of the TSC as it does under molt, in the
 * same code.
 *
 * Signals tell it what to do, since its only thread is the vCPU's:
 *
 *	SIGUSR1		get ready: end the last round's child, make the next (before the pause, as
 *			molt's stand-in)
 *	SIGUSR2		exec
 *
 * It is built as molt is (static-pie), and run by bench.py.
 *
 * usage: floor GUEST.elf MIB VCPUS [4K|2M]
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../firmware/bench.h"

#define STACK_BYTES 65536
#define LOW_MAX (3072ull << 20)
#define HIGH_BASE (1ull << 32)

/* What an image tells the next one, as its arguments. */
struct floor {
	int kvm, ram_fd, vcpus;
	pid_t child;
	uint64_t bytes, mailbox;
	unsigned char *ram;
	int vcpu;
	size_t run_bytes;
	struct kvm_run *run;
};

static volatile sig_atomic_t wanted;
static struct kvm_run *volatile running;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int kvm_call(int fd, unsigned long request, uintptr_t arg, const char *what)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		fail(what);
	return r;
}

/* A signal that comes just before KVM_RUN must not get lost. */
static void on_signal(int signum)
{
	wanted = signum;
	if (running)
		running->immediate_exit = 1;
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

static void map_ram(struct floor *f)
{
	f->ram = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f->ram_fd,
		      0);
	if (f->ram == MAP_FAILED)
		fail("mmap RAM");
}

/* Everything that cannot be inherited. */
static void build(struct floor *f)
{
	int vm = kvm_call(f->kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
	uint64_t low = f->bytes < LOW_MAX ? f->bytes : LOW_MAX;

	set_slot(vm, 0, 0, low, f->ram);
	if (f->bytes > low)
		set_slot(vm, 1, HIGH_BASE, f->bytes - low, f->ram + low);
	f->vcpu = kvm_call(vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
	for (int i = 1; i < f->vcpus; i++)
		kvm_call(vm, KVM_CREATE_VCPU, (uintptr_t)i, "KVM_CREATE_VCPU");
	f->run = mmap(NULL, f->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->vcpu, 0);
	if (f->run == MAP_FAILED)
		fail("mmap kvm_run");
}

/* The guest's TSC is the host's, so that it goes on across the exec. */
static void set_tsc(int vcpu)
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

/* Straight into 64-bit ring 3 at the guest's entry. */
static void set_state(const struct floor *f)
{
	const struct bench_mailbox *m = (const void *)(f->ram + f->mailbox);
	struct kvm_regs regs = { .rip = m->entry, .rsp = m->stack, .rflags = 2 };
	struct kvm_sregs sregs;

	kvm_call(f->vcpu, KVM_GET_SREGS, (uintptr_t)&sregs, "KVM_GET_SREGS");
	sregs.cr0 = 0x80010033;
	sregs.cr3 = m->page_tables;
	sregs.cr4 = 0x620;
	sregs.efer = 0x500;
	sregs.cs = flat(0x2b, 11, true);
	sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = flat(0x23, 3, false);
	kvm_call(f->vcpu, KVM_SET_SREGS, (uintptr_t)&sregs, "KVM_SET_SREGS");
	kvm_call(f->vcpu, KVM_SET_REGS, (uintptr_t)&regs, "KVM_SET_REGS");
	set_tsc(f->vcpu);
}

static int hold(void *opaque)
{
	(void)opaque;
	return pause(); /* until it is killed */
}

/* The last round's child goes, with the address space and the VM that it held. */
static void make_child(struct floor *f)
{
	static char stack[STACK_BYTES] __attribute__((aligned(16)));

	if (f->child) {
		kill(f->child, SIGKILL);
		waitpid(f->child, NULL, __WALL);
	}
	f->child = clone(hold, stack + sizeof(stack), CLONE_VM, NULL);
	if (f->child < 0)
		fail("clone");
}

static void become(const struct floor *f)
{
	char text[7][24];
	char *argv[] = { "floor", "--next", text[0], text[1], text[2],
			 text[3], text[4],  text[5], text[6], NULL };

	snprintf(text[0], sizeof(text[0]), "%d", f->kvm);
	snprintf(text[1], sizeof(text[1]), "%d", f->ram_fd);
	snprintf(text[2], sizeof(text[2]), "%d", f->vcpus);
	snprintf(text[3], sizeof(text[3]), "%llu", (unsigned long long)f->bytes);
	snprintf(text[4], sizeof(text[4]), "%llu", (unsigned long long)f->mailbox);
	snprintf(text[5], sizeof(text[5]), "%zu", f->run_bytes);
	snprintf(text[6], sizeof(text[6]), "%d", f->child);
	execv("/proc/self/exe", argv);
	fail("execv");
}

static void run(struct floor *f)
{
	running = f->run;
	for (;;) {
		if (ioctl(f->vcpu, KVM_RUN, 0) == 0) {
			fprintf(stderr, "floor: exit reason %u, suberror %u\n", f->run->exit_reason,
				f->run->internal.suberror);
			exit(1);
		}
		if (errno != EINTR)
			fail("KVM_RUN");
		f->run->immediate_exit = 0;
		if (wanted == SIGUSR1)
			make_child(f);
		else if (wanted == SIGUSR2)
			become(f);
		wanted = 0;
	}
}

static void catch_signals(void)
{
	struct sigaction act = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR2, &act, NULL);
}

static void next(char **argv)
{
	struct floor f = {
		.kvm = atoi(argv[2]),
		.ram_fd = atoi(argv[3]),
		.vcpus = atoi(argv[4]),
		.bytes = strtoull(argv[5], NULL, 10),
		.mailbox = strtoull(argv[6], NULL, 10),
		.run_bytes = strtoull(argv[7], NULL, 10),
		.child = atoi(argv[8]),
	};

	map_ram(&f);
	build(&f);
	set_state(&f);
	catch_signals();
	run(&f);
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

static void load_guest(struct floor *f, const char *path)
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
}

static void start(char **argv, bool huge)
{
	struct floor f = {
		.bytes = strtoull(argv[2], NULL, 10) << 20,
		.vcpus = atoi(argv[3]),
		.kvm = open("/dev/kvm", O_RDWR),
		.ram_fd = memfd_create("floor-ram", huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0),
	};
	struct bench_mailbox *m;

	if (f.kvm < 0 || f.ram_fd < 0 || ftruncate(f.ram_fd, (off_t)f.bytes) < 0)
		fail("setting up");
	f.run_bytes = (size_t)kvm_call(f.kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	map_ram(&f);
	load_guest(&f, argv[1]);
	m = (struct bench_mailbox *)(f.ram + f.mailbox);
	build(&f);
	m->ram_bytes = f.bytes;
	m->tsc_khz = (uint64_t)kvm_call(f.vcpu, KVM_GET_TSC_KHZ, 0, "KVM_GET_TSC_KHZ");
	set_state(&f);
	catch_signals();
	run(&f);
}

int main(int argc, char **argv)
{
	if (argc == 9 && strcmp(argv[1], "--next") == 0) {
		next(argv);
	} else if (argc == 4 || argc == 5) {
		start(argv, argc == 5 && strcmp(argv[4], "2M") == 0);
	} else {
		fprintf(stderr, "usage: floor GUEST.elf MIB VCPUS [4K|2M]\n");
		return 2;
	}
	return 1;
}
