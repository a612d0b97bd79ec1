/* SPDX-License-Identifier: MIT */
/*
 * Timers in flight, clocks and steal time.
 *
 * A timer may be late, by a pause for instance, but its n-th interrupt may not come before n
 * periods have passed, and interrupts may not stay away. The TSC and kvmclock may not step back,
 * and must tell the same time.
 *
 * Nor may either step back from one CPU to the next. All CPUs keep the newest time that any of
 * them has seen, and read it before they read their own clock: what comes out older than that is
 * behind. (kvmclock promises this only where KVM sets PVCLOCK_TSC_STABLE.)
 */
#include "probe.h"

#define VEC_TIMER 0x40
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_KVM_SYSTEM_TIME 0x4b564d01
#define MSR_KVM_STEAL_TIME 0x4b564d03
#define KVM_CLOCKSOURCE2 (1u << 3)
#define KVM_STEAL_TIME (1u << 5)

#define PIT_RELOAD 11932u /* 100 Hz */

#define PVCLOCK_TSC_STABLE 1u

#define LAPIC_CATCH_UP 16 /* late interrupts that may still come, if they were due */
#define TSC_BURST 16      /* reads a turn: the more, the smaller a step shows */

static uint64_t lost_after, clock_tolerance;

/* What the CPUs compare with each other; a cache line each. */
static uint64_t newest_tsc __attribute__((aligned(64)));
static uint64_t newest_clock __attribute__((aligned(64)));

/* ------------------------------------------------------------------ timers */

/* Before the timer is: on a busy host there may be any time between the two. */
static void timer_start(struct timer *t, unsigned int vector, uint64_t period_us)
{
	t->period = us_to_tsc(period_us);
	t->count = &this_cpu()->irq_count[vector];
	t->base = t->seen_at = rdtsc();
	t->base_count = t->seen = *t->count;
}

static void timer_check_early(struct probe *p, struct timer *t, uint64_t count, uint64_t now)
{
	uint64_t periods = (now - t->base) / t->period;
	uint64_t due = t->base_count + periods, allowed = due;

	/*
	 * The timers' clock and the TSC may differ a little: 1/1000 for that, rounded up; two for
	 * the ends, one of them an interrupt that the PIC had latched before.
	 */
	allowed += periods / 1000 + 3;
	if (count > allowed)
		changed(p, t->early, allowed, count);
	if (count <= allowed && now - t->base < us_to_tsc(10000000))
		return;
	/* The phase stays: what is left of a period now, while interrupts are late, comes later. */
	t->base += periods * t->period;
	t->base_count = count;
	if (due > count)
		t->base_count += due - count < t->catch_up ? due - count : t->catch_up;
}

static void timer_check(struct probe *p, struct timer *t, uint64_t gap)
{
	uint64_t count, now;

	if (!t->period)
		return;
	count = *t->count;
	now = rdtsc();
	timer_check_early(p, t, count, now);
	if (was_paused(gap)) /* that is not the timer's fault */
		t->seen_at += gap;
	if (count != t->seen) {
		t->seen = count;
		t->seen_at = now;
	} else if ((int64_t)(now - t->seen_at) > (int64_t)(t->period + lost_after)) {
		changed(p, t->lost, count, tsc_to_us(now - t->seen_at));
		t->seen_at = now;
	}
}

static void deadline_arm(struct clocks *c)
{
	c->armed_at = *c->lapic.count;
	c->deadline = rdtsc() + c->lapic.period;
	wrmsr(MSR_TSC_DEADLINE, c->deadline);
}

static void deadline_check(struct probe *p)
{
	struct clocks *c = &p->clocks;
	uint64_t fired;

	if (*c->lapic.count == c->armed_at)
		return;
	fired = this_cpu()->irq_tsc[VEC_TIMER]; /* after the count: it may come in between */
	if (fired < c->deadline)
		changed(p, "deadline-early", c->deadline, fired);
	deadline_arm(c);
}

static void lapic_timer_start(struct clocks *c, uint64_t period_us)
{
	bool offered = cpuid(1, 0).ecx >> 24 & 1;

	c->lapic.early = "timer-early";
	c->lapic.lost = "timer-lost";
	c->lapic.catch_up = LAPIC_CATCH_UP;
	lapic_write(LAPIC_TDCR, 0x3); /* divide by 16 */
	if (offered && option_is("timer", "deadline")) {
		lapic_write(LAPIC_LVTT, VEC_TIMER | LVTT_DEADLINE);
		timer_start(&c->lapic, VEC_TIMER, period_us);
		deadline_arm(c);
		return;
	}
	lapic_write(LAPIC_LVTT, VEC_TIMER | LVTT_PERIODIC);
	timer_start(&c->lapic, VEC_TIMER, period_us);
	lapic_write(LAPIC_TMICT, (uint32_t)(lapic_khz * period_us / 1000 / 16));
}

static void pit_start(struct timer *t)
{
	t->early = "pit-early";
	t->lost = "pit-lost";
	t->catch_up = UINT64_MAX; /* KVM keeps all that could not be delivered */
	timer_start(t, VEC_PIC, 10000);
	outb(0x43, 0x34); /* channel 0, rate generator */
	outb(0x40, PIT_RELOAD & 0xff);
	outb(0x40, PIT_RELOAD >> 8);
}

/* ------------------------------------------------------------------ clocks */

/* delta * mul / 2^32, the product being 96 bits wide. */
static uint64_t scale(uint64_t delta, uint32_t mul)
{
	return (delta >> 32) * mul + ((delta & 0xffffffff) * mul >> 32);
}

