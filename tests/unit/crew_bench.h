/* SPDX-License-Identifier: MIT */
/*
 * A crew of plain threads that sleep, as vCPUs do in KVM_RUN: a flag that the kick sets has the
 * sleep return at once, and the signal ends one that has begun. There is no other way out of it
 * than the kick or crew_bench_wake(): who misses a kick oversleeps, which is counted.
 */
#ifndef MOLT_TESTS_CREW_BENCH_H
#define MOLT_TESTS_CREW_BENCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <molt/vm/crew.h>

#define SLEEPERS_MAX 8

/* Where a sleeper waits for the kick, so that it comes just there. */
enum kick_place {
	ANYWHERE,
	BEFORE_SLEEP, /* it has asked crew_may_run(), and is about to sleep */
	AFTER_SLEEP,  /* it has woken up by itself, and is about to take the flag back */
};

struct sleeper {
	int wake;                    /* eventfd: ends a sleep */
	_Atomic bool kicked;         /* the flag */
	_Atomic int place;           /* enum kick_place */
	_Atomic bool there;          /* it has arrived at that place */
	_Atomic unsigned int sleeps; /* begun */
	_Atomic unsigned int kicks;
	_Atomic int runners; /* between run() and the end of settle(), of all crews on it */
};

struct crew_bench {
	struct crew_ops ops; /* a test may add to them */
	struct crew crew;
	struct sleeper sleepers[SLEEPERS_MAX];
	_Atomic bool held;
	_Atomic unsigned int overslept;
	_Atomic unsigned int doubled; /* two ran the same sleeper at once */
};

/* Without threads; and with them, parked. False: the errno is in err. */
bool crew_bench_init(struct crew_bench *b, uint32_t count, struct error *err);
bool crew_bench_start(struct crew_bench *b, uint32_t count, struct error *err);
void crew_bench_fini(struct crew_bench *b);

/*
 * The same, and the test fails if there is an error. Not on the stack: where a test fails its
 * threads are still there. 0: zeroes.
 */
struct crew_bench *crew_bench_new(uint32_t count);
void crew_bench_free(struct crew_bench *b);

/* A second crew for the same sleepers. */
bool crew_bench_second(struct crew_bench *b, struct crew *crew, struct error *err);

void crew_bench_wake(struct crew_bench *b, uint32_t id);

/* After crew_unpark(): all have begun to sleep once more than in that array. */
void crew_bench_count_sleeps(struct crew_bench *b, unsigned int counts[SLEEPERS_MAX]);
bool crew_bench_wait_asleep(struct crew_bench *b, const unsigned int counts[SLEEPERS_MAX]);

/* No member's run() or settle() is under way, and none has missed a kick. */
bool crew_bench_is_quiet(struct crew_bench *b);

/* A job that main and all members do together: no share ends before all have begun. */
struct together {
	uint32_t wanted;
	_Atomic uint32_t begun;
	_Atomic uint32_t late; /* shares that waited in vain */
};

int crew_bench_together(void *together, uint32_t item, struct error *err);

#endif
