/* SPDX-License-Identifier: MIT */
/* The front-end with a back-end that does each thing wrong once, and with an update at each moment.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "vhost_driver.h"
#include "vhost_mock.h"
#include "vhost_user_bench.h"

#define QUEUES 2
#define LONG_NS 5000000000ull

/* A device's life: ready, started, a configuration changed, stopped. */
struct scene {
	struct driver d;
	struct mock mock;
	bool mock_there;
	bool started, changed, stop_asked;
	unsigned int turns;
	uint64_t since_ns;      /* the mock is there */
	unsigned int update_at; /* 0: never; then each turn from here on is one if update_all */
	bool update_all;
	uint64_t protocol;
	unsigned int fds_before;
};

static void new_mock(struct scene *s)
{
	int fd;

	if (s->mock_there)
		mock_fini(&s->mock);
	mock_init(&s->mock, &fd);
	s->mock_there = true;
	s->since_ns = now_ns();
	s->mock.protocol = s->protocol;
	s->mock.config[0] = s->changed ? 2 : 1;
	vhost_front_give_socket(&s->d.front, fd);
}

/* ms: for answers, and for what is in flight. */
static void scene_init_with(struct scene *s, unsigned int ms)
{
	memset(s, 0, sizeof(*s));
	log_set_level(LOG_LEVEL_ERROR - 1);
	s->fds_before = open_descriptors();
	s->protocol = UINT64_MAX;
	driver_init(&s->d, NULL, QUEUES, 1);
	s->d.setup.reply_ms = ms;
	s->d.setup.drain_ms = ms;
	vhost_front_init(&s->d.front, &s->d.guest, &s->d.setup);
	for (unsigned int i = 0; i < QUEUES; i++)
		vhost_front_set_fds(&s->d.front, i, s->d.queue[i].kick, s->d.queue[i].call, -1);
	vhost_front_resume(&s->d.front);
	new_mock(s);
}

static void scene_init(struct scene *s)
{
	scene_init_with(s, 10000);
}

static void scene_fini(struct scene *s)
{
	mock_fini(&s->mock);
	driver_fini(&s->d);
	assert_int_equal(open_descriptors(), s->fds_before);
}

static void change_config(struct scene *s)
{
	s->changed = true;
	s->mock.config[0] = 2;
	if (s->mock.channel >= 0)
		mock_config_change(&s->mock, true);
}

/* What the owner would do next. */
static void act(struct scene *s)
{
	struct driver *d = &s->d;

	if (d->ready && !s->started) {
		s->started = true;
		driver_start(d);
	} else if (d->running && !s->changed) {
		change_config(s);
	} else if (s->changed && !s->stop_asked && vhost_front_config(&d->front)[0] == 2) {
		s->stop_asked = true;
		assert_int_equal(vhost_front_stop(&d->front, true), 0);
	}
}

static void scene_turn(struct scene *s)
{
	unsigned int lost = s->d.lost;

	while (mock_serve(&s->mock))
		;
	assert_int_equal(loop_turn(s->d.loop, 1), 0);
	if (s->d.lost > lost)
		new_mock(s);
	act(s);
	s->turns++;
	if (s->update_at &&
	    (s->turns == s->update_at || (s->update_all && s->turns >= s->update_at)))
		driver_update(&s->d);
}

static void play(struct scene *s, const char *what, int at)
{
	while (!s->d.stopped) {
		scene_turn(s);
		if (now_ns() - s->since_ns > LONG_NS)
			fail_msg("%s at message %d: no end; %s; %u lost, %u failed: %s", what, at,
				 vhost_front_state_name(vhost_front_state(&s->d.front)), s->d.lost,
				 s->d.failed, s->d.last_error.text);
	}
	/* At rest, and nothing of it is left that would go on. */
	assert_int_equal(s->d.queue_stopped, QUEUES);
	assert_int_equal(s->d.running > 0, 1);
}

