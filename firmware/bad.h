/* SPDX-License-Identifier: MIT */
/* What the files of the guest bad share. */
#ifndef BAD_H
#define BAD_H

#include "lib/guest.h"
#include "lib/virtio.h"

#define TYPE_DISK 2
#define TYPE_RNG 4
#define VEC_CONFIG 0x52
#define ENTRY_CONFIG 0
#define ENTRY_QUEUE 1
#define BAD_SIZE 8u /* of the queue */
#define BAR_BYTES 0x8000u

#define FEATURES_ALL (F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_RING_RESET)

/* A device that requests can be made of. */
struct target {
	struct virtio dev;
	struct virtq q;
	uint8_t *buffer; /* 8 KiB */
	uint64_t done;   /* requests that were as they should be */
	uint64_t features;
};

/* What becomes of the device, by the specification or by molt's choice where that leaves one. */
enum outcome {
	BROKEN, /* NEEDS_RESET, with an interrupt where it is after DRIVER_OK */
	WORKS,  /* nothing happened, or what it did is right: it goes on */
	ANY,    /* the driver gets what it deserves: whatever it is, a reset ends it */
};

struct bad {
	const char *name;
	void (*act)(struct target *t);
	enum outcome outcome;
	uint64_t without;  /* features that are not negotiated */
	unsigned int only; /* a type of device, 0: all */
};

extern const struct bad bad_rings[], bad_registers[], bad_config[];
extern const unsigned int bad_rings_count, bad_registers_count, bad_config_count;

extern struct target victim, other;
extern uint64_t ram_end; /* of the highest RAM there is, below 4 GiB */
/* Room for 1024 descriptors, the same each time. */
struct virtq_desc *ram_table(void);

void bad_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
uint32_t bad_random(uint32_t below);

/* Sets up; to DRIVER_OK. */
void target_start(struct target *t, uint64_t features, unsigned int size);
/* One request, which has to be right. */
void target_request(struct target *t);

/* A descriptor, and its head into the available ring with a notification. */
void bad_desc(struct target *t, unsigned int i, uint64_t address, uint64_t length,
	      unsigned int flags, unsigned int next);
void bad_go(struct target *t, unsigned int head);

static inline uint32_t common_read(const struct target *t, uint32_t at, unsigned int size)
{
	return (uint32_t)virtio_read(&t->dev, t->dev.common + at, size);
}

static inline void common_write(const struct target *t, uint32_t at, uint64_t value,
				unsigned int size)
{
	virtio_write(&t->dev, t->dev.common + at, value, size);
}

#endif
