/* SPDX-License-Identifier: MIT */
/* Threads that park and run, with no KVM: kicks in all places, stops, and what a thread looks like.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "crew_bench.h"
#include "fake_cpuset.h"

#define SECOND 1000000000ull
#define STORM 5000

static unsigned int count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned int n = 0;

	assert_non_null(dir);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* One that was joined may be there for another instant. */
static void assert_threads(unsigned int wanted)
{
	const uint64_t end = now_ns() + 10 * SECOND;

	while (count_threads() != wanted && now_ns() < end)
		usleep(100);
	assert_int_equal(count_threads(), wanted);
}

/* The text behind "name:" in a thread's status. */
static void read_thread(pid_t tid, const char *name, char *text, size_t size)
{
	char path[64], line[256];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)tid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (!found && fgets(line, sizeof(line), f))
		found = strncmp(line, name, strlen(name)) == 0;
	fclose(f);
	assert_true(found);
	snprintf(text, size, "%s", line + strlen(name) + 2);
	text[strcspn(text, " \n")] = '\0';
}

/* ---- kicks ---- */

static void test_all_are_parked_after_each_park(void **state)
{
	struct crew_bench *b;
	uint64_t last = 0;

	(void)state;
	b = crew_bench_new(4);
	for (unsigned int i = 0; i < STORM; i++) {
		uint64_t before, stopped;

		crew_keep_awake(&b->crew, i / 100 % 2);
		crew_unpark(&b->crew);
		if (i % 2)
			assert_true(crew_wait_entered(&b->crew) > last);
		if (i % 3 == 0)
			usleep(i % 50);
		if (i % 7 == 0)
			crew_bench_wake(b, i % 4);
		before = now_ns();
		stopped = crew_park(&b->crew);
		assert_true(crew_bench_is_quiet(b));
		assert_true(stopped <= now_ns());
		/* One that never left the park keeps the time of before. */
		assert_true(stopped >= before || i % 2 == 0 || stopped > last);
		last = stopped;
		for (uint32_t n = 0; n < 4; n++)
			assert_true(b->crew.members[n].parked);
	}
	crew_bench_free(b);
}

static void test_a_kick_before_the_call(void **state)
{
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(1);
	atomic_store(&b->sleepers[0].place, BEFORE_SLEEP);
	for (int i = 0; i < 50; i++) {
		atomic_store(&b->sleepers[0].there, false);
		crew_unpark(&b->crew);
		while (!atomic_load(&b->sleepers[0].there))
			usleep(50);
		crew_park(&b->crew);
		assert_true(crew_bench_is_quiet(b));
	}
	crew_bench_free(b);
}

static void test_a_kick_in_the_call(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;
	char how[8];

	(void)state;
	b = crew_bench_new(2);
	for (int i = 0; i < 50; i++) {
		crew_bench_count_sleeps(b, counts);
		crew_unpark(&b->crew);
		assert_true(crew_bench_wait_asleep(b, counts));
		do
			read_thread(b->crew.members[1].tid, "State", how, sizeof(how));
		while (strcmp(how, "S") != 0);
		crew_park(&b->crew);
		assert_true(crew_bench_is_quiet(b));
	}
	crew_bench_free(b);
}

/* It has woken up for another reason, and takes the flag back after the kick has set it. */
static void test_a_kick_after_the_call(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(1);
	atomic_store(&b->sleepers[0].place, AFTER_SLEEP);
	for (int i = 0; i < 50; i++) {
		atomic_store(&b->sleepers[0].there, false);
		crew_bench_count_sleeps(b, counts);
		crew_unpark(&b->crew);
		assert_true(crew_bench_wait_asleep(b, counts));
		crew_bench_wake(b, 0);
		while (!atomic_load(&b->sleepers[0].there))
			usleep(50);
		crew_park(&b->crew);
		assert_true(crew_bench_is_quiet(b));
		assert_int_equal(b->sleepers[0].sleeps, counts[0] + 1);
	}
	crew_bench_free(b);
}

