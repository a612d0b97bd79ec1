/* SPDX-License-Identifier: MIT */
/*
 * What the probe found. The boot CPU prints; the others hand it what they find through a ring in
 * their struct probe, one writer and one reader.
 */
#include "probe.h"

#define PAUSE_US 20000

uint64_t changes;

bool was_paused(uint64_t gap)
{
	return gap > us_to_tsc(PAUSE_US);
}

void report_print(const struct probe *p, const struct report *r)
{
	changes++;
	print("probe: CHANGED cpu=%u what=%s was=%lx now=%lx\n", p->cpu, r->what, r->was, r->now);
}

/* A full ring makes its CPU wait rather than lose a report. */
void changed(struct probe *p, const char *what, uint64_t was, uint64_t now)
{
	const struct report r = { what, was, now };

	if (p->cpu == 0) {
		report_print(p, &r);
		return;
	}
	while (p->head - p->tail == REPORTS_MAX)
		cpu_relax();
	p->reports[p->head % REPORTS_MAX] = r;
	__atomic_store_n(&p->head, p->head + 1, __ATOMIC_RELEASE);
}

void reports_print(struct probe *p)
{
	while (p->tail != __atomic_load_n(&p->head, __ATOMIC_ACQUIRE)) {
		report_print(p, &p->reports[p->tail % REPORTS_MAX]);
		__atomic_store_n(&p->tail, p->tail + 1, __ATOMIC_RELEASE);
	}
}
