/* SPDX-License-Identifier: MIT */
/*
 * Whose I/O process it is: one that serves another process's guest is not ended. And who takes its
 * place: only a process that has shown that it lives. What is started is this program, which
 * pretend() makes one of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "../../src/virtio/io_process.h"

#define END_MS 200

#define OFFERED 0x5000

enum { DIES, HANGS, ANSWERS, ANSWERS_AND_DIES, TALKS, OFFERS_LESS };

struct fixture {
	struct loop *loop;
	struct io_process process;
	pid_t pid;
	int role; /* of those that are started */
	int socket;
	unsigned int started;
	unsigned int prepared;
};

static void answer(int socket, uint64_t features)
{
	struct vhost_user_conn c;
	struct vhost_user_message msg, reply;
	struct error err;

	vhost_user_conn_init(&c, VHOST_USER_BACK_END, socket);
	while (vhost_user_receive(&c, &msg, &err) == 0)
		usleep(1000);
	reply = vhost_user_reply_u64(&msg, features);
	vhost_user_send(&c, &reply);
}

/* As `molt io --log-level L --disk ROLE:SOCKET`, before main(). */
__attribute__((constructor)) static void pretend(int argc, char **argv)
{
	char byte;
	int role, socket;

	if (argc != 6 || strcmp(argv[1], "io") != 0 ||
	    sscanf(argv[5], "%d:%d", &role, &socket) != 2)
		return;
	if (role >= ANSWERS)
		answer(socket, role == OFFERS_LESS ? OFFERED / 4 : OFFERED);
	if (role == TALKS && write(socket, &role, sizeof(role)) < 0)
		_exit(1);
	while (role != DIES && role != ANSWERS_AND_DIES)
		if (recv(socket, &byte, 1, 0) == 0 && role != HANGS)
			break;
	_exit(0);
}

static char *arguments(void *opaque, int socket, int *fds, size_t *nfds)
{
	const struct fixture *f = opaque;
	char *text;

	fds[(*nfds)++] = socket;
	return asprintf(&text, "%d:%d", f->role, socket) < 0 ? NULL : text;
}

static void started(void *opaque, int socket)
{
	struct fixture *f = opaque;

	fd_close(&f->socket);
	f->socket = socket;
	f->started++;
}

static bool is_fit(void *opaque, uint64_t features)
{
	(void)opaque;
	return features == OFFERED;
}

static void prepared(void *opaque)
{
	struct fixture *f = opaque;

	f->prepared++;
}

/* As a disk's, that came with an update. */
static int setup(void **state)
{
	static struct fixture f;
	struct error err;

	f = (struct fixture){ .role = ANSWERS, .socket = -1 };
	assert_int_equal(loop_create(&f.loop, &err), 0);
	io_process_init(&f.process, f.loop, "d");
	f.process.arguments = arguments;
	f.process.started = started;
	f.process.is_fit = is_fit;
	f.process.prepared = prepared;
	f.process.opaque = &f;
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

	fd_close(&f->socket);
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

static void turn_until_there_are(struct fixture *f, const unsigned int *what, unsigned int n)
{
	uint64_t until = now_ns() + 10000000000ull;

	while (*what < n) {
		assert_true(now_ns() < until);
		assert_true(loop_turn(f->loop, 10) >= 0);
	}
}

static void replace(struct fixture *f)
{
	io_process_prepare(&f->process);
	turn_until_there_are(f, &f->prepared, 1);
	io_process_replace(&f->process);
}

/* An update waits for it before its pause, and not for ever; nobody does in the pause. */
static void test_one_that_is_leaving(void **state)
{
	struct fixture *f = *state;
	uint64_t since;
	pid_t ended = 0;

	assert_false(io_process_leaves(&f->process));
	replace(f);
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

	replace(f);
	turn_until_it_has_ended(f);
	assert_int_equal(f->process.leaving.pid, 0);
	io_process_end(&f->process, END_MS);
}

/* No other is started before it has ended. */
static void test_one_that_does_not_end_without_its_connection_is_killed(void **state)
{
	struct fixture *f = *state;

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
	char *text = arguments(opaque, socket, fds, nfds);

	fds[(*nfds)++] = 1000000; /* which nobody has open */
	return text;
}

static unsigned int open_descriptors(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* What could not be executed ends a moment after its parent has heard of that. */
static void test_one_that_could_not_be_started_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned int before = open_descriptors();

	f->process.arguments = arguments_of_no_use;
	for (int i = 0; i < 20; i++) {
		io_process_prepare(&f->process);
		assert_int_equal(f->process.next.child.pid, 0);
		assert_int_equal(f->process.next.failures, 1); /* and it is tried again */
		io_process_drop_next(&f->process);
	}
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(f->process.child.pid, f->pid);
	usleep(50000);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), 0); /* that one alone */
	io_process_end(&f->process, END_MS);
}

