/* SPDX-License-Identifier: MIT */
/*
 * probe: puts known values into everything a guest owns, and watches them.
 *
 * Theory of operation
 *
 * A loop in ring 3, never left, whose turns take a fraction of a millisecond:
 *	- hold fresh values in all registers that ring 3 has (probe_regs.c), most of the time, so
 *	  that a pause at a random moment finds them live;
 *	- read one register of the kind that has a number: MSRs, CRs, LAPIC .. (probe_items.c);
 *	- verify a slice of RAM and rewrite it (probe_ram.c);
 *	- look at timers and clocks (probe_time.c).
 *
 * Lines:
 *	probe: ready regs=R ram_mib=M features=F
 *	probe: pass N gap_us=G print_us=P print_gap_us=L timer_irqs=T pit_irqs=I holds=H
 *		ram_rounds=K clock_us=C changes=X (one line)
 *	probe: CHANGED what=NAME was=HEX now=HEX
 * A pass line comes every period_ms; the counts are totals. gap_us is the longest turn since the
 * last line, print_us how long printing that last line took, print_gap_us its slowest character;
 * clock_us is how far kvmclock is from the TSC. A change is told at once, and the new value is the
 * one to hold from there on.
 *
 * Options: period_ms=200, passes=0 (then power off; 0: never), ram_mib=all, timer_us=1000,
 * timer=periodic|deadline, lost_ms=200 (how long an interrupt may stay away), clock_us=1000 (how
 * far the clocks may part), xsave=on|off (off: FXSAVE state only). A power button press ends it.
 */
#include "probe.h"

static uint64_t changes;

void changed(const char *what, uint64_t was, uint64_t now)
{
	changes++;
	print("probe: CHANGED what=%s was=%lx now=%lx\n", what, was, now);
}

/* One turn of the loop; returns how long it took. */
static uint64_t turn(uint64_t *last)
{
	uint64_t now, gap;

	regs_check();
	items_check_one();
	ram_check_slice();
	now = rdtsc();
	gap = now - *last;
	*last = now;
	time_check(now, gap);
	return gap;
}

/* Prints what came before it, and returns how long that took: a pause may fall in here too. */
static uint64_t print_pass(uint64_t n, uint64_t gap, uint64_t printing, uint64_t *last)
{
	uint64_t char_gap = print_gap, start = *last;

	print_gap = 0;
	print("probe: pass %lu gap_us=%lu print_us=%lu print_gap_us=%lu timer_irqs=%lu "
	      "pit_irqs=%lu holds=%lu ram_rounds=%lu clock_us=%ld changes=%lu\n",
	      n, tsc_to_us(gap), tsc_to_us(printing), tsc_to_us(char_gap), timer_irqs(),
	      pit_irqs(), regs_holds, ram_rounds, clock_error_us(), changes);
	*last = rdtsc();
	return *last - start;
}

static void watch(uint64_t period, uint64_t passes)
{
	uint64_t last = rdtsc(), due = last + period, pass = 0, largest = 0;
	uint64_t printing = 0;

	for (;;) {
		uint64_t gap = turn(&last);

		if (gap > largest)
			largest = gap;
		if ((int64_t)(last - due) < 0)
			continue;
		printing = print_pass(++pass, largest, printing, &last);
		if (power_button() || pass == passes)
			return;
		largest = 0;
		due = last + period;
	}
}

void guest_main(void)
{
	uint64_t period_ms = option_number("period_ms", 200);
	uint64_t ram_bytes;
	const char *features, *time_features;
	unsigned int registers;

	time_init();
	print("probe: start tsc_khz=%lu\n", tsc_khz);
	lapic_enable();
	features = regs_init();
	ram_bytes = ram_fill(option_number("ram_mib", UINT64_MAX >> 20) << 20);
	time_features = time_arm();
	registers = items_arm();
	print("probe: ready regs=%u ram_mib=%lu features=%s%s\n", registers, ram_bytes >> 20,
	      features, time_features);
	watch(us_to_tsc(period_ms * 1000), option_number("passes", 0));
	print("probe: done changes=%lu\n", changes);
}
