/* SPDX-License-Identifier: MIT */
/*
 * Maps guest RAM into the address space of an update's successor ahead of the guest: before it
 * takes the guest over (refault_before()), and in the background afterwards (refault_start()). For
 * the main thread.
 */
#ifndef MOLT_VM_REFAULT_H
#define MOLT_VM_REFAULT_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/vm/memory.h>

enum refault_mode {
	REFAULT_BEFORE,     /* before the guest is taken over; what is left, in the background */
	REFAULT_BACKGROUND, /* after that */
	REFAULT_LAZY,       /* when the guest touches it */
};

/*
 * How far it is, for whoever wants to show it: may be in memory that is shared with another
 * process. Bytes; total is what there is in the memory files when it begins. It counts what was
 * swapped out, which is not mapped, and the guest goes on taking pages: so mapped may end up below
 * or above it.
 */
struct refault_progress {
	_Atomic uint64_t mapped;
	_Atomic uint64_t total;
};

struct refault {
	const struct memory *mem;
	struct loop_timer turn; /* of the event loop; not set while nothing is under way */
	struct loop *loop;
	unsigned int region; /* mem->count: through */
	uint64_t offset;     /* within the region: what comes next */
	uint64_t mapped;     /* bytes so far */
	uint64_t before;     /* those of them that refault_before() mapped */
	uint64_t in_kvm;     /* and of these, those in KVM's second-level tables, too */
	uint64_t start_ns;
};

struct vcpu;

/* What refault_before() has to know besides. Zeroes: it does nothing. */
struct refault_plan {
	uint64_t limit_ns; /* how long it may take; the piece that is under way then is finished */
	/* Asked before each piece, on any thread: true ends it. NULL: never. */
	bool (*hurry)(void *opaque);
	void *opaque;
	const cpu_set_t *spare; /* the host's CPUs to use; NULL: all */
	/*
	 * One of the new VM, whose memslots are there and whose CPUID is set, and which nobody else
	 * uses meanwhile: KVM's second-level tables are filled by it, for all vCPUs, where KVM can
	 * (struct kvm, has_pre_fault_memory). NULL: they are not.
	 */
	const struct vcpu *vcpu;
	struct refault_progress *progress; /* or NULL */
};

/*
 * Maps what there is of RAM, while the guest runs in another process, and returns when it is
 * through, the time is over, or there is hurry; r->mapped says how much that was. The work is done
 * by a thread with a lower priority (nice) than the caller's, on plan->spare; it has ended when
 * this returns. r is zeroed before, and kept for refault_start().
 *
 * -errno where there is no such thread, or RAM cannot be mapped: nothing is broken then, the guest
 * does it itself. In the second case refault_start() does not try again.
 */
int refault_before(struct refault *r, const struct memory *mem, const struct refault_plan *plan,
		   struct error *err);

/*
 * Begins, in small pieces from the event loop, or goes on where refault_before() has stopped; ends
 * by itself, with a line in the log. mem and r stay where they are until then or refault_stop(). r
 * is zeroed before the first use.
 */
void refault_start(struct refault *r, const struct memory *mem, struct loop *loop);

/*
 * Before the memory or the loop goes; harmless when nothing is under way. What begins after it
 * begins anew.
 */
void refault_stop(struct refault *r);

#endif
