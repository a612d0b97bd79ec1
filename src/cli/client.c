/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/unix_socket.h>
#include <molt/control/control_path.h>

#include "client.h"

/* No molt has longer answers. As objects in memory it may be a hundred times as much. */
#define MESSAGE_MAX (1u << 20)
#define CHUNK 4096
#define RETRY_MS 20

void client_set_timeout(struct client *c, uint64_t ms)
{
	c->deadline_ns = ms ? now_ns() + ms * 1000000u : 0;
}

static int lost(struct error *err)
{
	return err_set(err, ECONNRESET, "the connection was lost before an answer came");
}

/* Milliseconds until the deadline, a second at most; -1 where there is none. */
static int time_left(const struct client *c)
{
	uint64_t now = now_ns(), left = c->deadline_ns > now ? c->deadline_ns - now : 0;

	if (!c->deadline_ns)
		return -1;
	return left > 1000000000u ? 1000 : (int)(left / 1000000u);
}

/*
 * Waits until the socket is ready for events, or the deadline. That comes for a server that always
 * has something to say, too.
 */
static int wait_ready(const struct client *c, short events, struct error *err)
{
	struct pollfd pfd[] = {
		{ .fd = c->fd, .events = events },
		{ .fd = c->cancel_fd, .events = POLLIN },
	};

	for (;;) {
		int left = time_left(c), n = poll(pfd, c->cancel_fd ? 2 : 1, left);

		if (n < 0 && errno != EINTR)
			return err_sys(err, errno, "poll");
		if (n > 0 && pfd[1].revents)
			return err_set(err, ECANCELED, "interrupted");
		if (n > 0 && left != 0)
			return 0;
		if (left == 0)
			return err_set(err, ETIMEDOUT, "no answer in time");
	}
}

