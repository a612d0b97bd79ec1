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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/control/json_message.h>

#include "internal.h"

#define ID_MEMBER ", \"id\": "

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
	control_fds_close(cl);
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

/* Where the next message begins, and how much there is room for. */
static char *free_part(struct control_client *cl, size_t *room)
{
	*room = sizeof(cl->out) - cl->out_len;
	return (char *)cl->out + cl->out_len;
}

/* Not json_dumps(): where memory runs out in it, it may leave parts of the text out. */
static size_t dump(json_t *msg, char *text, size_t room)
{
	return msg ? json_dumpb(msg, text, room, JSON_ENSURE_ASCII) : 0;
}

/* A message of len bytes is in the free part (or was too long for it); 0: it could not be made. */
static void queue_message(struct control_client *cl, size_t len)
{
	size_t room;
	char *text = free_part(cl, &room);

	if (!len) {
		log_error("control: no memory for a message, client %u disconnected", cl->number);
		control_client_kill(cl);
		return;
	}
	if (len + 2 > room) {
		log_warn("control: client %u does not read its messages, disconnected", cl->number);
		control_client_kill(cl);
		return;
	}
	memcpy(text + len, "\r\n", 2);
	cl->out_len += (uint32_t)len + 2;
	if (cl->control->started)
		control_client_flush(cl);
}

/* Puts the request's id into an answer that stands in the free part; its length then. */
static size_t with_id(const char *id, char *text, size_t len, size_t room)
{
	size_t id_len = id ? strlen(id) : 0, total = len + strlen(ID_MEMBER) + id_len;
	char *end = text + len - 1; /* the bracket that closes it */

	if (!id || !len)
		return len;
	if (total > room)
		return total;
	memcpy(end, ID_MEMBER, strlen(ID_MEMBER));
	memcpy(end + strlen(ID_MEMBER), id, id_len);
	text[total - 1] = '}';
	return total;
}

void control_client_send(struct control_client *cl, json_t *msg, const char *id)
{
	size_t room;
	char *text = free_part(cl, &room);

	if (!cl->dead)
		queue_message(cl, with_id(id, text, dump(msg, text, room), room));
	json_decref(msg);
}

static bool is_event(const char *msg, size_t len, const char *name)
{
	static const char begin[] = "{\"timestamp\": ";
	char kind[64];
	int n = snprintf(kind, sizeof(kind), "\"event\": \"%s\"", name);

	return len >= sizeof(begin) - 1 && memcmp(msg, begin, sizeof(begin) - 1) == 0 &&
	       memmem(msg, len, kind, (size_t)n);
}

/*
 * Who has much to read still keeps of each kind of event the newest alone, or a guest, or another
 * client, could fill the queue until it is hung up on. Messages are ASCII, so CR LF is at their
 * ends alone; the first one may be sent by half.
 */
static void forget_older(struct control_client *cl, const char *name)
{
	char *out = (char *)cl->out, *at, *end;

	if (cl->out_len < CONTROL_OUT_HIGH)
		return;
	at = memmem(out, cl->out_len, "\r\n", 2);
	for (at = at ? at + 2 : NULL; at; at = end) {
		size_t left = cl->out_len - (size_t)(at - out);

		end = memmem(at, left, "\r\n", 2);
		end = end ? end + 2 : NULL;
		if (!end || !is_event(at, (size_t)(end - at), name))
			continue;
		memmove(at, end, left - (size_t)(end - at));
		cl->out_len -= (uint32_t)(end - at);
		end = at;
	}
}

void control_client_append(struct control_client *cl, const char *msg, size_t len)
{
	size_t room;
	char *text = free_part(cl, &room);

	if (len + 2 > room)
		return;
	memcpy(text, msg, len);
	memcpy(text + len, "\r\n", 2);
	cl->out_len += (uint32_t)len + 2;
}

void control_client_send_event_text(struct control_client *cl, const char *name, const char *msg,
				    size_t len)
{
	forget_older(cl, name);
	control_client_append(cl, msg, len);
	if (cl->control->started)
		control_client_flush(cl);
}