static uint64_t pvclock_ns(const struct pvclock *c, uint64_t *tsc)
{
	uint64_t delta, ns;
	uint32_t version;

	do {
		version = c->version & ~1u;
		__asm__ volatile("" : : : "memory");
		*tsc = rdtsc();
		delta = *tsc - c->tsc_timestamp;
		delta = c->shift >= 0 ? delta << c->shift : delta >> -c->shift;
		ns = scale(delta, c->mul) + c->system_time;
		__asm__ volatile("" : : : "memory");
	} while (version != c->version);
	return ns;
}

static uint64_t tsc_to_ns(uint64_t ticks)
{
	return ticks / tsc_khz * 1000000 + ticks % tsc_khz * 1000000 / tsc_khz;
}

/* The load must be over before the clock is read. */
static uint64_t read_newest(const uint64_t *newest)
{
	uint64_t value = __atomic_load_n(newest, __ATOMIC_ACQUIRE);

	__asm__ volatile("lfence" : : : "memory");
	return value;
}

/* Compare `now` with what was the newest before it, and make it the newest if it is. */
static void compare_newest(struct probe *p, const char *what, uint64_t *newest, uint64_t before,
			   uint64_t now, uint64_t *slack)
{
	if ((int64_t)(before - now) > (int64_t)*slack) {
		changed(p, what, before, now);
		*slack = 2 * (before - now); /* one line a step, not one a turn */
	}
	while ((int64_t)(now - before) > 0 &&
	       !__atomic_compare_exchange_n(newest, &before, now, false, __ATOMIC_ACQ_REL,
					    __ATOMIC_ACQUIRE))
		;
}

static void tsc_check(struct probe *p)
{
	struct clocks *c = &p->clocks;

	for (unsigned int i = 0; i < TSC_BURST; i++) {
		uint64_t before = read_newest(&newest_tsc), now = rdtsc();

		if (now < c->tsc_last)
			changed(p, "tsc-back", c->tsc_last, now);
		c->tsc_last = now;
		compare_newest(p, "tsc-behind", &newest_tsc, before, now, &c->tsc_slack);
	}
}

static void pvclock_check(struct probe *p)
{
	struct clocks *c = &p->clocks;
	uint64_t before = read_newest(&newest_clock);
	uint64_t tsc, now = pvclock_ns(&c->pvclock, &tsc), elapsed = tsc_to_ns(tsc - c->base_tsc);
	int64_t allowed = (int64_t)(clock_tolerance + elapsed / 2000);

	if (now < c->last)
		changed(p, "kvmclock-back", c->last, now);
	c->last = now;
	if (c->pvclock.flags & PVCLOCK_TSC_STABLE)
		compare_newest(p, "kvmclock-behind", &newest_clock, before, now, &c->slack);
	c->error = (int64_t)(now - c->base - elapsed);
	if (c->error > allowed || c->error < -allowed) {
		changed(p, "kvmclock-tsc", c->base + elapsed, now);
		c->base = now;
		c->base_tsc = tsc;
	}
}

static bool kvm_offers(uint32_t feature)
{
	return cpuid(0x40000000, 0).ebx == 0x4b4d564b /* "KVMK" */ &&
	       cpuid(0x40000001, 0).eax & feature;
}

static void pvclock_start(struct clocks *c)
{
	c->have_pvclock = kvm_offers(KVM_CLOCKSOURCE2) &&
			  wrmsr(MSR_KVM_SYSTEM_TIME, (uintptr_t)&c->pvclock | 1);
	if (c->have_pvclock)
		c->base = c->last = pvclock_ns(&c->pvclock, &c->base_tsc);
}

/* ------------------------------------------------------------------ steal time */

/*
 * KVM takes the mark of a preempted CPU away before that runs again: who runs never sees its own.
 * With the mark other CPUs would leave it notes instead of interrupts when it is to flush its TLB.
 */
static void steal_check(struct probe *p)
{
	struct clocks *c = &p->clocks;
	uint64_t ns = c->steal.ns;

	if (c->steal.preempted) {
		changed(p, "preempted-though-running", 0, c->steal.preempted);
		c->steal.preempted = 0;
	}
	if (ns < c->stolen)
		changed(p, "steal-time-back", c->stolen, ns);
	c->stolen = ns;
}

/* ------------------------------------------------------------------ all of it */

void time_options(void)
{
	lost_after = us_to_tsc(option_number("lost_ms", 200) * 1000);
	clock_tolerance = option_number("clock_us", 1000) * 1000;
	exact_options();
}

void time_arm(struct probe *p)
{
	pvclock_start(&p->clocks);
	if (kvm_offers(KVM_STEAL_TIME))
		wrmsr(MSR_KVM_STEAL_TIME, (uintptr_t)&p->clocks.steal | 1);
	p->clocks.lapic.count = &this_cpu()->irq_count[VEC_TIMER];
	p->clocks.pit.count = &this_cpu()->irq_count[VEC_PIC];
	if (exact_wanted())
		exact_arm(p);
	else if (p->cpu == 0)
		pit_start(&p->clocks.pit);
	if (!exact_wanted())
		lapic_timer_start(&p->clocks, option_number("timer_us", 1000));
	irq_enable();
	p->clocks.tsc_last = rdtsc();
}

const char *time_features(const struct probe *p)
{
	if (p->clocks.deadline)
		return p->clocks.have_pvclock ? ",deadline,kvmclock" : ",deadline";
	return p->clocks.have_pvclock ? ",kvmclock" : "";
}

void time_check(struct probe *p, uint64_t gap)
{
	struct clocks *c = &p->clocks;

	tsc_check(p);
	steal_check(p);
	if (c->deadline)
		deadline_check(p);
	timer_check(p, &c->lapic, gap);
	timer_check(p, &c->pit, gap);
	if (exact_wanted())
		exact_check(p);
	if (c->have_pvclock)
		pvclock_check(p);
}
