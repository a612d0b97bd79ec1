/* SPDX-License-Identifier: MIT */
/*
 * A disk's I/O process, as the VMM sees it: started, started again when it ends, replaced by one of
 * this binary after an update. What the process does is docs/io.md's; here it is a program that
 * inherits descriptors and speaks vhost-user over the one that vhost_front has the other end of.
 *
 * For main.
 */
#ifndef MOLT_VIRTIO_IO_PROCESS_H
#define MOLT_VIRTIO_IO_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include <molt/base/child.h>
#include <molt/base/loop.h>
#include <molt/virtio/vhost_user.h>

#define IO_PROCESS_FDS_MAX 80

/* One that is to take the place of the one that is there; io_process_next.c. */
struct io_process_next {
	struct child child;
	struct vhost_user_conn conn;
	struct loop_source said;
	struct loop_timer timer; /* its answer is late; or it is time for the next try */
	bool answered;
	unsigned int failures;
};

struct io_process {
	struct loop *loop;
	const char *name; /* the disk's, for the log; has to stay */
	struct child child;
	bool ours; /* started or watched here; else another process's guest has its disk by it */
	struct loop_source exited;
	struct child leaving; /* the one before, which was replaced; or one that was to be next */
	uint64_t leave_by_ns; /* until when it is worth waiting for */
	struct loop_source left;
	struct loop_timer late[2]; /* the one that is leaving; the one that has lost its socket */
	struct loop_timer again;
	uint64_t started_ns;
	unsigned int failures; /* that soon followed each other */
	/*
	 * What there is to say to a new process: its arguments (the caller's to free) with the
	 * number of its end of the socket in them, and the descriptors that it inherits.
	 */
	char *(*arguments)(void *opaque, int socket, int *fds, size_t *nfds);
	/* A new process is there; the other end of its socket, which is the callee's. */
	void (*started)(void *opaque, int socket);
	/* io_process_prepare(): the next one has answered, and offers these features. */
	bool (*is_fit)(void *opaque, uint64_t features);
	void (*prepared)(void *opaque);
	void *opaque;
	struct io_process_next next;
};

void io_process_init(struct io_process *p, struct loop *loop, const char *name);

/* Starts one, if none is there, and calls started(). -errno with the sentence. */
int io_process_start(struct io_process *p, struct error *err);

/*
 * Begins to wait for its end, and to start another then; and leaves off. Both harmless twice. After
 * the second one that is leaving is killed, nobody's, and a zombie once it has ended.
 */
void io_process_watch(struct io_process *p);
void io_process_unwatch(struct io_process *p);

/*
 * Starts another beside the one that is there, which goes on, and calls prepared() when it has
 * answered on its socket. Where it dies, is silent or cannot be started, that is logged, and
 * another is tried, less and less often, until io_process_drop_next(). Harmless twice.
 */
void io_process_prepare(struct io_process *p);
bool io_process_is_prepared(const struct io_process *p);
void io_process_drop_next(struct io_process *p);

/*
 * The prepared one takes the place of the one that is there (started() is called), which ends when
 * its socket is closed, or is killed soon.
 */
void io_process_replace(struct io_process *p);

/* Its connection is gone. It ends by itself, or is killed soon: no other is started before. */
void io_process_lost(struct io_process *p);

/* Whether one that was replaced or dropped may be expected to end soon. */
bool io_process_leaves(const struct io_process *p);

/*
 * Ends it, and waits for that as long as it takes up to ms. One that is not ours, in a successor
 * that fails before it has the guest, goes on.
 */
void io_process_end(struct io_process *p, unsigned int ms);

/* ---- for io_process*.c ---- */

/* Starts a process; its socket's other end, non-blocking, or -errno with the sentence. */
int io_process_spawn(const struct io_process *p, struct child *child, struct error *err);

/* The prepared one, which is the caller's from now on: its socket. */
int io_process_take_next(struct io_process *p, struct child *child);

/* It ends soon, or is killed. */
void io_process_let_go(struct io_process *p, struct child child);

#endif
