/* SPDX-License-Identifier: MIT */
/*
 * Calendar arithmetic for the RTC: the Gregorian calendar, carried back to the year 0. The C
 * library's gmtime(3) may read time zone files, which a sandboxed vCPU thread cannot.
 */
#ifndef MOLT_HW_RTC_TIME_H
#define MOLT_HW_RTC_TIME_H

#include <stdint.h>

#define RTC_DAY_SECONDS 86400u
#define RTC_UNIX_EPOCH (719528ull * RTC_DAY_SECONDS) /* 1970-01-01, seconds from 0000-01-01 */

struct rtc_time {
	unsigned int year;
	unsigned int month; /* 1 to 12 */
	unsigned int day;   /* 1 to 31 */
	unsigned int hour;
	unsigned int minute;
	unsigned int second;
	unsigned int weekday; /* 0 is Sunday */
};

void rtc_time_from_seconds(struct rtc_time *t, uint64_t seconds);

/* Takes any values (a guest wrote them) and pulls them into range; weekday is ignored. */
uint64_t rtc_time_to_seconds(const struct rtc_time *t);

#endif
