/* SPDX-License-Identifier: MIT */
/*
 * Threads that run vCPUs. Theory of operation: each waits until its word (a futex) lets it in,
 * loads what differs from the rehearsal, and stays in KVM_RUN. To park, each is kicked out by a
 * signal and saves its own vCPU; the last one lets the next crew in, vCPU 0 first, since that one
 * computes. So there is no other thread to be woken between two crews, and vCPUs save and load in
 * parallel.
 *
 * A vCPU's registers come with its exit and go with its entry (KVM_CAP_SYNC_REGS): that costs no
 * call.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "floor.h"

#define KICK SIGRTMIN
#define SYNC (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS)

static __thread struct kvm_run *mine;

void word_wait(_Atomic uint32_t *word)
{
	while (!atomic_load(word))
		syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

void word_set(_Atomic uint32_t *word)
{
	atomic_store(word, 1);
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void crew_enter(_Atomic uint32_t *seat, int vcpus)
{
	for (int i = 0; i < vcpus; i++)
		word_set(&seat[i]);
}

static void on_kick(int signum)
{
	(void)signum;
	if (mine)
		mine->immediate_exit = 1;
}

static void load(struct crew *crew, int i)
{
	const struct vcpu_state *state = &crew->f->page->state[i], *had = &crew->rehearsed[i];

	if (memcmp(&state->regs, &had->regs, sizeof(had->regs)) != 0) {
		mine->s.regs.regs = state->regs;
		mine->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	}
	if (memcmp(&state->sregs, &had->sregs, sizeof(had->sregs)) != 0) {
		mine->s.regs.sregs = state->sregs;
		mine->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
	}
	if (crew->f->page->full)
		rest_move(crew->f, i, true);
	if (state->mp.mp_state != had->mp.mp_state)
		kvm_call(crew->f->vcpu[i], KVM_SET_MP_STATE, (uintptr_t)&state->mp, "MP state");
}

static void save(struct crew *crew, int i)
{
	struct vcpu_state *state = &crew->f->page->state[i];

	state->regs = mine->s.regs.regs;
	state->sregs = mine->s.regs.sregs;
	kvm_call(crew->f->vcpu[i], KVM_GET_MP_STATE, (uintptr_t)&state->mp, "MP state");
	if (crew->f->page->full)
		rest_move(crew->f, i, false);
}

static void enter(struct crew *crew, int i)
{
	mine->immediate_exit = 0;
	mine->kvm_valid_regs = SYNC;
	if (crew->load)
		load(crew, i);
	if (i == 0) {
		atomic_store(&crew->f->page->computing, gettid());
		*crew->entered = __rdtsc();
	}
	while (!atomic_load(&crew->park)) {
		if (ioctl(crew->f->vcpu[i], KVM_RUN, 0) == 0) {
			fprintf(stderr, "floor: vCPU %d: exit reason %u, suberror %u\n", i,
				mine->exit_reason, mine->internal.suberror);
			exit(1);
		}
		if (errno != EINTR && errno != EAGAIN)
			fail("KVM_RUN");
	}
}

static void *work(void *opaque)
{
	struct post *post = opaque;
	struct crew *crew = post->crew;
	uint32_t all = (uint32_t)crew->f->vcpus;

	mine = crew->f->run[post->index];
	word_wait(&crew->seat[post->index]);
	enter(crew, post->index);
	if (crew->save)
		save(crew, post->index);
	if (atomic_fetch_add(&crew->parked, 1) + 1 == all) {
		crew_enter(crew->next, crew->f->vcpus);
		word_set(&crew->over);
	}
	for (;;)
		pause(); /* an exec or the process's end takes it away */
	return NULL;
}

void crew_make(struct crew *crew)
{
	struct sigaction act = { .sa_handler = on_kick };

	sigaction(KICK, &act, NULL);
	for (int i = 0; i < crew->f->vcpus; i++) {
		crew->post[i] = (struct post){ crew, i };
		if (pthread_create(&crew->thread[i], NULL, work, &crew->post[i]))
			fail("thread");
	}
}

/* Its threads are in KVM_RUN, or on their way: the flag and the kick reach them in either place. */
void crew_park(struct crew *crew)
{
	atomic_store(&crew->park, true);
	for (int i = 0; i < crew->f->vcpus; i++)
		pthread_kill(crew->thread[i], KICK);
	word_wait(&crew->over);
}
