/* SPDX-License-Identifier: MIT */
/*
 * The device's side of a split virtqueue (virtio 1.2, section 2.7) in guest RAM.
 *
 * A device never sees a ring index or a descriptor: it pops a chain as an array of iovecs, first
 * those that it may read, then those that it may write, all of them in guest RAM, and pushes the
 * chain's head back when it is done. Everything in the rings is the guest's, who may change it at
 * any time: each field is read once, and what does not make sense is a VIRTQUEUE_E... with which
 * the queue is broken until it is set up again. The device then says NEEDS_RESET.
 *
 * A queue belongs to one thread at a time. Nothing here makes a system call.
 */
#ifndef MOLT_VIRTIO_QUEUE_H
#define MOLT_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <molt/base/error.h>
#include <molt/vm/memory.h>

#define VIRTQUEUE_SIZE_MAX 1024 /* molt's own limit; the specification's is 32768 */

enum virtqueue_error {
	VIRTQUEUE_OK,
	VIRTQUEUE_EAVAIL,        /* avail idx is more than the queue's size ahead */
	VIRTQUEUE_EHEAD,         /* the ring names a descriptor that does not exist */
	VIRTQUEUE_ENEXT,         /* so does a descriptor */
	VIRTQUEUE_ELOOP,         /* a chain with more descriptors than there are */
	VIRTQUEUE_ETOOLONG,      /* more descriptors than the device takes */
	VIRTQUEUE_ENOINDIRECT,   /* an indirect table without VIRTIO_F_INDIRECT_DESC */
	VIRTQUEUE_ENESTED,       /* an indirect table in an indirect table */
	VIRTQUEUE_EINDIRECTNEXT, /* an indirect table that has a next descriptor */
	VIRTQUEUE_EINDIRECTLEN,  /* an indirect table of no or of half a descriptor, or too many */
	VIRTQUEUE_EINDIRECTADDR, /* an indirect table that is not in RAM */
	VIRTQUEUE_EORDER,        /* to be read, behind one that is to be written */
	VIRTQUEUE_EZERO,         /* a buffer of no bytes */
	VIRTQUEUE_EADDR,         /* a buffer that is not in RAM, or not all in one region of it */
	VIRTQUEUE_ETOTAL,        /* 4 GiB or more altogether */
	VIRTQUEUE_EMAX,
};

/* Where a driver has put a queue, and what it negotiated. */
struct virtqueue_config {
	uint32_t size;      /* descriptors: a power of 2, 1..VIRTQUEUE_SIZE_MAX */
	uint64_t desc_gpa;  /* a multiple of 16 */
	uint64_t avail_gpa; /* of 2 */
	uint64_t used_gpa;  /* of 4 */
	bool event_idx;     /* VIRTIO_F_EVENT_IDX */
	bool indirect;      /* VIRTIO_F_INDIRECT_DESC */
};

struct virtqueue {
	const struct memory *mem; /* NULL: not set up */
	const void *desc;         /* the three areas */
	const void *avail;
	void *used;
	uint16_t size;
	uint16_t next_avail;  /* of the avail ring's entries, the first that was not popped */
	uint16_t used_idx;    /* what the used ring's idx is, or will be with the next flush */
	uint16_t published;   /* what it is */
	uint16_t signalled;   /* what it was at the last question whether to notify */
	bool signalled_valid; /* false: the driver is notified whatever it says */
	bool event_idx;
	bool indirect;
	enum virtqueue_error broken;
};

/* A chain. iov and max are the caller's, the rest is of virtqueue_pop(). */
struct virtqueue_chain {
	struct iovec *iov; /* max of them: nread that the device reads, then nwrite that it writes */
	unsigned int max;
	unsigned int nread;
	unsigned int nwrite;
	uint32_t read_len; /* bytes in them */
	uint32_t write_len;
	uint16_t head; /* for virtqueue_push() */
};

/*
 * Sets a queue up over mem, which must stay until it is set up again or no longer used. next_avail
 * and used_idx are where a device begins: 0 and 0 for a new queue, else what it saved. The first
 * virtqueue_should_notify() is true. -EINVAL with the sentence where the size is no power of 2 or
 * too large, or an area is not aligned or not in RAM (2.7, table of alignments and sizes).
 */
int virtqueue_setup(struct virtqueue *q, const struct memory *mem,
		    const struct virtqueue_config *config, uint16_t next_avail, uint16_t used_idx,
		    struct error *err);

/* What idx the used ring has, as the guest's RAM says: for a device that begins in the middle. */
uint16_t virtqueue_read_used_idx(const struct virtqueue *q);

/*
 * The next available chain: 1; 0 where there is none; a negative enum virtqueue_error, also each
 * time after the first: then it is not taken, and who begins there meets it again. Chains may have
 * up to size descriptors, and one indirect table of up to VIRTQUEUE_SIZE_MAX; there must be room
 * for all of them in chain->iov.
 */
int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain *chain);

/* Whether virtqueue_pop() would find something, be it nonsense; for who looks again and again. */
bool virtqueue_available(const struct virtqueue *q);

/*
 * As virtqueue_pop(), for a chain that was popped before, by whoever had the queue then: head is
 * checked like everything else.
 */
int virtqueue_pop_again(struct virtqueue *q, uint16_t head, struct virtqueue_chain *chain);

/*
 * Gives a chain back, with the number of bytes written into it, counted from the first writable
 * one. The driver sees it with the next flush; any number of chains may come before that, but
 * never more than were popped. head must be less than the queue's size.
 */
void virtqueue_push(struct virtqueue *q, uint16_t head, uint32_t written);
void virtqueue_flush(struct virtqueue *q);

/* After a flush: whether the driver wants an interrupt for what it sees now (2.7.7.2, 2.7.10). */
bool virtqueue_should_notify(struct virtqueue *q);

/*
 * The driver need not notify while the device looks at the ring by itself. Only a hint (2.7.10):
 * notifications may still come.
 */
void virtqueue_disable_kicks(struct virtqueue *q);

/*
 * Asks for a notification of what is made available from now on. True where something is available
 * already, for which there may be none: pop it first.
 */
bool virtqueue_enable_kicks(struct virtqueue *q);

/* What is wrong, in some words: for a log line. */
const char *virtqueue_error_text(enum virtqueue_error error);

#endif
