/* SPDX-License-Identifier: MIT */
/* The 8254: its counters' arithmetic, registers, and interrupts over pauses and updates. */
#include <string.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>

#include "../../src/hw/pit_counter.h"
#include "fake_machine.h"

#define IRQ 0
#define COUNT_1MS 1193
#define ONE_SHOT 0x30 /* channel 0, low then high, mode 0 */
#define RATE 0x34     /* mode 2 */
#define MS 1000000ull

static struct kvm_pit_channel_state channel(uint8_t mode, uint32_t count)
{
	return (struct kvm_pit_channel_state){ .mode = mode,
					       .count = count,
					       .count_load_time = 5000000000 };
}

/* The time at which so many ticks of the chip's clock are over. */
static uint64_t at(uint64_t ticks)
{
	return 5000000000u + (ticks * 1000000000u + PIT_HZ - 1) / PIT_HZ;
}

/* ---- the counters ---- */

static void test_what_a_counter_shows(void **state)
{
	static const struct {
		uint8_t mode;
		uint32_t count;
		uint64_t ticks;
		uint16_t value;
		bool out;
	} cases[] = {
		{ 0, 100, 0, 100, false },        { 0, 100, 99, 1, false },
		{ 0, 100, 100, 0, true },         { 0, 100, 101, 0xffff, true },
		{ 0, 0x10000, 1, 0xffff, false }, { 1, 100, 99, 1, true },
		{ 1, 100, 100, 0, false },        { 2, 100, 0, 100, false },
		{ 2, 100, 99, 1, false },         { 2, 100, 100, 100, true },
		{ 2, 100, 1101, 99, false },      { 2, 0x10000, 0, 0, false },
		{ 3, 100, 1, 98, true },          { 3, 100, 49, 2, true },
		{ 3, 100, 50, 100, false },       { 3, 101, 50, 1, true },
		{ 3, 101, 51, 100, false },       { 4, 100, 100, 0, true },
		{ 4, 100, 101, 0xffff, false },   { 0xff, 0x10000, 5, 0xfffb, false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct kvm_pit_channel_state c = channel(cases[i].mode, cases[i].count);

		if (pit_counter_value(&c, at(cases[i].ticks)) != cases[i].value ||
		    pit_counter_out(&c, at(cases[i].ticks)) != cases[i].out)
			fail_msg("case %zu: %u, out %d", i,
				 pit_counter_value(&c, at(cases[i].ticks)),
				 pit_counter_out(&c, at(cases[i].ticks)));
	}
}

static void test_ticks_are_due_when_they_are_counted(void **state)
{
	static const uint32_t counts[] = { 300, 1193, 11932, 31021, 65521, 65536 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct kvm_pit_channel_state c = channel(2, counts[i]);

		for (uint64_t n = 1; n < 10000000000; n = n * 7 + 3) {
			assert_int_equal(pit_counter_ticks(&c, pit_counter_due(&c, n)), n);
			assert_int_equal(pit_counter_ticks(&c, pit_counter_due(&c, n) - 1), n - 1);
		}
	}
}

static void test_one_shots_tick_once(void **state)
{
	struct kvm_pit_channel_state c = channel(0, 1000);

	(void)state;
	assert_int_equal(pit_counter_due(&c, 1), at(1000));
	assert_int_equal(pit_counter_due(&c, 2), PIT_NEVER);
	assert_int_equal(pit_counter_ticks(&c, at(1000) - 1), 0);
	assert_int_equal(pit_counter_ticks(&c, at(9000000)), 1);
	c = channel(5, 1000);
	assert_int_equal(pit_counter_due(&c, 1), PIT_NEVER);
	c = channel(0xff, 1000);
	assert_int_equal(pit_counter_due(&c, 1), PIT_NEVER);
}

static void test_ticks_have_a_least_distance(void **state)
{
	struct kvm_pit_channel_state c = channel(2, 1);

	(void)state;
	assert_int_equal(pit_counter_due(&c, 1), 5000000000 + PIT_MIN_PERIOD_NS);
	assert_int_equal(pit_counter_due(&c, 1000), 5000000000 + 1000ull * PIT_MIN_PERIOD_NS);
}

static void test_impossible_times_do_no_harm(void **state)
{
	static const int64_t times[] = { INT64_MIN, -1, 0, INT64_MAX };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		struct kvm_pit_channel_state c = channel(2, 1);

		c.count_load_time = times[i];
		pit_counter_value(&c, 5000000000);
		pit_counter_out(&c, 5000000000);
		pit_counter_due(&c, pit_counter_ticks(&c, 5000000000) + 1);
	}
}

