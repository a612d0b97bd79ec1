/* SPDX-License-Identifier: MIT */
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

#include <molt/base/log.h>

#include "vhost_daemon.h"

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

static void make_image(const struct daemon_bench *b)
{
	FILE *f = fopen(b->image, "w");

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 64 << 20), 0);
	fclose(f);
}

bool daemon_bench_init(struct daemon_bench *b, const char *format, unsigned int queues,
		       unsigned int depth)
{
	memset(b, 0, offsetof(struct daemon_bench, d));
	if (access(DAEMON, X_OK) < 0) {
		print_message("%s is not installed\n", DAEMON);
		return false;
	}
	log_set_level(LOG_LEVEL_ERROR);
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
