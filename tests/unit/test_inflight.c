/* SPDX-License-Identifier: MIT */
/*
 * The inflight table, written by a process that is stopped after each of its instructions: what
 * another one would find then is exactly what was taken and not given back, in order.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include "src/io/inflight.h"

#define SIZE 16
#define STEPS_MAX 100000

static struct error err;

/* What the writer and the one who looks at it share, beside the table. */
struct shared {
	uint16_t used_idx;    /* the used ring's */
	uint16_t used[SIZE];  /* its entries */
	uint16_t avail_idx;   /* heads that were ever made available */
	uint16_t avail[SIZE]; /* in order */
};

static struct shared *shared;
static struct io_inflight_table table;
static int table_fd;

static int setup(void **state)
{
	(void)state;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	table_fd = io_inflight_make(2, SIZE, &err);
	return table_fd < 0 ? table_fd
			    : io_inflight_map(&table, table_fd, io_inflight_size(2, SIZE), 0, 2,
					      SIZE, &err);
}

static int teardown(void **state)
{
	(void)state;
	io_inflight_unmap(&table);
	close(table_fd);
	munmap(shared, sizeof(*shared));
	return 0;
}

/* A driver and a device: the device's calls are what is stepped through. */
static void offer(uint16_t head)
{
	shared->avail[shared->avail_idx % SIZE] = head;
	__atomic_store_n(&shared->avail_idx, shared->avail_idx + 1, __ATOMIC_RELEASE);
}

static void give_back(struct io_inflight *in, const uint16_t *heads, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++) {
		shared->used[(shared->used_idx + i) % SIZE] = heads[i];
		io_inflight_put(in, heads[i]);
	}
	__atomic_store_n(&shared->used_idx, shared->used_idx + n, __ATOMIC_RELEASE);
	io_inflight_flushed(in, shared->used_idx);
}

static void writer(struct io_inflight *in)
{
	static const uint16_t first[] = { 4, 2, 9 }, second[] = { 7 }, third[] = { 9, 3, 4 };

	for (int i = 0; i < 3; i++) {
		offer(first[i]);
		io_inflight_take(in, first[i]);
	}
	offer(7);
	io_inflight_take(in, 7);
	give_back(in, first + 1, 2);
	offer(9);
	io_inflight_take(in, 9);
	give_back(in, second, 1);
	offer(3);
	io_inflight_take(in, 3);
	give_back(in, third, 3);
	offer(2);
	io_inflight_take(in, 2);
	io_inflight_untake(in, 2); /* held by a limit, put back */
	io_inflight_take(in, 2);
	give_back(in, first + 1, 1);
}

static bool was_given_back(uint16_t n, uint16_t head)
{
	/* Of each head as often as it was made available before. */
	int made = 0, given = 0;

	for (uint16_t i = 0; i <= n; i++)
		made += shared->avail[i % SIZE] == head;
	for (uint16_t i = 0; i < shared->used_idx; i++)
		given += shared->used[i % SIZE] == head;
	return given >= made;
}

/*
 * Looked at through copies, for the writer goes on. The last that was made available may not have
 * been taken yet: it is then where the available ring is read on from.
 */
static int check(const void *copy)
{
	struct io_inflight_table t = table;
	struct io_inflight in;
	uint16_t heads[SIZE], at = 0;
	int n;

	t.addr = (void *)(uintptr_t)copy;
	n = io_inflight_recover(&in, &t, 1, SIZE, shared->used_idx, heads);
	if (n < 0)
		return 0;
	for (uint16_t i = 0; i < (uint16_t)(shared->used_idx + n); i++) {
		if (was_given_back(i, shared->avail[i % SIZE]))
			continue;
		if (at == n || heads[at++] != shared->avail[i % SIZE])
			return -1;
	}
	if (at != n || shared->used_idx + n > shared->avail_idx ||
	    shared->used_idx + n < shared->avail_idx - 1)
		return -1;
	return n + 1;
}

