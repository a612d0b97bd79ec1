/* SPDX-License-Identifier: MIT */
/* Failure points of the update path; see faults.c. */
#ifndef MOLT_TESTS_FAULTS_H
#define MOLT_TESTS_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

/* Reads what is armed, and begins to count: an update has begun in this process. */
void faults_begin(const char *side, const char *stage);

/* The same in a stand-in that has just been made. */
void faults_begin_stand_in(void);

/* In a stand-in that takes the guest back: the other process is gone. */
void faults_bury(void);

/* From here on points belong to this stage. Its beginning is a point of its own. */
void faults_stage(const char *stage);

/* As faults_stage(), in a process that has become another side of the update. */
void faults_side(const char *side, const char *stage);

/* The update is over, or, with a loop to come that serves others meanwhile, out of sight. */
void faults_pause(void);

/* The stage that points belong to, NULL if none is counted now. */
const char *faults_now(void);
const char *faults_now_side(void);

/*
 * A failure point: the function `name` is called from `site`. True, with errno set to code, where
 * it is to fail instead. code 0: it cannot fail, but the process can end here.
 */
bool fault(const char *name, int code, uintptr_t site);

/* A function that can fail, as wraps.py lays it out. */
struct call {
	int code; /* errno when it fails */
	char name[];
};
#define NO_POINT (-1)

/* What the wrappers ask: 0, or the errno with which it is to fail. args: its first six. */
int fault_of_call(const struct call *call, const unsigned long *args, uintptr_t site);

/* Whether the test wants the guest stopped from before the exec on, as for release 0.1.0. */
bool faults_old_order(void);

/* Whether it wants a serial port's file to be in a write when the update comes to it. */
bool faults_slow_output(void);

/* Whom the action `orphan` kills, also in a later image. */
void faults_note_stand_in(int pid);

#endif
