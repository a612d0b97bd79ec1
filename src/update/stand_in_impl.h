/* SPDX-License-Identifier: MIT */
/* How the sides of the stand-in tell each other: stand_in.c, stand_in_self.c, stand_in_link.c. */
#ifndef MOLT_UPDATE_STAND_IN_IMPL_H
#define MOLT_UPDATE_STAND_IN_IMPL_H

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "stand_in.h"

#define STAND_IN_HURRY_MS 3000    /* for a successor that others wait for */
#define STAND_IN_LOOK_NS 50000000 /* so often a wait looks whether the other side is still there */

/* struct stand_in's: between predecessor and stand-in. */
enum stand_in_state {
	STATE_STARTING,
	STATE_FAILED,
	STATE_STANDS_BY,
	STATE_STANDS_IN,
	STATE_TO_GIVE_BACK,
};

/* Whose the guest is, if it was from's until now. */
static inline bool decide(struct stand_in_page *page, uint32_t from, uint32_t owner)
{
	return atomic_compare_exchange_strong(&page->owner, &from, owner);
}

/* A shared one where the successor waits, too. Returns when it was woken, or to look. */
static inline void wait_on(_Atomic uint32_t *word, uint32_t value)
{
	const struct timespec look = { .tv_nsec = STAND_IN_LOOK_NS };

	syscall(SYS_futex, word, FUTEX_WAIT, value, &look, NULL, 0);
}

static inline void set_and_wake(_Atomic uint32_t *word, uint32_t value)
{
	atomic_store(word, value);
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* False, and errno: it could not be. Where the count is full it is awake. */
static inline bool wake(int fd)
{
	const uint64_t one = 1;

	return write(fd, &one, sizeof(one)) >= 0 || errno == EAGAIN;
}

static inline void set_deadline(struct stand_in *s, uint64_t ms)
{
	const struct itimerspec its = {
		.it_value = { .tv_sec = (time_t)(ms / 1000),
			      .tv_nsec = (long)(ms % 1000) * 1000000 + 1 },
	};

	atomic_store(&s->due_ns, now_ns() + ms * 1000000u);
	timerfd_settime(s->timer_fd, 0, &its, NULL);
}

static inline uint64_t deadline_ms(const struct stand_in *s)
{
	return atomic_load(&s->page->hurry) && s->deadline_ms > STAND_IN_HURRY_MS
		       ? STAND_IN_HURRY_MS
		       : s->deadline_ms;
}

/* The stand-in's process, in stand_in_self.c; for clone(). opaque: the struct stand_in. */
int stand_in_main(void *opaque);

#endif