/* Where others of this user have as many signals queued as it may have. */
static void test_a_kick_without_room_for_it(void **state)
{
	unsigned int counts[SLEEPERS_MAX] = { 0 };
	struct rlimit usual, none;
	struct crew_bench *b;
	uint64_t stopped;
	int r;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_SIGPENDING, &usual), 0);
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = usual.rlim_max };
	b = crew_bench_new(2);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &none), 0);
	r = crew_park_for(&b->crew, NULL, 5 * SECOND, &stopped, NULL);
	assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &usual), 0);
	assert_int_equal(r, 0);
	assert_true(crew_bench_is_quiet(b));
	crew_bench_free(b);
}

/* What kick() marks may be gone by then. */
static void test_a_kick_in_the_park_marks_nothing(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(2);
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	crew_park(&b->crew);
	assert_int_equal(b->sleepers[0].kicks + b->sleepers[1].kicks, 2);
	for (int i = 0; i < 20; i++)
		crew_park(&b->crew);
	crew_stop(&b->crew);
	assert_int_equal(b->sleepers[0].kicks + b->sleepers[1].kicks, 2);
	crew_bench_free(b);
}

static void test_nobody_runs_while_held(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(3);
	atomic_store(&b->held, true);
	crew_unpark(&b->crew);
	assert_true(crew_wait_entered(&b->crew) > 0);
	crew_park(&b->crew);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(b->sleepers[i].sleeps, 0);
	atomic_store(&b->held, false);
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	/* It comes while they run: they park by themselves once they look. */
	atomic_store(&b->held, true);
	for (uint32_t i = 0; i < 3; i++)
		crew_bench_wake(b, i);
	crew_wait_parked(&b->crew);
	assert_true(crew_bench_is_quiet(b));
	crew_bench_free(b);
}

/* ---- one after the other ---- */

static _Atomic uint32_t waiting; /* a bit each */
static _Atomic uint32_t parked_last;

static bool waits(struct crew_member *cm)
{
	return atomic_load(&waiting) >> cm->id & 1;
}

static void note_parked(struct crew_member *cm)
{
	struct crew_bench *b = cm->crew->opaque;

	atomic_store(&parked_last, cm->id);
	atomic_fetch_sub(&b->sleepers[cm->id].runners, 1);
}

static void test_those_that_wait_are_parked_first(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(4);
	b->ops.waits = waits;
	b->ops.settle = note_parked;
	for (uint32_t busy = 0; busy < 4; busy++) {
		crew_bench_count_sleeps(b, counts);
		crew_unpark(&b->crew);
		assert_true(crew_bench_wait_asleep(b, counts));
		atomic_store(&waiting, 0xf & ~(1u << busy));
		crew_park(&b->crew);
		assert_true(crew_bench_is_quiet(b));
		assert_int_equal(parked_last, busy);
	}
	crew_bench_free(b);
}

struct guests {
	struct crew *crew;
	pthread_t who[SLEEPERS_MAX];
	_Atomic uint32_t at_once;
};

static int be_visited(void *opaque, uint32_t item, struct error *err)
{
	struct guests *g = opaque;

	g->who[item] = pthread_self();
	for (uint32_t i = 0; i < g->crew->count; i++)
		g->at_once += atomic_load(&g->crew->members[i].parked);
	return item == 2 ? err_set(err, 7, "item %u", item) : 0;
}

static void visit_each(struct crew_bench *b)
{
	struct guests g = { .crew = &b->crew };

	for (uint32_t i = 0; i < b->crew.count; i++) {
		struct error err = ERROR_INIT;

		assert_int_equal(crew_visit(&b->crew, i, be_visited, &g, 10 * SECOND, &err),
				 i == 2 ? -7 : 0);
		assert_string_equal(err.text, i == 2 ? "item 2" : "");
		assert_true(pthread_equal(g.who[i], b->crew.members[i].thread));
	}
	if (!atomic_load(&b->held))
		assert_int_equal(g.at_once, b->crew.count);
}

