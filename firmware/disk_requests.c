/* SPDX-License-Identifier: MIT */
/*
 * Requests of a disk, and what they should find there. The guest knows for each block of 4 KiB
 * which write it holds; no two requests that are in flight at a time have a block in common.
 */
#include "disk.h"

#define TIMEOUT_US 60000000
#define HEADER 16u
#define ID_BYTES 20u

static uint64_t word_of(uint32_t block, uint32_t gen, uint32_t i)
{
	return gen == GEN_ZERO ? 0 : ((uint64_t)gen << 32 | block) * 0x9e3779b97f4a7c15u + i;
}

bool disk_take(struct disk *d)
{
	uint64_t slot_bytes = (uint64_t)d->most_blocks * BLOCK + 64;

	d->slots = ram_take(SLOTS_MAX * sizeof(d->slots[0]), 4096);
	d->gens = ram_take(d->blocks * sizeof(d->gens[0]), 4096);
	d->locked = ram_take(d->blocks, 4096);
	if (!d->slots || !d->gens || !d->locked)
		return false;
	for (unsigned int i = 0; i < d->depth; i++) {
		d->slots[i].data = ram_take(slot_bytes, 4096);
		if (!d->slots[i].data)
			return false;
	}
	for (unsigned int i = 0; i < d->queues; i++)
		if (!virtq_take(&d->q[i]))
			return false;
	return true;
}

/* ------------------------------------------------------------------ starting one */

/* Pieces, at any byte, of a buffer; as many as are allowed. */
static unsigned int split(struct disk *d, uint8_t *at, uint32_t length, bool write,
			  unsigned int most, struct virtq_segment *out)
{
	unsigned int n = 0;

	while (length) {
		bool last = n + 1 == most || disk_random(d, 3) == 0;
		uint32_t piece = last ? length : 1 + disk_random(d, length);

		out[n++] = (struct virtq_segment){ at, piece, write };
		at += piece;
		length -= piece;
	}
	return n;
}

static void fill(struct slot *s)
{
	for (uint32_t b = 0; b < s->count; b++) {
		uint64_t *words = (uint64_t *)(uintptr_t)(s->data + b * BLOCK);

		for (uint32_t i = 0; i < BLOCK / 8; i++)
			words[i] = word_of(s->block + b, s->gen, i);
	}
}

/* The buffers but for header and status: what is to be read, or written, by the device. */
static uint32_t payload(struct disk *d, struct slot *s, uint8_t **at, bool *write)
{
	*at = s->data;
	*write = s->op == OP_IN || s->op == OP_GET_ID;
	switch (s->op) {
	case OP_IN:
		memset(s->data, 0xcc, s->count * BLOCK);
		return s->count * BLOCK;
	case OP_OUT:
		s->gen = ++d->next_gen;
		fill(s);
		return s->count * BLOCK;
	case OP_GET_ID:
		memset(s->data, 0xcc, ID_BYTES);
		return ID_BYTES;
	case OP_DISCARD:
	case OP_ZEROES:
		s->range.sector = s->header.sector;
		s->range.count = s->count * BLOCK_SECTORS;
		s->range.flags = s->op == OP_ZEROES ? disk_random(d, 2) : 0; /* may be unmapped */
		s->header.sector = 0;
		*at = (uint8_t *)&s->range;
		return sizeof(s->range);
	case OP_FLUSH:
		break;
	}
	return 0;
}

/* The status is a buffer of its own or the last byte of what is behind the data. */
static unsigned int segments_of(struct disk *d, struct slot *s, unsigned int most,
				struct virtq_segment *out)
{
	bool write;
	uint8_t *at;
	uint32_t length = payload(d, s, &at, &write);
	unsigned int n = split(d, (uint8_t *)&s->header, HEADER, false, most > 8 ? 3 : 1, out);

	s->status = &s->own_status;
	s->expected = write ? length + 1 : 1;
	if (write && disk_random(d, 3) == 0) {
		s->status = at + length++;
		n += split(d, at, length, true, most - n, out + n);
	} else {
		n += split(d, at, length, write, most - n - 1, out + n);
		out[n++] = (struct virtq_segment){ s->status, 1, true };
	}
	*s->status = STATUS_NONE;
	return n;
}

static void lock(struct disk *d, const struct slot *s, uint8_t on)
{
	for (uint32_t b = 0; b < s->count; b++)
		d->locked[s->block + b] = on;
}

bool disk_submit(struct disk *d, unsigned int queue, struct slot *s, enum op op, uint32_t block,
		 uint32_t count)
{
	bool indirect = d->features & F_INDIRECT && disk_random(d, 3) != 0;
	unsigned int room = d->q[queue].free, most = indirect ? 16 : room < 16 ? room : 16;
	struct virtq_segment segments[VIRTQ_SEGMENTS];
	uint64_t sector = (uint64_t)block * BLOCK_SECTORS;
	unsigned int n;

	if (room < (indirect ? 1 : 3))
		return false;
	s->op = op;
	s->block = block;
	s->count = count;
	s->header.type = op;
	s->header.reserved = 0;
	s->header.sector = sector;
	n = segments_of(d, s, most, segments);
	if (!virtq_add(&d->q[queue], segments, n, indirect, (uint64_t)(s - d->slots)))
		disk_bad(d, "no room for %u segments", n);
	lock(d, s, 1);
	s->busy = true;
	s->began = rdtsc();
	d->in_flight++;
	virtq_publish(&d->q[queue]);
	return true;
}

