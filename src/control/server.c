/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * The control server is a listening Unix socket and up to 32 connections on the main thread's event
 * loop. server.c owns the listener, client.c moves one connection's bytes, json_framing.c cuts them
 * into messages, json_message.c parses these, qmp.c carries one out by the command tables in
 * registry.c, message.c puts the answer, saving.c hands all of it to a successor. client.c knows
 * qmp.c by a pointer to its function alone.
 *
 * What survives an update is what a client could notice: the connection, its number (by which the
 * answer to `update` finds its way back), whether it negotiated, whether it waits for an answer,
 * bytes read but not yet taken (maybe half a message) and bytes it has not read yet. The framer's
 * state is not saved: it follows from the bytes.
 *
 * Whoever may connect can stop the guest and run a binary of his choice in our place, so the socket
 * is ours alone (mode 0600 from its first moment) and, should somebody relax that, a peer must
 * still be our own user or root.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

#define LISTEN_AGAIN_NS 100000000ull
#define OVERFLOW_UID 65534 /* /proc/sys/kernel/overflowuid, where nobody has changed it */

/*
 * Says why in the greeting's place. Whoever is refused has no queue: a socket that has just been
 * accepted takes so little at once.
 */
static void refuse(int fd, const char *why)
{
	char text[256];
	int len = snprintf(text, sizeof(text),
			   "{\"error\": {\"class\": \"GenericError\", "
			   "\"desc\": \"%s\"}}\r\n",
			   why);

	(void)!send(fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/*
 * Whether every user has a number of his own here: whoever is not in the map of our user name space
 * has the overflow user's, which could be our own.
 */
static bool all_users_have_numbers(void)
{
	unsigned long inner, outer, count;
	FILE *map = fopen("/proc/self/uid_map", "re");
	bool all = true;

	if (map) {
		all = fscanf(map, "%lu %lu %lu", &inner, &outer, &count) == 3 &&
		      count == UINT32_MAX;
		fclose(map);
	}
	return all;
}

static bool peer_allowed(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	char why[128];

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		log_warn("control: a client was refused: SO_PEERCRED: %s", error_text(errno));
		refuse(fd, "who connects is not known");
		return false;
	}
	if (peer.uid == OVERFLOW_UID && !all_users_have_numbers()) {
		snprintf(why, sizeof(why),
			 "a user whom molt's user name space does not know was refused, only its "
			 "user %u and root may connect",
			 (unsigned int)geteuid());
	} else if (peer.uid == geteuid() || peer.uid == 0) {
		return true;
	} else {
		snprintf(why, sizeof(why), "user %u was refused, only user %u and root may connect",
			 (unsigned int)peer.uid, (unsigned int)geteuid());
	}
	log_warn("control: process %d of %s", (int)peer.pid, why);
	refuse(fd, why);
	return false;
}

static uint32_t next_number(struct control *c)
{
	for (;;) {
		uint32_t number = c->guest.next_number++;
		bool taken = number == CONTROL_NO_CLIENT;

		for (unsigned int i = 0; i < c->nclients; i++)
			taken = taken || c->clients[i]->number == number;
		if (!taken)
			return number;
	}
}

static void refuse_full(int fd)
{
	char why[128];

	snprintf(why, sizeof(why), "%d clients are connected already, that is all molt serves",
		 CONTROL_MAX_CLIENTS);
	log_warn("control: a client was refused, %d are connected", CONTROL_MAX_CLIENTS);
	refuse(fd, why);
}

/*
 * Out of descriptors: the connection would stay in the backlog and wake us for ever. The spare
 * descriptor makes room to take it and hang up. False where that did not help.
 */
static bool refuse_no_descriptor(struct control *c)
{
	int fd;

	fd_close(&c->spare);
	fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		log_error("control: a client was refused: %s", error_text(EMFILE));
	fd_close(&fd);
	c->spare = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
	return fd >= 0;
}

static void listen_on(void *opaque)
{
	struct control *c = opaque;
	int r = loop_mod(&c->source, EPOLLIN);

	if (r < 0)
		log_error("control: the socket cannot be polled: %s", error_text(-r));
}

/*
 * What the whole host has run out of (files, memory) no spare of ours makes room for: who connects
 * waits in the backlog, and must not wake us meanwhile.
 */
static void accept_failed(struct control *c, int code)
{
	if (code == EAGAIN || code == EINTR || code == ECONNABORTED)
		return;
	if (code == EMFILE && refuse_no_descriptor(c))
		return;
	log_error("control: a client has to wait: %s", error_text(code));
	loop_mod(&c->source, 0);
	loop_timer_set(c->loop, &c->listen_timer, now_ns() + LISTEN_AGAIN_NS, listen_on, c);
}

static void accept_ready(void *opaque, uint32_t events)
{
	_cleanup_close_ int fd = -1;
	struct error err = ERROR_INIT;
	struct control *c = opaque;
	struct control_client *cl;

	(void)events;
	control_reap(c);
	fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		accept_failed(c, errno);
		return;
	}
	if (!peer_allowed(fd))
		return;
	if (c->nclients == CONTROL_MAX_CLIENTS) {
		refuse_full(fd);
		return;
	}
	cl = control_client_add(c, fd, next_number(c));
	if (!cl) {
		log_error("control: no memory for another client");
		return;
	}
	fd = -1;
	if (control_client_watch(cl, &err) < 0) {
		log_error("%s", err.text);
		control_client_kill(cl);
		return;
	}
	log_debug("control: client %u connected", cl->number);
	control_client_send(cl, control_greeting(), NULL);
	if (!cl->dead)
		control_client_start(cl);
}

