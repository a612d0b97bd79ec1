/* SPDX-License-Identifier: MIT */
/*
 * Says that it booted, waits, and resets the machine.
 *
 * Options: marker=N (printed), after_ms=0, how=port64|cf9|triple|panic; the last one reports panics
 * without end instead.
 */
#include "lib/guest.h"

static void wait_ms(uint64_t ms)
{
	uint64_t end = rdtsc() + us_to_tsc(ms * 1000);

	while ((int64_t)(rdtsc() - end) < 0)
		cpu_relax();
}

void guest_main(void)
{
	time_init();
	print("reset: booted marker=%lu\n", option_number("marker", 0));
	wait_ms(option_number("after_ms", 0));
	while (option_is("how", "panic"))
		outb(0x505, 0x01);
	if (option_is("how", "cf9"))
		outb(0xcf9, 0x06);
	else if (option_is("how", "triple"))
		triple_fault();
	else
		outb(0x64, 0xfe);
	wait_ms(1000);
	print("reset: still here\n");
}
