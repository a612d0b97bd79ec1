/* SPDX-License-Identifier: MIT */
/*
 * The old order: pause, exec, build. The program's only thread is the vCPU's. There is no irqchip,
 * no CPUID, no thread, and of a vCPU only what it takes to get into the guest's loop: segments,
 * instruction pointer and a TSC that does not start anew. So no VMM that pauses its guest and then
 * replaces itself by exec can go below; a VMM adds the state.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "floor.h"

static volatile sig_atomic_t wanted;
static struct kvm_run *volatile running;

/* A signal that comes just before KVM_RUN must not get lost. */
static void on_signal(int signum)
{
	wanted = signum;
	if (running)
		running->immediate_exit = 1;
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

	end_child(f);
	f->child = clone(hold, stack + sizeof(stack), CLONE_VM, NULL);
	if (f->child < 0)
		fail("clone");
}

void run_pausing(struct floor *f)
{
	struct sigaction act = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR2, &act, NULL);
	enter_guest(f, f->vcpu[0]);
	running = f->run[0];
	for (;;) {
		if (ioctl(f->vcpu[0], KVM_RUN, 0) == 0) {
			fprintf(stderr, "floor: exit reason %u, suberror %u\n",
				running->exit_reason, running->internal.suberror);
			exit(1);
		}
		if (errno != EINTR)
			fail("KVM_RUN");
		running->immediate_exit = 0;
		if (wanted == SIGUSR1)
			make_child(f);
		else if (wanted == SIGUSR2)
			become(f);
		wanted = 0;
	}
}
