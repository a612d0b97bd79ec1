/* SPDX-License-Identifier: MIT */
/*
 * Starting more CPUs: INIT, start-up IPI, start-up IPI to one APIC ID after the other.
 *
 * Our own local APIC is enabled first: with two CPUs KVM starts no other one from one that is not.
 *
 * APIC IDs are taken to count from 0, the boot CPU's: no table is read. One CPU starts at a time,
 * so that start.S needs no stack before it knows whose block is its own. The blocks come from
 * below 4 GiB because ram_take() starts at the bottom.
 */
#include "guest.h"

#define ICR_INIT 0x4500
#define ICR_STARTUP 0x4600
#define ICR_PENDING 0x1000

#define TSS_AVAILABLE 0x89ull /* present, DPL 0, 64-bit */

extern char ap_trampoline[], ap_trampoline_end[];
extern uint64_t gdt[], start_cpu;
extern struct cpu boot_cpu;

static struct cpu *cpus[MAX_CPUS] = { &boot_cpu };
static unsigned int cpu_count = 1;
static void (*started_main)(void);

struct cpu *cpu_get(unsigned int index)
{
	return cpus[index];
}

unsigned int cpus_present(void)
{
	unsigned int count = cpuid(1, 0).ebx >> 16 & 0xff;

	return count ? count : 1;
}

static void wait_us(uint64_t us)
{
	uint64_t end = rdtsc() + us_to_tsc(us);

	while ((int64_t)(rdtsc() - end) < 0)
		cpu_relax();
}

static void send_ipi(unsigned int apic_id, uint32_t command)
{
	lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
	lapic_write(LAPIC_ICR, command);
	while (lapic_read(LAPIC_ICR) & ICR_PENDING)
		cpu_relax();
}

/* Without an I/O bitmap: IOMAP is the limit. */
static void set_tss(struct cpu *cpu)
{
	uint64_t base = (uintptr_t)cpu->tss, *gate = &gdt[SEL_TSS / 8 + 2 * cpu->index];

	*(uint64_t *)(uintptr_t)&cpu->tss[TSS_RSP0] = (uintptr_t)cpu + CPU_RING0_TOP;
	*(uint16_t *)(uintptr_t)&cpu->tss[TSS_IOMAP] = TSS_SIZE;
	gate[0] = (TSS_SIZE - 1) | (base & 0xffffff) << 16 | TSS_AVAILABLE << 40 |
		  (base >> 24 & 0xff) << 56;
	gate[1] = base >> 32;
}

static void ap_main(void)
{
	this_cpu()->online = true;
	started_main();
	for (;;)
		cpu_relax();
}

static bool cpu_start(struct cpu *cpu)
{
	uint64_t end;

	start_cpu = (uintptr_t)cpu;
	send_ipi(cpu->index, ICR_INIT);
	wait_us(10000);
	send_ipi(cpu->index, ICR_STARTUP | AP_START >> 12);
	wait_us(200);
	if (!cpu->online)
		send_ipi(cpu->index, ICR_STARTUP | AP_START >> 12);
	end = rdtsc() + us_to_tsc(1000000);
	while (!cpu->online && (int64_t)(rdtsc() - end) < 0)
		cpu_relax();
	return cpu->online;
}

unsigned int cpus_start(unsigned int count, void (*main)(void))
{
	started_main = main;
	lapic_enable();
	memcpy((void *)(uintptr_t)AP_START, ap_trampoline,
	       (size_t)(ap_trampoline_end - ap_trampoline));
	while (cpu_count < count && cpu_count < MAX_CPUS) {
		struct cpu *cpu = ram_take(CPU_BLOCK, CPU_BLOCK);

		if (!cpu)
			break;
		cpu->index = cpu_count;
		cpu->main = ap_main;
		set_tss(cpu);
		if (!cpu_start(cpu))
			break;
		cpus[cpu_count++] = cpu;
	}
	return cpu_count;
}

void cpus_check_traps(void)
{
	for (unsigned int i = 1; i < cpu_count; i++)
		if (cpus[i]->trapped)
			trap_print(cpus[i]);
}
