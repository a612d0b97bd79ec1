/* SPDX-License-Identifier: MIT */
/*
 * Timers to the tick, with exact=on: no interrupt is lost, none comes that did not happen, and the
 * phase stays.
 *
 * An interrupt may be late: the host was busy, or the machine paused. Late is not lost. What is
 * verified is when it would have come without: of WINDOW interrupts in a row the least late one
 * tells the phase. One that is lost makes all after it late by a period, and one too many makes
 * them early. Where a CPU did not run for a period or more its interrupts may have become one, as
 * they would in a chip (and KVM begins a new phase); then the phase is found anew.
 *
 * The timers' clock may run a little faster or slower than the TSC: the phase may wander by
 * SLEW_PPM, and by no more. A timer that was started anew at each update, however little later,
 * would wander faster.
 *
 *	LAPIC	periodic on the first CPU, one-shot on the second, TSC deadline on the third ..;
 *		timer= turns it round. A one-shot is set again when it fired, after a while in
 *		which it must not fire again. Periods differ from CPU to CPU and are longer than
 *		a pause.
 *	PIT	channel 0 with pit=periodic (mode 2) or pit=oneshot (mode 0, set again likewise).
 *		Channel 2 runs in mode 2; what it counts is held against the TSC.
 *	RTC	periodic interrupt at 16 Hz; its phase alone, for a chip, too, merges what was not
 *		acknowledged.
 *
 * The names of what changed: NAME-early, NAME-late (microseconds), NAME-again, NAME-lost,
 * NAME-phase.
 */
#include "probe.h"
#include "probe_mix.h"

#define VEC_TIMER		0x40
#define VEC_RTC			(VEC_PIC + 8)
#define MSR_TSC_DEADLINE	0x6e0
#define LVTT_ONE_SHOT		0

#define PIT_HZ			1193182u
#define PIT_RELOAD		54881u	/* 46 ms */
#define PIT2_RELOAD		65521u
#define PIT2_EVERY		16	/* turns */
#define RTC_HZ			16u
#define RTC_LEARNS		2	/* windows */

#define WINDOW			12
#define SLEW_PPM		50

static bool wanted, pit_once;
static uint64_t early, late, lost;	/* tolerances, TSC ticks */

static uint64_t pit_to_tsc(uint64_t ticks)
{
	return ticks * 1000 * tsc_khz / PIT_HZ;
}

/* The interrupts of a vector so far, and the TSC at the last of them. */
static uint64_t irqs(unsigned int vector, uint64_t *tsc)
{
	struct cpu *cpu = this_cpu();
	uint64_t count;

	do {
		count = cpu->irq_count[vector];
		*tsc = cpu->irq_tsc[vector];
	} while (count != cpu->irq_count[vector]);
	return count;
}

/* ------------------------------------------------------------------ lateness */

static void window_start(struct window *w)
{
	w->least = INT64_MAX;
	w->seen = 0;
}

/*
 * Says by how much the phase is to be taken for another from here on, when the least late of a
 * window was so late. Two windows must agree that it is another: a host that is busy enough spoils
 * one.
 */
static int64_t window_end(struct probe *p, struct window *w, int64_t least, uint64_t span)
{
	int64_t slew = (int64_t)(span / 1000000 * SLEW_PPM);
	bool bad = least > (int64_t)late || least < -(int64_t)w->tolerance, again = w->doubted;

	window_start(w);
	if (w->learning) {
		w->learning--;
		return least;
	}
	w->doubted = bad && !again;
	if (!bad)
		return least > slew ? slew : least < -slew ? -slew : least;
	if (!again)
		return 0;
	changed(p, least < 0 ? w->early : w->late, 0, tsc_to_us((uint64_t)(least < 0 ? -least : least)));
	return least;
}

/* One more interrupt, so late. True at the end of a window, with what that says. */
static bool window_add(struct probe *p, struct window *w, int64_t lateness, uint64_t span,
		       int64_t *shift)
{
	p->verified++;
	if (lateness < w->least)
		w->least = lateness;
	if (!w->learning && lateness < -(int64_t)w->tolerance) {
		changed(p, w->early, 0, tsc_to_us((uint64_t)-lateness));
		*shift = lateness;
		window_start(w);
		return true;
	}
	if (++w->seen < WINDOW)
		return false;
	*shift = window_end(p, w, w->least, span);
	return true;
}

/* Too long without one, but for pauses of the whole machine. */
static void check_lost(struct probe *p, struct window *w, uint64_t due, uint64_t gap)
{
	uint64_t now = rdtsc();

	if (!due)
		return;
	if (time_was_paused(gap))
		w->excuse += gap;
	if ((int64_t)(now - due - w->excuse) <= (int64_t)lost)
		return;
	changed(p, w->lost, due, now);
	w->excuse += now - due;
}

/* ------------------------------------------------------------------ periodic */

