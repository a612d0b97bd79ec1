/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation. A request is in flight from io_inflight_take() to io_inflight_flushed(). The
 * writer may be killed between any two instructions; stores of one thread to memory are seen in
 * their order (x86), and the compiler is kept from changing it.
 *
 *	take	counter, then inflight = 1. Killed before: the request is still in the available
 *		ring, for what was taken of it is used idx + the number in flight.
 *	put	next = the last head, then last_batch_head = this one: a list of what the used
 *		ring's idx will give back.
 *	flush	the used ring's idx (elsewhere); then inflight = 0 for each of the list; then
 *		used_idx. Killed in between: used_idx differs from the ring's idx by the number of
 *		requests on the list that the driver has, so recovering clears as many.
 *
 * The table is shared with the front-end and therefore not trusted: heads are checked, the walk
 * over the list is bounded.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "inflight.h"

#define VERSION 1 /* "version" of QueueRegionSplit */
#define ALIGN 64u
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static_assert(sizeof(struct io_inflight_state) == 16, "as in the specification");
static_assert(offsetof(struct io_inflight_region, states) == 16, "as in the specification");

#define store(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#define load(p) __atomic_load_n(p, __ATOMIC_RELAXED)

static size_t region_size(unsigned int queue_size)
{
	size_t bytes = sizeof(struct io_inflight_region) +
		       queue_size * sizeof(struct io_inflight_state);

	return (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
}

size_t io_inflight_size(unsigned int nqueues, unsigned int queue_size)
{
	return nqueues * region_size(queue_size);
}

/* #syscalls io: memfd_create ftruncate fcntl(,F_ADD_SEALS) fcntl(,F_GET_SEALS) fstat newfstatat */
int io_inflight_make(unsigned int nqueues, unsigned int queue_size, struct error *err)
{
	int fd = fd_memfd("molt-io-inflight", 0);

	if (fd < 0)
		return err_sys(err, -fd, "inflight table");
	if (ftruncate(fd, (off_t)io_inflight_size(nqueues, queue_size)) == 0 &&
	    fcntl(fd, F_ADD_SEALS, SEALS) == 0)
		return fd;
	err_sys(err, errno, "inflight table");
	close(fd);
	return -(err ? err->code : EIO);
}

int io_inflight_map(struct io_inflight_table *t, int fd, uint64_t size, uint64_t offset,
		    unsigned int nqueues, unsigned int queue_size, struct error *err)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	void *p;

	if (size != io_inflight_size(nqueues, queue_size) || offset % 4096 || offset > INT64_MAX)
		return err_set(err, EINVAL,
			       "an inflight table of %llu bytes at %llu for %u queues of %u",
			       (unsigned long long)size, (unsigned long long)offset, nqueues,
			       queue_size);
	if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < offset ||
	    (uint64_t)st.st_size - offset < size || seals < 0 || !(seals & F_SEAL_SHRINK))
		return err_set(err, EINVAL,
			       "the inflight table's memfd is too small, or not sealed");
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	if (p == MAP_FAILED)
		return err_sys(err, errno, "inflight table");
	*t = (struct io_inflight_table){
		.addr = p,
		.size = size,
		.nqueues = (uint16_t)nqueues,
		.queue_size = (uint16_t)queue_size,
	};
	return 0;
}

void io_inflight_unmap(struct io_inflight_table *t)
{
	if (t->addr)
		munmap(t->addr, t->size);
	*t = (struct io_inflight_table){ 0 };
}

/* What the used ring's idx has given back since it was last noted is in flight no more. */
static void finish_batch(struct io_inflight *in, uint16_t used_idx)
{
	struct io_inflight_region *r = in->region;
	uint16_t n = (uint16_t)(used_idx - load(&r->used_idx));
	uint16_t head = load(&r->last_batch_head);

	for (uint16_t i = 0; i < n && i < in->queue_size && head < in->queue_size; i++) {
		store(&r->states[head].inflight, 0);
		head = load(&r->states[head].next);
	}
	store(&r->used_idx, used_idx);
}

/* By insertion: few are out of order, and it needs no memory. */
static void sort_in(const struct io_inflight_region *r, uint16_t *heads, int n, uint16_t head)
{
	uint64_t counter = load(&r->states[head].counter);

	for (; n > 0 && load(&r->states[heads[n - 1]].counter) > counter; n--)
		heads[n] = heads[n - 1];
	heads[n] = head;
}

static int list_inflight(struct io_inflight *in, uint16_t *heads)
{
	struct io_inflight_region *r = in->region;
	int n = 0;

	in->counter = 0;
	for (uint16_t i = 0; i < in->queue_size; i++) {
		uint64_t counter = load(&r->states[i].counter);

		if (!load(&r->states[i].inflight))
			continue;
		sort_in(r, heads, n++, i);
		if (counter >= in->counter)
			in->counter = counter + 1;
	}
	return n;
}

static struct io_inflight_region *region(const struct io_inflight_table *t, unsigned int queue)
{
	return (struct io_inflight_region *)(void *)((char *)t->addr +
						     queue * region_size(t->queue_size));
}

int io_inflight_recover(struct io_inflight *in, const struct io_inflight_table *t,
			unsigned int queue, unsigned int queue_size, uint16_t used_idx,
			uint16_t *heads)
{
	*in = (struct io_inflight){ .queue_size = (uint16_t)queue_size };
	if (!t->addr || queue >= t->nqueues || queue_size > t->queue_size)
		return -ENOENT;
	in->region = region(t, queue);
	if (load(&in->region->version) != VERSION)
		return -ENOENT;
	finish_batch(in, used_idx);
	return list_inflight(in, heads);
}

void io_inflight_reset(struct io_inflight *in, uint16_t used_idx)
{
	struct io_inflight_region *r = in->region;

	if (!r)
		return;
	store(&r->version, 0);
	for (uint16_t i = 0; i < in->queue_size; i++)
		store(&r->states[i].inflight, 0);
	store(&r->desc_num, in->queue_size);
	store(&r->last_batch_head, 0);
	store(&r->used_idx, used_idx);
	store(&r->version, VERSION);
	in->counter = 0;
}

void io_inflight_forget(struct io_inflight *in)
{
	if (in->region)
		store(&in->region->version, 0);
}

void io_inflight_forget_all(const struct io_inflight_table *t)
{
	for (unsigned int i = 0; t->addr && i < t->nqueues; i++)
		store(&region(t, i)->version, 0);
}

void io_inflight_take(struct io_inflight *in, uint16_t head)
{
	struct io_inflight_region *r = in->region;

	if (!r)
		return;
	store(&r->states[head].counter, in->counter++);
	store(&r->states[head].inflight, 1);
}

void io_inflight_untake(struct io_inflight *in, uint16_t head)
{
	if (in->region)
		store(&in->region->states[head].inflight, 0);
}

void io_inflight_put(struct io_inflight *in, uint16_t head)
{
	struct io_inflight_region *r = in->region;

	if (!r)
		return;
	store(&r->states[head].next, load(&r->last_batch_head));
	store(&r->last_batch_head, head);
}

void io_inflight_flushed(struct io_inflight *in, uint16_t used_idx)
{
	if (in->region)
		finish_batch(in, used_idx);
}