static void step_through(pid_t child, unsigned int *steps, unsigned int *seen)
{
	_cleanup_free_ char *copy = malloc(table.size);
	int status;

	assert_non_null(copy);
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		int n;

		memcpy(copy, table.addr, table.size);
		n = check(copy);
		if (n < 0) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			fail_msg("after %u instructions", *steps);
		}
		*seen |= 1u << n;
		(*steps)++;
		assert_true(*steps < STEPS_MAX);
		ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
	}
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_every_instruction(void **state)
{
	unsigned int steps = 0, seen = 0;
	struct io_inflight in;
	uint16_t heads[SIZE];
	pid_t child;

	(void)state;
	assert_int_equal(io_inflight_recover(&in, &table, 1, SIZE, 0, heads), -ENOENT);
	io_inflight_reset(&in, 0);
	child = fork();
	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(77);
		raise(SIGSTOP);
		writer(&in);
		_exit(0);
	}
	step_through(child, &steps, &seen);
	assert_true(steps > 300);
	assert_int_equal(seen, 1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5);
	assert_int_equal(shared->used_idx, 7);
	/* In good order, and nothing is known of the other queue. */
	assert_int_equal(io_inflight_recover(&in, &table, 1, SIZE, shared->used_idx, heads), 0);
	assert_int_equal(io_inflight_recover(&in, &table, 0, SIZE, 0, heads), -ENOENT);
}

/* Order is by when they were taken, over any number of processes. */
static void test_order(void **state)
{
	static const uint16_t taken[] = { 5, 1, 15, 0, 8 };
	struct io_inflight in;
	uint16_t heads[SIZE];

	(void)state;
	io_inflight_recover(&in, &table, 0, SIZE, 0, heads);
	io_inflight_reset(&in, 0);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++) {
		io_inflight_take(&in, taken[i]);
		assert_int_equal(io_inflight_recover(&in, &table, 0, SIZE, 0, heads), (int)i + 1);
		assert_memory_equal(heads, taken, (i + 1) * sizeof(*taken));
	}
	io_inflight_forget(&in);
	assert_int_equal(io_inflight_recover(&in, &table, 0, SIZE, 0, heads), -ENOENT);
}

/* Whoever shares the table may write anything into it: nothing is read outside of it, and it ends. */
static void test_nonsense(void **state)
{
	struct io_inflight_region *r = table.addr;
	struct io_inflight in;
	uint16_t heads[SIZE];

	(void)state;
	memset(table.addr, 0xff, table.size);
	assert_int_equal(io_inflight_recover(&in, &table, 0, SIZE, 0, heads), -ENOENT);
	r->version = 1;
	assert_int_equal(io_inflight_recover(&in, &table, 0, SIZE, 0, heads), SIZE);
	r->last_batch_head = 3;
	r->used_idx = 0;
	r->states[3].next = 3;
	assert_int_equal(io_inflight_recover(&in, &table, 0, SIZE, 60000, heads), SIZE - 1);
	assert_int_equal(io_inflight_recover(&in, &table, 2, SIZE, 0, heads), -ENOENT);
	assert_int_equal(io_inflight_recover(&in, &table, 0, 2 * SIZE, 0, heads), -ENOENT);
}

static void test_refuses(void **state)
{
	size_t size = io_inflight_size(2, SIZE);
	_cleanup_close_ int open_ended = fd_memfd("unsealed", 0);
	struct io_inflight_table t;

	(void)state;
	assert_int_equal(io_inflight_map(&t, table_fd, size + 64, 0, 2, SIZE, &err), -EINVAL);
	assert_int_equal(io_inflight_map(&t, table_fd, size, 4096, 2, SIZE, &err), -EINVAL);
	assert_int_equal(io_inflight_map(&t, table_fd, size, 64, 2, SIZE, &err), -EINVAL);
	assert_int_equal(io_inflight_map(&t, table_fd, size, UINT64_MAX - 4095, 2, SIZE, &err),
			 -EINVAL);
	assert_int_equal(ftruncate(open_ended, 65536), 0);
	assert_int_equal(io_inflight_map(&t, open_ended, size, 0, 2, SIZE, &err), -EINVAL);
	assert_int_equal(io_inflight_map(&t, -1, size, 0, 2, SIZE, &err), -EINVAL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_every_instruction),
		TEST(test_order),
		TEST(test_nonsense),
		TEST(test_refuses),
	};

	return cmocka_run_group_tests_name("inflight", tests, NULL, NULL);
}
