/* SPDX-License-Identifier: MIT */
/* What rng.c and rng_steps.c share. */
#ifndef RNG_H
#define RNG_H

#include "lib/guest.h"
#include "lib/virtio.h"

#define RNG_QUEUE_MAX 64
#define VEC_RNG 0x50
#define ENTRY 1 /* of the MSI-X table */

struct rng {
	struct virtio dev;
	struct virtq q;
	const char *step;
	uint64_t random;
	unsigned int size; /* of the queue, now */
	bool polled;
	bool indirect;
	bool hold;
	unsigned int longest; /* bytes of one request, at most */
	/* counters */
	uint64_t requests, bytes, irqs, extra, moves, resets, ring_resets, passes;
};

/* Says what is wrong, and powers off. */
void rng_bad(const struct rng *r, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));

uint32_t rng_random(struct rng *r, uint32_t below);

/* Sets device and queue up with these features; interrupts come by VEC_RNG. */
void rng_start(struct rng *r, uint64_t features, unsigned int size);
#define RNG_FEATURES (F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_RING_RESET)

/* That many requests at once; adds and notifies, waits for all, verifies each. */
void rng_batch(struct rng *r, unsigned int count);
/* Its two halves. */
void rng_add(struct rng *r, unsigned int count);
void rng_finish(struct rng *r, unsigned int count);

/* Interrupts so far; and until there is one more than that. */
uint64_t rng_irqs(void);
void rng_wait_irq(struct rng *r, uint64_t before);

/* If it was asked for: stays here until the power button is pressed. */
void rng_hold(struct rng *r, const char *name);

/* With cpus=2, in rng_race.c. */
void rng_race(struct rng *r);

/* Each leaves the device set up, with all features and interrupts. */
struct rng_step {
	const char *name;
	void (*run)(struct rng *r);
};
extern const struct rng_step rng_steps[];
extern const unsigned int rng_step_count;

#endif
