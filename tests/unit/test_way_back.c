/* SPDX-License-Identifier: MIT */
/* The descriptors that the way back goes by. */
#include "update_bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "../../src/update/room.h"
#include "child_check.h"

#define CARRIED 20

struct fixture {
	struct incoming in;
	struct rlimit usual;
	struct error err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->in.table_fd = -1;
	f->in.fds = calloc(1, sizeof(*f->in.fds));
	assert_non_null(f->in.fds);
	for (uint32_t i = 0; i < CARRIED; i++) {
		int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		const char *name = i == CARRIED - 1 ? "predecessor" : "some";

		assert_true(fd >= 0);
		assert_int_equal(fdtable_add(f->in.fds, name, i, fd, &f->err), 0);
	}
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &f->usual), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &f->usual), 0);
	for (uint32_t i = 0; i < CARRIED; i++)
		close(f->in.fds->entries[i].fd);
	free(f->in.spare);
	free(f->in.fds);
	free(f);
	return 0;
}

static void limit(const struct fixture *f, rlim_t descriptors)
{
	const struct rlimit few = { .rlim_cur = descriptors, .rlim_max = f->usual.rlim_max };

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
}

static unsigned int open_descriptors(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_copies_are_descriptors_of_their_own(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(way_back_keep(&f->in, &f->err), 0);
	assert_int_equal(f->in.spare->count, CARRIED);
	for (uint32_t i = 0; i < CARRIED; i++) {
		assert_int_not_equal(f->in.spare->entries[i].fd, f->in.fds->entries[i].fd);
		close(f->in.spare->entries[i].fd);
	}
}

/* Half of the copies would be a way back that ends without the predecessor's binary. */
static void test_without_descriptors_it_goes_by_those_that_there_are(void **state)
{
	struct fixture *f = *state;
	unsigned int before = open_descriptors();

	limit(f, (rlim_t)f->in.fds->entries[CARRIED - 1].fd + 6);
	assert_int_equal(way_back_keep(&f->in, &f->err), -EMFILE);
	assert_non_null(strstr(f->err.text, "copying descriptor"));
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(f->in.spare->count, CARRIED);
	assert_true(fdtable_has(f->in.spare, "predecessor", CARRIED - 1));
	assert_memory_equal(f->in.spare->entries, f->in.fds->entries,
			    CARRIED * sizeof(f->in.fds->entries[0]));
}

static void test_the_predecessor_that_comes_back_needs_none(void **state)
{
	struct fixture *f = *state;

	f->in.failure = "it was no good";
	limit(f, (rlim_t)f->in.fds->entries[CARRIED - 1].fd + 1);
	assert_int_equal(way_back_keep(&f->in, &f->err), 0);
	assert_null(f->in.spare);
}

/* Of the table, as in a successor's `adopt`: what it finds, and that the rest finds it as well. */
static void find_own_binary_without_proc(struct fixture *f, const char *dir)
{
	const char *const argv[] = { "/molt", "run", "--pause", NULL };
	struct fdtable_entry *e = &f->in.fds->entries[CARRIED - 1];
	struct update_self self = { .path = strdup("/dev/fd/7"), .exe_fd = -1 };
	const struct update_self was = { .path = (char *)"/molt", .argv = (char **)argv };
	struct error err = ERROR_INIT;

	CHECK(chroot(dir) == 0 && access("/proc/self/exe", F_OK) < 0);
	e->id = 0;
	f->in.failure = "it was no good";
	f->in.wire = calloc(1, sizeof(*f->in.wire));
	CHECK(f->in.wire && update_self_pack(&was, f->in.wire, &err) == 0);
	CHECK(way_back_keep(&f->in, &err) == 0);
	CHECK(update_self_load(&self, &f->in, &err) == 0);
	CHECK(self.exe_fd >= 0 && self.exe_fd != e->fd);
	CHECK(fcntl(self.exe_fd, F_GETFD) == FD_CLOEXEC);
	CHECK(fdtable_take(f->in.fds, "predecessor", 0, 0, &err) == e->fd);
	_exit(0);
}

static void test_the_predecessor_that_comes_back_finds_its_binary_without_proc(void **state)
{
	char dir[] = "/tmp/molt-way-back-XXXXXX";
	struct fixture *f = *state;
	int status;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("# only root can change the root directory\n");
		skip();
	}
	assert_non_null(mkdtemp(dir));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		find_own_binary_without_proc(f, dir);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	rmdir(dir);
	assert_int_equal(status, 0);
}

/* As exec_predecessor() does it; it ends for want of an fd table. */
static void come_back_from_memfd(int memfd)
{
	char *argv[] = { (char *)"molt", (char *)"run", (char *)"--incoming", (char *)"file:/x",
			 NULL };
	int null = open("/dev/null", O_WRONLY);

	CHECK(null >= 0 && dup2(null, STDERR_FILENO) >= 0);
	CHECK(setenv(FDTABLE_ENV, "1000", 1) == 0 && setenv(UPDATE_ERROR_ENV, "no good", 1) == 0);
	fexecve(memfd, argv, environ);
	CHECK(!"it was executed");
}

static int molt_in_memfd(void)
{
	const char *path = getenv("MOLT");
	int file, fd;

	if (!path)
		return -1;
	file = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(file >= 0);
	fd = program_copy(file, path, NULL);
	close(file);
	return fd;
}

/* Such a name is what ps, top and killall know. */
static void test_the_predecessor_that_comes_back_is_called_molt(void **state)
{
	int memfd = molt_in_memfd(), fd;
	char path[64], name[32] = "";
	siginfo_t info;
	pid_t pid;

	(void)state;
	if (memfd < 0) {
		print_message("# MOLT is not set, or no memfd may be executed\n");
		skip();
	}
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		come_back_from_memfd(memfd);
	close(memfd);
	/* It has its name until somebody has waited for it. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_true(read(fd, name, sizeof(name) - 1) > 0);
	close(fd);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(info.si_code, CLD_EXITED);
	assert_string_equal(name, "molt\n");
}

static void test_the_limit_is_asked_before(void **state)
{
	struct fixture *f = *state;

	limit(f, 1000);
	assert_int_equal(room_descriptors(465, 3, &f->err), 0);
	assert_int_equal(room_descriptors(465, 4, &f->err), -EMFILE);
	assert_non_null(strstr(f->err.text, "up to 1002 descriptors"));
	assert_non_null(strstr(f->err.text, "which is 1000"));
	fd_raise_limit();
	if (f->usual.rlim_max > 1000)
		assert_int_equal(room_descriptors(465, 4, &f->err), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_copies_are_descriptors_of_their_own),
		CASE(test_without_descriptors_it_goes_by_those_that_there_are),
		CASE(test_the_predecessor_that_comes_back_needs_none),
		CASE(test_the_predecessor_that_comes_back_finds_its_binary_without_proc),
		CASE(test_the_predecessor_that_comes_back_is_called_molt),
		CASE(test_the_limit_is_asked_before),
	};

	return cmocka_run_group_tests_name("way_back", tests, NULL, NULL);
}
