/* SPDX-License-Identifier: MIT */
#include <stdbool.h>

#include "rtc_time.h"

#define FIRST_WEEKDAY 6 /* 0000-01-01 was a Saturday */

/* Days from 0000-01-01 to January 1st; the year 0 is a leap year. */
static uint64_t days_before_year(uint64_t year)
{
	return year * 365 + (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
}

static bool is_leap(unsigned int year)
{
	return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static unsigned int month_days(unsigned int year, unsigned int month)
{
	static const uint8_t days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

	return days[month - 1] + (month == 2 && is_leap(year) ? 1u : 0u);
}

void rtc_time_from_seconds(struct rtc_time *t, uint64_t seconds)
{
	uint64_t days = seconds / RTC_DAY_SECONDS;
	unsigned int of_day = (unsigned int)(seconds % RTC_DAY_SECONDS);
	unsigned int left;

	t->hour = of_day / 3600;
	t->minute = of_day / 60 % 60;
	t->second = of_day % 60;
	t->weekday = (unsigned int)((days + FIRST_WEEKDAY) % 7);
	/* An estimate that is never too late, and close: one year off in about 1500. */
	t->year = (unsigned int)(days / 366);
	while (days_before_year(t->year + 1ull) <= days)
		t->year++;
	left = (unsigned int)(days - days_before_year(t->year));
	for (t->month = 1; left >= month_days(t->year, t->month); t->month++)
		left -= month_days(t->year, t->month);
	t->day = left + 1;
}

static unsigned int clamp(unsigned int value, unsigned int min, unsigned int max)
{
	if (value < min)
		return min;
	return value > max ? max : value;
}

uint64_t rtc_time_to_seconds(const struct rtc_time *t)
{
	unsigned int month = clamp(t->month, 1, 12);
	unsigned int day = clamp(t->day, 1, month_days(t->year, month));
	uint64_t days = days_before_year(t->year) + day - 1;

	for (unsigned int m = 1; m < month; m++)
		days += month_days(t->year, m);
	return days * RTC_DAY_SECONDS + clamp(t->hour, 0, 23) * 3600u +
	       clamp(t->minute, 0, 59) * 60u + clamp(t->second, 0, 59);
}
