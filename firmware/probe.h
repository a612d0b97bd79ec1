/* SPDX-License-Identifier: MIT */
/* What the parts of the probe share; probe.c tells the whole story. */
#ifndef PROBE_H
#define PROBE_H

#include "lib/guest.h"


/* Say that something is not what it was. Goes on; the caller takes `now` as the new truth. */
void changed(const char *what, uint64_t was, uint64_t now);

/* A value that looks random and depends on nothing but its argument. */
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* ---- probe_regs.c: what ring 3 holds */

/* Turn on what the CPU offers, in CR4 and XCR0; returns its name for the ready line. */
const char *regs_init(void);
void regs_check(void);
extern uint64_t regs_holds;	/* how many times */

/* ---- probe_items.c: registers that are read one at a time */

unsigned int items_arm(void);	/* returns how many there are */
void items_check_one(void);	/* the next in turn */

/* ---- probe_ram.c */

uint64_t ram_fill(uint64_t limit);	/* returns how many bytes it took */
void ram_check_slice(void);
extern uint64_t ram_rounds;		/* how often all of it was verified */

/* ---- probe_time.c */

const char *time_arm(void);
/* After anything that may have taken a while; `gap` is how long, in TSC ticks. */
void time_check(uint64_t now, uint64_t gap);
uint64_t timer_irqs(void);
uint64_t pit_irqs(void);
int64_t clock_error_us(void);		/* kvmclock against TSC */

#endif
