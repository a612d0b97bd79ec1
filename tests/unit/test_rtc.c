/* SPDX-License-Identifier: MIT */
/* The CMOS clock: its registers over real time, and its logic over made-up time. */
#include <string.h>
#include <time.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>

#include "../../src/hw/rtc_clock.h"
#include "../../src/hw/rtc_time.h"
#include "fake_machine.h"

#define IRQ 8

static uint8_t cmos_read(struct fake_machine *f, uint8_t index)
{
	fake_outb(f, 0x70, index);
	return fake_inb(f, 0x71);
}

static void cmos_write(struct fake_machine *f, uint8_t index, uint8_t value)
{
	fake_outb(f, 0x70, index);
	fake_outb(f, 0x71, value);
}

static void start(struct fake_machine *f)
{
	struct error err = ERROR_INIT;

	fake_machine_init(f);
	assert_int_equal(fake_device_create(f, &rtc_class, NULL, NULL, &err), 0);
}

static struct rtc_guest *guest(struct fake_machine *f)
{
	return device_guest(f->dev);
}

static unsigned int bcd(uint8_t value)
{
	return (value >> 4) * 10u + (value & 15);
}

/* The clock in BCD and 24 h, as seconds since 1970; read twice until no update came between. */
static time_t read_clock(struct fake_machine *f)
{
	struct tm tm = { 0 };
	uint8_t second;

	do {
		second = cmos_read(f, REG_SECONDS);
		tm.tm_min = (int)bcd(cmos_read(f, REG_MINUTES));
		tm.tm_hour = (int)bcd(cmos_read(f, REG_HOURS));
		tm.tm_mday = (int)bcd(cmos_read(f, REG_DAY));
		tm.tm_mon = (int)bcd(cmos_read(f, REG_MONTH)) - 1;
		tm.tm_year = (int)(bcd(cmos_read(f, REG_CENTURY)) * 100 +
				   bcd(cmos_read(f, REG_YEAR))) - 1900;
		tm.tm_sec = (int)bcd(second);
	} while (cmos_read(f, REG_SECONDS) != second);
	return timegm(&tm);
}

/* Turns the loop until IRQ 8 is up, for at most ms. */
static bool wait_irq(struct fake_machine *f, unsigned int ms)
{
	uint64_t end = now_ns() + ms * 1000000ull;

	while (!f->level[IRQ] && now_ns() < end)
		assert_int_equal(loop_turn(f->m.loop, 10), 0);
	return f->level[IRQ];
}

/* As Linux's mc146818_set_time() does it. */
static void set_clock(struct fake_machine *f, const uint8_t regs[7])
{
	static const uint8_t index[] = { REG_CENTURY, REG_YEAR, REG_MONTH, REG_DAY, REG_HOURS,
					 REG_MINUTES, REG_SECONDS };
	uint8_t a = cmos_read(f, REG_A) & 0x7f, b = cmos_read(f, REG_B);

	cmos_write(f, REG_B, b | B_SET);
	cmos_write(f, REG_A, a | 0x70);
	for (unsigned int i = 0; i < 7; i++)
		cmos_write(f, index[i], regs[i]);
	cmos_write(f, REG_B, b);
	cmos_write(f, REG_A, a);
}

/* ---- calendar ---- */

static void calendar_agrees_with_libc(void **state)
{
	(void)state;
	for (int64_t day = -719528; day < 2932897; day += 17) {
		time_t when = (time_t)(day * 86400 + (day & 0xffff));
		struct rtc_time t;
		struct tm tm;

		gmtime_r(&when, &tm);
		rtc_time_from_seconds(&t, (uint64_t)when + RTC_UNIX_EPOCH);
		assert_int_equal(t.year, tm.tm_year + 1900);
		assert_int_equal(t.month, tm.tm_mon + 1);
		assert_int_equal(t.day, tm.tm_mday);
		assert_int_equal(t.weekday, tm.tm_wday);
		assert_int_equal(t.hour * 3600 + t.minute * 60 + t.second,
				 tm.tm_hour * 3600 + tm.tm_min * 60 + tm.tm_sec);
		assert_int_equal(rtc_time_to_seconds(&t), (uint64_t)when + RTC_UNIX_EPOCH);
	}
}

