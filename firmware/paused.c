/* SPDX-License-Identifier: MIT */
/*
 * Says each time that it is told of a pause: KVM then sets PVCLOCK_GUEST_STOPPED in the flags of
 * the CPU's kvmclock (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW), where
 * watchdogs look, and the guest takes the mark away. One CPU, no options; it runs until it is
 * stopped.
 */
#include "lib/guest.h"

#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define PVCLOCK_GUEST_STOPPED 2u
#define FLAGS 29

static volatile uint8_t clock[64] __attribute__((aligned(64)));

void guest_main(void)
{
	unsigned int told = 0;

	if (!wrmsr(MSR_KVM_SYSTEM_TIME, (uintptr_t)clock | 1)) {
		print("paused: there is no kvmclock\n");
		return;
	}
	print("paused: ready\n");
	for (;;) {
		if (!(clock[FLAGS] & PVCLOCK_GUEST_STOPPED))
			continue;
		clock[FLAGS] &= (uint8_t)~PVCLOCK_GUEST_STOPPED;
		print("paused: told %u\n", ++told);
	}
}
