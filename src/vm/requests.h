/* SPDX-License-Identifier: MIT */
/* What a guest or a device has asked of the machine, until main acts (run_state.c). */
#ifndef MOLT_VM_REQUESTS_H
#define MOLT_VM_REQUESTS_H

#include <stdbool.h>

#include <molt/vm/machine.h>

/*
 * Requests after which a vCPU does not enter the guest until main has acted. The one that has asked
 * stops with that; one that is in the guest only when it leaves it, or when main parks it.
 */
#define MACHINE_STOPPING_REQUESTS \
	((uint32_t)(MACHINE_REQ_SHUTDOWN | MACHINE_REQ_RESET | MACHINE_REQ_TRIPLE_FAULT | \
		    MACHINE_REQ_VCPU_ERROR | MACHINE_REQ_SERVICE))

/* After these the guest does not go on from where it is. */
#define MACHINE_ENDING_REQUESTS (MACHINE_STOPPING_REQUESTS & ~(uint32_t)MACHINE_REQ_SERVICE)

/* Whether one of these is pending. Any thread. */
bool machine_is_stopping(struct machine *m);

#endif
