/* SPDX-License-Identifier: MIT */
/*
 * The back-end channel, on which the back-end asks. One request has a meaning here: the
 * configuration has changed. Those that come before it is read again make one reading of it.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <molt/base/fd.h>

#include "vhost_front_impl.h"

int vhost_front_open_channel(struct vhost_front *f, int *theirs, struct error *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return err_sys(err, errno, "a socket pair");
	loop_del(&f->channel_source);
	vhost_user_conn_close(&f->channel);
	vhost_user_conn_init(&f->channel, VHOST_USER_FRONT_END_CHANNEL, fds[0]);
	f->guest->channel = true;
	*theirs = fds[1];
	return 0;
}

static void close_channel(struct vhost_front *f)
{
	loop_del(&f->channel_source);
	vhost_user_conn_close(&f->channel);
	f->guest->channel = false;
}

void vhost_front_watch_channel(struct vhost_front *f)
{
	uint32_t events = EPOLLIN | (vhost_user_sending(&f->channel) ? EPOLLOUT : 0);
	int r = 0;

	if (f->channel.fd < 0)
		return;
	if (f->channel_source.loop)
		r = loop_mod(&f->channel_source, events);
	else
		r = loop_add(f->setup.loop, &f->channel_source, f->channel.fd, events,
			     vhost_front_on_channel, f);
	if (r < 0)
		close_channel(f);
}

/* 0 or -errno: an answer that the back-end does not take is no reason to wait for it. */
static int serve(struct vhost_front *f, const struct vhost_user_message *msg)
{
	bool known = msg->hdr.request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
	struct vhost_user_message answer = vhost_user_reply_u64(msg, known ? 0 : 1);

	if (known && f->setup.config_len)
		f->guest->config_dirty = true;
	if (!(msg->hdr.flags & VHOST_USER_FLAG_NEED_REPLY))
		return 0;
	return vhost_user_send(&f->channel, &answer);
}

static int receive(struct vhost_front *f, struct error *err)
{
	struct vhost_user_message msg;
	int r = vhost_user_receive(&f->channel, &msg, err);

	if (r != 1)
		return r;
	r = serve(f, &msg);
	vhost_user_close_fds(&msg);
	return r < 0 ? err_sys(err, -r, "an answer on the back-end channel") : 0;
}

void vhost_front_on_channel(void *opaque, uint32_t events)
{
	struct vhost_front *f = opaque;
	struct error err = ERROR_INIT;
	int r = 0;

	if (events & EPOLLOUT)
		r = vhost_user_flush(&f->channel);
	if (r >= 0 && events & ~(uint32_t)EPOLLOUT)
		r = receive(f, &err);
	/* Some close it and serve on. */
	if (r == -ECONNRESET || r == -EPIPE)
		close_channel(f);
	else if (r < 0)
		vhost_front_drop(f, &err);
	vhost_front_pump(f);
}