/* ---- the device ---- */

static int setup(void **state)
{
	static struct fake_machine f;
	struct error err = ERROR_INIT;

	fake_machine_init(&f);
	assert_int_equal(fake_device_create(&f, &pit_class, NULL, NULL, &err), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_fini(*state);
	return 0;
}

static void program(struct fake_machine *f, uint8_t control, uint16_t count)
{
	unsigned int port = 0x40u + (control >> 6);

	fake_outb(f, 0x43, control);
	fake_outb(f, (uint16_t)port, (uint8_t)count);
	fake_outb(f, (uint16_t)port, (uint8_t)(count >> 8));
}

static void turn_for(struct fake_machine *f, unsigned int ms)
{
	uint64_t end = now_ns() + ms * MS;

	while (now_ns() < end)
		assert_int_equal(loop_turn(f->m.loop, 1), 0);
}

/* Turns the loop until there were so many interrupts; at most a while. */
static void wait_edges(struct fake_machine *f, unsigned int n)
{
	uint64_t end = now_ns() + 10000000000;

	while (f->edges[IRQ] < n && now_ns() < end)
		assert_int_equal(loop_turn(f->m.loop, 10), 0);
	assert_true(f->edges[IRQ] >= n);
	assert_false(f->level[IRQ]);
}

static void test_it_is_quiet_at_first(void **state)
{
	struct fake_machine *f = *state;

	turn_for(f, 60);
	assert_int_equal(f->edges[IRQ], 0);
	assert_int_equal(fake_inb(f, 0x61) & 0x0f, 0);
	assert_int_equal(fake_inb(f, 0x43), 0);
}

/* As many as the time that has passed, to the tick. */
static void test_periodic_interrupts_are_complete(void **state)
{
	struct fake_machine *f = *state;
	uint64_t began = now_ns(), loaded;

	program(f, RATE, COUNT_1MS);
	loaded = now_ns();
	wait_edges(f, 50);
	assert_true(f->edges[IRQ] <= (now_ns() - began) / 999000);
	assert_true(now_ns() - loaded >= 49 * 999000ull);
}

static void test_a_one_shot_comes_once(void **state)
{
	struct fake_machine *f = *state;

	program(f, ONE_SHOT, COUNT_1MS);
	wait_edges(f, 1);
	turn_for(f, 60);
	assert_int_equal(f->edges[IRQ], 1);
	fake_outb(f, 0x40, 1);
	assert_int_equal(f->edges[IRQ], 1);
	fake_outb(f, 0x40, 0);
	wait_edges(f, 2);
}

static void test_a_new_mode_waits_for_its_count(void **state)
{
	struct fake_machine *f = *state;
	unsigned int before;

	program(f, RATE, COUNT_1MS);
	wait_edges(f, 1);
	fake_outb(f, 0x43, ONE_SHOT);
	before = f->edges[IRQ];
	turn_for(f, 10);
	assert_int_equal(f->edges[IRQ], before);
}

static void test_what_is_masked_is_forgotten(void **state)
{
	struct fake_machine *f = *state;
	unsigned int masked;

	f->irq_status = -1;
	program(f, RATE, COUNT_1MS);
	turn_for(f, 20);
	masked = f->edges[IRQ];
	assert_true(masked <= 21);
	f->irq_status = 1;
	turn_for(f, 3);
	assert_true(f->edges[IRQ] - masked <= 10);
}

static void test_what_could_not_be_taken_comes_later(void **state)
{
	struct fake_machine *f = *state;
	uint64_t began = now_ns();
	unsigned int refused;

	f->irq_status = 0;
	program(f, RATE, 5 * COUNT_1MS);
	turn_for(f, 50);
	refused = f->edges[IRQ];
	f->irq_status = 1;
	wait_edges(f, refused + 9);
	/* Soon: not one a period. */
	assert_true(now_ns() - began < 500000000);
	turn_for(f, 30);
	assert_true(f->edges[IRQ] - refused <= (now_ns() - began) / 4995000);
}

static void test_a_long_absence_does_not_flood(void **state)
{
	struct fake_machine *f = *state;

	program(f, RATE, COUNT_1MS);
	wait_edges(f, 1);
	assert_int_equal(pit_class.quiesce(f->dev, NULL), 0);
	f->edges[IRQ] = 0;
	turn_for(f, 300);
	assert_int_equal(f->edges[IRQ], 0);
	pit_class.resume(f->dev);
	assert_int_equal(f->edges[IRQ], 1);
	turn_for(f, 5);
	assert_true(f->edges[IRQ] <= 120);
}

/* Or a guest that counts them has a clock that stays behind, and more so each time. */
static void test_short_periods_catch_up(void **state)
{
	struct fake_machine *f = *state;
	const struct kvm_pit_channel_state *c = device_guest(f->dev);
	uint64_t end;

	program(f, RATE, COUNT_1MS);
	assert_int_equal(pit_class.quiesce(f->dev, NULL), 0);
	turn_for(f, 20);
	pit_class.resume(f->dev);
	assert_true(f->edges[IRQ] < pit_counter_ticks(c, now_ns()));
	end = now_ns() + 3000 * MS;
	while (f->edges[IRQ] < pit_counter_ticks(c, now_ns()) && now_ns() < end)
		assert_int_equal(loop_turn(f->m.loop, 10), 0);
	assert_true(now_ns() < end);
}

static void test_latches(void **state)
{
	struct fake_machine *f = *state;
	unsigned int first, second;

	program(f, 0xb4, 0); /* channel 2, mode 2, 65536 */
	fake_outb(f, 0x43, 0x80);
	first = fake_inb(f, 0x42);
	turn_for(f, 2);
	fake_outb(f, 0x43, 0x80); /* has one already */
	first |= (unsigned int)fake_inb(f, 0x42) << 8;
	fake_outb(f, 0x43, 0x80);
	second = fake_inb(f, 0x42);
	second |= (unsigned int)fake_inb(f, 0x42) << 8;
	assert_true(((first - second) & 0xffff) >= 2 * COUNT_1MS - 2);
	fake_outb(f, 0x43, 0xe8); /* read back the status of channel 2 */
	assert_int_equal(fake_inb(f, 0x42) & 0x3f, 0x34);
	fake_outb(f, 0x43, 0xc8); /* status, then count */
	assert_int_equal(fake_inb(f, 0x42) & 0x3f, 0x34);
	fake_inb(f, 0x42);
	fake_inb(f, 0x42);
	fake_outb(f, 0x43, 0x96); /* low byte alone, mode 3 */
	fake_outb(f, 0x42, 77);
	assert_true(fake_inb(f, 0x42) <= 77);
	fake_outb(f, 0x43, 0xa6); /* high byte alone, mode 3 */
	fake_outb(f, 0x42, 0x7f);
	assert_true(fake_inb(f, 0x42) >= 0x7e);
}

static void test_port_b(void **state)
{
	struct fake_machine *f = *state;
	uint64_t end = now_ns() + 5000000000;

	fake_outb(f, 0x61, 0xff);
	assert_int_equal(fake_inb(f, 0x61) & 0xcf, 3);
	fake_outb(f, 0x61, 1);
	program(f, 0xb0, COUNT_1MS); /* channel 2, mode 0: what Linux calibrates by */
	while (!(fake_inb(f, 0x61) & 0x20) && now_ns() < end)
		;
	assert_true(fake_inb(f, 0x61) & 0x20);
	assert_int_equal(fake_inb(f, 0x61) & 0x03, 1);
}

static void test_a_rising_gate_begins_anew(void **state)
{
	struct fake_machine *f = *state;
	unsigned int value;

	program(f, 0xb4, 0xffff);
	turn_for(f, 5);
	fake_outb(f, 0x61, 1);
	fake_outb(f, 0x43, 0x80);
	value = fake_inb(f, 0x42);
	value |= (unsigned int)fake_inb(f, 0x42) << 8;
	assert_true(value > 0xffff - 5 * COUNT_1MS);
}

/* ---- updates ---- */

static void *saved_guest(struct fake_machine *f)
{
	return device_guest(f->dev);
}

static void test_an_update_keeps_everything(void **state)
{
	struct fake_machine *f = *state, g;
	unsigned int before, early;
	uint64_t loaded = now_ns();

	program(f, RATE, 20 * COUNT_1MS);
	program(f, 0xb4, 0xfff1);
	fake_outb(f, 0x43, 0xd8);
	wait_edges(f, 2);
	before = f->edges[IRQ];
	assert_true(before == 2 || now_ns() - loaded >= 60 * MS);
	fake_migrate(f, &g);
	assert_memory_equal(saved_guest(f), saved_guest(&g), pit_class.guest_size);
	/* The third is due 60 ms after the count was loaded, here as there. */
	pit_class.resume(g.dev);
	early = g.edges[IRQ];
	assert_true(early == 0 || now_ns() - loaded >= 60 * MS);
	wait_edges(&g, 1);
	fake_machine_fini(&g);
}

static void test_a_tick_in_the_pause_comes_after_it_once(void **state)
{
	struct fake_machine *f = *state, g;
	uint64_t loaded = now_ns();

	program(f, RATE, 40 * COUNT_1MS);
	assert_int_equal(pit_class.quiesce(f->dev, NULL), 0);
	fake_migrate(f, &g);
	turn_for(&g, 45);
	assert_int_equal(g.edges[IRQ], 0);
	pit_class.resume(g.dev);
	assert_int_equal(g.edges[IRQ], 1);
	pit_class.resume(g.dev);
	/* The next one is another. */
	assert_true(g.edges[IRQ] == 1 || now_ns() - loaded >= 80 * MS);
	fake_machine_fini(&g);
}

static void test_a_one_shot_that_came_does_not_come_again(void **state)
{
	struct fake_machine *f = *state, g;

	program(f, ONE_SHOT, COUNT_1MS);
	wait_edges(f, 1);
	fake_migrate(f, &g);
	pit_class.resume(g.dev);
	turn_for(&g, 60);
	assert_int_equal(g.edges[IRQ], 0);
	fake_machine_fini(&g);
}

static void forget_ticks(void *guest)
{
	uint64_t unknown = UINT64_MAX;

	memcpy((char *)guest + pit_class.guest_size - sizeof(unknown), &unknown, sizeof(unknown));
}

static uint64_t ticks_of(void *guest)
{
	uint64_t ticks;

	memcpy(&ticks, (char *)guest + pit_class.guest_size - sizeof(ticks), sizeof(ticks));
	return ticks;
}

/* Made up: so many that the time of the next is past 2^64 ns, and so in the past, for ever. */
static void test_there_were_no_more_ticks_than_there_was_time(void **state)
{
	static const uint64_t forged[] = { 1, 335850594196, UINT64_MAX - 2 };
	struct fake_machine *f = *state;

	program(f, RATE, 0);
	for (size_t i = 0; i < ARRAY_SIZE(forged); i++) {
		struct fake_machine g;
		struct kvm_pit_channel_state *c;
		struct error err = ERROR_INIT;

		fake_migrate(f, &g);
		c = device_guest(g.dev);
		c->count_load_time = (int64_t)now_ns();
		memcpy((char *)c + pit_class.guest_size - sizeof(forged[i]), &forged[i],
		       sizeof(forged[i]));
		assert_int_equal(pit_class.post_load(g.dev, &err), 0);
		assert_true(ticks_of(c) <= pit_counter_ticks(c, now_ns()));
		assert_true(pit_counter_due(c, ticks_of(c) + 1) > (uint64_t)c->count_load_time);
		fake_machine_fini(&g);
	}
}

static void no_count(void *guest)
{
	((struct kvm_pit_channel_state *)guest)[1].count = 0;
}

static void test_what_is_loaded_is_checked(void **state)
{
	assert_int_equal(fake_post_load_of(*state, forget_ticks), 0);
	assert_int_equal(fake_post_load_of(*state, no_count), -22);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_a_counter_shows),
		cmocka_unit_test(test_ticks_are_due_when_they_are_counted),
		cmocka_unit_test(test_one_shots_tick_once),
		cmocka_unit_test(test_ticks_have_a_least_distance),
		cmocka_unit_test(test_impossible_times_do_no_harm),
		CASE(test_it_is_quiet_at_first),
		CASE(test_periodic_interrupts_are_complete),
		CASE(test_a_one_shot_comes_once),
		CASE(test_a_new_mode_waits_for_its_count),
		CASE(test_what_is_masked_is_forgotten),
		CASE(test_what_could_not_be_taken_comes_later),
		CASE(test_a_long_absence_does_not_flood),
		CASE(test_short_periods_catch_up),
		CASE(test_latches),
		CASE(test_port_b),
		CASE(test_a_rising_gate_begins_anew),
		CASE(test_an_update_keeps_everything),
		CASE(test_a_tick_in_the_pause_comes_after_it_once),
		CASE(test_a_one_shot_that_came_does_not_come_again),
		CASE(test_what_is_loaded_is_checked),
		CASE(test_there_were_no_more_ticks_than_there_was_time),
	};

	return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
