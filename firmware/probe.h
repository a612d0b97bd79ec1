/* SPDX-License-Identifier: MIT */
/* What the parts of the probe share; probe.c tells the whole story. */
#ifndef PROBE_H
#define PROBE_H

#include "lib/guest.h"
#include "probe_hold.h"

#define ITEMS_MAX 160
#define REPORTS_MAX 32

/* probe_regs.c */
struct area {
	uint8_t bytes[4096];
} __attribute__((aligned(64)));

struct regs {
	struct area in;     /* what the hold loads */
	struct area out[2]; /* what this hold left, and what the one before left */
	struct area entry;  /* what this hold found */
	struct hold hold;
};

/* probe_items.c */
struct items {
	uint64_t was[ITEMS_MAX];
	bool absent[ITEMS_MAX];
	unsigned int next;
	uint64_t fs_words[2], gs_words[2];
	bool fs_told, gs_told;
};

/* probe_time.c */
struct timer {
	const char *early, *lost;
	const volatile uint64_t *count; /* of interrupts */
	uint64_t period;                /* TSC ticks; 0: not in use */
	uint64_t base, base_count;      /* what the early check counts from */
	uint64_t catch_up;              /* how many late interrupts may still come */
	uint64_t seen, seen_at;         /* what the lost check counts from */
};

struct pvclock {
	volatile uint32_t version;
	uint32_t pad;
	volatile uint64_t tsc_timestamp, system_time;
	volatile uint32_t mul;
	volatile int8_t shift;
	volatile uint8_t flags, pad2[2];
};

/* struct kvm_steal_time: Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME */
struct steal {
	volatile uint64_t ns;
	volatile uint32_t version, flags;
	volatile uint8_t preempted, pad[47];
} __attribute__((aligned(64)));

struct clocks {
	struct pvclock pvclock __attribute__((aligned(64)));
	struct steal steal;
	bool have_pvclock;
	uint64_t stolen; /* steal.ns, last seen */
	struct timer lapic, pit;
	uint64_t deadline;       /* 0: the LAPIC timer is periodic */
	uint64_t armed_at;       /* the count of interrupts when the deadline was set */
	uint64_t base, base_tsc; /* kvmclock and TSC at some time */
	uint64_t last, tsc_last;
	uint64_t slack, tsc_slack; /* how far behind the other CPUs was already told */
	int64_t error;             /* kvmclock against TSC, ns */
};

/* probe_exact.c */
struct window {
	const char *early, *late, *again, *lost;
	uint64_t tolerance; /* how early one may come, TSC ticks */
	int64_t least;      /* lateness in this window, TSC ticks */
	unsigned int seen;
	unsigned int learning; /* windows that are to find the phase */
	unsigned int doubts;   /* windows in a row that found another, */
	int64_t doubted;       /* and which */
	uint64_t excuse;       /* pauses since an interrupt was due */
};

struct periodic {
	struct window w;
	unsigned int vector;
	bool merges;          /* several that are due at once may become one */
	uint64_t period;      /* TSC ticks; 0: not in use */
	uint64_t base, count; /* when the count-th interrupt would have come in time */
	uint64_t seen;        /* interrupts since then */
};

struct shot {
	struct window w;
	unsigned int vector;
	bool deadline, armed;
	uint32_t value;
	uint64_t length, due, count, rest_until;
	void (*arm)(struct shot *s); /* NULL: not in use */
};

struct rtc_timer {
	struct window w;
	uint64_t period, base, count, due;
	unsigned int early;
	int64_t earliest;
};

struct pit2 {
	uint64_t period, base, turns;
};

struct exact {
	struct periodic lapic, pit;
	struct shot lapic_shot, pit_shot;
	struct rtc_timer rtc;
	struct pit2 pit2;
	uint64_t checked_at; /* the TSC, when it last looked */
};

struct report {
	const char *what;
	uint64_t was, now;
};

/* All that one CPU's probe has. Others touch only what is volatile. */
struct probe {
	struct regs regs;
	struct items items;
	struct clocks clocks;
	struct exact exact;
	volatile uint64_t verified; /* interrupts and readings that exact_check() saw */
	unsigned int cpu;
	uint64_t last;           /* the TSC at the end of the last turn */
	volatile uint64_t gap;   /* the longest turn since the last pass line */
	volatile uint64_t holds; /* how many times registers were held */
	volatile bool ready;

	/* To the boot CPU, which prints: written here at head, read there at tail. */
	struct report reports[REPORTS_MAX];
	volatile uint64_t head, tail;

	/* The boot CPU's notes on this one. */
	uint64_t seen_holds, seen_at;
};

/* ---- probe_report.c */

extern uint64_t changes; /* so many were printed */

/* Say that something is not what it was. Goes on; the caller takes `now` as the new truth. */
void changed(struct probe *p, const char *what, uint64_t was, uint64_t now);
/* Whether a gap is so long that the whole machine must have been paused: nobody's fault. */
bool was_paused(uint64_t gap);
/* The boot CPU's: print one, or all that another CPU has handed over. */
void report_print(const struct probe *p, const struct report *r);
void reports_print(struct probe *p);

/* ---- probe_regs.c: what ring 3 holds */

/* Find out what the CPUs offer; returns its name for the ready line. */
const char *regs_init(void);
void regs_arm(struct probe *p); /* turn it on, in CR4 and XCR0 */
void regs_check(struct probe *p);

/* ---- probe_items.c: registers that are read one at a time */

void items_set(struct probe *p);         /* before the timers start */
unsigned int items_arm(struct probe *p); /* returns how many there are */
void items_check_one(struct probe *p);   /* the next in turn */

/* ---- probe_ram.c: the boot CPU's */

uint64_t ram_fill(uint64_t limit); /* returns how many bytes it took */
void ram_check_slice(struct probe *p);
extern uint64_t ram_rounds; /* how often all of it was verified */

/* ---- probe_time.c */

void time_options(void);
void time_arm(struct probe *p);
const char *time_features(const struct probe *p);
/* After anything that may have taken a while; `gap` is how long, in TSC ticks. */
void time_check(struct probe *p, uint64_t gap);

/* ---- probe_exact.c */

void exact_options(void);
bool exact_wanted(void);
void exact_arm(struct probe *p);               /* instead of the timers of probe_time.c */
bool exact_is_one_shot(const struct probe *p); /* its initial count may read as 0 */
void exact_check(struct probe *p);

#endif
