/* SPDX-License-Identifier: MIT */
/*
 * The new order: the guest runs on while the program is replaced. Theory of operation, on SIGUSR2:
 *
 *	stand-in	a process on this image's memory (CLONE_VM), with waiting threads of its own
 *	hand-off	this image's vCPU threads park and save, the stand-in's enter the same vCPUs
 *	exec, build	the next image makes its VM, loads what was saved, maps all RAM, and has its
 *			threads wait, too
 *	switch		the stand-in's vCPU threads park and save, the next image's load and enter
 *
 * There are two moments when the guest stands still, and none of them has an exec, a VM made or a
 * thread made in it. A vCPU's state is its registers and whether it is halted: no FPU, no MSR, no
 * events, no local APIC's registers, no clock. A VMM has these to move as well.
 *
 * A helper thread makes the stand-in and then sleeps in the kernel until the exec ends it: so the
 * child has that thread's thread-local memory for itself, and may use the C library.
 *
 * One vCPU computes, the guest's; all others are halted from the start.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "floor.h"

#define LOWEST 19
#define PIECE (8ull << 20) /* of RAM: less than a millisecond */
#define CPU_FIELD 39       /* proc_pid_stat(5) */

/* This image's, and the stand-in's on this image's memory. */
static struct crew own, other;
static _Atomic uint32_t own_seat[VCPUS_MAX], other_seat[VCPUS_MAX];
static _Atomic uint32_t standing;

static int stand_in(void *opaque)
{
	const struct floor *f = opaque;

	prctl(PR_SET_NAME, "stand-in");
	crew_make(&other);
	word_set(&standing);
	word_wait(&f->page->ready);
	mailbox_of(f)->switch_begin = __rdtsc();
	crew_park(&other);
	for (;;)
		pause(); /* until it is killed */
	return 0;
}

static void *make_stand_in(void *opaque)
{
	static char stack[STACK_BYTES] __attribute__((aligned(16)));
	struct floor *f = opaque;

	f->child = clone(stand_in, stack + sizeof(stack), CLONE_VM, f);
	if (f->child < 0)
		fail("clone");
	for (;;)
		syscall(SYS_pause);
	return NULL;
}

/* The CPU of a thread of the stand-in's, or -1. */
static int cpu_of(pid_t pid, pid_t tid)
{
	char path[64], text[1024];
	ssize_t n = -1;
	const char *at;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (n <= 0)
		return -1;
	text[n] = 0;
	at = strrchr(text, ')');
	for (int field = 2; at && field < CPU_FIELD; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at) : -1;
}

/* As the stand-in may, which was made before. */
static void go_anywhere(const struct floor *f)
{
	cpu_set_t set;

	if (sched_getaffinity(f->child, sizeof(set), &set) == 0)
		sched_setaffinity(0, sizeof(set), &set);
}

/* What builds is not to take the CPU of the vCPU that computes, where there is another. */
static void keep_off(const struct floor *f)
{
	int cpu = cpu_of(f->child, f->page->computing);
	cpu_set_t set;

	if (cpu < 0 || sched_getaffinity(f->child, sizeof(set), &set) < 0 || CPU_COUNT(&set) < 2)
		return;
	CPU_CLR((size_t)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void update(struct floor *f)
{
	pthread_t helper;

	end_child(f);
	atomic_store(&f->page->ready, 0);
	for (int i = 0; i < f->vcpus; i++)
		atomic_store(&f->page->seat[i], 0);
	other = (struct crew){ .f = f,
			       .seat = other_seat,
			       .next = f->page->seat,
			       .save = true,
			       .entered = &mailbox_of(f)->handoff_end };
	if (pthread_create(&helper, NULL, make_stand_in, f))
		fail("thread");
	word_wait(&standing);
	mailbox_of(f)->handoff_begin = __rdtsc();
	crew_park(&own);
	keep_off(f);
	become(f);
}

static void rehearse(struct floor *f)
{
	for (int i = 0; i < f->vcpus; i++) {
		struct vcpu_state *state = &own.rehearsed[i];

		*state = f->page->state[i];
		set_tsc(f->vcpu[i]);
		kvm_call(f->vcpu[i], KVM_SET_SREGS, (uintptr_t)&state->sregs, "KVM_SET_SREGS");
		kvm_call(f->vcpu[i], KVM_SET_REGS, (uintptr_t)&state->regs, "KVM_SET_REGS");
		if (f->page->full)
			rest_move(f, i, true);
		kvm_call(f->vcpu[i], KVM_SET_MP_STATE, (uintptr_t)&state->mp, "KVM_SET_MP_STATE");
	}
}

/* Where the kernel cannot, the guest's faults do it. */
static void *map_in_advance(void *opaque)
{
	const struct floor *f = opaque;

	setpriority(PRIO_PROCESS, (id_t)gettid(), LOWEST);
	for (uint64_t at = 0; at < f->bytes; at += PIECE) {
		keep_off(f); /* the scheduler moves a vCPU about */
		madvise(f->ram + at, f->bytes - at < PIECE ? f->bytes - at : PIECE,
			MADV_POPULATE_WRITE);
	}
	return NULL;
}

/* A thread of its own, for a priority once lowered stays so: the guest comes before it. */
static void map_ram(struct floor *f)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, map_in_advance, f))
		fail("thread");
	pthread_join(thread, NULL);
}

static void take_over(struct floor *f)
{
	rehearse(f);
	map_ram(f);
	go_anywhere(f);
	crew_make(&own);
	word_set(&f->page->ready);
	word_wait(&f->page->seat[f->vcpus - 1]);
	mailbox_of(f)->updates++;
}

static void begin(struct floor *f)
{
	struct kvm_mp_state halted = { KVM_MP_STATE_HALTED };

	if (f->page->full)
		rest_list(f);
	enter_guest(f, f->vcpu[0]);
	for (int i = 1; i < f->vcpus; i++)
		kvm_call(f->vcpu[i], KVM_SET_MP_STATE, (uintptr_t)&halted, "KVM_SET_MP_STATE");
	crew_make(&own);
	crew_enter(own_seat, f->vcpus);
}

void run_standing_in(struct floor *f, bool successor)
{
	sigset_t wanted;
	int signum;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGUSR1);
	sigaddset(&wanted, SIGUSR2);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	own = (struct crew){ .f = f,
			     .seat = successor ? f->page->seat : own_seat,
			     .next = other_seat,
			     .load = successor,
			     .save = true,
			     .entered = &mailbox_of(f)->switch_end };
	if (successor)
		take_over(f);
	else
		begin(f);
	for (;;) {
		sigwait(&wanted, &signum);
		if (signum == SIGUSR1)
			end_child(f);
		else
			update(f);
	}
}
