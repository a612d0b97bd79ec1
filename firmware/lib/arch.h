/* SPDX-License-Identifier: MIT */
/* The numbers that C and assembly share. */
#ifndef GUEST_ARCH_H
#define GUEST_ARCH_H

#define MAX_CPUS 255 /* as many as an xAPIC can name */

/*
 * Each CPU has a block of memory of this size and alignment, which holds struct cpu and then all
 * of the CPU's stacks. So whoever has a stack pointer can tell which CPU runs it.
 */
#define CPU_BLOCK 0x8000
#define CPU_RING0_TOP 0x3000
#define CPU_TRAP_TOP 0x4000
#define CPU_RING3_TOP 0x8000

/* struct cpu, at the start of the block */
#define CPU_FIXUP 0
#define CPU_TRAP_INFO 8
#define CPU_MAIN 64
#define CPU_INDEX 72
#define CPU_IRQ_COUNT 80
#define CPU_IRQ_TSC (CPU_IRQ_COUNT + 256 * 8)

#define AP_START 0x8000 /* where the other CPUs start; free once the loader is done */

#define SEL_CODE32 0x08
#define SEL_DATA0 0x10
#define SEL_CODE0 0x18
#define SEL_DATA3 0x20
#define SEL_CODE3 0x28
#define SEL_TSS 0x30 /* 16 bytes; CPU n's is at SEL_TSS + 16 * n */

#define TSS_SIZE 104
#define TSS_RSP0 4
#define TSS_IOMAP 102
#define IO_BITMAP_SIZE 8192

#define CR0_PROTECTED 0x11  /* ET PE */
#define CR0_INIT 0x80010033 /* PG WP NE ET MP PE */
#define CR4_INIT 0x620      /* OSXMMEXCPT OSFXSR PAE */
#define CR4_OSXSAVE 0x40000

#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

#define EFLAGS_FIXED 0x2
#define EFLAGS_IF 0x200
#define EFLAGS_RING3 0x3002 /* fixed bit, IOPL 3 */

#define PTE_TABLE 0x7 /* user, writable, present */
#define PTE_LARGE 0x87
#define PTE_UNCACHED 0x18

#define LAPIC_BASE 0xfee00000
#define LAPIC_EOI 0xb0

#define VEC_PIC 0x20 /* IRQ 0-15 as the PIC delivers them */

#endif
