/* SPDX-License-Identifier: MIT */
/* What the owner asks for at any time, and back-ends that come and go. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../../src/virtio/vhost_front_impl.h"
#include "vhost_driver.h"
#include "vhost_mock.h"
#include "vhost_user_bench.h"

#define QUEUES 2
#define AVAIL 0x1000 /* in a queue's area, as vhost_driver.c has it */
#define USED 0x2000

struct stage {
	struct driver d;
	struct mock mock;
	unsigned int fds_before;
};

static void new_mock(struct stage *s)
{
	int fd;

	if (s->mock.conn.role)
		mock_fini(&s->mock);
	mock_init(&s->mock, &fd);
	s->mock.queues = QUEUES;
	vhost_front_give_socket(&s->d.front, fd);
}

static void stage_init(struct stage *s)
{
	memset(s, 0, sizeof(*s));
	log_set_level(LOG_LEVEL_ERROR - 1);
	s->fds_before = open_descriptors();
	driver_init(&s->d, NULL, QUEUES, 1);
	s->d.front.setup.drain_ms = s->d.setup.drain_ms = 5000;
	s->d.front.setup.reply_ms = s->d.setup.reply_ms = 5000;
	vhost_front_resume(&s->d.front);
}

static void stage_fini(struct stage *s)
{
	if (s->mock.conn.role)
		mock_fini(&s->mock);
	driver_fini(&s->d);
	assert_int_equal(open_descriptors(), s->fds_before);
}

/* So long, and not fewer than on a machine that lets this process run all the while. */
static void turns(struct stage *s, unsigned int ms)
{
	uint64_t until = now_ns() + ms * 1000000ull;

	for (unsigned int i = 0; i < 5 * ms || now_ns() < until; i++) {
		mock_serve(&s->mock);
		assert_int_equal(loop_turn(s->d.loop, 0), 0);
	}
}

static void until(struct stage *s, const unsigned int *what, unsigned int value)
{
	uint64_t end = now_ns() + 5000000000ull;

	while (*what < value) {
		mock_serve(&s->mock);
		assert_int_equal(loop_turn(s->d.loop, 1), 0);
		if (now_ns() > end)
			fail_msg("waited in vain; %s; %s",
				 vhost_front_state_name(vhost_front_state(&s->d.front)),
				 s->d.last_error.text);
	}
}

static void run(struct stage *s)
{
	stage_init(s);
	new_mock(s);
	until(s, &s->d.ready, 1);
	driver_start(&s->d);
	until(s, &s->d.running, 1);
}

static void put16(struct stage *s, unsigned int queue, uint32_t offset, uint16_t value)
{
	assert_int_equal(memory_write(&s->d.mem, s->d.queue[queue].gpa + offset, &value,
				      sizeof(value)),
			 0);
}

static unsigned int times_seen(const struct mock *m, uint32_t request)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < m->count; i++)
		n += m->seen[i] == request;
	return n;
}

static void started_while_disconnected(void **state)
{
	struct stage s;

	(void)state;
	stage_init(&s);
	new_mock(&s);
	until(&s, &s.d.ready, 1);
	fd_close(&s.mock.conn.fd);
	until(&s, &s.d.lost, 1);
	driver_start(&s.d);
	turns(&s, 5);
	assert_int_equal(vhost_front_state(&s.d.front), VHOST_FRONT_DISCONNECTED);
	new_mock(&s);
	until(&s, &s.d.running, 1);
	assert_int_equal(s.d.ready, 2);
	stage_fini(&s);
}

static void stopped_while_disconnected(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	fd_close(&s.mock.conn.fd);
	until(&s, &s.d.lost, 1);
	put16(&s, 1, USED + 2, 77);
	assert_int_equal(vhost_front_stop(&s.d.front, false), 0);
	assert_int_equal(vhost_front_stop(&s.d.front, false), -EALREADY);
	assert_int_equal(vhost_front_start(&s.d.front, 0), -EBUSY);
	until(&s, &s.d.stopped, 1);
	assert_int_equal(s.d.queue_stopped, 2);
	assert_int_equal(s.d.queue[1].base, 0); /* it was lost before anything came */
	stage_fini(&s);
}

static void stopped_before_a_back_end_came(void **state)
{
	struct stage s;

	(void)state;
	stage_init(&s);
	assert_int_equal(vhost_front_start(&s.d.front, 1), -EINVAL);
	assert_int_equal(vhost_front_start(&s.d.front, 0), 0);
	assert_int_equal(vhost_front_stop(&s.d.front, true), 0);
	until(&s, &s.d.stopped, 1);
	stage_fini(&s);
}

