/* SPDX-License-Identifier: MIT */
/*
 * Inside of the character backends: what the common part offers to the kinds, one file each, and
 * what a kind offers to it by pointer. Nobody outside src/backend includes this. From the bottom
 * up:
 *
 *	chardev_queue.c		output that waits
 *	chardev_output.c	from there to the host
 *	chardev.c		input, and the event loop
 *	chardev_state.c		what of it crosses an update
 *	chardev_file.c ...	the kinds
 *	chardev_open.c		the table of kinds, opening and closing
 */
#ifndef MOLT_BACKEND_CHARDEV_IMPL_H
#define MOLT_BACKEND_CHARDEV_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

#include <molt/backend/chardev.h>
#include <molt/base/unix_socket.h>
#include <molt/base/writer.h>

#define CHARDEV_QUEUE_BYTES 65536u /* what a stream may carry of it */
#define CHARDEV_BEGUN_UNKNOWN UINT32_MAX
#define CHARDEV_RING_BYTES (CHARDEV_QUEUE_BYTES - CHARDEV_CHUNK)
#define CHARDEV_CHUNK 4096u /* PIPE_BUF: what a pipe takes whole where poll() says it takes any */
#define CHARDEV_TAG_MAX 31
#define CHARDEV_KIND_MAX 16
#define CHARDEV_DESCRIBE_MAX 4128          /* PATH_MAX and a word before it */
#define CHARDEV_DROP_LOG_NS 60000000000ull /* at most one line a minute about dropped output */
#define CHARDEV_STALL_NS 1000000000ull /* the end waits so long for a reader that takes nothing */
#define CHARDEV_END_NS 5000000000ull   /* and so long for one that does */

/* One kind of backend. Only main calls these. All but name and save_fds may be NULL. */
struct chardev_kind {
	const char *name;
	bool takes_path;   /* "name=PATH" */
	bool has_output;   /* else output vanishes at once */
	bool outlives_eof; /* the other end may still take output after its input ended */

	/* Cold start: opens the descriptors and fills describe. */
	int (*open)(struct chardev *cd, const char *path, struct error *err);
	/* Incoming: takes the descriptors; describe and the rest of the state are loaded. */
	int (*adopt)(struct chardev *cd, struct fdtable *fds, struct error *err);
	int (*save_fds)(const struct chardev *cd, struct fdtable *fds, struct error *err);
	/* undo: this process owns the backend, so what open() changed in the world is undone. */
	void (*close)(struct chardev *cd, bool undo);

	/* Registers or unregisters what is not in_fd or out_fd. */
	void (*arm)(struct chardev *cd);
	/* EPOLLHUP or EPOLLERR on in_fd. */
	void (*hangup)(struct chardev *cd);
	/* read(2) failed with error. Must make the descriptor quiet: see chardev_end_input(). */
	void (*input_error)(struct chardev *cd, int error);
	/* Asked before each read; where it says no, it has set in_held. */
	bool (*may_read)(struct chardev *cd);
	/* Asked where read(2) says that this is the end, or EIO: whether it is not, there is more. */
	bool (*goes_on)(struct chardev *cd);
	/* See chardev_job_control(); called also when the backend resumes. */
	void (*job_control)(struct chardev *cd, bool stopping);
	/* Looks through fresh input in place; returns how much of it is left for the device. */
	size_t (*filter)(struct chardev *cd, uint8_t *data, size_t len);
	/* write(2) failed with error. */
	void (*output_error)(struct chardev *cd, int error);
	/*
	 * How much of what was written waits in the kernel, and will be lost with the descriptor.
	 */
	uint32_t (*unread)(const struct chardev *cd);
	/* Its name in QEMU's terms, as query-chardev tells it. */
	void (*filename)(const struct chardev *cd, char *name, size_t size);
};

struct chardev {
	const struct chardev_kind *kind;
	char tag[CHARDEV_TAG_MAX + 1];
	uint32_t instance;
	char name[CHARDEV_TAG_MAX + 11]; /* in the log: tag, and the instance where it is not 0 */
	char describe[CHARDEV_DESCRIBE_MAX];
	struct loop *loop;
	struct chardev_ops ops;

	int in_fd;  /* -1: no input */
	int out_fd; /* -1: nobody there; may be the same as in_fd */
	int aux_fd; /* pty: our hold on the slave; socket: the listener; tty: a timer */
	struct unix_socket_id aux_id; /* socket: the listener's file */
	struct loop_source in_src;
	struct loop_source out_src; /* only where out_fd is another than in_fd */
	struct loop_source aux_src;
	struct loop_timer accept_timer; /* socket: set when accept() has failed */
	struct loop_wake wake;
	struct loop_wake
		full; /* nothing but that somebody waits: while it is served, see chardev_serve() */

	bool running;         /* not quiesced */
	_Atomic bool serving; /* for a stand-in: output alone, see chardev_serve() */
	bool owner;           /* cold start, or resumed after an incoming one: close may undo */
	bool shared;          /* others hold the open file description, too: poll first */
	bool in_socket;       /* in_fd and out_fd are sockets: recv and send */
	bool out_socket;
	size_t out_chunk; /* most that one write may carry, up to CHARDEV_CHUNK */

