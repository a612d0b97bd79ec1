/* SPDX-License-Identifier: MIT */
/*
 * The floor under an update's blackout: the same exec with no state at all. A program with a KVM VM,
 * guest RAM in a memfd (touched) and N vCPUs execs itself beside a CLONE_VM child that holds the old
 * address space, and the new image makes VM, memslot, irqchip and vCPUs and enters the first of them.
 * What it takes from just before exec to the first KVM exit is what no VMM that replaces itself by
 * exec can go below; molt adds the state.
 *
 * usage: floor MIB VCPUS ROUNDS	prints one line "floor_us=N" a round
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES 65536

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	_exit(1);
}

static int kvm_call(int fd, unsigned long request, unsigned long arg, const char *what)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		fail(what);
	return r;
}

/* The guest: one HLT-free instruction that exits to us, an OUT in real mode. */
static void enter_guest(int kvm, int vcpu, unsigned char *ram)
{
	static const unsigned char code[] = { 0xe6, 0x80 }; /* out %al, $0x80 */
	int size = kvm_call(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };

	if (run == MAP_FAILED)
		fail("mmap kvm_run");
	memcpy(ram + 0x1000, code, sizeof(code));
	kvm_call(vcpu, KVM_GET_SREGS, (unsigned long)&sregs, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	kvm_call(vcpu, KVM_SET_SREGS, (unsigned long)&sregs, "KVM_SET_SREGS");
	kvm_call(vcpu, KVM_SET_REGS, (unsigned long)&regs, "KVM_SET_REGS");
	kvm_call(vcpu, KVM_RUN, 0, "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_IO)
		fprintf(stderr, "floor: exit reason %u\n", run->exit_reason);
}

/* Everything that cannot be inherited. */
static void build(int kvm, int ram_fd, unsigned long mib, int vcpus)
{
	int vm = kvm_call(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM"), vcpu0 = -1;
	unsigned char *ram = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_NORESERVE, ram_fd, 0);
	struct kvm_userspace_memory_region slot = { .userspace_addr = (uintptr_t)ram };

	if (ram == MAP_FAILED)
		fail("mmap RAM");
	slot.memory_size = (mib < 3072 ? mib : 3072) << 20;
	kvm_call(vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&slot, "memslot");
	if (mib > 3072) {
		slot.slot = 1;
		slot.guest_phys_addr = 1ull << 32;
		slot.userspace_addr += 3072ull << 20;
		slot.memory_size = (mib - 3072) << 20;
		kvm_call(vm, KVM_SET_USER_MEMORY_REGION, (unsigned long)&slot, "memslot");
	}
	kvm_call(vm, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
	for (int i = vcpus - 1; i >= 0; i--)
		vcpu0 = kvm_call(vm, KVM_CREATE_VCPU, (unsigned long)i, "KVM_CREATE_VCPU");
	enter_guest(kvm, vcpu0, ram);
}

static int hold(void *opaque)
{
	char c;

	/* Until the new image closes its end. */
	return read(*(int *)opaque, &c, 1) < 0;
}

static void become(int kvm, int ram_fd, unsigned long mib, int vcpus, int round, char *self)
{
	static int fds[2];
	char text[8][24];
	char *argv[] = { self, text[0], text[1], text[2], text[3], text[4], text[5], text[6], NULL };
	char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t child;

	if (stack == MAP_FAILED || pipe(fds) < 0)
		fail("pipe");
	fcntl(fds[0], F_SETFD, FD_CLOEXEC);
	/* The child must not hold the end whose closing it waits for. */
	child = clone(hold, stack + STACK_BYTES, CLONE_VM, &fds[0]);
	if (child < 0)
		fail("clone");
	snprintf(text[0], sizeof(text[0]), "--next");
	snprintf(text[1], sizeof(text[1]), "%d", kvm);
	snprintf(text[2], sizeof(text[2]), "%d", ram_fd);
	snprintf(text[3], sizeof(text[3]), "%lu", mib);
	snprintf(text[4], sizeof(text[4]), "%d", vcpus);
	snprintf(text[5], sizeof(text[5]), "%d:%d", round, fds[1]);
	snprintf(text[6], sizeof(text[6]), "%llu", (unsigned long long)now_ns());
	execv("/proc/self/exe", argv);
	fail("execv");
}

static int next(char **argv)
{
	int kvm = atoi(argv[2]), ram_fd = atoi(argv[3]), vcpus = atoi(argv[5]), round, wake;
	unsigned long mib = strtoul(argv[4], NULL, 10);
	uint64_t start = strtoull(argv[7], NULL, 10);

	if (sscanf(argv[6], "%d:%d", &round, &wake) != 2)
		return 2;
	build(kvm, ram_fd, mib, vcpus);
	printf("floor_us=%llu\n", (unsigned long long)((now_ns() - start) / 1000));
	fflush(stdout);
	/* It holds a copy of the pipe's other end itself, so closing would not wake it. */
	if (write(wake, "", 1) != 1)
		fail("write");
	close(wake);
	while (waitpid(-1, NULL, __WALL) < 0 && errno == EINTR)
		;
	usleep(20000);
	if (round > 1)
		become(kvm, ram_fd, mib, vcpus, round - 1, argv[0]);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long mib;
	int kvm, ram_fd;
	unsigned char *ram;

	if (argc == 8 && strcmp(argv[1], "--next") == 0)
		return next(argv);
	if (argc != 4) {
		fprintf(stderr, "usage: floor MIB VCPUS ROUNDS\n");
		return 2;
	}
	mib = strtoul(argv[1], NULL, 10);
	kvm = open("/dev/kvm", O_RDWR);
	ram_fd = memfd_create("floor-ram", 0);
	if (kvm < 0 || ram_fd < 0 || ftruncate(ram_fd, (off_t)(mib << 20)) < 0)
		fail("setting up");
	ram = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ram_fd, 0);
	if (ram == MAP_FAILED)
		fail("mmap RAM");
	for (unsigned long i = 0; i < mib << 20; i += 4096)
		ram[i] = 1;
	build(kvm, ram_fd, mib, atoi(argv[2]));
	become(kvm, ram_fd, mib, atoi(argv[2]), atoi(argv[3]), argv[0]);
	return 1;
}