/* At each message of the setup: it is set up to its end and taken back, and can be started again. */
static void stopped_while_it_is_set_up(void **state)
{
	(void)state;
	for (unsigned int at = 7; at < 24; at++) {
		struct stage s;

		stage_init(&s);
		new_mock(&s);
		until(&s, &s.d.ready, 1);
		driver_start(&s.d);
		while (s.mock.count < at) {
			mock_serve(&s.mock);
			loop_turn(s.d.loop, 1);
		}
		vhost_front_stop(&s.d.front, at % 2);
		until(&s, &s.d.stopped, 1);
		driver_start(&s.d);
		until(&s, &s.d.running, at < 24 ? 1 : 2);
		turns(&s, 2);
		assert_int_equal(vhost_front_state(&s.d.front), VHOST_FRONT_RUNNING);
		assert_int_equal(s.d.lost + s.d.failed, 0);
		stage_fini(&s);
	}
}

static void one_queue_alone(void **state)
{
	struct vhost_front_queue q = { .size = 32,
				       .desc = 0x200000,
				       .avail = 0x201000,
				       .used = 0x202000,
				       .base = 9,
				       .enabled = true };
	unsigned int before;
	struct stage s;

	(void)state;
	run(&s);
	before = s.mock.count;
	s.mock.base[1] = 5;
	put16(&s, 1, USED + 2, 5);
	assert_int_equal(vhost_front_stop_queue(&s.d.front, 1), 0);
	assert_int_equal(vhost_front_stop_queue(&s.d.front, 1), -ENOENT);
	assert_int_equal(vhost_front_start_queue(&s.d.front, 1, &q), -EBUSY);
	until(&s, &s.d.queue_stopped, 1);
	assert_int_equal(s.d.queue[1].base, 5);
	assert_int_equal(s.mock.count, before + 1);
	assert_int_equal(vhost_front_start_queue(&s.d.front, 1, &q), 0);
	turns(&s, 20);
	assert_int_equal(s.mock.base[1], 9);
	assert_int_equal(s.mock.count, before + 1 + 6 + 1);
	assert_int_equal(vhost_front_state(&s.d.front), VHOST_FRONT_RUNNING);
	assert_int_equal(s.d.stopped + s.d.lost, 0);
	stage_fini(&s);
}

static void a_queue_that_cannot_be(void **state)
{
	static const struct {
		unsigned int queue;
		uint16_t size;
	} wrong[] = { { QUEUES, 64 }, { 64, 64 }, { UINT32_MAX, 64 },
		      { 0, 0 },       { 0, 3 },   { 0, 65535 } };
	static const uint64_t outside[][3] = {
		{ 16 << 20, 0x2000, 0x3000 },         { 0x1000, 16 << 20, 0x3000 },
		{ 0x1000, 0x2000, (16 << 20) - 512 }, { UINT64_MAX - 15, 0x2000, 0x3000 },
		{ 0x1008, 0x2000, 0x3000 },           { 0x1000, 0x2001, 0x3000 },
		{ 0x1000, 0x2000, 0x3002 },
	};
	struct stage s;

	(void)state;
	stage_init(&s);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct vhost_front_queue q = { .size = wrong[i].size };

		assert_int_equal(vhost_front_start_queue(&s.d.front, wrong[i].queue, &q), -EINVAL);
	}
	assert_int_equal(vhost_front_stop_queue(&s.d.front, UINT32_MAX), -ENOENT);
	for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
		struct vhost_front_queue q = { .size = 64,
					       .desc = outside[i][0],
					       .avail = outside[i][1],
					       .used = outside[i][2] };

		assert_int_equal(vhost_front_start_queue(&s.d.front, 0, &q), -EFAULT);
	}
	stage_fini(&s);
}

/* The answer comes before the last requests are done: then it is not told yet. */
static void a_back_end_that_answers_too_early(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	s.mock.base[0] = 4;
	put16(&s, 0, USED + 2, 3);
	vhost_front_stop_queue(&s.d.front, 0);
	turns(&s, 30);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_GET_VRING_BASE), 1);
	assert_int_equal(s.d.queue_stopped, 0);
	driver_update(&s.d);
	turns(&s, 10);
	assert_int_equal(s.d.queue_stopped, 0);
	put16(&s, 0, USED + 2, 4);
	until(&s, &s.d.queue_stopped, 1);
	assert_int_equal(s.d.lost, 0);
	stage_fini(&s);
}

/* The guest has written nonsense there: nobody waits for it. */
static void a_used_index_that_cannot_be(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	put16(&s, 0, USED + 2, 30000);
	vhost_front_stop_queue(&s.d.front, 0);
	until(&s, &s.d.queue_stopped, 1);
	assert_int_equal(s.d.lost, 0);
	stage_fini(&s);
}

