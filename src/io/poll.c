/* SPDX-License-Identifier: MIT */
/*
 * Waking a thread that sleeps costs more than many a request takes, above all where CPUs are virtual
 * and an idle one has to be woken by its host; and a driver whose kick is awaited has to leave the
 * guest for it. So a queue's thread looks around for a while before it sleeps: longer each time that
 * it slept for less than that, up to POLL_MAX_NS, and not at all when there was nothing for longer.
 * So a queue with nothing to do costs nothing.
 */
#include <molt/base/fd.h>

#include "internal.h"

#define POLL_MIN_NS 4000u
#define POLL_MAX_NS 32000u
#define LOOKS 32 /* between two looks at the clock */

static bool something(struct io_queue *q)
{
	return q->engine->ready(q) || (!q->vq.broken && !q->held && virtqueue_available(&q->vq)) ||
	       !__atomic_load_n(&q->run, __ATOMIC_RELAXED);
}

bool io_poll(struct io_queue *q)
{
	uint64_t start;

	if (!q->poll_ns)
		return false;
	start = now_ns();
	do {
		for (int i = 0; i < LOOKS; i++) {
			if (something(q))
				return true;
			__builtin_ia32_pause();
		}
	} while (now_ns() - start < q->poll_ns);
	return false;
}

void io_poll_slept(struct io_queue *q, uint64_t since_ns)
{
	uint64_t slept = now_ns() - since_ns;

	if (slept > POLL_MAX_NS)
		q->poll_ns = 0;
	else if (!q->poll_ns)
		q->poll_ns = POLL_MIN_NS;
	else if (q->poll_ns < POLL_MAX_NS)
		q->poll_ns *= 2;
}
