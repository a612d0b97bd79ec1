/* SPDX-License-Identifier: MIT */
/*
 * Mapping RAM in the background: all that is there, nothing that is not, and stopping in between.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/refault.h>

#define PAGE 4096u
#define SIZE (MEMORY_LOW_MAX + (16ull << 20)) /* two regions; only what is written is allocated */

/* Runs of pages in a predecessor's RAM: at a start, over the end of a piece, in the last page. */
static const struct {
	uint64_t gpa, pages;
} runs[] = {
	{ 0, 3 },
	{ (2 << 20) - 2 * PAGE, 5 },
	{ 64 << 20, 512 },
	{ MEMORY_LOW_MAX - PAGE, 1 },
	{ MEMORY_HIGH_BASE + 5 * PAGE, 1 },
	{ MEMORY_HIGH_BASE + (16 << 20) - PAGE, 1 },
};

static struct error err;

struct side {
	struct memory old, new;
	struct loop *loop;
	struct refault refault;
	uint64_t written;
};

static void write_runs(struct side *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++)
		for (uint64_t p = 0; p < runs[i].pages; p++) {
			uint64_t gpa = runs[i].gpa + p * PAGE;

			assert_int_equal(memory_write(&s->old, gpa, &gpa, sizeof(gpa)), 0);
			s->written += PAGE;
		}
}

static int set_up(void **state)
{
	/* Single pages are what is counted here, whatever the host does by itself. */
	const struct memory_options opt = { .thp = MEMORY_THP_OFF };
	struct side *s = calloc(1, sizeof(*s));
	struct fdtable *fds = calloc(1, sizeof(*fds));

	log_set_level(LOG_LEVEL_ERROR);
	assert_non_null(s);
	assert_non_null(fds);
	assert_int_equal(memory_create(&s->old, SIZE, &opt, NULL, &err), 0);
	write_runs(s);
	assert_int_equal(memory_save_fds(&s->old, fds, &err), 0);
	for (int i = 0; i < 2; i++)
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(memory_create(&s->new, SIZE, &opt, fds, &err), 0);
	assert_int_equal(loop_create(&s->loop, &err), 0);
	free(fds);
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	struct side *s = *state;

	refault_stop(&s->refault);
	memory_destroy(&s->old);
	memory_destroy(&s->new);
	loop_destroy(s->loop);
	free(s);
	return 0;
}

static uint64_t allocated(const struct memory *mem)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < mem->count; i++) {
		struct stat st;

		assert_int_equal(fstat(mem->regions[i].fd, &st), 0);
		sum += (uint64_t)st.st_blocks * 512;
	}
	return sum;
}

/* Whether this process has the page in its page tables: what is to be brought about. */
static bool mapped(const struct memory *mem, uint64_t gpa)
{
	uintptr_t hva = (uintptr_t)memory_ptr(mem, gpa, 1);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)(hva / PAGE * sizeof(entry))),
			 sizeof(entry));
	close(fd);
	return entry >> 63;
}

static void run_to_the_end(struct side *s)
{
	while (s->refault.wake.source.loop)
		assert_int_equal(loop_turn(s->loop, 10000), 0);
}

static void test_maps_what_is_there_and_nothing_else(void **state)
{
	struct side *s = *state;
	uint64_t before = allocated(&s->new);

	assert_false(mapped(&s->new, 64 << 20));
	assert_int_equal(refault_start(&s->refault, &s->new, s->loop, &err), 0);
	run_to_the_end(s);
	assert_true(s->refault.mapped == s->written);
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		assert_true(mapped(&s->new, runs[i].gpa));
		assert_true(mapped(&s->new, runs[i].gpa + (runs[i].pages - 1) * PAGE));
	}
	assert_false(mapped(&s->new, 32 << 20));
	assert_true(allocated(&s->new) == before);
}

static void test_changes_nothing(void **state)
{
	struct side *s = *state;

	assert_int_equal(refault_start(&s->refault, &s->new, s->loop, &err), 0);
	run_to_the_end(s);
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		uint64_t value = 1;

		assert_int_equal(memory_read(&s->new, runs[i].gpa, &value, sizeof(value)), 0);
		assert_true(value == runs[i].gpa);
	}
}

static void test_comes_in_pieces_and_can_be_stopped(void **state)
{
	struct side *s = *state;

	assert_int_equal(refault_start(&s->refault, &s->new, s->loop, &err), 0);
	assert_int_equal(loop_turn(s->loop, 10000), 0);
	assert_non_null(s->refault.wake.source.loop);
	assert_true(s->refault.mapped > 0 && s->refault.mapped < s->written);
	assert_false(mapped(&s->new, MEMORY_LOW_MAX - PAGE));
	refault_stop(&s->refault);
	refault_stop(&s->refault);
	assert_int_equal(loop_turn(s->loop, 0), 0);
	assert_false(mapped(&s->new, MEMORY_LOW_MAX - PAGE));
	/* And from the beginning. */
	assert_int_equal(refault_start(&s->refault, &s->new, s->loop, &err), 0);
	run_to_the_end(s);
	assert_true(s->refault.mapped == s->written);
}

static void test_a_reset_in_between_allocates_nothing(void **state)
{
	struct side *s = *state;

	assert_int_equal(refault_start(&s->refault, &s->new, s->loop, &err), 0);
	assert_int_equal(loop_turn(s->loop, 10000), 0);
	assert_int_equal(memory_clear(&s->new, &err), 0);
	run_to_the_end(s);
	assert_true(allocated(&s->new) == 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

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
