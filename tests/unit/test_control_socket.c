/* SPDX-License-Identifier: MIT */
/* The control socket: its file, and who may connect. */
#include "control_bench.h"
#include "failing_accept.h"

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	bench_init(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	bench_fini(*state);
	free(*state);
	return 0;
}

static void test_socket_is_ours_alone(void **state)
{
	mode_t mask = umask(0);
	struct stat st;
	struct bench b;

	(void)state;
	bench_init(&b);
	assert_int_equal(stat(b.path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0600);
	umask(mask);
	bench_fini(&b);
}

static void test_descriptors_are_close_on_exec(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);

	for (int i = 3; i < 64; i++) {
		struct sockaddr_un sun;
		socklen_t len = sizeof(sun);

		if (getsockname(i, (struct sockaddr *)&sun, &len) == 0)
			assert_int_equal(fcntl(i, F_GETFD), FD_CLOEXEC);
	}
	close(fd);
}

static int create_at(struct bench *b, const char *path, struct error *err)
{
	struct control *second;
	int r = control_create(&second, path, b->loop, NULL, NULL, err);

	if (r == 0)
		control_destroy(second);
	else
		assert_null(second);
	return r;
}

static void test_live_socket_is_not_replaced(void **state)
{
	struct error err = ERROR_INIT;
	struct bench *b = *state;
	int fd;

	assert_int_equal(create_at(b, b->path, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, b->path));
	fd = bench_client(b);
	close(fd);
}

static void test_stale_socket_is_replaced(void **state)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct error err = ERROR_INIT;
	struct bench *b = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/stale", b->dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd);
	assert_int_equal(create_at(b, sun.sun_path, &err), 0);
	assert_int_equal(access(sun.sun_path, F_OK), -1); /* and removed in the end */
}

static void test_other_files_are_not_touched(void **state)
{
	struct error err = ERROR_INIT;
	struct bench *b = *state;
	char path[64], link[64];

	snprintf(path, sizeof(path), "%s/file", b->dir);
	snprintf(link, sizeof(link), "%s/link", b->dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(create_at(b, path, &err), -EEXIST);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(b->path, link), 0);
	assert_int_equal(create_at(b, link, &err), -EEXIST);
	assert_int_equal(unlink(link), 0);
}

static void test_impossible_paths(void **state)
{
	struct error err = ERROR_INIT;
	struct bench *b = *state;
	char path[200];

	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(create_at(b, path, &err), -ENAMETOOLONG);
	assert_int_equal(create_at(b, "", &err), -EINVAL);
	assert_int_equal(create_at(b, "/nonexistent/dir/sock", &err), -ENOENT);
}

static void test_a_successor_at_the_path_keeps_it(void **state)
{
	struct error err = ERROR_INIT;
	struct control *second;
	struct bench *b = *state;

	assert_int_equal(unlink(b->path), 0);
	assert_int_equal(control_create(&second, b->path, b->loop, NULL, NULL, &err), 0);
	control_destroy(b->control);
	assert_int_equal(access(b->path, F_OK), 0);
	b->control = second;
}

static void test_strangers_are_refused(void **state)
{
	struct bench *b = *state;
	pid_t pid;
	int status;

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(b->dir, 0755), 0);
	assert_int_equal(chmod(b->path, 0666), 0);
	pid = fork();
	if (pid == 0) {
		struct sockaddr_un sun = { .sun_family = AF_UNIX };
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		char text[256] = "";

		strcpy(sun.sun_path, b->path);
		if (setuid(65534) != 0 || connect(fd, (struct sockaddr *)&sun, sizeof(sun)) != 0)
			_exit(2);
		/* The reason, in the greeting's place, and nothing after it. */
		recv(fd, text, sizeof(text) - 1, 0);
		if (!strstr(text, "\"error\"") || !strstr(text, "user 65534 was refused") ||
		    strcmp(text + strlen(text) - 2, "\r\n") != 0)
			_exit(3);
		_exit(recv(fd, text, 1, 0) == 0 ? 0 : 1);
	}
	for (status = -1; waitpid(pid, &status, WNOHANG) == 0;)
		assert_int_equal(loop_turn(b->loop, 1), 0);
	assert_int_equal(status, 0);
}

static pid_t who_serves(const struct bench *b)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	strcpy(sun.sun_path, b->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len), 0);
	close(fd);
	return peer.pid;
}

/* After a way back in another process. */
static void test_clients_see_who_serves(void **state)
{
	struct bench *b = *state;
	pid_t pid;

	control_listen_again(NULL);
	assert_int_equal(who_serves(b), getpid());
	pid = fork();
	if (pid == 0) {
		control_listen_again(b->control);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(who_serves(b), pid);
}

static void test_out_of_descriptors(void **state)
{
	struct rlimit old, few = { .rlim_cur = 64 };
	struct bench *b = *state;
	int fds[64], n = 0, fd = bench_connect(b);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while ((fds[n] = dup(fd)) >= 0)
		n++;
	log_set_level((enum log_level) - 1); /* the complaint is expected */
	bench_expect_hangup(b, fd);
	log_set_level(LOG_LEVEL_ERROR);
	while (n)
		close(fds[--n]);
	close(fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	fd = bench_client(b);
	close(fd);
}

/* No spare descriptor of ours helps then. Who connects waits, and the loop is not kept busy. */
static void test_a_host_out_of_files_or_memory(void **state)
{
	static const int codes[] = { ENFILE, ENOMEM, ENOBUFS, EMFILE };
	struct bench *b = *state;

	log_set_level((enum log_level) - 1); /* the complaint is expected */
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		int fd = bench_connect(b), patience = 10;
		unsigned int before;
		char line[1024];

		fail_accept(codes[i]);
		bench_pump(b);
		before = accepts_failed();
		assert_in_range(before, 1, 20);
		while (accepts_failed() == before && patience--)
			assert_int_equal(loop_turn(b->loop, 1000), 0);
		assert_true(accepts_failed() > before);
		fail_accept(0);
		assert_true(bench_line(b, fd, line, sizeof(line)));
		assert_non_null(strstr(line, "QMP"));
		close(fd);
	}
	log_set_level(LOG_LEVEL_ERROR);
}

static void test_no_control_socket(void **state)
{
	struct error err = ERROR_INIT;
	struct bench *b = *state;
	struct control *none = b->control;

	assert_int_equal(control_create(&none, NULL, b->loop, NULL, NULL, &err), 0);
	assert_null(none);
	control_add_commands(none, bench_commands, 1, NULL);
	control_start(none);
	control_event(none, "X", json_object());
	control_reply(none, 0, NULL, json_object(), NULL);
	control_flush(none);
	assert_int_equal(control_save(none, NULL, NULL, &err), 0);
	control_destroy(none);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_socket_is_ours_alone),
		TEST(test_descriptors_are_close_on_exec),
		TEST(test_live_socket_is_not_replaced),
		TEST(test_stale_socket_is_replaced),
		TEST(test_other_files_are_not_touched),
		TEST(test_impossible_paths),
		TEST(test_a_successor_at_the_path_keeps_it),
		TEST(test_strangers_are_refused),
		TEST(test_clients_see_who_serves),
		TEST(test_out_of_descriptors),
		TEST(test_a_host_out_of_files_or_memory),
		TEST(test_no_control_socket),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
