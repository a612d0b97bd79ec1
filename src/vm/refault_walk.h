/* SPDX-License-Identifier: MIT */
/* The way over guest RAM, for refault.c and refault_before.c. */
#ifndef MOLT_VM_REFAULT_WALK_H
#define MOLT_VM_REFAULT_WALK_H

#include <stdbool.h>

#include <molt/vm/refault.h>

/* A run of pages, len bytes at offset in the region, is mapped. */
typedef void refault_mapped_fn(void *opaque, const struct memory_region *reg, uint64_t offset,
			       uint64_t len);

/* Whether a piece is left. */
bool refault_left(const struct refault *r);

/*
 * Maps the next piece, 2 MiB at most, and tells mapped (or NULL) of each run. 0, or -errno of
 * mincore() or madvise(); the piece is behind us all the same.
 */
int refault_walk(struct refault *r, refault_mapped_fn *mapped, void *opaque);

#endif
