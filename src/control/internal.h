/* SPDX-License-Identifier: MIT */
/* What the files of the control server share; see server.c for the theory of operation. */
#ifndef MOLT_CONTROL_INTERNAL_H
#define MOLT_CONTROL_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include <molt/control/control.h>
#include <molt/control/json_framing.h>
#include <molt/state/vmstate.h>
#include <molt/vm/device.h>

#define CONTROL_MAX_CLIENTS 32
#define CONTROL_MAX_TABLES 16
#define CONTROL_IN_MAX (64u << 10)    /* longest message */
#define CONTROL_OUT_MAX (1u << 20)    /* a client that lets more pile up is disconnected */
#define CONTROL_OUT_HIGH (64u << 10)  /* with so much unsent no further command is taken */
#define CONTROL_EVENT_NS 250000000ull /* between two events of a kind that a guest causes */
#define CONTROL_HELD_MAX 512
#define CONTROL_MAX_FDS 8 /* descriptors kept for a client, named or not yet */
#define CONTROL_FDNAME_MAX 63
#define CONTROL_ID_MAX 1024 /* of a request whose answer an update may come before */
#define CONTROL_RESIZES_MAX 16
#define CONTROL_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path))

/* A connection. It is large but mostly untouched memory, which costs nothing. */
struct control_client {
	struct loop_source source;
	struct control *control;
	struct json_framer framer; /* its state follows from `in` alone */
	int fd;
	bool dead;    /* disconnected, memory to be freed by control_reap() */
	bool waiting; /* `in` may hold a whole message that was not taken yet */

	/* what migrates */
	uint32_t number;
	bool negotiated;
	bool busy; /* an asynchronous command was not answered yet; no other is taken meanwhile */
	bool eof;  /* the client will send no more */
	uint32_t in_len;
	uint32_t out_len;
	uint8_t in[CONTROL_IN_MAX];
	uint8_t out[CONTROL_OUT_MAX];
	uint32_t nfds;
	int fds[CONTROL_MAX_FDS]; /* sent by the client, oldest first; their numbers do not migrate */
	char fd_names[CONTROL_MAX_FDS][CONTROL_FDNAME_MAX + 1]; /* empty: no getfd has come yet */
};

/* The listener's part of what migrates. */
struct control_listener {
	char path[CONTROL_PATH_MAX + 1];
	uint64_t dev; /* of the socket's file: only that very file is removed in the end */
	uint64_t ino;
	uint32_t next_number;
	uint32_t nnumbers;
	uint32_t numbers[CONTROL_MAX_CLIENTS]; /* connected clients; filled in by saving */
};

/* A kind of event that a guest can cause as often as it likes; see events.c. */
struct control_held {
	const char *name; /* NULL: not used yet */
	uint64_t sent_ns; /* the last one; 0: none was */
	uint64_t happened_ns;
	size_t len; /* 0: none is held */
	char text[CONTROL_HELD_MAX];
};

/* Of commands or of events. */
struct control_table {
	const struct command *commands;
	const struct command_event *events;
	size_t count;
	void *opaque;
};

/* A block_resize that was not answered yet; see block_change.c. All of it migrates. */
struct control_resize {
	char device[DEVICE_ID_MAX + 1]; /* empty: not used */
	char id[CONTROL_ID_MAX];        /* the request's as JSON text, empty: it has none */
	uint32_t client;
	uint8_t reserved[4];
	uint64_t bytes;
	uint64_t until_ns; /* CLOCK_MONOTONIC */
};

struct control {
	struct loop *loop;
	/* Carries one message out: control_dispatch(). */
	void (*dispatch)(struct control_client *cl, json_t *msg, const char *id,
			 const struct error *why);
	struct loop_source source;
	int fd;
	int spare; /* given up to refuse a client when descriptors have run out */
	bool started;
	bool owner; /* the socket's file is ours to remove */
	struct control_listener guest;
	struct control_client *clients[CONTROL_MAX_CLIENTS];
	unsigned int nclients;
	struct control_table tables[CONTROL_MAX_TABLES];
	unsigned int ntables;
	struct control_held held[2];
	struct loop_timer held_timer;
	struct machine *machine; /* whose commands were added */
	struct control_resize resizes[CONTROL_RESIZES_MAX];
	struct loop_timer resize_timer;
	struct loop_timer listen_timer; /* set while the listener is not polled */
};