/* On its own thread, the others running; and it runs on by itself. */
static void test_a_visit_stops_one_alone(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(3);
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	for (int i = 0; i < 100; i++) {
		crew_bench_count_sleeps(b, counts);
		visit_each(b);
		assert_true(crew_bench_wait_asleep(b, counts));
	}
	/* They have parked by themselves, and are to run all the same. */
	atomic_store(&b->held, true);
	for (uint32_t i = 0; i < 3; i++)
		crew_bench_wake(b, i);
	crew_wait_parked(&b->crew);
	visit_each(b);
	crew_park(&b->crew);
	assert_true(crew_bench_is_quiet(b));
	crew_bench_free(b);
}

static _Atomic bool stuck;

static void get_stuck(struct crew_member *cm)
{
	while (cm->id == 1 && atomic_load(&stuck))
		usleep(1000);
}

static void (*settle_in_time)(struct crew_member *cm);

static void settle_late(struct crew_member *cm)
{
	get_stuck(cm);
	settle_in_time(cm);
}

/* It hangs on its way to the park. */
static struct crew_bench *bench_with_one_stuck(unsigned int counts[SLEEPERS_MAX])
{
	struct crew_bench *b = crew_bench_new(3);

	settle_in_time = b->ops.settle;
	b->ops.settle = settle_late;
	atomic_store(&stuck, true);
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	crew_bench_count_sleeps(b, counts);
	return b;
}

/* The visit is called off; the others are not concerned, and it runs on when it can. */
static void test_one_that_does_not_come_to_a_visit(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct guests g;

	(void)state;
	b = bench_with_one_stuck(counts);
	g = (struct guests){ .crew = &b->crew };
	assert_int_equal(crew_visit(&b->crew, 1, be_visited, &g, SECOND / 20, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "sleeper 1 "));
	assert_int_equal(crew_visit(&b->crew, 0, be_visited, &g, 10 * SECOND, &err), 0);
	assert_int_equal(crew_visit(&b->crew, 2, be_visited, &g, 10 * SECOND, &err), -7);
	assert_int_equal(b->sleepers[1].sleeps, counts[1]);
	atomic_store(&stuck, false);
	assert_true(crew_bench_wait_asleep(b, counts));
	assert_true(pthread_equal(g.who[1], (pthread_t){ 0 }));
	assert_int_equal(crew_visit(&b->crew, 1, be_visited, &g, 10 * SECOND, &err), 0);
	crew_park(&b->crew);
	assert_true(crew_bench_is_quiet(b));
	crew_bench_free(b);
}

static bool first_waits(struct crew_member *cm)
{
	return cm->id == 1;
}

/* Whether it is one of those that are parked before the others or not. */
static void park_in_vain(bool waits)
{
	unsigned int counts[SLEEPERS_MAX];
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	uint64_t stopped = 1;

	b = bench_with_one_stuck(counts);
	b->ops.waits = waits ? first_waits : NULL;
	assert_int_equal(crew_park_for(&b->crew, NULL, SECOND / 20, &stopped, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "sleeper 1 "));
	assert_int_equal(stopped, 1);
	assert_int_equal(b->sleepers[1].sleeps, counts[1]);
	if (waits) /* the others were not told */
		for (uint32_t id = 0; id < 3; id++)
			crew_bench_wake(b, id);
	atomic_store(&stuck, false);
	assert_true(crew_bench_wait_asleep(b, counts));
	assert_int_equal(crew_park_for(&b->crew, NULL, 10 * SECOND, &stopped, &err), 0);
	assert_true(stopped > 1);
	assert_true(crew_bench_is_quiet(b));
	crew_bench_free(b);
}

static void test_one_that_does_not_park_in_time(void **state)
{
	(void)state;
	park_in_vain(false);
	park_in_vain(true);
}

/*
 * Just when it comes: it is visited or not, and in any case it runs on. How many are called off is
 * up to the scheduler, which may let it run at once whenever it is woken.
 */
static void test_a_visit_that_is_called_off_at_any_moment(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(3);
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	for (unsigned int i = 0; i < STORM; i++) {
		struct guests g = { .crew = &b->crew };
		int r;

		assert_true(crew_bench_wait_asleep(b, counts));
		crew_bench_count_sleeps(b, counts);
		for (uint32_t id = 0; id < 2; id++)
			counts[id]--; /* the third's alone are to increase */
		r = crew_visit(&b->crew, 2, be_visited, &g, i % 100 * 1000, NULL);
		assert_true(r == -7 || r == -ETIMEDOUT);
		assert_int_equal(!pthread_equal(g.who[2], (pthread_t){ 0 }), r == -7);
	}
	assert_true(crew_bench_wait_asleep(b, counts));
	crew_park(&b->crew);
	assert_true(crew_bench_is_quiet(b));
	crew_bench_free(b);
}

