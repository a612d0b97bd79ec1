/* SPDX-License-Identifier: MIT */
/*
 * Mapping RAM in the background: all that is there, nothing that is not, and stopping in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "refault_bench.h"

static struct error err;

static void run_to_the_end(struct refault_bench *s)
{
	while (s->refault.turn.loop)
		assert_int_equal(loop_turn(s->loop, 10000), 0);
}

static void test_maps_what_is_there_and_nothing_else(void **state)
{
	struct refault_bench *s = *state;
	uint64_t before = refault_allocated(&s->new);

	assert_false(refault_is_mapped(&s->new, 64 << 20));
	refault_start(&s->refault, &s->new, s->loop);
	run_to_the_end(s);
	assert_true(s->refault.mapped == s->written);
	for (size_t i = 0; i < REFAULT_RUNS; i++) {
		assert_true(refault_is_mapped(&s->new, refault_runs[i].gpa));
		assert_true(refault_is_mapped(&s->new, refault_runs[i].gpa +
							       (refault_runs[i].pages - 1) * PAGE));
	}
	assert_false(refault_is_mapped(&s->new, 32 << 20));
	assert_true(refault_allocated(&s->new) == before);
}

static void test_changes_nothing(void **state)
{
	struct refault_bench *s = *state;

	refault_start(&s->refault, &s->new, s->loop);
	run_to_the_end(s);
	for (size_t i = 0; i < REFAULT_RUNS; i++) {
		uint64_t value = 1;

		assert_int_equal(memory_read(&s->new, refault_runs[i].gpa, &value, sizeof(value)),
				 0);
		assert_true(value == refault_runs[i].gpa);
	}
}

static void test_comes_in_pieces_and_can_be_stopped(void **state)
{
	struct refault_bench *s = *state;

	refault_start(&s->refault, &s->new, s->loop);
	assert_int_equal(loop_turn(s->loop, 10000), 0);
	assert_non_null(s->refault.turn.loop);
	assert_true(s->refault.mapped > 0 && s->refault.mapped < s->written);
	assert_false(refault_is_mapped(&s->new, MEMORY_LOW_MAX - PAGE));
	refault_stop(&s->refault);
	refault_stop(&s->refault);
	assert_int_equal(loop_turn(s->loop, 0), 0);
	assert_false(refault_is_mapped(&s->new, MEMORY_LOW_MAX - PAGE));
	/* And from the beginning. */
	refault_start(&s->refault, &s->new, s->loop);
	run_to_the_end(s);
	assert_true(s->refault.mapped == s->written);
}

static void test_a_reset_in_between_allocates_nothing(void **state)
{
	struct refault_bench *s = *state;

	refault_start(&s->refault, &s->new, s->loop);
	assert_int_equal(loop_turn(s->loop, 10000), 0);
	assert_int_equal(memory_clear(&s->new, &err), 0);
	run_to_the_end(s);
	assert_true(refault_allocated(&s->new) == 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, refault_set_up, refault_tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_maps_what_is_there_and_nothing_else),
		CASE(test_changes_nothing),
		CASE(test_comes_in_pieces_and_can_be_stopped),
		CASE(test_a_reset_in_between_allocates_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
