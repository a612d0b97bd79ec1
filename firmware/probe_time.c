/* SPDX-License-Identifier: MIT */
/*
 * Timers in flight and clocks.
 *
 * A timer may be late, by a pause for instance, but its n-th interrupt may not come before n
 * periods have passed, and interrupts may not stay away. The TSC and kvmclock may not step back,
 * and must tell the same time.
 */
#include "probe.h"

#define VEC_TIMER		0x40
#define MSR_TSC_DEADLINE	0x6e0
#define MSR_KVM_SYSTEM_TIME	0x4b564d01
#define KVM_CLOCKSOURCE2	(1u << 3)

#define PIT_RELOAD		11932u	/* 100 Hz */

struct timer {
	const char *early, *lost;
	unsigned int vector;
	uint64_t period;		/* TSC ticks; 0: not in use */
	uint64_t base, base_count;	/* what the early check counts from */
	uint64_t seen, seen_at;		/* what the lost check counts from */
};

struct pvclock {
	volatile uint32_t version;
	uint32_t pad;
	volatile uint64_t tsc_timestamp, system_time;
	volatile uint32_t mul;
	volatile int8_t shift;
	volatile uint8_t flags, pad2[2];
};

static struct timer lapic_timer = { .early = "timer-early", .lost = "timer-lost",
				    .vector = VEC_TIMER };
static struct timer pit_timer = { .early = "pit-early", .lost = "pit-lost", .vector = VEC_PIC };
static uint64_t deadline;	/* 0: the LAPIC timer is periodic */
static uint64_t armed_at;	/* the count of interrupts when the deadline was set */
static uint64_t lost_after, pause_length, clock_tolerance;

static struct pvclock pvclock __attribute__((aligned(64)));
static bool have_pvclock;
static uint64_t clock_base, clock_base_tsc, clock_last, tsc_last;
static int64_t clock_error;

uint64_t timer_irqs(void)
{
	return irq_count[VEC_TIMER];
}

uint64_t pit_irqs(void)
{
	return irq_count[VEC_PIC];
}

int64_t clock_error_us(void)
{
	return clock_error / 1000;
}

/* ------------------------------------------------------------------ timers */

static void timer_start(struct timer *t, uint64_t period_us)
{
	t->period = us_to_tsc(period_us);
	t->base = t->seen_at = rdtsc();
	t->base_count = t->seen = irq_count[t->vector];
}

static void timer_check(struct timer *t, uint64_t gap)
{
	uint64_t count = irq_count[t->vector], now = rdtsc(), allowed;

	if (!t->period)
		return;
	/* The timers' clock and the TSC may differ a little: 1/1000 for that, two for the ends. */
	allowed = t->base_count + (now - t->base) / t->period;
	allowed += (allowed - t->base_count) / 1000 + 2;
	if (count > allowed)
		changed(t->early, allowed, count);
	if (count > allowed || now - t->base > us_to_tsc(10000000)) {
		t->base = now;
		t->base_count = count;
	}

	if (gap > pause_length)	/* a pause of the whole machine is not the timer's fault */
		t->seen_at += gap;
	if (count != t->seen) {
		t->seen = count;
		t->seen_at = now;
	} else if ((int64_t)(now - t->seen_at) > (int64_t)(t->period + lost_after)) {
		changed(t->lost, count, tsc_to_us(now - t->seen_at));
		t->seen_at = now;
	}
}

static void deadline_arm(void)
{
	armed_at = irq_count[VEC_TIMER];
	deadline = rdtsc() + lapic_timer.period;
	wrmsr(MSR_TSC_DEADLINE, deadline);
}

static void deadline_check(void)
{
	uint64_t fired;

	if (irq_count[VEC_TIMER] == armed_at)
		return;
	fired = irq_tsc[VEC_TIMER];	/* in this order: the interrupt may come in between */
	if (fired < deadline)
		changed("deadline-early", deadline, fired);
	deadline_arm();
}