/* Here, where it can still be refused: in a successor there is no way back after the commit. */
static int watch_listener(struct control *c, struct error *err)
{
	int r;

	c->spare = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
	if (c->spare < 0)
		return err_sys(err, errno, "control socket");
	r = loop_add(c->loop, &c->source, c->fd, 0, accept_ready, c);
	return r < 0 ? err_sys(err, -r, "control socket") : 0;
}

int control_create(struct control **out, const char *path, struct loop *loop, struct fdtable *fds,
		   struct stream *stream, struct error *err)
{
	struct control *c;
	int r;

	*out = NULL;
	if (stream ? !stream_find(stream, "control", 0) : !path)
		return 0;
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(err, ENOMEM, "no memory for the control socket");
	c->loop = loop;
	c->fd = -1;
	c->spare = -1;
	c->dispatch = control_dispatch;
	control_add_server_commands(c);
	control_add_fd_commands(c);
	r = stream ? control_load(c, fds, stream, err) : control_listen(c, path, err);
	if (r == 0)
		r = watch_listener(c, err);
	if (r < 0) {
		control_destroy(c);
		return r;
	}
	*out = c;
	return 0;
}

void control_destroy(struct control *c)
{
	if (!c)
		return;
	for (unsigned int i = 0; i < c->nclients; i++) {
		if (c->started)
			control_client_flush(c->clients[i]);
		control_client_kill(c->clients[i]);
	}
	control_reap(c);
	loop_timer_cancel(&c->held_timer);
	loop_timer_cancel(&c->resize_timer);
	loop_timer_cancel(&c->listen_timer);
	loop_del(&c->source);
	control_unlisten(c);
	fd_close(&c->spare);
	free(c);
}

void control_start(struct control *c)
{
	if (!c || c->started)
		return;
	c->started = true;
	c->owner = true;
	control_listen_again(c); /* a wrapper may have started this successor as a child */
	listen_on(c);
	for (unsigned int i = 0; i < c->nclients; i++)
		if (!c->clients[i]->dead)
			control_client_start(c->clients[i]);
	control_take_up_resizes(c);
}
