/* SPDX-License-Identifier: MIT */
/*
 * A vCPU: its KVM descriptor, and what belongs to it. It is run by a member of the machine's crew
 * (crew.h): it is parked (its KVM state is complete and may be read) or runs.
 */
#ifndef MOLT_VM_VCPU_H
#define MOLT_VM_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <molt/vm/kvm.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_state.h>

struct crew_member;
struct machine;

/* KVM_RUN's answers of EAGAIN, one after the other; see vcpu_retry.c. CLOCK_MONOTONIC. */
struct vcpu_retry {
	uint64_t since_ns;
	uint64_t last_ns; /* 0: the last answer was another */
	bool told;        /* the log says what is missing */
};

#define VCPU_PLACE_WORDS 16u /* 1024 CPUs of the host, as a cpu_set_t has */

/* Where and how the host runs a vCPU's thread; see vcpu_place.c. */
struct vcpu_place {
	uint64_t cpus[VCPU_PLACE_WORDS]; /* bit N: on CPU N */
	uint32_t nwords;                 /* of cpus; none after the last CPU */
	uint32_t policy;                 /* SCHED_OTHER .. */
	uint32_t priority;               /* of real-time policies */
	uint32_t nice;                   /* as int */
	bool differs;                    /* from main's: else none of this is to be kept */
	uint8_t reserved[7];
};

struct vcpu {
	struct machine *machine;
	uint32_t id;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	bool leaves_thread;         /* its next thread is another process's: see stand_in.c */
	struct crew_member *member; /* who runs it, or did last; its thread's own */
	uint64_t steal_time; /* the guest's MSR, where it was stopped in this KVM VM; else 0 */
	atomic_uintptr_t lost_hva;   /* guest RAM that KVM_RUN met a memory error in; else 0 */
	struct vcpu_retry retry;     /* the thread's own */
	struct vcpu_place place;     /* as it was before the thread it has now, or is to get */
	struct lapic_timer timer;    /* whose fd is, see docs/architecture.md */
	struct vcpu_reading reading; /* of what is in state; open while run is mapped */
	struct vcpu_state *state;    /* CPUID always; the rest while saved or loaded */
};

#endif
