/* SPDX-License-Identifier: MIT */
/*
 * What happens to a front-end over an update: it is taken out of the loop, and its guest part is
 * completed by what the connections have in memory: a message that came in part, with its
 * descriptors, and the rest of one that is half sent. The socket keeps all else. So the successor
 * goes on in the middle of anything, and the back-end notices nothing.
 *
 * What is loaded is a file and may be anything: it is brought into a state that could have come
 * about, or refused.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <molt/base/fd.h>

#include "vhost_front_impl.h"

#define HEADER ((uint32_t)sizeof(struct vhost_user_header))
#define NS_PER_MS 1000000ull

static void put(uint8_t *to, uint32_t *len, const void *data, size_t n)
{
	memcpy(to + *len, data, n);
	*len += (uint32_t)n;
}

/* Bytes of a message as on the wire. */
static uint32_t length(const struct vhost_user_message *msg)
{
	return HEADER + msg->hdr.size;
}

static void carry(const struct vhost_user_conn *c, struct vhost_user_carried *k)
{
	uint32_t head = c->in_len < HEADER ? c->in_len : HEADER;

	memset(k, 0, sizeof(*k));
	put(k->in, &k->in_len, &c->in.hdr, head);
	put(k->in, &k->in_len, &c->in.payload, c->in_len - head);
	k->in_fds = c->in.nfds;
	k->out_sent = c->out_sent;
	for (uint32_t i = 0; i < c->out_count; i++) {
		const struct vhost_user_message *m = &c->out[(c->out_first + i) % VHOST_USER_QUEUE];

		/* Answers on the channel: all that are ever there fit. */
		if (k->out_len + length(m) > sizeof(k->out))
			break;
		put(k->out, &k->out_len, &m->hdr, HEADER);
		put(k->out, &k->out_len, &m->payload, m->hdr.size);
	}
}

static bool next_out(const struct vhost_user_carried *k, uint32_t *at, struct vhost_user_message *m)
{
	memset(m, 0, sizeof(*m));
	if (k->out_len - *at < HEADER)
		return false;
	memcpy(&m->hdr, k->out + *at, HEADER);
	if (m->hdr.size > sizeof(m->payload) || k->out_len - *at - HEADER < m->hdr.size)
		return false;
	memcpy(&m->payload, k->out + *at + HEADER, m->hdr.size);
	*at += length(m);
	return true;
}

static bool uncarry_out(struct vhost_user_conn *c, const struct vhost_user_carried *k)
{
	uint32_t at = 0;

	while (at < k->out_len) {
		if (c->out_count == VHOST_USER_QUEUE || !next_out(k, &at, &c->out[c->out_count]))
			return false;
		c->out_count++;
	}
	c->out_sent = k->out_sent;
	return c->out_count ? c->out_sent < length(&c->out[0]) : c->out_sent == 0;
}

static bool uncarry(struct vhost_user_conn *c, const struct vhost_user_carried *k)
{
	uint32_t head = k->in_len < HEADER ? k->in_len : HEADER;
	uint32_t whole;

	if (k->in_len > sizeof(k->in) || k->out_len > sizeof(k->out) ||
	    k->in_fds > VHOST_USER_MAX_FDS || (k->in_fds && !k->in_len))
		return false;
	memcpy(&c->in.hdr, k->in, head);
	memcpy(&c->in.payload, k->in + head, k->in_len - head);
	c->in_len = k->in_len;
	whole = c->in.hdr.size <= sizeof(c->in.payload) ? length(&c->in) : 0;
	if (k->in_len >= HEADER && k->in_len >= whole)
		return false;
	return uncarry_out(c, k);
}

void vhost_front_quiesce(struct vhost_front *f)
{
	loop_timer_cancel(&f->timer);
	f->live = false;
	carry(&f->conn, &f->guest->main_carried);
	carry(&f->channel, &f->guest->channel_carried);
}

void vhost_front_resume(struct vhost_front *f)
{
	f->live = true;
	f->blocked = false;
	if (!f->guest->connected && f->setup.path)
		f->retry_ns = now_ns();
	vhost_front_soon(f);
}

static int save_in(const struct vhost_user_conn *c, uint32_t first, struct fdtable *t,
		   struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < c->in.nfds; i++)
		r = fdtable_add_as(t, "vhost-in", first + i, c->in.fds[i], FD_KIND_OTHER, err);
	return r;
}

int vhost_front_save_fds(const struct vhost_front *f, uint32_t id, struct fdtable *t,
			 struct error *err)
{
	const struct vhost_front_guest *g = f->guest;
	int r = 0;

	if (g->connected)
		r = fdtable_add(t, "vhost-socket", id, f->conn.fd, err);
	if (r == 0 && g->channel)
		r = fdtable_add(t, "vhost-channel", id, f->channel.fd, err);
	if (r == 0 && g->has_inflight)
		r = fdtable_add_as(t, "vhost-inflight", id, f->inflight_fd, FD_KIND_OTHER, err);
	if (r == 0)
		r = save_in(&f->conn, id * 16, t, err);
	if (r == 0)
		r = save_in(&f->channel, id * 16 + 8, t, err);
	return r;
}