/* It loses the connection, the queue is told to be stopped, and the others come back. */
static void a_back_end_that_never_gives_a_queue_back(void **state)
{
	uint8_t table[8192];
	struct stage s;
	struct stat first, second;

	(void)state;
	run(&s);
	memset(table, 0xaa, sizeof(table));
	assert_int_equal(pwrite(s.mock.inflight, table, sizeof(table), 0), sizeof(table));
	assert_int_equal(fstat(s.mock.inflight, &first), 0);
	put16(&s, 1, USED + 2, 6);
	s.d.front.setup.drain_ms = 60;
	vhost_front_stop_queue(&s.d.front, 1);
	s.mock.silent = true;
	until(&s, &s.d.lost, 1);
	until(&s, &s.d.queue_stopped, 1);
	assert_int_equal(s.d.queue[1].base, 6);
	assert_non_null(strstr(s.d.last_error.text, "in flight"));
	new_mock(&s);
	until(&s, &s.d.running, 2);
	/* The table went to the new one, without what the queue had in it. */
	assert_int_equal(times_seen(&s.mock, VHOST_USER_GET_INFLIGHT_FD), 0);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_SET_INFLIGHT_FD), 1);
	assert_int_equal(fstat(s.d.front.inflight_fd, &second), 0);
	assert_int_equal(first.st_ino, second.st_ino);
	assert_int_equal(pread(s.d.front.inflight_fd, table, sizeof(table), 0), sizeof(table));
	assert_int_equal(table[0], 0xaa);
	assert_int_equal(table[4095], 0xaa);
	for (size_t i = 4096; i < sizeof(table); i++)
		assert_int_equal(table[i], 0);
	stage_fini(&s);
}

static void fill_table(struct stage *s)
{
	uint8_t table[8192];

	memset(table, 0xaa, sizeof(table));
	assert_int_equal(pwrite(s->d.front.inflight_fd, table, sizeof(table), 0), sizeof(table));
}

/* Of the last of its two queues nothing is known, of the first all. */
static void table_has_the_first_alone(struct stage *s)
{
	uint8_t table[8192];

	assert_int_equal(pread(s->d.front.inflight_fd, table, sizeof(table), 0), sizeof(table));
	for (size_t i = 0; i < sizeof(table); i++)
		assert_int_equal(table[i], i < 4096 ? 0xaa : 0);
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_false(s->d.guest.queue_flags[i] & QUEUE_DEAD);
}

static void reset_the_last(struct stage *s)
{
	vhost_front_stop_queue(&s->d.front, 1);
	until(s, &s->d.queue_stopped, s->d.queue_stopped + 1);
	vhost_front_forget_queue(&s->d.front, 1);
}

/*
 * The back-end has died with requests of a queue in flight, and the driver resets that queue before
 * the next one is there, or before that has it. What the table has is of rings that are no more.
 */
static void a_queue_that_is_reset_while_nobody_has_it(void **state)
{
	struct stage s;

	(void)state;
	for (unsigned int connected = 0; connected < 2; connected++) {
		run(&s);
		fill_table(&s);
		fd_close(&s.mock.conn.fd);
		until(&s, &s.d.lost, 1);
		for (new_mock(&s); connected && s.d.guest.step != STEP_SESSION;) {
			mock_serve(&s.mock);
			assert_int_equal(loop_turn(s.d.loop, 0), 0);
		}
		reset_the_last(&s);
		driver_reset_queue(&s.d, 1);
		driver_start_queue(&s.d, 1);
		until(&s, &s.d.running, 2);
		table_has_the_first_alone(&s);
		stage_fini(&s);
	}
}

/* And what comes after it is not forgotten by who is next. */
static void a_queue_that_is_reset_while_it_is_served(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	fill_table(&s);
	reset_the_last(&s);
	table_has_the_first_alone(&s);
	stage_fini(&s);
}

static void the_inflight_table_is_kept_until_a_reset(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	vhost_front_stop(&s.d.front, false);
	until(&s, &s.d.stopped, 1);
	driver_start(&s.d);
	until(&s, &s.d.running, 2);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_GET_INFLIGHT_FD), 1);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_SET_INFLIGHT_FD), 2);
	vhost_front_stop(&s.d.front, true);
	until(&s, &s.d.stopped, 2);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_RESET_DEVICE), 1);
	driver_start(&s.d);
	until(&s, &s.d.running, 3);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_GET_INFLIGHT_FD), 2);
	stage_fini(&s);
}

