/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * Two things are kept apart: what the owner wants (started, which queues), and how far the back-end
 * of this connection has been brought. The owner's calls change the first and never do anything
 * else. One function, next(), compares the two and does the one next thing that brings them
 * together; it is called again and again until it says that it has to wait. So it does not matter
 * in which order things happen: what is wanted while nobody is connected is done later, a queue
 * that is not wanted any more while it is being set up is set up to the end and taken back.
 *
 * A connection goes through a fixed list of steps (vhost_front_script.c). At most one answer is
 * outstanding, and nothing is sent meanwhile; only queues are asked back all at once, for each may
 * have to wait for a slow disk. Messages that the socket does not take are made again later. So the
 * whole state is a few numbers and flags, and they are in the guest part: an update may come
 * between any two events.
 *
 * When a connection ends all that was done on it is forgotten, and what is wanted brings the next
 * one to the same point. Nothing of it is shown to the guest, who waits. What makes that right for
 * its requests is in docs/vhost-user.md.
 *
 * The owner is told by next(), too, before anything else is done, so that its callbacks always see
 * a state that fits.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_front_impl.h"

#define REPLY_MS 10000
#define DRAIN_MS 30000
#define LATE_MS 100
#define NS_PER_MS 1000000ull

void vhost_front_init(struct vhost_front *f, struct vhost_front_guest *guest,
		      const struct vhost_front_setup *setup)
{
	memset(f, 0, sizeof(*f));
	f->guest = guest;
	f->setup = *setup;
	if (!f->setup.reply_ms)
		f->setup.reply_ms = REPLY_MS;
	if (!f->setup.drain_ms)
		f->setup.drain_ms = DRAIN_MS;
	vhost_user_conn_init(&f->conn, VHOST_USER_FRONT_END, -1);
	vhost_user_conn_init(&f->channel, VHOST_USER_FRONT_END_CHANNEL, -1);
	f->inflight_fd = -1;
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		vhost_front_set_fds(f, i, -1, -1, -1);
}

void vhost_front_destroy(struct vhost_front *f)
{
	if (!f->guest)
		return;
	vhost_front_quiesce(f);
	loop_del(&f->conn_source);
	loop_del(&f->channel_source);
	vhost_user_conn_close(&f->conn);
	vhost_user_conn_close(&f->channel);
	fd_close(&f->inflight_fd);
	f->guest = NULL;
}

static bool ready(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	if (!g->connected || g->step != STEP_READY || g->awaiting || g->ready)
		return false;
	g->known = true;
	g->ready = true;
	f->last_error.code = 0;
	if (f->setup.ops->ready)
		f->setup.ops->ready(f->setup.opaque);
	return true;
}

static bool told(bool *what, void (*fn)(void *opaque), void *opaque)
{
	if (!*what)
		return false;
	*what = false;
	if (fn)
		fn(opaque);
	return true;
}

static bool stopped(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	if (!g->tell_stopped || vhost_front_queues_with(f, QUEUE_TELL))
		return false;
	if (g->step > STEP_READY || (g->step == STEP_READY && g->awaiting))
		return false;
	if (g->reset_wanted)
		vhost_front_forget_inflight(f);
	g->reset_wanted = false;
	return told(&g->tell_stopped, f->setup.ops->stopped, f->setup.opaque);
}

static bool tell_owner(struct vhost_front *f)
{
	const struct vhost_front_ops *ops = f->setup.ops;
	struct vhost_front_guest *g = f->guest;

	return told(&g->tell_lost, ops->lost, f->setup.opaque) || vhost_front_tell_queues(f) ||
	       stopped(f) || ready(f) ||
	       (g->ready && told(&g->tell_config, ops->config_changed, f->setup.opaque));
}

static bool resting(const struct vhost_front_guest *g)
{
	return g->step == STEP_READY || g->step == STEP_SESSION;
}

/* All queues are taken back: the session is over. */
static int end_session(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	g->running = false;
	g->unconfirmed = false;
	g->step = STEP_READY;
	if (g->reset_wanted && vhost_front_has(f, VHOST_USER_PROTOCOL_F_RESET_DEVICE))
		g->step = STEP_RESET_DEVICE;
	return 1;
}

static int serve_session(struct vhost_front *f, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	int r = 0;

	/* One that is half set up comes first, also where nobody wants it any more. */
	if (!g->queue_step)
		r = vhost_front_take_queues_back(f, err);
	if (r || vhost_front_queues_with(f, QUEUE_ASKED))
		return r;
	if (!g->started && !g->queue_step)
		return vhost_front_draining(f) ? 0 : end_session(f);
	r = vhost_front_set_up_queues(f, err);
	if (r == 0 && !f->blocked && g->unconfirmed)
		return vhost_front_barrier(f, err);
	return r;
}

/* The one next thing. 1: done, 0: there is none, or something has to be waited for, -errno. */
static int next(struct vhost_front *f, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	int r = 0;

	if (tell_owner(f))
		return 1;
	if (!g->connected || g->awaiting || f->blocked || vhost_user_sending(&f->conn))
		return 0;
	if (!resting(g))
		return vhost_front_step(f, err);
	if (g->step == STEP_SESSION)
		r = serve_session(f, err);
	else if (g->started) {
		g->step++;
		return 1;
	}
	if (r == 0 && g->config_dirty && !vhost_front_queues_with(f, QUEUE_ASKED))
		return vhost_front_reread_config(f, err);
	return r;
}

