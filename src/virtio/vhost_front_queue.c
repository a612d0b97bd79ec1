/* SPDX-License-Identifier: MIT */
/* Queues: what the owner wants of them, and how one is set up. */
#include <errno.h>

#include <molt/base/fd.h>

#include "vhost_front_impl.h"

#define QUEUE_SIZE_MAX 32768u

void vhost_front_set_fds(struct vhost_front *f, unsigned int queue, int kick, int call, int err)
{
	if (queue >= VHOST_FRONT_MAX_QUEUES)
		return;
	f->kick_fd[queue] = kick;
	f->call_fd[queue] = call;
	f->err_fd[queue] = err;
}

bool vhost_front_queues_with(const struct vhost_front *f, unsigned int flags)
{
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if (f->guest->queue_flags[i] & flags)
			return true;
	return false;
}

/* Virtio 1.2, 2.7: alignment of the three parts, and their sizes. */
static bool rings_are_ram(const struct memory *mem, const struct vhost_front_queue *q)
{
	return !(q->desc % 16 || q->avail % 2 || q->used % 4) &&
	       memory_ptr(mem, q->desc, 16ull * q->size) &&
	       memory_ptr(mem, q->avail, 6 + 2ull * q->size) &&
	       memory_ptr(mem, q->used, 6 + 8ull * q->size);
}

int vhost_front_start_queue(struct vhost_front *f, unsigned int queue,
			    const struct vhost_front_queue *q)
{
	struct vhost_front_guest *g = f->guest;

	if (queue >= f->setup.queues || !q->size || q->size > QUEUE_SIZE_MAX ||
	    q->size & (q->size - 1))
		return -EINVAL;
	if (g->queue_flags[queue] & QUEUE_WANTED)
		return -EALREADY;
	if (g->tell_stopped || g->queue_flags[queue] & (QUEUE_TELL | QUEUE_LIVE))
		return -EBUSY;
	if (!rings_are_ram(f->setup.mem, q))
		return -EFAULT;
	g->queue_flags[queue] |= (uint16_t)(QUEUE_WANTED | (q->enabled ? QUEUE_ENABLED : 0));
	g->queue_size[queue] = q->size;
	g->queue_base[queue] = q->base;
	g->queue_desc[queue] = q->desc;
	g->queue_avail[queue] = q->avail;
	g->queue_used[queue] = q->used;
	vhost_front_soon(f);
	return 0;
}

int vhost_front_stop_queue(struct vhost_front *f, unsigned int queue)
{
	uint16_t *flags;

	if (queue >= VHOST_FRONT_MAX_QUEUES)
		return -ENOENT;
	flags = &f->guest->queue_flags[queue];
	if (!(*flags & QUEUE_WANTED))
		return -ENOENT;
	*flags = (uint16_t)((*flags &
			     ~(QUEUE_WANTED | QUEUE_ENABLED | QUEUE_LOST | QUEUE_TELL_LOST)) |
			    QUEUE_TELL);
	vhost_front_soon(f);
	return 0;
}

static void make_fd(struct vhost_user_message *msg, uint32_t request, unsigned int queue, int fd)
{
	*msg = vhost_user_request_u64(request, queue | (fd < 0 ? VHOST_USER_VRING_NO_FD : 0));
	if (fd >= 0)
		msg->fds[msg->nfds++] = fd;
}

static void make_addr(const struct vhost_front_guest *g, struct vhost_user_message *msg,
		      unsigned int queue)
{
	*msg = vhost_user_request(VHOST_USER_SET_VRING_ADDR);
	msg->payload.addr = (struct vhost_user_vring_addr){
		.index = queue,
		.desc = g->queue_desc[queue],
		.avail = g->queue_avail[queue],
		.used = g->queue_used[queue],
	};
	msg->hdr.size = sizeof(msg->payload.addr);
}

/* False: this step is left out. */
static bool make_step(const struct vhost_front *f, unsigned int queue,
		      struct vhost_user_message *msg)
{
	const struct vhost_front_guest *g = f->guest;

	switch (g->queue_step) {
	case QSTEP_NUM:
		*msg = vhost_user_request_state(VHOST_USER_SET_VRING_NUM, queue,
						g->queue_size[queue]);
		return true;
	case QSTEP_BASE:
		*msg = vhost_user_request_state(VHOST_USER_SET_VRING_BASE, queue,
						g->queue_base[queue]);
		return true;
	case QSTEP_ADDR:
		make_addr(g, msg, queue);
		return true;
	case QSTEP_ERR:
		make_fd(msg, VHOST_USER_SET_VRING_ERR, queue, f->err_fd[queue]);
		return f->err_fd[queue] >= 0;
	case QSTEP_CALL:
		make_fd(msg, VHOST_USER_SET_VRING_CALL, queue, f->call_fd[queue]);
		return true;
	case QSTEP_KICK:
		make_fd(msg, VHOST_USER_SET_VRING_KICK, queue, f->kick_fd[queue]);
		return true;
	default:
		*msg = vhost_user_request_state(VHOST_USER_SET_VRING_ENABLE, queue,
						g->queue_flags[queue] & QUEUE_ENABLED ? 1 : 0);
		return g->offered & BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
	}
}

static int set_up_step(struct vhost_front *f, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	unsigned int queue = g->queue_at;
	struct vhost_user_message msg;
	int r = 1;

	if (make_step(f, queue, &msg))
		r = vhost_front_send(f, &msg, g->queue_step == QSTEP_ADDR, err);
	if (r <= 0)
		return r;
	if (++g->queue_step == QSTEPS) {
		g->queue_step = 0;
		g->queue_flags[queue] &= (uint16_t)~QUEUE_UNJUDGED;
		g->queue_flags[queue] |= QUEUE_LIVE | QUEUE_KICK;
		g->unconfirmed = true;
	}
	return 1;
}

int vhost_front_set_up_queues(struct vhost_front *f, struct error *err)
{
	struct vhost_front_guest *g = f->guest;

	if (g->queue_step)
		return set_up_step(f, err);
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		if ((g->queue_flags[i] & (QUEUE_WANTED | QUEUE_LIVE | QUEUE_LOST)) != QUEUE_WANTED)
			continue;
		if (!vhost_front_judge_queue(f, i))
			return 1; /* the owner is told */
		g->queue_at = (uint16_t)i;
		return set_up_step(f, err);
	}
	return 0;
}

/*
 * The back-end that was there before may have taken a kick and not looked, or have finished a
 * request and not said so.
 */
void vhost_front_kick_queues(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		if (!(g->queue_flags[i] & QUEUE_KICK))
			continue;
		fd_signal_event(f->kick_fd[i]);
		if (g->queue_base[i] || g->queue_flags[i] & QUEUE_CALL)
			fd_signal_event(f->call_fd[i]);
		g->queue_flags[i] &= (uint16_t) ~(QUEUE_KICK | QUEUE_CALL);
	}
}
