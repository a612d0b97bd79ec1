/* SPDX-License-Identifier: MIT */
#include "crew_bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <molt/base/fd.h>

#define LIMIT_NS 10000000000ull

static bool wait_until_true(const _Atomic bool *flag)
{
	const uint64_t end = now_ns() + LIMIT_NS;

	while (!atomic_load(flag) && now_ns() < end)
		usleep(50);
	return atomic_load(flag);
}

static struct crew_bench *bench_of(struct crew_member *cm)
{
	return cm->crew->opaque;
}

static struct sleeper *sleeper_of(struct crew_member *cm)
{
	return &bench_of(cm)->sleepers[cm->id];
}

static void wait_for_kick_at(struct sleeper *s, enum kick_place place)
{
	if (atomic_load(&s->place) != (int)place)
		return;
	atomic_store(&s->there, true);
	wait_until_true(&s->kicked); /* else it will be found overslept */
}

/* False where nobody and nothing woke it. */
static bool sleep_once(struct sleeper *s)
{
	const struct timespec limit = { .tv_sec = LIMIT_NS / 1000000000 };
	struct pollfd pfd = { .fd = s->wake, .events = POLLIN };
	sigset_t kick, old;
	uint64_t count;
	int n = -1;

	/* Blocked around the look at the flag, or a kick in between would be slept over. */
	sigemptyset(&kick);
	sigaddset(&kick, CREW_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &old);
	atomic_fetch_add(&s->sleeps, 1);
	if (!atomic_load(&s->kicked))
		n = ppoll(&pfd, 1, &limit, &old);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (n > 0)
		(void)!read(s->wake, &count, sizeof(count));
	return n != 0;
}

static void run(struct crew_member *cm)
{
	struct sleeper *s = sleeper_of(cm);
	bool slept = false;

	if (atomic_fetch_add(&s->runners, 1) != 0)
		atomic_fetch_add(&bench_of(cm)->doubled, 1);
	for (;;) {
		if (slept)
			wait_for_kick_at(s, AFTER_SLEEP);
		atomic_store(&s->kicked, false);
		if (!crew_may_run(cm))
			return;
		wait_for_kick_at(s, BEFORE_SLEEP);
		if (!sleep_once(s))
			atomic_fetch_add(&bench_of(cm)->overslept, 1);
		slept = true;
	}
}

static void kick(struct crew_member *cm)
{
	struct sleeper *s = sleeper_of(cm);

	atomic_store(&s->kicked, true);
	atomic_fetch_add(&s->kicks, 1);
}

static void settle(struct crew_member *cm)
{
	atomic_fetch_sub(&sleeper_of(cm)->runners, 1);
}

static bool held(struct crew *crew)
{
	struct crew_bench *b = crew->opaque;

	return atomic_load(&b->held);
}

static const struct crew_ops sleeper_ops = {
	.name = "sleeper",
	.title = "sleeper",
	.run = run,
	.kick = kick,
	.settle = settle,
	.held = held,
};

bool crew_bench_second(struct crew_bench *b, struct crew *crew, struct error *err)
{
	return crew_init(crew, &b->ops, b, b->crew.count, err) == 0;
}

bool crew_bench_init(struct crew_bench *b, uint32_t count, struct error *err)
{
	memset(b, 0, sizeof(*b));
	for (uint32_t i = 0; i < SLEEPERS_MAX; i++)
		b->sleepers[i].wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	b->ops = sleeper_ops;
	return crew_init(&b->crew, &b->ops, b, count, err) == 0;
}

bool crew_bench_start(struct crew_bench *b, uint32_t count, struct error *err)
{
	if (!crew_bench_init(b, count, err) || crew_start(&b->crew, false, err) < 0 ||
	    crew_job_finish(&b->crew, err) < 0)
		return false;
	crew_wait_parked(&b->crew);
	return true;
}

void crew_bench_fini(struct crew_bench *b)
{
	crew_stop(&b->crew);
	crew_fini(&b->crew);
	for (uint32_t i = 0; i < SLEEPERS_MAX; i++)
		fd_close(&b->sleepers[i].wake);
}

struct crew_bench *crew_bench_new(uint32_t count)
{
	struct crew_bench *b = calloc(1, sizeof(*b));
	struct error err = ERROR_INIT;

	assert_non_null(b);
	if (count && !crew_bench_start(b, count, &err))
		fail_msg("%s", err.text);
	return b;
}

void crew_bench_free(struct crew_bench *b)
{
	crew_bench_fini(b);
	free(b);
}

void crew_bench_wake(struct crew_bench *b, uint32_t id)
{
	const uint64_t one = 1;

	(void)!write(b->sleepers[id].wake, &one, sizeof(one));
}

void crew_bench_count_sleeps(struct crew_bench *b, unsigned int counts[SLEEPERS_MAX])
{
	for (uint32_t i = 0; i < b->crew.count; i++)
		counts[i] = atomic_load(&b->sleepers[i].sleeps);
}

bool crew_bench_wait_asleep(struct crew_bench *b, const unsigned int counts[SLEEPERS_MAX])
{
	const uint64_t end = now_ns() + LIMIT_NS;

	for (uint32_t i = 0; i < b->crew.count; i++)
		while (atomic_load(&b->sleepers[i].sleeps) == counts[i] && now_ns() < end)
			usleep(50);
	return now_ns() < end;
}

bool crew_bench_is_quiet(struct crew_bench *b)
{
	for (uint32_t i = 0; i < b->crew.count; i++)
		if (atomic_load(&b->sleepers[i].runners))
			return false;
	return !atomic_load(&b->overslept) && !atomic_load(&b->doubled);
}

int crew_bench_together(void *opaque, uint32_t item, struct error *err)
{
	const uint64_t end = now_ns() + LIMIT_NS;
	struct together *t = opaque;

	(void)item;
	(void)err;
	atomic_fetch_add(&t->begun, 1);
	while (atomic_load(&t->begun) < t->wanted && now_ns() < end)
		usleep(50);
	if (atomic_load(&t->begun) < t->wanted)
		atomic_fetch_add(&t->late, 1);
	return 0;
}
