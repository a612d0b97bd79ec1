/* SPDX-License-Identifier: MIT */
/*
 * The device's side of a split virtqueue. Theory of operation.
 *
 * The three areas are looked up in guest RAM once, when the queue is set up. The guest's CPUs write
 * to them while they are read here, and a malicious guest does so at the worst moment. So a field
 * is read once, into a local, by load(); a descriptor is copied as a whole, and the copy is kept
 * from being read again by a compiler barrier. Nothing that was written to guest RAM is ever read
 * back: the indices that count are in struct virtqueue.
 *
 * A walk ends: it takes at most size descriptors of the table, plus one indirect table, and ends at
 * the first that is wrong. It has three places to go: the table (struct walk's first), an indirect
 * table, the end.
 *
 * Order (virtio 1.2, 2.7.13 and 2.7.14). Driver: descriptors, ring entry, avail idx, then the
 * question whether to notify. Here: avail idx by an acquiring load, then entry and descriptors;
 * used entries, then used idx by a releasing store. On both sides the question whether to notify is
 * a load behind a store to another place, for which x86, too, needs a full fence.
 */
#include <assert.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include <molt/virtio/queue.h>

static_assert(sizeof(struct vring_desc) == 16, "virtio 1.2, 2.7.5");
static_assert(sizeof(struct vring_used_elem) == 8, "virtio 1.2, 2.7.8");
static_assert(offsetof(struct vring_used, ring) == 4, "virtio 1.2, 2.7.8");
static_assert(offsetof(struct vring_avail, ring) == 4, "virtio 1.2, 2.7.6");

#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define store(p, value) __atomic_store_n(p, value, __ATOMIC_RELAXED)

struct walk {
	const struct virtqueue *q;
	struct virtqueue_chain *chain;
	const struct vring_desc *table;
	uint32_t entries; /* in that table */
	uint32_t left;    /* descriptors that may still come from it: a loop ends */
	bool indirect;
	uint64_t total;
};

static int area(const struct memory *mem, const char *name, uint64_t gpa, uint64_t align,
		uint64_t len, void **p, struct error *err)
{
	if (gpa % align)
		return err_set(err, EINVAL, "%s at 0x%llx is not aligned to %u bytes", name,
			       (unsigned long long)gpa, (unsigned int)align);
	*p = memory_ptr(mem, gpa, len);
	if (!*p)
		return err_set(err, EINVAL, "%s at 0x%llx, %llu bytes, is not in guest RAM", name,
			       (unsigned long long)gpa, (unsigned long long)len);
	return 0;
}

int virtqueue_setup(struct virtqueue *q, const struct memory *mem,
		    const struct virtqueue_config *config, uint16_t next_avail, uint16_t used_idx,
		    struct error *err)
{
	uint32_t size = config->size;
	void *desc, *avail, *used;
	int r;

	*q = (struct virtqueue){ 0 };
	if (!size || size > VIRTQUEUE_SIZE_MAX || (size & (size - 1)))
		return err_set(err, EINVAL, "a queue of %u: it must be a power of 2 up to %u", size,
			       VIRTQUEUE_SIZE_MAX);
	r = area(mem, "descriptor table", config->desc_gpa, 16, 16ull * size, &desc, err);
	if (r == 0) /* flags, idx, ring, used_event */
		r = area(mem, "available ring", config->avail_gpa, 2, 6 + 2ull * size, &avail, err);
	if (r == 0) /* flags, idx, ring, avail_event */
		r = area(mem, "used ring", config->used_gpa, 4, 6 + 8ull * size, &used, err);
	if (r < 0)
		return r;
	*q = (struct virtqueue){
		.mem = mem,
		.desc = desc,
		.avail = avail,
		.used = used,
		.size = (uint16_t)size,
		.next_avail = next_avail,
		.used_idx = used_idx,
		.published = used_idx,
		.event_idx = config->event_idx,
		.indirect = config->indirect,
	};
	return 0;
}

uint16_t virtqueue_read_used_idx(const struct virtqueue *q)
{
	const struct vring_used *used = q->used;

	return load(&used->idx);
}

/* An indirect table may be anywhere, so this is no matter of aligned loads. */
static struct vring_desc read_desc(const struct vring_desc *p)
{
	struct vring_desc d;

	memcpy(&d, p, sizeof(d));
	__asm__ volatile("" : "+m"(d) : : "memory");
	return d;
}

static enum virtqueue_error enter_indirect(struct walk *w, const struct vring_desc *d)
{
	uint32_t n = d->len / (uint32_t)sizeof(*d);

	if (!w->q->indirect)
		return VIRTQUEUE_ENOINDIRECT;
	if (w->indirect)
		return VIRTQUEUE_ENESTED;
	if (d->flags & VRING_DESC_F_NEXT)
		return VIRTQUEUE_EINDIRECTNEXT;
	if (d->len % sizeof(*d) || n == 0 || n > VIRTQUEUE_SIZE_MAX)
		return VIRTQUEUE_EINDIRECTLEN;
	w->table = memory_ptr(w->q->mem, d->addr, d->len);
	if (!w->table)
		return VIRTQUEUE_EINDIRECTADDR;
	w->indirect = true;
	w->entries = w->left = n;
	return VIRTQUEUE_OK;
}

