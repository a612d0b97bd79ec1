/* SPDX-License-Identifier: MIT */
#include <stdint.h>

#include "limit.h"

#define SECOND 1000000000ull
#define LONGEST (3600 * SECOND) /* of one request, and of a debt: more is nonsense */

/* As io_board_duration(), and what the division leaves is added to the next one's. */
static uint64_t exact_duration(uint64_t amount, uint64_t rate, struct io_limit_rest *rest)
{
	unsigned __int128 n;

	if (rest->rate != rate)
		*rest = (struct io_limit_rest){ .rate = rate };
	n = (unsigned __int128)amount * SECOND + rest->rest;
	rest->rest = (uint64_t)(n % rate);
	n /= rate;
	return n > LONGEST ? LONGEST : (uint64_t)n;
}

/* Nanoseconds until cost is there, 0 now. */
static uint64_t missing(const struct io_board_limit *l, uint64_t busy, uint64_t cost, uint64_t now)
{
	uint64_t burst = l->burst ? l->burst : 1;
	uint64_t allowed = io_board_duration(burst, l->rate) -
			   io_board_duration(cost < burst ? cost : burst, l->rate);

	if (busy <= now || busy - now <= allowed)
		return 0;
	return busy - now - allowed;
}

static uint64_t wait_for(const struct io_board *board, enum io_board_limited which, uint64_t cost,
			 uint64_t now)
{
	struct io_board_limit l = io_board_get_limit(board, which);

	return l.rate && cost ? missing(&l, l.busy_ns, cost, now) : 0;
}

/* Others may have taken meanwhile: then the bucket has a little debt, and nobody gains by it. */
static void take(struct io_board *board, enum io_board_limited which, uint64_t cost, uint64_t now,
		 struct io_limit_rest *rest)
{
	uint64_t rate = __atomic_load_n(&board->limits[which].rate, __ATOMIC_RELAXED);
	uint64_t *busy = &board->limits[which].busy_ns;
	uint64_t old = __atomic_load_n(busy, __ATOMIC_RELAXED), step, value;

	if (!rate || !cost)
		return;
	step = exact_duration(cost, rate, rest);
	do
		value = (old > now ? old : now) + step;
	while (!__atomic_compare_exchange_n(busy, &old, value, true, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED));
}

uint64_t io_limit_take(struct io_board *board, const uint64_t cost[IO_BOARD_LIMITS], uint64_t now,
		       struct io_limit_rest rest[IO_BOARD_LIMITS])
{
	uint64_t wait = 0;

	for (int i = 0; i < IO_BOARD_LIMITS; i++) {
		uint64_t w = wait_for(board, (enum io_board_limited)i, cost[i], now);

		if (w > wait)
			wait = w;
	}
	for (int i = 0; i < IO_BOARD_LIMITS && !wait; i++)
		take(board, (enum io_board_limited)i, cost[i], now, &rest[i]);
	return wait;
}

void io_limit_repair(struct io_board *board, uint64_t now)
{
	for (int i = 0; i < IO_BOARD_LIMITS; i++) {
		struct io_board_limit l = io_board_get_limit(board, (enum io_board_limited)i);
		uint64_t full = l.rate ? io_board_duration(l.burst, l.rate) : 0;

		if (l.busy_ns > now && l.busy_ns - now > full + LONGEST)
			__atomic_store_n(&board->limits[i].busy_ns, now, __ATOMIC_RELAXED);
	}
}
