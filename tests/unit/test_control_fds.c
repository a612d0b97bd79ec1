/* SPDX-License-Identifier: MIT */
/* Descriptors that clients send: getfd, closefd, who else may take them, limits, updates. */
#include "control_bench.h"

#include <dirent.h>

#define GETFD(name) "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"" name "\"}}"
#define CLOSEFD(name) "{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"" name "\"}}"
#define NO_FD GENERIC("No file descriptor supplied via SCM_RIGHTS")

static unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Text with n copies of fd, all in one message. */
static void say_with(int client, const char *text, int fd, unsigned int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(32 * sizeof(int))];
	} rights = { .buf = { 0 } };
	struct iovec iov = { .iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = rights.buf,
		.msg_controllen = CMSG_SPACE(n * sizeof(int)),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (unsigned int i = 0; i < n; i++)
		memcpy(CMSG_DATA(cmsg) + i * sizeof(fd), &fd, sizeof(fd));
	assert_int_equal(sendmsg(client, &msg, MSG_NOSIGNAL), (ssize_t)iov.iov_len);
}

/* A pipe of which the server shall have the end that is written to. */
static void make_pipe(int ends[2])
{
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
}

static bool all_writers_gone(int reader)
{
	char ch;

	return read(reader, &ch, 1) == 0;
}

static void test_named_taken_closed(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;
	int client, ends[2], fd;

	(void)state;
	bench_init(&b);
	client = bench_client(&b);
	make_pipe(ends);
	bench_say(client, GETFD("a"));
	bench_expect(&b, client, NO_FD);
	say_with(client, GETFD("a"), ends[1], 1);
	bench_expect(&b, client, DONE);
	close(ends[1]);
	assert_false(all_writers_gone(ends[0]));
	assert_int_equal(control_take_fd(b.control, 99, "a", &err), -ENOENT);
	assert_int_equal(control_take_fd(b.control, 0, "b", &err), -ENOENT);
	assert_int_equal(control_take_fd(b.control, 0, "", &err), -ENOENT);
	fd = control_take_fd(b.control, 0, "a", &err);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	bench_say(client, CLOSEFD("a"));
	bench_expect(&b, client, GENERIC("File descriptor named 'a' has not been found"));
	say_with(client, GETFD("a"), fd, 1);
	bench_expect(&b, client, DONE);
	close(fd);
	assert_false(all_writers_gone(ends[0]));
	bench_say(client, CLOSEFD("a"));
	bench_expect(&b, client, DONE);
	assert_true(all_writers_gone(ends[0]));
	close(ends[0]);
	close(client);
	bench_fini(&b);
}

static void test_oldest_first_and_same_name_again(void **state)
{
	struct error err = ERROR_INIT;
	int client, first[2], second[2], fd;
	struct bench b;

	(void)state;
	bench_init(&b);
	client = bench_client(&b);
	make_pipe(first);
	make_pipe(second);
	say_with(client, " ", first[1], 1);
	say_with(client, GETFD("a"), second[1], 1);
	bench_expect(&b, client, DONE);
	close(first[1]);
	close(second[1]);
	bench_say(client, GETFD("a"));
	bench_expect(&b, client, DONE);
	assert_true(all_writers_gone(first[0]));
	fd = control_take_fd(b.control, 0, "a", &err);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	assert_int_equal(read(second[0], &(char){ 0 }, 1), 1);
	assert_true(all_writers_gone(second[0]));
	close(first[0]);
	close(second[0]);
	close(client);
	bench_fini(&b);
}

static void test_bad_names(void **state)
{
	struct bench b;
	int client;

	(void)state;
	bench_init(&b);
	client = bench_client(&b);
	bench_say(client, GETFD("1a"));
	bench_expect(&b, client,
		     GENERIC("Parameter 'fdname' expects a name not starting with a digit"));
	bench_say(client, GETFD(""));
	bench_expect(&b, client, GENERIC("Parameter 'fdname' expects a name"));
	bench_say(client, "{\"execute\":\"getfd\"}");
	bench_expect(&b, client, GENERIC("Parameter 'fdname' is missing"));
	bench_say(client,
		  GETFD("a23456789a23456789a23456789a23456789a23456789a23456789a234567890"));
	bench_expect(&b, client, GENERIC("Parameter 'fdname' is longer than 63 bytes"));
	close(client);
	bench_fini(&b);
}

static void test_surplus_is_closed(void **state)
{
	int client, ends[2];
	unsigned int before;
	struct bench b;

	(void)state;
	bench_init(&b);
	client = bench_client(&b);
	make_pipe(ends);
	before = count_fds();
	for (unsigned int i = 0; i < 10; i++) {
		say_with(client, " ", ends[1], 3);
		bench_pump(&b);
	}
	say_with(client, " ", ends[1], 30);
	bench_pump(&b);
	assert_int_equal(count_fds(), before + 8);
	close(client);
	bench_pump(&b);
	assert_int_equal(count_fds(), before - 2);
	close(ends[1]);
	assert_true(all_writers_gone(ends[0]));
	close(ends[0]);
	bench_fini(&b);
}

/* Nothing can be asked of it, not even what it is, which an update has to know. */
static void test_a_descriptor_for_its_path_alone_is_closed(void **state)
{
	int client, fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	unsigned int before;
	struct bench b;

	(void)state;
	bench_init(&b);
	client = bench_client(&b);
	before = count_fds();
	assert_true(fd >= 0);
	say_with(client, GETFD("a"), fd, 1);
	bench_expect(&b, client, NO_FD);
	assert_int_equal(count_fds(), before);
	close(fd);
	close(client);
	bench_fini(&b);
}

static void test_clients_have_their_own(void **state)
{
	int one, other, ends[2];
	struct bench b;

	(void)state;
	bench_init(&b);
	one = bench_client(&b);
	other = bench_client(&b);
	make_pipe(ends);
	say_with(one, GETFD("a"), ends[1], 1);
	bench_expect(&b, one, DONE);
	bench_say(other, CLOSEFD("a"));
	bench_expect(&b, other, GENERIC("File descriptor named 'a' has not been found"));
	close(ends[0]);
	close(ends[1]);
	close(one);
	close(other);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_named_taken_closed),
		cmocka_unit_test(test_oldest_first_and_same_name_again),
		cmocka_unit_test(test_bad_names),
		cmocka_unit_test(test_surplus_is_closed),
		cmocka_unit_test(test_a_descriptor_for_its_path_alone_is_closed),
		cmocka_unit_test(test_clients_have_their_own),
	};

	log_set_fd(-1);
	return cmocka_run_group_tests_name("control_fds", tests, NULL, NULL);
}
