/* SPDX-License-Identifier: MIT */
/* Successor and state file as descriptors that the client opened. */
#include "update_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "child_check.h"

static void given(struct update_bench *t, const char *member, int fd, const char *words)
{
	char json[256];

	snprintf(json, sizeof(json),
		 "{\"no-check\":true,\"command\":[\"/there/molt\"],"
		 "\"%s\":\"n%d\"}",
		 member, fd);
	update_bench_must_fail(t, json, words);
}

static void test_given_program(void **state)
{
	struct update_bench t;
	unsigned int before;
	int fd;

	(void)state;
	update_bench_init(&t, 1);
	update_bench_refused(&t, "{\"command-fd\":1}", EINVAL,
			     "Invalid parameter type for 'command-fd', expected: string");
	update_bench_refused(&t, "{\"command-fd\":\"x\"}", ENOENT,
			     "'command-fd': no descriptor 'x'");
	before = bench_count_fds();
	fd = open(t.dir, O_RDONLY | O_CLOEXEC);
	given(&t, "command-fd", fd, "prepare: successor '/there/molt' is a directory");
	close(fd);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	given(&t, "command-fd", fd, "not a regular file");
	close(fd);
	fd = open(update_bench_file(&t, "none", "\177ELF", 0600), O_RDONLY | O_CLOEXEC);
	given(&t, "command-fd", fd, "nobody may execute it (its mode is 0600)");
	close(fd);
	fd = open(update_bench_file(&t, "script", "#!/bin/sh\n", 0700), O_RDONLY | O_CLOEXEC);
	given(&t, "command-fd", fd, "name a script by its path");
	close(fd);
	fd = open(update_bench_file(&t, "elf", "\177ELF", 0700), O_WRONLY | O_CLOEXEC);
	given(&t, "command-fd", fd, "not open for reading");
	close(fd);
	fd = open(update_bench_file(&t, "elf", "\177ELF", 0700), O_RDONLY | O_CLOEXEC);
	update_bench_must_fail(&t, "{\"command\":[\"molt\"],\"command-fd\":\"n2\"}",
			       "must be an absolute path");
	close(fd);
	assert_int_equal(bench_count_fds(), before);
	update_bench_fini(&t);
}

/* What is executed is a copy that nobody can change any more, under the name that was asked for. */
static void test_given_program_is_sealed(void **state)
{
	struct error err = ERROR_INIT;
	struct update_bench t;
	char text[8] = "";
	struct hand_over *h;

	(void)state;
	update_bench_init(&t, 1);
	t.u->request.command_fd = open(update_bench_file(&t, "elf", "\177ELF one", 0700),
				       O_RDONLY | O_CLOEXEC);
	h = &t.u->hand_over;
	assert_int_equal(update_bench_prepare(&t, (char *[]){ (char *)"/there/molt", NULL }, &err),
			 0);
	update_bench_file(&t, "elf", "\177ELF two", 0700);
	assert_string_equal(h->argv[0], "/there/molt");
	assert_int_equal(pread(h->program_fd, text, sizeof(text), 0), sizeof(text));
	assert_memory_equal(text, "\177ELF one", sizeof(text));
	assert_int_equal(pwrite(h->program_fd, "x", 1, 0), -1);
	assert_int_equal(fcntl(h->program_fd, F_GETFD), FD_CLOEXEC);
	update_bench_unprepare(&t);
	update_bench_fini(&t);
}

static void test_given_state_file(void **state)
{
	struct update_bench t;
	int fd;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	fd = open(update_bench_file(&t, "state", "", 0600), O_RDONLY | O_CLOEXEC);
	given(&t, "state-fd", fd, "state file: the descriptor is not open for reading and writing");
	close(fd);
	fd = open("/dev/full", O_RDWR | O_CLOEXEC);
	given(&t, "state-fd", fd, "state file as a descriptor: not a regular file");
	close(fd);
	fd = open(update_bench_file(&t, "state", "", 0600), O_RDWR | O_CLOEXEC);
	given(&t, "state-fd", fd, "/there/molt': No such file");
	close(fd);
	update_bench_fini(&t);
}

/* In the stand-in of an update by which the guest has gone to the successor. */
static void copy_state(const char *state, int to)
{
	struct stand_in_page page = { 0 };
	struct update u = { .request = UPDATE_REQUEST_NONE, .hand_over = HAND_OVER_NONE };

	u.request.given_state_fd = to;
	u.hand_over.stand_in.page = &page;
	u.hand_over.state_fd = fd_memfd("state", 0);
	CHECK(fd_write_all(u.hand_over.state_fd, state, strlen(state)) == 0);
	update_committed(&u);
	_exit(0);
}

static void must_copy_state(struct update_bench *t, const char *old, int flags)
{
	const char *path = update_bench_file(t, "state", old, 0600);
	int fd = open(path, O_RDWR | O_CLOEXEC | flags), status;
	char text[32] = "";
	pid_t pid = fork();

	if (pid == 0)
		copy_state("new state", fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, "new state");
	close(fd);
}

/* Whatever there was in the file, and whoever has opened it to append to it. */
static void test_given_state_file_holds_the_state_alone(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	must_copy_state(&t, "", 0);
	must_copy_state(&t, "the state of an update before", 0);
	must_copy_state(&t, "", O_APPEND);
	must_copy_state(&t, "the state of an update before", O_APPEND);
	must_copy_state(&t, "short", O_APPEND);
	update_bench_fini(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_given_program),
		cmocka_unit_test(test_given_program_is_sealed),
		cmocka_unit_test(test_given_state_file),
		cmocka_unit_test(test_given_state_file_holds_the_state_alone),
	};

	log_set_fd(-1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