static void test_one_that_answers_takes_its_place(void **state)
{
	struct fixture *f = *state;
	pid_t next;

	io_process_prepare(&f->process);
	next = f->process.next.child.pid;
	assert_false(io_process_is_prepared(&f->process));
	io_process_prepare(&f->process);
	assert_int_equal(f->process.next.child.pid, next);
	turn_until_there_are(f, &f->prepared, 1);
	assert_true(io_process_is_prepared(&f->process));
	assert_int_equal(f->process.child.pid, f->pid);
	assert_int_equal(f->started, 0);
	io_process_replace(&f->process);
	assert_int_equal(f->process.child.pid, next);
	assert_int_equal(f->process.next.child.pid, 0);
	assert_int_equal(f->started, 1);
	assert_false(io_process_is_prepared(&f->process));
	fd_close(&f->socket);
	io_process_end(&f->process, END_MS);
}

static void fails_and_is_tried_again(struct fixture *f, int role)
{
	unsigned int before;

	f->role = role;
	io_process_prepare(&f->process);
	turn_until_there_are(f, &f->process.next.failures, 1);
	turn_until_there_are(f, &f->process.next.failures, 2);
	assert_int_equal(f->process.child.pid, f->pid);
	assert_int_equal(f->started, 0);
	assert_false(io_process_is_prepared(&f->process));
	f->role = ANSWERS;
	before = f->prepared;
	turn_until_there_are(f, &f->prepared, before + 1);
	io_process_replace(&f->process);
	assert_int_equal(f->started, 1);
	assert_int_equal(f->process.next.failures, 0);
	fd_close(&f->socket);
	io_process_end(&f->process, END_MS);
}

/* The new binary's process is no good: the guest has its disk by the one of the binary before. */
static void test_one_that_dies_is_not_taken(void **state)
{
	fails_and_is_tried_again(*state, DIES);
}

/* Between its answer and the old one's last queue. */
static void test_one_that_dies_after_its_answer_is_not_taken(void **state)
{
	fails_and_is_tried_again(*state, ANSWERS_AND_DIES);
}

static void test_one_that_says_more_than_it_was_asked_is_not_taken(void **state)
{
	fails_and_is_tried_again(*state, TALKS);
}

static void test_one_that_offers_less_is_not_taken(void **state)
{
	fails_and_is_tried_again(*state, OFFERS_LESS);
}

/* An update comes meanwhile: it is killed, waited for, and there is no other. */
static void test_one_that_hangs_can_be_dropped(void **state)
{
	struct fixture *f = *state;
	unsigned int before = open_descriptors();
	pid_t next;

	f->role = HANGS;
	io_process_prepare(&f->process);
	next = f->process.next.child.pid;
	io_process_drop_next(&f->process);
	assert_true(io_process_leaves(&f->process));
	while (io_process_leaves(&f->process))
		assert_true(loop_turn(f->loop, 10) >= 0);
	assert_int_equal(f->process.leaving.pid, 0);
	assert_int_equal(kill(next, 0), -1);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(f->prepared, 0);
	io_process_end(&f->process, END_MS);
}

/* This process was stopped for long, as by the cgroup freezer: the answer is there, and so is its
 * time. */
static void test_an_answer_that_was_not_read_in_time(void **state)
{
	struct fixture *f = *state;

	io_process_prepare(&f->process);
	while (!fd_ready(f->process.next.conn.fd, POLLIN))
		usleep(1000);
	f->process.next.timer.fn(&f->process);
	assert_int_equal(f->process.next.failures, 0);
	turn_until_there_are(f, &f->prepared, 1);
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
		cmocka_unit_test_setup_teardown(test_one_that_could_not_be_started_leaves_nothing,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_answers_takes_its_place, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_one_that_dies_is_not_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_dies_after_its_answer_is_not_taken,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_one_that_says_more_than_it_was_asked_is_not_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_that_offers_less_is_not_taken, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_one_that_hangs_can_be_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_answer_that_was_not_read_in_time, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
