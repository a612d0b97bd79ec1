/* SPDX-License-Identifier: MIT */
/* A host that has no thread to give for a crew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "crew_bench.h"

#define SECOND 1000000000ull

/* No address space has room for a stack like that. */
static void allow_threads(bool allowed)
{
	static size_t usual;
	pthread_attr_t attr;

	assert_int_equal(pthread_attr_init(&attr), 0);
	if (!usual)
		assert_int_equal(pthread_attr_getstacksize(&attr, &usual), 0);
	assert_int_equal(pthread_attr_setstacksize(&attr, allowed ? usual : 1ul << 47), 0);
	assert_int_equal(pthread_setattr_default_np(&attr), 0);
	pthread_attr_destroy(&attr);
}

static void test_not_even_the_first_thread(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(0);
	assert_true(crew_bench_init(b, 3, &err));
	allow_threads(false);
	assert_int_equal(crew_start(&b->crew, false, &err), -EAGAIN);
	allow_threads(true);
	assert_non_null(strstr(err.text, "thread for sleeper 0"));
	crew_bench_free(b);
}

static void no_more_threads(struct crew_member *cm)
{
	(void)cm;
	allow_threads(false);
}

/* One of three, which parks and runs without the others. */
static struct crew_bench *start_one_of_three(void)
{
	struct crew_bench *b = crew_bench_new(0);
	struct error err = ERROR_INIT;

	assert_true(crew_bench_init(b, 3, &err));
	b->ops.started = no_more_threads;
	assert_int_equal(crew_start(&b->crew, false, &err), 0);
	assert_int_equal(crew_job_finish(&b->crew, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "thread for sleeper "));
	b->ops.started = NULL;
	allow_threads(true);
	for (int i = 0; i < 10; i++) {
		crew_park(&b->crew);
		crew_unpark(&b->crew);
		crew_wait_entered(&b->crew);
	}
	crew_unpark(&b->crew);
	for (int i = 0; !atomic_load(&b->sleepers[0].sleeps) && i < 10000; i++)
		usleep(1000);
	crew_park(&b->crew);
	assert_true(b->sleepers[0].sleeps > 0);
	assert_int_equal(b->sleepers[1].sleeps + b->sleepers[2].sleeps, 0);
	return b;
}

static void test_a_crew_that_lacks_threads_works_without(void **state)
{
	(void)state;
	crew_bench_free(start_one_of_three());
}

static int nice_as_found[3];

static void become_nice(struct crew_member *cm)
{
	nice_as_found[cm->id] = getpriority(PRIO_PROCESS, 0);
	setpriority(PRIO_PROCESS, 0, nice_as_found[cm->id] + 3);
}

static void test_started_by_main_they_inherit_what_is_mains(void **state)
{
	int mains = getpriority(PRIO_PROCESS, 0);
	struct error err = ERROR_INIT;
	struct crew_bench *b;

	(void)state;
	if (mains == 19) {
		print_message("# at nice value 19 nobody can become nicer\n");
		skip();
	}
	b = crew_bench_new(0);
	assert_true(crew_bench_init(b, 3, &err));
	b->ops.begun = become_nice;
	assert_int_equal(crew_start(&b->crew, true, &err), 0);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	crew_wait_parked(&b->crew);
	for (int i = 0; i < 3; i++)
		assert_int_equal(nice_as_found[i], mains);
	crew_bench_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_not_even_the_first_thread),
		cmocka_unit_test(test_a_crew_that_lacks_threads_works_without),
		cmocka_unit_test(test_started_by_main_they_inherit_what_is_mains),
	};

	log_set_fd(-1); /* "trying again": provoked here */
	return cmocka_run_group_tests_name("crew_start", tests, NULL, NULL);
}
