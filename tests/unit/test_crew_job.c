/* SPDX-License-Identifier: MIT */
/* Work that main and the parked members of a crew share. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "crew_bench.h"

#define ITEMS_MAX 64

struct tally {
	_Atomic unsigned int done[ITEMS_MAX];
	_Atomic unsigned int elsewhere; /* not on main's thread */
	_Atomic int64_t last;
	_Atomic bool disordered;
	pthread_t main;
	uint32_t failing; /* from this item on */
};

static int count_item(void *opaque, uint32_t item, struct error *err)
{
	struct tally *t = opaque;

	atomic_fetch_add(&t->done[item % ITEMS_MAX], 1);
	if (!pthread_equal(pthread_self(), t->main))
		atomic_fetch_add(&t->elsewhere, 1);
	if (atomic_exchange(&t->last, item) >= (int64_t)item)
		atomic_store(&t->disordered, true);
	return item >= t->failing ? err_set(err, EIO, "item %u", item) : 0;
}

static void prepare(struct tally *t)
{
	memset(t, 0, sizeof(*t));
	t->last = -1;
	t->main = pthread_self();
	t->failing = ITEMS_MAX;
}

static void assert_each_once(const struct tally *t, uint32_t count)
{
	for (uint32_t i = 0; i < ITEMS_MAX; i++)
		assert_int_equal(t->done[i], i < count ? 1 : 0);
}

static void test_each_item_is_done_once(void **state)
{
	static const uint32_t items[] = { 1, 2, 3, 7, ITEMS_MAX };
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct tally t;

	(void)state;
	for (uint32_t members = 1; members <= 5; members += 2) {
		b = crew_bench_new(members);
		for (unsigned int i = 0; i < 100; i++) {
			uint32_t count = items[i % ARRAY_SIZE(items)];

			crew_keep_awake(&b->crew, i / 20 % 2);
			prepare(&t);
			crew_job_start(&b->crew, count_item, &t);
			for (uint32_t n = 0; i % 3 == 0 && n < count; n++)
				crew_job_offer(&b->crew, 1);
			if (i % 3)
				crew_job_offer(&b->crew, count);
			assert_int_equal(crew_job_finish(&b->crew, &err), 0);
			assert_each_once(&t, count);
		}
		crew_bench_free(b);
	}
}

static void test_a_job_with_no_items(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct tally t;

	(void)state;
	b = crew_bench_new(2);
	prepare(&t);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	crew_job_start(&b->crew, count_item, &t);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	crew_job_start(&b->crew, count_item, &t);
	crew_job_offer(&b->crew, 0);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	assert_each_once(&t, 0);
	crew_bench_free(b);
}

static void test_main_and_all_members_take_part(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;

	(void)state;
	b = crew_bench_new(4);
	b->crew.host_cpus = 5;
	for (int i = 0; i < 20; i++) {
		struct together t = { .wanted = 5 };

		crew_job_start(&b->crew, crew_bench_together, &t);
		crew_job_offer(&b->crew, 5);
		assert_int_equal(crew_job_finish(&b->crew, &err), 0);
		assert_int_equal(t.late, 0);
	}
	crew_bench_free(b);
}

static void test_who_is_confined_helps_with_what_reads(void **state)
{
	struct together reads = { .wanted = 3 };
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct tally t;

	(void)state;
	b = crew_bench_new(2);
	b->crew.host_cpus = 3;
	b->crew.members[0].confined = b->crew.members[1].confined = true;
	for (int i = 0; i < 20; i++) {
		prepare(&t);
		crew_job_start(&b->crew, count_item, &t);
		crew_job_offer(&b->crew, ITEMS_MAX);
		usleep(200);
		assert_int_equal(crew_job_finish(&b->crew, &err), 0);
		assert_each_once(&t, ITEMS_MAX);
		assert_int_equal(t.elsewhere, 0);
	}
	assert_int_equal(crew_job_read(&b->crew, 3, crew_bench_together, &reads, &err), 0);
	assert_int_equal(reads.late, 0);
	/* The only item is not worth waking anybody. */
	prepare(&t);
	assert_int_equal(crew_job_read(&b->crew, 1, count_item, &t, &err), 0);
	assert_each_once(&t, 1);
	assert_int_equal(t.elsewhere, 0);
	crew_bench_free(b);
}

static void test_with_one_cpu_main_does_all_in_order(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct tally t;

	(void)state;
	b = crew_bench_new(3);
	usleep(20000); /* all of them sleep */
	b->crew.host_cpus = 1;
	prepare(&t);
	assert_int_equal(crew_job_read(&b->crew, ITEMS_MAX, count_item, &t, &err), 0);
	assert_each_once(&t, ITEMS_MAX);
	assert_false(t.disordered);
	assert_int_equal(t.elsewhere, 0);
	crew_bench_free(b);
}

static void test_the_first_failure_is_told_once(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct tally t;

	(void)state;
	b = crew_bench_new(3);
	prepare(&t);
	t.failing = 20;
	b->crew.host_cpus = 1;
	assert_int_equal(crew_job_read(&b->crew, ITEMS_MAX, count_item, &t, &err), -EIO);
	assert_string_equal(err.text, "item 20");
	assert_each_once(&t, ITEMS_MAX);
	assert_int_equal(crew_job_finish(&b->crew, &err), 0);
	/* Nobody has to listen. */
	prepare(&t);
	t.failing = 0;
	crew_job_start(&b->crew, count_item, &t);
	crew_job_offer(&b->crew, 4);
	assert_int_equal(crew_job_finish(&b->crew, NULL), -EIO);
	crew_bench_free(b);
}

/* The host's CPUs are somebody else's. */
static void test_main_is_left_alone(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_bench *b;
	struct tally t;

	(void)state;
	b = crew_bench_new(3);
	crew_leave_main_alone(&b->crew, true);
	for (int i = 0; i < 20; i++) {
		crew_keep_awake(&b->crew, i % 2);
		prepare(&t);
		assert_int_equal(crew_job(&b->crew, 20, count_item, &t, &err), 0);
		assert_each_once(&t, 20);
		assert_int_equal(t.elsewhere, 0);
	}
	crew_bench_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_item_is_done_once),
		cmocka_unit_test(test_a_job_with_no_items),
		cmocka_unit_test(test_main_and_all_members_take_part),
		cmocka_unit_test(test_who_is_confined_helps_with_what_reads),
		cmocka_unit_test(test_with_one_cpu_main_does_all_in_order),
		cmocka_unit_test(test_the_first_failure_is_told_once),
		cmocka_unit_test(test_main_is_left_alone),
	};

	return cmocka_run_group_tests_name("crew_job", tests, NULL, NULL);
}
