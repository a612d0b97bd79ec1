/* SPDX-License-Identifier: MIT */
/*
 * event: powers off, resets, faults or reports a panic at a moment that a test chooses, by a word
 * in RAM (event.h). Meanwhile each CPU wakes up a thousand times a second and verifies what it
 * keeps in RAM, and that its TSC does not run backwards.
 *
 * Options: cpus=1 (up to 2).
 */
#include "event.h"
#include "lib/guest.h"
#include "probe_mix.h"

#define VEC_TICK 0x40
#define WORDS 1024
#define PM1_CONTROL 0x604
#define PM1_S5 (5u << 10 | 1u << 13)

static struct event_mailbox shared __attribute__((aligned(4096))) = { .magic = EVENT_MAGIC };
static volatile struct event_mailbox *const mailbox = &shared;
static volatile uint64_t kept[EVENT_CPUS][WORDS];

static void tick_start(void)
{
	lapic_enable();
	lapic_write(LAPIC_TDCR, 0x3); /* divide by 16 */
	lapic_write(LAPIC_LVTT, VEC_TICK | LVTT_PERIODIC);
	lapic_write(LAPIC_TMICT, (uint32_t)(lapic_khz / 16));
}

/* Of pass 0 there is nothing to verify yet. */
static void verify(unsigned int cpu, uint64_t pass)
{
	for (unsigned int i = 0; i < WORDS; i++) {
		if (pass && kept[cpu][i] != mix(pass - 1 + i))
			mailbox->changes++;
		kept[cpu][i] = mix(pass + i);
	}
	mailbox->passes[cpu] = pass;
}

/* Once each, and the guest lives on: what is lost on the way is not made up for. */
static void act(void)
{
	uint64_t event = mailbox->ask;

	mailbox->ask = EVENT_NONE;
	mailbox->seen = event;
	switch (event) {
	case EVENT_POWER_OFF:
		outw(PM1_CONTROL, PM1_S5);
		break;
	case EVENT_RESET_I8042:
		outb(0x64, 0xfe);
		break;
	case EVENT_RESET_CF9:
		outb(0xcf9, 0x06);
		break;
	case EVENT_TRIPLE_FAULT:
		triple_fault();
	case EVENT_PANIC:
		outb(0x505, 0x01);
		break;
	default:
		break;
	}
	mailbox->done++;
}

static void live(void)
{
	const volatile uint64_t *ticks = &this_cpu()->irq_count[VEC_TICK];
	unsigned int cpu = this_cpu()->index;
	uint64_t last = rdtsc();

	tick_start();
	for (uint64_t pass = 0;; pass++) {
		uint64_t seen = *ticks, now = rdtsc();

		if ((int64_t)(now - last) < 0)
			mailbox->changes++;
		last = now;
		if (cpu == 0 && mailbox->ask != EVENT_NONE)
			act();
		verify(cpu, pass);
		halt_unless(ticks, seen);
	}
}

void guest_main(void)
{
	unsigned int cpus = (unsigned int)option_number("cpus", 1);

	time_init();
	if (cpus > EVENT_CPUS)
		cpus = EVENT_CPUS;
	if (cpus > 1 && cpus_start(cpus, live) != cpus)
		print("event: no second CPU\n");
	else
		print("event: ready\n");
	mailbox->ready = 1;
	live();
}
