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
#include "probe_exact.h"
#include "probe_mix.h"

#define VEC_TIMER 0x40
#define MSR_TSC_DEADLINE 0x6e0
#define LVTT_ONE_SHOT 0
#define PIT_RELOAD 54881u /* 46 ms */

static bool wanted, pit_once;

/* ------------------------------------------------------------------ periodic */

static void periodic_start(struct periodic *t, unsigned int vector, uint64_t period)
{
	t->vector = vector;
	t->period = period;
	t->count = irqs(vector, &t->base);
	t->base = rdtsc();
	t->w.tolerance = tolerances.late;
	t->w.learning = LEARN;
	window_start(&t->w);
}

static void periodic_check(struct probe *p, struct periodic *t, uint64_t gap)
{
	uint64_t tsc, count = irqs(t->vector, &tsc), n = count - t->count;
	int64_t lateness = (int64_t)(tsc - t->base - n * t->period), shift;

	if (!t->period)
		return;
	if (t->merges && gap >= t->period) {
		t->w.learning = ONLY_EARLIER + 1;
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
	s->w.tolerance = tolerances.early;
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

/* ------------------------------------------------------------------ all of it */

void exact_options(void)
{
	wanted = option_is("exact", "on");
	pit_once = option_is("pit", "oneshot");
	window_options();
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
	lapic_write(LAPIC_TDCR, 0x3); /* divide by 16 */
	lapic_write(LAPIC_LVTT, VEC_TIMER | mode);
	x->lapic_shot.w = (struct window){ .early = "oneshot-early",
					   .late = "oneshot-late",
					   .again = "oneshot-again",
					   .lost = "oneshot-lost" };
	if (mode == LVTT_DEADLINE)
		x->lapic_shot.w = (struct window){ .early = "deadline-early",
						   .late = "deadline-late",
						   .again = "deadline-again",
						   .lost = "deadline-lost" };
	x->lapic.w = (struct window){ .early = "periodic-early",
				      .late = "periodic-late",
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
	x->pit_shot.w = (struct window){ .early = "pit-once-early",
					 .late = "pit-once-late",
					 .again = "pit-once-again",
					 .lost = "pit-once-lost" };
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
		outb(0xa1, 0xde); /* the RTC's line as well */
		pit_start(x);
		pit2_start(&x->pit2);
		x->rtc.w = (struct window){ .early = "rtc-early",
					    .late = "rtc-late",
					    .again = "rtc-again",
					    .lost = "rtc-lost" };
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
