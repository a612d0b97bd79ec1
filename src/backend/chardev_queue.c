/* SPDX-License-Identifier: MIT */
/*
 * A character backend's output queue. Theory of operation.
 *
 * Any thread appends to a ring. Whoever writes takes a *piece* out of it, whole lines if it can,
 * and writes that from a place of its own until all of it is taken. When the ring is full its
 * oldest lines make room: who comes to see why a guest died is to find its last words. The piece is
 * never touched, so what a reader is being given is not cut: should a line have been taken by half,
 * the rest of it follows into the piece before anything is dropped.
 *
 * Piece and ring together are what crosses an update, as the 64 KiB that every release takes. A
 * piece that nobody has been given anything of goes back to the ring: what is dropped later is then
 * older than all that is kept.
 */
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"

#define LINE_MAX_BYTES 256u /* a line longer than this is cut where it must be */
#define TRY_BYTES 1024u     /* a stand-in's reader that has refused some is asked so often */

static uint8_t at(const struct chardev *cd, uint32_t i)
{
	return cd->ring[(cd->head + i) % CHARDEV_RING_BYTES];
}

static void append(struct chardev *cd, const uint8_t *data, uint32_t len)
{
	uint32_t tail = (cd->head + cd->len) % CHARDEV_RING_BYTES;
	uint32_t first = CHARDEV_RING_BYTES - tail;

	if (first > len)
		first = len;
	memcpy(cd->ring + tail, data, first);
	memcpy(cd->ring, data + first, len - first);
	cd->len += len;
}

static void drop_head(struct chardev *cd, uint32_t n)
{
	cd->head = (cd->head + n) % CHARDEV_RING_BYTES;
	cd->len -= n;
}

static void move_to_piece(struct chardev *cd, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		cd->piece[cd->piece_len++] = at(cd, i);
	drop_head(cd, n);
}

/* The length of what is up to the first line end within max bytes; 0 if there is none. */
static uint32_t first_line(const struct chardev *cd, uint32_t from, uint32_t max)
{
	for (uint32_t i = from; i < cd->len && i < from + max; i++)
		if (at(cd, i) == '\n')
			return i + 1;
	return 0;
}

static void complete_piece(struct chardev *cd)
{
	uint32_t room = CHARDEV_CHUNK - cd->piece_len, n;

	if (cd->piece_done == cd->piece_len || cd->piece[cd->piece_len - 1] == '\n')
		return;
	n = first_line(cd, 0, room < LINE_MAX_BYTES ? room : LINE_MAX_BYTES);
	move_to_piece(cd, n);
}

/* Drops lines until there is room for so many bytes more. */
static void make_room(struct chardev *cd, uint32_t need)
{
	uint32_t room = CHARDEV_RING_BYTES - cd->len, n, lines;

	if (need <= room)
		return;
	complete_piece(cd);
	room = CHARDEV_RING_BYTES - cd->len;
	if (need <= room)
		return;
	n = need - room;
	lines = first_line(cd, n - 1, LINE_MAX_BYTES);
	n = lines ? lines : n;
	drop_head(cd, n);
	cd->dropped += n;
}

static uint32_t pending(const struct chardev *cd)
{
	return cd->piece_len - cd->piece_done + cd->len;
}

/* Whether it is time for a line about dropped bytes. */
static uint64_t drops_to_log(struct chardev *cd)
{
	uint64_t now = now_ns();

	if (cd->dropped == cd->dropped_logged || cd->out_dead)
		return 0;
	if (cd->drop_log_ns && now - cd->drop_log_ns < CHARDEV_DROP_LOG_NS)
		return 0;
	cd->drop_log_ns = now;
	cd->dropped_logged = cd->dropped;
	return cd->dropped;
}

static void log_drops(const struct chardev *cd, uint64_t bytes)
{
	if (bytes)
		log_warn("%s: %s does not take the guest's output: %llu bytes dropped so far",
			 cd->name, cd->describe, (unsigned long long)bytes);
}

/*
 * In a stand-in nobody waits for EPOLLOUT. A reader that was behind once may be there again, and
 * what else comes would be dropped in the end: so it is what comes that has main try.
 */
static bool is_to_try(const struct chardev *cd, uint32_t len)
{
	return atomic_load(&cd->serving) && (cd->head + cd->len) % TRY_BYTES + len >= TRY_BYTES;
}

