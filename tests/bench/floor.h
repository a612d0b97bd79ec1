/* SPDX-License-Identifier: MIT */
/*
 * What the floor's two arrangements share: a VM with the bench guest (floor_vm.c), how an image
 * hands itself on (floor.c), and the threads that run vCPUs (floor_crew.c).
 */
#ifndef FLOOR_H
#define FLOOR_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../../firmware/bench.h"

#define VCPUS_MAX 64
#define MSRS_MAX 256
#define STACK_BYTES 65536

/* All that a vCPU takes along. */
struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_mp_state mp;
};

/* What it takes along with "full". */
struct vcpu_rest {
	struct kvm_xcrs xcrs;
	struct kvm_xsave xsave;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_msrs msrs;
	struct kvm_msr_entry msr[MSRS_MAX]; /* follows msrs */
};

/* What stand-in and successor share: a memfd. The words are futexes. */
struct floor_page {
	_Atomic uint32_t ready;           /* the successor: all is built, let the guest go */
	_Atomic pid_t computing;          /* the thread that has vCPU 0 */
	_Atomic uint32_t seat[VCPUS_MAX]; /* the stand-in: the successor may enter this vCPU */
	struct vcpu_state state[VCPUS_MAX];
	bool full;
	struct vcpu_rest rest[VCPUS_MAX];
};

struct floor {
	int kvm, ram_fd, page_fd, vcpus; /* page_fd: -1 in the old order */
	pid_t child;                     /* who holds the last image's address space */
	uint64_t bytes, mailbox;
	unsigned char *ram;
	size_t run_bytes;
	int vcpu[VCPUS_MAX];
	struct kvm_run *run[VCPUS_MAX];
	struct floor_page *page;
};

/* floor_vm.c: each ends the program if it cannot. */
void fail(const char *what);
int kvm_call(int fd, unsigned long request, uintptr_t arg, const char *what);
void *map_shared(int fd, size_t bytes, const char *what);
struct bench_mailbox *mailbox_of(const struct floor *f);
void build(struct floor *f);
void set_tsc(int vcpu);
/* Straight into 64-bit ring 3 at the guest's entry. */
void enter_guest(const struct floor *f, int vcpu);
void load_guest(struct floor *f, const char *path);

/* floor_state.c: which MSRs there are; CPUID of all vCPUs; one's state from or to the page. */
void rest_list(const struct floor *f);
void rest_cpuid(const struct floor *f);
void rest_move(const struct floor *f, int vcpu, bool set);

/* floor.c */
void end_child(struct floor *f);
void become(const struct floor *f);

/* floor_crew.c: threads that run this VM's vCPUs, each when its word lets it, until they park. */
struct crew {
	const struct floor *f;
	_Atomic uint32_t *seat;  /* lets a thread enter its vCPU; of this crew */
	_Atomic uint32_t *next;  /* the same of the crew that has the vCPUs next */
	bool load, save;         /* before entering, after parking: the page's state */
	uint64_t *entered;       /* set when vCPU 0 is entered, to the TSC */
	_Atomic uint32_t parked; /* how many */
	_Atomic uint32_t over;   /* 1: all have parked, and the next crew has been let in */
	_Atomic bool park;
	struct vcpu_state rehearsed[VCPUS_MAX]; /* what need not be loaded again */
	pthread_t thread[VCPUS_MAX];
	struct post {
		struct crew *crew;
		int index;
	} post[VCPUS_MAX];
};

void crew_make(struct crew *crew);
void crew_enter(_Atomic uint32_t *seat, int vcpus);
void crew_park(struct crew *crew);
void word_wait(_Atomic uint32_t *word);
void word_set(_Atomic uint32_t *word);

/* floor_pause.c, floor_standin.c: run the guest, and become the next image on SIGUSR2. */
void run_pausing(struct floor *f);
void run_standing_in(struct floor *f, bool successor);

#endif
