/* SPDX-License-Identifier: MIT */
/* Rings that make no sense (virtio 1.2, 2.7). All of it is found out when the device takes them. */
#include "bad.h"

#define BUFFER ((uintptr_t)t->buffer)
#define TABLE ((uintptr_t)t->q.tables[0])

static void one(struct target *t, uint64_t address, uint64_t length)
{
	bad_desc(t, 0, address, length, DESC_WRITE, 0);
	bad_go(t, 0);
}

static void indirect(struct target *t, uint64_t address, uint64_t length, unsigned int flags)
{
	bad_desc(t, 0, address, length, DESC_INDIRECT | flags, 1);
	bad_go(t, 0);
}

static void table_entry(struct target *t, unsigned int i, uint64_t address, uint64_t length,
			unsigned int flags, unsigned int next)
{
	t->q.tables[0][i] = (struct virtq_desc){ address, (uint32_t)length, (uint16_t)flags,
						 (uint16_t)next };
}

/* ------------------------------------------------------------------ the available ring */

static void head_size(struct target *t)
{
	bad_go(t, BAD_SIZE);
}

static void head_max(struct target *t)
{
	bad_go(t, 0xffff);
}

static void ahead(struct target *t, unsigned int by)
{
	one(t, BUFFER, 64);
	t->q.next_avail = (uint16_t)(t->q.next_avail - 1 + by);
	virtq_publish(&t->q);
	virtq_notify(&t->q);
}

static void idx_too_far(struct target *t)
{
	ahead(t, BAD_SIZE + 2);
}

static void idx_far(struct target *t)
{
	ahead(t, 0x8000);
}

static void idx_back(struct target *t)
{
	ahead(t, 0);
}

/* The same request twice at a time: each is done, both into the same buffer. */
static void head_twice(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_WRITE, 0);
	for (unsigned int i = 0; i < 2; i++)
		t->q.avail[2 + i] = 0;
	t->q.next_avail = 2;
	virtq_publish(&t->q);
	virtq_notify(&t->q);
}

static void avail_flags(struct target *t)
{
	t->q.avail[0] = 0xfffe;
	one(t, BUFFER, 64);
}

static void used_event_strange(struct target *t)
{
	for (unsigned int i = 0; i < 6; i++) {
		t->q.avail[2 + BAD_SIZE] = (uint16_t)(0x7ffe + 3 * i);
		one(t, BUFFER, 64);
	}
}

/* What the device has written is its own affair: it does not read it again. */
static void used_overwritten(struct target *t)
{
	for (unsigned int i = 0; i < 2 + 4 * BAD_SIZE; i++)
		t->q.used[i] = (uint16_t)(0x1111 * i);
	one(t, BUFFER, 64);
}

/* ------------------------------------------------------------------ descriptors */

static void next_size(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, BAD_SIZE);
	bad_go(t, 0);
}

static void next_max(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 0xffff);
	bad_go(t, 0);
}

static void loop_self(struct target *t)
{
	bad_desc(t, 3, BUFFER, 64, DESC_WRITE | DESC_NEXT, 3);
	bad_go(t, 3);
}

static void loop_two(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 5);
	bad_desc(t, 5, BUFFER, 64, DESC_WRITE | DESC_NEXT, 0);
	bad_go(t, 0);
}

static void loop_all(struct target *t)
{
	for (unsigned int i = 0; i < BAD_SIZE; i++)
		bad_desc(t, i, BUFFER + i, 1, DESC_WRITE | DESC_NEXT, (i + 1) % BAD_SIZE);
	bad_go(t, 0);
}

static void loop_later(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_NEXT, 1);
	bad_desc(t, 1, BUFFER, 64, DESC_WRITE | DESC_NEXT, 2);
	bad_desc(t, 2, BUFFER, 64, DESC_WRITE | DESC_NEXT, 1);
	bad_go(t, 0);
}

static void length_zero(struct target *t)
{
	one(t, BUFFER, 0);
}

static void length_zero_last(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 1);
	bad_desc(t, 1, BUFFER, 0, DESC_WRITE, 0);
	bad_go(t, 0);
}

static void length_max(struct target *t)
{
	one(t, BUFFER, 0xffffffff);
}

static void length_to_end(struct target *t)
{
	one(t, BUFFER, ram_end - BUFFER + 1);
}

static void address_end(struct target *t)
{
	one(t, ram_end, 1);
}

static void address_crosses_end(struct target *t)
{
	one(t, ram_end - 1, 2);
}

