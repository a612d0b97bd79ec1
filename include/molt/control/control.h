/* SPDX-License-Identifier: MIT */
/*
 * The control socket: QMP's wire format (docs/control.md), several clients at once. Main thread
 * only.
 */
#ifndef MOLT_CONTROL_CONTROL_H
#define MOLT_CONTROL_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <molt/base/command.h>
#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/state/kinds.h>
#include <molt/state/stream.h>

#define CONTROL_NO_CLIENT UINT32_MAX /* the number of no connection */

/* The QMP level that molt follows: greeting and query-version name this version of QEMU. */
#define CONTROL_QMP_MAJOR 10
#define CONTROL_QMP_MINOR 2
#define CONTROL_QMP_MICRO 0

struct control;

/*
 * Listens at path (a Unix socket, mode 0600; a stale socket that nobody listens on is replaced, a
 * live one or another kind of file is an error). With fds and stream (incoming), the listening
 * socket, the connected clients and what they negotiated come from there and path is ignored; if
 * the predecessor had no control socket there is none (*c stays NULL, 0 is returned). path NULL on
 * a cold start: the same. All other functions accept NULL.
 */
int control_create(struct control **c, const char *path, struct loop *loop, struct fdtable *fds,
		   struct stream *stream, struct error *err);

/*
 * Writes what the clients take, closes them and removes the socket's path; an incoming server that
 * was never started leaves the path alone, for it is still the predecessor's.
 */
void control_destroy(struct control *c);

/*
 * Adds a room's commands; the table must outlive the control server. opaque goes to run(), which
 * must not turn the event loop. At most 16 tables of commands and events together, of which the
 * server itself has two.
 */
void control_add_commands(struct control *c, const struct command *commands, size_t count,
			  void *opaque);

/* The same for the events that a room sends: for query-qmp-schema. */
void control_add_events(struct control *c, const struct command_event *events, size_t count);

/* Begins to serve: nothing is read from any client before. */
void control_start(struct control *c);

/*
 * Sends an event to every client that has negotiated. Takes over the reference of data (or NULL).
 */
void control_event(struct control *c, const char *name, json_t *data);

/*
 * The same in a process whose clients' queues are another's to send (the stand-in of an update): to
 * those that have nothing left to read of what was sent before, and only if there is room at once.
 */
void control_passing_event(struct control *c, const char *name, json_t *data);

/*
 * The same for what a guest can cause without end: at most one a quarter of a second, of others in
 * between the newest alone. name is a string literal; there are two of these kinds.
 */
void control_frequent_event(struct control *c, const char *name, json_t *data);

/*
 * Answers a command that returned COMMAND_ASYNC; until then no further command is taken from that
 * client, also in a successor. result (reference taken over; NULL means {}) or,
 * with err, an error. A client that has gone since is no error. id, the request's as JSON text, is
 * borrowed and may be NULL; what is no JSON is left out.
 */
void control_reply(struct control *c, uint32_t client, const char *id, json_t *result,
		   const struct error *err);

/*
 * Takes a descriptor that a client sent and named with `getfd`: it is the caller's to close, and no
 * longer known by that name. -ENOENT where the client has none of that name.
 */
int control_take_fd(struct control *c, uint32_t client, const char *name, struct error *err);

/*
 * Where another process serves from now on than the one that made the socket: clients that connect
 * see its credentials (SO_PEERCRED). c may be NULL. A failure is logged: they see the old ones
 * then.
 */
void control_listen_again(struct control *c);

/* Where the socket is, as it was named at the cold start; NULL without one. Lives as long as c. */
const char *control_path(const struct control *c);

/* Writes queued output as far as the sockets take it; nothing before control_start(). */
void control_flush(struct control *c);

/*
 * Saves listener, clients, half-read and unwritten bytes: sections "control" and "control-client"
 * (instance: the client's number), descriptors of the same names.
 */
int control_save(struct control *c, struct stream_writer *w, struct fdtable *fds,
		 struct error *err);

/* What control_save() saves and control_create() takes. */
void control_takeover_kinds(struct takeover_kinds *kinds);

#endif
