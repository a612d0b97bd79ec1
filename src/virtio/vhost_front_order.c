/* SPDX-License-Identifier: MIT */
/*
 * What a back-end without an inflight table leaves behind when it dies is two indices. It had taken
 * some of the requests between them, but which of those are still to be done? If all were finished
 * in the order in which they came, none of the finished ones, and the next back-end goes on from
 * the used ring's index. If a later one was finished first, that would do it twice, with whatever
 * its buffers hold by now, and the earlier one never. The rings cannot tell: the available ring's
 * slots are used again while a request is in flight.
 *
 * Sometimes it can be known.
 *
 * - Nothing was in flight. With EVENT_IDX libvhost-user writes the index up to which it has taken
 *   requests into the used ring (avail_event), each time that it takes one. If that is the used
 *   index, all that it took is finished; so it is where QEMU's storage daemon ended by itself. A
 *   back-end that writes it more seldom wrote it when it had nothing to do.
 * - A ring that was not filled yet shows all that ever happened: what came before the used index
 *   must be what was finished.
 * - Half a ring that was finished exactly in the order in which it came is taken for evidence: had
 *   one that came before been left over, all that came after it would be one place further on. That
 *   the same requests were finished in another order is none: a back-end that always begins with
 *   the last of 16 looks the same with and without one left over (seen with that daemon). What
 *   cannot be told apart is half a ring of requests on the same descriptor, one after the other,
 *   beside an older one in flight.
 */
#include <endian.h>
#include <linux/virtio_ring.h>
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

/* Whether the used ring was never filled: what is behind its index is as the driver made it. */
static bool is_young(const struct rings *r)
{
	for (unsigned int i = r->used_index; i < r->size; i++) {
		uint64_t entry;

		if (memory_read(r->mem, r->used + 4 + 8ull * i, &entry, sizeof(entry)) < 0 || entry)
			return false;
	}
	return r->used_index < r->size && r->avail_index <= r->size;
}

/* Of a young ring: whether the first requests are those that were finished, in whatever order. */
static bool first_are_done(const struct rings *r)
{
	_cleanup_free_ int *difference = calloc(r->size, sizeof(*difference));

	if (!difference)
		return false;
	for (uint16_t i = 0; i < r->used_index; i++) {
		int came = avail_head(r, i), done = used_head(r, i);

		if (came < 0 || done < 0)
			return false;
		difference[came]++;
		difference[done]--;
	}
	for (unsigned int i = 0; i < r->size; i++)
		if (difference[i])
			return false;
	return true;
}

/* flying: requests in flight, whose slots are behind the used index. */
static bool half_a_ring_in_order(const struct rings *r, unsigned int flying)
{
	unsigned int half = (r->size + 1u) / 2;

	if (flying > r->size - half)
		return false;
	for (unsigned int n = 1; n <= half; n++) {
		uint16_t index = (uint16_t)(r->used_index - n);
		int came = avail_head(r, index);

		if (came < 0 || came != used_head(r, index))
			return false;
	}
	return true;
}

/* How far the back-end has taken requests, as far as it is known. */
static uint16_t taken_index(const struct vhost_front *f, const struct rings *r)
{
	uint16_t available = (uint16_t)(r->avail_index - r->used_index);
	uint16_t event;

	if (!(f->guest->acked & BIT64(VIRTIO_RING_F_EVENT_IDX)) ||
	    read16(r->mem, r->used + 4 + 8ull * r->size, &event) < 0 ||
	    (uint16_t)(event - r->used_index) > available)
		return r->avail_index;
	return event;
}

bool vhost_front_in_order(const struct vhost_front *f, unsigned int queue, unsigned int *flying)
{
	const struct vhost_front_guest *g = f->guest;
	struct rings r = { .mem = f->setup.mem,
			   .avail = g->queue_avail[queue],
			   .used = g->queue_used[queue],
			   .size = g->queue_size[queue] };

	*flying = 0;
	if (read16(r.mem, r.avail + 2, &r.avail_index) < 0 ||
	    read16(r.mem, r.used + 2, &r.used_index) < 0)
		return true;
	*flying = (uint16_t)(r.avail_index - r.used_index);
	/* More than there can be is the guest's nonsense, and its own affair. */
	if (*flying > r.size)
		return true;
	*flying = (uint16_t)(taken_index(f, &r) - r.used_index);
	if (*flying == 0)
		return true;
	return is_young(&r) ? first_are_done(&r) : half_a_ring_in_order(&r, *flying);
}
