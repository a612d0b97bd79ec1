/* SPDX-License-Identifier: MIT */
/*
 * Keeping off the guest's CPUs. Theory of operation.
 *
 * While the VMM is replaced three main threads are at work beside a guest that runs. The scheduler
 * puts them where it likes, be it on the CPU of a vCPU that computes while another CPU is idle, and
 * leaves them there for a tick: the guest then has gaps of 2 to 4 ms that nobody stopped it for. So
 * where there are CPUs on which no vCPU that computes was entered, predecessor, stand-in and
 * successor keep to these; the successor inherits it by the exec. When the guest is the successor's
 * that goes back to where main may run usually, which the vCPUs' threads never left.
 */
#include <molt/base/thread.h>

#include "keep_off.h"

void keep_off_begin(struct keep_off *k, const cpu_set_t *spare)
{
	k->on = sched_getaffinity(0, sizeof(k->usual), &k->usual) == 0 &&
		sched_setaffinity(0, sizeof(*spare), spare) == 0;
}

void keep_off_end(struct keep_off *k)
{
	if (k->on)
		thread_set_cpus(&k->usual);
	k->on = false;
}
