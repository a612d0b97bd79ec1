/* SPDX-License-Identifier: MIT */
/*
 * Mapping guest RAM after an update. Theory of operation.
 *
 * A successor's address space is new: RAM is there, in the memfds, but no page of it is mapped.
 * Each one faults twice when the guest touches it first: in KVM's second-level tables, and, which
 * takes longer, in the page tables of this process, from which KVM learns where the page is. The
 * second fault can be had ahead of the guest: that is what is done here.
 *
 * In pieces, from the event loop, rather than by a thread: then there is nothing to be parked, and
 * no lock held, when the next update comes. It is a command like any other that the loop serves
 * between two pieces, and the successor begins anew with what it has mapped: nothing.
 *
 * Only what is in the memfd already is mapped (mincore() tells without asking the disk for what was
 * swapped out): to touch the rest would allocate what the guest never used. MADV_POPULATE_READ, not
 * WRITE: a read fault in a shared memfd maps its neighbours too, and writable. That takes a fifth
 * of the time (2 GiB: 0.4 s against 1.9 s).
 *
 * Pages of hugetlbfs are left to the guest: mincore() does not know them, and there are 512 times
 * fewer faults to be saved.
 *
 * The other half, KVM's tables, is not done. KVM_PRE_FAULT_MEMORY is a call on a vCPU that waits
 * until it leaves KVM_RUN: it would have to be part of the pause, or hold up the guest that it is
 * to help.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/refault.h>

#include "hostpages.h"

#define PIECE (2ull << 20)
#define PIECE_PAGES (PIECE / HOSTPAGE_SMALL)

static int populate(struct refault *r, char *at, size_t pages)
{
	if (madvise(at, pages * HOSTPAGE_SMALL, MADV_POPULATE_READ) < 0)
		return -errno;
	r->mapped += pages * HOSTPAGE_SMALL;
	return 0;
}

/* The runs of pages that are there. */
static int map_piece(struct refault *r, char *at, size_t pages)
{
	unsigned char there[PIECE_PAGES];
	size_t first = 0, end;
	int ret = 0;

	if (mincore(at, pages * HOSTPAGE_SMALL, there) < 0)
		return -errno;
	while (ret == 0 && first < pages) {
		for (end = first; end < pages && there[end] & 1; end++)
			;
		if (end > first)
			ret = populate(r, at + first * HOSTPAGE_SMALL, end - first);
		first = end + 1;
	}
	return ret;
}

static void next_piece(void *opaque)
{
	struct refault *r = opaque;
	const struct memory_region *reg = &r->mem->regions[r->region];
	uint64_t len = reg->size - r->offset < PIECE ? reg->size - r->offset : PIECE;
	int ret = map_piece(r, (char *)reg->hva + r->offset, len / HOSTPAGE_SMALL);

	r->offset += len;
	if (r->offset == reg->size) {
		r->region++;
		r->offset = 0;
	}
	if (ret == 0 && r->region < r->mem->count) {
		loop_wake_signal(&r->wake);
		return;
	}
	if (ret < 0)
		log_warn("mapping guest RAM in the background: %s; the guest does it itself",
			 strerror(-ret));
	else
		log_info("%llu MiB of guest RAM mapped in the background within %llu ms",
			 (unsigned long long)(r->mapped >> 20),
			 (unsigned long long)((now_ns() - r->start_ns) / 1000000));
	refault_stop(r);
}

int refault_start(struct refault *r, const struct memory *mem, struct loop *loop, struct error *err)
{
	int ret;

	refault_stop(r);
	if (mem->page > HOSTPAGE_SMALL)
		return 0;
	*r = (struct refault){ .mem = mem, .start_ns = now_ns() };
	ret = loop_wake_init(loop, &r->wake, next_piece, r, err);
	if (ret == 0)
		loop_wake_signal(&r->wake);
	return ret;
}

void refault_stop(struct refault *r)
{
	loop_wake_fini(&r->wake);
}