static enum op any_op(struct disk *d)
{
	uint32_t dice = disk_random(d, 100);

	if (dice < 4 && d->features & F_BLK_FLUSH)
		return OP_FLUSH;
	if (dice < 6)
		return OP_GET_ID;
	if (dice < 9 && d->features & F_BLK_DISCARD && !d->readonly)
		return OP_DISCARD;
	if (dice < 12 && d->features & F_BLK_ZEROES && !d->readonly)
		return OP_ZEROES;
	return dice < 55 ? OP_OUT : OP_IN;
}

static struct slot *free_slot(struct disk *d)
{
	for (unsigned int i = 0; i < d->depth; i++)
		if (!d->slots[i].busy)
			return &d->slots[i];
	return NULL;
}

bool disk_submit_any(struct disk *d)
{
	struct slot *s = free_slot(d);
	enum op op = any_op(d);
	uint32_t count = 1 + disk_random(d, d->most_blocks), block;

	if (!s)
		return false;
	block = disk_random(d, d->blocks - count + 1);
	if (op == OP_FLUSH || op == OP_GET_ID)
		block = count = 0;
	for (uint32_t b = 0; b < count; b++)
		if (d->locked[block + b])
			return false;
	return disk_submit(d, disk_random(d, d->queues), s, op, block, count);
}

void disk_kick(struct disk *d)
{
	for (unsigned int i = 0; i < d->queues; i++)
		if (d->q[i].kicked != d->q[i].published)
			virtq_kick(&d->q[i]);
}

/* ------------------------------------------------------------------ what became of it */

static void verify_block(const struct disk *d, uint32_t block, const uint8_t *data)
{
	const uint64_t *words = (const uint64_t *)(uintptr_t)data;
	uint32_t gen = d->gens[block];

	for (uint32_t i = 0; gen != GEN_UNKNOWN && i < BLOCK / 8; i++)
		if (words[i] != word_of(block, gen, i))
			disk_bad(d, "block %u gen %u word %u is %lx, not %lx", block, gen, i,
				 words[i], word_of(block, gen, i));
}

static void succeeded(struct disk *d, const struct slot *s)
{
	for (uint32_t b = 0; b < s->count; b++) {
		uint32_t *gen = &d->gens[s->block + b];

		if (s->op == OP_IN && !d->errors_ok)
			verify_block(d, s->block + b, s->data + b * BLOCK);
		else
			*gen = s->op == OP_OUT      ? s->gen
			       : s->op == OP_ZEROES ? GEN_ZERO
						    : GEN_UNKNOWN;
	}
	if (s->op == OP_IN || s->op == OP_OUT)
		d->bytes += s->count * BLOCK;
	if (s->op == OP_GET_ID && s->data[0] == 0xcc)
		disk_bad(d, "no id");
}

static void failed(struct disk *d, const struct slot *s)
{
	bool write = s->op == OP_OUT || s->op == OP_DISCARD || s->op == OP_ZEROES;

	if (!(write && d->readonly) && !d->errors_ok)
		disk_bad(d, "status %u of type %u, block %u+%u", *s->status, s->op, s->block,
			 s->count);
	d->errors++;
	for (uint32_t b = 0; write && !d->readonly && b < s->count; b++)
		d->gens[s->block + b] = GEN_UNKNOWN;
}

static void finish(struct disk *d, struct slot *s, uint32_t length)
{
	uint64_t took = rdtsc() - s->began;

	if (*s->status == STATUS_NONE)
		disk_bad(d, "no status of type %u", s->op);
	if (*s->status == STATUS_OK && length != s->expected)
		disk_bad(d, "length %u, not %u, of type %u", length, s->expected, s->op);
	if (*s->status == STATUS_OK && s->op == OP_OUT && d->readonly)
		disk_bad(d, "a write to a disk that cannot be written");
	lock(d, s, 0);
	if (*s->status == STATUS_OK)
		succeeded(d, s);
	else
		failed(d, s);
	if (took > d->slowest)
		d->slowest = took;
	d->requests++;
	d->by_op[s->op]++;
	s->busy = false;
	d->in_flight--;
}

unsigned int disk_reap(struct disk *d)
{
	unsigned int n = 0;
	uint64_t cookie;
	uint32_t length;

	for (unsigned int i = 0; i < d->queues; i++)
		for (; virtq_done(&d->q[i], &cookie, &length); n++) {
			if (cookie >= d->depth || !d->slots[cookie].busy)
				disk_bad(d, "queue %u: a head that was not in use", i);
			finish(d, &d->slots[cookie], length);
		}
	return n;
}

void disk_drain(struct disk *d)
{
	uint64_t end = rdtsc() + us_to_tsc(TIMEOUT_US);

	while (d->in_flight) {
		disk_kick(d);
		disk_progress(d);
		if (!disk_reap(d))
			cpu_relax();
		if ((int64_t)(rdtsc() - end) > 0)
			disk_bad(d, "%u requests are not done", d->in_flight);
	}
}

void disk_forget(struct disk *d)
{
	for (unsigned int i = 0; i < d->depth; i++) {
		struct slot *s = &d->slots[i];

		if (!s->busy)
			continue;
		for (uint32_t b = 0; s->op != OP_IN && !d->readonly && b < s->count; b++)
			d->gens[s->block + b] = GEN_UNKNOWN;
		lock(d, s, 0);
		s->busy = false;
	}
	d->in_flight = 0;
}