static int send_request(struct client *c, const char *text, size_t len, struct error *err)
{
	while (len) {
		ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		int r = 0;

		if (n >= 0) {
			text += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			r = wait_ready(c, POLLOUT, err);
		} else if (errno != EINTR) {
			r = errno == EPIPE || errno == ECONNRESET ? lost(err)
								  : err_sys(err, errno, "send");
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * The request as it is sent, all at once: a server that ends when it has the last bracket is not
 * there any more for what comes behind. NULL where there is no memory.
 */
static char *request_line(json_t *msg)
{
	_cleanup_free_ char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;
	char *line = NULL;

	return text && asprintf(&line, "%s\r\n", text) >= 0 ? line : NULL;
}

static int send_message(struct client *c, json_t *msg, struct error *err)
{
	_cleanup_free_ char *line = request_line(msg);

	if (!line)
		return err_set(err, ENOMEM, "no memory for a request");
	return send_request(c, line, strlen(line), err);
}

static int make_room(struct client *c, struct error *err)
{
	char *bigger;

	if (c->len > MESSAGE_MAX) /* and there is no whole one among it */
		return err_set(err, EPROTO, "the server sends a message of over %u bytes",
			       MESSAGE_MAX);
	if (c->room - c->len >= CHUNK)
		return 0;
	bigger = realloc(c->buf, c->room * 2 + CHUNK);
	if (!bigger)
		return err_set(err, ENOMEM, "no memory for an answer");
	c->buf = bigger;
	c->room = c->room * 2 + CHUNK;
	return 0;
}

static int read_more(struct client *c, struct error *err)
{
	int r = wait_ready(c, POLLIN, err);
	ssize_t n;

	if (r == 0)
		r = make_room(c, err);
	if (r < 0)
		return r;
	n = recv(c->fd, c->buf + c->len, c->room - c->len, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return lost(err);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return err_sys(err, errno, "recv");
	if (n > 0)
		c->len += (size_t)n;
	return 0;
}

int client_receive(struct client *c, json_t **msg, struct error *err)
{
	enum json_frame frame;
	size_t start, end;

	for (;;) {
		int r;

		frame = json_framer_scan(&c->framer, c->buf, c->len, &start, &end);
		if (frame != JSON_FRAME_MORE)
			break;
		r = read_more(c, err);
		if (r < 0)
			return r;
	}
	if (frame != JSON_FRAME_MESSAGE)
		return err_set(err, EPROTO, "the server does not speak QMP");
	*msg = json_message_parse(c->buf + start, end - start, err);
	c->len -= end;
	memmove(c->buf, c->buf + end, c->len);
	json_framer_drop(&c->framer, end);
	if (*msg && json_is_object(*msg))
		return 0;
	json_decref(*msg);
	return err_set(err, EPROTO, "the server does not speak QMP");
}

static int remote_error(json_t *error, struct error *err)
{
	const char *desc = json_string_value(json_object_get(error, "desc"));

	return err_set(err, EREMOTEIO, "%s", desc ? desc : "an error without description");
}

static int receive_answer(struct client *c, json_t **result, struct error *err)
{
	int r = 0;

	while (r == 0) {
		json_t *msg, *ret, *error;

		r = client_receive(c, &msg, err);
		if (r < 0)
			break;
		ret = json_object_get(msg, "return");
		error = json_object_get(msg, "error");
		if (ret)
			*result = json_incref(ret);
		else if (error)
			r = remote_error(error, err);
		else if (c->event && json_object_get(msg, "event"))
			c->event(c->opaque, msg);
		json_decref(msg);
		if (ret)
			break;
	}
	return r;
}

int client_call(struct client *c, json_t *request, json_t **result, struct error *err)
{
	int r = send_message(c, request, err);

	json_decref(request);
	return r < 0 ? r : receive_answer(c, result, err);
}

/* The descriptor travels with the first byte of the request that names it. */
static int send_with_fd(struct client *c, const char *line, int fd, struct error *err)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} rights = { .buf = { 0 } };
	struct iovec iov = { .iov_base = (char *)line, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = rights.buf,
		.msg_controllen = sizeof(rights.buf),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int r;

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	while (sendmsg(c->fd, &msg, MSG_NOSIGNAL) != 1) {
		if (errno == EPIPE || errno == ECONNRESET)
			return lost(err);
		if (errno != EAGAIN && errno != EINTR)
			return err_sys(err, errno, "sendmsg");
		r = wait_ready(c, POLLOUT, err);
		if (r < 0)
			return r;
	}
	return send_request(c, line + 1, strlen(line + 1), err);
}

int client_give_fd(struct client *c, const char *name, int fd, struct error *err)
{
	json_t *request = json_pack("{s:s,s:{s:s}}", "execute", "getfd", "arguments", "fdname",
				    name);
	_cleanup_free_ char *line = request_line(request);
	json_t *result = NULL;
	int r;

	json_decref(request);
	if (!line)
		return err_set(err, ENOMEM, "no memory for a request");
	r = send_with_fd(c, line, fd, err);
	if (r == 0)
		r = receive_answer(c, &result, err);
	json_decref(result);
	return r;
}

/* The server speaks first. It may refuse in the greeting's place. */
static int negotiate(struct client *c, struct error *err)
{
	json_t *msg, *result;
	int r = client_receive(c, &msg, err);

	if (r < 0)
		return r;
	if (json_object_get(msg, "error"))
		r = remote_error(json_object_get(msg, "error"), err);
	else if (!json_object_get(msg, "QMP"))
		r = err_set(err, EPROTO, "the server sends no QMP greeting");
	json_decref(msg);
	if (r == 0)
		r = client_call(c, json_pack("{s:s}", "execute", "qmp_capabilities"), &result, err);
	if (r == 0)
		json_decref(result);
	return r;
}

static int connect_error(const char *path, int code, struct error *err)
{
	switch (code) {
	case ENOENT:
		return err_set(err, code,
			       "control socket '%s': there is none; was molt started "
			       "with --control %s?",
			       path, path);
	case ECONNREFUSED:
		return err_set(err, code,
			       "control socket '%s': nobody listens there (any more), "
			       "or it is no Unix socket",
			       path);
	case ETIMEDOUT:
		return err_set(err, code,
			       "control socket '%s': not connected in time; whoever "
			       "listens there takes no connection",
			       path);
	case EACCES:
		return err_set(err, code,
			       "control socket '%s': permission denied; only molt's own "
			       "user and root may connect",
			       path);
	default:
		return err_sys(err, code, "control socket '%s'", path);
	}
}

/*
 * While the server's backlog is full, because it is stopped or hangs, there is nothing that could
 * be polled: another try is all there is.
 */
static int connect_in_time(const struct client *c, const struct sockaddr_un *sun)
{
	while (connect(c->fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0) {
		struct pollfd cancel = { .fd = c->cancel_fd, .events = POLLIN };
		int code = errno, left = time_left(c);

		if (code != EAGAIN && code != EINTR)
			return code;
		if (left == 0)
			return ETIMEDOUT;
		left = left < 0 || left > RETRY_MS ? RETRY_MS : left;
		if (poll(&cancel, c->cancel_fd ? 1 : 0, left) > 0)
			return ECANCELED;
	}
	return 0;
}

int client_connect(struct client *c, const char *named, struct error *err)
{
	_cleanup_free_ char *path = control_path_for_client(named, err);
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(struct ucred);
	struct ucred peer;
	int r;

	c->fd = -1;
	if (!path)
		return -err->code;
	/* An empty one would be an abstract socket, and anybody's. */
	r = unix_socket_check_path("control socket", path, err);
	if (r < 0)
		return r;
	memcpy(sun.sun_path, path, strlen(path) + 1);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return err_sys(err, errno, "socket");
	r = connect_in_time(c, &sun);
	if (r == ENOENT && strcmp(path, named) != 0)
		return err_set(err, r, "control socket '%s': there is none here, nor %s", named,
			       path);
	if (r > 0)
		return connect_error(path, r, err);
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		c->peer = peer.pid;
	r = negotiate(c, err);
	if (r < 0)
		err_prefix(err, "control socket '%s'", path);
	return r;
}

void client_close(struct client *c)
{
	fd_close(&c->fd);
	free(c->buf);
	c->buf = NULL;
}
