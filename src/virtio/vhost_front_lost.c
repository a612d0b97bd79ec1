/* SPDX-License-Identifier: MIT */
/* What becomes of queues when the connection is gone: where they go on, or that they cannot. */
#include <errno.h>
#include <fcntl.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_front_impl.h"

void vhost_front_tell_lost(struct vhost_front *f, unsigned int queue)
{
	struct error err = ERROR_INIT;
	unsigned int flying;

	vhost_front_in_order(f, queue, &flying);
	err_set(&err, EIO,
		"%s: the vhost-user back-end has gone with %u requests of queue %u in flight; it "
		"kept no inflight table and did not finish requests in their order, so nobody "
		"knows which are done: the device needs a reset (end such a back-end by SIGTERM, "
		"or take one with the protocol feature INFLIGHT_SHMFD)",
		f->setup.name, flying, queue);
	log_error("%s", err.text);
	if (f->setup.ops->requests_lost)
		f->setup.ops->requests_lost(f->setup.opaque, queue, &err);
}

static void lose_queue(struct vhost_front *f, unsigned int queue)
{
	struct vhost_front_guest *g = f->guest;
	bool asked_back = !(g->queue_flags[queue] & QUEUE_WANTED);
	bool goes_on = g->tell_stopped && !g->reset_wanted; /* with the next start */
	uint16_t used;

	/* Of one that was given back only the rest of the requests was waited for. */
	if (vhost_front_used_index(f, queue, &used))
		g->queue_base[queue] = used;
	if (!asked_back || goes_on)
		g->queue_flags[queue] |= QUEUE_CALL | (g->has_inflight ? 0 : QUEUE_UNJUDGED);
	else if (g->has_inflight)
		g->queue_flags[queue] |= QUEUE_DEAD;
	g->queue_flags[queue] &= (uint16_t) ~(QUEUE_LIVE | QUEUE_ASKED | QUEUE_GIVEN | QUEUE_KICK);
}

void vhost_front_lose_queues(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if (g->queue_flags[i] & QUEUE_LIVE ||
		    (g->queue_step > QSTEP_KICK && g->queue_at == i))
			lose_queue(f, i);
	g->queue_step = 0;
	g->drain_by_ns = 0;
}

/*
 * A back-end may close its socket and finish what it has begun after that, as qemu-storage-daemon
 * does; when another one is there it has.
 */
bool vhost_front_judge_queue(struct vhost_front *f, unsigned int queue)
{
	struct vhost_front_guest *g = f->guest;
	unsigned int flying;

	if (!(g->queue_flags[queue] & QUEUE_UNJUDGED))
		return true;
	vhost_front_used_index(f, queue, &g->queue_base[queue]);
	if (vhost_front_in_order(f, queue, &flying))
		return true;
	g->queue_flags[queue] |= QUEUE_LOST | QUEUE_TELL_LOST;
	return false;
}

/*
 * A hole, not zeroes written: what a back-end says of the table's size must not become memory, for
 * which molt would be charged. Nor mapped: a back-end that shrinks the table harms itself.
 */
static void clear_slot(struct vhost_front *f, unsigned int queue)
{
	uint64_t slot = f->guest->inflight_size / f->guest->inflight_queues;
	uint64_t at = f->guest->inflight_offset + queue * slot;

	if (fallocate(f->inflight_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
		      (off_t)slot) < 0)
		log_warn("%s: the inflight table of queue %u cannot be cleared: %s", f->setup.name,
			 queue, error_text(errno));
}

bool vhost_front_has_to_forget(const struct vhost_front *f)
{
	return f->guest->has_inflight || vhost_front_queues_with(f, QUEUE_HISTORY);
}

/* Where a back-end has the table no later step clears it, and this queue is not being served. */
void vhost_front_forget_queue(struct vhost_front *f, unsigned int queue)
{
	struct vhost_front_guest *g = f->guest;

	g->queue_flags[queue] &= (uint16_t)~QUEUE_HISTORY;
	if (!g->has_inflight)
		return;
	if (!g->started || g->step != STEP_SESSION)
		g->queue_flags[queue] |= QUEUE_DEAD;
	else if (queue < g->inflight_queues)
		clear_slot(f, queue);
}

void vhost_front_clear_dead(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		if (!(g->queue_flags[i] & QUEUE_DEAD))
			continue;
		g->queue_flags[i] &= (uint16_t)~QUEUE_DEAD;
		if (i < g->inflight_queues)
			clear_slot(f, i);
	}
}

int vhost_front_check_table(struct vhost_front *f, struct error *err)
{
	const struct vhost_front_guest *g = f->guest;
	unsigned int flying;

	if (!g->has_inflight || vhost_front_has(f, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))
		return 0;
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if (g->queue_flags[i] & QUEUE_WANTED && !vhost_front_in_order(f, i, &flying))
			return err_set(err, ENOTSUP,
				       "it keeps no inflight table (protocol feature "
				       "INFLIGHT_SHMFD), and the one before has left %u requests "
				       "of queue %u in one",
				       flying, i);
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if (g->queue_flags[i] & QUEUE_WANTED)
			vhost_front_used_index(f, i, &f->guest->queue_base[i]);
	vhost_front_forget_inflight(f);
	return 0;
}
