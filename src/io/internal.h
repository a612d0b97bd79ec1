/* SPDX-License-Identifier: MIT */
/* What the files of the I/O process share; docs/io.md has the theory. */
#ifndef MOLT_SRC_IO_INTERNAL_H
#define MOLT_SRC_IO_INTERNAL_H

#include <liburing.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/io/io.h>
#include <molt/virtio/queue.h>
#include <molt/virtio/vhost_user.h>
#include <molt/vm/memory.h>

#include "inflight.h"
#include "limit.h"

#define IO_SECTOR 512u
#define IO_IOVS 256u /* buffers in a request, header and status included */
#define IO_FEW 6u    /* of these, data buffers that need no other page of memory */
#define IO_STACK (64u << 10)
#define IO_ZEROES (64u << 10)

enum io_op {
	IO_OP_NONE, /* done as soon as it was looked at */
	IO_OP_READ,
	IO_OP_WRITE,
	IO_OP_SYNC,
	IO_OP_ALLOCATE,
	IO_OP_ZERO, /* IO_OP_WRITE of zeroes, where the file cannot have them made */
};

/*
 * A request in flight. Each descriptor that a chain may begin with has one, so none is ever
 * allocated.
 */
struct io_request {
	struct io_queue *queue;
	struct io_request *next; /* for who has it */
	struct iovec *iov;       /* what is left to be moved */
	uint32_t niov;
	enum io_op op;
	int mode;        /* IO_OP_ALLOCATE: fallocate's */
	int result;      /* the engine's, for its own use */
	uint64_t offset; /* of what is left */
	uint64_t left;
	uint64_t bytes; /* of all of it */
	uint64_t start_ns;
	uint8_t *status;   /* in guest RAM */
	uint32_t written;  /* bytes into the guest's buffers, if it goes well; without the status */
	uint32_t writable; /* what there is, without the status */
	uint16_t head;
	uint8_t kind;   /* enum io_board_kind; IO_BOARD_KINDS: none that is counted */
	uint8_t early;  /* a status that is known without carrying it out; 0xff: none */
	bool must_zero; /* IO_OP_ALLOCATE: zeroes are asked for, not only allowed */
	bool busy;
	struct iovec few[IO_FEW];
};

/* How requests are carried out: io_uring, or a pool of threads. For the queue's own thread. */
struct io_engine {
	/* Takes a request; io_request_result() follows, from reap(). */
	void (*submit)(struct io_request *r);
	/* Sets off what was taken, without waiting; wait() would do it as well. */
	void (*flush)(struct io_queue *q);
	/* Reports what is done. */
	void (*reap)(struct io_queue *q);
	/* Whether there is something to reap, at no cost. */
	bool (*ready)(struct io_queue *q);
	/* Waits for a kick, for something to reap, or timeout_ns (-1: for ever). */
	void (*wait)(struct io_queue *q, int64_t timeout_ns);
	/* Before a queue runs: waits until nothing that an earlier process left is under way. */
	void (*settle)(struct io_queue *q);
};

extern const struct io_engine io_engine_threads, io_engine_uring;

/* How long a thread looks around before it sleeps; poll.c. */
struct io_poll {
	uint32_t ns;
	uint32_t missed; /* looked its longest in vain, so often in a row */
	uint32_t rest;   /* sleeps until it is tried again */
};

struct io_queue {
	struct io_disk *disk;
	unsigned int index;
	const struct io_engine *engine;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool run;     /* main's wish; lock */
	bool running; /* lock */
	bool begun;   /* it is this process's turn; lock, main's to change */
	bool settled; /* nothing of earlier processes is under way; lock */

	/* Main's; the thread's while it runs. The descriptors' numbers never change. */
	int kick_fd;
	int call_fd;
	int err_fd;
	bool kickable;      /* a kick descriptor was given */
	bool kick_nonblock; /* it is O_NONBLOCK */
	bool enabled;
	struct virtqueue_config config;
	uint16_t base;
	struct virtqueue vq;
	struct io_inflight inflight;
	uint16_t *left; /* heads that whoever had the queue before has left in flight */
	int nleft;
	bool recovered; /* somebody had it */

	/* The thread's. */
	struct io_request *requests; /* by head */
	struct iovec *wide;          /* IO_IOVS of them for each, touched by long requests only */
	struct io_request *held;     /* waits for a limit */
	unsigned int busy;           /* requests in flight, the held one included */
	bool pushed;                 /* something is to be flushed */
	bool kicked;                 /* since it looked around last */
	struct io_poll poll;
	struct io_board_queue *board;
	struct io_limit_rest rest[IO_BOARD_LIMITS];
	struct iovec iov[IO_IOVS];

	/* engine_threads.c */
	struct io_request *done; /* lock */
	bool sleeping;           /* lock */
	/* engine_uring.c */
	struct io_uring ring;
	uint32_t generation;
	bool kick_armed;
	uint64_t kick_count;
};

