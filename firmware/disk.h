/* SPDX-License-Identifier: MIT */
/* What disk.c and disk_requests.c share. */
#ifndef DISK_H
#define DISK_H

#include "lib/guest.h"
#include "lib/virtio.h"

#define SECTOR 512u
#define BLOCK 4096u
#define BLOCK_SECTORS (BLOCK / SECTOR)
#define QUEUES_MAX 8u
#define SLOTS_MAX 1024u
#define VEC_CONFIG 0x5f
#define VEC_QUEUE 0x60

#define F_BLK_RO (1ull << 5)
#define F_BLK_DISCARD (1ull << 13)
#define F_BLK_ZEROES (1ull << 14)

enum op {
	OP_IN = 0,
	OP_OUT = 1,
	OP_FLUSH = 4,
	OP_GET_ID = 8,
	OP_DISCARD = 11,
	OP_ZEROES = 13,
};

#define STATUS_OK 0
#define STATUS_IOERR 1
#define STATUS_UNSUPP 2
#define STATUS_NONE 0xee

/* What a block has: zeroes, what a write of this number wrote, or nobody knows. */
#define GEN_ZERO 0u
#define GEN_UNKNOWN 0xffffffffu

struct slot {
	uint8_t *data; /* disk.slot_bytes */
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t count, flags;
	} range;
	uint64_t began;
	uint32_t block, count; /* blocks */
	uint32_t gen;          /* OP_OUT: what it writes */
	enum op op;
	uint32_t expected; /* length in the used ring, if it goes well */
	uint8_t *status;
	uint8_t own_status;
	bool busy;
};

struct disk {
	struct virtio dev;
	struct virtq q[QUEUES_MAX];
	unsigned int queues, size, depth; /* depth: requests in flight, of all queues together */
	unsigned int most_blocks;         /* of one request */
	uint32_t blocks;                  /* of the disk, that are used */
	uint64_t sectors;
	uint64_t random;
	uint64_t features;
	const char *step;
	bool readonly;  /* writes are to fail */
	bool errors_ok; /* the file may be shorter than the disk */
	struct slot *slots;
	uint32_t *gens;
	uint8_t *locked; /* by block: a request is under way */
	uint32_t next_gen;
	unsigned int in_flight;
	/* counters */
	uint64_t requests, bytes, errors, by_op[16], slowest, passes, resets, idle;
	uint64_t said; /* when the last line was printed */
};

void disk_bad(const struct disk *d, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
uint32_t disk_random(struct disk *d, uint32_t below);
/* A line now and then, so that the last one says where a run is. */
void disk_progress(struct disk *d);

/* Memory for all that there is; false: not enough. */
bool disk_take(struct disk *d);

/*
 * Starts a request of a slot that is free on a queue; it is published, and the queue not notified.
 * false: the queue has no room.
 */
bool disk_submit(struct disk *d, unsigned int queue, struct slot *s, enum op op, uint32_t block,
		 uint32_t count);
/* A request that suits, at random. false: none now. */
bool disk_submit_any(struct disk *d);
void disk_kick(struct disk *d);
/* Verifies what is done; returns how many. */
unsigned int disk_reap(struct disk *d);
/* Until nothing is in flight. */
void disk_drain(struct disk *d);
/* After a reset of the device: what was in flight is lost, and what it wrote unknown. */
void disk_forget(struct disk *d);

#endif
