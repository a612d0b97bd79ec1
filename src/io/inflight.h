/* SPDX-License-Identifier: MIT */
/*
 * vhost-user's inflight table ("Inflight I/O tracking", split virtqueue): which requests were taken
 * and not yet given back, in memory that the front-end keeps. So whoever serves the queue next knows
 * what to do again. The order of the writes is what makes it right wherever the writer is killed.
 */
#ifndef MOLT_SRC_IO_INFLIGHT_H
#define MOLT_SRC_IO_INFLIGHT_H

#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>

/* "DescStateSplit" and "QueueRegionSplit". */
struct io_inflight_state {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct io_inflight_region {
	uint64_t features;
	uint16_t version; /* 0: nothing is known of the queue */
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct io_inflight_state states[];
};

/* All of a disk's queues. */
struct io_inflight_table {
	void *addr; /* NULL: none */
	size_t size;
	uint16_t nqueues;
	uint16_t queue_size;
};

/* One queue's, and what is not in it. Without a region all functions do nothing. */
struct io_inflight {
	struct io_inflight_region *region;
	uint16_t queue_size;
	uint64_t counter;
};

/* Bytes of a table. */
size_t io_inflight_size(unsigned int nqueues, unsigned int queue_size);
/* A fresh one: the sealed memfd or -errno. */
int io_inflight_make(unsigned int nqueues, unsigned int queue_size, struct error *err);
/* Maps one; the descriptor stays the caller's. -EINVAL where it is none of that size. */
int io_inflight_map(struct io_inflight_table *t, int fd, uint64_t size, uint64_t offset,
		    unsigned int nqueues, unsigned int queue_size, struct error *err);
void io_inflight_unmap(struct io_inflight_table *t);

/*
 * A queue's part, for a queue that is set up: what the last batch was is put right by the used
 * ring's idx. Returns how many are in flight, their heads in the order in which they were taken in
 * heads[] (room for queue_size); -ENOENT where nothing is known: the queue is new.
 */
int io_inflight_recover(struct io_inflight *in, const struct io_inflight_table *t,
			unsigned int queue, unsigned int queue_size, uint16_t used_idx,
			uint16_t *heads);
/* Nothing is in flight, and nothing known: for a queue that begins, or has stopped. */
void io_inflight_reset(struct io_inflight *in, uint16_t used_idx);
void io_inflight_forget(struct io_inflight *in);
void io_inflight_forget_all(const struct io_inflight_table *t);

/* A request was taken; it is put into the used ring; the used ring's idx has been written. */
void io_inflight_take(struct io_inflight *in, uint16_t head);
void io_inflight_put(struct io_inflight *in, uint16_t head);
void io_inflight_flushed(struct io_inflight *in, uint16_t used_idx);
/* The last one taken was put back into the available ring. */
void io_inflight_untake(struct io_inflight *in, uint16_t head);

#endif