static void all_goes_well(void **state)
{
	static const uint32_t expected[] = {
		VHOST_USER_GET_FEATURES,
		VHOST_USER_GET_PROTOCOL_FEATURES,
		VHOST_USER_SET_PROTOCOL_FEATURES,
		VHOST_USER_GET_QUEUE_NUM,
		VHOST_USER_SET_BACKEND_REQ_FD,
		VHOST_USER_SET_OWNER,
		VHOST_USER_GET_CONFIG,
		VHOST_USER_SET_FEATURES,
		VHOST_USER_SET_MEM_TABLE,
		VHOST_USER_GET_INFLIGHT_FD,
		VHOST_USER_SET_INFLIGHT_FD,
		VHOST_USER_SET_VRING_NUM,
		VHOST_USER_SET_VRING_BASE,
		VHOST_USER_SET_VRING_ADDR,
		VHOST_USER_SET_VRING_CALL,
		VHOST_USER_SET_VRING_KICK,
		VHOST_USER_SET_VRING_ENABLE,
	};
	struct scene s;

	(void)state;
	scene_init(&s);
	play(&s, "nothing", 0);
	assert_true(s.mock.count > ARRAY_SIZE(expected));
	assert_memory_equal(s.mock.seen, expected, sizeof(expected));
	assert_int_equal(s.d.failed, 0);
	assert_int_equal(s.d.lost, 0);
	assert_int_equal(s.d.ready, 1);
	assert_int_equal(s.d.running, 1);
	assert_int_equal(s.d.config_changed, 1);
	assert_int_equal(vhost_front_state(&s.d.front), VHOST_FRONT_READY);
	scene_fini(&s);
}

/* Guest RAM on both sides of the PCI hole: the table has the addresses that the guest uses. */
static void all_of_guest_ram(void **state)
{
	const uint64_t size = 4ull << 30, low = MEMORY_LOW_MAX;
	struct error err = ERROR_INIT;
	struct scene s;

	(void)state;
	scene_init(&s);
	memory_destroy(&s.d.mem);
	assert_int_equal(memory_create(&s.d.mem, size, NULL, NULL, &err), 0);
	play(&s, "nothing", 0);
	assert_int_equal(s.mock.memory.count, 2);
	for (unsigned int i = 0; i < 2; i++) {
		const struct vhost_user_region *r = &s.mock.memory.regions[i];

		assert_int_equal(r->guest_addr, i ? MEMORY_HIGH_BASE : 0);
		assert_int_equal(r->user_addr, r->guest_addr);
		assert_int_equal(r->size, i ? size - low : low);
		assert_int_equal(r->mmap_offset, 0);
	}
	scene_fini(&s);
}

static unsigned int messages_of_a_life(uint32_t *seen)
{
	struct scene s;
	unsigned int count;

	scene_init(&s);
	play(&s, "nothing", 0);
	count = s.mock.count;
	memcpy(seen, s.mock.seen, sizeof(s.mock.seen));
	scene_fini(&s);
	return count;
}

/* At any message but the last, after which the owner is at rest. */
static bool must_be_noticed(unsigned int fault, uint32_t request)
{
	static const uint32_t confirmed[] = {
		VHOST_USER_SET_BACKEND_REQ_FD, VHOST_USER_SET_FEATURES,   VHOST_USER_SET_MEM_TABLE,
		VHOST_USER_SET_INFLIGHT_FD,    VHOST_USER_SET_VRING_ADDR,
	};

	/* That is an error of the back-end's, where it was asked for one. */
	for (size_t i = 0; fault == FAULT_ONES && i < ARRAY_SIZE(confirmed); i++)
		if (request == confirmed[i])
			return true;
	/* Without its padding the answer is right, too. */
	return (fault == FAULT_SHORT && request != VHOST_USER_GET_INFLIGHT_FD) ||
	       fault == FAULT_LONG || fault == FAULT_SURPLUS_FDS || fault == FAULT_OTHER ||
	       fault == FAULT_VERSION || fault == FAULT_REQUEST || fault == FAULT_FLOOD;
}

/* Each fault at each message. */
static void each_thing_wrong_once(void **state)
{
	uint32_t seen[MOCK_SEEN];
	unsigned int count = messages_of_a_life(seen);

	(void)state;
	assert_true(count > 20);
	for (unsigned int fault = 0; fault < FAULTS; fault++)
		for (unsigned int at = 0; at < count; at++) {
			struct scene s;

			scene_init_with(&s, 60);
			s.mock.fault_at = (int)at;
			s.mock.fault = fault;
			play(&s, mock_fault_names[fault], (int)at);
			if (at < count - 1 && must_be_noticed(fault, seen[at]) && !s.d.failed)
				fail_msg("%s at message %u was not noticed",
					 mock_fault_names[fault], at);
			scene_fini(&s);
		}
}

