/* SPDX-License-Identifier: MIT */
/*
 * The way of notifications between a guest and a back-end in another process: two eventfds a queue.
 *
 * Slow: a kick exits to the vCPU's thread, which writes the eventfd; the back-end's call wakes
 * main, which sends the interrupt. Fast: KVM does both by itself (ioeventfd, irqfd). Both work at
 * any time and the guest cannot tell them apart; the eventfd's count is where they meet, so that
 * nothing is lost on the way from one to the other. The fast one is off while an update is under
 * way, for a VM that is torn down has a hold on the eventfds, and costs time.
 *
 * For main, with the device's lock held or every vCPU parked, but for fast_path_kick().
 */
#ifndef MOLT_VIRTIO_FAST_PATH_H
#define MOLT_VIRTIO_FAST_PATH_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/virtio/virtio.h>

struct fast_path;

struct fast_queue {
	struct fast_path *path;
	struct loop_source call_source; /* slow: main waits for the call */
	int kick_fd;                    /* -1: this queue was never used */
	int call_fd;
	uint32_t gsi;          /* 0: none yet */
	uint64_t kick_address; /* of the ioeventfd; 0: off */
	bool call_fast;
};

struct fast_path {
	struct virtio *v;
	bool allowed;            /* device's lock */
	bool any_fast;           /* some way is, of a kick or a call */
	bool live;               /* calls are waited for, the group is served */
	struct loop_group group; /* the sources below: open with the first eventfd */
	struct loop_timer retry;
	struct fast_queue queues[VIRTIO_QUEUES_MAX];
	/* One for all queues: the back-end says that it cannot go on. Device's lock held. */
	int error_fd;
	struct loop_source error_source;
	void (*error)(struct virtio *v);
};

void fast_path_init(struct fast_path *p, struct virtio *v, void (*error)(struct virtio *v));
void fast_path_fini(struct fast_path *p);

/* Makes the queue's eventfds, and that for errors, where they are not there. -errno with the
 * sentence. */
int fast_path_open(struct fast_path *p, uint32_t queue, struct error *err);

/*
 * Lists the eventfds as ("virtio-kick", slot * VIRTIO_QUEUES_MAX + queue), "virtio-call",
 * and ("virtio-error", slot); and takes them again.
 */
int fast_path_save(const struct fast_path *p, struct fdtable *fds, struct error *err);
int fast_path_adopt(struct fast_path *p, struct fdtable *fds, struct error *err);
#define FAST_PATH_FD_NAMES "virtio-kick", "virtio-call", "virtio-error"

/* From any thread: the slow kick. */
void fast_path_kick(struct fast_path *p, uint32_t queue);

/*
 * The back-end has given the queue back, and calls no more. What it has called for is told at once:
 * when a reset is done it would be too late.
 */
void fast_path_last_call(struct fast_path *p, uint32_t queue);

/*
 * Puts every queue on the way that it is to have now: those in used (one byte each) on the fast
 * one, where that is possible and allowed.
 */
void fast_path_update(struct fast_path *p, const uint8_t *used);

/* The KVM VM was replaced; nothing is on the fast one any more. */
void fast_path_forget_vm(struct fast_path *p);

/* Stops and starts waiting for calls: an update. */
void fast_path_quiesce(struct fast_path *p);
void fast_path_resume(struct fast_path *p);

#endif
