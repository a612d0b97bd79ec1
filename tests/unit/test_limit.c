/* SPDX-License-Identifier: MIT */
/* Limits: what a token bucket says, at any moment, to the nanosecond; and the board that it is in. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include "src/io/limit.h"

#define MS 1000000ull
#define S (1000 * MS)
#define START (77 * S)

static struct error err;
static struct io_board_view view;
static struct io_limit_rest rest[IO_BOARD_LIMITS];
static uint64_t now;

static int setup(void **state)
{
	_cleanup_close_ int fd = io_board_make(2, &err);

	(void)state;
	memset(rest, 0, sizeof(rest));
	now = START;
	return fd < 0 ? fd : io_board_map(&view, fd, 2, &err);
}

static int teardown(void **state)
{
	(void)state;
	io_board_unmap(&view);
	return 0;
}

static uint64_t take(uint64_t ops, uint64_t bytes)
{
	const uint64_t cost[IO_BOARD_LIMITS] = { [IO_BOARD_OPS] = ops, [IO_BOARD_BYTES] = bytes };

	return io_limit_take(view.board, cost, now, rest);
}

static void set(enum io_board_limited which, uint64_t rate, uint64_t burst)
{
	io_board_set_limit(view.board, which, rate, burst, now);
}

/* What goes through in a time, by whoever asks as soon as he may. */
static uint64_t through(uint64_t ns, uint64_t ops, uint64_t bytes)
{
	uint64_t end = now + ns, n = 0;

	while (now < end) {
		uint64_t wait = take(ops, bytes);

		n += !wait;
		now += wait;
	}
	return n;
}

static void test_none(void **state)
{
	(void)state;
	for (int i = 0; i < 100000; i++)
		assert_int_equal(take(1, UINT32_MAX), 0);
}

static void test_burst_then_rate(void **state)
{
	(void)state;
	set(IO_BOARD_OPS, 100, 5);
	for (int i = 0; i < 5; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), 10 * MS);
	now += 10 * MS - 1;
	assert_int_equal(take(1, 0), 1);
	now++;
	assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), 10 * MS);
	now += 3600 * S; /* full again, and no fuller */
	for (int i = 0; i < 5; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), 10 * MS);
}

/* A refusal takes nothing, of neither. */
static void test_both(void **state)
{
	(void)state;
	set(IO_BOARD_OPS, 1000, 100);
	set(IO_BOARD_BYTES, 4096, 4096);
	assert_int_equal(take(1, 4096), 0);
	for (int i = 0; i < 200; i++)
		assert_int_equal(take(1, 4096), S);
	assert_int_equal(take(1, 2048), S / 2);
	for (int i = 0; i < 99; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), MS);
}

static void test_more_than_the_burst(void **state)
{
	(void)state;
	set(IO_BOARD_BYTES, 1 << 20, 64 << 10);
	assert_int_equal(take(1, 1 << 20), 0); /* the bucket is full */
	assert_int_equal(take(1, 512), S - S / 16 + S / 2048);
	now += S;
	assert_int_equal(take(1, 1 << 20), 0);
	now += S - 1;
	assert_int_equal(take(1, 1 << 20), 1);
}

/* No rate is off by more than a request, however it divides. */
static void test_exact(void **state)
{
	static const uint64_t rates[] = { 1, 3, 7, 1000, 44100, 999983, 123456789, 10ull << 30 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
		uint64_t cost = rates[i] / 5000 + 1, n;

		set(IO_BOARD_BYTES, 0, 0);
		set(IO_BOARD_BYTES, rates[i], cost);
		memset(rest, 0, sizeof(rest));
		n = through(7 * S, 0, cost) * cost;
		assert_in_range(n, 7 * rates[i] - cost, 7 * rates[i] + 2 * cost);
	}
}

/* The level goes over: what was used is used. */
static void test_change(void **state)
{
	(void)state;
	set(IO_BOARD_OPS, 100, 100);
	for (int i = 0; i < 100; i++)
		assert_int_equal(take(1, 0), 0);
	set(IO_BOARD_OPS, 1000, 100);
	assert_int_equal(take(1, 0), MS);
	set(IO_BOARD_OPS, 1000, 150);
	for (int i = 0; i < 50; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), MS);
	set(IO_BOARD_OPS, 10, 10); /* a debt is no larger than the new bucket */
	assert_int_equal(take(1, 0), 100 * MS);
	set(IO_BOARD_OPS, 0, 0);
	assert_int_equal(take(1, 0), 0);
	set(IO_BOARD_OPS, 50, 0); /* a tenth of a second's worth */
	for (int i = 0; i < 5; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), 20 * MS);
	assert_int_equal(io_board_get_limit(view.board, IO_BOARD_OPS).burst, 5);
}

/* Fifteen hours to fill: all of it is there at once, and goes over to another process. */
static void test_burst_of_hours(void **state)
{
	(void)state;
	set(IO_BOARD_OPS, 100, 5400000);
	for (int i = 0; i < 5400000; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), 10 * MS);
	io_limit_repair(view.board, now);
	assert_int_equal(take(1, 0), 10 * MS);
	now += 53999 * S;
	for (int i = 0; i < 5399900; i++)
		assert_int_equal(take(1, 0), 0);
	assert_int_equal(take(1, 0), 10 * MS);
}

