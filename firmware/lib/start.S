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
 * Ring 3 reaches ports by two ways, since each fails on some host: by IOPL 3, which hosts that run
 * ring 3 natively may not honour; and through the I/O bitmap in the TSS, all zeroes: all allowed.
 * (QEMU's emulated CPU looks at the bitmap of a TSS that is not busy only. KVM on AMD tells that it
 * is, and so it is when its state was read and set, as by an update.)
 *
 * Ring 3 gets into ring 0 through ring0(), whose UD2 traps: there are hosts on which neither INT n
 * nor SYSCALL work, but every host delivers an exception. The trap handler calls the function that
 * RAX points to, on the ring 0 stack with interrupts off; its arguments are in RDI, RSI and RDX.
 *
 * Vectors 0x00-0x1f are exceptions. They store what is known in struct cpu and IRET to
 * trap_report() in ring 3, which prints it. An instruction that is allowed to fault sets the
 * CPU's trap_fixup first.
 * Vectors 0x20-0xff are interrupts. The handler counts them, notes the time and sends the EOI:
 * to the PIC for 0x20-0x2f, else to the LAPIC. What they mean is found out in ring 3.
 *
 * What a CPU has for itself is in its block (arch.h), found by the stack pointer, since FS and GS
 * are the guest's. The other CPUs start in ap_trampoline in real mode, one at a time, and join
 * pvh_start's path at enter_long; start_cpu is the block of whoever starts. They share IDT, GDT
 * and page tables; a TSS each.
 */
#include "arch.h"

/* The block of the CPU whose stack this is. */
	.macro	this_cpu reg
	movq	%rsp, \reg
	andq	$-CPU_BLOCK, \reg
	.endm

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
	movl	$boot_cpu + CPU_RING0_TOP, boot_tss + TSS_RSP0
	movw	$TSS_SIZE, boot_tss + TSS_IOMAP
	movb	$0xff, boot_tss + TSS_SIZE + IO_BITMAP_SIZE
	movl	$boot_cpu, start_cpu
	movl	$runtime_main, boot_cpu + CPU_MAIN
	lgdt	gdt_ptr

enter_long:
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
	movl	start_cpu, %ebx
	movl	CPU_INDEX(%rbx), %eax
	shll	$4, %eax
	addl	$SEL_TSS, %eax
	ltr	%ax
	lidt	idt_ptr
	leaq	CPU_RING0_TOP(%rbx), %rsp
	leaq	CPU_RING3_TOP - 8(%rbx), %rcx
	pushq	$SEL_DATA3 | 3
	pushq	%rcx
	pushq	$EFLAGS_RING3
	pushq	$SEL_CODE3 | 3
	pushq	CPU_MAIN(%rbx)
	iretq

/* ------------------------------------------------------------------ the other CPUs' entry */

/* Copied to AP_START; a start-up IPI enters it in real mode with CS = AP_START / 16. */
	.text
	.code16
	.globl	ap_trampoline, ap_trampoline_end
ap_trampoline:
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	ap_gdt_ptr - ap_trampoline
	movl	$CR0_PROTECTED, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_CODE32, $ap_start32
ap_gdt_ptr:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_trampoline_end:

	.code32
ap_start32:
	movl	$SEL_DATA0, %eax
	movl	%eax, %ds
	movl	%eax, %ss
	jmp	enter_long
	.code64

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
	this_cpu %r8
	movq	$r0_faulted, CPU_FIXUP(%r8)
	movl	%edi, %ecx
	rdmsr
	movq	$0, CPU_FIXUP(%r8)
	movl	%eax, (%rsi)
	movl	%edx, 4(%rsi)
	xorl	%eax, %eax
	ret

/* RDI = MSR, RSI = value; RAX = 0 or -1. */
	.globl	r0_wrmsr
r0_wrmsr:
	this_cpu %r8
	movq	$r0_faulted, CPU_FIXUP(%r8)
	movl	%edi, %ecx
	movl	%esi, %eax
	movq	%rsi, %rdx
	shrq	$32, %rdx
	wrmsr
	movq	$0, CPU_FIXUP(%r8)
	xorl	%eax, %eax
	ret

/* RDI = value for XCR0; RAX = 0 or -1. */
	.globl	r0_xsetbv
r0_xsetbv:
	this_cpu %r8
	movq	$r0_faulted, CPU_FIXUP(%r8)
	xorl	%ecx, %ecx
	movl	%edi, %eax
	xorl	%edx, %edx
	xsetbv
	movq	$0, CPU_FIXUP(%r8)
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
	this_cpu %rdx
	movq	%rax, CPU_IRQ_TSC(%rdx, %rcx, 8)
	incq	CPU_IRQ_COUNT(%rdx, %rcx, 8)
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
	pushq	%rax
	this_cpu %rax
	cmpq	$0, CPU_FIXUP(%rax)
	jne	1f
	addq	$8, %rsp
	popq	CPU_TRAP_INFO + 0(%rax)		/* vector, error code, rip, cs, rflags, rsp */
	popq	CPU_TRAP_INFO + 8(%rax)
	popq	CPU_TRAP_INFO + 16(%rax)
	popq	CPU_TRAP_INFO + 24(%rax)
	popq	CPU_TRAP_INFO + 32(%rax)
	popq	CPU_TRAP_INFO + 40(%rax)
	movq	%cr2, %rcx
	movq	%rcx, CPU_TRAP_INFO + 48(%rax)
	leaq	CPU_TRAP_TOP - 8(%rax), %rcx
	pushq	%rcx
	pushq	$EFLAGS_RING3
	pushq	$SEL_CODE3 | 3
	pushq	$trap_report
	iretq
1:	pushq	%rcx
	movq	CPU_FIXUP(%rax), %rcx
	movq	$0, CPU_FIXUP(%rax)
	movq	%rcx, 32(%rsp)
	popq	%rcx
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
	.globl	idt, start_cpu, start_info_gpa
idt:		.skip	4096
boot_tss:	.skip	TSS_SIZE + IO_BITMAP_SIZE + 1
	.balign	8
start_cpu:	.skip	8
start_info_gpa:	.skip	8

	.section .note.GNU-stack, "", @progbits