/* ---- sleeping and staying awake ---- */

/* They do so for some milliseconds, in which we might not have had the CPU. */
static bool rouse(struct crew_bench *b, uint32_t id)
{
	const uint64_t end = now_ns() + 10 * SECOND;

	while (now_ns() < end) {
		const uint64_t soon = now_ns() + SECOND / 1000;

		crew_rouse(&b->crew);
		while (now_ns() < soon)
			if (atomic_load(&b->crew.members[id].sleeps_on) < 0)
				return true;
	}
	return false;
}

static bool wait_for_sleep(struct crew_bench *b, uint32_t id)
{
	const uint64_t end = now_ns() + 10 * SECOND;

	while (atomic_load(&b->crew.members[id].sleeps_on) < 0 && now_ns() < end)
		usleep(100);
	return atomic_load(&b->crew.members[id].sleeps_on) >= 0;
}

static void test_roused_ones_stay_awake_for_a_while(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;
	uint64_t stopped;

	(void)state;
	b = crew_bench_new(2);
	assert_true(wait_for_sleep(b, 0));
	assert_true(wait_for_sleep(b, 1));
	crew_note_waited(&b->crew, 0, true);
	if (b->crew.host_cpus == 1) {
		crew_rouse(&b->crew);
		assert_false(b->crew.members[1].stays_awake);
	} else {
		assert_true(rouse(b, 1)); /* before the one that waited */
		assert_true(b->crew.members[1].stays_awake);
	}
	if (b->crew.host_cpus == 2)
		assert_false(b->crew.members[0].stays_awake);
	assert_true(wait_for_sleep(b, 1));
	/* Awake or not, it runs when it is told to. */
	for (int i = 0; i < 200; i++) {
		crew_rouse(&b->crew);
		usleep((useconds_t)i % 60);
		crew_bench_count_sleeps(b, counts);
		crew_unpark(&b->crew);
		assert_true(crew_bench_wait_asleep(b, counts));
		assert_int_equal(crew_park_for(&b->crew, &b->crew, 10 * SECOND, &stopped, NULL), 0);
		assert_true(crew_bench_is_quiet(b));
	}
	crew_bench_free(b);
}

/* ---- where their threads run ---- */

static bool wait_for_cpus(const struct crew_member *cm, const cpu_set_t *wanted)
{
	const uint64_t end = now_ns() + 10 * SECOND;
	cpu_set_t cpus;

	do {
		assert_int_equal(sched_getaffinity(cm->tid, sizeof(cpus), &cpus), 0);
		if (CPU_EQUAL(&cpus, wanted))
			return true;
		usleep(100);
	} while (now_ns() < end);
	return false;
}

static void test_one_wakes_up_where_it_is_told_to(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	cpu_set_t all, one;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	b = crew_bench_new(3);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET((size_t)cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET((size_t)cpu, &one);
		crew_prepare(&b->crew, 1, &one);
		assert_true(wait_for_cpus(&b->crew.members[1], &one));
		assert_true(wait_for_cpus(&b->crew.members[2], &all));
		assert_int_equal(crew_wait_prepared(&b->crew, 5000000000ull, &err), 0);
		/* Told twice it is still known where it may run usually. */
		crew_prepare(&b->crew, 1, &one);
		crew_bench_count_sleeps(b, counts);
		crew_unpark(&b->crew);
		assert_true(crew_bench_wait_asleep(b, counts));
		assert_int_equal(b->crew.members[1].host_cpu, cpu);
		assert_true(wait_for_cpus(&b->crew.members[1], &all));
		crew_park(&b->crew);
		assert_true(crew_bench_is_quiet(b));
	}
	crew_bench_free(b);
}