static void an_inflight_table_that_is_none(void **state)
{
	static const uint64_t sizes[] = { 0, QUEUES - 1, 8193, 1ull << 40, UINT64_MAX };
	struct stage s;

	(void)state;
	stage_init(&s);
	new_mock(&s);
	until(&s, &s.d.ready, 1);
	driver_start(&s.d);
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		s.mock.inflight_size = sizes[i];
		until(&s, &s.d.failed, i + 1);
		assert_non_null(strstr(s.d.last_error.text, "GET_INFLIGHT_FD"));
		new_mock(&s);
	}
	fd_close(&s.mock.inflight);
	s.mock.inflight = open("/dev/null", O_RDWR | O_CLOEXEC);
	until(&s, &s.d.failed, ARRAY_SIZE(sizes) + 1);
	assert_non_null(strstr(s.d.last_error.text, "no memory"));
	assert_false(s.d.running);
	stage_fini(&s);
}

/* What it has of queues that were given up goes, and nobody pays for what was never in it. */
static void a_large_inflight_table(void **state)
{
	const off_t size = 64 << 20, last = size / QUEUES + 100;
	struct stage s;
	struct stat st;
	char byte = 1;

	(void)state;
	stage_init(&s);
	new_mock(&s);
	assert_int_equal(ftruncate(s.mock.inflight, size), 0);
	s.mock.inflight_size = (uint64_t)size;
	until(&s, &s.d.ready, 1);
	driver_start(&s.d);
	until(&s, &s.d.running, 1);
	assert_int_equal(pwrite(s.mock.inflight, &byte, 1, 1), 1);
	assert_int_equal(pwrite(s.mock.inflight, &byte, 1, last), 1);
	vhost_front_stop(&s.d.front, false);
	until(&s, &s.d.stopped, 1);
	vhost_front_forget_queue(&s.d.front, 1);
	driver_start(&s.d);
	until(&s, &s.d.running, 2);
	assert_int_equal(pread(s.mock.inflight, &byte, 1, last), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(pread(s.mock.inflight, &byte, 1, 1), 1);
	assert_int_equal(byte, 1);
	assert_int_equal(fstat(s.mock.inflight, &st), 0);
	assert_in_range(st.st_blocks * 512, 0, 1 << 20);
	stage_fini(&s);
}

/* DPDK's memfd allows no seals, and a back-end may forbid them later. */
static void an_inflight_table_without_seals(void **state)
{
	struct stage s;

	(void)state;
	stage_init(&s);
	new_mock(&s);
	fd_close(&s.mock.inflight);
	s.mock.inflight = memfd_create("inflight", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s.mock.inflight, 8192), 0);
	until(&s, &s.d.ready, 1);
	driver_start(&s.d);
	until(&s, &s.d.running, 1);
	driver_update(&s.d);
	assert_true(s.d.front.inflight_fd >= 0);
	stage_fini(&s);
	run(&s);
	assert_int_equal(fcntl(s.mock.inflight, F_ADD_SEALS, F_SEAL_SEAL), 0);
	driver_update(&s.d);
	assert_int_equal(s.d.lost + s.d.failed, 0);
	stage_fini(&s);
}

