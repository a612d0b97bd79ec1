/* SPDX-License-Identifier: MIT */
/*
 * The page that the bench guest shares with whoever measures it: found in guest RAM by its magic.
 * tests/bench/floor.c enters the guest through it, tests/bench/mailbox.py knows its layout.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

#define BENCH_MAGIC 0x48434e45424d4f4cull

struct bench_mailbox {
	uint64_t magic;
	/* How to enter the guest without a boot: 64-bit ring 3, any number of times. */
	uint64_t entry, page_tables, stack;
	uint64_t ram_bytes; /* set by who enters so: RAM below 3 GiB, the rest from 4 GiB up */
	uint64_t tsc_khz;   /* likewise; a booted guest finds it out */
	uint64_t ready;     /* 1 once the loop runs */
	uint64_t entries;   /* how often the loop was entered */
	/* Written by the loop; all in TSC ticks. */
	uint64_t last;    /* the newest reading */
	uint64_t gap;     /* the largest distance of two readings since the last reset */
	uint64_t gap_end; /* the reading after it */
	/* Requests: the asker counts one up, the loop makes the other one equal when it is done. */
	uint64_t reset, reset_done;
	uint64_t touch, touch_done;
	uint64_t touch_ticks, touch_bytes; /* of the last touch */
};

#endif
