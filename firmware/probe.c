/* SPDX-License-Identifier: MIT */
/*
 * probe: puts known values into everything a guest owns, and watches them.
 *
 * Theory of operation
 *
 * A loop in ring 3, never left, whose turns take a fraction of a millisecond:
 *	- hold fresh values in all registers that ring 3 has (probe_regs.c), most of the time, so
 *	  that a pause at a random moment finds them live;
 *	- read one register of the kind that has a number: MSRs, CRs, LAPIC .. (probe_items.c);
 *	- verify a slice of RAM and rewrite it (probe_ram.c);
 *	- look at timers, clocks and steal time (probe_time.c), or at timers to the tick, which
 *	  needs slower ones (probe_exact.c).
 *
 * Every CPU runs such a loop, with values of its own. The machine's common things, RAM among
 * them, are the boot CPU's; so is printing (probe_report.c). It also sees to it that the others go
 * on at all.
 *
 * Lines:
 *	probe: ready regs=R ram_mib=M features=F cpus=N
 *	probe: pass N gap_us=G print_us=P print_gap_us=L timer_irqs=T pit_irqs=I holds=H
 *		ram_rounds=K clock_us=C changes=X cpus=N ap_gap_us=A ap_timer_irqs=B ap_holds=D
 *		verified=V (one line)
 *	probe: CHANGED cpu=K what=NAME was=HEX now=HEX
 * A pass line comes every period_ms; the counts are totals. gap_us is the longest turn since the
 * last line, print_us how long printing that last line took, print_gap_us its slowest character;
 * clock_us is how far kvmclock is from the TSC. These are the boot CPU's; ap_ fields are the
 * longest turn of any other CPU, and the others' sums. A change is told at once, and the new value
 * is the one to hold from there on.
 *
 * Options: period_ms=200, passes=0 (then power off; 0: never), ram_mib=all, timer_us=1000,
 * timer=periodic|deadline, lost_ms=200 (how long an interrupt may stay away), clock_us=1000 (how
 * far the clocks may part), xsave=on|off (off: FXSAVE state only), cpus=N (default: all that CPUID
 * tells), stall_ms=5000 (how long a CPU may make no progress), brief=on|off (on: a pass line tells
 * changes and no more, for each character is an exit to the VMM). With exact=on timers are verified
 * to the tick: timer=oneshot too, pit=periodic|oneshot, early_us=300 (by how much a one-shot may
 * come early), late_us=2500 (how far a phase may be from where it was). A power button press ends
 * it.
 */
#include "probe.h"

static struct probe *probes[MAX_CPUS];
static unsigned int cpus = 1;
static uint64_t stall_after;
static bool brief;

/* ------------------------------------------------------------------ every CPU */

/* One turn of the loop; returns how long it took. */
static uint64_t turn(struct probe *p)
{
	uint64_t now, gap;

	regs_check(p);
	items_check_one(p);
	if (p->cpu == 0)
		ram_check_slice(p);
	now = rdtsc();
	gap = now - p->last;
	p->last = now;
	if (gap > p->gap)
		p->gap = gap;
	time_check(p, gap);
	return gap;
}

static unsigned int arm(struct probe *p)
{
	unsigned int registers;

	lapic_enable();
	regs_arm(p);
	items_set(p);
	time_arm(p);
	registers = items_arm(p);
	p->last = rdtsc();
	p->ready = true;
	return registers;
}

static void ap_main(void)
{
	struct probe *p = probes[this_cpu()->index];

	arm(p);
	for (;;)
		turn(p);
}

/* ------------------------------------------------------------------ the boot CPU */

static void check_stall(struct probe *p, uint64_t gap)
{
	uint64_t now = rdtsc();

	if (was_paused(gap)) /* that is nobody's fault */
		p->seen_at += gap;
	if (p->holds != p->seen_holds) {
		p->seen_holds = p->holds;
		p->seen_at = now;
	} else if ((int64_t)(now - p->seen_at) > (int64_t)stall_after) {
		const struct report r = { "cpu-stalled", p->holds, tsc_to_us(now - p->seen_at) };

		report_print(p, &r);
		p->seen_at = now;
	}
}

static void watch_others(uint64_t gap)
{
	cpus_check_traps();
	for (unsigned int i = 1; i < cpus; i++) {
		reports_print(probes[i]);
		check_stall(probes[i], gap);
	}
}