static void lapic_timer_start(uint64_t period_us)
{
	bool offered = cpuid(1, 0).ecx >> 24 & 1;

	lapic_write(LAPIC_TDCR, 0x3);	/* divide by 16 */
	if (offered && option_is("timer", "deadline")) {
		lapic_write(LAPIC_LVTT, VEC_TIMER | LVTT_DEADLINE);
		timer_start(&lapic_timer, period_us);
		deadline_arm();
		return;
	}
	lapic_write(LAPIC_LVTT, VEC_TIMER | LVTT_PERIODIC);
	lapic_write(LAPIC_TMICT, (uint32_t)(lapic_khz * period_us / 1000 / 16));
	timer_start(&lapic_timer, period_us);
}

static void pit_start(void)
{
	outb(0x43, 0x34);	/* channel 0, rate generator */
	outb(0x40, PIT_RELOAD & 0xff);
	outb(0x40, PIT_RELOAD >> 8);
	timer_start(&pit_timer, 10000);
}

/* ------------------------------------------------------------------ clocks */

/* delta * mul / 2^32, the product being 96 bits wide. */
static uint64_t scale(uint64_t delta, uint32_t mul)
{
	return (delta >> 32) * mul + ((delta & 0xffffffff) * mul >> 32);
}

static uint64_t pvclock_ns(uint64_t *tsc)
{
	uint64_t delta, ns;
	uint32_t version;

	do {
		version = pvclock.version & ~1u;
		__asm__ volatile("" : : : "memory");
		*tsc = rdtsc();
		delta = *tsc - pvclock.tsc_timestamp;
		delta = pvclock.shift >= 0 ? delta << pvclock.shift : delta >> -pvclock.shift;
		ns = scale(delta, pvclock.mul) + pvclock.system_time;
		__asm__ volatile("" : : : "memory");
	} while (version != pvclock.version);
	return ns;
}

static uint64_t tsc_to_ns(uint64_t ticks)
{
	return ticks / tsc_khz * 1000000 + ticks % tsc_khz * 1000000 / tsc_khz;
}

static void pvclock_check(void)
{
	uint64_t tsc, now = pvclock_ns(&tsc), elapsed = tsc_to_ns(tsc - clock_base_tsc);
	int64_t allowed = (int64_t)(clock_tolerance + elapsed / 2000);

	if (now < clock_last)
		changed("kvmclock-back", clock_last, now);
	clock_last = now;
	clock_error = (int64_t)(now - clock_base - elapsed);
	if (clock_error > allowed || clock_error < -allowed) {
		changed("kvmclock-tsc", clock_base + elapsed, now);
		clock_base = now;
		clock_base_tsc = tsc;
	}
}

static void pvclock_start(void)
{
	have_pvclock = cpuid(0x40000000, 0).ebx == 0x4b4d564b &&	/* "KVMK" */
		       cpuid(0x40000001, 0).eax & KVM_CLOCKSOURCE2 &&
		       wrmsr(MSR_KVM_SYSTEM_TIME, (uintptr_t)&pvclock | 1);
	if (have_pvclock)
		clock_base = clock_last = pvclock_ns(&clock_base_tsc);
}

/* ------------------------------------------------------------------ all of it */

const char *time_arm(void)
{
	lost_after = us_to_tsc(option_number("lost_ms", 200) * 1000);
	pause_length = us_to_tsc(20000);
	clock_tolerance = option_number("clock_us", 1000) * 1000;
	pvclock_start();
	pit_start();
	lapic_timer_start(option_number("timer_us", 1000));
	irq_enable();
	tsc_last = rdtsc();
	if (deadline)
		return have_pvclock ? ",deadline,kvmclock" : ",deadline";
	return have_pvclock ? ",kvmclock" : "";
}

void time_check(uint64_t now, uint64_t gap)
{
	if (now < tsc_last)
		changed("tsc-back", tsc_last, now);
	tsc_last = now;
	if (deadline)
		deadline_check();
	timer_check(&lapic_timer, gap);
	timer_check(&pit_timer, gap);
	if (have_pvclock)
		pvclock_check();
}
