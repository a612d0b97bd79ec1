/* SPDX-License-Identifier: MIT */
/*
 * Entry, privilege levels and traps of the tiny guests.
 *
 * Theory of operation
 *
 * The loader enters pvh_start in 32-bit protected mode, paging off, EBX = address of the
 * hvm_start_info. From there it is about forty instructions to 64-bit ring 3, where a guest
 * spends its life. The reason: some KVM hosts have no hardware virtualisation and run only ring 3
 * natively, everything else goes through an instruction emulator that is a thousand times slower
 * and lacks the rarer instructions. So ring 0 here is a handful of plain moves, and whatever
 * takes work (filling the IDT, mapping memory) is done in ring 3, which can do it because every
 * page is mapped user accessible and writable. Nothing protects a guest from itself.
 *
 * Ring 3 reaches ports through the I/O bitmap in the TSS, all zeroes: all allowed. (IOPL would do
 * the same in one line, but not every host honours it.)
 *
 * Ring 3 gets into ring 0 through ring0(), whose UD2 traps: there are hosts on which neither INT n
 * nor SYSCALL work, but every host delivers an exception. The trap handler calls the function that
 * RAX points to, on the ring 0 stack with interrupts off; its arguments are in RDI, RSI and RDX.
 *
 * Vectors 0x00-0x1f are exceptions. They store what is known in trap_info and IRET to
 * trap_report() in ring 3, which prints it. An instruction that is allowed to fault sets
 * trap_fixup first.
 * Vectors 0x20-0xff are interrupts. The handler counts them, notes the time and sends the EOI:
 * to the PIC for 0x20-0x2f, else to the LAPIC. What they mean is found out in ring 3.
 */
#include "arch.h"

	.section .note.Xen, "a", @note
	.balign	4
	.long	4			/* sizeof "Xen\0" */
	.long	8
	.long	18			/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.quad	pvh_start

/* ------------------------------------------------------------------ 32-bit entry */

	.section .text.start, "ax"
	.code32
	.globl	pvh_start
pvh_start:
	movl	%ebx, start_info_gpa
	movl	$boot_tss, %eax
	movw	%ax, gdt + SEL_TSS + 2
	shrl	$16, %eax
	movb	%al, gdt + SEL_TSS + 4
	movb	%ah, gdt + SEL_TSS + 7
	movl	$ring0_stack_top, boot_tss + TSS_RSP0
	movw	$TSS_SIZE, boot_tss + TSS_IOMAP
	movb	$0xff, boot_tss + TSS_SIZE + IO_BITMAP_SIZE

	lgdt	gdt_ptr
	movl	$CR4_INIT, %eax
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	xorl	%edx, %edx
	movl	$EFER_LME, %eax
	wrmsr
	movl	$CR0_INIT, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_CODE0, $start64

	.code64
start64:
	movl	$SEL_DATA0, %eax
	movl	%eax, %ss
	movl	$SEL_DATA3, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	movl	$SEL_TSS, %eax
	ltr	%ax
	lidt	idt_ptr
	movl	$ring0_stack_top, %esp
	pushq	$SEL_DATA3 | 3
	pushq	$ring3_stack_top - 8
	pushq	$EFLAGS_FIXED
	pushq	$SEL_CODE3 | 3
	pushq	$runtime_main
	iretq

/* ------------------------------------------------------------------ from ring 3 to ring 0 */

	.text
	.globl	ring0, ud_entry
ring0:
	movq	%rdi, %rax
	movq	%rsi, %rdi
	movq	%rdx, %rsi
	movq	%rcx, %rdx
ring0_gate:
	ud2
	ret

	.balign	16
ud_entry:
	cmpq	$ring0_gate, (%rsp)
	jne	vector_stubs + 6 * 16
	addq	$2, (%rsp)
	callq	*%rax
	iretq

/* Functions for ring0(). The frame of the trap starts above the return address. */
#define FRAME_RFLAGS	24

	.globl	r0_irq_enable
r0_irq_enable:
	orq	$EFLAGS_IF, FRAME_RFLAGS(%rsp)
	ret

	.globl	r0_irq_disable
r0_irq_disable:
	andq	$~EFLAGS_IF, FRAME_RFLAGS(%rsp)
	ret

/* Sleep until an interrupt, unless *RDI has moved on from RSI: no wake-up is lost. */
	.globl	r0_halt_unless
r0_halt_unless:
	cmpq	%rsi, (%rdi)
	jne	1f
	sti
	hlt
	cli
1:	ret

/* RDI = MSR, RSI = where the value goes; RAX = 0, or -1 if the MSR is not there. */
	.globl	r0_rdmsr
r0_rdmsr:
	movq	$r0_faulted, trap_fixup
	movl	%edi, %ecx
	rdmsr
	movq	$0, trap_fixup
	movl	%eax, (%rsi)
	movl	%edx, 4(%rsi)
	xorl	%eax, %eax
	ret

