/* SPDX-License-Identifier: MIT */
/*
 * A listening Unix socket with one peer at a time. While a peer is there the listener is out of the
 * loop, so the next one waits in the backlog. Output without a peer stays in the queue, the newest
 * of it: the first peer sees what the guest said last.
 *
 * A peer may end its input (shutdown(2), as `printf | nc -N` does) and still want output: only the
 * hang-up ends the connection. A peer that hung up while the device had no room for what it wrote
 * keeps its place until the guest has read the rest or the next peer comes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"

#define BACKLOG 8
#define ACCEPT_AGAIN_NS 100000000ull

static void set_peer(struct chardev *cd, int fd)
{
	cd->in_fd = fd;
	cd->out_fd = fd;
	cd->in_socket = true;
	cd->out_socket = true;
	cd->in_eof = false;
	cd->in_parked = false;
	cd->out_blocked = false;
	cd->out_deaf = false;
}

static void tell(struct chardev *cd, bool connected)
{
	if (cd->ops.connected)
		cd->ops.connected(cd->ops.opaque, connected);
}

static void drop_peer(struct chardev *cd)
{
	loop_del(&cd->in_src);
	fd_close(&cd->in_fd);
	set_peer(cd, -1);
	log_debug("%s: the peer of %s left", cd->name, cd->describe);
	tell(cd, false);
}

static void accept_again(void *opaque);

/* The descriptors or the memory that it lacks may be there soon, and nobody will tell. */
static void accept_failed(struct chardev *cd, int code)
{
	if (code == EAGAIN || code == EINTR || code == ECONNABORTED)
		return;
	log_error("%s: cannot accept a connection on %s: %s", cd->name, cd->describe,
		  error_text(code));
	loop_timer_set(cd->loop, &cd->accept_timer, now_ns() + ACCEPT_AGAIN_NS, accept_again, cd);
}

static void on_listen(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;
	int fd = accept4(cd->aux_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0) {
		accept_failed(cd, errno);
		return;
	}
	if (cd->in_fd >= 0)
		drop_peer(cd);
	set_peer(cd, fd);
	atomic_store(&cd->in_stopped, false);
	tell(cd, true);
	chardev_flush(cd);
	chardev_arm(cd);
}

static void accept_again(void *opaque)
{
	on_listen(opaque, 0);
}

/*
 * Edge-triggered: where accept() fails for want of descriptors, the same connection must not be
 * reported again and again.
 */
static void socket_arm(struct chardev *cd)
{
	bool taken = cd->in_fd >= 0 && !cd->in_parked;
	uint32_t events = cd->running ? EPOLLIN | EPOLLET : 0;
	int rc;

	if (taken || !cd->running)
		loop_timer_cancel(&cd->accept_timer);
	if (taken) {
		loop_del(&cd->aux_src);
		return;
	}
	if (cd->aux_src.loop)
		rc = loop_mod(&cd->aux_src, events);
	else
		rc = loop_add(cd->loop, &cd->aux_src, cd->aux_fd, events, on_listen, cd);
	if (rc)
		log_error("%s: cannot wait for connections on %s: %s", cd->name, cd->describe,
			  error_text(-rc));
}

static int socket_open(struct chardev *cd, const char *path, struct error *err)
{
	char what[sizeof(cd->name) + sizeof(" socket")];

	snprintf(what, sizeof(what), "%s socket", cd->name);
	cd->aux_fd = unix_socket_listen(what, path, BACKLOG, &cd->aux_id, err);
	if (cd->aux_fd < 0)
		return cd->aux_fd;
	snprintf(cd->describe, sizeof(cd->describe), "socket %s", path);
	return 0;
}

static int socket_adopt(struct chardev *cd, struct fdtable *fds, struct error *err)
{
	char name[STREAM_NAME_MAX + 1];
	bool eof = cd->in_eof;
	int fd;

	cd->aux_fd = chardev_take_fd(cd, "listen", FD_KIND_LISTEN, fds, err);
	if (cd->aux_fd < 0)
		return cd->aux_fd;
	unix_socket_recognise(cd->aux_fd, &cd->aux_id);
	if (!fdtable_has(fds, chardev_fd_name(cd, "peer", name), cd->instance)) {
		cd->in_eof = false;
		return 0;
	}
	fd = chardev_take_fd(cd, "peer", FD_KIND_STREAM, fds, err);
	if (fd < 0)
		return fd;
	set_peer(cd, fd);
	cd->in_eof = eof;
	return 0;
}

static int socket_save_fds(const struct chardev *cd, struct fdtable *fds, struct error *err)
{
	int rc = chardev_add_fd(cd, "listen", cd->aux_fd, fds, err);

	if (rc || cd->in_fd < 0)
		return rc;
	return chardev_add_fd(cd, "peer", cd->in_fd, fds, err);
}

static void socket_close(struct chardev *cd, bool undo)
{
	loop_timer_cancel(&cd->accept_timer);
	cd->out_fd = -1;
	fd_close(&cd->in_fd);
	unix_socket_close(&cd->aux_fd, &cd->aux_id, undo);
}

void chardev_listen_again(struct chardev *cd)
{
	int r = cd->kind == &chardev_socket ? unix_socket_listen_again(cd->aux_fd, BACKLOG) : 0;

	if (r < 0)
		log_warn("%s: listening again at %s: %s", cd->name, cd->describe, error_text(-r));
}

static void socket_hangup(struct chardev *cd)
{
	if (cd->in_eof)
		drop_peer(cd);
}

static void socket_input_error(struct chardev *cd, int error)
{
	(void)error;
	drop_peer(cd);
}

/*
 * The peer reads no more; if it is gone altogether the hang-up says so. The next one gets the rest.
 */
static void socket_output_error(struct chardev *cd, int error)
{
	(void)error;
	cd->out_deaf = true;
}

static void socket_filename(const struct chardev *cd, char *name, size_t size)
{
	snprintf(name, size, "%sunix:%s,server=on", cd->in_fd < 0 ? "disconnected:" : "",
		 cd->describe + strlen("socket "));
}

const struct chardev_kind chardev_socket = {
	.name = "socket",
	.takes_path = true,
	.has_output = true,
	.outlives_eof = true,
	.open = socket_open,
	.adopt = socket_adopt,
	.save_fds = socket_save_fds,
	.close = socket_close,
	.arm = socket_arm,
	.hangup = socket_hangup,
	.input_error = socket_input_error,
	.output_error = socket_output_error,
	.filename = socket_filename,
};
