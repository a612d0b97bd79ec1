/* SPDX-License-Identifier: MIT */
/* What the RTC's registers mean: see rtc.c for the theory of operation. */
#include <time.h>

#include "rtc_clock.h"
#include "rtc_time.h"

#define ALARM_ANY 0xc0u /* both bits: this register matches always */
#define HOURS_PM 0x80u

/* ---- time ---- */

static uint64_t host_ticks(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (((uint64_t)ts.tv_sec + RTC_UNIX_EPOCH) << TICKS_SHIFT) +
	       (((uint64_t)ts.tv_nsec << TICKS_SHIFT) / 1000000000u);
}

uint64_t rtc_now(const struct rtc_guest *g)
{
	return host_ticks() + g->offset;
}

static void set_now(struct rtc_guest *g, uint64_t ticks)
{
	g->offset = ticks - host_ticks();
	g->last = ticks;
}

static bool divider_in_reset(uint8_t reg_a)
{
	return (reg_a & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

bool rtc_is_frozen(uint8_t reg_a, uint8_t reg_b)
{
	return (reg_b & B_SET) || divider_in_reset(reg_a);
}

/* ---- the registers' formats ---- */

static uint8_t encode(const struct rtc_guest *g, unsigned int value)
{
	return (uint8_t)(g->reg_b & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned int decode(const struct rtc_guest *g, uint8_t value)
{
	return g->reg_b & B_BINARY ? value : (value >> 4) * 10u + (value & 0x0f);
}

static uint8_t encode_hour(const struct rtc_guest *g, unsigned int hour)
{
	if (g->reg_b & B_24H)
		return encode(g, hour);
	return encode(g, (hour + 11) % 12 + 1) | (uint8_t)(hour >= 12 ? HOURS_PM : 0);
}

static unsigned int decode_hour(const struct rtc_guest *g, uint8_t value)
{
	if (g->reg_b & B_24H)
		return decode(g, value);
	return decode(g, value & (uint8_t)~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

bool rtc_is_time(uint8_t index)
{
	switch (index) {
	case REG_SECONDS:
	case REG_MINUTES:
	case REG_HOURS:
	case REG_WEEKDAY:
	case REG_DAY:
	case REG_MONTH:
	case REG_YEAR:
	case REG_CENTURY:
		return true;
	default:
		return false;
	}
}

uint8_t rtc_time_register(const struct rtc_guest *g, uint64_t now, uint8_t index)
{
	struct rtc_time t;

	rtc_time_from_seconds(&t, now >> TICKS_SHIFT);
	switch (index) {
	case REG_SECONDS:
		return encode(g, t.second);
	case REG_MINUTES:
		return encode(g, t.minute);
	case REG_HOURS:
		return encode_hour(g, t.hour);
	case REG_WEEKDAY:
		return encode(g, (t.weekday + g->weekday_shift) % 7 + 1);
	case REG_DAY:
		return encode(g, t.day);
	case REG_MONTH:
		return encode(g, t.month);
	case REG_YEAR:
		return encode(g, t.year % 100);
	default:
		return encode(g, t.year / 100 % 100);
	}
}

/* The time becomes plain bytes. */
static void freeze(struct rtc_guest *g, uint64_t now)
{
	for (uint8_t i = 0; i < CMOS_BYTES; i++)
		if (rtc_is_time(i))
			g->cmos[i] = rtc_time_register(g, now, i);
}

/* The bytes become the time, phase ticks after the full second. */
static void thaw(struct rtc_guest *g, uint64_t phase)
{
	struct rtc_time t = {
		.year = decode(g, g->cmos[REG_CENTURY]) * 100 + decode(g, g->cmos[REG_YEAR]),
		.month = decode(g, g->cmos[REG_MONTH]),
		.day = decode(g, g->cmos[REG_DAY]),
		.hour = decode_hour(g, g->cmos[REG_HOURS]),
		.minute = decode(g, g->cmos[REG_MINUTES]),
		.second = decode(g, g->cmos[REG_SECONDS]),
	};
	uint64_t seconds = rtc_time_to_seconds(&t);
	unsigned int weekday = decode(g, g->cmos[REG_WEEKDAY]);

	rtc_time_from_seconds(&t, seconds);
	g->weekday_shift = (uint8_t)((weekday + 6 + 7 - t.weekday) % 7);
	set_now(g, (seconds << TICKS_SHIFT) + phase);
}

/* ---- events ---- */

/* Ticks between two periodic interrupts; 0: none. */
static uint64_t period(const struct rtc_guest *g)
{
	unsigned int rate = g->reg_a & A_RATE;

	if (!rate || divider_in_reset(g->reg_a))
		return 0;
	/* With a 32768 Hz crystal rates 1 and 2 are those of 8 and 9. */
	return 1u << (rate < 3 ? rate + 6 : rate - 1);
}

static bool alarm_field(uint8_t alarm, uint8_t value)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm == value;
}

static bool alarm_second(const struct rtc_guest *g, unsigned int second)
{
	return alarm_field(g->cmos[REG_SECONDS_ALARM], encode(g, second));
}

static bool alarm_minute(const struct rtc_guest *g, unsigned int minute)
{
	return alarm_field(g->cmos[REG_MINUTES_ALARM], encode(g, minute));
}

static bool alarm_hour(const struct rtc_guest *g, unsigned int hour)
{
	return alarm_field(g->cmos[REG_HOURS_ALARM], encode_hour(g, hour));
}

/* Whether the alarm registers hold a time of day at all, so that a search for it ends soon. */
static bool alarm_possible(const struct rtc_guest *g)
{
	bool second = false, minute = false, hour = false;

	for (unsigned int i = 0; i < 60; i++) {
		second |= alarm_second(g, i);
		minute |= alarm_minute(g, i);
	}
	for (unsigned int i = 0; i < 24; i++)
		hour |= alarm_hour(g, i);
	return second && minute && hour;
}

/* The first second from `from` on at which the alarm goes off. */
static uint64_t next_alarm(const struct rtc_guest *g, uint64_t from)
{
	uint64_t s = from;

	if (!alarm_possible(g))
		return RTC_NEVER;
	for (;;) {
		unsigned int of_day = (unsigned int)(s % RTC_DAY_SECONDS);

		if (!alarm_hour(g, of_day / 3600))
			s += 3600 - of_day % 3600;
		else if (!alarm_minute(g, of_day / 60 % 60))
			s += 60 - of_day % 60;
		else if (!alarm_second(g, of_day % 60))
			s++;
		else
			return s;
	}
}

void rtc_advance(struct rtc_guest *g, uint64_t now)
{
	uint64_t ticks = period(g);
	uint64_t from = (g->last >> TICKS_SHIFT) + 1;
	uint64_t to = now >> TICKS_SHIFT;

	/* A step back of the host's clock: what is past is not repeated before it was reached. */
	if (now < g->last) {
		g->last = now;
		return;
	}
	if (!g->frozen && from <= to) {
		g->reg_c |= C_UF;
		if (!(g->reg_c & C_AF) && next_alarm(g, from) <= to)
			g->reg_c |= C_AF;
	}
	if (ticks && now / ticks != g->last / ticks)
		g->reg_c |= C_PF;
	g->last = now;
}

uint64_t rtc_next_event(const struct rtc_guest *g)
{
	uint8_t wanted = g->reg_b & (uint8_t)~g->reg_c & C_FLAGS;
	uint64_t second = (g->last >> TICKS_SHIFT) + 1;
	uint64_t ticks = period(g);
	uint64_t next = RTC_NEVER;

	if ((wanted & C_PF) && ticks)
		next = (g->last / ticks + 1) * ticks;
	if (g->frozen)
		return next;
	if (wanted & C_UF) {
		if (second << TICKS_SHIFT < next)
			next = second << TICKS_SHIFT;
	} else if (wanted & C_AF) {
		/* Not looked for where the update comes first anyway. */
		second = next_alarm(g, second);
		if (second != RTC_NEVER && second << TICKS_SHIFT < next)
			next = second << TICKS_SHIFT;
	}
	return next;
}

/* ---- writing ---- */

void rtc_set_control(struct rtc_guest *g, uint64_t now, uint8_t reg_a, uint8_t reg_b)
{
	bool frozen = rtc_is_frozen(reg_a, reg_b);
	bool restarted = divider_in_reset(g->reg_a) && !divider_in_reset(reg_a);

	if (frozen && !g->frozen) {
		freeze(g, now);
		g->time_set = false;
	}
	g->reg_a = reg_a;
	g->reg_b = reg_b;
	if (g->frozen && !frozen && g->time_set) {
		thaw(g, restarted ? TICKS_PER_SECOND / 2 : now & TICKS_MASK);
		g->time_set = false;
	}
	g->frozen = frozen;
}

void rtc_set_time(struct rtc_guest *g, uint64_t now, uint8_t value)
{
	if (g->frozen) {
		g->cmos[g->index] = value;
		g->time_set = true;
		return;
	}
	/* Set on the run. */
	freeze(g, now);
	g->cmos[g->index] = value;
	thaw(g, now & TICKS_MASK);
}