struct io_pool;

struct io_disk {
	const struct io_disk_options *opt;
	struct io_process *process;
	int file;
	bool direct;
	bool block_device;
	uint32_t mem_align;              /* of buffers, with direct */
	uint32_t block_size;             /* of requests, with direct */
	uint64_t capacity;               /* bytes; atomic */
	struct virtio_blk_config config; /* but for the capacity */
	struct io_board_view board;
	struct io_queue *queues;
	struct io_pool *pool; /* NULL with rings */

	struct vhost_user_conn conn;
	struct vhost_user_conn channel;
	struct loop_source conn_source;
	struct loop_source channel_source;
	struct loop_source event_source;
	uint64_t features; /* as acknowledged */
	uint64_t protocol;
	uint8_t asked[IO_BOARD_QUEUES_MAX]; /* for their bases, in this order, and not answered yet */
	unsigned int nasked;
	bool has_next; /* what came behind those, and waits */
	struct vhost_user_message next;
	bool stopping; /* another answer waits for queues to stop */
	struct vhost_user_message stop_msg;
	struct memory mem;
	struct io_inflight_table table;
};

struct io_process {
	struct loop *loop;
	struct loop_wake stopped; /* a queue has stopped */
	struct io_disk *disks;
	unsigned int ndisks;
	unsigned int connected;
	const void *zeroes; /* IO_ZEROES of them, of which none takes up memory */
	int nowhere;        /* an eventfd that stands for those that were not given */
};

/* disk.c: size, limits and configuration space from the file. */
int io_disk_open(struct io_disk *d, struct error *err);
int io_disk_read_size(struct io_disk *d, uint64_t *bytes, struct error *err);
uint64_t io_disk_features(const struct io_disk *d);
/* The configuration space as the guest sees it now. */
struct virtio_blk_config io_disk_config(const struct io_disk *d);

/*
 * process.c: it is this process's turn to serve the disk; until then another one may, and nothing
 * that they share is touched. Harmless twice. 0 or -errno with the sentence.
 */
int io_disk_begin(struct io_disk *d, struct error *err);

/* request.c */
/* Makes a request of a chain. 0, or -EPROTO where it has no place for a status. */
int io_request_parse(struct io_queue *q, const struct virtqueue_chain *chain);
/* Gives it to the engine, if it still lies on the disk. */
void io_request_submit(struct io_request *r);
/* The engine has done it: res bytes, 0 or -errno. */
void io_request_result(struct io_request *r, int res);
/* Gives it back to the driver with a status (VIRTIO_BLK_S_...). */
void io_request_finish(struct io_request *r, uint8_t status);
/* A sync of the disk's file has ended with an error. */
void io_sync_failed(struct io_disk *d, int error);

/* sync_io.c: carries a request out in the calling thread, as far as one call goes. */
int io_request_do(const struct io_request *r);
/* All of one whose buffers are not aligned as the file wants it, by way of others. */
int io_request_bounce(const struct io_request *r);
bool io_request_is_aligned(const struct io_request *r);

/* queue.c: threads that serve the queues. */
int io_queue_init(struct io_queue *q, struct io_disk *d, unsigned int index, struct error *err);
int io_queue_start_thread(struct io_queue *q, struct error *err);
/* No other process serves it any more. */
void io_queue_begin(struct io_queue *q);
/* Takes the queue up where the driver, or whoever had it before, has left it. */
int io_queue_start(struct io_queue *q, struct error *err);
void io_queue_stop(struct io_queue *q); /* asks; process->stopped is told */
bool io_queue_running(struct io_queue *q);
void io_queue_poke(struct io_queue *q);   /* has it look around, as a kick does */
void io_queue_kicked(struct io_queue *q); /* by the driver, or by a poke */

/* poll.c */
/*
 * Before a queue's thread sleeps: looks around for a while, if that has been of use lately. True
 * where something came.
 */
bool io_poll(struct io_queue *q);
/* It had to sleep, from then on until now. */
void io_poll_slept(struct io_queue *q, uint64_t since_ns);

/* engine_threads.c, engine_uring.c */
int io_pool_create(struct io_disk *d, struct error *err);
int io_engine_uring_attach(struct io_queue *q, int fd, struct error *err);

/* backend_connection.c */
int io_backend_open(struct io_disk *d, struct error *err);
void io_backend_queue_stopped(struct io_disk *d);
void io_backend_close(struct io_disk *d);
void io_backend_look(struct io_disk *d); /* at the board; backend.c */

/* memory_table.c */
int io_memory_map(struct memory *mem, const struct vhost_user_memory *table, int *fds,
		  struct error *err);
void io_memory_unmap(struct memory *mem);

/* Makes a thread with a small stack and all signals blocked. */
int io_thread_create(pthread_t *thread, void *(*fn)(void *), void *arg, struct error *err);

#endif