static void earliest(uint64_t *at, uint64_t other)
{
	if (other && (!*at || other < *at))
		*at = other;
}

static void rearm(struct vhost_front *f)
{
	const struct vhost_front_guest *g = f->guest;
	uint64_t at = 0;

	if (!f->live)
		return;
	vhost_front_watch(f);
	if (!g->connected)
		earliest(&at, f->retry_ns);
	earliest(&at, g->reply_by_ns);
	earliest(&at, g->drain_by_ns);
	earliest(&at, f->settle_ns);
	if (at)
		loop_timer_set(f->setup.loop, &f->timer, at, vhost_front_on_timer, f);
	else
		loop_timer_cancel(&f->timer);
}

static void note_state(struct vhost_front *f)
{
	enum vhost_front_state state = vhost_front_state(f);

	if (f->guest->state == state && f->guest->since_ns)
		return;
	f->guest->state = (uint8_t)state;
	f->guest->since_ns = now_ns();
}

void vhost_front_pump(struct vhost_front *f)
{
	struct error err = ERROR_INIT;
	int r = 1;

	f->settle_ns = 0;
	while (r && f->live) {
		r = next(f, &err);
		if (r < 0) {
			vhost_front_drop(f, r == -EPIPE || r == -ECONNRESET ? NULL : &err);
			err = ERROR_INIT;
		}
	}
	note_state(f);
	rearm(f);
}

void vhost_front_soon(struct vhost_front *f)
{
	if (f->live)
		loop_timer_set(f->setup.loop, &f->timer, now_ns(), vhost_front_on_timer, f);
}

/*
 * Whether a time is over. An answer that is there already counts, however late anybody looks: the
 * process may have been stopped.
 */
static bool over(const struct vhost_front *f, uint64_t *by_ns)
{
	if (!*by_ns || now_ns() < *by_ns)
		return false;
	if (!fd_ready(f->conn.fd, POLLIN))
		return true;
	*by_ns = now_ns() + LATE_MS * NS_PER_MS;
	return false;
}

static void check_time(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;
	struct error err = ERROR_INIT;
	char buf[24];

	if (over(f, &g->reply_by_ns)) {
		err_set(&err, ETIMEDOUT, "%s was not answered within %u ms",
			vhost_user_request_name(VHOST_USER_FRONT_END, g->awaiting, buf),
			f->setup.reply_ms);
		vhost_front_drop(f, &err);
	} else if (over(f, &g->drain_by_ns)) {
		err_set(&err, ETIMEDOUT, "it did not finish what was in flight within %u ms",
			f->setup.drain_ms);
		vhost_front_drop(f, &err);
	}
	if (!g->connected && f->retry_ns && now_ns() >= f->retry_ns)
		vhost_front_connect(f);
}

void vhost_front_on_timer(void *opaque)
{
	struct vhost_front *f = opaque;

	check_time(f);
	vhost_front_pump(f);
}

int vhost_front_start(struct vhost_front *f, uint64_t features)
{
	struct vhost_front_guest *g = f->guest;

	if (g->started)
		return -EALREADY;
	if (g->tell_stopped)
		return -EBUSY;
	/* Before that they are those of a back-end that may not stay. */
	if (features & ~vhost_front_features(f))
		return -EINVAL;
	g->acked = features;
	g->started = true;
	vhost_front_soon(f);
	return 0;
}

int vhost_front_stop(struct vhost_front *f, bool reset)
{
	struct vhost_front_guest *g = f->guest;

	if (!g->started && !vhost_front_queues_with(f, QUEUE_WANTED))
		return -EALREADY;
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++) {
		vhost_front_stop_queue(f, i);
		if (reset)
			g->queue_flags[i] &= (uint16_t)~QUEUE_HISTORY;
	}
	g->started = false;
	g->running = false;
	g->reset_wanted = reset;
	g->tell_stopped = true;
	vhost_front_soon(f);
	return 0;
}

enum vhost_front_state vhost_front_state(const struct vhost_front *f)
{
	const struct vhost_front_guest *g = f->guest;

	if (!g->connected)
		return VHOST_FRONT_DISCONNECTED;
	if (!g->ready)
		return VHOST_FRONT_HANDSHAKE;
	if (g->started)
		return g->running ? VHOST_FRONT_RUNNING : VHOST_FRONT_SETUP;
	return g->tell_stopped || g->step > STEP_READY ? VHOST_FRONT_DRAINING : VHOST_FRONT_READY;
}

const char *vhost_front_state_name(enum vhost_front_state state)
{
	static const char *const names[] = { "disconnected", "handshake", "ready",
					     "setup",        "running",   "draining" };

	return names[state];
}

uint64_t vhost_front_since_ns(const struct vhost_front *f)
{
	return f->guest->state == vhost_front_state(f) ? f->guest->since_ns : now_ns();
}

uint64_t vhost_front_features(const struct vhost_front *f)
{
	return f->guest->known ? f->guest->features : 0;
}

uint16_t vhost_front_queue_num(const struct vhost_front *f)
{
	return f->guest->queue_num;
}

const uint8_t *vhost_front_config(const struct vhost_front *f)
{
	return f->guest->config;
}

bool vhost_front_keeps_inflight(const struct vhost_front *f)
{
	return vhost_front_has(f, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
}
