/* SPDX-License-Identifier: MIT */
/*
 * Holds known values in every register that ring 3 can hold, for a while, then stores what they
 * are. Before that it stores what the vector registers were when it came. probe_hold.h says what
 * goes in and out.
 *
 * While it waits, not one register changes and no branch is taken: a straight line of PAUSEs. The
 * stack pointer is under test as well. It points just above flags_out, so that PUSHF lands there,
 * and all else is addressed relative to it.
 */
#include "probe_hold.h"

#define REL(offset)	((offset) - HOLD_RSP)(%rsp)

	.text
	.globl	probe_hold
probe_hold:
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, HOLD_SAVED_RSP(%rdi)

	/* Vector and floating-point state. */
	movq	HOLD_VECTOR_ENTRY(%rdi), %rcx
	movq	HOLD_VECTOR_IN(%rdi), %rsi
	movl	HOLD_XCR0(%rdi), %eax
	movl	HOLD_XCR0 + 4(%rdi), %edx
	movl	%eax, %r8d
	orl	%edx, %r8d
	jz	1f
	xsave64	(%rcx)
	xrstor64 (%rsi)
	jmp	2f
1:	fxsave64 (%rcx)
	fxrstor64 (%rsi)
2:
	leaq	HOLD_RSP(%rdi), %rsp
	pushq	REL(HOLD_FLAGS_IN)
	popfq
	movq	REL(HOLD_GPR_IN + 0), %rax
	movq	REL(HOLD_GPR_IN + 8), %rbx
	movq	REL(HOLD_GPR_IN + 16), %rcx
	movq	REL(HOLD_GPR_IN + 24), %rdx
	movq	REL(HOLD_GPR_IN + 32), %rsi
	movq	REL(HOLD_GPR_IN + 40), %rdi
	movq	REL(HOLD_GPR_IN + 48), %rbp
	movq	REL(HOLD_GPR_IN + 64), %r8
	movq	REL(HOLD_GPR_IN + 72), %r9
	movq	REL(HOLD_GPR_IN + 80), %r10
	movq	REL(HOLD_GPR_IN + 88), %r11
	movq	REL(HOLD_GPR_IN + 96), %r12
	movq	REL(HOLD_GPR_IN + 104), %r13
	movq	REL(HOLD_GPR_IN + 112), %r14
	movq	REL(HOLD_GPR_IN + 120), %r15

	.rept	HOLD_PAUSES
	pause
	.endr

	movq	%rax, REL(HOLD_GPR_OUT + 0)
	movq	%rbx, REL(HOLD_GPR_OUT + 8)
	movq	%rcx, REL(HOLD_GPR_OUT + 16)
	movq	%rdx, REL(HOLD_GPR_OUT + 24)
	movq	%rsi, REL(HOLD_GPR_OUT + 32)
	movq	%rdi, REL(HOLD_GPR_OUT + 40)
	movq	%rbp, REL(HOLD_GPR_OUT + 48)
	movq	%rsp, REL(HOLD_GPR_OUT + 56)
	movq	%r8, REL(HOLD_GPR_OUT + 64)
	movq	%r9, REL(HOLD_GPR_OUT + 72)
	movq	%r10, REL(HOLD_GPR_OUT + 80)
	movq	%r11, REL(HOLD_GPR_OUT + 88)
	movq	%r12, REL(HOLD_GPR_OUT + 96)
	movq	%r13, REL(HOLD_GPR_OUT + 104)
	movq	%r14, REL(HOLD_GPR_OUT + 112)
	movq	%r15, REL(HOLD_GPR_OUT + 120)
	pushfq
	addq	$8, %rsp
	cld

	movq	REL(HOLD_VECTOR_OUT), %rsi
	movl	REL(HOLD_XCR0), %eax
	movl	REL(HOLD_XCR0 + 4), %edx
	movl	%eax, %ecx
	orl	%edx, %ecx
	jz	3f
	xsave64 (%rsi)
	jmp	4f
3:	fxsave64 (%rsi)
4:
	movq	REL(HOLD_SAVED_RSP), %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret

	.section .note.GNU-stack, "", @progbits
