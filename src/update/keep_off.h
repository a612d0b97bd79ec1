/* SPDX-License-Identifier: MIT */
#ifndef MOLT_UPDATE_KEEP_OFF_H
#define MOLT_UPDATE_KEEP_OFF_H

#include <sched.h>
#include <stdbool.h>

/* A main thread that keeps off the CPUs where the guest runs. Zeroes: it does not. */
struct keep_off {
	bool on;
	cpu_set_t usual; /* where it may run else */
};

/*
 * From now on the calling thread runs on these CPUs only; and where it may again. What cannot be
 * had only makes the guest slower.
 */
void keep_off_begin(struct keep_off *k, const cpu_set_t *spare);
void keep_off_end(struct keep_off *k);

#endif
