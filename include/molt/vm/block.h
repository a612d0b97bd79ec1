/* SPDX-License-Identifier: MIT */
/*
 * What a class of disks tells of its devices, and what can be changed while a guest runs: numbers
 * and words, for whoever shows them. All functions are for main.
 */
#ifndef MOLT_VM_BLOCK_H
#define MOLT_VM_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <molt/base/error.h>

struct device;

enum block_kind {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,
	BLOCK_DISCARD, /* WRITE_ZEROES as well */
	BLOCK_KINDS,
};

#define BLOCK_BUCKETS 48 /* of a histogram of latencies */

struct block_info {
	const char *file;   /* what the user called it; NULL: the back-end's affair */
	const char *socket; /* of a back-end that is not molt's own; NULL: it is */
	const char *engine; /* NULL: the back-end's affair */
	const char *state;  /* of the connection with the back-end: a word */
	uint64_t since_ns;  /* CLOCK_MONOTONIC of its last change */
	uint64_t size;      /* in bytes, as the guest sees it */
	pid_t pid;          /* of the I/O process; 0: none is there, or it is not ours */
	bool outdated;      /* which is of the binary before an update */
	uint32_t queues;
	uint32_t queue_size;
	bool readonly;
	bool direct;
};

/* Requests of a kind that are done. They only grow, whichever process counts. */
struct block_counters {
	uint64_t requests; /* with success and without */
	uint64_t errors;   /* those that ended as an I/O error */
	uint64_t bytes;    /* of those with success */
	uint64_t time_ns;  /* in the device, added up */
	uint64_t latency[BLOCK_BUCKETS];
};

/* Of one queue. */
struct block_stats {
	struct block_counters kinds[BLOCK_KINDS];
	uint64_t invalid;     /* requests that were wrong or not supported */
	uint64_t held;        /* times that a limit made a request wait */
	uint64_t held_ns;     /* how long altogether */
	uint64_t kicks;       /* notifications from the driver */
	uint64_t calls;       /* interrupts to it */
	uint64_t resubmitted; /* requests done again for a process that was gone */
	bool broken;          /* what the driver wrote made no sense */
};

enum block_limited {
	BLOCK_OPS,   /* reads, writes, discards and write zeroes */
	BLOCK_BYTES, /* of reads and writes */
	BLOCK_LIMITS,
};

struct block_limit {
	uint64_t rate;  /* a second; 0: no limit */
	uint64_t burst; /* what may be used at once; to set it, 0 means a tenth of the rate */
};

#define BLOCK_LIMIT_MAX 1000000000000000ull /* of rate and burst */

/* What a class has not is NULL. */
struct device_block_ops {
	void (*info)(struct device *dev, struct block_info *info);
	/* queue is below info's number of them. */
	void (*stats)(struct device *dev, uint32_t queue, struct block_stats *stats);
	/* The shortest latency of a bucket, in nanoseconds; 0 for the first. */
	uint64_t (*bucket_ns)(unsigned int bucket);
	/* For all queues together. */
	void (*limits)(struct device *dev, struct block_limit limits[BLOCK_LIMITS]);
	/* At most BLOCK_LIMIT_MAX each. They are in force when this returns, and stay so. */
	void (*set_limits)(struct device *dev, const struct block_limit limits[BLOCK_LIMITS]);
	/*
	 * Makes the disk's file as long as that, where it is molt's to do, and asks whoever serves
	 * the disk to look at it; resized() tells whether the guest has been told: 0, -EAGAIN with
	 * a sentence that says what is missing yet, or another -errno: it never will be.
	 */
	int (*resize)(struct device *dev, uint64_t bytes, struct error *err);
	int (*resized)(struct device *dev, uint64_t bytes, struct error *err);
};

#endif
