/* SPDX-License-Identifier: MIT */
/*
 * Connections: made, watched, lost, made again. connect() on a Unix socket succeeds or fails at
 * once; nobody listening, no such file and a full backlog are all a reason to try again, a little
 * later each time.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_front_impl.h"

#define NS_PER_MS 1000000ull
#define FIRST_DELAY_MS 10
#define LAST_DELAY_MS 1000

static const char *place(const struct vhost_front *f)
{
	return f->setup.path ? f->setup.path : "a socketpair";
}

/* What has been said already is not said again each second. */
static void complain(struct vhost_front *f, const struct error *err)
{
	bool again = f->last_error.code && strcmp(f->last_error.text, err->text) == 0;

	log_write(again ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, "%s: vhost-user back-end at '%s': %s",
		  f->setup.name, place(f), err->text);
	f->last_error = *err;
}

static void retry_later(struct vhost_front *f)
{
	f->retry_ns = 0;
	if (!f->setup.path)
		return;
	if (f->connected_ns && now_ns() - f->connected_ns >= LAST_DELAY_MS * NS_PER_MS)
		f->retry_delay_ms = 0;
	f->connected_ns = 0;
	f->retry_ns = now_ns() + f->retry_delay_ms * NS_PER_MS;
	f->retry_delay_ms = f->retry_delay_ms ? f->retry_delay_ms * 2 : FIRST_DELAY_MS;
	if (f->retry_delay_ms > LAST_DELAY_MS)
		f->retry_delay_ms = LAST_DELAY_MS;
}

void vhost_front_forget_inflight(struct vhost_front *f)
{
	fd_close(&f->inflight_fd);
	f->guest->has_inflight = false;
	for (unsigned int i = 0; i < VHOST_FRONT_MAX_QUEUES; i++)
		f->guest->queue_flags[i] &= (uint16_t)~QUEUE_DEAD;
}

void vhost_front_drop(struct vhost_front *f, const struct error *err)
{
	struct vhost_front_guest *g = f->guest;

	if (!g->connected)
		return;
	loop_del(&f->conn_source);
	loop_del(&f->channel_source);
	vhost_user_conn_close(&f->conn);
	vhost_user_conn_close(&f->channel);
	g->connected = g->channel = f->blocked = false;
	g->step = 0;
	g->awaiting = 0;
	g->reply_by_ns = 0;
	g->running = g->unconfirmed = g->config_dirty = false;
	vhost_front_lose_queues(f);
	g->tell_lost = g->tell_lost || g->ready || !f->setup.path;
	g->ready = false;
	retry_later(f);
	if (err)
		complain(f, err);
	else
		log_write(f->setup.path ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG,
			  "%s: the vhost-user back-end at '%s' has gone", f->setup.name, place(f));
	if (err && f->setup.ops->failed)
		f->setup.ops->failed(f->setup.opaque, err);
}

static void attach(struct vhost_front *f, int fd)
{
	vhost_user_conn_init(&f->conn, VHOST_USER_FRONT_END, fd);
	f->guest->connected = true;
	f->guest->step = 0;
	f->retry_ns = 0;
	f->connected_ns = now_ns();
}

static int try_connect(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd, r;

	if (strlen(path) >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	strcpy(sun.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	r = -errno;
	fd_close(&fd);
	return r;
}

void vhost_front_connect(struct vhost_front *f)
{
	struct error err = ERROR_INIT;
	int fd = try_connect(f->setup.path);

	if (fd >= 0) {
		attach(f, fd);
		return;
	}
	err_sys(&err, -fd, "cannot connect");
	complain(f, &err);
	retry_later(f);
}

void vhost_front_give_socket(struct vhost_front *f, int fd)
{
	struct vhost_front_guest *g = f->guest;
	bool tell = g->tell_lost;

	vhost_front_drop(f, NULL);
	g->tell_lost = tell; /* the owner knows */
	attach(f, fd);
	vhost_front_soon(f);
}

void vhost_front_watch(struct vhost_front *f)
{
	uint32_t events = EPOLLIN;
	struct error err = ERROR_INIT;
	int r;

	if (!f->guest->connected)
		return;
	if (f->blocked || vhost_user_sending(&f->conn))
		events |= EPOLLOUT;
	if (f->conn_source.loop)
		r = loop_mod(&f->conn_source, events);
	else
		r = loop_add(f->setup.loop, &f->conn_source, f->conn.fd, events,
			     vhost_front_on_conn, f);
	vhost_front_watch_channel(f);
	if (r == 0)
		return;
	err_sys(&err, -r, "cannot wait for it");
	vhost_front_drop(f, &err);
	vhost_front_soon(f);
}

static int receive(struct vhost_front *f, struct error *err)
{
	struct vhost_user_message msg;
	int r = vhost_user_receive(&f->conn, &msg, err);

	if (r != 1)
		return r;
	r = vhost_front_reply(f, &msg, err);
	vhost_user_close_fds(&msg);
	return r;
}

/* One message an event: others have their turn, too. */
void vhost_front_on_conn(void *opaque, uint32_t events)
{
	struct vhost_front *f = opaque;
	struct error err = ERROR_INIT;
	int r = 0;

	if (events & EPOLLOUT) {
		f->blocked = false;
		r = vhost_user_flush(&f->conn);
		if (r < 0)
			err_sys(&err, -r, "sending");
	}
	if (r >= 0 && events & ~(uint32_t)EPOLLOUT)
		r = receive(f, &err);
	if (r < 0)
		vhost_front_drop(f, r == -ECONNRESET || r == -EPIPE ? NULL : &err);
	vhost_front_pump(f);
}
