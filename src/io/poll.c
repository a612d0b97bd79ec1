/* SPDX-License-Identifier: MIT */
/*
 * Waking a thread that sleeps costs more than many a request takes, above all where CPUs are
 * virtual and an idle one has to be woken by its host; and a driver whose kick is awaited has to
 * leave the guest for it. So a queue's thread looks around for a while before it sleeps: longer
 * each time that it slept for less than that was worth, and not at all when there was nothing for
 * longer. So a queue with nothing to do costs nothing.
 *
 * With direct I/O the wait is for a device, which needs no CPU: it may last longer, and a sleep
 * that was mostly the waking counts as a short one. Where that was in vain several times in a row
 * the device is too slow for it, and is left alone for many sleeps. Other files are read and
 * written by the kernel's threads, and one of them may want the CPU on which this one looks around.
 */
#include <molt/base/fd.h>

#include "internal.h"

#define POLL_MIN_NS 4000u
#define MISSES 8
#define REST 512 /* sleeps */
#define LOOKS 32 /* between two looks at the clock */

struct limits {
	uint32_t max_ns;
	uint32_t worth_ns; /* a sleep of less */
	bool rests;
};

static const struct limits file_limits = { .max_ns = 32000, .worth_ns = 32000 };
static const struct limits device_limits = { .max_ns = 64000, .worth_ns = 128000, .rests = true };

static const struct limits *limits_of(const struct io_queue *q)
{
	return q->disk->direct ? &device_limits : &file_limits;
}

static bool something(struct io_queue *q)
{
	return q->engine->ready(q) || (!q->vq.broken && !q->held && virtqueue_available(&q->vq)) ||
	       !__atomic_load_n(&q->run, __ATOMIC_RELAXED);
}

bool io_poll(struct io_queue *q)
{
	struct io_poll *p = &q->poll;
	uint64_t start;

	if (!p->ns)
		return false;
	start = now_ns();
	do {
		for (int i = 0; i < LOOKS; i++) {
			if (something(q)) {
				p->missed = 0;
				return true;
			}
			__builtin_ia32_pause();
		}
	} while (now_ns() - start < p->ns);
	p->missed += p->ns >= limits_of(q)->max_ns;
	return false;
}

void io_poll_slept(struct io_queue *q, uint64_t since_ns)
{
	const struct limits *l = limits_of(q);
	struct io_poll *p = &q->poll;
	bool in_vain = l->rests && p->missed >= MISSES;

	if (p->rest) {
		p->rest--;
	} else if (in_vain || now_ns() - since_ns > l->worth_ns) {
		p->rest = in_vain ? REST : 0;
		p->ns = p->missed = 0;
	} else if (!p->ns) {
		p->ns = POLL_MIN_NS;
	} else if (p->ns < l->max_ns) {
		p->ns *= 2;
	}
}
