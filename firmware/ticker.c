/* SPDX-License-Identifier: MIT */
/*
 * ticker: a clock that notices when it is stopped. The demo guest.
 *
 * It spins reading the TSC and keeps the largest gap between two reads, which is what a guest can
 * measure of a pause. Printing takes time too (every character is an exit), and a pause may fall
 * into it; so the TSC's time is split without a hole into two kinds, and a pause always shows in
 * the line after it:
 *
 *	tick N gap_us=G print_us=P print_gap_us=C
 *
 *	G	the largest gap between two reads in the loop since the last line
 *	P	how long it took to print the last line, from the last read before it to the first
 *		read after it
 *	C	the longest that one character of it took: a pause in P as closely as can be told
 *
 * With spin=off it sleeps between lines instead, on a LAPIC timer interrupt, and says how late it
 * woke up (late_us) in place of the gap.
 *
 * Options: period_ms=1000, ticks=0 (then power off; 0: never), spin=on|off. A power button press
 * ends it.
 */
#include "lib/guest.h"

#define VEC_TIMER 0x40

struct ticker {
	uint64_t period; /* all in TSC ticks */
	uint64_t due;
	uint64_t last;     /* the newest TSC read */
	uint64_t gap;      /* since the last line */
	uint64_t printing; /* what the last line took */
	uint64_t worst_gap, worst_printing;
	bool spin;
};

/* The largest gap may be the one that ends at or after `due`: it counts for this line. */
static void spin_until(struct ticker *t)
{
	uint64_t last = t->last, largest = 0, now;

	do {
		now = rdtsc();
		if (now - last > largest)
			largest = now - last;
		last = now;
	} while ((int64_t)(now - t->due) < 0);
	t->last = last;
	t->gap = largest;
}

static void sleep_until(struct ticker *t)
{
	const volatile uint64_t *irqs = &this_cpu()->irq_count[VEC_TIMER];
	uint64_t now = rdtsc();

	while ((int64_t)(now - t->due) < 0) {
		uint64_t count = (t->due - now) * lapic_khz / tsc_khz / 16 + 1;
		uint64_t seen = *irqs;

		lapic_write(LAPIC_TMICT, count < 0xffffffff ? (uint32_t)count : 0xffffffff);
		halt_unless(irqs, seen);
		now = rdtsc();
	}
	t->last = now;
	t->gap = now - t->due;
}

static void wait_for_tick(struct ticker *t)
{
	if (t->spin)
		spin_until(t);
	else
		sleep_until(t);
	if (t->gap > t->worst_gap)
		t->worst_gap = t->gap;
	/* After a pause of several periods go on from now: do not print all that were missed. */
	t->due += t->period;
	if ((int64_t)(t->last - t->due) > 0)
		t->due = t->last + t->period;
}

static void print_tick(struct ticker *t, uint64_t n)
{
	uint64_t char_gap = print_gap, now;

	print_gap = 0;
	print("tick %lu %s=%lu print_us=%lu print_gap_us=%lu\n", n, t->spin ? "gap_us" : "late_us",
	      tsc_to_us(t->gap), tsc_to_us(t->printing), tsc_to_us(char_gap));
	now = rdtsc();
	t->printing = now - t->last;
	t->last = now;
	if (t->printing > t->worst_printing)
		t->worst_printing = t->printing;
}

static void timer_init(void)
{
	lapic_enable();
	lapic_write(LAPIC_TDCR, 0x3); /* divide by 16 */
	lapic_write(LAPIC_LVTT, VEC_TIMER);
}

void guest_main(void)
{
	uint64_t period_ms = option_number("period_ms", 1000);
	uint64_t ticks = option_number("ticks", 0);
	struct ticker t = { .spin = !option_is("spin", "off") };
	uint64_t n = 0;
	bool stop = false;

	time_init();
	t.period = us_to_tsc(period_ms * 1000);
	if (!t.spin)
		timer_init();
	print("ticker: tsc_khz=%lu period_ms=%lu spin=%s\n", tsc_khz, period_ms,
	      t.spin ? "on" : "off");

	t.last = rdtsc();
	t.due = t.last + t.period;
	while (!stop) {
		wait_for_tick(&t);
		n++;
		stop = power_button() || n == ticks; /* counts as printing */
		print_tick(&t, n);
	}
	print("ticker: done ticks=%lu max_gap_us=%lu max_print_us=%lu\n", n, tsc_to_us(t.worst_gap),
	      tsc_to_us(t.worst_printing));
}
