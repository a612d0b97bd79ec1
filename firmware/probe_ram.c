/* SPDX-License-Identifier: MIT */
/*
 * Fills RAM with a pattern that depends on address and round, then walks it for ever: verify the
 * old round's words, write the new round's.
 *
 * Along a page-aligned slice the words form an arithmetic progression, so that checking costs no
 * more than reading.
 */
#include "probe.h"
#include "probe_mix.h"

#define SLICE (256 * 1024ull)
#define STEP 0x9e3779b97f4a7c15u

uint64_t ram_rounds;

static struct mem_region taken[32];
static unsigned int taken_count;
static unsigned int region; /* where the walk is */
static uint64_t cursor;

static uint64_t first_word(uint64_t at, uint64_t round)
{
	return mix(round << 52 ^ at);
}

static void fill_slice(uint64_t at, uint64_t end, uint64_t round)
{
	uint64_t word = first_word(at, round);

	for (uint64_t *p = (uint64_t *)(uintptr_t)at; p < (uint64_t *)(uintptr_t)end; p++) {
		*p = word;
		word += STEP;
	}
}

static uint64_t slice_end(uint64_t at, uint64_t end)
{
	return end - at < SLICE ? end : at + SLICE;
}

uint64_t ram_fill(uint64_t limit)
{
	uint64_t total = 0;

	for (unsigned int i = 0; i < ram_count && total < limit; i++) {
		struct mem_region r = ram[i];

		if (r.end - r.start > limit - total)
			r.end = r.start + ((limit - total) & ~4095ull);
		for (uint64_t at = r.start; at < r.end; at = slice_end(at, r.end))
			fill_slice(at, slice_end(at, r.end), 0);
		total += r.end - r.start;
		taken[taken_count++] = r;
	}
	cursor = taken_count ? taken[0].start : 0;
	return total;
}

/* One line a slice: where it first differs. A lost page would else print for minutes. */
static void check_slice(struct probe *p, uint64_t at, uint64_t end)
{
	uint64_t word = first_word(at, ram_rounds), next = first_word(at, ram_rounds + 1);
	uint64_t *bad = NULL, was = 0, now = 0;

	for (uint64_t *w = (uint64_t *)(uintptr_t)at; w < (uint64_t *)(uintptr_t)end; w++) {
		uint64_t found = *w;

		if (__builtin_expect(found != word, 0) && !bad) {
			bad = w;
			was = word;
			now = found;
		}
		*w = next;
		word += STEP;
		next += STEP;
	}
	if (bad) {
		char what[32];

		format_line(what, sizeof(what), "ram@%lx", (uint64_t)(uintptr_t)bad);
		changed(p, what, was, now);
	}
}

void ram_check_slice(struct probe *p)
{
	uint64_t end;

	if (!taken_count)
		return;
	end = slice_end(cursor, taken[region].end);
	check_slice(p, cursor, end);
	cursor = end;
	if (cursor < taken[region].end)
		return;
	if (++region == taken_count) {
		region = 0;
		ram_rounds++;
	}
	cursor = taken[region].start;
}
