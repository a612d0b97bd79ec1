/* SPDX-License-Identifier: MIT */
/* The CMOS clock's logic over made-up time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "../../src/hw/rtc_clock.h"
#include "../../src/hw/rtc_time.h"

static uint64_t seconds(uint64_t n)
{
	return n << TICKS_SHIFT;
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
	const struct rtc_time nonsense = {
		.year = 2023,
		.month = 0,
		.day = 99,
		.hour = 77,
		.minute = 165,
		.second = 60
	};
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

static void formats(void **state)
{
	struct rtc_time t = { .year = 2042, .month = 10, .day = 19 };
	static const struct {
		unsigned int hour;
		uint8_t reg_b, want;
	} cases[] = {
		{ 0, 0, 0x12 },
		{ 1, 0, 0x01 },
		{ 11, 0, 0x11 },
		{ 12, 0, 0x92 },
		{ 13, 0, 0x81 },
		{ 23, 0, 0x91 },
		{ 0, B_24H, 0x00 },
		{ 23, B_24H, 0x23 },
		{ 0, B_BINARY, 12 },
		{ 23, B_BINARY, 0x8b },
		{ 23, B_24H | B_BINARY, 23 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rtc_guest g = { .reg_a = A_POWER_ON,
				       .reg_b = cases[i].reg_b,
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

/* ---- events, over made-up time ---- */

/* 2001-02-03 04:05:06, BCD and 24 h, nothing enabled. */
static uint64_t quiet_clock(struct rtc_guest *g)
{
	const struct rtc_time
		t = { .year = 2001, .month = 2, .day = 3, .hour = 4, .minute = 5, .second = 6 };

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
	assert_int_equal(rtc_next_event(&g), t + seconds(RTC_DAY_SECONDS - 3600 - 5 * 60 - 6));
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
	static const uint32_t hz[] = { 0,   256, 128, 8192, 4096, 2048, 1024, 512,
				       256, 128, 64,  32,   16,   8,    4,    2 };

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calendar_agrees_with_libc),
		cmocka_unit_test(nonsense_dates_are_pulled_into_range),
		cmocka_unit_test(formats),
		cmocka_unit_test(updates),
		cmocka_unit_test(an_alarm_goes_off_once_a_day),
		cmocka_unit_test(alarms_with_wildcards),
		cmocka_unit_test(an_impossible_alarm_never_goes_off),
		cmocka_unit_test(an_alarm_in_a_long_gap_is_not_lost),
		cmocka_unit_test(the_host_clock_may_step_back),
		cmocka_unit_test(periodic_rates),
		cmocka_unit_test(frozen_clocks_have_no_updates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
