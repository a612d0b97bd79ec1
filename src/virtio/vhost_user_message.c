/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * A message is a header and a payload on a stream socket; its descriptors come with its first byte.
 * The kernel does not join data with and without descriptors in one read, but a peer may cut a
 * message wherever it likes and send descriptors with any byte of it. So what is read is counted as
 * bytes of one message, never more than to its end: first the header, then, when its size is known
 * to be right, the payload. Descriptors are collected on the way. Only when a message is whole are
 * their number and the counts in the payload compared with what its type says.
 *
 * Who receives requests must be able to refuse one that it does not know, so such a message is
 * read like any other. Who receives a reply has asked for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/virtio/vhost_user.h>

#include "vhost_user_shapes.h"

#define HEADER ((uint32_t)sizeof(struct vhost_user_header))

void vhost_user_conn_init(struct vhost_user_conn *c, enum vhost_user_role role, int fd)
{
	memset(c, 0, sizeof(*c));
	c->role = role;
	c->fd = fd;
	if (fd >= 0)
		fd_set_nonblock(fd, true);
}

void vhost_user_close_fds(struct vhost_user_message *msg)
{
	for (uint32_t i = 0; i < msg->nfds; i++)
		fd_close(&msg->fds[i]);
	msg->nfds = 0;
}

void vhost_user_conn_close(struct vhost_user_conn *c)
{
	fd_close(&c->fd);
	vhost_user_close_fds(&c->in);
	c->in_len = 0;
	for (; c->out_count; c->out_count--) {
		vhost_user_close_fds(&c->out[c->out_first]);
		c->out_first = (c->out_first + 1) % VHOST_USER_QUEUE;
	}
	c->out_sent = 0;
}

static void keep_fd(struct vhost_user_conn *c, int fd, bool *surplus)
{
	if (c->in.nfds < VHOST_USER_MAX_FDS) {
		c->in.fds[c->in.nfds++] = fd;
		return;
	}
	*surplus = true;
	close(fd);
}

/* Whatever the kernel has installed is kept or closed. */
static bool take_fds(struct vhost_user_conn *c, struct msghdr *mh)
{
	bool surplus = mh->msg_flags & MSG_CTRUNC;

	for (struct cmsghdr *h = CMSG_FIRSTHDR(mh); h; h = CMSG_NXTHDR(mh, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
			keep_fd(c, fd, &surplus);
		}
	}
	return surplus;
}

/* Bytes read, 0: none there, -errno. */
static ssize_t read_some(struct vhost_user_conn *c, void *at, size_t len, struct error *err)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(VHOST_USER_MAX_FDS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = at, .iov_len = len };
	struct msghdr mh = { .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control) };
	ssize_t n;

	do
		n = recvmsg(c->fd, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : err_sys(err, errno, "receiving");
	if (take_fds(c, &mh))
		return err_set(err, EPROTO, "more than %d descriptors came with a message",
			       VHOST_USER_MAX_FDS);
	if (n == 0)
		return err_set(err, ECONNRESET, "the other side has closed the connection");
	return n;
}

/* Reads on until upto bytes of the message are there. 1: they are; 0; -errno. */
static int read_until(struct vhost_user_conn *c, uint32_t upto, struct error *err)
{
	while (c->in_len < upto) {
		bool body = c->in_len >= HEADER;
		char *at = body ? (char *)&c->in.payload + (c->in_len - HEADER)
				: (char *)&c->in.hdr + c->in_len;
		ssize_t n = read_some(c, at, upto - c->in_len, err);

		if (n <= 0)
			return (int)n;
		c->in_len += (uint32_t)n;
	}
	return 1;
}

static int receive(struct vhost_user_conn *c, struct error *err)
{
	int r = read_until(c, HEADER, err);

	if (r == 1)
		r = vhost_user_check_header(c->role, &c->in.hdr, err);
	if (r == 1)
		r = read_until(c, HEADER + c->in.hdr.size, err);
	if (r == 1)
		r = vhost_user_check_message(c->role, &c->in, err);
	return r;
}

int vhost_user_receive(struct vhost_user_conn *c, struct vhost_user_message *msg, struct error *err)
{
	int r = receive(c, err);

	if (r == 0)
		return 0;
	if (r == 1)
		*msg = c->in;
	else
		vhost_user_close_fds(&c->in);
	memset(&c->in, 0, sizeof(c->in));
	c->in_len = 0;
	return r;
}

