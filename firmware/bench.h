/* SPDX-License-Identifier: MIT */
/*
 * The page that the bench guest shares with whoever measures it: found in guest RAM by its magic.
 * tests/bench/floor.c enters the guest through it, tests/bench/mailbox.py knows its layout.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

#define BENCH_MAGIC 0x48434e45424d4f4cull
#define BENCH_NOTED_US 50 /* a gap longer than this is noted */
#define BENCH_GAPS 128

struct bench_gap {
	uint64_t end, ticks;
};

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
	/* The gaps worth a note since the last reset: how many, and the newest of them as a ring. */
	uint64_t gaps;
	struct bench_gap noted[BENCH_GAPS];
	/*
	 * Not the guest's, but of a program that enters it and says what it did: how often it has
	 * replaced itself, and when, by its own reading of the TSC, the guest stood still in the
	 * last of these: for the hand-off to the stand-in, and for the switch to the successor.
	 */
	uint64_t updates;
	uint64_t handoff_begin, handoff_end, switch_begin, switch_end;
};

#endif