/* A bucket that is empty fills at the rate, however long its burst takes at a new one. */
static void test_change_to_hours(void **state)
{
	(void)state;
	set(IO_BOARD_BYTES, 100000000, 10000000000);
	for (int i = 0; i < 5; i++)
		assert_int_equal(take(1, 2000000000), 0);
	set(IO_BOARD_BYTES, 1000000, 10000000000);
	assert_int_equal(take(1, 100000), 100 * MS);
	io_limit_repair(view.board, now);
	assert_int_equal(take(1, 100000), 100 * MS);
}

static void test_nonsense_in_the_board(void **state)
{
	(void)state;
	set(IO_BOARD_OPS, 1, 1);
	view.board->limits[IO_BOARD_OPS].busy_ns = UINT64_MAX;
	io_limit_repair(view.board, now);
	assert_int_equal(take(1, 0), 0);
	view.board->limits[IO_BOARD_OPS] = (struct io_board_limit){ 0, 0, UINT64_MAX };
	io_limit_repair(view.board, now);
	assert_int_equal(take(1, 0), 0);
	view.board->limits[IO_BOARD_OPS] = (struct io_board_limit){ UINT64_MAX, UINT64_MAX, 0 };
	assert_int_equal(take(1, 0), 0);
	view.board->limits[IO_BOARD_OPS] = (struct io_board_limit){ 1, 0, now + 5 * S };
	assert_int_equal(take(1, 0), 5 * S);
	view.board->limits_seq = 1; /* for ever: a writer was killed */
	assert_int_equal(take(1, 0), 5 * S);
	set(IO_BOARD_OPS, 1, 1);
	assert_int_equal(view.board->limits_seq, 2);
}

static void test_buckets(void **state)
{
	(void)state;
	assert_int_equal(io_board_bucket(0), 0);
	assert_int_equal(io_board_bucket(1023), 0);
	assert_int_equal(io_board_bucket(UINT64_MAX), IO_BOARD_BUCKETS - 1);
	for (unsigned int i = 1; i < IO_BOARD_BUCKETS; i++) {
		assert_int_equal(io_board_bucket(io_board_bucket_ns(i)), i);
		assert_int_equal(io_board_bucket(io_board_bucket_ns(i) - 1), i - 1);
	}
	assert_in_range(io_board_bucket_ns(IO_BOARD_BUCKETS - 1), 8 * S, 9 * S);
}

static void test_board(void **state)
{
	_cleanup_close_ int fd = io_board_make(2, &err);
	_cleanup_close_ int other = fd_memfd("other", 0);
	struct io_board_view v;

	(void)state;
	assert_int_equal(io_board_map(&v, fd, 3, &err), -EINVAL);
	assert_int_equal(io_board_map(&v, other, 1, &err), -EINVAL);
	assert_int_equal(io_board_map(&v, fd, 2, &err), 0);
	io_board_add(&io_board_queue(&v, 1)->held, 7);
	assert_int_equal(io_board_read(&io_board_queue(&v, 1)->held), 7);
	/* Whoever shares the board cannot move what this side has mapped. */
	v.board->queue_size = 1 << 30;
	assert_int_equal(io_board_read(&io_board_queue(&v, 1)->held), 7);
	io_board_unmap(&v);
	assert_int_equal(ftruncate(fd, 0), -1);
}

/* All the time, perhaps: whoever maps it next does not ask it where it is of the size it has
 * itself. */
static void test_spoilt_board(void **state)
{
	_cleanup_close_ int fd = io_board_make(3, &err);
	struct io_board_view v, again;

	(void)state;
	assert_int_equal(io_board_map(&v, fd, 3, &err), 0);
	io_board_add(&io_board_queue(&v, 2)->held, 7);
	memset(v.board, 0xff, offsetof(struct io_board, limits_seq));
	assert_int_equal(io_board_map(&again, fd, 3, &err), 0);
	assert_int_equal(io_board_read(&io_board_queue(&again, 2)->held), 7);
	io_board_unmap(&again);
	assert_int_equal(io_board_map(&again, fd, 2, &err), -EINVAL);
	v.board->magic = IO_BOARD_MAGIC;
	v.board->size = v.size;
	v.board->header_size = v.header_size;
	v.board->nqueues = v.nqueues;
	v.board->queue_size = 1 << 30;
	assert_int_equal(io_board_map(&again, fd, 2, &err), -EINVAL);
	io_board_unmap(&v);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_none),
		TEST(test_burst_then_rate),
		TEST(test_both),
		TEST(test_exact),
		TEST(test_more_than_the_burst),
		TEST(test_change),
		TEST(test_buckets),
		TEST(test_nonsense_in_the_board),
		TEST(test_board),
		TEST(test_spoilt_board),
		TEST(test_burst_of_hours),
		TEST(test_change_to_hours),
	};

	return cmocka_run_group_tests_name("limit", tests, NULL, NULL);
}