/* RDI = MSR, RSI = value; RAX = 0 or -1. */
	.globl	r0_wrmsr
r0_wrmsr:
	movq	$r0_faulted, trap_fixup
	movl	%edi, %ecx
	movl	%esi, %eax
	movq	%rsi, %rdx
	shrq	$32, %rdx
	wrmsr
	movq	$0, trap_fixup
	xorl	%eax, %eax
	ret

/* RDI = value for XCR0; RAX = 0 or -1. */
	.globl	r0_xsetbv
r0_xsetbv:
	movq	$r0_faulted, trap_fixup
	xorl	%ecx, %ecx
	movl	%edi, %eax
	xorl	%edx, %edx
	xsetbv
	movq	$0, trap_fixup
	xorl	%eax, %eax
	ret

r0_faulted:
	movq	$-1, %rax
	ret

/* ------------------------------------------------------------------ traps and interrupts */

/* 256 stubs of 16 bytes: push an error code where the CPU does not, then the vector. */
	.balign	16
	.globl	vector_stubs
vector_stubs:
	.set	vector, 0
	.rept	256
	.balign	16
	.if	(vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || \
		(vector == 21) || (vector == 29) || (vector == 30)
	.else
	pushq	$0
	.endif
	pushq	$vector
	.if	vector < 32
	jmp	trap_common
	.else
	jmp	irq_common
	.endif
	.set	vector, vector + 1
	.endr

	.balign	16
irq_common:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	movl	24(%rsp), %ecx
	rdtsc
	shlq	$32, %rdx
	orq	%rdx, %rax
	movq	%rax, irq_tsc(, %rcx, 8)
	incq	irq_count(, %rcx, 8)
	cmpl	$VEC_PIC + 16, %ecx
	jb	1f
	movl	$LAPIC_BASE + LAPIC_EOI, %eax
	movl	$0, (%rax)
	jmp	3f
1:	movb	$0x20, %al
	cmpl	$VEC_PIC + 8, %ecx
	jb	2f
	outb	%al, $0xa0
2:	outb	%al, $0x20
3:	popq	%rdx
	popq	%rcx
	popq	%rax
	addq	$16, %rsp
	iretq

	.balign	16
trap_common:
	cmpq	$0, trap_fixup
	jne	1f
	popq	trap_info + 0		/* vector, error code, rip, cs, rflags, rsp */
	popq	trap_info + 8
	popq	trap_info + 16
	popq	trap_info + 24
	popq	trap_info + 32
	popq	trap_info + 40
	movq	%cr2, %rax
	movq	%rax, trap_info + 48
	pushq	$trap_stack_top - 8
	pushq	$EFLAGS_FIXED
	pushq	$SEL_CODE3 | 3
	pushq	$trap_report
	iretq
1:	pushq	%rax
	movq	trap_fixup, %rax
	movq	%rax, 24(%rsp)
	movq	$0, trap_fixup
	popq	%rax
	addq	$16, %rsp
	iretq

/* ------------------------------------------------------------------ tables */

	.data
	.balign	16
	.globl	gdt
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad	0x00cf93000000ffff	/* SEL_DATA0 */
	.quad	0x00af9b000000ffff	/* SEL_CODE0 */
	.quad	0x00cff3000000ffff	/* SEL_DATA3 */
	.quad	0x00affb000000ffff	/* SEL_CODE3 */
	.quad	0x0000890000000000 | (TSS_SIZE + IO_BITMAP_SIZE)	/* SEL_TSS, boot CPU */
	.quad	0
	.fill	2 * (MAX_CPUS - 1), 8, 0	/* the other CPUs' */
gdt_end:

	.globl	gdt_ptr
gdt_ptr:
	.word	gdt_end - gdt - 1
	.quad	gdt
	.globl	idt_ptr
idt_ptr:
	.word	256 * 16 - 1
	.quad	idt

/* The first GiB; map_range() adds the rest. */
	.balign	4096
	.globl	pml4, pdpt
pml4:	.quad	pdpt + PTE_TABLE
	.fill	511, 8, 0
pdpt:	.quad	pd0 + PTE_TABLE
	.fill	511, 8, 0
pd0:
	.set	page, 0
	.rept	512
	.quad	page + PTE_LARGE
	.set	page, page + 0x200000
	.endr

	.bss
	.balign	4096
	.globl	idt, irq_count, irq_tsc, trap_info, trap_fixup, start_info_gpa
idt:		.skip	4096
boot_tss:	.skip	TSS_SIZE + IO_BITMAP_SIZE + 1
	.balign	16
irq_count:	.skip	256 * 8
irq_tsc:	.skip	256 * 8
trap_info:	.skip	7 * 8
trap_fixup:	.skip	8
start_info_gpa:	.skip	8
	.balign	16
		.skip	4096
ring0_stack_top:
		.skip	4096
trap_stack_top:
		.skip	16384
ring3_stack_top:

	.section .note.GNU-stack, "", @progbits
