/* SPDX-License-Identifier: MIT */
/*
 * Goes wrong in the ways in which a guest takes its vCPU down.
 *
 * Options: after_ms=0 and how=
 *	triple	a triple fault: KVM_EXIT_SHUTDOWN
 *	badpc	ring 0 jumps to where nothing is mapped but the guest's own page tables say there
 *		is: KVM cannot fetch the instruction, KVM_EXIT_INTERNAL_ERROR
 *	trap	an exception the runtime reports; then it powers off
 */
#include "lib/guest.h"

#define NOWHERE 0xd0000000 /* in the 32-bit PCI window, which has no device there */

void guest_main(void)
{
	uint64_t end;

	time_init();
	map_range(NOWHERE, NOWHERE + 0x200000, PTE_UNCACHED);
	print("fault: booted\n");
	end = rdtsc() + us_to_tsc(option_number("after_ms", 0) * 1000);
	while ((int64_t)(rdtsc() - end) < 0)
		cpu_relax();
	if (option_is("how", "badpc"))
		ring0(NOWHERE, 0, 0, 0);
	else if (option_is("how", "trap"))
		__asm__ volatile("ud2");
	else
		triple_fault();
	print("fault: still here\n");
}