	bool in_eof;            /* the other end will send no more */
	bool in_parked;         /* hung up with input left that the device has no room for */
	bool in_unpolled;       /* a file: always readable, epoll refuses it */
	bool in_held;           /* not ours to read now: the terminal is another's */
	atomic_bool in_stopped; /* the device had no room: chardev_input_ready() wakes main */
	bool out_blocked;       /* wait for EPOLLOUT */
	bool out_deaf; /* socket: this peer takes no more; the queue is kept for the next */
	atomic_bool out_failing; /* the failure was logged */

	/* A file, which a thread writes: it takes from the queue, and tells main of the outcome. */
	bool out_threaded;
	struct writer writer;
	atomic_int write_error; /* the errno that main has to look at, or 0 */
	atomic_bool out_wrote;  /* and this, where a write had failed before */

	/* tty */
	bool raw;     /* input is a terminal, to be raw while it is ours */
	bool raw_set; /* and it is, by us; original is what it was */
	bool escape;  /* Ctrl-A was the last character */
	struct termios original;

	struct chardev_state *saved; /* room for chardev_save_state(), which must not allocate */

	pthread_mutex_t lock; /* of all below: any thread queues, main or the writer takes out */
	bool out_dead;        /* output is dropped for good */
	uint32_t head;
	uint32_t len;
	uint64_t dropped;
	uint64_t dropped_logged;
	uint64_t drop_log_ns;
	uint8_t ring[CHARDEV_RING_BYTES];
	uint32_t piece_len; /* taken out to be written, of which piece_done is */
	uint32_t piece_done;
	uint8_t piece[CHARDEV_CHUNK];
};

extern const struct chardev_kind chardev_null;
extern const struct chardev_kind chardev_tty;
extern const struct chardev_kind chardev_pty;
extern const struct chardev_kind chardev_file;
extern const struct chardev_kind chardev_socket;

/*
 * chardev_queue.c. next: the bytes to be written next, which stay as they are until taken() has
 * counted them off; their number. pending: all that waits. drop: all of it is lost; for_good: so is
 * all to come. save, load: as the stream has it, at most CHARDEV_QUEUE_BYTES; begun: how many of
 * them are the rest of what was partly written, CHARDEV_BEGUN_UNKNOWN where nobody has told.
 */
uint32_t chardev_queue_next(struct chardev *cd, const uint8_t **piece);
void chardev_queue_taken(struct chardev *cd, uint32_t n);
uint32_t chardev_queue_pending(struct chardev *cd);
void chardev_queue_drop(struct chardev *cd, bool for_good);
void chardev_queue_save(struct chardev *cd, uint8_t *out, uint32_t *len, uint32_t *begun);
void chardev_queue_load(struct chardev *cd, const uint8_t *out, uint32_t len, uint32_t begun);

/* chardev_output.c: once the descriptors are there. */
void chardev_output_init(struct chardev *cd);
/*
 * Nothing is written from here on until released; -EBUSY where a write hangs, and then it goes on.
 */
int chardev_output_rest(struct chardev *cd, struct error *err);
void chardev_output_go_on(struct chardev *cd);
int chardev_output_hold(struct chardev *cd, struct error *err);
void chardev_output_release(struct chardev *cd);
/*
 * Writes what is queued; wait: as long as its reader deserves, and tells what is lost. False where
 * a write hangs: the thread in it still looks at cd.
 */
bool chardev_output_end(struct chardev *cd, bool wait);

/* Name in the fd table: "<tag>-chardev-<what>". buf holds STREAM_NAME_MAX + 1 bytes. */
const char *chardev_fd_name(const struct chardev *cd, const char *what, char *buf);

/* Takes ("<tag>-chardev-<what>", instance) from the fd table: the descriptor or -errno. */
int chardev_take_fd(const struct chardev *cd, const char *what, unsigned int kind,
		    struct fdtable *fds, struct error *err);
int chardev_add_fd(const struct chardev *cd, const char *what, int fd, struct fdtable *fds,
		   struct error *err);

/* No more input from in_fd: it is not polled again. */
void chardev_end_input(struct chardev *cd);

/* What is queued is lost, logged once until output works again; for_good: so is all to come. */
void chardev_lose_output(struct chardev *cd, int error, bool for_good);

/* Writes what is queued as far as the host takes it. */
void chardev_flush(struct chardev *cd);

/* The callback of cd->wake: there is output, or room for input. */
void chardev_woken(void *opaque);

/* Registers the descriptors for what they are waited for now. */
void chardev_arm(struct chardev *cd);

/* The section "<tag>-chardev": everything but the descriptors. */
struct chardev_state *chardev_new_state(void);
/* kind holds CHARDEV_KIND_MAX bytes: the name of the kind, which the caller looks up. */
int chardev_load_state(struct chardev *cd, char *kind, struct stream *stream, struct error *err);
int chardev_save_state(struct chardev *cd, struct stream_writer *w, struct error *err);

#endif