/* listen.c: makes the socket; closes it, and removes its file if that is ours to remove. */
int control_listen(struct control *c, const char *path, struct error *err);
void control_unlisten(struct control *c);

/* saving.c: takes listener and clients from a predecessor. */
int control_load(struct control *c, struct fdtable *fds, struct stream *stream, struct error *err);

/*
 * client.c: adds a connection, whose descriptor becomes the client's; NULL if there is no memory.
 */
struct control_client *control_client_add(struct control *c, int fd, uint32_t number);
/*
 * Has the event loop know it, waiting for nothing: what can fail comes before anything is served.
 */
int control_client_watch(struct control_client *cl, struct error *err);
/* Begins to serve it. */
void control_client_start(struct control_client *cl);
/* Queues a message with the request's id (or NULL) and takes over its reference. */
void control_client_send(struct control_client *cl, json_t *msg, const char *id);
/*
 * Queues an event, whose reference stays the caller's; where much waits, in the place of an older
 * one.
 */
void control_client_send_event(struct control_client *cl, const char *name, json_t *msg);
void control_client_send_event_text(struct control_client *cl, const char *name, const char *msg,
				    size_t len);
/* Queues a message and sends nothing; where it does not fit it is left out. */
void control_client_append(struct control_client *cl, const char *msg, size_t len);
/* Queues an error, also where there is no memory for a message: then in plain characters alone. */
void control_client_send_error(struct control_client *cl, const char *class, const char *desc,
			       const char *id);
/* Writes what the socket takes. */
void control_client_flush(struct control_client *cl);
/* Waits for what the client's state says is to be waited for; closes it if it is done. */
void control_client_update(struct control_client *cl);
/* Disconnects at once; the memory stays until control_reap(). */
void control_client_kill(struct control_client *cl);
/* Frees what was disconnected. Only from the event loop: callers further down may hold a client. */
void control_reap(struct control *c);

/* events.c: puts what is held into the clients' queues, without a system call or an allocation. */
void control_hand_on_held(struct control *c);

/* block_change.c: resizes that are under way, in a stream and after it was loaded. */
void control_save_resizes(const struct control *c, struct stream_writer *w);
int control_load_resizes(struct control *c, struct stream *stream, struct error *err);
void control_take_up_resizes(struct control *c);
extern const struct vmstate control_resize_state;

/* fds.c: keeps a descriptor that the client sent, or closes it where there are too many. */
void control_fds_add(struct control_client *cl, int fd);
void control_fds_close(struct control_client *cl);
void control_add_fd_commands(struct control *c);
extern const struct vmstate control_fds_state;

/* message.c: new references, NULL without memory; a NULL result is {}. */
json_t *control_version(void);
json_t *control_greeting(void);
json_t *control_return(json_t *result);
json_t *control_error(const char *class, const char *desc);
json_t *control_event_message(const char *name, json_t *data);

/* registry.c: the command of that name and what its run() gets; NULL if there is none. */
const struct command *control_find_command(const struct control *c, const char *name,
					   void **opaque);

/* schema.c: the answer to query-qmp-schema; NULL without memory. */
json_t *control_schema(const struct control *c);

/* check_args.c: -EINVAL with the reason where args are not as known says. */
int control_check_args(const struct command_member *known, json_t *args, struct error *err);

/*
 * qmp.c: carries out one message, a NULL msg being one that was no JSON for the reason in why. id
 * is the text of its id, or NULL.
 */
void control_dispatch(struct control_client *cl, json_t *msg, const char *id,
		      const struct error *why);

/* server_commands.c */
void control_add_server_commands(struct control *c);

#endif