static void address_hole(struct target *t)
{
	one(t, 0xc0000000, 64);
}

static void address_4g(struct target *t)
{
	one(t, 0xfffffff0, 32);
}

static void address_own_bar(struct target *t)
{
	one(t, t->dev.bar, 4);
}

static void address_other_bar(struct target *t)
{
	one(t, other.dev.bar + other.dev.notify, 4);
}

static void address_ecam(struct target *t)
{
	one(t, 0xe0000000, 64);
}

static void address_lapic(struct target *t)
{
	one(t, LAPIC_BASE, 64);
}

static void address_high(struct target *t)
{
	one(t, 1ull << 46, 64);
}

static void address_max(struct target *t)
{
	one(t, ~0ull, 1);
}

static void address_wraps(struct target *t)
{
	one(t, ~0ull - 4095, 4096);
}

static void address_wraps_far(struct target *t)
{
	one(t, ~0ull - 15, 0xffffffff);
}

static void second_in_hole(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 1);
	bad_desc(t, 1, 0xd0000000, 64, DESC_WRITE, 0);
	bad_go(t, 0);
}

static void read_behind_write(struct target *t)
{
	bad_desc(t, 0, BUFFER, 16, DESC_WRITE | DESC_NEXT, 1);
	bad_desc(t, 1, BUFFER, 16, 0, 0);
	bad_go(t, 0);
}

static void read_between_writes(struct target *t)
{
	bad_desc(t, 0, BUFFER, 16, DESC_WRITE | DESC_NEXT, 1);
	bad_desc(t, 1, BUFFER, 16, DESC_NEXT, 2);
	bad_desc(t, 2, BUFFER, 16, DESC_WRITE, 0);
	bad_go(t, 0);
}

static void only_read(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, 0, 0);
	bad_go(t, 0);
}

static void only_read_much(struct target *t)
{
	for (unsigned int i = 0; i < BAD_SIZE; i++)
		bad_desc(t, i, BUFFER, 8192, i + 1 < BAD_SIZE ? DESC_NEXT : 0, i + 1);
	bad_go(t, 0);
}

static void write_one_byte(struct target *t)
{
	one(t, BUFFER, 1);
}

/* Reserved bits of a descriptor's flags mean nothing. */
static void flags_reserved(struct target *t)
{
	bad_desc(t, 0, BUFFER, 64, 0xfff8 | DESC_WRITE, 0);
	bad_go(t, 0);
}

/* Beyond 32 bits altogether, of RAM that is there many times. */
static void total_4g(struct target *t)
{
	uint64_t length = ram_end - 0x100000;
	struct virtq_desc *table = ram_table();

	for (unsigned int i = 0; i < 1024; i++)
		table[i] = (struct virtq_desc){ 0x100000, (uint32_t)length,
						i < 1023 ? DESC_NEXT : 0, (uint16_t)(i + 1) };
	indirect(t, (uintptr_t)table, 1024 * 16, 0);
}

/* ------------------------------------------------------------------ indirect tables */

static void indirect_uninvited(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 16, 0);
}

static void indirect_nested(struct target *t)
{
	table_entry(t, 0, TABLE + 16, 16, DESC_INDIRECT, 0);
	table_entry(t, 1, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 16, 0);
}

static void indirect_nested_later(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 1);
	table_entry(t, 1, TABLE, 32, DESC_INDIRECT, 0);
	indirect(t, TABLE, 32, 0);
}

static void indirect_next(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE, 0);
	bad_desc(t, 1, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 16, DESC_NEXT);
}

static void indirect_empty(struct target *t)
{
	indirect(t, TABLE, 0, 0);
}

static void indirect_half(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 8, 0);
}

static void indirect_odd(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 17, 0);
}

static void indirect_large(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 1025 * 16, 0);
}

static void indirect_max(struct target *t)
{
	indirect(t, TABLE, 0xfffffff0, 0);
}

static void indirect_nowhere(struct target *t)
{
	indirect(t, 0xd0000000, 16, 0);
}

static void indirect_crosses_end(struct target *t)
{
	indirect(t, ram_end - 16, 32, 0);
}

static void indirect_wraps(struct target *t)
{
	indirect(t, ~0ull - 15, 32, 0);
}

static void indirect_bar(struct target *t)
{
	indirect(t, other.dev.bar, 16, 0);
}

static void indirect_loop(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 0);
	indirect(t, TABLE, 32, 0);
}

static void indirect_loop_two(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 1);
	table_entry(t, 1, BUFFER, 64, DESC_WRITE | DESC_NEXT, 0);
	indirect(t, TABLE, 32, 0);
}

