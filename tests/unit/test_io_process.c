/* SPDX-License-Identifier: MIT */
/* Whose I/O process it is: one that serves another process's guest is not ended. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "../../src/virtio/io_process.h"

#define END_MS 200

struct fixture {
	struct loop *loop;
	struct io_process process;
	pid_t pid;
};

/* As a disk's, that came with an update. */
static int setup(void **state)
{
	static struct fixture f;
	struct error err;

	assert_int_equal(loop_create(&f.loop, &err), 0);
	io_process_init(&f.process, f.loop, "d");
	f.pid = fork();
	if (f.pid == 0)
		for (;;)
			pause();
	f.process.child.pid = f.pid;
	assert_true(child_hold(&f.process.child));
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
	loop_destroy(f->loop);
	return 0;
}

static void test_one_that_another_guest_process_has_goes_on(void **state)
{
	struct fixture *f = *state;

	io_process_end(&f->process, END_MS);
	assert_int_equal(f->process.child.pid, 0);
	assert_int_equal(f->process.child.fd, -1);
	assert_int_equal(waitpid(f->pid, NULL, WNOHANG), 0);
}

static void test_one_that_is_watched_is_ended(void **state)
{
	struct fixture *f = *state;

	io_process_watch(&f->process);
	io_process_end(&f->process, END_MS);
	assert_int_equal(f->process.child.pid, 0);
	assert_int_equal(kill(f->pid, 0), -1);
}

static char *arguments(void *opaque, int socket, int *fds, size_t *nfds)
{
	(void)opaque;
	(void)socket;
	(void)fds;
	(void)nfds;
	return strdup("");
}

static void started(void *opaque, int socket)
{
	(void)opaque;
	close(socket);
}

/* An update waits for it before its pause, and not for ever; nobody does in the pause. */
static void test_one_that_is_leaving(void **state)
{
	struct fixture *f = *state;
	struct error err;
	uint64_t since;
	pid_t ended = 0;

	f->process.arguments = arguments;
	f->process.started = started;
	assert_false(io_process_leaves(&f->process));
	assert_int_equal(io_process_replace(&f->process, &err), 0);
	assert_true(io_process_leaves(&f->process));
	f->process.leave_by_ns = now_ns();
	assert_false(io_process_leaves(&f->process));
	since = now_ns();
	io_process_unwatch(&f->process);
	assert_in_range(now_ns() - since, 0, 80000000);
	io_process_end(&f->process, END_MS);
	for (int i = 0; i < 500 && !ended; i++) {
		ended = waitpid(f->pid, NULL, WNOHANG);
		usleep(10000);
	}
	assert_int_equal(ended, f->pid); /* killed then, and nobody's */
}

static void turn_until_it_has_ended(struct fixture *f)
{
	uint64_t until = now_ns() + 10000000000ull;

	while (kill(f->pid, 0) == 0) {
		assert_true(now_ns() < until);
		assert_true(loop_turn(f->loop, 10) >= 0);
	}
}

/* Its socket is closed, and it has guest RAM and the disk for as long as it is there. */
static void test_one_that_does_not_leave_is_killed(void **state)
{
	struct fixture *f = *state;
	struct error err;

	f->process.arguments = arguments;
	f->process.started = started;
	assert_int_equal(io_process_replace(&f->process, &err), 0);
	turn_until_it_has_ended(f);
	assert_int_equal(f->process.leaving.pid, 0);
	io_process_end(&f->process, END_MS);
}

/* No other is started before it has ended. */
static void test_one_that_does_not_end_without_its_connection_is_killed(void **state)
{
	struct fixture *f = *state;

	f->process.arguments = arguments;
	f->process.started = started;
	io_process_watch(&f->process);
	io_process_lost(&f->process);
	turn_until_it_has_ended(f);
	while (!f->process.child.pid)
		assert_true(loop_turn(f->loop, 10) >= 0);
	assert_int_not_equal(f->process.child.pid, f->pid);
	io_process_end(&f->process, END_MS);
}

static char *arguments_of_no_use(void *opaque, int socket, int *fds, size_t *nfds)
{
	fds[(*nfds)++] = 1000000; /* which nobody has open */
	return arguments(opaque, socket, NULL, NULL);
}

static unsigned int open_descriptors(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* What could not be executed ends a moment after its parent has heard of that. */
static void test_one_that_could_not_take_its_place_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	struct error err;
	unsigned int before = open_descriptors();

	f->process.arguments = arguments_of_no_use;
	f->process.started = started;
	for (int i = 0; i < 20; i++)
		assert_int_equal(io_process_replace(&f->process, &err), -EBADF);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(f->process.child.pid, f->pid);
	usleep(50000);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), 0); /* that one alone */
	io_process_end(&f->process, END_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_that_another_guest_process_has_goes_on,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_is_watched_is_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_is_leaving, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_does_not_leave_is_killed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			test_one_that_does_not_end_without_its_connection_is_killed, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			test_one_that_could_not_take_its_place_leaves_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
