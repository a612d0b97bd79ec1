/* SPDX-License-Identifier: MIT */
/*
 * The page that the iops guest shares with whoever measures with it: found in guest RAM by its
 * magic. tests/bench/iops.py knows its layout.
 */
#ifndef IOPS_H
#define IOPS_H

#include <stdint.h>

#define IOPS_MAGIC 0x53504f4945424d4full

/* Some requests by a way that they are made: what is asked for, and what came of it. Ticks: TSC. */
struct iops_phase {
	uint64_t write;      /* or reads */
	uint64_t sequential; /* or at random */
	uint64_t bytes;      /* of a request: a multiple of 512 */
	uint64_t depth;      /* requests in flight, of each queue */
	uint64_t queues;     /* 0: nothing but the TSC is read */
	uint64_t sleeps;     /* waits for interrupts; or looks at the used rings all the time */
	uint64_t ms;         /* how long, unless told to stop */
	/* results */
	uint64_t requests, errors, ticks, kicks, interrupts, slowest;
};

struct iops_mailbox {
	uint64_t magic;
	uint64_t tsc_khz;
	uint64_t first; /* the TSC when the guest began */
	uint64_t ready; /* 1: phases may be asked for */
	uint64_t sectors, features;
	/* The asker counts one up, the guest makes the other one equal when the phase is over. */
	uint64_t ask, ask_done;
	uint64_t stop; /* ends a phase */
	/* Of a phase that runs. The asker counts reset up, and the gaps begin anew. */
	uint64_t reset, reset_done;
	uint64_t now;                /* the newest reading of the TSC */
	uint64_t gap, gap_end;       /* the longest time between two, and the reading after it */
	uint64_t io_last;            /* the newest reading with requests done */
	uint64_t io_gap, io_gap_end; /* the longest time between two of these */
	struct iops_phase phase;
};

#endif
