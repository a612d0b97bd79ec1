/* SPDX-License-Identifier: MIT */
/* The thread that writes: what its owner may count on where it does not get round to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/writer.h>

#define WAIT_MS 10

/* Pieces of one byte each; counts them. */
struct owner {
	struct writer writer;
	unsigned int left, written;
	int pipe[2];
	int size; /* of the pipe, in bytes */
	char buf[65536];
};

static size_t next(void *opaque, const void **piece, int *fd, unsigned int *again_ms)
{
	struct owner *o = opaque;

	(void)again_ms;
	*piece = "x";
	*fd = o->pipe[1];
	return o->left ? 1 : 0;
}

static void written(void *opaque, ssize_t result)
{
	struct owner *o = opaque;

	assert_int_equal(result, 1);
	o->left--;
	o->written++;
}

static const struct writer_ops ops = { .thread_name = "test", .next = next, .written = written };

static int setup(void **state)
{
	struct owner *o = calloc(1, sizeof(*o));
	struct error err = ERROR_INIT;

	assert_int_equal(pipe2(o->pipe, O_CLOEXEC), 0);
	writer_init(&o->writer, &ops, o);
	assert_int_equal(writer_start(&o->writer, &err), 0);
	assert_true(writer_wait(&o->writer, 10000));
	*state = o;
	return 0;
}

static int teardown(void **state)
{
	struct owner *o = *state;

	writer_release(&o->writer);
	assert_true(writer_stop(&o->writer, 10000));
	close(o->pipe[0]);
	close(o->pipe[1]);
	free(o);
	return 0;
}

/* As on a busy host, where the thread does not get a CPU in time. */
static void have_it_wait(struct owner *o, unsigned int pieces)
{
	assert_true(writer_hold(&o->writer, 10000));
	o->left = pieces;
	writer_kick(&o->writer);
	assert_false(writer_wait(&o->writer, WAIT_MS));
	assert_int_equal(o->written, 0);
}

static void fill_pipe(struct owner *o)
{
	o->size = fcntl(o->pipe[1], F_SETPIPE_SZ, 4096);
	assert_true(o->size > 0 && o->size <= (int)sizeof(o->buf));
	memset(o->buf, 0, sizeof(o->buf));
	assert_int_equal(write(o->pipe[1], o->buf, (size_t)o->size), o->size);
}

static void empty_pipe(struct owner *o)
{
	assert_int_equal(read(o->pipe[0], o->buf, sizeof(o->buf)), o->size);
}

/* The thread is in its write, for want of room. */
static void have_it_write(struct owner *o, unsigned int pieces)
{
	fill_pipe(o);
	o->left = pieces;
	writer_kick(&o->writer);
	assert_false(writer_wait(&o->writer, WAIT_MS));
}

static void what_is_left_is_written_by_the_caller(void **state)
{
	struct owner *o = *state;
	char buf[8];

	have_it_wait(o, 5);
	writer_finish(&o->writer);
	assert_int_equal(o->written, 5);
	assert_int_equal(read(o->pipe[0], buf, sizeof(buf)), 5);
}

static void the_caller_does_not_wait_for_room(void **state)
{
	struct owner *o = *state;

	fill_pipe(o);
	have_it_wait(o, 5);
	writer_finish(&o->writer);
	assert_int_equal(o->written, 0);
	empty_pipe(o);
	assert_true(writer_wait(&o->writer, 10000));
	assert_int_equal(o->written, 5);
}

/* It can be asked to rest, but where it has no time it goes on. */
static void one_that_cannot_rest_goes_on(void **state)
{
	struct owner *o = *state;
	struct error err = ERROR_INIT;

	have_it_write(o, 5);
	assert_false(writer_rest(&o->writer, WAIT_MS));
	empty_pipe(o);
	assert_true(writer_wait(&o->writer, 10000));
	assert_int_equal(o->written, 5);
	/* And where it has, what comes waits for the next start. */
	assert_true(writer_rest(&o->writer, 10000));
	assert_true(writer_rest(&o->writer, 0));
	o->left = 2;
	writer_kick(&o->writer);
	assert_false(writer_wait(&o->writer, WAIT_MS));
	assert_int_equal(writer_start(&o->writer, &err), 0);
	assert_true(writer_wait(&o->writer, 10000));
	assert_int_equal(o->written, 7);
}

/* One that an exec is to end takes no lock that would stay locked: it does not get that far. */
static void one_that_is_frozen_goes_no_further(void **state)
{
	struct owner *o = *state;
	struct error err = ERROR_INIT;

	have_it_write(o, 5);
	writer_freeze(&o->writer);
	empty_pipe(o);
	assert_int_equal(read(o->pipe[0], o->buf, sizeof(o->buf)), 1);
	assert_false(writer_wait(&o->writer, WAIT_MS));
	assert_int_equal(o->written, 0);
	assert_int_equal(writer_start(&o->writer, &err), 0);
	assert_true(writer_wait(&o->writer, 10000));
	assert_int_equal(o->written, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_left_is_written_by_the_caller, setup,
						teardown),
		cmocka_unit_test_setup_teardown(the_caller_does_not_wait_for_room, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_cannot_rest_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_is_frozen_goes_no_further, setup, teardown),
	};

	return cmocka_run_group_tests_name("writer", tests, NULL, NULL);
}