static int take_in(struct vhost_user_conn *c, const struct vhost_user_carried *k, uint32_t first,
		   struct fdtable *t, struct error *err)
{
	while (c->in.nfds < k->in_fds) {
		int fd = fdtable_take(t, "vhost-in", first + c->in.nfds, 0, err);

		if (fd < 0)
			return fd;
		c->in.fds[c->in.nfds++] = fd;
	}
	return 0;
}

static int take(int *fd, bool wanted, const char *name, uint32_t id, unsigned int kind,
		struct fdtable *t, struct error *err)
{
	if (!wanted)
		return 0;
	*fd = fdtable_take(t, name, id, kind, err);
	return *fd < 0 ? *fd : 0;
}

static int take_all(struct vhost_front *f, uint32_t id, struct fdtable *t, struct error *err)
{
	const struct vhost_front_guest *g = f->guest;
	int r = take(&f->conn.fd, g->connected, "vhost-socket", id, FD_KIND_STREAM, t, err);

	if (r == 0)
		r = take(&f->channel.fd, g->channel, "vhost-channel", id, FD_KIND_STREAM, t, err);
	if (r == 0)
		r = take(&f->inflight_fd, g->has_inflight, "vhost-inflight", id, 0, t, err);
	if (r == 0)
		r = take_in(&f->conn, &g->main_carried, id * 16, t, err);
	if (r == 0)
		r = take_in(&f->channel, &g->channel_carried, id * 16 + 8, t, err);
	return r;
}

static bool queue_fits(const struct vhost_front *f, unsigned int i)
{
	const struct vhost_front_guest *g = f->guest;
	unsigned int flags = g->queue_flags[i];
	uint16_t size = g->queue_size[i];
	bool half = g->queue_step && g->queue_at == i;

	if (flags & QUEUE_GIVEN && !(flags & QUEUE_ASKED))
		return false;
	if (flags & QUEUE_ASKED && (!(flags & QUEUE_LIVE) || flags & QUEUE_WANTED))
		return false;
	if (flags & QUEUE_LIVE && g->step != STEP_SESSION)
		return false;
	if (!half && !(flags & (QUEUE_WANTED | QUEUE_LIVE | QUEUE_TELL)))
		return true;
	return i < f->setup.queues && size && !(size & (size - 1));
}

static bool is_empty(const struct vhost_user_carried *k)
{
	return !k->in_len && !k->in_fds && !k->out_len;
}

static const char *misfit(const struct vhost_front *f)
{
	const struct vhost_front_guest *g = f->guest;

	if (g->step >= STEPS || (!g->connected && (g->step || g->awaiting || g->channel)))
		return "its step";
	/* Nobody would close what came with it. */
	if ((!g->connected && !is_empty(&g->main_carried)) ||
	    (!g->channel && !is_empty(&g->channel_carried)))
		return "a message without a connection";
	if (!g->known && (g->step > STEP_READY ||
			  (g->step == STEP_READY && g->awaiting != VHOST_USER_GET_CONFIG)))
		return "its step";
	if (g->queue_step >= QSTEPS || g->queue_at >= VHOST_FRONT_MAX_QUEUES ||
	    (g->queue_step && g->step != STEP_SESSION))
		return "its step with a queue";
	if (g->ready && (!g->known || g->step < STEP_READY))
		return "that it is ready";
	if (g->tell_stopped && (g->started || vhost_front_queues_with(f, QUEUE_WANTED)))
		return "that it is being stopped";
	if (g->known ? g->config_len != f->setup.config_len : g->config_len > sizeof(g->config))
		return "its configuration";
	if (g->acked & ~g->features)
		return "its features";
	if (g->has_inflight &&
	    (!g->inflight_queues || g->inflight_size / g->inflight_queues == 0 ||
	     g->inflight_size > INFLIGHT_MAX || g->inflight_offset > INT64_MAX - INFLIGHT_MAX))
		return "its inflight table";
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		if (!queue_fits(f, i))
			return "a queue";
	return NULL;
}

/* A deadline is never further away than it was when it was set, and there is one for each wait. */
static void limit(uint64_t *at, bool waits, unsigned int ms)
{
	uint64_t last = now_ns() + ms * NS_PER_MS;

	if (!waits)
		*at = 0;
	else if (!*at || *at > last)
		*at = last;
}

static int refuse(const struct vhost_front *f, const char *what, struct error *err)
{
	return err_set(err, EINVAL, "%s: the state of its vhost-user front-end: %s cannot be",
		       f->setup.name, what);
}

int vhost_front_adopt(struct vhost_front *f, uint32_t id, struct fdtable *t, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	const char *what = misfit(f);
	int r;

	if (what)
		return refuse(f, what, err);
	if (!uncarry(&f->conn, &g->main_carried) || !uncarry(&f->channel, &g->channel_carried))
		return refuse(f, "a message that is half received or sent", err);
	r = take_all(f, id, t, err);
	if (r < 0)
		return r;
	limit(&g->reply_by_ns, g->awaiting, f->setup.reply_ms);
	limit(&g->drain_by_ns, vhost_front_draining(f), f->setup.drain_ms);
	return 0;
}
