/* SPDX-License-Identifier: MIT */
/* A QMP client: one connection, one command at a time. */
#ifndef MOLT_CLI_CLIENT_H
#define MOLT_CLI_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include <molt/base/error.h>
#include <molt/control/json_framing.h>
#include <molt/control/json_message.h>

struct client {
	int fd;
	pid_t peer;           /* the process that made the socket, 0: not to be seen from here */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC until when answers are waited for, 0 for ever */
	int cancel_fd;        /* when it is readable all waiting ends: -ECANCELED; 0: none */
	struct json_framer framer;
	char *buf;
	size_t len;
	size_t room;
	/* Called for each event that comes while something else is waited for; may be NULL. */
	void (*event)(void *opaque, json_t *msg);
	void *opaque;
};

/* Sets how many milliseconds all that follows may take, connecting included; 0 means for ever. */
void client_set_timeout(struct client *c, uint64_t ms);

/*
 * Connects to the control socket that is named (control_path.h) and negotiates. c is all zeroes but
 * for deadline_ns and event. The sentence says what is wrong with the socket; -ECONNREFUSED where
 * nobody listens, -ETIMEDOUT where nobody takes the connection.
 */
int client_connect(struct client *c, const char *named, struct error *err);
void client_close(struct client *c);

/*
 * Sends a request (reference taken over) and waits for its answer. 0 with *result, the "return"
 * member (a new reference); -EREMOTEIO with the server's sentence where it answered with an error;
 * -ECONNRESET where the connection was lost before an answer; -ETIMEDOUT; -EPROTO.
 */
int client_call(struct client *c, json_t *request, json_t **result, struct error *err);

/*
 * Sends a descriptor, which stays the caller's, and has the server call it name (`getfd`). Errors
 * as above: -EREMOTEIO where the server takes none.
 */
int client_give_fd(struct client *c, const char *name, int fd, struct error *err);

/* The next message of any kind; errors as above. */
int client_receive(struct client *c, json_t **msg, struct error *err);

#endif
