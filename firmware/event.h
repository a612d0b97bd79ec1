/* SPDX-License-Identifier: MIT */
/*
 * The page that the guest `event` shares with a test: found in guest RAM by its magic. Its layout
 * is also in tests/faults/guest_events.py.
 */
#ifndef EVENT_H
#define EVENT_H

#include <stdint.h>

#define EVENT_MAGIC 0x544e4556452d4d4full
#define EVENT_CPUS 2

enum event {
	EVENT_NONE,
	EVENT_POWER_OFF,
	EVENT_RESET_I8042,
	EVENT_RESET_CF9,
	EVENT_TRIPLE_FAULT,
	EVENT_PANIC, /* only said: the guest goes on */
};

struct event_mailbox {
	uint64_t magic;
	uint64_t ready; /* 1 once all CPUs run */
	uint64_t ask;   /* enum event, from the test */
	uint64_t seen;  /* the same, just before the guest does it */
	uint64_t done;  /* how often it went on after it */
	uint64_t mark;  /* the test's: gone when the machine was reset */
	uint64_t passes[EVENT_CPUS];
	uint64_t changes; /* of what the CPUs keep in RAM */
};

#endif
