/* SPDX-License-Identifier: MIT */
/* Timers of the machine that are watched for their phase: the RTC, and channel 2 of the PIT. */
#include "probe_exact.h"

#define VEC_RTC (VEC_PIC + 8)
#define RTC_HZ 16u

#define PIT2_RELOAD 65521u
#define PIT2_EVERY 16 /* turns */
uint64_t pit_to_tsc(uint64_t ticks)
{
	return ticks * 1000 * tsc_khz / PIT_HZ;
}

/* ------------------------------------------------------------------ RTC */

static uint8_t rtc_read(uint8_t index)
{
	outb(0x70, index);
	return inb(0x71);
}

void rtc_start(struct rtc_timer *t)
{
	outb(0x70, 0x0a);
	outb(0x71, 0x2c); /* 32.768 kHz, 16 Hz */
	outb(0x70, 0x0b);
	outb(0x71, 0x42); /* PIE, 24 hours, BCD */
	rtc_read(0x0c);
	rtc_read(0x0b); /* the index that probe_items.c watches */
	t->count = irqs(VEC_RTC, &t->base);
	t->period = 1000 * tsc_khz / RTC_HZ;
	t->w.tolerance = tolerances.late;
	t->w.learning = LEARN;
	window_start(&t->w);
}

/*
 * At which point of the chip's period it came, from a quarter before its tick on. One that is
 * later than three quarters looks early: that is for the window to judge, in which most are in
 * time.
 */
static int64_t rtc_lateness(const struct rtc_timer *t, uint64_t tsc)
{
	int64_t period = (int64_t)t->period, point = (int64_t)(tsc - t->base) % period;

	return point > period * 3 / 4 ? point - period : point;
}

static void rtc_window(struct probe *p, struct rtc_timer *t, uint64_t tsc)
{
	int64_t least = t->early > WINDOW / 2 ? t->earliest : t->w.least;
	int64_t shift = window_end(p, &t->w, least, WINDOW * t->period);

	t->base += (tsc - t->base) / t->period * t->period + (uint64_t)shift;
	t->early = 0;
	t->earliest = 0;
}

static void rtc_look(struct probe *p, struct rtc_timer *t, uint64_t tsc)
{
	int64_t lateness = rtc_lateness(t, tsc);

	p->verified++;
	if (lateness < -(int64_t)t->w.tolerance) {
		t->early++;
		if (lateness < t->earliest)
			t->earliest = lateness;
	} else if (lateness < t->w.least) {
		t->w.least = lateness;
	}
	if (++t->w.seen == WINDOW)
		rtc_window(p, t, tsc);
}

void rtc_check(struct probe *p, struct rtc_timer *t, uint64_t gap)
{
	uint64_t tsc, count;

	if (!t->period)
		return;
	count = irqs(VEC_RTC, &tsc);
	if (count == t->count) {
		check_lost(p, &t->w, t->due, gap);
		return;
	}
	if (t->due && count - t->count > 1) /* not acknowledged in between */
		changed(p, t->w.again, t->count + 1, count);
	if (t->due)
		rtc_look(p, t, tsc);
	else /* the first, whenever it came */
		t->base = tsc - t->period;
	t->count = count;
	t->due = tsc + 2 * t->period;
	t->w.excuse = 0;
	rtc_read(0x0c);
	rtc_read(0x0b);
}

/* ------------------------------------------------------------------ PIT, channel 2 */

void pit2_start(struct pit2 *t)
{
	outb(0x61, (uint8_t)((inb(0x61) & 0xfc) | 1));
	outb(0x43, 0xb4); /* channel 2, rate generator */
	outb(0x42, (uint8_t)PIT2_RELOAD);
	outb(0x42, (uint8_t)(PIT2_RELOAD >> 8));
	t->base = rdtsc();
	t->period = pit_to_tsc(PIT2_RELOAD);
}

/* It was read between two readings of the TSC: only what lies outside of these is wrong. */
void pit2_check(struct probe *p, struct pit2 *t)
{
	uint64_t before, after, count;
	int64_t low, width, period = (int64_t)t->period, slew;

	if (!period || ++t->turns % PIT2_EVERY)
		return;
	before = rdtsc();
	outb(0x43, 0x80);
	after = rdtsc();
	count = inb(0x42);
	count |= (uint64_t)inb(0x42) << 8;
	slew = (int64_t)((before - t->base) / 1000000 * SLEW_PPM);
	width = (int64_t)(after - before);
	if (width > period / 8) /* stopped in between: that tells nothing */
		return;
	low = (int64_t)(before - t->base - pit_to_tsc(PIT2_RELOAD - count)) % period;
	if (low > period / 2)
		low -= period;
	p->verified++;
	if (low > (int64_t)tolerances.early || low + width < -(int64_t)tolerances.early)
		changed(p, "pit2-phase", 0, (uint64_t)(low * 1000 / (int64_t)tsc_khz));
	else if (low <= slew && low + width >= -slew)
		return;
	/* Seldom, and only as far as the clocks can be apart. */
	t->base = before - pit_to_tsc(PIT2_RELOAD - count) + (low < 0 ? (uint64_t)width : 0);
}