/* One that does not come back from getting ready would not run either. */
static void test_one_that_does_not_get_ready(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(3);
	b->ops.prepare = get_stuck;
	atomic_store(&stuck, true);
	assert_int_equal(crew_wait_prepared(&b->crew, 0, &err), 0);
	for (uint32_t i = 0; i < 3; i++)
		crew_prepare(&b->crew, i, NULL);
	assert_int_equal(crew_wait_prepared(&b->crew, 50000000, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, " 1 "));
	atomic_store(&stuck, false);
	assert_int_equal(crew_wait_prepared(&b->crew, 10000000000, &err), 0);
	crew_bench_free(b);
}

/* Who is let go before it has heard of that is not placed at its next stop, where it may be
 * confined. */
static void test_told_too_late_where_to_wake_up(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;
	cpu_set_t all, one;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET((size_t)sched_getcpu(), &one);
	b = crew_bench_new(2);
	for (int i = 0; i < 200; i++) {
		crew_prepare(&b->crew, 0, &one);
		crew_prepare(&b->crew, 1, &one);
		crew_bench_count_sleeps(b, counts);
		crew_unpark(&b->crew);
		assert_true(crew_bench_wait_asleep(b, counts));
		crew_park(&b->crew);
		usleep(500);
		assert_true(wait_for_sleep(b, 0));
		assert_true(wait_for_sleep(b, 1));
		assert_true(wait_for_cpus(&b->crew.members[0], &all));
		assert_false(b->crew.members[0].is_placed);
		assert_false(b->crew.members[1].is_placed);
	}
	crew_bench_free(b);
}

static void test_who_starts_them_may_be_kept_elsewhere(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	cpu_set_t all, one;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET((size_t)sched_getcpu(), &one);
	b = crew_bench_new(0);
	assert_true(crew_bench_init(b, 2, &err));
	crew_set_cpus(&b->crew, &all);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(crew_start(&b->crew, false, &err), 0);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	crew_wait_parked(&b->crew);
	assert_true(wait_for_cpus(&b->crew.members[0], &all));
	assert_true(wait_for_cpus(&b->crew.members[1], &all));
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	crew_bench_free(b);
}

static bool wait_for_fake_cpus(const struct crew_member *cm, uint64_t wanted)
{
	const uint64_t end = now_ns() + 10 * SECOND;

	while (fake_cpuset_of(cm->tid) != wanted && now_ns() < end)
		usleep(100);
	return fake_cpuset_of(cm->tid) == wanted;
}

/* Where it may run is what the control group has, later as well. One that is pinned stays so. */
static void test_their_cpuset_may_grow_later(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	cpu_set_t two, one;

	(void)state;
	CPU_ZERO(&two);
	CPU_SET(0, &two);
	one = two;
	CPU_SET(1, &two);
	fake_cpuset(3);
	b = crew_bench_new(0);
	assert_true(crew_bench_init(b, 3, &err));
	crew_set_cpus(&b->crew, &two);
	assert_int_equal(b->crew.host_cpus, 2);
	assert_int_equal(crew_start(&b->crew, true, &err), 0);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	crew_wait_parked(&b->crew);
	assert_int_equal(sched_setaffinity(b->crew.members[2].tid, sizeof(one), &one), 0);
	crew_prepare(&b->crew, 1, &one);
	assert_true(wait_for_fake_cpus(&b->crew.members[1], 1));
	crew_prepare(&b->crew, 2, &two);
	assert_true(wait_for_fake_cpus(&b->crew.members[2], 3));
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	assert_int_equal(fake_cpuset_of(b->crew.members[0].tid), 3);
	assert_int_equal(fake_cpuset_of(b->crew.members[1].tid), 3);
	assert_int_equal(fake_cpuset_of(b->crew.members[2].tid), 1);
	fake_cpuset_change(15);
	assert_int_equal(fake_cpuset_of(b->crew.members[0].tid), 15);
	assert_int_equal(fake_cpuset_of(b->crew.members[1].tid), 15);
	assert_int_equal(fake_cpuset_of(b->crew.members[2].tid), 1);
	crew_park(&b->crew);
	fake_cpuset(0);
	crew_bench_free(b);
}