static void nonsense_dates_are_pulled_into_range(void **state)
{
	const struct rtc_time nonsense = { .year = 2023, .month = 0, .day = 99, .hour = 77,
					   .minute = 165, .second = 60 };
	struct rtc_time t;

	(void)state;
	rtc_time_from_seconds(&t, rtc_time_to_seconds(&nonsense));
	assert_int_equal(t.month, 1);
	assert_int_equal(t.day, 31);
	assert_int_equal(t.hour, 23);
	assert_int_equal(t.minute, 59);
	assert_int_equal(t.second, 59);
}

/* ---- registers ---- */

static void tells_host_time(void **state)
{
	struct fake_machine f;
	time_t before, clock, after;

	(void)state;
	start(&f);
	before = time(NULL);
	clock = read_clock(&f);
	after = time(NULL);
	assert_in_range(clock, before - 1, after);
	fake_machine_fini(&f);
}

static void power_on_registers(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	assert_int_equal(cmos_read(&f, REG_A) & 0x7f, 0x26);
	assert_int_equal(cmos_read(&f, REG_B), 0x02);
	assert_int_equal(cmos_read(&f, REG_D), 0x80);
	cmos_write(&f, REG_D, 0);
	assert_int_equal(cmos_read(&f, REG_D), 0x80);
	fake_machine_fini(&f);
}

static void index_port(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_write(&f, 0x40, 0x12);
	/* Bit 7 is the NMI mask, not part of the index. */
	assert_int_equal(cmos_read(&f, 0xc0), 0x12);
	assert_int_equal(fake_inb(&f, 0x70), 0xff);
	/* One 16-bit write sets both. */
	fake_write(&f, BUS_PIO, 0x70, 0x3441, 2);
	assert_int_equal(cmos_read(&f, 0x41), 0x34);
	assert_int_equal(fake_read(&f, BUS_PIO, 0x70, 2), 0x34ff);
	fake_machine_fini(&f);
}

static void cmos_is_plain_memory(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	for (uint8_t i = 0x0e; i < 128; i++)
		if (i != REG_CENTURY)
			cmos_write(&f, i, (uint8_t)(i ^ 0x5a));
	for (uint8_t i = 0x0e; i < 128; i++)
		if (i != REG_CENTURY)
			assert_int_equal(cmos_read(&f, i), i ^ 0x5a);
	fake_machine_fini(&f);
}

static void the_guest_can_set_the_time(void **state)
{
	static const uint8_t new_year[] = { 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58 };
	struct fake_machine f;

	(void)state;
	start(&f);
	set_clock(&f, new_year);
	assert_in_range(read_clock(&f), 946684798, 946684798 + 2);
	/* Half a second after the divider starts comes the first update. */
	assert_in_range(rtc_now(guest(&f)) & TICKS_MASK, TICKS_PER_SECOND / 2,
			TICKS_PER_SECOND - 1);
	fake_machine_fini(&f);
}

static void a_frozen_clock_stands_and_is_not_lost(void **state)
{
	struct fake_machine f;
	uint64_t offset;

	(void)state;
	start(&f);
	offset = guest(&f)->offset;
	cmos_write(&f, REG_B, B_24H | B_SET);
	assert_true(guest(&f)->frozen);
	/* A second in the past: the registers are bytes now. */
	assert_true(cmos_read(&f, REG_YEAR) == guest(&f)->cmos[REG_YEAR]);
	cmos_write(&f, REG_B, B_24H);
	assert_false(guest(&f)->frozen);
	/* Not written, so nothing was set. */
	assert_int_equal(guest(&f)->offset, offset);
	fake_machine_fini(&f);
}

static void one_register_set_on_the_run(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_write(&f, REG_CENTURY, 0x21);
	cmos_write(&f, REG_YEAR, 0x05);
	assert_int_equal(cmos_read(&f, REG_CENTURY), 0x21);
	assert_int_equal(cmos_read(&f, REG_YEAR), 0x05);
	fake_machine_fini(&f);
}

