/* SPDX-License-Identifier: MIT */
/*
 * Queues: set up, asked back, given up.
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
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_front_impl.h"

#define NS_PER_MS 1000000ull
#define SETTLE_MS 1
#define QUEUE_SIZE_MAX 32768u

enum {
	QSTEP_NUM,
	QSTEP_BASE,
	QSTEP_ADDR,
	QSTEP_ERR,
	QSTEP_CALL,
	QSTEP_KICK,
	QSTEP_ENABLE,
	QSTEPS,
};

static_assert(QSTEPS == QUEUE_STEPS, "what is loaded is checked against it");

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

bool vhost_front_draining(const struct vhost_front *f)
{
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if ((f->guest->queue_flags[i] & (QUEUE_WANTED | QUEUE_LIVE)) == QUEUE_LIVE)
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
		g->queue_at = (uint16_t)i;
		return set_up_step(f, err);
	}
	return 0;
}

/* The used ring's index, false where it is not in guest RAM. */
static bool used_index(const struct vhost_front *f, unsigned int queue, uint16_t *index)
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

	if (!f->setup.finishes || !used_index(f, queue, &used))
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

static void tell_lost(struct vhost_front *f, unsigned int queue)
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

bool vhost_front_tell_queues(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		bool half = g->queue_step && g->queue_at == i;

		if (g->queue_flags[i] & QUEUE_TELL_LOST) {
			g->queue_flags[i] &= (uint16_t)~QUEUE_TELL_LOST;
			tell_lost(f, i);
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

static void signal_fd(int fd)
{
	const uint64_t one = 1;

	/* A counter that is full wakes up whom it is for all the same. */
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return;
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
		g->queue_flags[i] &= (uint16_t)~QUEUE_KICK;
		signal_fd(f->kick_fd[i]);
		if (g->queue_base[i])
			signal_fd(f->call_fd[i]);
	}
}

static void lose_queue(struct vhost_front *f, unsigned int queue)
{
	struct vhost_front_guest *g = f->guest;
	bool asked_back = !(g->queue_flags[queue] & QUEUE_WANTED);
	unsigned int flying;
	uint16_t used;

	/* Of one that was given back only the rest of the requests was waited for. */
	if (used_index(f, queue, &used))
		g->queue_base[queue] = used;
	if (g->has_inflight)
		g->queue_flags[queue] |= asked_back ? QUEUE_DEAD : 0;
	else if (!asked_back && !vhost_front_in_order(f, queue, &flying))
		g->queue_flags[queue] |= QUEUE_LOST | QUEUE_TELL_LOST;
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

/* Written, not mapped: a back-end that shrinks the table harms itself. */
static void clear_slot(struct vhost_front *f, unsigned int queue)
{
	static const char zero[4096];
	uint64_t slot = f->guest->inflight_size / f->guest->inflight_queues;
	uint64_t at = f->guest->inflight_offset + queue * slot;

	for (uint64_t n; slot; slot -= n, at += n) {
		n = slot < sizeof(zero) ? slot : sizeof(zero);
		if (pwrite(f->inflight_fd, zero, n, (off_t)at) != (ssize_t)n)
			return;
	}
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
