/* SPDX-License-Identifier: MIT */
/*
 * A control group's CPUs: sched_setaffinity(2) and sched_getaffinity(2), in whose place these are,
 * go by it instead of by the host's, as Linux does since 6.2. What a thread has asked for stays,
 * and it runs where that and the group allow it.
 */
#ifndef MOLT_TESTS_FAKE_CPUSET_H
#define MOLT_TESTS_FAKE_CPUSET_H

#include <stdint.h>

/* From here on it has these, bit N is CPU N, and threads have asked for nothing; 0: it is no more. */
void fake_cpuset(uint64_t cpus);

/* It has others. Threads that may run on none of them run on all. */
void fake_cpuset_change(uint64_t cpus);

/* Where a thread runs; 0: the caller. */
uint64_t fake_cpuset_of(int tid);

#endif
