/* SPDX-License-Identifier: MIT */
/* Error objects, descriptor helpers and the log. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/error.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>

/* ---- errors ---- */

static void test_set_gives_minus_code(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(err_set(&err, EINVAL, "value %d", 7), -EINVAL);
	assert_int_equal(err.code, EINVAL);
	assert_string_equal(err.text, "value 7");
}

static void test_failure_never_reads_as_success(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(err_set(&err, 0, "nothing"), -EIO);
	assert_int_equal(err.code, EIO);
	assert_int_equal(err_sys(&err, 0, "nothing"), -EIO);
	assert_int_equal(err_set(&err, -3, "negative"), -EIO);
}

static void test_no_error_object(void **state)
{
	(void)state;
	assert_int_equal(err_set(NULL, EPERM, "x"), -EPERM);
	assert_int_equal(err_sys(NULL, EPERM, "x"), -EPERM);
	err_prefix(NULL, "x");
}

static void test_sys_appends_the_reason(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(err_sys(&err, ENOENT, "file %s", "/x"), -ENOENT);
	assert_string_equal(err.text, "file /x: No such file or directory");
	err_sys(&err, EMFILE, "a pipe");
	assert_string_equal(err.text,
			    "a pipe: Too many open files (raise RLIMIT_NOFILE: ulimit -n; "
			    "systemd: LimitNOFILE=)");
}

static void test_prefix(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	err_prefix(&err, "never seen");
	assert_string_equal(err.text, "");
	err_set(&err, EIO, "broken");
	err_prefix(&err, "disk %d", 2);
	err_prefix(&err, "machine");
	assert_string_equal(err.text, "machine: disk 2: broken");
	assert_int_equal(err.code, EIO);
}

static void test_long_texts_are_cut(void **state)
{
	char lots[2 * ERROR_TEXT_MAX];
	struct error err = ERROR_INIT;

	(void)state;
	memset(lots, 'a', sizeof(lots) - 1);
	lots[sizeof(lots) - 1] = '\0';
	err_sys(&err, EIO, "%s", lots);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	err_prefix(&err, "%s", lots);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	err_set(&err, EIO, "b");
	err_prefix(&err, "%s", lots);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
}

/* ---- descriptors ---- */

static void test_close_keeps_errno(void **state)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), copy = fd;

	(void)state;
	errno = 77;
	fd_close(&fd);
	assert_int_equal(errno, 77);
	assert_int_equal(fd, -1);
	assert_int_equal(fcntl(copy, F_GETFD), -1);
	fd_close(&fd);
	assert_int_equal(fd, -1);
}

static void test_flags(void **state)
{
	int fd = open("/dev/null", O_RDONLY);

	(void)state;
	assert_int_equal(fd_set_cloexec(fd, true), 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fd_set_cloexec(fd, false), 0);
	assert_int_equal(fcntl(fd, F_GETFD), 0);
	assert_int_equal(fd_set_nonblock(fd, true), 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(fd_set_nonblock(fd, false), 0);
	assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	assert_int_equal(fd_set_cloexec(fd, true), -EBADF);
	assert_int_equal(fd_set_nonblock(fd, true), -EBADF);
}

static void test_write_all_reports_a_full_disk(void **state)
{
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, "x", 1), -ENOSPC);
	close(fd);
}

static void test_read_file(void **state)
{
	int fd = memfd_create("file", MFD_CLOEXEC);
	struct error err = ERROR_INIT;
	void *buf = NULL;
	size_t len = 0;

	(void)state;
	assert_int_equal(fd_write_all(fd, "hello", 5), 0);
	assert_int_equal(fd_read_file(fd, "file", 5, &buf, &len, &err), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(buf, "hello", 5);
	free(buf);
	assert_int_equal(fd_read_file(fd, "the file", 4, &buf, &len, &err), -EFBIG);
	assert_string_equal(err.text, "the file: 5 bytes, more than the 4 that it may have");
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(fd_read_file(fd, "file", 5, &buf, &len, &err), 0);
	assert_int_equal(len, 0);
	free(buf);
	close(fd);
}

static void test_read_file_refuses_what_is_none(void **state)
{
	static const struct {
		const char *path;
		int code;
	} files[] = { { "/dev/zero", EINVAL }, { "/", EISDIR } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int fd = open(files[i].path, O_RDONLY | O_CLOEXEC);
		struct error err = ERROR_INIT;
		void *buf;
		size_t len;

		assert_int_equal(fd_read_file(fd, files[i].path, 100, &buf, &len, &err),
				 -files[i].code);
		assert_non_null(strstr(err.text, "not a regular file"));
		close(fd);
	}
}

/* ---- log ---- */

static void read_log(int fd, char *buf, size_t size)
{
	ssize_t n = pread(fd, buf, size - 1, 0);

	assert_true(n >= 0);
	buf[n] = '\0';
}

static void test_log(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC), old = log_get_fd();
	char text[512], tail[64], lots[3000];

	(void)state;
	log_set_fd(fd);
	log_set_level(LOG_LEVEL_WARN);
	errno = 5;
	log_info("not seen");
	log_warn("seen %d", 1);
	assert_int_equal(errno, 5);
	read_log(fd, text, sizeof(text));
	snprintf(tail, sizeof(tail), "Z molt[%d] warn: seen 1\n", (int)getpid());
	assert_non_null(strstr(text, tail));
	assert_null(strstr(text, "not seen"));
	assert_int_equal(strlen(text), strlen("2000-01-01T00:00:00.000000") + strlen(tail));

	memset(lots, 'x', sizeof(lots) - 1);
	lots[sizeof(lots) - 1] = '\0';
	assert_int_equal(ftruncate(fd, 0), 0);
	log_error("%s", lots);
	assert_true(lseek(fd, 0, SEEK_END) < 3000);
	assert_int_equal(pread(fd, text, 1, lseek(fd, 0, SEEK_END) - 1), 1);
	assert_int_equal(text[0], '\n');
	log_set_fd(old);
	close(fd);
}

static void test_log_levels(void **state)
{
	(void)state;
	assert_int_equal(log_level_parse("error"), LOG_LEVEL_ERROR);
	assert_int_equal(log_level_parse("debug"), LOG_LEVEL_DEBUG);
	assert_int_equal(log_level_parse("Debug"), -EINVAL);
	assert_int_equal(log_level_parse(""), -EINVAL);
	log_set_level(LOG_LEVEL_DEBUG);
	assert_int_equal(log_get_level(), LOG_LEVEL_DEBUG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_gives_minus_code),
		cmocka_unit_test(test_failure_never_reads_as_success),
		cmocka_unit_test(test_no_error_object),
		cmocka_unit_test(test_sys_appends_the_reason),
		cmocka_unit_test(test_prefix),
		cmocka_unit_test(test_long_texts_are_cut),
		cmocka_unit_test(test_close_keeps_errno),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_write_all_reports_a_full_disk),
		cmocka_unit_test(test_read_file),
		cmocka_unit_test(test_read_file_refuses_what_is_none),
		cmocka_unit_test(test_log),
		cmocka_unit_test(test_log_levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
