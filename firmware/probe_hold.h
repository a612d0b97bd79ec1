/* SPDX-License-Identifier: MIT */
/* What probe_hold() takes and gives; the offsets are its own, in assembly. */
#ifndef PROBE_HOLD_H
#define PROBE_HOLD_H

#define HOLD_GPR_IN 0 /* rax rbx rcx rdx rsi rdi rbp rsp r8 .. r15 */
#define HOLD_GPR_OUT 128
#define HOLD_FLAGS_IN 256
#define HOLD_SAVED_RSP 264 /* the caller's */
#define HOLD_XCR0 272      /* 0: FXRSTOR and FXSAVE */
#define HOLD_VECTOR_IN 280 /* pointers to areas in XSAVE format */
#define HOLD_VECTOR_OUT 288
#define HOLD_VECTOR_ENTRY 296
#define HOLD_FLAGS_OUT 304
#define HOLD_RSP 312 /* where the stack pointer stands meanwhile */

#define HOLD_PAUSES 4096

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct hold {
	uint64_t gpr_in[16], gpr_out[16];
	uint64_t flags_in, saved_rsp, xcr0;
	const void *vector_in;
	void *vector_out, *vector_entry;
	uint64_t flags_out;
};

_Static_assert(offsetof(struct hold, gpr_out) == HOLD_GPR_OUT, "probe_hold.S");
_Static_assert(offsetof(struct hold, flags_in) == HOLD_FLAGS_IN, "probe_hold.S");
_Static_assert(offsetof(struct hold, saved_rsp) == HOLD_SAVED_RSP, "probe_hold.S");
_Static_assert(offsetof(struct hold, xcr0) == HOLD_XCR0, "probe_hold.S");
_Static_assert(offsetof(struct hold, vector_in) == HOLD_VECTOR_IN, "probe_hold.S");
_Static_assert(offsetof(struct hold, vector_out) == HOLD_VECTOR_OUT, "probe_hold.S");
_Static_assert(offsetof(struct hold, vector_entry) == HOLD_VECTOR_ENTRY, "probe_hold.S");
_Static_assert(offsetof(struct hold, flags_out) == HOLD_FLAGS_OUT, "probe_hold.S");
_Static_assert(sizeof(struct hold) == HOLD_RSP, "probe_hold.S");

void probe_hold(struct hold *hold);
#endif
#endif