/* Bytes sent, from byte `from` of the message on; -errno. */
static ssize_t write_some(int fd, const struct vhost_user_message *msg, uint32_t from)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(VHOST_USER_MAX_FDS * sizeof(int))];
	} control = { 0 };
	uint32_t head = from < HEADER ? HEADER - from : 0;
	uint32_t skip = from < HEADER ? 0 : from - HEADER;
	struct iovec iov[2] = {
		{ .iov_base = (char *)(uintptr_t)&msg->hdr + (HEADER - head), .iov_len = head },
		{ .iov_base = (char *)(uintptr_t)&msg->payload + skip,
		  .iov_len = msg->hdr.size - skip },
	};
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	if (from == 0 && msg->nfds) {
		struct cmsghdr *h = &control.align;

		mh.msg_control = &control;
		mh.msg_controllen = CMSG_SPACE(msg->nfds * sizeof(int));
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(msg->nfds * sizeof(int));
		memcpy(CMSG_DATA(h), msg->fds, msg->nfds * sizeof(int));
	}
	do
		n = sendmsg(fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

bool vhost_user_sending(const struct vhost_user_conn *c)
{
	return c->out_count > 0;
}

int vhost_user_flush(struct vhost_user_conn *c)
{
	while (c->out_count) {
		struct vhost_user_message *msg = &c->out[c->out_first];
		ssize_t n = write_some(c->fd, msg, c->out_sent);

		if (n < 0)
			return n == -EAGAIN ? 0 : (int)n;
		vhost_user_close_fds(msg);
		c->out_sent += (uint32_t)n;
		if (c->out_sent < HEADER + msg->hdr.size)
			continue;
		c->out_sent = 0;
		c->out_first = (c->out_first + 1) % VHOST_USER_QUEUE;
		c->out_count--;
	}
	return 1;
}

int vhost_user_try_send(struct vhost_user_conn *c, const struct vhost_user_message *msg)
{
	ssize_t n = c->out_count ? -EAGAIN : write_some(c->fd, msg, 0);

	if (n < 0)
		return (int)n;
	if ((uint32_t)n < HEADER + msg->hdr.size) {
		c->out[c->out_first] = *msg;
		c->out[c->out_first].nfds = 0;
		c->out_sent = (uint32_t)n;
		c->out_count = 1;
	}
	return 0;
}

static int put_in_queue(struct vhost_user_conn *c, const struct vhost_user_message *msg)
{
	struct vhost_user_message *at = &c->out[(c->out_first + c->out_count) % VHOST_USER_QUEUE];

	if (c->out_count == VHOST_USER_QUEUE)
		return -ENOBUFS;
	*at = *msg;
	at->nfds = 0;
	for (uint32_t i = 0; i < msg->nfds; i++) {
		int fd = fcntl(msg->fds[i], F_DUPFD_CLOEXEC, 3);

		if (fd < 0) {
			int r = -errno;

			vhost_user_close_fds(at);
			return r;
		}
		at->fds[at->nfds++] = fd;
	}
	c->out_count++;
	return 0;
}

int vhost_user_send(struct vhost_user_conn *c, const struct vhost_user_message *msg)
{
	int r = vhost_user_try_send(c, msg);

	return r == -EAGAIN ? put_in_queue(c, msg) : r;
}

struct vhost_user_message vhost_user_request(uint32_t request)
{
	struct vhost_user_message msg;

	memset(&msg, 0, sizeof(msg));
	msg.hdr.request = request;
	msg.hdr.flags = VHOST_USER_VERSION;
	return msg;
}

struct vhost_user_message vhost_user_request_u64(uint32_t request, uint64_t value)
{
	struct vhost_user_message msg = vhost_user_request(request);

	msg.payload.u64 = value;
	msg.hdr.size = sizeof(msg.payload.u64);
	return msg;
}

struct vhost_user_message vhost_user_request_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_message msg = vhost_user_request(request);

	msg.payload.state.index = index;
	msg.payload.state.num = num;
	msg.hdr.size = sizeof(msg.payload.state);
	return msg;
}

struct vhost_user_message vhost_user_reply_u64(const struct vhost_user_message *to, uint64_t value)
{
	struct vhost_user_message msg = vhost_user_request_u64(to->hdr.request, value);

	msg.hdr.flags |= VHOST_USER_FLAG_REPLY;
	return msg;
}
