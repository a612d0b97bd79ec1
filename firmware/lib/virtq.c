/* SPDX-License-Identifier: MIT */
/* The driver's side of a split virtqueue (virtio 1.2, 2.7). */
#include "virtio.h"

#define AVAIL_FLAGS 0 /* words of 16 bits */
#define AVAIL_IDX 1
#define AVAIL_RING 2
#define USED_FLAGS 0
#define USED_IDX 1
#define NO_INTERRUPT 1u
#define NO_NOTIFY 1u
#define NOT_IN_USE ~0ull

bool virtq_take(struct virtq *q)
{
	q->desc = ram_take(VIRTQ_MAX * sizeof(struct virtq_desc), 4096);
	q->avail = ram_take(6 + 2 * VIRTQ_MAX, 4096);
	q->used = ram_take(6 + 8 * VIRTQ_MAX, 4096);
	q->tables = ram_take(VIRTQ_MAX * sizeof(q->tables[0]), 4096);
	q->cookie = ram_take(VIRTQ_MAX * sizeof(q->cookie[0]), 4096);
	return q->desc && q->avail && q->used && q->tables && q->cookie;
}

static volatile uint16_t *used_event(const struct virtq *q)
{
	return &q->avail[AVAIL_RING + q->size];
}

static uint16_t avail_event(const struct virtq *q)
{
	return *(volatile uint16_t *)(uintptr_t)&virtq_used_ring(q)[q->size];
}

void virtq_empty(struct virtq *q, struct virtio *v, unsigned int index, unsigned int size)
{
	q->dev = v;
	q->index = index;
	q->size = size;
	memset(q->desc, 0, size * sizeof(q->desc[0]));
	memset((void *)(uintptr_t)q->avail, 0, 6 + 2 * size);
	memset((void *)(uintptr_t)q->used, 0, 6 + 8 * size);
	for (unsigned int i = 0; i < size; i++) {
		q->desc[i].next = (uint16_t)(i + 1);
		q->cookie[i] = NOT_IN_USE;
	}
	q->free = (uint16_t)size;
	q->free_head = 0;
	q->next_avail = q->published = q->kicked = q->last_used = 0;
}

void virtq_registers(const struct virtq *q, unsigned int entry)
{
	const struct virtio *v = q->dev;
	const uint64_t at[3] = { (uintptr_t)q->desc, (uintptr_t)q->avail, (uintptr_t)q->used };

	virtio_write(v, v->common + COMMON_SELECT, q->index, 2);
	virtio_write(v, v->common + COMMON_SIZE, q->size, 2);
	virtio_write(v, v->common + COMMON_VECTOR, entry, 2);
	for (uint32_t i = 0; i < 6; i++)
		virtio_write(v, v->common + COMMON_DESC + 4 * i,
			     at[i / 2] >> (32 * (i % 2)) & PCI_NONE, 4);
}

bool virtq_setup(struct virtq *q, struct virtio *v, unsigned int index, unsigned int size,
		 unsigned int entry)
{
	virtq_empty(q, v, index, size);
	virtq_registers(q, entry);
	if (virtio_read(v, v->common + COMMON_SIZE, 2) != size)
		return false;
	virtio_write(v, v->common + COMMON_ENABLE, 1, 2);
	return virtio_read(v, v->common + COMMON_ENABLE, 2) == 1;
}

/* ------------------------------------------------------------------ available */

static struct virtq_desc segment_desc(const struct virtq_segment *s, bool more, unsigned int next)
{
	return (struct virtq_desc){
		.address = (uintptr_t)s->at,
		.length = s->length,
		.flags = (uint16_t)((more ? DESC_NEXT : 0) | (s->write ? DESC_WRITE : 0)),
		.next = (uint16_t)next,
	};
}

static void fill_chain(struct virtq *q, const struct virtq_segment *segments, unsigned int n)
{
	uint16_t at = q->free_head;

	for (unsigned int i = 0; i < n; i++) {
		uint16_t next = q->desc[at].next;

		q->desc[at] = segment_desc(&segments[i], i + 1 < n, next);
		at = next;
	}
	q->free_head = at;
	q->free = (uint16_t)(q->free - n);
}