static uint64_t taken(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void nothing_waits_after_a_restart_at(uint16_t used)
{
	struct stage s;

	run(&s);
	assert_int_equal(taken(s.d.queue[0].kick), 1);
	assert_int_equal(s.d.queue[0].interrupts, 0);
	put16(&s, 0, USED + 2, used);
	fd_close(&s.mock.conn.fd);
	until(&s, &s.d.lost, 1);
	new_mock(&s);
	until(&s, &s.d.running, 2);
	assert_int_equal(s.mock.base[0], used);
	assert_int_equal(taken(s.d.queue[0].kick), 1);
	turns(&s, 5);
	assert_int_equal(s.d.queue[0].interrupts, 1);
	assert_int_equal(s.d.config_changed, 0);
	stage_fini(&s);
}

/*
 * Each queue is kicked and each interrupt raised once, with the index that guest RAM has; after
 * 65536 requests that is 0 again.
 */
static void nothing_waits_for_ever(void **state)
{
	(void)state;
	nothing_waits_after_a_restart_at(300);
	nothing_waits_after_a_restart_at(0);
}

static void somebody_waits(void *opaque)
{
	++*(unsigned int *)opaque;
}

/* The device stands still until the update is over, which is to hurry then. */
static void a_loss_while_the_loop_is_held(void **state)
{
	unsigned int waited = 0;
	struct stage s;

	(void)state;
	run(&s);
	turns(&s, 5);
	loop_hold(s.d.loop, somebody_waits, &waited);
	vhost_front_quiesce(&s.d.front);
	turns(&s, 5);
	assert_int_equal(waited, 0);
	fd_close(&s.mock.conn.fd);
	turns(&s, 5);
	assert_int_equal(waited, 1);
	assert_int_equal(s.d.lost, 0);
	vhost_front_resume(&s.d.front);
	loop_release(s.d.loop);
	until(&s, &s.d.lost, 1);
	new_mock(&s);
	until(&s, &s.d.running, 2);
	stage_fini(&s);
}

/* The flag that says so is the back-end's as well, and QEMU's clears it. */
static void a_full_eventfd_that_blocks(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	struct stage s;

	(void)state;
	run(&s);
	taken(s.d.queue[0].kick);
	assert_int_equal(fd_set_nonblock(s.d.queue[0].kick, false), 0);
	assert_int_equal(write(s.d.queue[0].kick, &full, sizeof(full)), sizeof(full));
	fd_close(&s.mock.conn.fd);
	until(&s, &s.d.lost, 1);
	new_mock(&s);
	alarm(20);
	until(&s, &s.d.running, 2);
	alarm(0);
	stage_fini(&s);
}

/* What a dead back-end without an inflight table has left in the rings of queue 0, of 64. */
static const struct leftover {
	const char *what;
	const char *came;    /* a letter for each request, the last of them in flight or not */
	const char *done;    /* in this order */
	unsigned int before; /* requests long done, in order, before them */
	bool lost;
	const char *taken; /* of those that came, where the back-end says so */
} leftovers[] = {
	{ "nothing was asked", "", "", 0, false, NULL },
	{ "nothing was done yet", "abc", "", 0, false, NULL },
	{ "all is done, in another order", "abcd", "dbca", 0, false, NULL },
	{ "the last is in flight", "abcd", "abc", 0, false, NULL },
	{ "the first is in flight", "abcd", "bcd", 0, true, NULL },
	{ "one in the middle is", "abcdefgh", "abcefg", 0, true, NULL },
	{ "another order, then the last is", "abcdef", "badce", 0, false, NULL },
	{ "all is done, after long, in another order", "abcd", "dbca", 1000, false, NULL },
	{ "in order for long", "abcd", "ab", 1000, false, NULL },
	{ "out of order at the end", "abcd", "bc", 1000, true, NULL },
	{ "another order, all of them done", "abcd", "bac", 1000, true, NULL },
	{ "the indices have wrapped", "abcd", "ab", 65534, false, NULL },
	{ "the same, and the first is in flight", "abcd", "bcd", 65533, true, NULL },
	{ "it had taken no more than is done", "abcdef", "bac", 1000, false, "abc" },
	{ "it had taken one more", "abcdef", "bac", 1000, true, "abcd" },
	{ "it had taken one more, in order", "abcdef", "abc", 1000, false, "abcd" },
	{ "it says what cannot be", "abcd", "bac", 1000, true, "abcdefgh" },
	{ "too many to tell", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV", "", 1000, true,
	  NULL },
	/* The last of each four first, as always; then one more, which is the last again. */
	{ "always in the same other order", "abcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcd",
	  "dabcdabcdabcdabcdabcdabcdabcdabcdabcdabcd", 1000, true, NULL },
};

/* At a free-running index; of the letters the number. */
static void put_head(struct stage *s, uint32_t ring, size_t index, unsigned int head)
{
	uint32_t entry = ring == AVAIL ? 2 : 8;

	put16(s, 0, ring + 4 + entry * (uint32_t)(index % DRIVER_SIZE), (uint16_t)(head % 64));
}

static void put_rings(struct stage *s, const struct leftover *l)
{
	size_t came = strlen(l->came), done = strlen(l->done);

	for (unsigned int i = 0; i < l->before; i++) {
		put_head(s, AVAIL, i, i % 50);
		put_head(s, USED, i, i % 50);
	}
	for (size_t i = 0; i < came; i++)
		put_head(s, AVAIL, l->before + i, (unsigned char)l->came[i]);
	for (size_t i = 0; i < done; i++)
		put_head(s, USED, l->before + i, (unsigned char)l->done[i]);
	put16(s, 0, AVAIL + 2, (uint16_t)(l->before + came));
	put16(s, 0, USED + 2, (uint16_t)(l->before + done));
	if (l->taken)
		put16(s, 0, USED + 4 + 8 * DRIVER_SIZE, (uint16_t)(l->before + strlen(l->taken)));
}

#define NO_TABLE (~(1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))

/* A back-end with these protocol features dies, and at its socket is one without a table. */
static void die_and_be_followed(struct stage *s, const struct leftover *l, uint64_t protocol)
{
	stage_init(s);
	new_mock(s);
	s->mock.protocol = protocol;
	s->d.no_event_idx = !l->taken;
	until(s, &s->d.ready, 1);
	driver_start(&s->d);
	until(s, &s->d.running, 1);
	put_rings(s, l);
	fd_close(&s->mock.conn.fd);
	until(s, &s->d.lost, 1);
	new_mock(s);
	s->mock.protocol = NO_TABLE;
}

static void died_without_an_inflight_table(const struct leftover *l)
{
	struct stage s;

	die_and_be_followed(&s, l, NO_TABLE);
	until(&s, &s.d.running, 2);
	if (s.d.requests_lost != l->lost)
		fail_msg("%s: %u", l->what, s.d.requests_lost);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_SET_VRING_KICK), l->lost ? 1 : 2);
	if (!l->lost)
		assert_int_equal(s.mock.base[0], (uint16_t)(l->before + strlen(l->done)));
	vhost_front_stop(&s.d.front, true);
	until(&s, &s.d.stopped, 1);
	driver_reset_rings(&s.d);
	driver_start(&s.d);
	until(&s, &s.d.running, 3);
	stage_fini(&s);
}

