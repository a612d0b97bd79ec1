/* SPDX-License-Identifier: MIT */
/* What the files of the crew share. */
#ifndef MOLT_VM_CREW_IMPL_H
#define MOLT_VM_CREW_IMPL_H

#include <molt/vm/crew.h>

/* The handler of CREW_KICK_SIGNAL, for the process. */
int crew_catch_kick(struct error *err);

/* A member's thread, from the park on; opaque: the member. */
void *crew_thread(void *opaque);

/* A thread in the park: does one item if there is one left. Called with the lock held. */
bool crew_job_help(struct crew *crew, bool confined);
bool crew_job_is_open(struct crew *crew);

/*
 * crew_wake.c: a member's thread sleeps, if nobody has woken it since cm->woken was what was seen.
 * Called and left with the lock held, which is let go meanwhile.
 */
void crew_sleep(struct crew_member *cm, uint32_t seen);
/* By anybody who has this memory. */
void crew_wake(struct crew_member *cm);
/* Those that waited, and so were not woken yet. */
void crew_wake_rest(struct crew *crew);
/*
 * On the member's thread, what crew_prepare() asked for: false where it did not, called with the
 * lock held. And when it is let go.
 */
bool crew_get_ready(struct crew_member *cm);
void crew_unplace(struct crew_member *cm);
/* So many of those that sleep, but for those that are awake in the park. */
void crew_wake_helpers(struct crew *crew, uint32_t wanted);

/*
 * Waits for an instant without going to sleep. False: do so now, it is past until or the CPU is
 * wanted.
 */
bool crew_wait_awake(uint64_t until);

#endif
