/* SPDX-License-Identifier: MIT */
/*
 * Mapping guest RAM after an update. Theory of operation.
 *
 * A successor's address space is new: RAM is there, in the memfds, but no page of it is mapped.
 * Each one faults twice when the guest touches it first: in KVM's second-level tables, and, which
 * takes longer, in the page tables of this process, from which KVM learns where the page is. Both
 * can be had ahead of the guest. refault_before.c does it while the guest runs in another process;
 * here is what is left when that had no time, or did not take place: the second fault, while the
 * guest runs.
 *
 * In pieces, from the event loop, rather than by a thread: then there is nothing to be parked, and
 * no lock held, when the next update comes. It is a command like any other that the loop serves
 * between two pieces, and the successor begins anew with what it has mapped: nothing.
 *
 * Pages of hugetlbfs are left to the guest: there are 512 times fewer faults to be saved.
 *
 * The first fault, KVM's tables, is not for here: KVM_PRE_FAULT_MEMORY is a call on a vCPU that
 * waits until it leaves KVM_RUN, and would hold up the guest that it is to help.
 */
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "hostpages.h"
#include "refault_walk.h"

static void next_piece(void *opaque)
{
	struct refault *r = opaque;
	int ret = refault_left(r) ? refault_walk(r, NULL, NULL) : 0;

	if (ret == 0 && refault_left(r)) {
		loop_timer_set(r->loop, &r->turn, now_ns(), next_piece, r);
		return;
	}
	if (ret < 0)
		log_warn("mapping guest RAM in the background: %s; the guest does it itself",
			 error_text(-ret));
	else
		log_info("%llu MiB of guest RAM mapped in the background within %llu ms",
			 (unsigned long long)((r->mapped - r->before) >> 20),
			 (unsigned long long)((now_ns() - r->start_ns) / 1000000));
	refault_stop(r);
}

/* Whether refault_before() has been there, for the same RAM. */
static bool begun(const struct refault *r, const struct memory *mem)
{
	return r->mem == mem && !r->turn.loop;
}

void refault_start(struct refault *r, const struct memory *mem, struct loop *loop)
{
	if (!begun(r, mem)) {
		refault_stop(r);
		*r = (struct refault){ .mem = mem };
	}
	if (mem->page > HOSTPAGE_SMALL || !refault_left(r))
		return;
	r->start_ns = now_ns();
	r->loop = loop;
	loop_timer_set(loop, &r->turn, now_ns(), next_piece, r);
}

void refault_stop(struct refault *r)
{
	loop_timer_cancel(&r->turn);
	r->mem = NULL;
}
