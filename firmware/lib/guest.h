/* SPDX-License-Identifier: MIT */
/* What the runtime offers a tiny guest. See start.S for how a guest lives. */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arch.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* A guest is this function, called in ring 3 with interrupts off. Returning powers off. */
void guest_main(void);

/* ---- runtime.c: what the loader told us, and the ways out */

struct mem_region {
	uint64_t start, end;
};

/* RAM by the loader's memory map, clipped to what lies above this image. */
extern struct mem_region ram[];
extern unsigned int ram_count;

/* The end of this image, and the start of its first free page. */
extern char image_start[], image_end[];

/* Memory for good, zeroed, taken out of ram[]; NULL if there is no more. Align to a power of 2. */
void *ram_take(uint64_t size, uint64_t align);

/* The value of `name=` on the command line as a number (0x.. is hex), or `absent`. */
uint64_t option_number(const char *name, uint64_t absent);
/* Whether the command line holds `name=value`. */
bool option_is(const char *name, const char *value);

/* Those of C; the compiler may call them for struct copies and the like. */
void *memcpy(void *to, const void *from, size_t length);
void *memset(void *to, int value, size_t length);

/* Identity-map more memory than the first GiB; flags are PTE_UNCACHED or 0. */
void map_range(uint64_t start, uint64_t end, uint64_t flags);

void power_off(void) __attribute__((noreturn));
/* With an empty IDT, the next exception is the CPU's last. */
void triple_fault(void) __attribute__((noreturn));
/* Whether the power button was pressed since the last call. */
bool power_button(void);
/* Say what a CPU's exception was, and power off. */
struct cpu;
void trap_print(const struct cpu *cpu) __attribute__((noreturn));

/* ---- print.c: COM1, polled */

/* The longest that one character has taken to print, in TSC ticks; its reader resets it. */
extern uint64_t print_gap;

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Format into a buffer; always ends it with a NUL; returns the length. */
size_t format_args(char *buffer, size_t size, const char *format, va_list args);
size_t format_line(char *buffer, size_t size, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- cpu.c: ring 0 services, time, interrupt controllers */

struct cpu {
	uint64_t trap_fixup;
	struct {
		uint64_t vector, error, rip, cs, rflags, rsp, cr2;
	} trap;
	void (*main)(void);
	unsigned int index;
	volatile bool online;
	volatile bool trapped;            /* `trap` tells why it stopped */
	volatile uint64_t irq_count[256]; /* interrupts taken, by vector */
	volatile uint64_t irq_tsc[256];   /* the TSC at the last one */
	uint8_t tss[TSS_SIZE];            /* the boot CPU's is elsewhere */
};

_Static_assert(offsetof(struct cpu, trap_fixup) == CPU_FIXUP, "start.S");
_Static_assert(offsetof(struct cpu, trap) == CPU_TRAP_INFO, "start.S");
_Static_assert(offsetof(struct cpu, main) == CPU_MAIN, "start.S");
_Static_assert(offsetof(struct cpu, index) == CPU_INDEX, "start.S");
_Static_assert(offsetof(struct cpu, irq_count) == CPU_IRQ_COUNT, "start.S");
_Static_assert(offsetof(struct cpu, irq_tsc) == CPU_IRQ_TSC, "start.S");
_Static_assert(sizeof(struct cpu) < CPU_RING0_TOP - 4096, "leaves a page of ring 0 stack");

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

/* CPUID as executed in ring 0: ring 3's may be the bare host's. */
struct cpuid cpuid(uint32_t leaf, uint32_t subleaf);
bool rdmsr(uint32_t msr, uint64_t *value);
bool wrmsr(uint32_t msr, uint64_t value);
bool set_xcr0(uint64_t value);
uint64_t read_cr(unsigned int n);
void write_cr(unsigned int n, uint64_t value);
uint64_t read_dr(unsigned int n);
void write_dr(unsigned int n, uint64_t value);
void irq_enable(void);
void irq_disable(void);
/* Sleep until an interrupt comes, or return at once if *count is no longer `seen`. */
void halt_unless(const volatile uint64_t *count, uint64_t seen);

/* TSC ticks per millisecond; the LAPIC timer's clock, before its divider, likewise. */
extern uint64_t tsc_khz, lapic_khz;
void time_init(void);
uint64_t tsc_to_us(uint64_t ticks);
uint64_t us_to_tsc(uint64_t us);

#define LAPIC_ID 0x020
#define LAPIC_TPR 0x080
#define LAPIC_SVR 0x0f0
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310
#define LAPIC_LVTT 0x320
#define LAPIC_LVT_THERM 0x330
#define LAPIC_LVT_PERF 0x340
#define LAPIC_LVT0 0x350
#define LAPIC_LVT1 0x360
#define LAPIC_LVT_ERR 0x370
#define LAPIC_TMICT 0x380
#define LAPIC_TMCCT 0x390
#define LAPIC_TDCR 0x3e0

#define LVT_MASKED 0x10000
#define LVTT_PERIODIC 0x20000
#define LVTT_DEADLINE 0x40000

uint32_t lapic_read(uint32_t reg);
void lapic_write(uint32_t reg, uint32_t value);
void lapic_enable(void);
uint32_t ioapic_read(uint32_t reg);
void ioapic_write(uint32_t reg, uint32_t value);
/* Move the PIC's vectors to VEC_PIC and mask all of its inputs. */
void pic_init(void);

/* ---- smp.c: more CPUs than one */

/*
 * Start CPUs until `count` of them run, this one included; each of them calls main() in ring 3,
 * interrupts off, and may not use ports (which rules out print). Returns how many run. One that
 * does not start in time ends it.
 */
unsigned int cpus_start(unsigned int count, void (*main)(void));
/* How many there are by CPUID. */
unsigned int cpus_present(void);
struct cpu *cpu_get(unsigned int index);
/* If an exception stopped another CPU, say so and power off. */
void cpus_check_traps(void);

/* ---- inline: what needs no ring 0 */

static inline struct cpu *this_cpu(void)
{
	uintptr_t stack;

	__asm__("movq %%rsp, %0" : "=r"(stack));
	return (struct cpu *)(stack & ~(uintptr_t)(CPU_BLOCK - 1));
}

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* Device registers, by accesses of 1, 2, 4 or 8 bytes. */
static inline uint64_t mmio_read(uintptr_t at, unsigned int size)
{
	switch (size) {
	case 1:
		return *(volatile uint8_t *)at;
	case 2:
		return *(volatile uint16_t *)at;
	case 4:
		return *(volatile uint32_t *)at;
	default:
		return *(volatile uint64_t *)at;
	}
}

static inline void mmio_write(uintptr_t at, uint64_t value, unsigned int size)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)at = (uint8_t)value;
		break;
	case 2:
		*(volatile uint16_t *)at = (uint16_t)value;
		break;
	case 4:
		*(volatile uint32_t *)at = (uint32_t)value;
		break;
	default:
		*(volatile uint64_t *)at = value;
	}
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* What was stored before is seen by all before what is loaded behind it. */
static inline void memory_fence(void)
{
	__asm__ volatile("mfence" : : : "memory");
}

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* Call a function in ring 0, interrupts off; see start.S. */
uint64_t ring0(uintptr_t function, uint64_t a, uint64_t b, uint64_t c);

#endif