static void what_is_left_in_the_rings(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(leftovers); i++)
		died_without_an_inflight_table(&leftovers[i]);
}

/* The next one without a table can go on only where the rings say enough, and ends the table. */
static void died_with_an_inflight_table(const struct leftover *l)
{
	struct stage s;

	die_and_be_followed(&s, l, UINT64_MAX);
	if (l->lost) {
		until(&s, &s.d.failed, 1);
		assert_non_null(strstr(s.d.last_error.text, "of queue 0"));
		assert_int_equal(times_seen(&s.mock, VHOST_USER_SET_VRING_KICK), 0);
		new_mock(&s);
	}
	until(&s, &s.d.running, 2);
	assert_int_equal(s.d.requests_lost, 0);
	assert_int_equal(s.mock.base[0], (uint16_t)(l->before + strlen(l->done)));
	assert_int_equal(s.d.guest.has_inflight, l->lost);
	/* One that keeps one again gets none that is out of date. */
	fd_close(&s.mock.conn.fd);
	until(&s, &s.d.lost, s.d.lost + 1);
	new_mock(&s);
	until(&s, &s.d.running, 3);
	assert_int_equal(times_seen(&s.mock, VHOST_USER_GET_INFLIGHT_FD), !l->lost);
	stage_fini(&s);
}

static void a_back_end_without_a_table_after_one_with(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(leftovers); i++)
		died_with_an_inflight_table(&leftovers[i]);
}

/* What comes back must be as good. */
static void less_than_before(struct stage *s, const char *words)
{
	until(s, &s->d.failed, s->d.failed + 1);
	if (!strstr(s->d.last_error.text, words))
		fail_msg("'%s' is not in '%s'", words, s->d.last_error.text);
	assert_int_equal(s->d.running, 1);
}

static void another_version_of_the_back_end(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	fd_close(&s.mock.conn.fd);
	until(&s, &s.d.lost, 1);
	new_mock(&s);
	s.mock.features = ~(1ull << 9);
	less_than_before(&s, "0x200");
	new_mock(&s);
	s.mock.queues = 1;
	less_than_before(&s, "1 queues");
	new_mock(&s);
	s.mock.config[20] = 7;
	less_than_before(&s, "geometry");
	new_mock(&s);
	s.mock.protocol = 0;
	less_than_before(&s, "CONFIG");
	new_mock(&s);
	s.mock.protocol = ~1ull;
	less_than_before(&s, "MQ");
	/* One feature less that the guest does not use, and a larger disk. */
	new_mock(&s);
	s.mock.features = ~(1ull << 13);
	s.mock.config[3] = 1;
	until(&s, &s.d.running, 2);
	assert_int_equal(s.d.config_changed, 1);
	assert_int_equal(vhost_front_config(&s.d.front)[3], 1);
	assert_int_equal(vhost_front_features(&s.d.front),
			 UINT64_MAX & ~(1ull << VHOST_USER_F_PROTOCOL_FEATURES));
	stage_fini(&s);
}

/* The guest has chosen nothing yet, but was shown everything. */
static void less_than_the_guest_was_shown(void **state)
{
	struct stage s;

	(void)state;
	stage_init(&s);
	new_mock(&s);
	s.mock.features = 1;
	until(&s, &s.d.failed, 1);
	assert_non_null(strstr(s.d.last_error.text, "molt needs"));
	new_mock(&s);
	until(&s, &s.d.ready, 1);
	new_mock(&s);
	s.mock.features = ~(1ull << 13);
	until(&s, &s.d.failed, 2);
	assert_non_null(strstr(s.d.last_error.text, "was shown"));
	stage_fini(&s);
}

