/* SPDX-License-Identifier: MIT */
/*
 * Limits: token buckets without a refill. The only state of a bucket is the moment at which it is
 * full again (struct io_board_limit's busy_ns), which any thread moves on by what it takes, with
 * one compare-and-swap; so a bucket is shared by queues without a lock, is exact at any moment, and
 * outlives the process, wherever that is killed.
 *
 * With rate r and burst b a bucket has b - (busy - now) * r in it. A request that costs c may begin
 * when at least min(c, b) is there, and takes c: one that costs more than the bucket holds begins
 * when it is full, and leaves a debt.
 */
#ifndef MOLT_SRC_IO_LIMIT_H
#define MOLT_SRC_IO_LIMIT_H

#include <molt/virtio/io_board.h>

/* What is left over of a division, so that no rate is off in the long run; one for each user. */
struct io_limit_rest {
	uint64_t rate; /* that it belongs to */
	uint64_t rest;
};

/*
 * Takes cost from both buckets, costs in the order of enum io_board_limited: 0 and it is taken, or
 * the nanoseconds to wait before asking again, and nothing is.
 */
uint64_t io_limit_take(struct io_board *board, const uint64_t cost[IO_BOARD_LIMITS], uint64_t now,
		       struct io_limit_rest rest[IO_BOARD_LIMITS]);

/*
 * A bucket that nobody can have left so, because a clock began anew or the board was written over,
 * is made full.
 */
void io_limit_repair(struct io_board *board, uint64_t now);

#endif
