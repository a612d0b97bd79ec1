/* SPDX-License-Identifier: MIT */
/*
 * Mapping RAM before the guest is taken over: where it ends, who does it, and that the background
 * goes on from there.
 */
#include <errno.h>
#include <sched.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "refault_bench.h"

#define SECOND 1000000000ull

static struct error err;

/* What a plan's hurry() saw, and what it answers. */
struct watcher {
	struct refault_progress progress;
	unsigned int asked;
	unsigned int pieces; /* then there is hurry */
	unsigned int nap_us; /* after the second piece */
	uint64_t seen;       /* progress when it was asked last */
	long tid;
	int nice;
	cpu_set_t cpus;
	sigset_t blocked;
};

static bool watch(void *opaque)
{
	struct watcher *w = opaque;

	w->seen = atomic_load(&w->progress.mapped);
	w->tid = syscall(SYS_gettid);
	w->nice = getpriority(PRIO_PROCESS, 0);
	sched_getaffinity(0, sizeof(w->cpus), &w->cpus);
	pthread_sigmask(SIG_SETMASK, NULL, &w->blocked);
	if (w->asked == 3)
		usleep(w->nap_us);
	return w->asked++ > w->pieces; /* the first time nobody has begun yet */
}

static struct refault_plan plan_for(struct watcher *w)
{
	return (struct refault_plan){ .limit_ns = 60 * SECOND,
				      .hurry = watch,
				      .opaque = w,
				      .progress = &w->progress };
}

static int before(struct refault_bench *s, const struct refault_plan *plan)
{
	return refault_before(&s->refault, &s->new, plan, &err);
}

static void check_all_mapped(struct refault_bench *s)
{
	assert_true(s->refault.mapped == s->written);
	for (size_t i = 0; i < REFAULT_RUNS; i++) {
		assert_true(refault_is_mapped(&s->new, refault_runs[i].gpa));
		assert_true(refault_is_mapped(&s->new, refault_runs[i].gpa +
							       (refault_runs[i].pages - 1) * PAGE));
	}
}

static void go_on_in_the_background(struct refault_bench *s)
{
	refault_start(&s->refault, &s->new, s->loop);
	while (s->refault.turn.loop)
		assert_int_equal(loop_turn(s->loop, 10000), 0);
}

static void test_maps_what_is_there_and_nothing_else(void **state)
{
	struct refault_bench *s = *state;
	uint64_t had = refault_allocated(&s->new);
	struct watcher w = { .pieces = UINT32_MAX };
	const struct refault_plan plan = plan_for(&w);

	assert_int_equal(before(s, &plan), 0);
	check_all_mapped(s);
	assert_false(refault_is_mapped(&s->new, 32 << 20));
	assert_true(refault_allocated(&s->new) == had);
	assert_true(s->refault.before == s->written);
	/* The holes are skipped, rather than asked about for 1500 pieces. */
	assert_true(w.asked > 3 && w.asked < 20);
	/* Nothing is left. */
	refault_start(&s->refault, &s->new, s->loop);
	assert_null(s->refault.turn.loop);
}

static void test_progress(void **state)
{
	struct refault_bench *s = *state;
	struct watcher w = { .pieces = UINT32_MAX };
	const struct refault_plan plan = plan_for(&w);

	atomic_store(&w.progress.mapped, 7);
	assert_int_equal(before(s, &plan), 0);
	assert_true(atomic_load(&w.progress.total) == s->written);
	assert_true(atomic_load(&w.progress.mapped) == s->written);
	assert_true(w.seen > 0 && w.seen < s->written);
}

static void test_hurry_and_the_background_goes_on(void **state)
{
	struct refault_bench *s = *state;
	struct watcher w = { .pieces = 2 };
	const struct refault_plan plan = plan_for(&w);
	uint64_t so_far;

	assert_int_equal(before(s, &plan), 0);
	so_far = s->refault.mapped;
	assert_true(so_far > 0 && so_far < s->written);
	assert_true(s->refault.before == so_far);
	assert_false(refault_is_mapped(&s->new, MEMORY_LOW_MAX - PAGE));
	go_on_in_the_background(s);
	check_all_mapped(s); /* and no page twice */
	assert_true(s->refault.before == so_far);
}

