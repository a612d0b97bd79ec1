/* SPDX-License-Identifier: MIT */
/*
 * What a back-end without an inflight table leaves behind when it dies: two indices. As many
 * requests are in flight as the available ring is ahead of the used ring, but which? If all were
 * finished in the order in which they came, they are the last ones, and the next back-end goes on
 * from the used ring's index. If a later one was finished first, that would do it twice, with
 * whatever its buffers hold by now, and the earlier one never. The rings cannot tell: the available
 * ring's slots are used again while a request is in flight.
 *
 * So evidence is looked for: a stretch that ends at the used index, and is half a ring long or
 * begins where the ring began, in which the same requests came and were finished. Had one that came
 * before the used index been left over, another would be in its place. What this cannot see: half a
 * ring of requests, one after the other on the same descriptor, beside an older one that is still
 * in flight.
 */
#include <endian.h>
#include <stdlib.h>

#include <molt/base/fd.h>

#include "vhost_front_impl.h"

struct rings {
	const struct memory *mem;
	uint64_t avail;
	uint64_t used;
	uint16_t size;
	uint16_t avail_index;
	uint16_t used_index;
};

static int read16(const struct memory *mem, uint64_t gpa, uint16_t *value)
{
	int r = memory_read(mem, gpa, value, sizeof(*value));

	*value = le16toh(*value);
	return r;
}

/* The descriptor that the ring has at an index; -1 for one that cannot be. */
static int avail_head(const struct rings *r, uint16_t index)
{
	uint16_t head;

	if (read16(r->mem, r->avail + 4 + 2ull * (index % r->size), &head) < 0)
		return -1;
	return head < r->size ? head : -1;
}

static int used_head(const struct rings *r, uint16_t index)
{
	uint32_t head;

	if (memory_read(r->mem, r->used + 4 + 8ull * (index % r->size), &head, sizeof(head)) < 0)
		return -1;
	head = le32toh(head);
	return head < r->size ? (int)head : -1;
}

static void count(int *difference, unsigned int *differ, int head, int by)
{
	if (difference[head] == 0)
		++*differ;
	difference[head] += by;
	if (difference[head] == 0)
		--*differ;
}

/* Whether the used ring was never filled: what is behind its index is as the driver made it. */
static bool is_young(const struct rings *r)
{
	for (unsigned int i = r->used_index; i < r->size; i++) {
		uint64_t entry;

		if (memory_read(r->mem, r->used + 4 + 8ull * i, &entry, sizeof(entry)) < 0 || entry)
			return false;
	}
	return r->used_index < r->size;
}

/* Goes back from the used index. flying: requests in flight, their slots are behind it. */
static bool some_stretch_fits(const struct rings *r, int *difference, unsigned int flying)
{
	unsigned int longest = r->size - flying, differ = 0;
	unsigned int enough = r->size / 2u;

	if (r->used_index < enough && is_young(r))
		enough = r->used_index;
	for (unsigned int n = 1; n <= longest; n++) {
		uint16_t index = (uint16_t)(r->used_index - n);
		int came = avail_head(r, index), done = used_head(r, index);

		if (came < 0 || done < 0)
			return false;
		count(difference, &differ, came, 1);
		count(difference, &differ, done, -1);
		if (differ == 0 && n >= enough)
			return true;
	}
	return enough == 0;
}

bool vhost_front_in_order(const struct vhost_front *f, unsigned int queue, unsigned int *flying)
{
	const struct vhost_front_guest *g = f->guest;
	struct rings r = { .mem = f->setup.mem,
			   .avail = g->queue_avail[queue],
			   .used = g->queue_used[queue],
			   .size = g->queue_size[queue] };
	_cleanup_free_ int *difference = NULL;

	*flying = 0;
	if (read16(r.mem, r.avail + 2, &r.avail_index) < 0 ||
	    read16(r.mem, r.used + 2, &r.used_index) < 0)
		return true;
	*flying = (uint16_t)(r.avail_index - r.used_index);
	/* More than there can be is the guest's nonsense, and its own affair. */
	if (*flying == 0 || *flying > r.size)
		return true;
	difference = calloc(r.size, sizeof(*difference));
	return difference && some_stretch_fits(&r, difference, *flying);
}
