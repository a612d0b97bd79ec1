/* SPDX-License-Identifier: MIT */
/* A whole machine, with every device of the class table, over a fake KVM. */
#ifndef MOLT_TESTS_MACHINE_BENCH_H
#define MOLT_TESTS_MACHINE_BENCH_H

#include "fake_kvm.h"

#include <molt/vm/machine.h>

#define BENCH_RAM MEMORY_MIN_BYTES
#define BENCH_BOOT_GPA 0x10000u
#define BENCH_BOOT_WORD 0x626f6f74u /* what the bench's load_boot puts there */

struct bench {
	struct fake_kvm *kvm;
	struct loop *loop;
	struct machine_config cfg;
	struct machine m;
	bool made;
	char events[1024]; /* names and details, each followed by a space */
	unsigned int boots;
	int boot_error;
};

/* What machine_save() writes. fds are the machine's own numbers until bench_duplicate_fds(). */
struct bench_state {
	struct stream_writer w;
	struct stream s;
	struct fdtable *fds;
};

/* All but the machine itself; b->cfg may be changed before bench_create(). */
void bench_prepare(struct bench *b, uint32_t cpus);
int bench_create(struct bench *b, struct error *err);
/* Both, and the test fails if there is an error. */
void bench_init(struct bench *b, uint32_t cpus);
void bench_fini(struct bench *b);

struct fake_vcpu *bench_vcpu(struct bench *b, uint32_t id);
struct fake_vm *bench_vm(struct bench *b);

/* Runs the machine; appends to a vCPU's script; runs the loop until machine_exit() ends it. */
void bench_run(struct bench *b);
void bench_play(struct bench *b, uint32_t id, struct fake_exit e);
int bench_run_to_the_end(struct bench *b);

/* Turns the loop until the events contain text; fails the test after some seconds without. */
void bench_wait_event(struct bench *b, const char *text);

/* Lets every fake vCPU have state in all its fields. */
void bench_randomise(struct bench *b, uint32_t seed);

/* Saves with a nonce of nothing but n, and parses it. The machine must be parked. */
void bench_save(struct bench *b, struct bench_state *st, uint8_t n);
/* As exec would: the same open files under other numbers, for a second machine to take. */
void bench_duplicate_fds(struct fdtable *fds);
/* A machine from the state; what it does not take of the descriptors is closed. */
int bench_load(struct bench *b, struct bench_state *st, struct error *err);
/* The same while the guest runs on in the other one. */
int bench_rehearse(struct bench *b, struct bench_state *st, struct error *err);
/* And in a molt with other machines. */
int bench_load_into(struct bench *b, const struct machine_model *model, struct bench_state *st,
		    struct error *err);
int bench_rehearse_in(struct bench *b, const struct machine_model *model, struct bench_state *st,
		      struct error *err);
void bench_state_fini(struct bench_state *st);

/* How many descriptors this process has open. */
unsigned int bench_count_fds(void);

#endif