static void periodic_start(struct periodic *t, unsigned int vector, uint64_t period)
{
	t->vector = vector;
	t->period = period;
	t->count = irqs(vector, &t->base);
	t->base = rdtsc();
	t->w.tolerance = late;
	t->w.learning = 1;
	window_start(&t->w);
}

static void periodic_check(struct probe *p, struct periodic *t, uint64_t gap)
{
	uint64_t tsc, count = irqs(t->vector, &tsc), n = count - t->count;
	int64_t lateness = (int64_t)(tsc - t->base - n * t->period), shift;

	if (!t->period)
		return;
	if (t->merges && gap >= t->period) {
		t->w.learning = 1;
		window_start(&t->w);
	}
	if (n == t->seen) {
		check_lost(p, &t->w, t->base + (n + 1) * t->period, gap);
		return;
	}
	t->seen = n;
	t->w.excuse = 0;
	if (!window_add(p, &t->w, lateness, n * t->period, &shift))
		return;
	t->base += n * t->period + (uint64_t)shift;
	t->count = count;
	t->seen = 0;
}

/* ------------------------------------------------------------------ one-shot, deadline */

static void lapic_arm(struct shot *s)
{
	s->due = rdtsc() + s->length;
	if (s->deadline)
		wrmsr(MSR_TSC_DEADLINE, s->due);
	else
		lapic_write(LAPIC_TMICT, s->value);
}

static void pit_arm(struct shot *s)
{
	s->due = rdtsc() + s->length;
	outb(0x40, (uint8_t)s->value);
	outb(0x40, (uint8_t)(s->value >> 8));
}

static void shot_start(struct shot *s, unsigned int vector, void (*arm)(struct shot *s))
{
	s->vector = vector;
	s->arm = arm;
	window_start(&s->w);
	s->w.tolerance = early;
	s->count = irqs(vector, &s->rest_until);
	s->armed = true;
	arm(s);
}

static void shot_fired(struct probe *p, struct shot *s, uint64_t tsc)
{
	int64_t shift;

	window_add(p, &s->w, (int64_t)(tsc - s->due), 0, &shift);
	s->armed = false;
	s->w.excuse = 0;
	s->rest_until = rdtsc() + mix(tsc) % (2 * s->length);
}

static void shot_check(struct probe *p, struct shot *s, uint64_t gap)
{
	uint64_t tsc, count;

	if (!s->arm)
		return;
	count = irqs(s->vector, &tsc);
	if (count - s->count > s->armed) {
		changed(p, s->w.again, s->count + s->armed, count);
		s->count = count - s->armed;
	}
	if (s->armed && count != s->count) {
		s->count = count;
		shot_fired(p, s, tsc);
	} else if (s->armed) {
		check_lost(p, &s->w, s->due, gap);
	} else if ((int64_t)(rdtsc() - s->rest_until) > 0) {
		s->armed = true;
		s->arm(s);
	}
}

/* ------------------------------------------------------------------ RTC */

static uint8_t rtc_read(uint8_t index)
{
	outb(0x70, index);
	return inb(0x71);
}

static void rtc_start(struct rtc_timer *t)
{
	outb(0x70, 0x0a);
	outb(0x71, 0x2c);		/* 32.768 kHz, 16 Hz */
	outb(0x70, 0x0b);
	outb(0x71, 0x42);		/* PIE, 24 hours, BCD */
	rtc_read(0x0c);
	rtc_read(0x0b);			/* the index that probe_items.c watches */
	t->count = irqs(VEC_RTC, &t->base);
	t->period = 1000 * tsc_khz / RTC_HZ;
	t->w.tolerance = late;
	t->w.learning = RTC_LEARNS;
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

static void rtc_check(struct probe *p, struct rtc_timer *t, uint64_t gap)
{
	uint64_t tsc, count;

	if (!t->period)
		return;
	count = irqs(VEC_RTC, &tsc);
	if (count == t->count) {
		check_lost(p, &t->w, t->due, gap);
		return;
	}
	if (t->due && count - t->count > 1)	/* not acknowledged in between */
		changed(p, t->w.again, t->count + 1, count);
	if (t->due)
		rtc_look(p, t, tsc);
	else		/* the first, whenever it came */
		t->base = tsc - t->period;
	t->count = count;
	t->due = tsc + 2 * t->period;
	t->w.excuse = 0;
	rtc_read(0x0c);
	rtc_read(0x0b);
}

/* ------------------------------------------------------------------ PIT, channel 2 */

static void pit2_start(struct pit2 *t)
{
	outb(0x61, (uint8_t)((inb(0x61) & 0xfc) | 1));
	outb(0x43, 0xb4);	/* channel 2, rate generator */
	outb(0x42, (uint8_t)PIT2_RELOAD);
	outb(0x42, (uint8_t)(PIT2_RELOAD >> 8));
	t->base = rdtsc();
	t->period = pit_to_tsc(PIT2_RELOAD);
}

/* It was read between two readings of the TSC: only what lies outside of these is wrong. */
static void pit2_check(struct probe *p, struct pit2 *t)
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
	if (width > period / 8)		/* stopped in between: that tells nothing */
		return;
	low = (int64_t)(before - t->base - pit_to_tsc(PIT2_RELOAD - count)) % period;
	if (low > period / 2)
		low -= period;
	p->verified++;
	if (low > (int64_t)early || low + width < -(int64_t)early)
		changed(p, "pit2-phase", 0, (uint64_t)(low * 1000 / (int64_t)tsc_khz));
	else if (low <= slew && low + width >= -slew)
		return;
	/* Seldom, and only as far as the clocks can be apart. */
	t->base = before - pit_to_tsc(PIT2_RELOAD - count) + (low < 0 ? (uint64_t)width : 0);
}

