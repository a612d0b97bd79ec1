/* SPDX-License-Identifier: MIT */
/*
 * One connection of the control socket: bytes in, messages out.
 *
 * A turn of the event loop takes at most one command from a client, so that no client starves the
 * others and a command that ends the loop (quit) is the last one. When more is buffered, `waiting`
 * is set and the client waits for its socket to be writable, which calls it again at once, or as
 * soon as the client has read its answers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

struct control_client *control_client_add(struct control *c, int fd, uint32_t number)
{
	struct control_client *cl = calloc(1, sizeof(*cl));

	if (!cl)
		return NULL;
	cl->control = c;
	cl->fd = fd;
	cl->number = number;
	c->clients[c->nclients++] = cl;
	return cl;
}

void control_client_kill(struct control_client *cl)
{
	loop_del(&cl->source);
	fd_close(&cl->fd);
	cl->dead = true;
}

void control_reap(struct control *c)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < c->nclients; i++) {
		if (c->clients[i]->dead)
			free(c->clients[i]);
		else
			c->clients[kept++] = c->clients[i];
	}
	c->nclients = kept;
}

void control_client_flush(struct control_client *cl)
{
	size_t sent = 0;

	while (!cl->dead && sent < cl->out_len) {
		ssize_t n = send(cl->fd, cl->out + sent, cl->out_len - sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			control_client_kill(cl);
		if (n < 0)
			break;
		sent += (size_t)n;
	}
	cl->out_len -= (uint32_t)sent;
	memmove(cl->out, cl->out + sent, cl->out_len);
}

void control_client_send(struct control_client *cl, json_t *msg)
{
	_cleanup_free_ char *text = msg ? json_dumps(msg, JSON_ENSURE_ASCII) : NULL;
	size_t len = text ? strlen(text) : 0;

	json_decref(msg);
	if (cl->dead)
		return;
	if (!text) {
		log_error("control: no memory for a message, client %u disconnected", cl->number);
		control_client_kill(cl);
		return;
	}
	if (cl->out_len + len + 2 > sizeof(cl->out)) {
		log_warn("control: client %u does not read its messages, disconnected", cl->number);
		control_client_kill(cl);
		return;
	}
	memcpy(cl->out + cl->out_len, text, len);
	memcpy(cl->out + cl->out_len + len, "\r\n", 2);
	cl->out_len += (uint32_t)len + 2;
	if (cl->control->started)
		control_client_flush(cl);
}

/* The first n bytes of `in` are done with. */
static void drop_input(struct control_client *cl, size_t n)
{
	if (n == 0)
		return;
	cl->in_len -= (uint32_t)n;
	memmove(cl->in, cl->in + n, cl->in_len);
	json_framer_drop(&cl->framer, n);
}

static void refuse_too_long(struct control_client *cl)
{
	log_warn("control: client %u sent a message over %u bytes, disconnected", cl->number,
		 CONTROL_IN_MAX);
	control_client_send(cl, control_error("GenericError", "JSON token size limit exceeded",
					      NULL));
	if (!cl->dead)
		control_client_kill(cl);
}

/* Takes the next message from `in`, if a whole one is there and its turn has come. */
static void take_message(struct control_client *cl)
{
	struct error why = ERROR_INIT;
	enum json_frame frame;
	json_t *msg = NULL;
	size_t start, end;

	cl->waiting = cl->in_len > 0;
	if (cl->busy || cl->out_len >= CONTROL_OUT_HIGH)
		return;
	frame = json_framer_scan(&cl->framer, (const char *)cl->in, cl->in_len, &start, &end);
	if (frame == JSON_FRAME_MORE) {
		drop_input(cl, start);
		cl->waiting = false;
		if (cl->in_len == sizeof(cl->in))
			refuse_too_long(cl);
		return;
	}
	if (frame == JSON_FRAME_MESSAGE)
		msg = json_message_parse((const char *)cl->in + start, end - start, &why);
	else
		err_set(&why, EINVAL, "%s", json_frame_text(frame));
	drop_input(cl, end);
	cl->waiting = cl->in_len > 0;
	control_dispatch(cl, msg, &why);
	json_decref(msg);
}

static void read_input(struct control_client *cl)
{
	ssize_t n;

	if (cl->eof || cl->busy || cl->waiting || cl->in_len == sizeof(cl->in))
		return;
	n = recv(cl->fd, cl->in + cl->in_len, sizeof(cl->in) - cl->in_len, MSG_DONTWAIT);
	if (n > 0)
		cl->in_len += (uint32_t)n;
	else if (n == 0)
		cl->eof = true;
	else if (errno != EAGAIN && errno != EINTR)
		control_client_kill(cl);
}

void control_client_update(struct control_client *cl)
{
	bool room = cl->out_len < CONTROL_OUT_HIGH;
	uint32_t events = 0;

	if (cl->dead || !cl->source.loop)
		return;
	if (cl->eof && !cl->busy && !cl->waiting && cl->out_len == 0) {
		control_client_kill(cl);
		return;
	}
	if (!cl->eof && !cl->busy && !cl->waiting && room)
		events |= EPOLLIN;
	if (cl->out_len || (cl->waiting && !cl->busy))
		events |= EPOLLOUT;
	loop_mod(&cl->source, events);
}

static void client_ready(void *opaque, uint32_t events)
{
	struct control_client *cl = opaque;
	struct control *c = cl->control;
	/* Bytes that wait in `in` first: what they leave room for is still in the socket. */
	bool can_read = !cl->eof && !cl->busy && cl->out_len < CONTROL_OUT_HIGH;
	bool can_take = cl->waiting && !cl->busy && cl->out_len < CONTROL_OUT_HIGH;

	if (events & EPOLLOUT)
		control_client_flush(cl);
	if (!cl->dead && (events & EPOLLIN))
		read_input(cl);
	/* Both directions are gone and what was sent before has been read, or never will be. */
	else if (!cl->dead && (events & (EPOLLHUP | EPOLLERR)) && !can_read && !can_take)
		control_client_kill(cl);
	if (!cl->dead)
		take_message(cl);
	control_client_update(cl);
	control_reap(c);
}

void control_client_start(struct control_client *cl)
{
	int r = loop_add(cl->control->loop, &cl->source, cl->fd, EPOLLIN, client_ready, cl);

	if (r < 0) {
		log_error("control: client %u: cannot be polled: %s", cl->number, strerror(-r));
		control_client_kill(cl);
		return;
	}
	control_client_flush(cl);
	control_client_update(cl);
}
