/* SPDX-License-Identifier: MIT */
/* What a disk's file is like once it is open. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include "src/virtio/disk_file.h"

static struct error err;
static char dir[] = "/tmp/molt-disk-file-XXXXXX";
static char path[64];

static int setup(void **state)
{
	_cleanup_close_ int fd = -1;

	(void)state;
	err = (struct error)ERROR_INIT;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir))
		return -errno;
	strcpy(path, dir);
	strcat(path, "/disk");
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : ftruncate(fd, 1 << 20);
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static void must_wait(const struct disk_options *o)
{
	_cleanup_close_ int fd = -1;

	assert_int_equal(disk_file_open(o, &fd, &err), 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
}

/* io_uring of some kernels would answer -EAGAIN for ever. */
static void test_a_disk_waits(void **state)
{
	struct disk_options o = { .path = path, .fd = -1 };

	(void)state;
	must_wait(&o);
	o.readonly = true;
	must_wait(&o);
}

static void test_a_given_disk_waits(void **state)
{
	_cleanup_close_ int given = open(path, O_RDWR | O_NONBLOCK);
	const struct disk_options o = { .path = path, .fd = given };

	(void)state;
	assert_true(given >= 0);
	must_wait(&o);
}

/* What is open under a number that nobody gave is molt's own. */
static void test_a_disk_that_was_not_given(void **state)
{
	_cleanup_close_ int own = open(path, O_RDWR | O_CLOEXEC);
	struct disk_options o = { .path = path, .fd = own };
	int fd = -1;

	(void)state;
	assert_true(own >= 0);
	assert_int_equal(disk_file_open(&o, &fd, &err), -EBADF);
	assert_non_null(strstr(err.text, "was not started with"));
	o.fd = 1 << 20;
	assert_int_equal(disk_file_open(&o, &fd, &err), -EBADF);
}

/* The number in the sentence is the one that the user gave, not its copy's. */
static void test_a_disk_that_was_given_with_another_mode(void **state)
{
	_cleanup_close_ int given = open(path, O_RDONLY), writing = open(path, O_WRONLY);
	struct disk_options o = { .path = path, .fd = given };
	char text[64];
	int fd = -1;

	(void)state;
	assert_true(given >= 0 && writing >= 0);
	snprintf(text, sizeof(text), "descriptor %d is not open for writing", given);
	assert_int_equal(disk_file_open(&o, &fd, &err), -EBADF);
	assert_non_null(strstr(err.text, text));
	assert_non_null(strstr(err.text, "readonly=on"));
	o.fd = writing;
	o.readonly = true;
	snprintf(text, sizeof(text), "descriptor %d is not open for reading", writing);
	assert_int_equal(disk_file_open(&o, &fd, &err), -EBADF);
	assert_non_null(strstr(err.text, text));
}

/* Wherever the guest writes, pwrite(2) would put it at the end. */
static void test_a_disk_that_is_open_to_append(void **state)
{
	_cleanup_close_ int given = open(path, O_RDWR | O_APPEND);
	struct disk_options o = { .path = path, .fd = given };
	int fd = -1;

	(void)state;
	assert_true(given >= 0);
	assert_int_equal(disk_file_open(&o, &fd, &err), -EINVAL);
	assert_non_null(strstr(err.text, "was opened to append"));
	assert_int_equal(fd, -1);
	o.readonly = true;
	assert_int_equal(disk_file_open(&o, &fd, &err), 0);
	close(fd);
}

/* And a FIFO nobody writes to is refused, not waited for. */
static void test_a_fifo_is_no_disk(void **state)
{
	const struct disk_options o = { .path = path, .fd = -1, .readonly = true };
	int fd = -1;

	(void)state;
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(disk_file_open(&o, &fd, &err), -EINVAL);
	assert_int_equal(fd, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_disk_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_given_disk_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_disk_that_was_not_given, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_disk_that_was_given_with_another_mode, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_disk_that_is_open_to_append, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_fifo_is_no_disk, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
