/* SPDX-License-Identifier: MIT */
/*
 * Commands and events of the control socket, registered from the room they belong to. A room lists
 * them in const tables; the control server collects the tables.
 */
#ifndef MOLT_BASE_COMMAND_H
#define MOLT_BASE_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <molt/base/error.h>

/*
 * Where a command came from and where its answer goes. An asynchronous command copies this and
 * answers later, maybe from a successor: client and id are all it takes to find the way back. The
 * id has up to 64 KiB.
 */
struct command_origin {
	uint32_t client; /* number of the connection */
	const char *id;  /* JSON text of the request's "id", or NULL; borrowed */
};

/*
 * A type of JSON values, as it is checked in arguments and told by query-qmp-schema. Exactly one of
 * the pointers beside the name is set. Names are unique and mean nothing to clients.
 */
struct command_type {
	const char *name;
	const char *json;                     /* built in: "string", "int", "boolean", "value" */
	const char *const *values;            /* an enumeration of strings, NULL-terminated */
	const struct command_member *members; /* an object; the last one's name is NULL */
	const struct command_type *elements;  /* an array of these */
};

struct command_member {
	const char *name;
	const struct command_type *type;
	bool optional;
};

extern const struct command_type command_string, command_int, command_bool, command_any;
extern const struct command_type command_strings; /* an array */

#define COMMAND_ASYNC 1 /* returned by run: the answer comes later */

struct command {
	const char *name;
	const char *help;                   /* one line */
	const struct command_member *args;  /* ends with a NULL name; NULL: it takes none */
	const struct command_type *returns; /* NULL: an empty object */
	/*
	 * args is an object (never NULL) of nothing but known members of the right types. Returns 0
	 * with *result (a new reference; NULL means {}), COMMAND_ASYNC, or -errno with the
	 * sentence.
	 */
	int (*run)(void *opaque, const struct command_origin *origin, json_t *args, json_t **result,
		   struct error *err);
};

/* An event that is sent to clients. */
struct command_event {
	const char *name;
	const struct command_member *data; /* as args; NULL: it has none */
};

#endif
