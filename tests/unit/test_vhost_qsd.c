/* SPDX-License-Identifier: MIT */
/* The front-end with QEMU's storage daemon, as distributions have it. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "vhost_daemon.h"

#define WITH_DAEMON(b, queues, depth) WITH_IMAGE(b, "raw", queues, depth)
#define WITH_IMAGE(b, format, queues, depth) \
	struct daemon_bench b; \
\
	(void)state; \
	if (!daemon_bench_init(&b, format, queues, depth)) \
		skip(); \
	daemon_start(&b); \
	daemon_wait_ready(&b)

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
	daemon_bench_fini(&b);
}

static void reads_and_writes_qcow2(void **state)
{
	WITH_IMAGE(b, "qcow2", 2, 8);
	driver_start(&b.d);
	for (unsigned int i = 0; i < 50; i++) {
		driver_run(&b.d, 60);
		driver_submit(&b.d);
		driver_update(&b.d);
	}
	daemon_end(&b, SIGTERM);
	daemon_start(&b);
	driver_run(&b.d, 500);
	driver_verify(&b.d);
	assert_int_equal(b.d.running, 2);
	assert_int_equal(b.d.failed, 0);
	daemon_bench_fini(&b);
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
	daemon_bench_fini(&b);
}

/* So often, or as often as a long run has time for. */
static unsigned int times(unsigned int usual)
{
	const char *tier = getenv("MOLT_TIER");

	return tier && strcmp(tier, "all") == 0 ? 20 * usual : usual;
}

/* As RING_RESET has it: one queue begins anew, with requests in flight, the others go on. */
static void one_queue_begins_anew(void **state)
{
	WITH_DAEMON(b, 3, 8);
	driver_start(&b.d);
	for (unsigned int i = 1; i <= 30; i++) {
		unsigned int queue = i % 3;

		driver_run(&b.d, 50);
		driver_submit(&b.d);
		b.d.queue[queue].quiet = true;
		assert_int_equal(vhost_front_stop_queue(&b.d.front, queue), 0);
		while (b.d.queue_stopped < i)
			driver_run(&b.d, 1);
		driver_reset_queue(&b.d, queue);
		driver_start_queue(&b.d, queue);
		b.d.queue[queue].quiet = false;
	}
	driver_verify(&b.d);
	assert_int_equal(b.d.lost + b.d.failed + b.d.stopped, 0);
	assert_int_equal(b.d.running, 1);
	daemon_bench_fini(&b);
}

static void kill_and_start(struct daemon_bench *b, int sig, unsigned int n)
{
	driver_start(&b->d);
	for (unsigned int i = 0; i < n; i++) {
		/* The first queue works before the back-end says that it has all of them. */
		driver_until(&b->d, &b->d.running, i + 1);
		driver_run(&b->d, 50 + 7 * (i % 10));
		assert_true(driver_submit(&b->d) > 0);
		usleep(13 * (i % 20));
		daemon_end(b, sig);
		driver_until(&b->d, &b->d.lost, i + 1);
		daemon_start(b);
		driver_run(&b->d, 200);
	}
	driver_verify(&b->d);
	assert_int_equal(b->d.lost, n);
	assert_int_equal(b->d.running, n + 1);
	assert_int_equal(b->d.failed, 0);
}

/* It finishes what it has begun before it ends. */
static void terminated_and_started_again(void **state)
{
	WITH_DAEMON(b, 4, 16);
	kill_and_start(&b, SIGTERM, times(4));
	daemon_bench_fini(&b);
}

/* It keeps no inflight table: one request a queue is what it can lose without harm. */
static void killed_and_started_again(void **state)
{
	WITH_DAEMON(b, 4, 1);
	kill_and_start(&b, SIGKILL, times(4));
	assert_false(vhost_front_keeps_inflight(&b.d.front));
	daemon_bench_fini(&b);
}

/*
 * With more than one it may have finished a later one first. Then the owner is told, and does what
 * a reset does; in no case comes a request back twice, never, or wrong.
 */
static void killed_with_much_in_flight(void **state)
{
	unsigned int lost = 0, kills = times(8);

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
	print_message("# %u of %u times requests were lost\n", lost, kills);
	daemon_bench_fini(&b);
}

/* An update every few milliseconds, in this process: the daemon is told nothing. */
static void updated_while_it_works(void **state)
{
	WITH_DAEMON(b, 4, 8);
	driver_start(&b.d);
	for (unsigned int i = 0; i < 300; i++) {
		driver_run(&b.d, 20 + i % 7);
		driver_submit(&b.d);
		driver_update(&b.d);
	}
	driver_verify(&b.d);
	assert_int_equal(b.d.lost + b.d.failed, 0);
	assert_int_equal(b.d.running, 1);
	daemon_bench_fini(&b);
}

/* The same, with a daemon that ends and comes again: at any moment of the setup, too. */
static void updated_while_it_comes_and_goes(void **state)
{
	WITH_DAEMON(b, 4, 8);
	driver_start(&b.d);
	for (unsigned int i = 0; i < 5; i++) {
		driver_run(&b.d, 20);
		driver_submit(&b.d);
		daemon_end(&b, SIGTERM);
		daemon_start(&b);
		for (unsigned int k = 0; k < 400; k++) {
			driver_run_for(&b.d, k % 3);
			driver_update(&b.d);
		}
		driver_run(&b.d, 20);
	}
	driver_verify(&b.d);
	assert_int_equal(b.d.failed, 0);
	daemon_bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(reads_and_writes_qcow2),
		cmocka_unit_test(stops_and_starts),
		cmocka_unit_test(one_queue_begins_anew),
		cmocka_unit_test(terminated_and_started_again),
		cmocka_unit_test(killed_and_started_again),
		cmocka_unit_test(killed_with_much_in_flight),
		cmocka_unit_test(updated_while_it_works),
		cmocka_unit_test(updated_while_it_comes_and_goes),
	};

	return cmocka_run_group_tests_name("vhost_qsd", tests, NULL, NULL);
}
