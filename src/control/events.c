/* SPDX-License-Identifier: MIT */
/*
 * Events. Theory of operation.
 *
 * What a guest can cause as often as it likes (a reset, the report of a panic) must fill nobody's
 * queue. So of one such kind a client gets at most one each CONTROL_EVENT_NS: the first at once; of
 * those that follow too soon the newest is held and sent when the time is over. Any other event
 * sends first what is held, so the order in which a client sees them is the one in which they
 * happened.
 *
 * A client that has much to read still (client.c) keeps of each kind of event the newest alone.
 *
 * What is held is text, since a save for an update, which hands it on in the clients' queues, must
 * not allocate.
 */
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

static void send_held(struct control *c, struct control_held *held)
{
	for (unsigned int i = 0; i < c->nclients; i++) {
		struct control_client *cl = c->clients[i];

		if (cl->dead || !cl->negotiated)
			continue;
		control_client_send_event_text(cl, held->name, held->text, held->len);
		control_client_update(cl);
	}
	held->len = 0;
	held->sent_ns = now_ns();
}

/* The one that happened first; NULL: none is held. */
static struct control_held *oldest(struct control *c)
{
	struct control_held *first = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(c->held); i++) {
		struct control_held *h = &c->held[i];

		if (h->len && (!first || h->happened_ns < first->happened_ns))
			first = h;
	}
	return first;
}

static void send_all_held(struct control *c)
{
	struct control_held *held;

	while ((held = oldest(c)))
		send_held(c, held);
}

/* Also what a save has put into the queues for a successor that did not take over. */
static void time_is_over(void *opaque)
{
	send_all_held(opaque);
	control_flush(opaque);
}

static void send_message(struct control *c, const char *name, json_t *msg)
{
	for (unsigned int i = 0; msg && i < c->nclients; i++) {
		struct control_client *cl = c->clients[i];

		if (cl->dead || !cl->negotiated)
			continue;
		control_client_send_event(cl, name, msg);
		control_client_update(cl);
	}
}

void control_event(struct control *c, const char *name, json_t *data)
{
	json_t *msg = c ? control_event_message(name, data) : NULL;

	if (c && !msg)
		log_error("control: no memory for the event %s", name);
	if (c)
		send_all_held(c);
	send_message(c, name, msg);
	json_decref(msg);
	json_decref(data);
}

/* So short a message is sent whole or not at all: unix_stream_sendmsg() cuts at 2 KiB and more. */
void control_passing_event(struct control *c, const char *name, json_t *data)
{
	json_t *msg = c ? control_event_message(name, data) : NULL;
	char text[CONTROL_HELD_MAX];
	size_t len = msg ? json_dumpb(msg, text, sizeof(text) - 2, JSON_ENSURE_ASCII) : 0;

	json_decref(msg);
	json_decref(data);
	if (!len || len > sizeof(text) - 2)
		return;
	memcpy(text + len, "\r\n", 2);
	for (unsigned int i = 0; i < c->nclients; i++) {
		const struct control_client *cl = c->clients[i];

		if (!cl->dead && cl->negotiated && !cl->out_len)
			send(cl->fd, text, len + 2, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

static struct control_held *slot(struct control *c, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(c->held); i++) {
		struct control_held *h = &c->held[i];

		if (!h->name)
			h->name = name;
		if (strcmp(h->name, name) == 0)
			return h;
	}
	return NULL;
}

/* False where it is to be sent now. */
static bool hold(struct control *c, struct control_held *held, json_t *data, uint64_t now)
{
	json_t *msg;
	size_t len;

	if (!held->sent_ns || now - held->sent_ns >= CONTROL_EVENT_NS)
		return false;
	msg = control_event_message(held->name, data);
	len = msg ? json_dumpb(msg, held->text, sizeof(held->text), JSON_ENSURE_ASCII) : 0;
	json_decref(msg);
	if (!len || len > sizeof(held->text)) {
		held->len = 0;
		return false;
	}
	held->len = len;
	held->happened_ns = now;
	loop_timer_set(c->loop, &c->held_timer, held->sent_ns + CONTROL_EVENT_NS, time_is_over, c);
	return true;
}

void control_frequent_event(struct control *c, const char *name, json_t *data)
{
	uint64_t now = now_ns();
	struct control_held *held = c ? slot(c, name) : NULL;

	if (held && hold(c, held, data, now)) {
		json_decref(data);
		return;
	}
	/* What is still held of this kind is older. */
	if (held)
		*held = (struct control_held){ .name = name, .sent_ns = now };
	control_event(c, name, data);
}

void control_hand_on_held(struct control *c)
{
	struct control_held *held;

	while ((held = oldest(c))) {
		for (unsigned int i = 0; i < c->nclients; i++)
			if (!c->clients[i]->dead && c->clients[i]->negotiated)
				control_client_append(c->clients[i], held->text, held->len);
		held->len = 0;
	}
}