static enum virtqueue_error add_buffer(struct walk *w, const struct vring_desc *d)
{
	struct virtqueue_chain *c = w->chain;
	bool write = d->flags & VRING_DESC_F_WRITE;
	void *p;

	if (d->len == 0)
		return VIRTQUEUE_EZERO;
	if (!write && c->nwrite)
		return VIRTQUEUE_EORDER;
	if (c->nread + c->nwrite >= c->max)
		return VIRTQUEUE_ETOOLONG;
	p = memory_ptr(w->q->mem, d->addr, d->len);
	if (!p)
		return VIRTQUEUE_EADDR;
	w->total += d->len;
	if (w->total > UINT32_MAX)
		return VIRTQUEUE_ETOTAL;
	c->iov[c->nread + c->nwrite] = (struct iovec){ .iov_base = p, .iov_len = d->len };
	if (write) {
		c->nwrite++;
		c->write_len += d->len;
	} else {
		c->nread++;
		c->read_len += d->len;
	}
	return VIRTQUEUE_OK;
}

static enum virtqueue_error walk(struct walk *w, uint16_t head)
{
	enum virtqueue_error e = VIRTQUEUE_OK;
	uint32_t i = head;

	for (;;) {
		struct vring_desc d;

		if (i >= w->entries)
			return VIRTQUEUE_ENEXT;
		if (w->left-- == 0)
			return VIRTQUEUE_ELOOP;
		d = read_desc(&w->table[i]);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			e = enter_indirect(w, &d);
			i = 0;
		} else {
			e = add_buffer(w, &d);
			i = d.next;
			if (e == VIRTQUEUE_OK && !(d.flags & VRING_DESC_F_NEXT))
				return e;
		}
		if (e != VIRTQUEUE_OK)
			return e;
	}
}

static int fail(struct virtqueue *q, enum virtqueue_error error)
{
	q->broken = error;
	return -(int)error;
}

int virtqueue_pop_again(struct virtqueue *q, uint16_t head, struct virtqueue_chain *chain)
{
	struct walk w = {
		.q = q,
		.chain = chain,
		.table = q->desc,
		.entries = q->size,
		.left = q->size,
	};
	enum virtqueue_error e;

	chain->nread = chain->nwrite = 0;
	chain->read_len = chain->write_len = 0;
	chain->head = head;
	if (q->broken)
		return -(int)q->broken;
	if (head >= q->size)
		return fail(q, VIRTQUEUE_EHEAD);
	e = walk(&w, head);
	return e == VIRTQUEUE_OK ? 1 : fail(q, e);
}

/* How many chains are available; VIRTQUEUE_SIZE_MAX + 1 or more where idx makes no sense. */
static uint16_t available(const struct virtqueue *q)
{
	const struct vring_avail *avail = q->avail;

	return (uint16_t)(__atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE) - q->next_avail);
}

bool virtqueue_available(const struct virtqueue *q)
{
	return available(q) != 0;
}

int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain *chain)
{
	const struct vring_avail *avail = q->avail;
	uint16_t n, head;
	int r;

	if (q->broken)
		return -(int)q->broken;
	n = available(q);
	if (n == 0)
		return 0;
	if (n > q->size)
		return fail(q, VIRTQUEUE_EAVAIL);
	head = load(&avail->ring[q->next_avail & (q->size - 1)]);
	r = virtqueue_pop_again(q, head, chain);
	if (r >= 0)
		q->next_avail++;
	return r;
}

void virtqueue_push(struct virtqueue *q, uint16_t head, uint32_t written)
{
	struct vring_used *used = q->used;
	struct vring_used_elem *elem = &used->ring[q->used_idx & (q->size - 1)];

	store(&elem->id, head);
	store(&elem->len, written);
	q->used_idx++;
}

void virtqueue_flush(struct virtqueue *q)
{
	struct vring_used *used = q->used;

	__atomic_store_n(&used->idx, q->used_idx, __ATOMIC_RELEASE);
	q->published = q->used_idx;
}

bool virtqueue_should_notify(struct virtqueue *q)
{
	const struct vring_avail *avail = q->avail;
	uint16_t old = q->signalled;
	bool valid = q->signalled_valid;

	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* used idx is out before it is asked */
	if (!q->event_idx)
		return !(load(&avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	q->signalled = q->published;
	q->signalled_valid = true;
	return !valid || vring_need_event(load(&avail->ring[q->size]), q->published, old);
}

/* The used ring's avail_event is behind its entries. */
static uint16_t *avail_event(const struct virtqueue *q)
{
	struct vring_used *used = q->used;

	return (uint16_t *)(void *)&used->ring[q->size];
}

/* With EVENT_IDX avail_event is left behind, and the driver notifies only when it passes it. */
void virtqueue_disable_kicks(struct virtqueue *q)
{
	struct vring_used *used = q->used;

	if (!q->event_idx)
		store(&used->flags, VRING_USED_F_NO_NOTIFY);
}

bool virtqueue_enable_kicks(struct virtqueue *q)
{
	struct vring_used *used = q->used;

	if (q->event_idx)
		store(avail_event(q), q->next_avail);
	else
		store(&used->flags, (uint16_t)0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* it is out before the ring is looked at */
	return available(q) != 0;
}
