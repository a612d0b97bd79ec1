/* SPDX-License-Identifier: MIT */
/*
 * Requests by io_uring, on a ring that is older than this process and will outlive it
 * (io_ring.h). Theory of operation.
 *
 * The kernel's own indices of a ring are in the memory that is shared with it; liburing's are set
 * to the same when its queue is taken up. What an earlier process had put into the ring and not
 * submitted is dropped: the inflight table has it.
 *
 * What it had submitted may still be under way, even when its process is gone: an exit waits for
 * the kernel's worker threads, but not for a device that has the request (direct I/O). Such a
 * request reads or writes guest RAM and the file as long as it lasts, so nothing may be done again
 * before it has ended. Each submission has exactly one completion, and both are counted, in the
 * ring: the submission queue's head and the completion queue's tail. The difference is what is
 * under way. What waits for something that may never come, a read of an eventfd, is cancelled.
 *
 * A completion of an earlier process is known by its generation (user_data's upper half) and says
 * nothing, but for a sync that has failed: the kernel tells of what it has lost once, and does not
 * when the sync is done again.
 *
 * A read of the kick eventfd is always among the submissions, so one call waits for everything. Of
 * one that is O_NONBLOCK, for which the ring would not wait, it is a poll, and the read comes
 * after.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

#define OF_KICK 0xffffffffu
#define OF_CANCEL 0xfffffffeu
#define OF_SYNC 0x10000u /* beside the head */

static_assert(VIRTQUEUE_SIZE_MAX <= OF_SYNC, "a head is below it");
static_assert(sizeof(struct io_uring_params) <= sizeof(((struct io_board_queue *)0)->ring),
	      "there is room for it");

static uint64_t user_data(const struct io_queue *q, uint32_t what)
{
	return (uint64_t)q->generation << 32 | what;
}

static uint32_t ring_load(const unsigned int *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void forget_unsubmitted(struct io_uring *ring)
{
	struct io_uring_sq *sq = &ring->sq;
	unsigned int head = ring_load(sq->khead);

	__atomic_store_n(sq->ktail, head, __ATOMIC_RELEASE);
	sq->sqe_head = sq->sqe_tail = head;
	for (unsigned int i = 0; i < sq->ring_entries; i++)
		sq->array[i] = i;
}

/*
 * Whether what the board says of a ring leads nowhere but into its mappings: an earlier process
 * could write what it liked. What is in them and not in the ring is a SIGBUS.
 */
static bool leads_into_the_ring(const struct io_uring_params *p)
{
	const uint32_t flags = IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN |
			       IORING_SETUP_TASKRUN_FLAG;
	const struct io_sqring_offsets *s = &p->sq_off;
	const struct io_cqring_offsets *c = &p->cq_off;
	const uint32_t numbers[] = { s->head,      s->tail,         s->ring_mask, s->ring_entries,
				     s->flags,     s->dropped,      c->head,      c->tail,
				     c->ring_mask, c->ring_entries, c->overflow,  c->flags };
	uint32_t end = s->array < c->cqes ? s->array : c->cqes;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		if (numbers[i] % 4 || numbers[i] >= end)
			return false;
	return !(p->flags & ~flags) && s->array % 4 == 0 && c->cqes % 4 == 0;
}

/* #syscalls io: io_uring_enter */
int io_engine_uring_attach(struct io_queue *q, int fd, struct error *err)
{
	struct io_uring_params p;
	int r;

	memcpy(&p, q->board->ring, sizeof(p));
	memset(&q->ring, 0, sizeof(q->ring));
	r = leads_into_the_ring(&p) ? io_uring_queue_mmap(fd, &p, &q->ring) : -EINVAL;
	if (r < 0)
		return err_sys(err, -r, "disk '%s', queue %u: the io_uring at descriptor %d",
			       q->disk->opt->id, q->index, fd);
	q->ring.flags = p.flags;
	q->ring.features = p.features;
	q->ring.enter_ring_fd = fd;
	q->ring.sq.ring_entries = p.sq_entries;
	q->ring.cq.ring_entries = p.cq_entries;
	q->ring.sq.ring_mask = p.sq_entries - 1;
	q->ring.cq.ring_mask = p.cq_entries - 1;
	if (p.sq_entries & (p.sq_entries - 1) || p.cq_entries < q->disk->opt->queue_size + 2)
		return err_set(err, EINVAL,
			       "disk '%s', queue %u: an io_uring of %u entries is too small for %u",
			       q->disk->opt->id, q->index, p.sq_entries, q->disk->opt->queue_size);
	r = io_uring_get_events(&q->ring); /* one that was not enabled takes nothing */
	return r < 0 ? err_sys(err, -r, "disk '%s', queue %u: the io_uring at descriptor %d",
			       q->disk->opt->id, q->index, fd)
		     : 0;
}

static struct io_uring_sqe *get_sqe(struct io_queue *q)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

	while (!sqe) {
		io_uring_submit(&q->ring);
		sqe = io_uring_get_sqe(&q->ring);
	}
	return sqe;
}

static void prepare(struct io_uring_sqe *sqe, const struct io_request *r)
{
	int file = r->queue->disk->file;

	switch (r->op) {
	case IO_OP_READ:
		if (r->niov == 1)
			io_uring_prep_read(sqe, file, r->iov->iov_base,
					   (unsigned int)r->iov->iov_len, r->offset);
		else
			io_uring_prep_readv(sqe, file, r->iov, r->niov, r->offset);
		break;
	case IO_OP_WRITE:
	case IO_OP_ZERO:
		if (r->niov == 1)
			io_uring_prep_write(sqe, file, r->iov->iov_base,
					    (unsigned int)r->iov->iov_len, r->offset);
		else
			io_uring_prep_writev(sqe, file, r->iov, r->niov, r->offset);
		break;
	case IO_OP_SYNC:
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
		break;
	case IO_OP_ALLOCATE:
		io_uring_prep_fallocate(sqe, file, r->mode, (off_t)r->offset, (off_t)r->left);
		break;
	case IO_OP_NONE:
		io_uring_prep_nop(sqe);
		break;
	}
	sqe->user_data = user_data(r->queue, r->head | (r->op == IO_OP_SYNC ? OF_SYNC : 0));
}