void chardev_write(struct chardev *cd, const uint8_t *data, size_t len)
{
	uint64_t log_bytes;
	bool wake = false, full;

	if (!cd->kind->has_output || !len)
		return;
	pthread_mutex_lock(&cd->lock);
	if (cd->out_dead) {
		cd->dropped += len;
	} else {
		size_t too_many = len > CHARDEV_RING_BYTES ? len - CHARDEV_RING_BYTES : 0;

		cd->dropped += too_many;
		wake = pending(cd) == 0 || is_to_try(cd, (uint32_t)(len - too_many));
		make_room(cd, (uint32_t)(len - too_many));
		append(cd, data + too_many, (uint32_t)(len - too_many));
	}
	full = atomic_load(&cd->serving) && cd->len > CHARDEV_RING_BYTES / 2;
	log_bytes = drops_to_log(cd);
	pthread_mutex_unlock(&cd->lock);
	log_drops(cd, log_bytes);
	if (wake)
		loop_wake_signal(&cd->wake);
	if (full)
		loop_wake_signal(&cd->full);
}

uint32_t chardev_queue_next(struct chardev *cd, const uint8_t **piece)
{
	uint32_t n;

	pthread_mutex_lock(&cd->lock);
	if (cd->piece_done == cd->piece_len) {
		cd->piece_done = cd->piece_len = 0;
		n = cd->len < CHARDEV_CHUNK ? cd->len : CHARDEV_CHUNK;
		/* Whole lines, unless that is all there is. */
		for (uint32_t i = n; n < cd->len && i > n - LINE_MAX_BYTES; i--)
			if (at(cd, i - 1) == '\n') {
				n = i;
				break;
			}
		move_to_piece(cd, n);
	}
	n = cd->piece_len - cd->piece_done;
	*piece = cd->piece + cd->piece_done;
	pthread_mutex_unlock(&cd->lock);
	return n;
}

void chardev_queue_taken(struct chardev *cd, uint32_t n)
{
	pthread_mutex_lock(&cd->lock);
	cd->piece_done += n;
	pthread_mutex_unlock(&cd->lock);
}

uint32_t chardev_queue_pending(struct chardev *cd)
{
	uint32_t n;

	pthread_mutex_lock(&cd->lock);
	n = pending(cd);
	pthread_mutex_unlock(&cd->lock);
	return n;
}

void chardev_queue_drop(struct chardev *cd, bool for_good)
{
	pthread_mutex_lock(&cd->lock);
	cd->dropped += pending(cd);
	/* Such a loss has its own line. */
	cd->dropped_logged = cd->dropped;
	cd->piece_done = cd->piece_len = 0;
	cd->head = cd->len = 0;
	cd->out_dead = for_good;
	pthread_mutex_unlock(&cd->lock);
}

void chardev_queue_save(struct chardev *cd, uint8_t *out, uint32_t *len, uint32_t *begun)
{
	uint32_t n;

	pthread_mutex_lock(&cd->lock);
	n = cd->piece_len - cd->piece_done;
	*begun = cd->piece_done ? n : 0;
	memcpy(out, cd->piece + cd->piece_done, n);
	for (uint32_t i = 0; i < cd->len; i++)
		out[n++] = at(cd, i);
	pthread_mutex_unlock(&cd->lock);
	*len = n;
}

/* Up to the first line end after at least `from` bytes, 1 or more; a whole piece if there is none. */
static uint32_t piece_to_line_end(const uint8_t *out, uint32_t len, uint32_t from)
{
	uint32_t most = len < CHARDEV_CHUNK ? len : CHARDEV_CHUNK;

	for (uint32_t n = from; n < most; n++)
		if (out[n - 1] == '\n')
			return n;
	return most;
}

void chardev_queue_load(struct chardev *cd, const uint8_t *out, uint32_t len, uint32_t begun)
{
	uint32_t too_many = len > CHARDEV_RING_BYTES ? len - CHARDEV_RING_BYTES : 0, n = begun;

	/* Where it is not known, the first line may be one of which a reader has the beginning. */
	if (n < too_many || n > len || n > CHARDEV_CHUNK)
		n = piece_to_line_end(out, len, too_many ? too_many : 1);
	cd->len = cd->piece_done = 0;
	memcpy(cd->piece, out, n);
	cd->piece_len = n;
	append(cd, out + n, len - n);
}
