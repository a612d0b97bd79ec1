/* SPDX-License-Identifier: MIT */
/*
 * Queues are asked back.
 *
 * A back-end answers GET_VRING_BASE with the index in the available ring that it would have read
 * next. Some answer while requests are still in flight (the storage daemon of QEMU 7.2 does), so
 * the answer alone does not say that guest RAM is not touched any more. It does when the used ring
 * has come as far: then as many requests were finished as were begun. And that daemon has closed
 * the call descriptor by then, so that the next request which it finishes makes it give up for
 * good. So a back-end of that kind, told by its having no inflight table, is asked when all that
 * the guest has made available is finished, or half of the time for it is over. Where the guest has
 * written nonsense into its rings, nobody waits for them to agree.
 */
#include <endian.h>
#include <errno.h>

#include <molt/base/fd.h>

#include "vhost_front_impl.h"

#define NS_PER_MS 1000000ull
#define SETTLE_MS 1

bool vhost_front_draining(const struct vhost_front *f)
{
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if ((f->guest->queue_flags[i] & (QUEUE_WANTED | QUEUE_LIVE)) == QUEUE_LIVE)
			return true;
	return false;
}

/* The used ring's index, false where it is not in guest RAM. */
bool vhost_front_used_index(const struct vhost_front *f, unsigned int queue, uint16_t *index)
{
	uint16_t raw;

	if (memory_read(f->setup.mem, f->guest->queue_used[queue] + 2, &raw, sizeof(raw)) < 0)
		return false;
	*index = le16toh(raw);
	return true;
}

/* Whether the used ring has come as far as index, or never will. */
static bool finished(const struct vhost_front *f, unsigned int queue, uint16_t index)
{
	uint16_t used, behind;

	if (!f->setup.finishes || !vhost_front_used_index(f, queue, &used))
		return true;
	behind = (uint16_t)(index - used);
	return behind == 0 || behind > f->guest->queue_size[queue];
}

static bool may_be_asked(const struct vhost_front *f, unsigned int queue)
{
	uint64_t half = f->setup.drain_ms * NS_PER_MS / 2;
	uint16_t avail;

	if (vhost_front_has(f, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) ||
	    memory_read(f->setup.mem, f->guest->queue_avail[queue] + 2, &avail, sizeof(avail)) < 0)
		return true;
	return finished(f, queue, le16toh(avail)) || now_ns() + half >= f->guest->drain_by_ns;
}

static int ask_back(struct vhost_front *f, unsigned int queue, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	struct vhost_user_message msg = vhost_user_request_state(VHOST_USER_GET_VRING_BASE, queue,
								 0);
	int r = vhost_front_send(f, &msg, false, err);

	if (r <= 0)
		return r;
	g->queue_flags[queue] |= QUEUE_ASKED;
	return 1;
}

static int take_back(struct vhost_front *f, unsigned int queue, struct error *err)
{
	uint16_t *flags = &f->guest->queue_flags[queue];

	if (!f->guest->drain_by_ns)
		f->guest->drain_by_ns = now_ns() + f->setup.drain_ms * NS_PER_MS;
	if (*flags & QUEUE_ASKED && !(*flags & QUEUE_GIVEN))
		return 0;
	if (*flags & QUEUE_GIVEN ? !finished(f, queue, f->guest->queue_base[queue])
				 : !may_be_asked(f, queue)) {
		f->settle_ns = now_ns() + SETTLE_MS * NS_PER_MS;
		return 0;
	}
	if (!(*flags & QUEUE_ASKED))
		return ask_back(f, queue, err);
	*flags &= (uint16_t) ~(QUEUE_LIVE | QUEUE_ASKED | QUEUE_GIVEN | QUEUE_KICK);
	if (!vhost_front_draining(f))
		f->guest->drain_by_ns = 0;
	return 1;
}

int vhost_front_take_queues_back(struct vhost_front *f, struct error *err)
{
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		int r = 0;

		if ((f->guest->queue_flags[i] & (QUEUE_WANTED | QUEUE_LIVE)) == QUEUE_LIVE)
			r = take_back(f, i, err);
		if (r || f->blocked)
			return r;
	}
	return 0;
}

int vhost_front_queue_given(struct vhost_front *f, const struct vhost_user_message *msg,
			    struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	uint32_t queue = msg->payload.state.index;

	if (queue >= VHOST_FRONT_MAX_QUEUES ||
	    (g->queue_flags[queue] & (QUEUE_ASKED | QUEUE_GIVEN)) != QUEUE_ASKED)
		return err_set(err, EPROTO,
			       "an answer to GET_VRING_BASE for queue %u, which was "
			       "not asked",
			       queue);
	g->queue_base[queue] = (uint16_t)msg->payload.state.num;
	g->queue_flags[queue] |= QUEUE_GIVEN;
	return 0;
}

bool vhost_front_tell_queues(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		bool half = g->queue_step && g->queue_at == i;

		if (g->queue_flags[i] & QUEUE_TELL_LOST) {
			g->queue_flags[i] &= (uint16_t)~QUEUE_TELL_LOST;
			vhost_front_tell_lost(f, i);
			return true;
		}
		if ((g->queue_flags[i] & (QUEUE_TELL | QUEUE_LIVE)) != QUEUE_TELL || half)
			continue;
		g->queue_flags[i] &= (uint16_t)~QUEUE_TELL;
		if (f->setup.ops->queue_stopped)
			f->setup.ops->queue_stopped(f->setup.opaque, i, g->queue_base[i]);
		return true;
	}
	return false;
}
