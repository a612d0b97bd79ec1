/* SPDX-License-Identifier: MIT */
/*
 * The floor under an update's blackout: the same exec with next to no state.
 *
 * Theory of operation. A program runs the bench guest (firmware/bench.c) in a KVM VM. On request it
 * execs itself, and the new image makes VM, memslots and vCPUs and has the guest in them. It has no
 * devices, and of a vCPU only what the guest cannot do without. The guest measures the gap between
 * two readings of the TSC as it does under molt, in the same code. In two arrangements:
 *
 *	pause		the guest stands still from before the exec until the next image has built
 *			(floor_pause.c)
 *	stand-in	a process on the old image's memory runs it meanwhile (floor_standin.c);
 *			with "full" all of a vCPU's state goes along (floor_state.c)
 *
 * Signals tell it what to do:
 *
 *	SIGUSR1		get ready: end the last round's child, with the old address space
 *	SIGUSR2		exec
 *
 * It is built as molt is (static-pie), and run by bench.py.
 *
 * usage: floor GUEST.elf MIB VCPUS [4K|2M] [pause|stand-in|full]
 */
#include <fcntl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor.h"

void end_child(struct floor *f)
{
	if (!f->child)
		return;
	kill(f->child, SIGKILL);
	waitpid(f->child, NULL, __WALL);
	f->child = 0;
}

/* What an image tells the next one, as its arguments. */
void become(const struct floor *f)
{
	char text[8][24];
	char *argv[] = { "floor", "--next", text[0], text[1], text[2], text[3],
			 text[4], text[5],  text[6], text[7], NULL };

	snprintf(text[0], sizeof(text[0]), "%d", f->kvm);
	snprintf(text[1], sizeof(text[1]), "%d", f->ram_fd);
	snprintf(text[2], sizeof(text[2]), "%d", f->vcpus);
	snprintf(text[3], sizeof(text[3]), "%llu", (unsigned long long)f->bytes);
	snprintf(text[4], sizeof(text[4]), "%llu", (unsigned long long)f->mailbox);
	snprintf(text[5], sizeof(text[5]), "%zu", f->run_bytes);
	snprintf(text[6], sizeof(text[6]), "%d", f->child);
	snprintf(text[7], sizeof(text[7]), "%d", f->page_fd);
	execv("/proc/self/exe", argv);
	fail("execv");
}

static void map_all(struct floor *f)
{
	f->ram = map_shared(f->ram_fd, f->bytes, "RAM");
	if (f->page_fd >= 0)
		f->page = map_shared(f->page_fd, sizeof(*f->page), "page");
}

static void run(struct floor *f, bool successor)
{
	if (f->page_fd >= 0)
		run_standing_in(f, successor);
	else
		run_pausing(f);
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
		.page_fd = atoi(argv[9]),
	};

	map_all(&f);
	build(&f);
	run(&f, true);
}

static void start(char **argv, bool huge, bool stand_in, bool full)
{
	struct floor f = {
		.bytes = strtoull(argv[2], NULL, 10) << 20,
		.vcpus = atoi(argv[3]),
		.kvm = open("/dev/kvm", O_RDWR),
		.ram_fd = memfd_create("floor-ram", huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0),
		.page_fd = stand_in ? memfd_create("floor-page", 0) : -1,
	};

	if (f.vcpus < 1 || f.vcpus > VCPUS_MAX) {
		fprintf(stderr, "floor: 1 to %d vCPUs\n", VCPUS_MAX);
		exit(2);
	}
	if (f.kvm < 0 || f.ram_fd < 0 || ftruncate(f.ram_fd, (off_t)f.bytes) < 0 ||
	    (stand_in && ftruncate(f.page_fd, sizeof(*f.page)) < 0))
		fail("setting up");
	f.run_bytes = (size_t)kvm_call(f.kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
	map_all(&f);
	if (stand_in)
		f.page->full = full;
	load_guest(&f, argv[1]);
	build(&f);
	mailbox_of(&f)->tsc_khz = (uint64_t)kvm_call(f.vcpu[0], KVM_GET_TSC_KHZ, 0,
						     "KVM_GET_TSC_KHZ");
	run(&f, false);
}

int main(int argc, char **argv)
{
	bool huge = false, stand_in = false, full = false;

	if (argc == 10 && strcmp(argv[1], "--next") == 0) {
		next(argv);
		return 1;
	}
	for (int i = 4; i < argc; i++) {
		huge |= strcmp(argv[i], "2M") == 0;
		full |= strcmp(argv[i], "full") == 0;
		stand_in |= full || strcmp(argv[i], "stand-in") == 0;
	}
	if (argc < 4 || argc > 6) {
		fprintf(stderr, "usage: floor GUEST.elf MIB VCPUS [4K|2M] [pause|stand-in|full]\n");
		return 2;
	}
	start(argv, huge, stand_in, full);
	return 1;
}
