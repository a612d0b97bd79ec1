/* SPDX-License-Identifier: MIT */
/*
 * Inside of the RTC: rtc_clock.c knows what the registers mean at a given time, rtc.c is the device
 * around it (ports, interrupt, timer).
 */
#ifndef MOLT_HW_RTC_CLOCK_H
#define MOLT_HW_RTC_CLOCK_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define CMOS_BYTES 128

enum {
	REG_SECONDS = 0x00,
	REG_SECONDS_ALARM = 0x01,
	REG_MINUTES = 0x02,
	REG_MINUTES_ALARM = 0x03,
	REG_HOURS = 0x04,
	REG_HOURS_ALARM = 0x05,
	REG_WEEKDAY = 0x06,
	REG_DAY = 0x07,
	REG_MONTH = 0x08,
	REG_YEAR = 0x09,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c,
	REG_D = 0x0d,
	REG_CENTURY = 0x32,
};

#define A_UIP 0x80u
#define A_DIVIDER_RESET 0x60u /* 11x in bits 6 to 4 */
#define A_RATE 0x0fu
#define A_POWER_ON 0x26u /* 32768 Hz, 1024 Hz periodic rate */

#define B_SET 0x80u
#define B_UIE 0x10u
#define B_BINARY 0x04u
#define B_24H 0x02u
#define B_POWER_ON B_24H

/* Flags in C; the enables in B are the same bits. */
#define C_IRQF 0x80u
#define C_PF 0x40u
#define C_AF 0x20u
#define C_UF 0x10u
#define C_FLAGS 0x70u

#define D_VALID 0x80u /* battery fine */

#define TICKS_SHIFT 15
#define TICKS_PER_SECOND (1u << TICKS_SHIFT)
#define TICKS_MASK (TICKS_PER_SECOND - 1)
#define RTC_NEVER UINT64_MAX

struct rtc_guest {
	uint64_t offset;          /* guest time minus host time, ticks, modulo 2^64 */
	uint64_t last;            /* guest time that the flags are up to, ticks */
	uint8_t cmos[CMOS_BYTES]; /* 0x0a to 0x0d are not used; time only while frozen */
	uint8_t index;
	uint8_t reg_a;
	uint8_t reg_b;
	uint8_t reg_c;         /* without IRQF */
	uint8_t weekday_shift; /* the chip counts weekdays on their own: days off the calendar */
	bool frozen;
	bool time_set; /* while frozen: the guest wrote the time */
	bool irq_level;
};

static_assert(sizeof(struct rtc_guest) == 152, "no padding: every byte is saved");

/* Guest time now. */
uint64_t rtc_now(const struct rtc_guest *g);

/* Whether these values of A and B stop the time. */
bool rtc_is_frozen(uint8_t reg_a, uint8_t reg_b);

/* Whether a register holds (part of) the time. */
bool rtc_is_time(uint8_t index);

/* What a time register reads as at now, while the time is not frozen. */
uint8_t rtc_time_register(const struct rtc_guest *g, uint64_t now, uint8_t index);

/* Changes A and B: the time may freeze, or thaw. */
void rtc_set_control(struct rtc_guest *g, uint64_t now, uint8_t reg_a, uint8_t reg_b);

/* Writes the time register at g->index. */
void rtc_set_time(struct rtc_guest *g, uint64_t now, uint8_t value);

/* Raises the flags of all that happened between last and now. */
void rtc_advance(struct rtc_guest *g, uint64_t now);

/*
 * The first tick after last at which an enabled interrupt's flag goes up that is down now, in guest
 * time; RTC_NEVER if there is none.
 */
uint64_t rtc_next_event(const struct rtc_guest *g);

#endif
