/* SPDX-License-Identifier: MIT */
/* When interrupts came, against when they would have come on a host with nothing else to do. */
#include "probe_exact.h"

struct tolerances tolerances;

void window_options(void)
{
	tolerances.early = us_to_tsc(option_number("early_us", 300));
	tolerances.late = us_to_tsc(option_number("late_us", 2500));
	tolerances.lost = us_to_tsc(option_number("lost_ms", 200) * 1000);
}

uint64_t irqs(unsigned int vector, uint64_t *tsc)
{
	struct cpu *cpu = this_cpu();
	uint64_t count;

	do {
		count = cpu->irq_count[vector];
		*tsc = cpu->irq_tsc[vector];
	} while (count != cpu->irq_count[vector]);
	return count;
}

void window_start(struct window *w)
{
	w->least = INT64_MAX;
	w->seen = 0;
}

/* Whether it is time to believe it. */
static bool window_doubt(struct window *w, int64_t least)
{
	int64_t moved = least - w->doubted, same = (int64_t)tolerances.late / 2;

	w->doubts = w->doubts && moved < same && moved > -same ? w->doubts + 1 : 1;
	w->doubted = least;
	return w->doubts == AGREE;
}

int64_t window_end(struct probe *p, struct window *w, int64_t least, uint64_t span)
{
	int64_t slew = (int64_t)(span / 1000000 * SLEW_PPM);
	const char *what = least < 0 ? w->early : w->late;

	window_start(w);
	/* The last ones only find it earlier: a busy host makes everything late. */
	if (w->learning)
		return w->learning-- <= ONLY_EARLIER && least > 0 ? 0 : least;
	if (least <= (int64_t)tolerances.late && least >= -(int64_t)w->tolerance) {
		w->doubts = 0;
		return least > slew ? slew : least < -slew ? -slew : least;
	}
	if (!window_doubt(w, least))
		return 0;
	w->doubts = 0;
	changed(p, what, 0, tsc_to_us((uint64_t)(least < 0 ? -least : least)));
	return least;
}

bool window_add(struct probe *p, struct window *w, int64_t lateness, uint64_t span, int64_t *shift)
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

void check_lost(struct probe *p, struct window *w, uint64_t due, uint64_t gap)
{
	uint64_t now = rdtsc();

	if (!due)
		return;
	if (was_paused(gap))
		w->excuse += gap;
	if ((int64_t)(now - due - w->excuse) <= (int64_t)tolerances.lost)
		return;
	changed(p, w->lost, due, now);
	w->excuse += now - due;
}
