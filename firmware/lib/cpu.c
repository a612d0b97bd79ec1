/* SPDX-License-Identifier: MIT */
/*
 * Ring 0 services, time and the interrupt controllers.
 *
 * The functions called in_ring0_* are the only C code that runs in ring 0; they are a few moves
 * each, for the reason given in start.S.
 */
#include "guest.h"

#define IOAPIC_BASE 0xfec00000
#define CPUID_TIMING 0x40000010

#define CALL(function, a, b, c) \
	ring0((uintptr_t)(function), (uint64_t)(a), (uint64_t)(b), (uint64_t)(c))

uint64_t r0_rdmsr(uint64_t msr, uint64_t value_at);
uint64_t r0_wrmsr(uint64_t msr, uint64_t value);
uint64_t r0_xsetbv(uint64_t value);
uint64_t r0_halt_unless(uint64_t count_at, uint64_t seen);
uint64_t r0_irq_enable(void);
uint64_t r0_irq_disable(void);

uint64_t tsc_khz, lapic_khz;

static void in_ring0_cpuid(uint32_t leaf, uint32_t subleaf, struct cpuid *out)
{
	__asm__ volatile("cpuid"
			 : "=a"(out->eax), "=b"(out->ebx), "=c"(out->ecx), "=d"(out->edx)
			 : "0"(leaf), "2"(subleaf));
}

struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid out;

	CALL(in_ring0_cpuid, leaf, subleaf, &out);
	return out;
}

bool rdmsr(uint32_t msr, uint64_t *value)
{
	return CALL(r0_rdmsr, msr, value, 0) == 0;
}

bool wrmsr(uint32_t msr, uint64_t value)
{
	return CALL(r0_wrmsr, msr, value, 0) == 0;
}

bool set_xcr0(uint64_t value)
{
	return CALL(r0_xsetbv, value, 0, 0) == 0;
}

static uint64_t in_ring0_read_cr(unsigned int n)
{
	uint64_t value;

	switch (n) {
	case 0:
		__asm__ volatile("mov %%cr0, %0" : "=r"(value));
		return value;
	case 2:
		__asm__ volatile("mov %%cr2, %0" : "=r"(value));
		return value;
	case 3:
		__asm__ volatile("mov %%cr3, %0" : "=r"(value));
		return value;
	case 4:
		__asm__ volatile("mov %%cr4, %0" : "=r"(value));
		return value;
	default:
		__asm__ volatile("mov %%cr8, %0" : "=r"(value));
		return value;
	}
}

uint64_t read_cr(unsigned int n)
{
	return CALL(in_ring0_read_cr, n, 0, 0);
}

static void in_ring0_write_cr(unsigned int n, uint64_t value)
{
	switch (n) {
	case 0:
		__asm__ volatile("mov %0, %%cr0" : : "r"(value) : "memory");
		break;
	case 2:
		__asm__ volatile("mov %0, %%cr2" : : "r"(value) : "memory");
		break;
	case 3:
		__asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
		break;
	case 4:
		__asm__ volatile("mov %0, %%cr4" : : "r"(value) : "memory");
		break;
	default:
		__asm__ volatile("mov %0, %%cr8" : : "r"(value) : "memory");
	}
}

void write_cr(unsigned int n, uint64_t value)
{
	CALL(in_ring0_write_cr, n, value, 0);
}

static uint64_t in_ring0_read_dr(unsigned int n)
{
	uint64_t value;

	switch (n) {
	case 0:
		__asm__ volatile("mov %%dr0, %0" : "=r"(value));
		return value;
	case 1:
		__asm__ volatile("mov %%dr1, %0" : "=r"(value));
		return value;
	case 2:
		__asm__ volatile("mov %%dr2, %0" : "=r"(value));
		return value;
	case 3:
		__asm__ volatile("mov %%dr3, %0" : "=r"(value));
		return value;
	case 6:
		__asm__ volatile("mov %%dr6, %0" : "=r"(value));
		return value;
	default:
		__asm__ volatile("mov %%dr7, %0" : "=r"(value));
		return value;
	}
}