static void fill_table(struct virtq *q, const struct virtq_segment *segments, unsigned int n)
{
	uint16_t head = q->free_head, next = q->desc[head].next;
	struct virtq_desc *table = q->tables[head];

	for (unsigned int i = 0; i < n; i++)
		table[i] = segment_desc(&segments[i], i + 1 < n, i + 1);
	q->desc[head] = (struct virtq_desc){
		.address = (uintptr_t)table,
		.length = (uint32_t)(n * sizeof(table[0])),
		.flags = DESC_INDIRECT,
		.next = next,
	};
	q->free_head = next;
	q->free--;
}

bool virtq_add(struct virtq *q, const struct virtq_segment *segments, unsigned int n, bool indirect,
	       uint64_t cookie)
{
	uint16_t head = q->free_head;

	if (n > VIRTQ_SEGMENTS || q->free < (indirect ? 1 : n))
		return false;
	if (indirect)
		fill_table(q, segments, n);
	else
		fill_chain(q, segments, n);
	q->cookie[head] = cookie;
	q->avail[AVAIL_RING + (q->next_avail & (q->size - 1))] = head;
	q->next_avail++;
	return true;
}

void virtq_publish(struct virtq *q)
{
	__asm__ volatile("" : : : "memory"); /* x86 keeps the order of stores */
	q->avail[AVAIL_IDX] = q->next_avail;
	q->published = q->next_avail;
}

void virtq_notify(const struct virtq *q)
{
	const struct virtio *v = q->dev;

	virtio_write(v, v->notify + v->notify_step * q->index, q->index, 2);
}

bool virtq_wants_kick(struct virtq *q)
{
	uint16_t event, old = q->kicked;

	q->kicked = q->published;
	memory_fence(); /* idx is out before it is asked */
	if (!(q->dev->features & F_EVENT_IDX))
		return !(q->used[USED_FLAGS] & NO_NOTIFY);
	event = avail_event(q);
	return (uint16_t)(q->published - event - 1) < (uint16_t)(q->published - old);
}

void virtq_kick(struct virtq *q)
{
	if (virtq_wants_kick(q)) {
		q->kicks++;
		virtq_notify(q);
	} else {
		q->quiet++;
	}
}

/* ------------------------------------------------------------------ used */

bool virtq_has_done(const struct virtq *q)
{
	return q->used[USED_IDX] != q->last_used;
}

static void give_back(struct virtq *q, uint16_t head)
{
	uint16_t at = head, n = 1;

	while (q->desc[at].flags & DESC_NEXT) {
		at = q->desc[at].next;
		n++;
	}
	q->desc[at].next = q->free_head;
	q->free_head = head;
	q->free = (uint16_t)(q->free + n);
}

bool virtq_done(struct virtq *q, uint64_t *cookie, uint32_t *length)
{
	volatile struct virtq_used *used;
	uint32_t id;

	if (!virtq_has_done(q))
		return false;
	used = &virtq_used_ring(q)[q->last_used & (q->size - 1)];
	id = used->id;
	*length = used->length;
	q->last_used++;
	*cookie = id < q->size ? q->cookie[id] : NOT_IN_USE;
	if (*cookie == NOT_IN_USE)
		return true;
	q->cookie[id] = NOT_IN_USE;
	give_back(q, (uint16_t)id);
	return true;
}

void virtq_interrupt_after(struct virtq *q, unsigned int more)
{
	q->avail[AVAIL_FLAGS] = 0;
	*used_event(q) = (uint16_t)(q->last_used + more);
	memory_fence();
}

/* With EVENT_IDX by naming an index that is not reached soon. */
void virtq_no_interrupt(struct virtq *q)
{
	bool event_idx = q->dev->features & F_EVENT_IDX;

	q->avail[AVAIL_FLAGS] = (uint16_t)(event_idx ? 0 : NO_INTERRUPT);
	*used_event(q) = (uint16_t)(q->last_used + 0x8000);
	memory_fence();
}