static void test_hurry_from_the_start(void **state)
{
	struct refault_bench *s = *state;
	struct watcher w = { .asked = 1 };
	const struct refault_plan plan = plan_for(&w);

	assert_int_equal(before(s, &plan), 0);
	assert_int_equal(s->refault.mapped, 0);
	go_on_in_the_background(s);
	check_all_mapped(s);
}

static void test_the_limit(void **state)
{
	struct refault_bench *s = *state;
	struct watcher w = { .pieces = UINT32_MAX, .nap_us = 400000 };
	struct refault_plan plan = plan_for(&w);

	plan.limit_ns = SECOND * 2 / 5;
	assert_int_equal(before(s, &plan), 0);
	assert_int_equal(w.asked, 4);
	assert_true(s->refault.mapped > 0 && s->refault.mapped < s->written);
	go_on_in_the_background(s);
	check_all_mapped(s);
}

static void test_no_limit_no_work(void **state)
{
	struct refault_bench *s = *state;
	const struct refault_plan nothing = { 0 };

	assert_int_equal(before(s, &nothing), 0);
	assert_int_equal(s->refault.mapped, 0);
	go_on_in_the_background(s);
	check_all_mapped(s);
}

static void test_the_callers_thread_stays_as_it_is(void **state)
{
	struct refault_bench *s = *state;
	struct watcher w = { .pieces = UINT32_MAX };
	struct refault_plan plan = plan_for(&w);
	cpu_set_t had, one, has;
	int nice = getpriority(PRIO_PROCESS, 0);

	sched_getaffinity(0, sizeof(had), &had);
	CPU_ZERO(&one);
	for (size_t cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&one); cpu++)
		if (CPU_ISSET(cpu, &had))
			CPU_SET(cpu, &one);
	plan.spare = &one;
	assert_int_equal(before(s, &plan), 0);
	check_all_mapped(s);
	assert_true(w.tid != syscall(SYS_gettid));
	assert_true(CPU_EQUAL(&w.cpus, &one));
	assert_true(w.nice >= 10);
	assert_true(sigismember(&w.blocked, SIGTERM) && !sigismember(&w.blocked, SIGSYS));
	sched_getaffinity(0, sizeof(has), &has);
	assert_true(CPU_EQUAL(&has, &had));
	assert_int_equal(getpriority(PRIO_PROCESS, 0), nice);
}

/* Nothing that the host says of CPUs stops it. */
static void test_cpus_that_cannot_be_had(void **state)
{
	struct refault_bench *s = *state;
	struct watcher w = { .pieces = UINT32_MAX };
	struct refault_plan plan = plan_for(&w);
	cpu_set_t none;

	CPU_ZERO(&none);
	plan.spare = &none;
	assert_int_equal(before(s, &plan), 0);
	check_all_mapped(s);
}

static void test_memory_that_cannot_be_mapped(void **state)
{
	struct refault_bench *s = *state;
	struct memory bad = s->new;
	struct watcher w = { .pieces = UINT32_MAX };
	const struct refault_plan plan = plan_for(&w);

	bad.regions[0].hva = (char *)bad.regions[0].hva + 1;
	assert_int_equal(refault_before(&s->refault, &bad, &plan, &err), -EINVAL);
	assert_non_null(strstr(err.text, "mapping guest RAM"));
	refault_start(&s->refault, &bad, s->loop);
	assert_null(s->refault.turn.loop);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, refault_set_up, refault_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_maps_what_is_there_and_nothing_else),
		CASE(test_progress),
		CASE(test_hurry_and_the_background_goes_on),
		CASE(test_hurry_from_the_start),
		CASE(test_the_limit),
		CASE(test_no_limit_no_work),
		CASE(test_the_callers_thread_stays_as_it_is),
		CASE(test_cpus_that_cannot_be_had),
		CASE(test_memory_that_cannot_be_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
