/* SPDX-License-Identifier: MIT */
/*
 * Two CPUs on one queue. Each adds a request under a lock and notifies behind it, as the drivers of
 * real systems do: so requests are added while the device is at work on a notification of the other
 * CPU's, and it must not miss them. With EVENT_IDX a driver notifies only when told to, so one that
 * is missed is never seen.
 */
#include "rng.h"

#define VEC_GO 0x51
#define ROUNDS 800
#define TIMEOUT_US 20000000
#define BYTES 8u

static volatile unsigned int lock;
static volatile bool stopped;
static struct rng *racer;
static uint8_t *buffer;
static volatile uint64_t added, done;
static volatile unsigned int turns; /* of the other CPU's, still to come */

static void take(void)
{
	unsigned int was;

	do {
		was = 1;
		__asm__ volatile("xchgl %0, %1" : "+r"(was), "+m"(lock) : : "memory");
		if (was)
			cpu_relax();
	} while (was);
}

static void leave(void)
{
	__asm__ volatile("" : : : "memory");
	lock = 0;
}

/*
 * What came back; with the lock. The device is to interrupt for the next one: that takes time, in
 * which the other CPU sees what it has done, and adds.
 */
static void reap(struct rng *r)
{
	uint64_t cookie;
	uint32_t length;

	while (virtq_done(&r->q, &cookie, &length)) {
		if (cookie >= r->size || length != BYTES)
			stopped = true;
		done++;
	}
	virtq_interrupt_after(&r->q, 0);
}

static void add(struct rng *r)
{
	struct virtq_segment s = { .length = BYTES, .write = true };
	uint16_t head;
	bool kick = false;

	take();
	reap(r);
	head = r->q.free_head;
	s.at = buffer + 64 * head;
	if (virtq_add(&r->q, &s, 1, false, head)) {
		added++;
		virtq_publish(&r->q);
		kick = virtq_wants_kick(&r->q);
	}
	leave();
	if (kick)
		virtq_notify(&r->q);
}

static void other_cpu(void)
{
	const volatile uint64_t *go = &this_cpu()->irq_count[VEC_GO];
	uint64_t seen = 0;

	lapic_enable();
	for (;;) {
		while (*go == seen)
			halt_unless(go, seen);
		seen = *go;
		for (unsigned int i = 0; i < ROUNDS && !stopped; i++)
			add(racer);
		take();
		turns--;
		leave();
	}
}

/* The other CPU has had its turn, and all has come back. */
static void finish(struct rng *r)
{
	uint64_t end = rdtsc() + us_to_tsc(TIMEOUT_US);
	bool all = false;

	while (!all && !stopped) {
		take();
		reap(r);
		all = turns == 0 && done == added;
		leave();
		if ((int64_t)(rdtsc() - end) > 0)
			rng_bad(r, "stuck: %lu of %lu done, avail=%u used=%u", done, added,
				r->q.published, r->q.last_used);
	}
	if (stopped)
		rng_bad(r, "a head or a length that is wrong");
}

void rng_race(struct rng *r)
{
	static bool started;

	if (option_number("cpus", 1) < 2)
		return;
	if (!started) {
		racer = r;
		buffer = ram_take(64 * RNG_QUEUE_MAX, 4096);
		if (!buffer || cpus_start(2, other_cpu) != 2)
			rng_bad(r, "no second CPU");
		started = true;
	}
	for (unsigned int i = 0; i < 2; i++) {
		rng_start(r, i ? F_VERSION_1 : RNG_FEATURES, i ? 8 : RNG_QUEUE_MAX);
		turns = 1;
		lapic_write(LAPIC_ICR_HIGH, 1u << 24);
		lapic_write(LAPIC_ICR, VEC_GO);
		for (unsigned int n = 0; n < ROUNDS && !stopped; n++)
			add(r);
		finish(r);
	}
	r->requests += added;
	added = done = 0;
	rng_start(r, RNG_FEATURES, RNG_QUEUE_MAX);
}