/* An update after each turn of the loop, one in a life: the back-end hears the same. */
static void an_update_at_each_moment(void **state)
{
	struct scene plain;

	(void)state;
	scene_init(&plain);
	play(&plain, "nothing", 0);
	for (unsigned int at = 1; at <= plain.turns; at++) {
		struct scene s;

		scene_init(&s);
		s.update_at = at;
		play(&s, "update", (int)at);
		assert_int_equal(s.mock.count, plain.mock.count);
		assert_memory_equal(s.mock.seen, plain.mock.seen, sizeof(s.mock.seen));
		assert_memory_equal(s.mock.seen_index, plain.mock.seen_index,
				    sizeof(s.mock.seen_index));
		assert_int_equal(s.d.lost + s.d.failed, 0);
		scene_fini(&s);
	}
	scene_fini(&plain);
}

/* Nothing but updates, with a back-end that goes wrong in between. */
static void an_update_at_all_moments(void **state)
{
	uint32_t seen[MOCK_SEEN];
	unsigned int count = messages_of_a_life(seen);

	(void)state;
	for (unsigned int fault = 0; fault < FAULTS; fault++)
		for (unsigned int at = fault % 4; at < count; at += 4) {
			struct scene s;

			scene_init_with(&s, 60);
			s.update_at = 1;
			s.update_all = true;
			s.mock.fault_at = (int)at;
			s.mock.fault = fault;
			play(&s, mock_fault_names[fault], (int)at);
			scene_fini(&s);
		}
}

/* With each byte of each answer in another molt. */
static void an_update_at_each_byte(void **state)
{
	struct scene s;

	(void)state;
	scene_init(&s);
	s.mock.slow = true;
	s.update_at = 1;
	s.update_all = true;
	play(&s, "slow", 0);
	assert_int_equal(s.d.lost + s.d.failed, 0);
	assert_true(s.turns > 300);
	scene_fini(&s);
}

/* All are in the same place. */
static int start_one(struct scene *s, unsigned int queue)
{
	struct vhost_front_queue q = { .size = 64,
				       .desc = 0x1000,
				       .avail = 0x2000,
				       .used = 0x3000,
				       .base = s->d.queue[0].base,
				       .enabled = true };

	vhost_front_set_fds(&s->d.front, queue, s->d.queue[0].kick, s->d.queue[0].call, -1);
	return vhost_front_start_queue(&s->d.front, queue, &q);
}

static void start_many(struct scene *s, unsigned int queues)
{
	s->d.setup.queues = (uint16_t)queues;
	s->d.front.setup.queues = (uint16_t)queues;
	for (unsigned int i = 0; i < queues; i++)
		assert_int_equal(start_one(s, i), 0);
	s->started = true;
	assert_int_equal(vhost_front_start(&s->d.front, 0), 0);
}

/* 64 queues and no answers to wait for, but a back-end that does not read: nothing is lost. */
static void a_socket_that_is_full(void **state)
{
	const int small = 1;
	struct scene s;

	(void)state;
	for (int update = 0; update < 2; update++) {
		scene_init(&s);
		s.mock.protocol = s.protocol = ~(1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK);
		assert_int_equal(setsockopt(s.d.front.conn.fd, SOL_SOCKET, SO_SNDBUF, &small,
					    sizeof(small)),
				 0);
		while (!s.d.ready) {
			mock_serve(&s.mock);
			loop_turn(s.d.loop, 1);
		}
		start_many(&s, 64);
		for (int i = 0; i < 5 || !s.d.front.blocked; i++) {
			if (s.mock.count < 11)
				mock_serve(&s.mock);
			loop_turn(s.d.loop, 1);
			if (update) {
				driver_update(&s.d);
				loop_turn(s.d.loop, 1);
			}
			assert_true(i < 1000);
		}
		while (!s.d.running) {
			mock_serve(&s.mock);
			loop_turn(s.d.loop, 1);
		}
		assert_int_equal(s.mock.count, 7 + 4 + 64 * 6 + 1);
		assert_int_equal(s.d.lost + s.d.failed, 0);
		scene_fini(&s);
	}
}

/* Each protocol feature alone is missing, and all are. */
static void fewer_protocol_features(void **state)
{
	(void)state;
	for (unsigned int bit = 0; bit < 20; bit++) {
		struct scene s;

		if (bit == VHOST_USER_PROTOCOL_F_CONFIG || bit == VHOST_USER_PROTOCOL_F_MQ ||
		    bit == VHOST_USER_PROTOCOL_F_BACKEND_REQ)
			continue;
		scene_init(&s);
		s.mock.protocol = s.protocol = ~(1ull << bit);
		play(&s, "without", (int)bit);
		assert_int_equal(s.d.lost + s.d.failed, 0);
		assert_false(s.mock.agreed & 1ull << bit);
		scene_fini(&s);
	}
}