/* Requests of the back-end without end: the loop goes on, and each turn has an end. */
static void a_flood_on_the_channel(void **state)
{
	struct wire w = wire(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, VHOST_USER_VERSION, 0);
	struct stage s;

	(void)state;
	run(&s);
	for (int i = 0; i < 3000; i++) {
		if (send(s.mock.channel, &w, 12, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
	}
	turns(&s, 20);
	assert_int_equal(vhost_front_state(&s.d.front), VHOST_FRONT_RUNNING);
	assert_int_equal(s.d.config_changed, 0);
	stage_fini(&s);
}

static void a_channel_that_takes_no_answers(void **state)
{
	struct wire w = wire(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
			     VHOST_USER_VERSION | VHOST_USER_FLAG_NEED_REPLY, 0);
	struct stage s;

	(void)state;
	run(&s);
	while (!s.d.failed) {
		if (s.mock.channel >= 0)
			send(s.mock.channel, &w, 12, MSG_DONTWAIT | MSG_NOSIGNAL);
		turns(&s, 0);
		loop_turn(s.d.loop, 0);
		mock_serve(&s.mock);
	}
	stage_fini(&s);
}

/* It waits for the rest of its message as long as the back-end likes: in no update's way. */
static void a_descriptor_that_answers_nothing(void **state)
{
	struct wire w = wire(99, VHOST_USER_VERSION, 0);
	int fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	struct stage s;

	(void)state;
	run(&s);
	send_wire(s.mock.channel, &w, 1, &fd, 1);
	turns(&s, 5);
	driver_update(&s.d);
	send_wire_from(s.mock.channel, &w, 1, 11, NULL, 0);
	turns(&s, 5);
	assert_int_equal(s.d.failed + s.d.lost, 0);
	stage_fini(&s);
	close(fd);
}

/* No molt saves that: it would be a descriptor that nobody closes. */
static void half_a_message_without_a_connection(void **state)
{
	struct fdtable *t = calloc(1, sizeof(*t));
	struct error err = ERROR_INIT;
	struct stage s;
	int fd, saved;

	(void)state;
	assert_non_null(t);
	stage_init(&s);
	vhost_front_quiesce(&s.d.front);
	s.d.guest.main_carried.in_len = 3;
	s.d.guest.main_carried.in_fds = 1;
	saved = driver_save_state(&s.d);
	vhost_front_destroy(&s.d.front);
	driver_load_state(&s.d, saved);
	close(saved);
	fd = fd_memfd("sent", 0);
	assert_int_equal(fdtable_add_as(t, "vhost-in", 3 * 16, fd, FD_KIND_OTHER, &err), 0);
	assert_int_equal(vhost_front_adopt(&s.d.front, 3, t, &err), -EINVAL);
	assert_non_null(strstr(err.text, "a message without a connection"));
	close(fd);
	free(t);
	stage_fini(&s);
}

static void a_closed_channel_is_no_fault(void **state)
{
	struct stage s;

	(void)state;
	run(&s);
	fd_close(&s.mock.channel);
	turns(&s, 5);
	assert_int_equal(s.d.front.channel.fd, -1);
	assert_int_equal(vhost_front_state(&s.d.front), VHOST_FRONT_RUNNING);
	driver_update(&s.d);
	turns(&s, 5);
	assert_int_equal(s.d.lost + s.d.failed, 0);
	stage_fini(&s);
}

/* The answer was there in time, and nobody looked. */
static void a_process_that_was_stopped(void **state)
{
	struct stage s;

	(void)state;
	stage_init(&s);
	s.d.front.setup.reply_ms = 200;
	new_mock(&s);
	loop_turn(s.d.loop, 0);
	loop_turn(s.d.loop, 0);
	while (mock_serve(&s.mock))
		;
	usleep(300000);
	loop_turn(s.d.loop, 0);
	s.d.front.setup.reply_ms = 5000;
	turns(&s, 20);
	assert_int_equal(s.d.failed + s.d.lost, 0);
	assert_int_equal(s.d.ready, 1);
	stage_fini(&s);
}

static void nobody_at_the_path(void **state)
{
	struct error err = ERROR_INIT;
	uint64_t begin = now_ns();
	struct driver d;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR - 1);
	driver_init(&d, "/nonexistent/socket", 1, 1);
	vhost_front_resume(&d.front);
	assert_int_equal(vhost_front_wait_ready(&d.front, 100, &err), -ETIMEDOUT);
	assert_true(now_ns() - begin > 100000000ull && now_ns() - begin < 2000000000ull);
	assert_non_null(strstr(err.text, "/nonexistent/socket"));
	assert_non_null(strstr(err.text, "No such file"));
	assert_non_null(strstr(err.text, "start it first"));
	driver_fini(&d);
}

/* Of a process that is molt's own nobody waits for another one. */
static void the_only_one_ends_at_once(void **state)
{
	struct error err = ERROR_INIT;
	uint64_t begin = now_ns();
	struct stage s;

	(void)state;
	stage_init(&s);
	new_mock(&s);
	fd_close(&s.mock.conn.fd);
	assert_int_equal(vhost_front_wait_ready(&s.d.front, 20000, &err), -ECONNRESET);
	assert_non_null(strstr(err.text, "before it was ready: it has ended"));
	assert_true(now_ns() - begin < 10000000000ull);
	stage_fini(&s);
}

/* Ctrl-C while somebody is waited for at a start. */
static void a_signal_that_ends_the_wait(void **state)
{
	struct error err = ERROR_INIT;
	uint64_t begin = now_ns();
	sigset_t ending;
	struct driver d;
	int sig;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR - 1);
	end_signals(&ending);
	assert_int_equal(sigprocmask(SIG_BLOCK, &ending, NULL), 0);
	driver_init(&d, "/nonexistent/socket", 1, 1);
	vhost_front_resume(&d.front);
	raise(SIGTERM);
	assert_int_equal(vhost_front_wait_ready(&d.front, 5000, &err), -EINTR);
	assert_true(now_ns() - begin < 4000000000ull);
	assert_int_equal(sigwait(&ending, &sig), 0);
	assert_int_equal(sig, SIGTERM);
	assert_int_equal(sigprocmask(SIG_UNBLOCK, &ending, NULL), 0);
	driver_fini(&d);
}

