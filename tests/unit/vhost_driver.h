/* SPDX-License-Identifier: MIT */
/*
 * A virtio-blk driver on guest RAM in this process, and the owner of a vhost-user front-end: it
 * writes the rings by hand, keeps up to DRIVER_DEPTH requests of 4 KiB in flight on each queue, and
 * knows what each block has to hold. What comes back twice, never, or wrong is a failure.
 */
#ifndef MOLT_TESTS_VHOST_DRIVER_H
#define MOLT_TESTS_VHOST_DRIVER_H

#include <molt/base/loop.h>
#include <molt/virtio/vhost_front.h>
#include <molt/vm/memory.h>

#define DRIVER_QUEUES 4
#define DRIVER_SIZE 64 /* descriptors of a queue, three for a request */
#define DRIVER_DEPTH 16
#define DRIVER_BLOCKS 4096 /* of 4 KiB: 16 MiB of the disk */

struct driver_queue {
	unsigned int index;
	uint64_t gpa;
	uint16_t avail; /* free-running indices, as the driver knows them */
	uint16_t used;
	uint16_t base;
	unsigned int flying;
	bool quiet; /* nothing new is submitted on it */
	int kick, call;
	struct loop_source call_source;
	unsigned int interrupts;
	struct {
		bool busy, write;
		uint32_t block;
		uint32_t generation;
	} slot[DRIVER_DEPTH];
};

struct driver {
	struct loop *loop;
	struct memory mem;
	struct vhost_front front;
	struct vhost_front_guest guest;
	struct vhost_front_setup setup;
	unsigned int queues, depth;
	struct driver_queue queue[DRIVER_QUEUES];
	uint32_t generation[DRIVER_BLOCKS];
	bool block_busy[DRIVER_BLOCKS];
	uint64_t random;
	uint64_t done; /* requests that came back */
	bool quiet;    /* nothing new is submitted */
	bool no_event_idx;
	unsigned int ready, running, stopped, lost, config_changed, failed, queue_stopped;
	unsigned int requests_lost;
	struct error last_error;
};

void driver_init(struct driver *d, const char *path, unsigned int queues, unsigned int depth);
void driver_fini(struct driver *d);

/* Interrupts wake up the loop from here on. */
void driver_watch(struct driver *d);

/* The rings begin anew, as after a reset. */
void driver_reset_rings(struct driver *d);

void driver_reset_queue(struct driver *d, unsigned int index);

/* One queue, from its base. */
void driver_start_queue(struct driver *d, unsigned int index);

/* Starts the front-end with all queues, each from its base. */
void driver_start(struct driver *d);

/* Takes back what has come, submits what is possible; how many are in flight then. */
unsigned int driver_submit(struct driver *d);

/* Submits and takes back what is possible until count more requests came back, or some are lost. */
void driver_run(struct driver *d, uint64_t count);

/* Submits nothing new; until all came back. */
void driver_finish(struct driver *d);

/* Turns of the loop until *what is at least value; fails after 20 seconds. */
void driver_until(struct driver *d, const unsigned int *what, unsigned int value);

/* For ms milliseconds. */
void driver_run_for(struct driver *d, unsigned int ms);

/* Reads every block of which something is known. */
void driver_verify(struct driver *d);

/*
 * An update: the front-end is saved to a stream and an fd table, thrown away, and made anew from
 * them. Whoever has a copy of it notices.
 */
void driver_update(struct driver *d);

/* Its halves: a memfd with the stream, and a front-end that is to be adopted. */
int driver_save_state(struct driver *d);
void driver_load_state(struct driver *d, int fd);

extern const struct vhost_front_ops driver_ops;

#endif
