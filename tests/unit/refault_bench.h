/* SPDX-License-Identifier: MIT */
/* A predecessor's RAM, of which some pages are in use, and the same once more in a successor. */
#ifndef MOLT_TESTS_REFAULT_BENCH_H
#define MOLT_TESTS_REFAULT_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <molt/base/loop.h>
#include <molt/vm/memory.h>
#include <molt/vm/refault.h>

#define PAGE 4096u
#define REFAULT_HIGH (16ull << 20) /* bytes above 4 GiB: there are two regions */
#define REFAULT_RUNS 6

/* What is in use: at a start, over the end of a piece, a whole piece, in the last page. */
extern const struct refault_run {
	uint64_t gpa, pages;
} refault_runs[REFAULT_RUNS];

struct refault_bench {
	struct memory old, new;
	struct loop *loop;
	struct refault refault;
	uint64_t written; /* bytes in use */
};

/* For cmocka; the state is a struct refault_bench. */
int refault_set_up(void **state);
int refault_tear_down(void **state);

/* Bytes that the memory files have. */
uint64_t refault_allocated(const struct memory *mem);

/* Whether this process has the page in its page tables: what is to be brought about. */
bool refault_is_mapped(const struct memory *mem, uint64_t gpa);

#endif
