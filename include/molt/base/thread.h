/* SPDX-License-Identifier: MIT */
/* Threads of which nobody but who made them knows. */
#ifndef MOLT_BASE_THREAD_H
#define MOLT_BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/*
 * As pthread_create(), with a stack of so many bytes (at least PTHREAD_STACK_MIN) and all signals
 * blocked, for those of the process are main's: none is lost in a thread or interrupts a call of
 * it. But SIGSYS, by which the sandbox tells of a forbidden call. The thread is joinable. 0 or an
 * errno.
 */
int thread_create(pthread_t *thread, size_t stack_bytes, void *(*fn)(void *), void *arg);

#endif
