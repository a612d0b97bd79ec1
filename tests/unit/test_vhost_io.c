/* SPDX-License-Identifier: MIT */
/*
 * The front-end with molt's own back-end, by threads and by io_uring, which is killed under load,
 * and updates meanwhile.
 */
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
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/virtio/io_board.h>
#include <molt/virtio/io_ring.h>

#include "vhost_driver.h"

#define DISK (64 << 20)
#define QUEUE_SIZE 64
#define QUEUES_MAX 4

struct io_bench {
	struct driver d;
	pid_t pid;
	int disk, board;
	int rings[QUEUES_MAX];
	unsigned int queues, nrings;
};

static bool by_io_uring;

/* ":": one more of the same */
static void inherit(int fd, char *text, const char *key)
{
	bool more = strcmp(key, ":") == 0;

	fd_set_cloexec(fd, false);
	sprintf(text + strlen(text), "%s%s%s%d", more ? "" : ",", key, more ? "" : "=", fd);
}

static void io_start(struct io_bench *b)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	b->pid = fork();
	if (b->pid == 0) {
		char arg[300];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		snprintf(arg, sizeof(arg), "id=disk0,queues=%u,queue-size=%u", b->queues,
			 QUEUE_SIZE);
		inherit(fds[1], arg, "socket");
		inherit(b->disk, arg, "file");
		inherit(b->board, arg, "board");
		for (unsigned int i = 0; i < b->nrings; i++)
			inherit(b->rings[i], arg, i ? ":" : "rings");
		execl(getenv("MOLT"), "molt", "io", "--log-level", "error", "--disk", arg, NULL);
		_exit(127);
	}
	close(fds[1]);
	vhost_front_give_socket(&b->d.front, fds[0]);
}

static void io_end(struct io_bench *b)
{
	int status;

	kill(b->pid, SIGKILL);
	assert_int_equal(waitpid(b->pid, &status, 0), b->pid);
}

static void make_rings(struct io_bench *b)
{
	struct error err = ERROR_INIT;
	struct io_board_view view;

	assert_int_equal(io_board_map(&view, b->board, b->queues, &err), 0);
	for (unsigned int i = 0; i < b->queues; i++) {
		struct io_uring_params params;

		b->rings[i] = io_ring_make(QUEUE_SIZE, &params, &err);
		if (b->rings[i] < 0) {
			print_message("%s\n", err.text);
			skip();
		}
		memcpy(io_board_queue(&view, i)->ring, &params, sizeof(params));
		b->nrings++;
	}
	io_board_unmap(&view);
}

static void bench_init(struct io_bench *b, unsigned int queues, unsigned int depth)
{
	struct error err = ERROR_INIT;

	memset(b, 0, offsetof(struct io_bench, pid));
	log_set_level(LOG_LEVEL_ERROR);
	b->queues = queues;
	b->nrings = 0;
	b->disk = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(b->disk, DISK), 0);
	b->board = io_board_make(queues, &err);
	if (b->board < 0)
		fail_msg("%s", err.text);
	if (by_io_uring)
		make_rings(b);
	driver_init(&b->d, NULL, queues, depth);
	vhost_front_resume(&b->d.front);
	io_start(b);
	if (vhost_front_wait_ready(&b->d.front, 5000, &err) < 0)
		fail_msg("%s", err.text);
	driver_start(&b->d);
}

static void bench_fini(struct io_bench *b)
{
	io_end(b);
	driver_fini(&b->d);
	close(b->disk);
	close(b->board);
	while (b->nrings)
		close(b->rings[--b->nrings]);
}

static void killed_with_much_in_flight(void **state)
{
	struct io_bench b;

	(void)state;
	bench_init(&b, 4, 16);
	for (unsigned int i = 1; i <= 60; i++) {
		driver_run(&b.d, 30 + i);
		driver_submit(&b.d);
		usleep(11 * (i % 23));
		io_end(&b);
		if (i % 3 == 0)
			driver_update(&b.d);
		driver_until(&b.d, &b.d.lost, i);
		if (i % 4 == 0)
			driver_update(&b.d);
		io_start(&b);
	}
	driver_verify(&b.d);
	assert_true(vhost_front_keeps_inflight(&b.d.front));
	assert_int_equal(b.d.requests_lost + b.d.failed, 0);
	bench_fini(&b);
}

/* Replaced: the old drains, the new goes on. */
static void replaced_under_load(void **state)
{
	struct io_bench b;

	(void)state;
	bench_init(&b, 4, 16);
	for (unsigned int i = 1; i <= 30; i++) {
		driver_run(&b.d, 100);
		driver_submit(&b.d);
		vhost_front_stop(&b.d.front, false);
		driver_until(&b.d, &b.d.stopped, i);
		io_end(&b);
		io_start(&b);
		driver_start(&b.d);
		for (unsigned int k = 0; k < i; k++)
			driver_update(&b.d);
	}
	driver_verify(&b.d);
	assert_int_equal(b.d.requests_lost + b.d.failed, 0);
	bench_fini(&b);
}

static void updated_under_load(void **state)
{
	struct io_bench b;

	(void)state;
	bench_init(&b, 4, 16);
	for (unsigned int i = 0; i < 500; i++) {
		driver_run(&b.d, 20);
		driver_submit(&b.d);
		driver_update(&b.d);
	}
	driver_verify(&b.d);
	assert_int_equal(b.d.lost + b.d.failed, 0);
	bench_fini(&b);
}

/* Device resets, with requests in flight that nobody waits for but the front-end. */
static void reset_under_load(void **state)
{
	struct io_bench b;

	(void)state;
	bench_init(&b, 2, 16);
	for (unsigned int i = 1; i <= 50; i++) {
		driver_run(&b.d, 50);
		driver_submit(&b.d);
		vhost_front_stop(&b.d.front, true);
		driver_until(&b.d, &b.d.stopped, i);
		driver_reset_rings(&b.d);
		driver_start(&b.d);
	}
	driver_verify(&b.d);
	assert_int_equal(b.d.lost + b.d.failed, 0);
	bench_fini(&b);
}

/* A queue that has just done all that there was, and is about to sleep. */
static void reset_when_idle(void **state)
{
	struct io_bench b;

	(void)state;
	bench_init(&b, 2, 16);
	for (unsigned int i = 1; i <= 500; i++) {
		driver_run(&b.d, 1 + i % 8);
		driver_finish(&b.d);
		vhost_front_stop(&b.d.front, true);
		driver_until(&b.d, &b.d.stopped, i);
		driver_reset_rings(&b.d);
		driver_start(&b.d);
	}
	assert_int_equal(b.d.lost + b.d.failed, 0);
	bench_fini(&b);
}

static int on_threads(void **state)
{
	(void)state;
	by_io_uring = false;
	return 0;
}

static int on_io_uring(void **state)
{
	(void)state;
	by_io_uring = true;
	return 0;
}

/* clang-format off */
#define BY_BOTH(test) \
	{ #test ": threads", test, on_threads, NULL, NULL }, \
	{ #test ": io_uring", test, on_io_uring, NULL, NULL }
/* clang-format on */

int main(void)
{
	const struct CMUnitTest tests[] = {
		BY_BOTH(updated_under_load),
		BY_BOTH(reset_under_load),
		BY_BOTH(reset_when_idle),
		BY_BOTH(replaced_under_load),
		BY_BOTH(killed_with_much_in_flight),
	};

	if (!getenv("MOLT")) {
		print_message("MOLT is not set\n");
		return 77;
	}
	return cmocka_run_group_tests_name("vhost_io", tests, NULL, NULL);
}
