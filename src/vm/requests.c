/* SPDX-License-Identifier: MIT */
/*
 * Requests, from the side of those who ask: vCPU threads and devices. They set a bit and wake main,
 * and call nothing of the machine that could call them.
 */
#include "requests.h"

bool machine_is_stopping(struct machine *m)
{
	return atomic_load(&m->requests) & MACHINE_STOPPING_REQUESTS;
}

void machine_request(struct machine *m, enum machine_request req)
{
	atomic_fetch_or(&m->requests, (uint32_t)req);
	loop_wake_signal(&m->request_wake);
}