static int listener(const char *path, int backlog)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(sun.sun_path, path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

/* Its backlog is full: connect() would block, and does not. */
static void somebody_who_never_accepts(void **state)
{
	struct error err = ERROR_INIT;
	char path[64];
	struct driver d;
	int fd, hog[4];

	(void)state;
	log_set_level(LOG_LEVEL_ERROR - 1);
	snprintf(path, sizeof(path), "/tmp/molt-vhost-%d", getpid());
	fd = listener(path, 0);
	for (int i = 0; i < 4; i++) {
		struct sockaddr_un sun = { .sun_family = AF_UNIX };

		strcpy(sun.sun_path, path);
		hog[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(hog[i], (struct sockaddr *)&sun, sizeof(sun)) < 0)
			assert_int_equal(errno, EAGAIN);
	}
	driver_init(&d, path, 1, 1);
	vhost_front_resume(&d.front);
	assert_int_equal(vhost_front_wait_ready(&d.front, 100, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, path));
	for (int i = 0; i < 4; i++)
		close(hog[i]);
	driver_fini(&d);
	close(fd);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(started_while_disconnected),
		cmocka_unit_test(stopped_while_disconnected),
		cmocka_unit_test(stopped_before_a_back_end_came),
		cmocka_unit_test(stopped_while_it_is_set_up),
		cmocka_unit_test(one_queue_alone),
		cmocka_unit_test(a_queue_that_cannot_be),
		cmocka_unit_test(a_back_end_that_answers_too_early),
		cmocka_unit_test(a_used_index_that_cannot_be),
		cmocka_unit_test(a_back_end_that_never_gives_a_queue_back),
		cmocka_unit_test(a_queue_that_is_reset_while_nobody_has_it),
		cmocka_unit_test(a_queue_that_is_reset_while_it_is_served),
		cmocka_unit_test(the_inflight_table_is_kept_until_a_reset),
		cmocka_unit_test(an_inflight_table_that_is_none),
		cmocka_unit_test(a_large_inflight_table),
		cmocka_unit_test(an_inflight_table_without_seals),
		cmocka_unit_test(nothing_waits_for_ever),
		cmocka_unit_test(a_loss_while_the_loop_is_held),
		cmocka_unit_test(a_full_eventfd_that_blocks),
		cmocka_unit_test(what_is_left_in_the_rings),
		cmocka_unit_test(a_back_end_without_a_table_after_one_with),
		cmocka_unit_test(another_version_of_the_back_end),
		cmocka_unit_test(less_than_the_guest_was_shown),
		cmocka_unit_test(a_flood_on_the_channel),
		cmocka_unit_test(a_channel_that_takes_no_answers),
		cmocka_unit_test(a_descriptor_that_answers_nothing),
		cmocka_unit_test(half_a_message_without_a_connection),
		cmocka_unit_test(a_closed_channel_is_no_fault),
		cmocka_unit_test(a_process_that_was_stopped),
		cmocka_unit_test(nobody_at_the_path),
		cmocka_unit_test(the_only_one_ends_at_once),
		cmocka_unit_test(a_signal_that_ends_the_wait),
		cmocka_unit_test(somebody_who_never_accepts),
	};

	return cmocka_run_group_tests_name("vhost_restart", tests, NULL, NULL);
}
