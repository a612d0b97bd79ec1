/* SPDX-License-Identifier: MIT */
/* Where nobody turns the event loop: a cold start, and a reset of the machine. */
#include <errno.h>
#include <poll.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>

#include "vhost_front_impl.h"

#define NS_PER_MS 1000000ull
#define TURNS 256 /* more than a stop has messages */

static int ms_until(uint64_t at)
{
	uint64_t now = now_ns();
	uint64_t ms = at > now ? (at - now + NS_PER_MS - 1) / NS_PER_MS : 0;

	return ms < 1000 ? (int)ms : 1000;
}

/* One turn of an event loop with these two sockets and one timer alone; false: nothing to do. */
static bool turn(struct vhost_front *f, uint64_t until)
{
	struct pollfd fds[] = {
		{ .fd = f->conn_source.loop ? f->conn.fd : -1 },
		{ .fd = f->channel_source.loop ? f->channel.fd : -1 },
	};
	bool timer = f->timer.loop && f->timer.at_ns < until;

	fds[0].events = (short)f->conn_source.events; /* EPOLLIN is POLLIN, and so on */
	fds[1].events = (short)f->channel_source.events;
	if (poll(fds, ARRAY_SIZE(fds), ms_until(timer ? f->timer.at_ns : until)) < 0)
		return false;
	if (f->timer.loop && now_ns() >= f->timer.at_ns) {
		loop_timer_cancel(&f->timer);
		vhost_front_on_timer(f);
		return true;
	}
	if (fds[0].revents)
		vhost_front_on_conn(f, (uint32_t)fds[0].revents);
	else if (fds[1].revents)
		vhost_front_on_channel(f, (uint32_t)fds[1].revents);
	return fds[0].revents || fds[1].revents;
}

/* Where sockets are given nobody gives another one meanwhile. */
static bool has_ended(const struct vhost_front *f)
{
	return !f->setup.path && !f->guest->connected;
}

static bool wait_until_ready(struct vhost_front *f, unsigned int ms)
{
	uint64_t until = now_ns() + ms * NS_PER_MS;

	while (!f->guest->ready) {
		if (now_ns() >= until || !f->live || has_ended(f) || end_signals_pending())
			return false;
		turn(f, until);
	}
	return true;
}

int vhost_front_wait_ready(struct vhost_front *f, unsigned int ms, struct error *err)
{
	const char *why;

	if (wait_until_ready(f, ms))
		return 0;
	if (end_signals_pending())
		return err_set(err, EINTR,
			       "%s: ended by a signal while the back-end was waited for",
			       f->setup.name);
	why = has_ended(f) ? "it has ended" : "it does not answer";
	if (f->last_error.code)
		why = f->last_error.text;
	if (has_ended(f))
		return err_set(err, ECONNRESET, "%s: the back-end was lost before it was ready: %s",
			       f->setup.name, why);
	if (!f->setup.path)
		return err_set(err, ETIMEDOUT, "%s: the back-end was not ready within %u ms: %s",
			       f->setup.name, ms, why);
	return err_set(err, ETIMEDOUT,
		       "%s: no vhost-user back-end was ready at '%s' within %u ms: %s; start it "
		       "first, and see that it may be connected to",
		       f->setup.name, f->setup.path, ms, why);
}

void vhost_front_serve_stop(struct vhost_front *f, bool at_once)
{
	struct error err = ERROR_INIT;

	for (unsigned int n = 0; f->live && f->guest->tell_stopped && n < TURNS; n++)
		if (!turn(f, 0))
			break;
	if (!f->guest->tell_stopped || !at_once)
		return;
	err_set(&err, ETIMEDOUT, "it has not stopped for a reset of the machine");
	vhost_front_drop(f, &err);
	vhost_front_pump(f);
}