static void formats(void **state)
{
	struct rtc_time t = { .year = 2042, .month = 10, .day = 19 };
	static const struct {
		unsigned int hour;
		uint8_t reg_b, want;
	} cases[] = {
		{ 0, 0, 0x12 },       { 1, 0, 0x01 },        { 11, 0, 0x11 },
		{ 12, 0, 0x92 },      { 13, 0, 0x81 },       { 23, 0, 0x91 },
		{ 0, B_24H, 0x00 },   { 23, B_24H, 0x23 },   { 0, B_BINARY, 12 },
		{ 23, B_BINARY, 0x8b }, { 23, B_24H | B_BINARY, 23 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rtc_guest g = { .reg_a = A_POWER_ON, .reg_b = cases[i].reg_b,
				       .index = REG_HOURS };
		uint64_t now;

		t.hour = cases[i].hour;
		now = rtc_time_to_seconds(&t) << TICKS_SHIFT;
		assert_int_equal(rtc_time_register(&g, now, REG_HOURS), cases[i].want);
		/* And back: the same hour written leaves the time as it is. */
		rtc_set_time(&g, now, cases[i].want);
		assert_int_equal(g.last, now);
	}
}

static void weekdays_count_on_their_own(void **state)
{
	struct fake_machine f;
	uint8_t day;

	(void)state;
	start(&f);
	day = cmos_read(&f, REG_WEEKDAY);
	cmos_write(&f, REG_WEEKDAY, (uint8_t)(day % 7 + 1));
	assert_int_equal(cmos_read(&f, REG_WEEKDAY), day % 7 + 1);
	fake_machine_fini(&f);
}

/* ---- events, over made-up time ---- */

/* 2001-02-03 04:05:06, BCD and 24 h, nothing enabled. */
static uint64_t quiet_clock(struct rtc_guest *g)
{
	const struct rtc_time t = { .year = 2001, .month = 2, .day = 3, .hour = 4, .minute = 5,
				    .second = 6 };

	*g = (struct rtc_guest){ .reg_a = A_POWER_ON, .reg_b = B_24H };
	g->last = rtc_time_to_seconds(&t) << TICKS_SHIFT;
	return g->last;
}

static void set_alarm(struct rtc_guest *g, uint8_t hour, uint8_t minute, uint8_t second)
{
	g->cmos[REG_HOURS_ALARM] = hour;
	g->cmos[REG_MINUTES_ALARM] = minute;
	g->cmos[REG_SECONDS_ALARM] = second;
}

static uint64_t seconds(uint64_t n)
{
	return n << TICKS_SHIFT;
}

static void updates(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	set_alarm(&g, 0, 0, 0);
	rtc_advance(&g, t + seconds(1) - 1);
	assert_int_equal(g.reg_c & C_UF, 0);
	rtc_advance(&g, t + seconds(1));
	assert_int_equal(g.reg_c & (C_UF | C_AF), C_UF);
	assert_int_equal(rtc_next_event(&g), RTC_NEVER);
	g.reg_c = 0;
	g.reg_b |= C_UF;
	assert_int_equal(rtc_next_event(&g), t + seconds(2));
}

static void an_alarm_goes_off_once_a_day(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	set_alarm(&g, 0x04, 0x05, 0x09);
	g.reg_b |= C_AF;
	assert_int_equal(rtc_next_event(&g), t + seconds(3));
	rtc_advance(&g, t + seconds(2));
	assert_int_equal(g.reg_c & C_AF, 0);
	rtc_advance(&g, t + seconds(3));
	assert_int_equal(g.reg_c & C_AF, C_AF);
	g.reg_c = 0;
	assert_int_equal(rtc_next_event(&g), t + seconds(3) + seconds(RTC_DAY_SECONDS));
}

static void alarms_with_wildcards(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	g.reg_b |= C_AF;
	set_alarm(&g, 0xff, 0xff, 0xff);
	assert_int_equal(rtc_next_event(&g), t + seconds(1));
	set_alarm(&g, 0xc0, 0xc0, 0x30);
	assert_int_equal(rtc_next_event(&g), t + seconds(24));
	set_alarm(&g, 0xc0, 0x00, 0x00);
	assert_int_equal(rtc_next_event(&g), t + seconds(54 + 54 * 60));
	set_alarm(&g, 0x03, 0xc0, 0xc0);
	assert_int_equal(rtc_next_event(&g),
			 t + seconds(RTC_DAY_SECONDS - 3600 - 5 * 60 - 6));
}

static void an_impossible_alarm_never_goes_off(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	g.reg_b |= C_AF;
	set_alarm(&g, 0x04, 0x05, 0x60);
	assert_int_equal(rtc_next_event(&g), RTC_NEVER);
	rtc_advance(&g, t + seconds(10 * RTC_DAY_SECONDS));
	assert_int_equal(g.reg_c & C_AF, 0);
}

static void an_alarm_in_a_long_gap_is_not_lost(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	set_alarm(&g, 0x04, 0x05, 0x07);
	rtc_advance(&g, t + seconds(3000));
	assert_int_equal(g.reg_c & C_AF, C_AF);
}

static void the_host_clock_may_step_back(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	g.reg_b |= C_UF;
	rtc_advance(&g, t - seconds(1000));
	assert_int_equal(g.reg_c, 0);
	assert_int_equal(rtc_next_event(&g), t - seconds(999));
}

static void periodic_rates(void **state)
{
	static const uint32_t hz[] = { 0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32,
				       16, 8, 4, 2 };

	(void)state;
	for (uint8_t rate = 0; rate < 16; rate++) {
		struct rtc_guest g;
		uint64_t t = quiet_clock(&g);

		g.reg_a = 0x20 | rate;
		g.reg_b |= C_PF;
		if (!rate) {
			assert_int_equal(rtc_next_event(&g), RTC_NEVER);
			continue;
		}
		assert_int_equal(rtc_next_event(&g), t + TICKS_PER_SECOND / hz[rate]);
		rtc_advance(&g, t + TICKS_PER_SECOND / hz[rate] - 1);
		assert_int_equal(g.reg_c & C_PF, 0);
		rtc_advance(&g, t + TICKS_PER_SECOND / hz[rate]);
		assert_int_equal(g.reg_c & C_PF, C_PF);
	}
}

static void frozen_clocks_have_no_updates(void **state)
{
	struct rtc_guest g;
	uint64_t t = quiet_clock(&g);

	(void)state;
	rtc_set_control(&g, t, g.reg_a, g.reg_b | B_SET | C_AF | C_PF);
	set_alarm(&g, 0xff, 0xff, 0xff);
	rtc_advance(&g, t + seconds(2));
	assert_int_equal(g.reg_c & (C_UF | C_AF), 0);
	/* The divider runs on, and with it the periodic interrupt, unless it is in reset. */
	assert_int_equal(g.reg_c & C_PF, C_PF);
	g.reg_c = 0;
	rtc_set_control(&g, t, 0x76, g.reg_b);
	assert_int_equal(rtc_next_event(&g), RTC_NEVER);
}

/* ---- interrupts, over real time ---- */

static void update_interrupt(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_read(&f, REG_C);
	cmos_write(&f, REG_B, B_24H | B_UIE);
	assert_true(wait_irq(&f, 1500));
	assert_int_equal(cmos_read(&f, REG_C) & 0x90, 0x90);
	assert_false(f.level[IRQ]);
	assert_true(wait_irq(&f, 1500));
	assert_int_equal(f.edges[IRQ], 2);
	fake_machine_fini(&f);
}

static void periodic_interrupt(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_write(&f, REG_A, 0x26);
	cmos_read(&f, REG_C);
	cmos_write(&f, REG_B, B_24H | C_PF);
	for (int i = 0; i < 5; i++) {
		assert_true(wait_irq(&f, 500));
		assert_int_equal(cmos_read(&f, REG_C) & 0xc0, 0xc0);
	}
	assert_int_equal(f.edges[IRQ], 5);
	fake_machine_fini(&f);
}

static void flags_go_up_without_interrupts(void **state)
{
	struct fake_machine f;
	uint8_t c = 0;

	(void)state;
	start(&f);
	for (int i = 0; i < 100 && !(c & C_PF); i++) {
		struct timespec ms = { .tv_nsec = 1000000 };

		nanosleep(&ms, NULL);
		c = cmos_read(&f, REG_C);
	}
	assert_int_equal(c & (C_PF | C_IRQF), C_PF);
	assert_int_equal(f.irq_calls, 0);
	fake_machine_fini(&f);
}

static void nothing_enabled_nothing_wakes(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	fake_assert_idle(f.m.loop);
	/* Up and not taken back: no reason to wake again and again either. */
	cmos_write(&f, REG_B, B_24H | C_PF);
	assert_true(wait_irq(&f, 500));
	fake_assert_idle(f.m.loop);
	assert_int_equal(f.edges[IRQ], 1);
	fake_machine_fini(&f);
}

static void enabling_a_raised_flag_interrupts(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	guest(&f)->reg_c = C_AF;
	cmos_write(&f, REG_B, B_24H | C_AF);
	assert_true(f.level[IRQ]);
	assert_int_equal(cmos_read(&f, REG_C) & 0xa0, 0xa0);
	assert_false(f.level[IRQ]);
	fake_machine_fini(&f);
}

static void set_turns_the_update_interrupt_off(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_write(&f, REG_B, B_24H | B_UIE | B_SET);
	assert_int_equal(cmos_read(&f, REG_B), B_24H | B_SET);
	fake_machine_fini(&f);
}

static void uip_comes_before_the_update(void **state)
{
	struct fake_machine f;
	uint64_t end = now_ns() + 1500000000;
	bool seen = false;

	(void)state;
	start(&f);
	/* Half a second into the second it is certainly down ... */
	guest(&f)->offset += TICKS_PER_SECOND / 2 - (rtc_now(guest(&f)) & TICKS_MASK);
	assert_int_equal(cmos_read(&f, REG_A) & 0x80, 0);
	/* ... and at its end it is up. Preemption may hide one end, not each of them. */
	while (!seen && now_ns() < end) {
		guest(&f)->offset -= (rtc_now(guest(&f)) & TICKS_MASK) + UINT64_C(7);
		seen = cmos_read(&f, REG_A) & 0x80;
	}
	assert_true(seen);
	/* A clock that stands has no update ahead. */
	cmos_write(&f, REG_B, B_24H | B_SET);
	guest(&f)->offset -= (rtc_now(guest(&f)) & TICKS_MASK) + 7;
	assert_int_equal(cmos_read(&f, REG_A) & 0x80, 0);
	fake_machine_fini(&f);
}

/* ---- life ---- */

static void reset_keeps_time_and_memory(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_write(&f, 0x50, 0x99);
	cmos_write(&f, REG_CENTURY, 0x21);
	cmos_write(&f, REG_B, B_SET | B_BINARY | C_AF);
	cmos_write(&f, REG_YEAR, 1);
	f.dev->cls->reset(f.dev);
	assert_int_equal(cmos_read(&f, REG_B), B_24H);
	assert_int_equal(cmos_read(&f, 0x50), 0x99);
	assert_int_equal(cmos_read(&f, REG_CENTURY), 0x21);
	/* The half-set time is forgotten. */
	assert_true(cmos_read(&f, REG_YEAR) >= 0x20);
	assert_false(f.level[IRQ]);
	fake_machine_fini(&f);
}

static void an_update_keeps_everything(void **state)
{
	static const uint8_t new_year[] = { 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58 };
	struct fake_machine f, g;

	(void)state;
	start(&f);
	set_clock(&f, new_year);
	cmos_write(&f, 0x60, 0x42);
	guest(&f)->reg_c = C_AF;
	cmos_write(&f, REG_B, B_24H | C_AF);
	fake_outb(&f, 0x70, 0x60);
	fake_migrate(&f, &g);
	assert_int_equal(g.irq_calls, 0);
	assert_int_equal(fake_inb(&g, 0x71), 0x42);
	assert_in_range(read_clock(&g), 946684798, 946684798 + 5);
	assert_int_equal(cmos_read(&g, REG_C) & 0xa0, 0xa0);
	assert_false(g.level[IRQ]);
	fake_machine_fini(&g);
	fake_machine_fini(&f);
}

static void an_alarm_in_the_pause_goes_off_after_it(void **state)
{
	struct fake_machine f, g;

	(void)state;
	start(&f);
	cmos_write(&f, REG_SECONDS_ALARM, 0xff);
	cmos_write(&f, REG_MINUTES_ALARM, 0xff);
	cmos_write(&f, REG_HOURS_ALARM, 0xff);
	cmos_read(&f, REG_C);
	cmos_write(&f, REG_B, B_24H | C_AF);
	/* As if the last look had been three seconds ago. */
	guest(&f)->reg_c = 0;
	guest(&f)->last -= seconds(3);
	fake_migrate(&f, &g);
	g.dev->cls->resume(g.dev);
	assert_true(wait_irq(&g, 200));
	fake_machine_fini(&g);
	fake_machine_fini(&f);
}

static void quiesced_it_does_not_interrupt(void **state)
{
	struct error err = ERROR_INIT;
	struct fake_machine f;

	(void)state;
	start(&f);
	cmos_write(&f, REG_A, 0x26);
	cmos_read(&f, REG_C);
	cmos_write(&f, REG_B, B_24H | C_PF);
	f.dev->cls->quiesce(f.dev, &err);
	if (!f.level[IRQ])
		assert_false(wait_irq(&f, 50));
	f.dev->cls->resume(f.dev);
	assert_true(wait_irq(&f, 500));
	fake_machine_fini(&f);
}

static void spoil_index(void *data)
{
	((struct rtc_guest *)data)->index = 128;
}

static void spoil_uip(void *data)
{
	((struct rtc_guest *)data)->reg_a |= 0x80;
}

static void spoil_flags(void *data)
{
	((struct rtc_guest *)data)->reg_c = 0x01;
}

static void spoil_weekday(void *data)
{
	((struct rtc_guest *)data)->weekday_shift = 7;
}

static void spoil_frozen(void *data)
{
	((struct rtc_guest *)data)->frozen = true;
}

static void impossible_state_is_refused(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	assert_true(fake_post_load_of(&f, spoil_index) < 0);
	assert_true(fake_post_load_of(&f, spoil_uip) < 0);
	assert_true(fake_post_load_of(&f, spoil_flags) < 0);
	assert_true(fake_post_load_of(&f, spoil_weekday) < 0);
	assert_true(fake_post_load_of(&f, spoil_frozen) < 0);
	fake_machine_fini(&f);
}

static void spoil_time(void *data)
{
	struct rtc_guest *g = data;

	g->offset = 0x8000000000000000u;
	g->last = UINT64_MAX;
	g->reg_b |= C_FLAGS;
	memset(g->cmos, 0xff, sizeof(g->cmos));
}

/* Any offset is a time, if a strange one. */
static void any_time_is_survived(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f);
	assert_int_equal(fake_post_load_of(&f, spoil_time), 0);
	spoil_time(guest(&f));
	for (int i = 0; i < 256; i++) {
		cmos_read(&f, (uint8_t)i);
		cmos_write(&f, (uint8_t)i, (uint8_t)(i * 37));
	}
	fake_machine_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calendar_agrees_with_libc),
		cmocka_unit_test(nonsense_dates_are_pulled_into_range),
		cmocka_unit_test(tells_host_time),
		cmocka_unit_test(power_on_registers),
		cmocka_unit_test(index_port),
		cmocka_unit_test(cmos_is_plain_memory),
		cmocka_unit_test(the_guest_can_set_the_time),
		cmocka_unit_test(a_frozen_clock_stands_and_is_not_lost),
		cmocka_unit_test(one_register_set_on_the_run),
		cmocka_unit_test(formats),
		cmocka_unit_test(weekdays_count_on_their_own),
		cmocka_unit_test(updates),
		cmocka_unit_test(an_alarm_goes_off_once_a_day),
		cmocka_unit_test(alarms_with_wildcards),
		cmocka_unit_test(an_impossible_alarm_never_goes_off),
		cmocka_unit_test(an_alarm_in_a_long_gap_is_not_lost),
		cmocka_unit_test(the_host_clock_may_step_back),
		cmocka_unit_test(periodic_rates),
		cmocka_unit_test(frozen_clocks_have_no_updates),
		cmocka_unit_test(update_interrupt),
		cmocka_unit_test(periodic_interrupt),
		cmocka_unit_test(flags_go_up_without_interrupts),
		cmocka_unit_test(nothing_enabled_nothing_wakes),
		cmocka_unit_test(enabling_a_raised_flag_interrupts),
		cmocka_unit_test(set_turns_the_update_interrupt_off),
		cmocka_unit_test(uip_comes_before_the_update),
		cmocka_unit_test(reset_keeps_time_and_memory),
		cmocka_unit_test(an_update_keeps_everything),
		cmocka_unit_test(an_alarm_in_the_pause_goes_off_after_it),
		cmocka_unit_test(quiesced_it_does_not_interrupt),
		cmocka_unit_test(impossible_state_is_refused),
		cmocka_unit_test(any_time_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
