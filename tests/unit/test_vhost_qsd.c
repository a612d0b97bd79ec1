/* SPDX-License-Identifier: MIT */
/* The front-end with QEMU's storage daemon, as distributions have it: raw and qcow2. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_driver.h"

#define DAEMON "/usr/bin/qemu-storage-daemon"

struct bench {
	char dir[64], image[96], path[96];
	const char *format;
	pid_t daemon;
	struct driver d;
};

static void daemon_start(struct bench *b)
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

static void daemon_end(struct bench *b, int sig)
{
	int status;

	kill(b->daemon, sig);
	assert_int_equal(waitpid(b->daemon, &status, 0), b->daemon);
	b->daemon = 0;
}

static bool bench_init(struct bench *b, const char *format, unsigned int queues, unsigned int depth)
{
	memset(b, 0, offsetof(struct bench, d));
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
	driver_init(&b->d, b->path, queues, depth);
	return true;
}

static void bench_fini(struct bench *b)
{
	if (b->daemon)
		daemon_end(b, SIGKILL);
	driver_fini(&b->d);
	unlink(b->image);
	unlink(b->path);
	rmdir(b->dir);
}

static bool make_raw(struct bench *b)
{
	FILE *f = fopen(b->image, "w");

	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 64 << 20), 0);
	fclose(f);
	return true;
}

static void wait_ready(struct bench *b)
{
	struct error err = ERROR_INIT;

	vhost_front_resume(&b->d.front);
	if (vhost_front_wait_ready(&b->d.front, 5000, &err) < 0)
		fail_msg("%s", err.text);
}

#define WITH_DAEMON(b, queues, depth) \
	struct bench b; \
\
	(void)state; \
	if (!bench_init(&b, "raw", queues, depth)) \
		skip(); \
	make_raw(&b); \
	daemon_start(&b); \
	wait_ready(&b)

static void reads_and_writes(void **state)
{
	uint64_t capacity;

	WITH_DAEMON(b, 4, 8);
	memcpy(&capacity, vhost_front_config(&b.d.front), sizeof(capacity));
	assert_int_equal(capacity, (64 << 20) / 512);
	assert_int_equal(vhost_front_queue_num(&b.d.front), DRIVER_QUEUES);
	driver_start(&b.d);
	driver_run(&b.d, 5000);
	driver_verify(&b.d);
	assert_int_equal(b.d.running, 1);
	assert_int_equal(b.d.lost, 0);
	bench_fini(&b);
}

/* With everything in flight: what was begun comes back, before it is told that it stopped. */
static void stops_and_starts(void **state)
{
	WITH_DAEMON(b, 2, 8);
	for (unsigned int i = 1; i <= 30; i++) {
		bool reset = i % 3 == 0;

		driver_start(&b.d);
		driver_run(&b.d, 100);
		if (reset)
			driver_finish(&b.d);
		assert_int_equal(vhost_front_stop(&b.d.front, reset), 0);
		driver_until(&b.d, &b.d.stopped, i);
		if (reset)
			driver_reset_rings(&b.d);
	}
	assert_int_equal(b.d.queue_stopped, 60);
	driver_start(&b.d);
	driver_verify(&b.d);
	assert_int_equal(b.d.lost, 0);
	bench_fini(&b);
}

static void kill_and_start(struct bench *b, int sig, unsigned int times)
{
	driver_start(&b->d);
	for (unsigned int i = 0; i < times; i++) {
		driver_run(&b->d, 50 + 7 * (i % 10));
		assert_true(driver_submit(&b->d) > 0);
		usleep(13 * (i % 20));
		daemon_end(b, sig);
		driver_run_for(&b->d, 5);
		daemon_start(b);
		driver_run(&b->d, 200);
	}
	driver_verify(&b->d);
	assert_int_equal(b->d.lost, times);
	assert_int_equal(b->d.running, times + 1);
	assert_int_equal(b->d.failed, 0);
}

/* It finishes what it has begun before it ends. */
static void terminated_and_started_again(void **state)
{
	WITH_DAEMON(b, 4, 16);
	kill_and_start(&b, SIGTERM, 10);
	bench_fini(&b);
}

/* It keeps no inflight table: one request a queue is what it can lose without harm. */
static void killed_and_started_again(void **state)
{
	WITH_DAEMON(b, 4, 1);
	kill_and_start(&b, SIGKILL, 10);
	assert_false(vhost_front_keeps_inflight(&b.d.front));
	bench_fini(&b);
}

/*
 * With more than one it may have finished a later one first. Then the owner is told, and does what
 * a reset does; in no case comes a request back twice, never, or wrong.
 */
static void killed_with_much_in_flight(void **state)
{
	unsigned int lost = 0, kills = 40;

	WITH_DAEMON(b, 2, 16);
	driver_start(&b.d);
	for (unsigned int i = 1; i <= kills; i++) {
		driver_run(&b.d, 50 + 7 * (i % 10));
		driver_submit(&b.d);
		usleep(13 * (i % 20));
		daemon_end(&b, SIGKILL);
		daemon_start(&b);
		driver_run(&b.d, 300);
		if (!b.d.requests_lost)
			continue;
		lost++;
		vhost_front_stop(&b.d.front, true);
		driver_until(&b.d, &b.d.stopped, lost);
		driver_reset_rings(&b.d);
		b.d.requests_lost = 0;
		driver_start(&b.d);
	}
	driver_verify(&b.d);
	print_message("%u of %u times requests were lost\n", lost, kills);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(stops_and_starts),
		cmocka_unit_test(terminated_and_started_again),
		cmocka_unit_test(killed_and_started_again),
		cmocka_unit_test(killed_with_much_in_flight),
	};

	return cmocka_run_group_tests_name("vhost_qsd", tests, NULL, NULL);
}
