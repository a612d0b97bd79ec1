/* SPDX-License-Identifier: MIT */
/*
 * After an update: maps guest RAM into the successor's address space ahead of the guest, in the
 * background. For the main thread.
 */
#ifndef MOLT_VM_REFAULT_H
#define MOLT_VM_REFAULT_H

#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/vm/memory.h>

struct refault {
	const struct memory *mem;
	struct loop_wake wake; /* its source has no loop while nothing is under way */
	unsigned int region;
	uint64_t offset; /* within the region: what comes next */
	uint64_t mapped; /* bytes so far */
	uint64_t start_ns;
};

/*
 * Begins, in small pieces from the event loop; ends by itself, with a line in the log. mem and r
 * stay where they are until then or refault_stop(). r is zeroed before the first use.
 */
int refault_start(struct refault *r, const struct memory *mem, struct loop *loop,
		  struct error *err);

/* Before the memory or the loop goes; harmless when nothing is under way. */
void refault_stop(struct refault *r);

#endif