/* ------------------------------------------------------------------ all of it */

void exact_options(void)
{
	wanted = option_is("exact", "on");
	pit_once = option_is("pit", "oneshot");
	early = us_to_tsc(option_number("early_us", 300));
	late = us_to_tsc(option_number("late_us", 2500));
	lost = us_to_tsc(option_number("lost_ms", 200) * 1000);
}

bool exact_wanted(void)
{
	return wanted;
}

bool exact_is_one_shot(const struct probe *p)
{
	return p->exact.lapic_shot.arm && !p->exact.lapic_shot.deadline;
}

static void lapic_start(struct probe *p)
{
	static const uint32_t modes[] = { LVTT_PERIODIC, LVTT_ONE_SHOT, LVTT_DEADLINE };
	unsigned int first = option_is("timer", "oneshot") + 2u * option_is("timer", "deadline");
	uint32_t mode = modes[(first + p->cpu) % ARRAY_SIZE(modes)];
	uint64_t us = 47000 + 6000 * (p->cpu % 4);
	struct exact *x = &p->exact;

	if (mode == LVTT_DEADLINE && !(cpuid(1, 0).ecx >> 24 & 1))
		mode = LVTT_ONE_SHOT;
	lapic_write(LAPIC_TDCR, 0x3);	/* divide by 16 */
	lapic_write(LAPIC_LVTT, VEC_TIMER | mode);
	x->lapic_shot.w = (struct window){ .early = "oneshot-early", .late = "oneshot-late",
					   .again = "oneshot-again", .lost = "oneshot-lost" };
	if (mode == LVTT_DEADLINE)
		x->lapic_shot.w = (struct window){
			.early = "deadline-early", .late = "deadline-late",
			.again = "deadline-again", .lost = "deadline-lost" };
	x->lapic.w = (struct window){ .early = "periodic-early", .late = "periodic-late",
				      .lost = "periodic-lost" };
	x->lapic_shot.deadline = mode == LVTT_DEADLINE;
	x->lapic_shot.length = us_to_tsc(us);
	x->lapic_shot.value = (uint32_t)(lapic_khz * us / 1000 / 16);
	if (mode != LVTT_PERIODIC) {
		shot_start(&x->lapic_shot, VEC_TIMER, lapic_arm);
		return;
	}
	lapic_write(LAPIC_TMICT, x->lapic_shot.value);
	x->lapic.merges = true;
	periodic_start(&x->lapic, VEC_TIMER, x->lapic_shot.length);
}

static void pit_start(struct exact *x)
{
	x->pit.w = (struct window){ .early = "pit-early", .late = "pit-late", .lost = "pit-lost" };
	x->pit_shot.w = (struct window){ .early = "pit-once-early", .late = "pit-once-late",
					 .again = "pit-once-again", .lost = "pit-once-lost" };
	x->pit_shot.value = PIT_RELOAD;
	x->pit_shot.length = pit_to_tsc(PIT_RELOAD);
	outb(0x43, pit_once ? 0x30 : 0x34);
	if (pit_once) {
		shot_start(&x->pit_shot, VEC_PIC, pit_arm);
		return;
	}
	pit_arm(&x->pit_shot);
	periodic_start(&x->pit, VEC_PIC, x->pit_shot.length);
}

void exact_arm(struct probe *p)
{
	struct exact *x = &p->exact;

	if (p->cpu == 0) {
		outb(0xa1, 0xde);	/* the RTC's line as well */
		pit_start(x);
		pit2_start(&x->pit2);
		x->rtc.w = (struct window){ .early = "rtc-early", .late = "rtc-late",
					    .again = "rtc-again", .lost = "rtc-lost" };
		rtc_start(&x->rtc);
	}
	lapic_start(p);
	x->checked_at = rdtsc();
}

void exact_check(struct probe *p)
{
	struct exact *x = &p->exact;
	uint64_t now = rdtsc(), gap = now - x->checked_at;

	x->checked_at = now;
	periodic_check(p, &x->lapic, gap);
	shot_check(p, &x->lapic_shot, gap);
	if (p->cpu)
		return;
	periodic_check(p, &x->pit, gap);
	shot_check(p, &x->pit_shot, gap);
	pit2_check(p, &x->pit2);
	rtc_check(p, &x->rtc, gap);
}
