/* SPDX-License-Identifier: MIT */
/* What the parts of the probe's exact timers share; probe_exact.c tells the whole story. */
#ifndef PROBE_EXACT_H
#define PROBE_EXACT_H

#include "probe.h"

#define WINDOW 8 /* interrupts that tell the phase together */
#define AGREE 4  /* windows that must agree that it is another */
#define LEARN 4  /* windows that find it at first */
#define ONLY_EARLIER 2
#define SLEW_PPM 50 /* how far the TSC and the timers' clock may be apart */
#define PIT_HZ 1193182u

/* ---- probe_window.c */

struct tolerances {
	uint64_t early, late, lost; /* TSC ticks */
};
extern struct tolerances tolerances;

void window_options(void);
/* The interrupts of a vector so far, and the TSC at the last of them. */
uint64_t irqs(unsigned int vector, uint64_t *tsc);
void window_start(struct window *w);
/*
 * Says by how much the phase is to be taken for another from here on, when the least late of a
 * window was so late. Some in a row must agree: a host that is busy enough spoils one or two.
 */
int64_t window_end(struct probe *p, struct window *w, int64_t least, uint64_t span);
/* One more interrupt, so late. True at the end of a window, with what that says. */
bool window_add(struct probe *p, struct window *w, int64_t lateness, uint64_t span, int64_t *shift);
/* Too long without one, but for pauses of the whole machine. */
void check_lost(struct probe *p, struct window *w, uint64_t due, uint64_t gap);

/* ---- probe_chips.c: RTC, and channel 2 of the PIT */

uint64_t pit_to_tsc(uint64_t ticks);
void rtc_start(struct rtc_timer *t);
void rtc_check(struct probe *p, struct rtc_timer *t, uint64_t gap);
void pit2_start(struct pit2 *t);
void pit2_check(struct probe *p, struct pit2 *t);

#endif
