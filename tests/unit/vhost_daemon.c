/* SPDX-License-Identifier: MIT */
#include <endian.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_daemon.h"

#define DISK (64 << 20)
#define DAEMON "/usr/bin/qemu-storage-daemon"

void daemon_start(struct daemon_bench *b)
{
	char disk[192], export[256];

	snprintf(disk, sizeof(disk), "driver=%s,node-name=disk,file=file", b->format);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,addr.type=unix,addr.path=%s,node-name=disk,writable=on,"
		 "num-queues=%d",
		 b->path, DRIVER_QUEUES);
	b->daemon = fork();
	assert_true(b->daemon >= 0);
	if (b->daemon == 0) {
		char file[160];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(file, sizeof(file), "driver=file,filename=%s,node-name=file", b->image);
		execl(DAEMON, DAEMON, "--blockdev", file, "--blockdev", disk, "--export", export,
		      NULL);
		_exit(127);
	}
}

void daemon_end(struct daemon_bench *b, int sig)
{
	int status;

	kill(b->daemon, sig);
	assert_int_equal(waitpid(b->daemon, &status, 0), b->daemon);
	b->daemon = 0;
}

static void put64(int fd, uint64_t value, off_t at)
{
	value = htobe64(value);
	assert_int_equal(pwrite(fd, &value, sizeof(value), at), sizeof(value));
}

/*
 * An empty qcow2, as QEMU's docs/interop/qcow2.txt has it: of clusters of 64 KiB one for the
 * header, the refcount table, its only block, and the L1 table.
 */
static void make_qcow2(int fd)
{
	static const uint32_t header[] = { 0x514649fb, 2, 0,       0, 0,       16, 0, DISK, 0,
					   1,          0, 3 << 16, 0, 1 << 16, 1,  0, 0,    0 };

	for (size_t i = 0; i < ARRAY_SIZE(header); i++) {
		uint32_t value = htobe32(header[i]);

		assert_int_equal(pwrite(fd, &value, sizeof(value), (off_t)(4 * i)), sizeof(value));
	}
	put64(fd, 2 << 16, 1 << 16);
	put64(fd, 0x0001000100010001ull, 2 << 16);
	assert_int_equal(ftruncate(fd, 4 << 16), 0);
}

static void make_image(const struct daemon_bench *b)
{
	int fd = open(b->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	if (strcmp(b->format, "qcow2") == 0)
		make_qcow2(fd);
	else
		assert_int_equal(ftruncate(fd, DISK), 0);
	close(fd);
}

bool daemon_bench_init(struct daemon_bench *b, const char *format, unsigned int queues,
		       unsigned int depth)
{
	memset(b, 0, offsetof(struct daemon_bench, d));
	if (access(DAEMON, X_OK) < 0) {
		print_message("# %s is not installed\n", DAEMON);
		return false;
	}
	log_set_level(LOG_LEVEL_ERROR - 1); /* what it says of lost requests is counted */
	b->format = format;
	strcpy(b->dir, "/tmp/molt-vhost-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->image, sizeof(b->image), "%s/image", b->dir);
	snprintf(b->path, sizeof(b->path), "%s/socket", b->dir);
	make_image(b);
	driver_init(&b->d, b->path, queues, depth);
	return true;
}

void daemon_bench_fini(struct daemon_bench *b)
{
	if (b->daemon)
		daemon_end(b, SIGKILL);
	driver_fini(&b->d);
	unlink(b->image);
	unlink(b->path);
	rmdir(b->dir);
}

void daemon_wait_ready(struct daemon_bench *b)
{
	struct error err = ERROR_INIT;

	vhost_front_resume(&b->d.front);
	if (vhost_front_wait_ready(&b->d.front, 5000, &err) < 0)
		fail_msg("%s", err.text);
}