static uint16_t *ring16(struct scene *s, uint64_t gpa)
{
	uint16_t *p = memory_ptr(&s->d.mem, gpa, sizeof(*p));

	assert_non_null(p);
	return p;
}

/* Three requests, of which the second is done when the connection is gone. */
static void lose_connection_with_requests(struct scene *s)
{
	scene_init(s);
	s->mock.protocol = s->protocol = ~(1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	while (!s->d.ready) {
		mock_serve(&s->mock);
		loop_turn(s->d.loop, 1);
	}
	start_many(s, 1);
	while (!s->d.running) {
		mock_serve(&s->mock);
		loop_turn(s->d.loop, 1);
	}
	for (uint16_t i = 0; i < 3; i++)
		*ring16(s, 0x2004 + 2ull * i) = i;
	*ring16(s, 0x2002) = 3;
	*ring16(s, 0x3004) = 1;
	*ring16(s, 0x3002) = 1;
	mock_fini(&s->mock);
	s->mock_there = false;
	while (s->d.guest.connected)
		loop_turn(s->d.loop, 1);
	loop_turn(s->d.loop, 1);
}

static void another_comes(struct scene *s, unsigned int lost)
{
	unsigned int running = s->d.running;

	new_mock(s);
	while (s->d.running == running && (!lost || s->d.requests_lost < lost)) {
		mock_serve(&s->mock);
		assert_int_equal(loop_turn(s->d.loop, 1), 0);
		assert_in_range(now_ns() - s->since_ns, 0, LONG_NS);
	}
	assert_int_equal(s->d.requests_lost, lost);
}

static void requests_are_done_late(struct scene *s)
{
	*ring16(s, 0x300c) = 0;
	*ring16(s, 0x3014) = 2;
	*ring16(s, 0x3002) = 3;
	another_comes(s, 0);
	assert_int_equal(s->d.guest.queue_base[0], 3);
}

static void stop_without_a_reset(struct scene *s)
{
	vhost_front_stop(&s->d.front, false);
	while (!s->d.stopped)
		loop_turn(s->d.loop, 1);
}

/* As qemu-storage-daemon's, which closes its socket first. */
static void what_a_back_end_finishes_after_its_connection(void **state)
{
	struct scene s;

	(void)state;
	lose_connection_with_requests(&s);
	assert_int_equal(s.d.requests_lost, 0);
	requests_are_done_late(&s);
	scene_fini(&s);
}

/* The driver takes bus mastering away and gives it back while nobody is there. */
static void the_same_about_a_stop_without_a_reset(void **state)
{
	struct scene s;

	(void)state;
	lose_connection_with_requests(&s);
	stop_without_a_reset(&s);
	start_many(&s, 1);
	requests_are_done_late(&s);
	scene_fini(&s);
}

static void what_a_back_end_never_finishes(void **state)
{
	struct scene s;

	(void)state;
	lose_connection_with_requests(&s);
	another_comes(&s, 1);
	scene_fini(&s);
}

/* The driver gives the queue back when the next one is there. */
static void the_same_when_all_is_set_up(void **state)
{
	struct scene s;

	(void)state;
	lose_connection_with_requests(&s);
	stop_without_a_reset(&s);
	assert_int_equal(vhost_front_start(&s.d.front, 0), 0);
	another_comes(&s, 0);
	assert_int_equal(start_one(&s, 0), 0);
	while (!s.d.requests_lost) {
		loop_turn(s.d.loop, 1);
		assert_in_range(now_ns() - s.since_ns, 0, LONG_NS);
	}
	scene_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_goes_well),
		cmocka_unit_test(all_of_guest_ram),
		cmocka_unit_test(each_thing_wrong_once),
		cmocka_unit_test(an_update_at_each_moment),
		cmocka_unit_test(an_update_at_all_moments),
		cmocka_unit_test(an_update_at_each_byte),
		cmocka_unit_test(a_socket_that_is_full),
		cmocka_unit_test(fewer_protocol_features),
		cmocka_unit_test(what_a_back_end_finishes_after_its_connection),
		cmocka_unit_test(the_same_about_a_stop_without_a_reset),
		cmocka_unit_test(what_a_back_end_never_finishes),
		cmocka_unit_test(the_same_when_all_is_set_up),
	};

	return cmocka_run_group_tests_name("vhost_front", tests, NULL, NULL);
}