/* The sums and the longest gap over the other CPUs, whose gaps start anew. */
static void sum_others(uint64_t *gap, uint64_t *irqs, uint64_t *holds, uint64_t *verified)
{
	*gap = *irqs = *holds = 0;
	for (unsigned int i = 1; i < cpus; i++) {
		uint64_t g = __atomic_exchange_n(&probes[i]->gap, 0, __ATOMIC_ACQ_REL);

		if (g > *gap)
			*gap = g;
		*irqs += *probes[i]->clocks.lapic.count;
		*holds += probes[i]->holds;
		*verified += probes[i]->verified;
	}
}

/* Prints what came before it, and returns how long that took: a pause may fall in here too. */
static uint64_t print_pass(struct probe *p, uint64_t n, uint64_t printing)
{
	uint64_t char_gap = print_gap, start = p->last, gap = p->gap, ap_gap, ap_irqs, ap_holds;
	uint64_t verified = p->verified;

	print_gap = p->gap = 0;
	sum_others(&ap_gap, &ap_irqs, &ap_holds, &verified);
	if (brief)
		print("probe: pass %lu changes=%lu\n", n, changes);
	else
		print("probe: pass %lu gap_us=%lu print_us=%lu print_gap_us=%lu timer_irqs=%lu "
		      "pit_irqs=%lu holds=%lu ram_rounds=%lu clock_us=%ld changes=%lu cpus=%u "
		      "ap_gap_us=%lu ap_timer_irqs=%lu ap_holds=%lu verified=%lu\n",
		      n, tsc_to_us(gap), tsc_to_us(printing), tsc_to_us(char_gap),
		      *p->clocks.lapic.count, *p->clocks.pit.count, p->holds, ram_rounds,
		      p->clocks.error / 1000, changes, cpus, tsc_to_us(ap_gap), ap_irqs, ap_holds,
		      verified);
	p->last = rdtsc();
	p->exact.checked_at = p->last - print_gap; /* it ran meanwhile, as far as that tells */
	return p->last - start;
}

static void watch(struct probe *p, uint64_t period, uint64_t passes)
{
	uint64_t due = p->last + period, pass = 0, printing = 0;

	for (;;) {
		watch_others(turn(p));
		if ((int64_t)(p->last - due) < 0)
			continue;
		printing = print_pass(p, ++pass, printing);
		if (power_button() || pass == passes)
			return;
		due = p->last + period;
	}
}

/* As many as there is memory for. */
static unsigned int make_probes(unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count && i < MAX_CPUS; i++) {
		probes[i] = ram_take(sizeof(struct probe), 64);
		if (!probes[i])
			break;
		probes[i]->cpu = i;
	}
	return i;
}

static void start_others(unsigned int wanted)
{
	cpus = cpus_start(wanted, ap_main);
	if (cpus < wanted)
		print("probe: only %u CPUs of %u started\n", cpus, wanted);
	for (unsigned int i = 1; i < cpus; i++) {
		while (!probes[i]->ready)
			cpus_check_traps();
		probes[i]->seen_at = rdtsc();
	}
}

void guest_main(void)
{
	uint64_t period_ms = option_number("period_ms", 200);
	uint64_t ram_bytes;
	const char *features;
	unsigned int registers, wanted = (unsigned int)option_number("cpus", 0);

	time_init();
	print("probe: start tsc_khz=%lu\n", tsc_khz);
	wanted = make_probes(wanted ? wanted : cpus_present());
	brief = option_is("brief", "on");
	stall_after = us_to_tsc(option_number("stall_ms", 5000) * 1000);
	time_options();
	features = regs_init();
	lapic_enable();
	start_others(wanted);
	ram_bytes = ram_fill(option_number("ram_mib", UINT64_MAX >> 20) << 20);
	registers = arm(probes[0]);
	print("probe: ready regs=%u ram_mib=%lu features=%s%s cpus=%u\n", registers,
	      ram_bytes >> 20, features, time_features(probes[0]), cpus);
	for (unsigned int i = 1; i < cpus; i++)
		probes[i]->gap = 0;
	probes[0]->last = rdtsc();
	watch(probes[0], us_to_tsc(period_ms * 1000), option_number("passes", 0));
	print("probe: done changes=%lu\n", changes);
}
