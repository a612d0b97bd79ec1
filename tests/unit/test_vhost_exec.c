/* SPDX-License-Identifier: MIT */
/*
 * The front-end over real execs of this program, under load from QEMU's storage daemon: its state
 * in a stream, its descriptors in an fd table, guest RAM in its memfds. What the driver knows of
 * its requests goes along as bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "vhost_daemon.h"

#define ROUNDS "VHOST_ROUNDS" /* in the environment: how many execs are still to come */

static void must(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "successor: %s\n", what);
	exit(1);
}

static void add(struct fdtable *t, const char *name, unsigned int id, int fd)
{
	struct error err = ERROR_INIT;

	must(fdtable_add(t, name, id, fd, &err) == 0, err.text);
}

static int model_memfd(const struct driver *d)
{
	int fd = fd_memfd("model", 0);

	must(fd_write_all(fd, d, sizeof(*d)) == 0, "cannot write the model");
	return fd;
}

/* Does not return. */
static void become(struct driver *d, int rounds)
{
	struct fdtable *t = calloc(1, sizeof(*t));
	struct error err = ERROR_INIT;
	int memfd = fd_memfd("fdtable", 0);
	char number[16];

	vhost_front_quiesce(&d->front);
	must(vhost_front_save_fds(&d->front, 0, t, &err) == 0, err.text);
	must(memory_save_fds(&d->mem, t, &err) == 0, err.text);
	for (unsigned int i = 0; i < d->queues; i++) {
		add(t, "kick", i, d->queue[i].kick);
		add(t, "call", i, d->queue[i].call);
	}
	add(t, "state", 0, driver_save_state(d));
	add(t, "model", 0, model_memfd(d));
	must(fdtable_set_cloexec(t, false, &err) == 0, err.text);
	must(fdtable_write(t, memfd, &err) == 0, err.text);
	fd_set_cloexec(memfd, false);
	snprintf(number, sizeof(number), "%d", memfd);
	setenv(FDTABLE_ENV, number, 1);
	snprintf(number, sizeof(number), "%d", rounds);
	setenv(ROUNDS, number, 1);
	execl("/proc/self/exe", "test_vhost", "vhost_exec", NULL);
	must(false, "exec");
}

static void take_model(struct driver *d, struct fdtable *t)
{
	struct error err = ERROR_INIT;
	_cleanup_close_ int fd = fdtable_take(t, "model", 0, 0, &err);

	must(fd >= 0, err.text);
	must(pread(fd, d, sizeof(*d), 0) == sizeof(*d), "the model is short");
	memset(&d->front, 0, sizeof(d->front));
	memset(&d->mem, 0, sizeof(d->mem));
	must(memory_create(&d->mem, 16 << 20, NULL, t, &err) == 0, err.text);
	must(loop_create(&d->loop, &err) == 0, err.text);
	d->setup.loop = d->loop;
	d->setup.mem = &d->mem;
	d->setup.ops = &driver_ops;
	d->setup.opaque = d;
	d->setup.name = "disk0";
	d->setup.path = "/nonexistent"; /* nobody connects again */
	for (unsigned int i = 0; i < d->queues; i++) {
		d->queue[i].kick = fdtable_take(t, "kick", i, 0, &err);
		d->queue[i].call = fdtable_take(t, "call", i, 0, &err);
	}
	driver_watch(d);
}

static struct driver *take_over(void)
{
	struct fdtable *t = calloc(1, sizeof(*t));
	struct driver *d = calloc(1, sizeof(*d));
	int memfd = atoi(getenv(FDTABLE_ENV));
	struct error err = ERROR_INIT;
	int state;

	must(fdtable_read(t, memfd, &err) == 0, err.text);
	close(memfd);
	must(fdtable_set_cloexec(t, true, &err) == 0, err.text);
	take_model(d, t);
	state = fdtable_take(t, "state", 0, 0, &err);
	driver_load_state(d, state);
	close(state);
	must(vhost_front_adopt(&d->front, 0, t, &err) == 0, err.text);
	must(fdtable_check_taken(t, &err) == 0, err.text);
	free(t);
	vhost_front_resume(&d->front);
	return d;
}

/* Some work with something in flight at the end, then the next. */
static void work(struct driver *d, int rounds)
{
	if (rounds) {
		driver_run(d, 50 + (uint64_t)rounds);
		driver_submit(d);
		become(d, rounds - 1);
	}
	driver_verify(d);
	must(d->lost == 0 && d->failed == 0, "the connection was lost");
	must(d->running == 1, "it was set up again");
	driver_fini(d);
	exit(0);
}

static void executed_while_it_works(void **state)
{
	struct daemon_bench b;
	int status;
	pid_t pid;

	(void)state;
	if (!daemon_bench_init(&b, "raw", 4, 8))
		skip();
	daemon_start(&b);
	pid = fork();
	if (pid == 0) {
		daemon_wait_ready(&b);
		driver_start(&b.d);
		work(&b.d, 40);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	daemon_bench_fini(&b);
}

/* In a successor a failed assertion of cmocka's has to end the process, and be seen. */
static void successor(void **state)
{
	(void)state;
	work(take_over(), atoi(getenv(ROUNDS)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(executed_while_it_works),
	};
	const struct CMUnitTest successors[] = {
		cmocka_unit_test(successor),
	};

	if (getenv(ROUNDS))
		exit(cmocka_run_group_tests_name("successor", successors, NULL, NULL) ? 1 : 0);
	return cmocka_run_group_tests_name("vhost_exec", tests, NULL, NULL);
}
