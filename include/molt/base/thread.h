/* SPDX-License-Identifier: MIT */
/* Threads of which nobody but who made them knows; where a thread runs; and main's stack. */
#ifndef MOLT_BASE_THREAD_H
#define MOLT_BASE_THREAD_H

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

#include <molt/base/error.h>

/*
 * As pthread_create(), with a stack of so many bytes (at least PTHREAD_STACK_MIN) and all signals
 * blocked, for those of the process are main's: none is lost in a thread or interrupts a call of
 * it. But SIGSYS, by which the sandbox tells of a forbidden call. The thread is joinable. 0 or an
 * errno.
 */
int thread_create(pthread_t *thread, size_t stack_bytes, void *(*fn)(void *), void *arg);

/*
 * What the calling thread has to ask for later to run where it may now, and where it might by then:
 * all CPUs, unless somebody has kept it to some. False where that cannot be known (a host with more
 * CPUs than a cpu_set_t).
 */
bool thread_get_cpus(cpu_set_t *cpus);

/*
 * Has the calling thread run on these CPUs, which sched_getaffinity() told before: there and where
 * it might by then, in the same way. False and errno: none of them is to be had any more.
 */
bool thread_set_cpus(const cpu_set_t *cpus);

/*
 * Main's stack, on which the environment is, too, grows to the soft limit of the moment and no
 * further: one that overflows is SIGSEGV. This raises the limit where it is below so many bytes.
 * 0, or a negative errno with a sentence that says what the limit is to be.
 */
int thread_main_stack(size_t bytes, struct error *err);

#endif