static void indirect_next_size(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 1);
	indirect(t, TABLE, 16, 0);
}

static void indirect_next_max(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE | DESC_NEXT, 0xffff);
	indirect(t, TABLE, 16, 0);
}

static void indirect_order(struct target *t)
{
	table_entry(t, 0, BUFFER, 16, DESC_WRITE | DESC_NEXT, 1);
	table_entry(t, 1, BUFFER, 16, 0, 0);
	indirect(t, TABLE, 32, 0);
}

static void indirect_zero(struct target *t)
{
	table_entry(t, 0, BUFFER, 0, DESC_WRITE, 0);
	indirect(t, TABLE, 16, 0);
}

static void indirect_behind_direct(struct target *t)
{
	bad_desc(t, 1, BUFFER, 16, DESC_WRITE | DESC_NEXT, 0);
	table_entry(t, 0, 0xd0000000, 16, DESC_WRITE, 0);
	bad_desc(t, 0, TABLE, 16, DESC_INDIRECT, 0);
	bad_go(t, 1);
}

/* WRITE means nothing beside INDIRECT (2.7.5.3.2). */
static void indirect_write(struct target *t)
{
	table_entry(t, 0, BUFFER, 64, DESC_WRITE, 0);
	indirect(t, TABLE, 16, DESC_WRITE);
}

/* A table may begin at any byte. */
static void indirect_unaligned(struct target *t)
{
	const struct virtq_desc d = { BUFFER, 64, DESC_WRITE, 0 };

	memcpy((void *)(TABLE + 3), &d, sizeof(d));
	indirect(t, TABLE + 3, 16, 0);
}

static void indirect_too_many(struct target *t)
{
	struct virtq_desc *table = ram_table();

	for (unsigned int i = 0; i < 1024; i++)
		table[i] = (struct virtq_desc){ BUFFER + i, 1,
						(uint16_t)(DESC_WRITE | (i < 1023 ? DESC_NEXT : 0)),
						(uint16_t)(i + 1) };
	indirect(t, (uintptr_t)table, 1024 * 16, 0);
}

/* ------------------------------------------------------------------ buffers over rings */

static void over_desc(struct target *t)
{
	one(t, (uintptr_t)t->q.desc, BAD_SIZE * 16);
}

static void over_avail(struct target *t)
{
	one(t, (uintptr_t)t->q.avail, 6 + 2 * BAD_SIZE);
}

static void over_used(struct target *t)
{
	one(t, (uintptr_t)t->q.used, 6 + 8 * BAD_SIZE);
}

static void over_own_table(struct target *t)
{
	for (unsigned int i = 0; i < 4; i++)
		table_entry(t, i, TABLE, 64, DESC_WRITE | (i < 3 ? DESC_NEXT : 0), i + 1);
	indirect(t, TABLE, 64, 0);
}

/* Many good ones, the bad one in their midst: what was before it may be done. */
static void bad_among_good(struct target *t)
{
	for (unsigned int i = 0; i < BAD_SIZE; i++) {
		bad_desc(t, i, i == 4 ? 0xd0000000 : BUFFER, 64, DESC_WRITE, 0);
		t->q.avail[2 + i] = (uint16_t)i;
	}
	t->q.next_avail = BAD_SIZE;
	virtq_publish(&t->q);
	virtq_notify(&t->q);
}

