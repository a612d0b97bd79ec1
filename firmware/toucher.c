/* SPDX-License-Identifier: MIT */
/*
 * toucher: goes over all pages of its RAM and says how long that took. It shows what an update
 * leaves behind: the first pass after one is slower, for each page has to be mapped again.
 *
 * A pass begins when a byte comes in on COM1, or every period_ms. It reads one word in each page,
 * which holds what the pass before wrote there, and writes the next:
 *
 *	toucher: ready pages=N
 *	toucher: pass P us=T slowest_us=S changes=C
 *
 *	T	how long the pass took
 *	S	the longest that one piece of 64 pages of it took
 *	C	pages, since the beginning, whose word was not what it should be
 *
 * Pages are taken in an order that is neither up nor down, as a guest's own work would: the
 * neighbours that a host maps on the way are not simply the next ones. (The stride between two
 * pages has no divisor in common with their number, so each has its turn.)
 * With order=up they are taken one after another.
 *
 * Options: touch_mib=N (all RAM if not set), period_ms=0 (0: by COM1 alone), order=up, passes=0
 * (then power off; 0: never). A power button press ends it, and so does a q on COM1.
 */
#include "lib/guest.h"

#define PAGE 4096ull
#define PIECE 64
#define STRIDE 7919 /* pages, about 31 MiB: a prime */
#define COM1 0x3f8
#define LSR_DATA 0x01

struct toucher {
	uint64_t pages, stride;
	uint64_t period; /* TSC ticks, 0 for none */
	uint64_t due;
	uint64_t slowest; /* of the last pass, TSC ticks */
	uint64_t changes;
	bool ended;
};

static volatile uint64_t *page_at(uint64_t n)
{
	for (unsigned int i = 0; i < ram_count; i++) {
		uint64_t here = (ram[i].end - ram[i].start) / PAGE;

		if (n < here)
			return (volatile uint64_t *)(uintptr_t)(ram[i].start + n * PAGE);
		n -= here;
	}
	return NULL;
}

static uint64_t ram_pages(uint64_t limit)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < ram_count; i++)
		n += (ram[i].end - ram[i].start) / PAGE;
	return n < limit ? n : limit;
}

static uint64_t word_of(uint64_t page, uint64_t pass)
{
	return (page + 1) * 0x9e3779b97f4a7c15u ^ pass;
}

/* Returns how long it took. Before pass 1 the words are all zero: pass 0 only writes. */
static uint64_t touch_all(struct toucher *t, uint64_t pass)
{
	uint64_t start = rdtsc(), last = start, now;

	t->slowest = 0;
	for (uint64_t i = 0, page = 0; i < t->pages; i++) {
		volatile uint64_t *word = page_at(page);

		if (pass && *word != word_of(page, pass - 1))
			t->changes++;
		*word = word_of(page, pass);
		page += t->stride;
		if (page >= t->pages)
			page -= t->pages;
		if (i % PIECE != PIECE - 1)
			continue;
		now = rdtsc();
		if (now - last > t->slowest)
			t->slowest = now - last;
		last = now;
	}
	return rdtsc() - start;
}

static void wait_for_turn(struct toucher *t)
{
	for (;;) {
		t->ended = power_button();
		if (t->ended)
			return;
		if (inb(COM1 + 5) & LSR_DATA) {
			t->ended = inb(COM1) == 'q';
			return;
		}
		for (uint64_t until = rdtsc() + us_to_tsc(200); (int64_t)(rdtsc() - until) < 0;)
			cpu_relax();
		if (t->period && (int64_t)(rdtsc() - t->due) >= 0) {
			t->due = rdtsc() + t->period;
			return;
		}
	}
}

void guest_main(void)
{
	uint64_t passes = option_number("passes", 0);
	struct toucher t = { .stride = option_is("order", "up") ? 1 : STRIDE };

	time_init();
	t.period = us_to_tsc(option_number("period_ms", 0) * 1000);
	t.pages = ram_pages(option_number("touch_mib", ~0ull >> 20) << 8);
	if (t.pages % STRIDE == 0)
		t.stride = 1;
	t.stride %= t.pages;
	touch_all(&t, 0);
	print("toucher: ready pages=%lu\n", t.pages);
	t.due = rdtsc() + t.period;
	for (uint64_t pass = 1; !passes || pass <= passes; pass++) {
		uint64_t took;

		wait_for_turn(&t);
		if (t.ended)
			break;
		took = touch_all(&t, pass);
		print("toucher: pass %lu us=%lu slowest_us=%lu changes=%lu\n", pass,
		      tsc_to_us(took), tsc_to_us(t.slowest), t.changes);
	}
	print("toucher: done changes=%lu\n", t.changes);
}
