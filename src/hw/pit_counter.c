/* SPDX-License-Identifier: MIT */
#include "pit_counter.h"

#define NS_PER_S 1000000000u

typedef unsigned __int128 wide;

static uint64_t elapsed_ns(const struct kvm_pit_channel_state *c, uint64_t now)
{
	uint64_t loaded = (uint64_t)c->count_load_time;

	return c->count_load_time >= 0 && now < loaded ? 0 : now - loaded;
}

static uint64_t elapsed(const struct kvm_pit_channel_state *c, uint64_t now)
{
	return (uint64_t)((wide)elapsed_ns(c, now) * PIT_HZ / NS_PER_S);
}

static bool is_periodic(const struct kvm_pit_channel_state *c)
{
	return c->mode == 2 || c->mode == 3;
}

uint16_t pit_counter_value(const struct kvm_pit_channel_state *c, uint64_t now)
{
	uint64_t n = elapsed(c, now);

	if (c->mode == 3) /* counts by two, twice a period */
		return (uint16_t)(c->count - (2 * n) % c->count);
	if (c->mode == 2)
		return (uint16_t)(c->count - n % c->count);
	return (uint16_t)(c->count - n);
}

bool pit_counter_out(const struct kvm_pit_channel_state *c, uint64_t now)
{
	uint64_t n = elapsed(c, now);

	switch (c->mode) {
	case 1:
		return n < c->count;
	case 2:
		return n && n % c->count == 0;
	case 3:
		return n % c->count < (c->count + 1) / 2;
	case 4:
	case 5:
		return n == c->count;
	default:
		return n >= c->count;
	}
}

/* In units of 1 / PIT_HZ ns, so that no period is rounded; 0 where there are no interrupts. */
static uint64_t period(const struct kvm_pit_channel_state *c)
{
	uint64_t exact = (uint64_t)c->count * NS_PER_S;
	const uint64_t least = (uint64_t)PIT_MIN_PERIOD_NS * PIT_HZ;

	if (!is_periodic(c))
		return c->mode == 0 || c->mode == 1 || c->mode == 4 ? exact : 0;
	return exact > least ? exact : least;
}

uint64_t pit_counter_ticks(const struct kvm_pit_channel_state *c, uint64_t now)
{
	uint64_t each = period(c), n;

	if (!each)
		return 0;
	n = (uint64_t)((wide)elapsed_ns(c, now) * PIT_HZ / each);
	return n > 1 && !is_periodic(c) ? 1 : n;
}

uint64_t pit_counter_due(const struct kvm_pit_channel_state *c, uint64_t n)
{
	uint64_t each = period(c);

	if (!each || (n > 1 && !is_periodic(c)))
		return PIT_NEVER;
	return (uint64_t)c->count_load_time + (uint64_t)(((wide)n * each + PIT_HZ - 1) / PIT_HZ);
}