const struct bad bad_rings[] = {
	{ "head-size", head_size, BROKEN, 0, 0 },
	{ "head-max", head_max, BROKEN, 0, 0 },
	{ "idx-too-far", idx_too_far, BROKEN, 0, 0 },
	{ "idx-far", idx_far, BROKEN, 0, 0 },
	{ "idx-back", idx_back, BROKEN, 0, TYPE_RNG },
	{ "idx-back-disk", idx_back, ANY, 0, TYPE_DISK }, /* it may see nothing of it */
	{ "head-twice", head_twice, WORKS, 0, TYPE_RNG },
	{ "avail-flags", avail_flags, WORKS, 0, TYPE_RNG },
	{ "used-event-strange", used_event_strange, WORKS, 0, TYPE_RNG },
	{ "used-overwritten", used_overwritten, ANY, 0, 0 },
	{ "next-size", next_size, BROKEN, 0, 0 },
	{ "next-max", next_max, BROKEN, 0, 0 },
	{ "loop-self", loop_self, BROKEN, 0, 0 },
	{ "loop-two", loop_two, BROKEN, 0, 0 },
	{ "loop-all", loop_all, BROKEN, 0, 0 },
	{ "loop-later", loop_later, BROKEN, 0, 0 },
	{ "length-zero", length_zero, BROKEN, 0, 0 },
	{ "length-zero-last", length_zero_last, BROKEN, 0, 0 },
	{ "length-max", length_max, BROKEN, 0, 0 },
	{ "length-to-end", length_to_end, BROKEN, 0, 0 },
	{ "address-end", address_end, BROKEN, 0, 0 },
	{ "address-crosses-end", address_crosses_end, BROKEN, 0, 0 },
	{ "address-hole", address_hole, BROKEN, 0, 0 },
	{ "address-4g", address_4g, BROKEN, 0, 0 },
	{ "address-own-bar", address_own_bar, BROKEN, 0, 0 },
	{ "address-other-bar", address_other_bar, BROKEN, 0, 0 },
	{ "address-ecam", address_ecam, BROKEN, 0, 0 },
	{ "address-lapic", address_lapic, BROKEN, 0, 0 },
	{ "address-high", address_high, BROKEN, 0, 0 },
	{ "address-max", address_max, BROKEN, 0, 0 },
	{ "address-wraps", address_wraps, BROKEN, 0, 0 },
	{ "address-wraps-far", address_wraps_far, BROKEN, 0, 0 },
	{ "second-in-hole", second_in_hole, BROKEN, 0, 0 },
	{ "read-behind-write", read_behind_write, BROKEN, 0, 0 },
	{ "read-between-writes", read_between_writes, BROKEN, 0, 0 },
	{ "only-read", only_read, WORKS, 0, TYPE_RNG },
	{ "only-read-disk", only_read, ANY, 0, TYPE_DISK },
	{ "only-read-much", only_read_much, ANY, 0, 0 },
	{ "write-one-byte", write_one_byte, ANY, 0, 0 },
	{ "flags-reserved", flags_reserved, WORKS, 0, TYPE_RNG },
	{ "total-4g", total_4g, BROKEN, 0, 0 },
	{ "indirect-uninvited", indirect_uninvited, BROKEN, F_INDIRECT, 0 },
	{ "indirect-nested", indirect_nested, BROKEN, 0, 0 },
	{ "indirect-nested-later", indirect_nested_later, BROKEN, 0, 0 },
	{ "indirect-next", indirect_next, BROKEN, 0, 0 },
	{ "indirect-empty", indirect_empty, BROKEN, 0, 0 },
	{ "indirect-half", indirect_half, BROKEN, 0, 0 },
	{ "indirect-odd", indirect_odd, BROKEN, 0, 0 },
	{ "indirect-large", indirect_large, BROKEN, 0, 0 },
	{ "indirect-max", indirect_max, BROKEN, 0, 0 },
	{ "indirect-nowhere", indirect_nowhere, BROKEN, 0, 0 },
	{ "indirect-crosses-end", indirect_crosses_end, BROKEN, 0, 0 },
	{ "indirect-wraps", indirect_wraps, BROKEN, 0, 0 },
	{ "indirect-bar", indirect_bar, BROKEN, 0, 0 },
	{ "indirect-loop", indirect_loop, BROKEN, 0, 0 },
	{ "indirect-loop-two", indirect_loop_two, BROKEN, 0, 0 },
	{ "indirect-next-size", indirect_next_size, BROKEN, 0, 0 },
	{ "indirect-next-max", indirect_next_max, BROKEN, 0, 0 },
	{ "indirect-order", indirect_order, BROKEN, 0, 0 },
	{ "indirect-zero", indirect_zero, BROKEN, 0, 0 },
	{ "indirect-behind-direct", indirect_behind_direct, BROKEN, 0, 0 },
	{ "indirect-write", indirect_write, WORKS, 0, TYPE_RNG },
	{ "indirect-unaligned", indirect_unaligned, WORKS, 0, TYPE_RNG },
	{ "indirect-too-many", indirect_too_many, BROKEN, 0, TYPE_RNG },
	{ "indirect-too-many-disk", indirect_too_many, ANY, 0, TYPE_DISK },
	{ "over-desc", over_desc, ANY, 0, 0 },
	{ "over-avail", over_avail, ANY, 0, 0 },
	{ "over-used", over_used, ANY, 0, 0 },
	{ "over-own-table", over_own_table, ANY, 0, 0 },
	{ "bad-among-good", bad_among_good, BROKEN, 0, 0 },
};
const unsigned int bad_rings_count = ARRAY_SIZE(bad_rings);