/* Buffers that the file does not take as they are go by way of others, at once: nobody does that. */
static void submit(struct io_request *r)
{
	if (io_request_is_aligned(r))
		prepare(get_sqe(r->queue), r);
	else
		io_request_result(r, io_request_bounce(r));
}

static bool kick_is_nonblock(const struct io_queue *q)
{
	return __atomic_load_n(&q->kick_nonblock, __ATOMIC_RELAXED);
}

static void complete(struct io_queue *q, uint64_t data, int res)
{
	uint32_t what = (uint32_t)data;

	if (data >> 32 != q->generation)
		return;
	if (what == OF_KICK) {
		q->kick_armed = false;
		if (kick_is_nonblock(q) && res > 0)
			res = (int)read(q->kick_fd, &q->kick_count, sizeof(q->kick_count));
		if (res == (int)sizeof(q->kick_count))
			io_queue_kicked(q);
		return;
	}
	what &= ~OF_SYNC;
	if (what < q->disk->opt->queue_size && q->requests[what].busy) {
		/* There was no room for a thread of the kernel's to do it: this one does. */
		if (res == -ECANCELED)
			res = io_request_do(&q->requests[what]);
		io_request_result(&q->requests[what], res);
	}
}

static void flush(struct io_queue *q)
{
	if (io_uring_sq_ready(&q->ring))
		io_uring_submit(&q->ring);
}

static bool ready(struct io_queue *q)
{
	return io_uring_cq_ready(&q->ring) ||
	       __atomic_load_n(q->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN;
}

static void reap(struct io_queue *q)
{
	struct io_uring_cqe *cqe;
	unsigned int head, n = 0;

	if (__atomic_load_n(q->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN)
		io_uring_get_events(&q->ring);
	io_uring_for_each_cqe(&q->ring, head, cqe)
	{
		complete(q, cqe->user_data, cqe->res);
		n++;
	}
	io_uring_cq_advance(&q->ring, n);
}

static void enter_and_wait(struct io_queue *q, int64_t timeout_ns)
{
	struct __kernel_timespec ts = { .tv_sec = timeout_ns / 1000000000,
					.tv_nsec = timeout_ns % 1000000000 };
	struct io_uring_cqe *cqe;

	if (timeout_ns < 0)
		io_uring_submit_and_wait(&q->ring, 1);
	else
		io_uring_submit_and_wait_timeout(&q->ring, &cqe, 1, &ts, NULL);
}

static void wait_some(struct io_queue *q, int64_t timeout_ns)
{
	if (!q->kick_armed) {
		struct io_uring_sqe *sqe = get_sqe(q);

		if (kick_is_nonblock(q))
			io_uring_prep_poll_add(sqe, q->kick_fd, POLLIN);
		else
			io_uring_prep_read(sqe, q->kick_fd, &q->kick_count, sizeof(q->kick_count),
					   0);
		sqe->user_data = user_data(q, OF_KICK);
		q->kick_armed = true;
	}
	enter_and_wait(q, timeout_ns);
}

/* Submissions without a completion; nonsense in the ring counts as none. */
static uint32_t under_way(const struct io_uring *ring)
{
	uint32_t n = ring_load(ring->sq.khead) - ring_load(ring->cq.ktail);

	return n <= 2 * ring->cq.ring_entries ? n : 0;
}

static void drop(struct io_queue *q, const struct io_uring_cqe *cqe)
{
	uint32_t what = (uint32_t)cqe->user_data;
	int res = cqe->res;

	if (what < 2 * OF_SYNC && what & OF_SYNC && res < 0 && res != -ECANCELED && res != -EINTR &&
	    res != -EAGAIN)
		io_sync_failed(q->disk, -res);
}

static void drop_completions(struct io_queue *q)
{
	struct io_uring *ring = &q->ring;
	unsigned int tail = ring_load(ring->cq.ktail), head = ring_load(ring->cq.khead);

	for (; head != tail && tail - head <= ring->cq.ring_entries; head++)
		drop(q, &ring->cq.cqes[head & ring->cq.ring_mask]);
	__atomic_store_n(ring->cq.khead, tail, __ATOMIC_RELEASE);
}

static void cancel_all(struct io_queue *q)
{
	struct io_uring_sqe *sqe = get_sqe(q);

	io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	sqe->user_data = user_data(q, OF_CANCEL);
	io_uring_submit(&q->ring);
}

/* Nothing of this instance's is under way when it is called. */
static void settle(struct io_queue *q)
{
	bool told = false;

	forget_unsubmitted(&q->ring);
	q->generation = ++q->board->generation;
	q->kick_armed = false; /* if it was, its completion is dropped or it is cancelled */
	drop_completions(q);
	if (!under_way(&q->ring))
		return;
	cancel_all(q);
	for (;;) {
		drop_completions(q);
		if (!under_way(&q->ring))
			return;
		if (!told)
			log_info("disk '%s': queue %u waits for what was left under way",
				 q->disk->opt->id, q->index);
		told = true;
		enter_and_wait(q, -1);
	}
}

const struct io_engine io_engine_uring = {
	.submit = submit,
	.flush = flush,
	.reap = reap,
	.ready = ready,
	.wait = wait_some,
	.settle = settle,
};