/* Where it waited, and who is busy says the mask of ops->waits(). */
static void test_cpus_of_those_that_wait_are_spare(void **state)
{
	unsigned int counts[SLEEPERS_MAX];
	struct crew_bench *b;
	cpu_set_t all, spare;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	b = crew_bench_new(2);
	b->ops.waits = waits;
	crew_bench_count_sleeps(b, counts);
	crew_unpark(&b->crew);
	assert_true(crew_bench_wait_asleep(b, counts));
	atomic_store(&waiting, 2);
	crew_park(&b->crew);
	CPU_CLR((size_t)b->crew.members[0].host_cpu, &all);
	assert_int_equal(crew_spare_cpus(&b->crew, &spare), CPU_COUNT(&all) > 0);
	assert_true(CPU_EQUAL(&spare, &all));
	crew_note_waited(&b->crew, 0, true);
	assert_true(crew_spare_cpus(&b->crew, &spare));
	assert_true(CPU_ISSET((size_t)b->crew.members[0].host_cpu, &spare));
	crew_bench_free(b);
}

/* ---- threads ---- */

static void test_threads_have_names_and_no_signals_but_the_kick(void **state)
{
	struct crew_bench *b;
	uint64_t blocked;
	char text[32];

	(void)state;
	b = crew_bench_new(2);
	read_thread(b->crew.members[1].tid, "Name", text, sizeof(text));
	assert_string_equal(text, "sleeper1");
	read_thread(b->crew.members[1].tid, "SigBlk", text, sizeof(text));
	blocked = strtoull(text, NULL, 16);
	assert_false(blocked >> (CREW_KICK_SIGNAL - 1) & 1);
	assert_false(blocked >> (SIGSYS - 1) & 1);
	assert_true(blocked >> (SIGTERM - 1) & 1);
	assert_true(blocked >> (SIGUSR1 - 1) & 1);
	assert_true(blocked >> (SIGRTMAX - 1) & 1);
	crew_bench_free(b);
}

static void test_they_end_wherever_they_are(void **state)
{
	const unsigned int threads = count_threads();
	unsigned int counts[SLEEPERS_MAX] = { 0 };
	struct crew_bench *b;

	(void)state;
	for (int i = 0; i < 50; i++) {
		b = crew_bench_new(4);
		assert_threads(threads + 4);
		if (i % 2)
			crew_unpark(&b->crew);
		if (i % 4 == 3)
			assert_true(crew_bench_wait_asleep(b, counts));
		crew_stop(&b->crew);
		assert_threads(threads);
		assert_true(crew_bench_is_quiet(b));
		crew_stop(&b->crew);
		crew_bench_free(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_are_parked_after_each_park),
		cmocka_unit_test(test_a_kick_before_the_call),
		cmocka_unit_test(test_a_kick_in_the_call),
		cmocka_unit_test(test_a_kick_after_the_call),
		cmocka_unit_test(test_a_kick_without_room_for_it),
		cmocka_unit_test(test_a_kick_in_the_park_marks_nothing),
		cmocka_unit_test(test_nobody_runs_while_held),
		cmocka_unit_test(test_those_that_wait_are_parked_first),
		cmocka_unit_test(test_a_visit_stops_one_alone),
		cmocka_unit_test(test_one_that_does_not_come_to_a_visit),
		cmocka_unit_test(test_one_that_does_not_park_in_time),
		cmocka_unit_test(test_a_visit_that_is_called_off_at_any_moment),
		cmocka_unit_test(test_roused_ones_stay_awake_for_a_while),
		cmocka_unit_test(test_one_wakes_up_where_it_is_told_to),
		cmocka_unit_test(test_told_too_late_where_to_wake_up),
		cmocka_unit_test(test_one_that_does_not_get_ready),
		cmocka_unit_test(test_who_starts_them_may_be_kept_elsewhere),
		cmocka_unit_test(test_their_cpuset_may_grow_later),
		cmocka_unit_test(test_cpus_of_those_that_wait_are_spare),
		cmocka_unit_test(test_threads_have_names_and_no_signals_but_the_kick),
		cmocka_unit_test(test_they_end_wherever_they_are),
	};

	return cmocka_run_group_tests_name("crew", tests, NULL, NULL);
}
