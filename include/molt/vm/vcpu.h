/* SPDX-License-Identifier: MIT */
/*
 * A vCPU: its KVM descriptor and the thread that runs it. A vCPU is parked (its thread waits, its
 * KVM state is complete and may be read) or runs. Only the main thread parks and unparks.
 */
#ifndef MOLT_VM_VCPU_H
#define MOLT_VM_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <molt/base/error.h>
#include <molt/vm/kvm.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_state.h>

struct machine;

enum vcpu_goal {
	VCPU_PARK,
	VCPU_RUN,
	VCPU_QUIT,
};

/* KVM_RUN's answers of EAGAIN, one after the other; see vcpu_retry.c. CLOCK_MONOTONIC. */
struct vcpu_retry {
	uint64_t since_ns;
	uint64_t last_ns; /* 0: the last answer was another */
	bool told;        /* the log says what is missing */
};

struct vcpu {
	struct machine *machine;
	uint32_t id;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	pthread_t thread;
	bool started;
	pid_t tid;
	bool confined;               /* the thread has given up what it does not need */
	_Atomic int goal;            /* enum vcpu_goal, set by main */
	_Atomic bool parked;         /* set under machine->vcpu_lock */
	uint64_t stopped_ns;         /* CLOCK_MONOTONIC when it last parked */
	_Atomic uint64_t entered_ns; /* when it last left the park for KVM_RUN */
	_Atomic int host_cpu;        /* and on which CPU of the host; -1: not yet */
	uint64_t steal_time;      /* the guest's MSR, where it was stopped in this KVM VM; else 0 */
	struct vcpu_retry retry;  /* the thread's own */
	struct lapic_timer timer; /* whose fd is, see docs/architecture.md */
	struct vcpu_state *state; /* CPUID always; the rest while saved or loaded */
};

#endif
