/* SPDX-License-Identifier: MIT */
/* A service manager that is busy: it is told when it reads again, or whoever wanted to hears of it.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/notify.h>

static int ends[2]; /* molt's, the manager's */

/* Full: each message that fits is there. */
static int setup(void **state)
{
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
	while (send(ends[0], "X", 1, MSG_DONTWAIT) == 1)
		;
	assert_int_equal(errno, EAGAIN);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(ends[0]);
	fd_close(&ends[1]);
	return 0;
}

static void *reads_later(void *opaque)
{
	char *last = opaque, text[64];
	ssize_t n;

	usleep(100000);
	while ((n = recv(ends[1], text, sizeof(text) - 1, 0)) == 1)
		;
	memcpy(last, text, n > 0 ? (size_t)n : 0);
	return NULL;
}

static void test_who_does_not_read_is_waited_for(void **state)
{
	char last[64] = "";
	pthread_t manager;

	(void)state;
	assert_int_equal(pthread_create(&manager, NULL, reads_later, last), 0);
	assert_int_equal(notify_main_pid(ends[0], 77, 10000), 0);
	pthread_join(manager, NULL);
	assert_string_equal(last, "MAINPID=77\n");
	assert_true(notify_can_tell(ends[0]));
}

static void test_readiness_waits_too(void **state)
{
	char last[64] = "";
	pthread_t manager;

	(void)state;
	assert_int_equal(pthread_create(&manager, NULL, reads_later, last), 0);
	notify_ready(ends[0], 78);
	pthread_join(manager, NULL);
	assert_string_equal(last, "MAINPID=78\nREADY=1\n");
}

static void test_no_longer_than_was_said(void **state)
{
	uint64_t since = now_ns();

	(void)state;
	assert_false(notify_can_tell(ends[0]));
	assert_int_equal(notify_main_pid(ends[0], 77, 0), -EAGAIN);
	assert_int_equal(notify_main_pid(ends[0], 77, 50), -EAGAIN);
	assert_in_range(now_ns() - since, 50000000, 5000000000);
}

static void test_who_has_gone_is_not_waited_for(void **state)
{
	(void)state;
	fd_close(&ends[1]);
	assert_true(notify_can_tell(ends[0]));
	assert_int_equal(notify_main_pid(ends[0], 77, 10000), -ECONNREFUSED);
	assert_int_equal(notify_main_pid(-1, 77, 10000), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_who_does_not_read_is_waited_for),
		TEST(test_readiness_waits_too),
		TEST(test_no_longer_than_was_said),
		TEST(test_who_has_gone_is_not_waited_for),
	};

	return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
