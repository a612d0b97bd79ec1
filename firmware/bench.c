/* SPDX-License-Identifier: MIT */
/*
 * bench: what tests/bench measures with. The CPU reads the TSC for ever and keeps the largest gap
 * between two readings in a mailbox in RAM, and a list of all that are long, where the host reads
 * them: there is not one exit but those that are to be measured. On request it writes to each page
 * of RAM and says how long that took.
 *
 * It runs in two ways. Booted by PVH like every tiny guest, by a VMM. Or entered at bench_enter()
 * by a program that knows nothing but the mailbox (tests/bench/floor.c), anew after each exec: then
 * it goes on where the reading before stood, so the gap spans the exec.
 *
 * Options: cpus=N starts further CPUs, which sleep.
 */
#include "bench.h"
#include "lib/guest.h"

extern uint64_t pml4[];
extern char boot_cpu[];

#define LOW_MAX 0xc0000000ull
#define HIGH_BASE 0x100000000ull

void bench_enter(void);

static struct bench_mailbox mailbox __attribute__((aligned(4096))) = {
	.magic = BENCH_MAGIC,
	.entry = (uintptr_t)bench_enter,
	.page_tables = (uintptr_t)pml4,
	.stack = (uintptr_t)boot_cpu + CPU_RING3_TOP - 8,
};

static uint64_t touch_region(const struct mem_region *r)
{
	for (uint64_t at = r->start; at < r->end; at += 4096)
		++*(volatile uint64_t *)(uintptr_t)at;
	return r->end - r->start;
}

static void touch(volatile struct bench_mailbox *m)
{
	uint64_t began = rdtsc(), bytes = 0;

	for (unsigned int i = 0; i < ram_count; i++)
		bytes += touch_region(&ram[i]);
	m->touch_bytes = bytes;
	m->touch_ticks = rdtsc() - began;
	m->touch_done = m->touch;
}

static void serve(volatile struct bench_mailbox *m)
{
	if (m->touch != m->touch_done) {
		touch(m);
		m->last = rdtsc();
	}
	if (m->reset != m->reset_done) {
		m->gap = m->gap_end = m->gaps = 0;
		m->reset_done = m->reset;
	}
}

static void note(volatile struct bench_mailbox *m, uint64_t now, uint64_t gap)
{
	volatile struct bench_gap *to = &m->noted[m->gaps % BENCH_GAPS];

	to->end = now;
	to->ticks = gap;
	m->gaps++;
}

static void measure(volatile struct bench_mailbox *m)
{
	uint64_t noted = m->tsc_khz * BENCH_NOTED_US / 1000;

	m->entries++;
	for (;;) {
		uint64_t now = rdtsc(), gap = now - m->last;

		if (gap > m->gap) {
			m->gap = gap;
			m->gap_end = now;
		}
		if (gap > noted)
			note(m, now, gap);
		m->last = now;
		serve(m);
	}
}

static void add_region(uint64_t start, uint64_t end)
{
	if (start >= end)
		return;
	map_range(start, end, 0);
	ram[ram_count++] = (struct mem_region){ start, end };
}

/* Ring 3, flat 64-bit segments, the mailbox's page tables and stack; no descriptor tables. */
void bench_enter(void)
{
	if (!mailbox.ready) {
		uint64_t bytes = mailbox.ram_bytes, low = bytes < LOW_MAX ? bytes : LOW_MAX;

		add_region((uintptr_t)image_end, low);
		add_region(HIGH_BASE, HIGH_BASE + bytes - low);
		mailbox.last = rdtsc();
		mailbox.ready = 1;
	}
	measure(&mailbox);
}

static void sleep_for_ever(void)
{
	uint64_t never = 0;

	for (;;)
		halt_unless(&never, 0);
}

void guest_main(void)
{
	uint64_t cpus = option_number("cpus", 1);
	unsigned int started;

	time_init();
	started = cpus > 1 ? cpus_start((unsigned int)cpus, sleep_for_ever) : 1;
	mailbox.tsc_khz = tsc_khz;
	print("bench: ready cpus=%u\n", started);
	mailbox.last = rdtsc();
	mailbox.ready = 1;
	measure(&mailbox);
}