void control_client_send_event(struct control_client *cl, const char *name, json_t *msg)
{
	size_t room, len;
	char *text;

	forget_older(cl, name);
	text = free_part(cl, &room);
	len = cl->dead ? 0 : dump(msg, text, room);

	/*
	 * Nobody waits for it: a client that has an answer in its queue is not to lose that, too.
	 */
	if (len)
		queue_message(cl, len);
	else if (!cl->dead)
		log_error("control: no memory for an event, client %u does not get it", cl->number);
}

/* An error made with no memory but the queue's, so that there is always a way to tell one. */
static size_t plain_error(const char *class, const char *desc, char *text, size_t room)
{
	char plain[ERROR_TEXT_MAX];
	size_t n = 0;

	for (; desc[n] && n + 1 < sizeof(plain); n++)
		plain[n] = desc[n] >= ' ' && desc[n] <= '~' && !strchr("\"\\", desc[n])
				   ? desc[n]
				   : '?';
	plain[n] = '\0';
	return (size_t)snprintf(text, room, "{\"error\": {\"class\": \"%s\", \"desc\": \"%s\"}}",
				class, plain);
}

void control_client_send_error(struct control_client *cl, const char *class, const char *desc,
			       const char *id)
{
	size_t room, len;
	char *text = free_part(cl, &room);
	json_t *msg;

	if (cl->dead)
		return;
	msg = control_error(class, desc);
	len = dump(msg, text, room);
	if (!len)
		len = plain_error(class, desc, text, room);
	queue_message(cl, with_id(id, text, len, room));
	json_decref(msg);
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
	_cleanup_free_ char *id = json_message_id((const char *)cl->in, cl->in_len);

	log_warn("control: client %u sent a message over %u bytes, disconnected", cl->number,
		 CONTROL_IN_MAX);
	control_client_send_error(cl, "GenericError", "JSON token size limit exceeded", id);
	if (!cl->dead)
		control_client_kill(cl);
}

/* Takes the next message from `in`, if a whole one is there and its turn has come. */
static void take_message(struct control_client *cl)
{
	_cleanup_free_ char *id = NULL;
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
	id = json_message_id((const char *)cl->in + start, end - start);
	drop_input(cl, end);
	cl->waiting = cl->in_len > 0;
	cl->control->dispatch(cl, msg, id, &why);
	json_decref(msg);
}

static void take_descriptors(struct control_client *cl, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0;
		     i < n && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			control_fds_add(cl, fd);
		}
	}
	if (msg->msg_flags & MSG_CTRUNC)
		log_warn("control: not all descriptors of client %u could be taken", cl->number);
}

static void read_input(struct control_client *cl)
{
	/* What does not fit in here the kernel closes. */
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(CONTROL_MAX_FDS * sizeof(int))];
	} rights;
	struct iovec iov = { .iov_base = cl->in + cl->in_len,
			     .iov_len = sizeof(cl->in) - cl->in_len };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = rights.buf,
		.msg_controllen = sizeof(rights.buf),
	};
	ssize_t n;

	if (cl->eof || cl->busy || cl->waiting || cl->in_len == sizeof(cl->in))
		return;
	n = recvmsg(cl->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n >= 0)
		take_descriptors(cl, &msg);
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

	/* A hang-up is told even to those who wait for nothing. */
	if (!c->started)
		return;
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

int control_client_watch(struct control_client *cl, struct error *err)
{
	int r = loop_add(cl->control->loop, &cl->source, cl->fd, 0, client_ready, cl);

	return r < 0 ? err_sys(err, -r, "control client %u cannot be polled", cl->number) : 0;
}

void control_client_start(struct control_client *cl)
{
	control_client_flush(cl);
	control_client_update(cl);
}

void control_flush(struct control *c)
{
	/* Before the start the sockets are still the predecessor's to write to. */
	for (unsigned int i = 0; c && c->started && i < c->nclients; i++) {
		control_client_flush(c->clients[i]);
		control_client_update(c->clients[i]);
	}
}