uint64_t read_dr(unsigned int n)
{
	return CALL(in_ring0_read_dr, n, 0, 0);
}

static void in_ring0_write_dr(unsigned int n, uint64_t value)
{
	switch (n) {
	case 0:
		__asm__ volatile("mov %0, %%dr0" : : "r"(value));
		break;
	case 1:
		__asm__ volatile("mov %0, %%dr1" : : "r"(value));
		break;
	case 2:
		__asm__ volatile("mov %0, %%dr2" : : "r"(value));
		break;
	case 3:
		__asm__ volatile("mov %0, %%dr3" : : "r"(value));
		break;
	case 6:
		__asm__ volatile("mov %0, %%dr6" : : "r"(value));
		break;
	default:
		__asm__ volatile("mov %0, %%dr7" : : "r"(value));
	}
}

void write_dr(unsigned int n, uint64_t value)
{
	CALL(in_ring0_write_dr, n, value, 0);
}

void irq_enable(void)
{
	CALL(r0_irq_enable, 0, 0, 0);
}

void irq_disable(void)
{
	CALL(r0_irq_disable, 0, 0, 0);
}

void halt_unless(const volatile uint64_t *count, uint64_t seen)
{
	CALL(r0_halt_unless, (uintptr_t)count, seen, 0);
}

/* ------------------------------------------------------------------ time */

#define PIT_HZ 1193182u
#define PIT_TICKS 59659u /* 50 ms */

/* Channel 2 in mode 0 counts down once; port 0x61 bit 5 says when it is done. */
static uint64_t pit_calibrate(void)
{
	uint64_t start;

	outb(0x61, (uint8_t)((inb(0x61) & 0xfc) | 1));
	outb(0x43, 0xb0);
	outb(0x42, PIT_TICKS & 0xff);
	outb(0x42, PIT_TICKS >> 8);
	start = rdtsc();
	while (!(inb(0x61) & 0x20))
		cpu_relax();
	return (rdtsc() - start) * PIT_HZ / PIT_TICKS / 1000;
}

void time_init(void)
{
	struct cpuid timing = { 0 };

	if (cpuid(0x40000000, 0).eax >= CPUID_TIMING)
		timing = cpuid(CPUID_TIMING, 0);
	tsc_khz = timing.eax ? timing.eax : pit_calibrate();
	lapic_khz = timing.ebx ? timing.ebx : 1000000; /* KVM's own */
}

uint64_t tsc_to_us(uint64_t ticks)
{
	return ticks / tsc_khz * 1000 + ticks % tsc_khz * 1000 / tsc_khz;
}

uint64_t us_to_tsc(uint64_t us)
{
	return us / 1000 * tsc_khz + us % 1000 * tsc_khz / 1000;
}

/* ------------------------------------------------------------------ interrupt controllers */

uint32_t lapic_read(uint32_t reg)
{
	return *(volatile uint32_t *)(uintptr_t)(LAPIC_BASE + reg);
}

void lapic_write(uint32_t reg, uint32_t value)
{
	*(volatile uint32_t *)(uintptr_t)(LAPIC_BASE + reg) = value;
}

void lapic_enable(void)
{
	lapic_write(LAPIC_SVR, 0x1ff);
}

uint32_t ioapic_read(uint32_t reg)
{
	*(volatile uint32_t *)(uintptr_t)IOAPIC_BASE = reg;
	return *(volatile uint32_t *)(uintptr_t)(IOAPIC_BASE + 0x10);
}

void ioapic_write(uint32_t reg, uint32_t value)
{
	*(volatile uint32_t *)(uintptr_t)IOAPIC_BASE = reg;
	*(volatile uint32_t *)(uintptr_t)(IOAPIC_BASE + 0x10) = value;
}

void pic_init(void)
{
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, VEC_PIC);
	outb(0xa1, VEC_PIC + 8);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}
