/* SPDX-License-Identifier: MIT */
/*
 * Commands of the control socket, registered from the room they act on. A room lists its commands in
 * a const table; the control server collects the tables.
 */
#ifndef MOLT_BASE_COMMAND_H
#define MOLT_BASE_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <molt/base/error.h>

/*
 * Where a command came from and where its answer goes. An asynchronous command copies this and
 * answers later, maybe from a successor: client and id are all it takes to find the way back. The id
 * has up to 64 KiB.
 */
struct command_origin {
	uint32_t client; /* number of the connection */
	const char *id;  /* JSON text of the request's "id", or NULL; borrowed */
};

#define COMMAND_ASYNC 1 /* returned by run: the answer comes later */

struct command {
	const char *name;
	const char *help; /* one line */
	const char *const *args; /* names of the arguments it takes, NULL-terminated, or NULL */
	/*
	 * args is an object (never NULL). Returns 0 with *result (a new reference; NULL means {}),
	 * COMMAND_ASYNC, or -errno with the sentence.
	 */
	int (*run)(void *opaque, const struct command_origin *origin, json_t *args,
		   json_t **result, struct error *err);
};

#endif
