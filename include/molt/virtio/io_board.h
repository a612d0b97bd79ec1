/* SPDX-License-Identifier: MIT */
/*
 * The board of a disk: a memfd that the VMM makes and shares with the I/O process that serves the
 * disk, and with those that follow it. Counters go one way (the process counts, the VMM reads),
 * limits and requests the other.
 *
 * The layout only ever grows: at the end of a struct, whose size is in the header, so that an older
 * or newer VMM and I/O process find what both know. All numbers are in the host's byte order. A
 * number has one writer at a time and is read and written as a whole, by the functions here.
 *
 * To a reader the other side is hostile: what comes from here is numbers, never an index.
 */
#ifndef MOLT_VIRTIO_IO_BOARD_H
#define MOLT_VIRTIO_IO_BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>

#define IO_BOARD_MAGIC 0x6472616f626f696dull /* "mioboard" */
#define IO_BOARD_VERSION 1
#define IO_BOARD_QUEUES_MAX 64

/*
 * Latencies, in nanoseconds: bucket 0 is all below 1024, then come two for each power of two
 * ([1024, 1536), [1536, 2048), [2048, 3072)...); the last has all from about 8.6 s on.
 */
#define IO_BOARD_BUCKETS 48

enum io_board_kind {
	IO_BOARD_READ,
	IO_BOARD_WRITE,
	IO_BOARD_FLUSH,
	IO_BOARD_DISCARD, /* WRITE_ZEROES as well */
	IO_BOARD_KINDS,
};

/* Requests of a kind that are done. They never go down, whatever process counts. */
struct io_board_counters {
	uint64_t requests; /* with success and without */
	uint64_t errors;   /* those that ended as an I/O error */
	uint64_t bytes;    /* of those with success */
	uint64_t time_ns;  /* from taken out of the ring to put back, added up */
	uint64_t latency[IO_BOARD_BUCKETS];
};

struct io_board_queue {
	struct io_board_counters kinds[IO_BOARD_KINDS];
	uint64_t invalid;     /* requests that were wrong or not supported: the driver's mistakes */
	uint64_t held;        /* times that a limit made a request wait */
	uint64_t held_ns;     /* how long altogether */
	uint64_t kicks;       /* notifications of the driver's that came */
	uint64_t calls;       /* interrupts that were sent */
	uint64_t resubmitted; /* requests that an instance had left behind */
	uint32_t generation;  /* one more each time that a process takes the queue up; its own */
	uint32_t broken;      /* enum virtqueue_error that ended the queue, 0: none */
	/* io_uring_params of the queue's ring, as io_ring_make() left them; all 0: none. */
	uint8_t ring[128];
};

enum io_board_limited {
	IO_BOARD_OPS,   /* reads, writes, discards and write zeroes */
	IO_BOARD_BYTES, /* of reads and writes */
	IO_BOARD_LIMITS,
};

/* See docs/io.md for what is held when; src/io/limit.c does it. */
struct io_board_limit {
	uint64_t rate;    /* a second; 0: no limit */
	uint64_t burst;   /* what may be used at once, at least 1 */
	uint64_t busy_ns; /* CLOCK_MONOTONIC at which the bucket is full again: its level */
};

struct io_board {
	uint64_t magic;
	uint32_t version;
	uint32_t size;        /* of the whole memfd */
	uint32_t header_size; /* of this struct: the queues begin there */
	uint32_t queue_size;  /* of each struct io_board_queue */
	uint32_t nqueues;
	uint32_t limits_seq; /* odd while limits change */
	struct io_board_limit limits[IO_BOARD_LIMITS];
	uint32_t resize_asked; /* the VMM: one more for each time the size is to be looked at */
	uint32_t resize_done;  /* the process: the value it has acted upon */
	uint64_t capacity;     /* the process: bytes that the guest sees */
	uint64_t features;     /* the process: virtio features that it offers; 0 before it serves */
	uint64_t sync_error; /* the process: errno with which a sync first lost data; 0: none has */
	uint64_t reserved[7];
};

/* A board with nothing counted and no limit: the sealed memfd, close-on-exec, or -errno. */
int io_board_make(unsigned int nqueues, struct error *err);

/* A mapped board. The layout is copied here, for who shares the board could change it. */
struct io_board_view {
	struct io_board *board; /* NULL: not mapped */
	uint32_t version;
	uint32_t size;
	uint32_t header_size;
	uint32_t queue_size;
	uint32_t nqueues;
};

/*
 * Maps a board that has at least nqueues; the descriptor may be closed then. -EINVAL where it is
 * none, or of a layout that does not contain this one.
 */
int io_board_map(struct io_board_view *view, int fd, unsigned int nqueues, struct error *err);
void io_board_unmap(struct io_board_view *view);

/* The VMM: writes the layout anew, for who maps the board next; see io_board_map(). */
void io_board_mend(const struct io_board_view *view);

/* index must be below view->nqueues. */
struct io_board_queue *io_board_queue(const struct io_board_view *view, unsigned int index);

/* Adds to a counter, whose only writer the caller is. */
static inline void io_board_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

static inline uint64_t io_board_read(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Which bucket a latency belongs to, and the lowest one in a bucket. */
unsigned int io_board_bucket(uint64_t ns);
uint64_t io_board_bucket_ns(unsigned int bucket);

/* Nanoseconds that an amount takes at a rate other than 0, at most about 292 years. */
uint64_t io_board_duration(uint64_t amount, uint64_t rate);

/*
 * The VMM: sets a limit (rate 0: none; burst 0: a tenth of a second's worth, at least 1). What is
 * in the bucket stays there, as far as it fits into the new one. Limits change one at a time. Then
 * write to the eventfd that the process watches, or a request that waits will wait as it did.
 */
void io_board_set_limit(struct io_board *board, enum io_board_limited which, uint64_t rate,
			uint64_t burst, uint64_t now_ns);

/* A consistent copy of rate and burst. */
struct io_board_limit io_board_get_limit(const struct io_board *board, enum io_board_limited which);

#endif
