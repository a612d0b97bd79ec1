/* SPDX-License-Identifier: MIT */
/*
 * The threads that serve the queues, one each. Theory of operation.
 *
 * A thread lives as long as the process and is either idle (it waits on a condition variable, and
 * everything in struct io_queue is main's) or it runs: then the queue is its own, and main may only
 * wish that it stops. It stops when all that is in flight is done.
 *
 * While a queue has anything to do the driver is asked not to kick; before its thread sleeps it
 * asks for kicks again and looks once more. Whoever else wants the thread to look around (main, the
 * pool's threads) writes to the kick eventfd, too: a kick too many does no harm. One that is taken
 * has it look around once more before it sleeps.
 *
 * Nothing of a queue is lost when the process is killed. Which requests are in flight is in the
 * inflight table, where the available ring was read up to follows from it, and the rest is not
 * remembered but assumed: that the driver has kicked, and that it has not been called.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/probe.h>

#include "internal.h"

/* #syscalls io: write */
static void signal_eventfd(int fd)
{
	const uint64_t one = 1;

	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void io_queue_poke(struct io_queue *q)
{
	signal_eventfd(q->kick_fd);
}

void io_queue_kicked(struct io_queue *q)
{
	q->kicked = true;
	io_board_add(&q->board->kicks, 1);
	PROBE2(kick, q->disk->opt->id, q->index);
}

static bool wanted(struct io_queue *q)
{
	return __atomic_load_n(&q->run, __ATOMIC_RELAXED);
}

static void call(struct io_queue *q)
{
	io_board_add(&q->board->calls, 1);
	PROBE2(call, q->disk->opt->id, q->index);
	signal_eventfd(q->call_fd);
}

static void give_back(struct io_queue *q)
{
	virtqueue_flush(&q->vq);
	io_inflight_flushed(&q->inflight, q->vq.used_idx);
	q->pushed = false;
	if (virtqueue_should_notify(&q->vq))
		call(q);
}

static void break_queue(struct io_queue *q, enum virtqueue_error error, const char *why)
{
	q->vq.broken = error;
	__atomic_store_n(&q->board->broken, (uint32_t)error, __ATOMIC_RELAXED);
	log_warn("disk '%s': queue %u is broken: %s", q->disk->opt->id, q->index, why);
	signal_eventfd(q->err_fd);
}

static void begin(struct io_request *r)
{
	if (r->op == IO_OP_NONE)
		io_request_finish(r, r->early);
	else
		io_request_submit(r);
}

/* 0, or the nanoseconds that the limits make it wait. */
static uint64_t ask_limits(struct io_queue *q, const struct io_request *r, uint64_t now)
{
	bool moves = r->kind == IO_BOARD_READ || r->kind == IO_BOARD_WRITE;
	const uint64_t cost[IO_BOARD_LIMITS] = {
		[IO_BOARD_OPS] = moves || r->kind == IO_BOARD_DISCARD,
		[IO_BOARD_BYTES] = moves ? r->bytes : 0,
	};

	return r->op == IO_OP_NONE ? 0 : io_limit_take(q->disk->board.board, cost, now, q->rest);
}

/* What breaks a queue is not taken from it: whoever goes on there finds it, too, and says so. */
static void break_queue_at(struct io_queue *q, enum virtqueue_error error, const char *why)
{
	q->vq.next_avail--;
	break_queue(q, error, why);
}

/* The next request, or NULL. */
static struct io_request *pop(struct io_queue *q)
{
	struct virtqueue_chain chain = { .iov = q->iov, .max = IO_IOVS };
	int r = q->vq.broken ? 0 : virtqueue_pop(&q->vq, &chain);

	if (r == 0)
		return NULL;
	if (r < 0) {
		break_queue(q, q->vq.broken, virtqueue_error_text(q->vq.broken));
		return NULL;
	}
	if (q->requests[chain.head].busy) {
		break_queue_at(q, VIRTQUEUE_EHEAD,
			       "a descriptor that is in flight is offered again");
		return NULL;
	}
	io_inflight_take(&q->inflight, chain.head);
	if (io_request_parse(q, &chain) < 0) {
		io_inflight_untake(&q->inflight, chain.head);
		break_queue_at(q, VIRTQUEUE_ETOOLONG, "a request without header or status");
		return NULL;
	}
	return &q->requests[chain.head];
}

/*
 * Takes what there is, a ring of it at most: a driver that goes on offering what is done at once
 * must not keep the thread from giving back, and from stopping. The nanoseconds until a limit lets
 * the next one through, -1: none waits.
 */
static int64_t take_requests(struct io_queue *q)
{
	for (unsigned int n = 0; n < q->vq.size; n++) {
		struct io_request *r = q->held ? q->held : pop(q);
		uint64_t now, wait;

		if (!r)
			break;
		now = r == q->held ? now_ns() : r->start_ns;
		wait = ask_limits(q, r, now);
		if (wait) {
			io_board_add(&q->board->held, r != q->held);
			q->held = r;
			return (int64_t)wait;
		}
		if (r == q->held)
			io_board_add(&q->board->held_ns, now - r->start_ns);
		q->held = NULL;
		begin(r);
	}
	return -1;
}

/* A request that waits for a limit goes back to where it came from: the driver never knew. */
static void put_back_held(struct io_queue *q)
{
	if (!q->held)
		return;
	io_inflight_untake(&q->inflight, q->held->head);
	q->held->busy = false;
	q->held = NULL;
	q->busy--;
	q->vq.next_avail--;
}

static void sleep_a_while(struct io_queue *q, bool run, int64_t timeout)
{
	uint64_t since = now_ns();

	if (run && !q->held && !q->vq.broken && virtqueue_enable_kicks(&q->vq))
		return;
	q->engine->wait(q, timeout);
	io_poll_slept(q, since);
	virtqueue_disable_kicks(&q->vq);
}

static void serve(struct io_queue *q)
{
	for (;;) {
		int64_t timeout = -1;
		bool run;

		q->kicked = false;
		run = wanted(q);
		if (run)
			timeout = take_requests(q);
		else
			put_back_held(q);
		if (q->poll.ns)
			q->engine->flush(q);
		q->engine->reap(q);
		if (q->pushed) {
			give_back(q);
			continue;
		}
		if (!run && !q->busy)
			return;
		/* By whoever changed what was looked at above, and will not kick again. */
		if (q->kicked)
			continue;
		if (run && io_poll(q))
			continue;
		sleep_a_while(q, run, timeout);
	}
}

/* What whoever had the queue before has left: done again, and not held back by a limit again. */
static void resubmit(struct io_queue *q)
{
	struct virtqueue_chain chain = { .iov = q->iov, .max = IO_IOVS };

	for (int i = 0; i < q->nleft; i++) {
		if (virtqueue_pop_again(&q->vq, q->left[i], &chain) < 0) {
			break_queue(q, q->vq.broken, virtqueue_error_text(q->vq.broken));
			return;
		}
		if (io_request_parse(q, &chain) < 0) {
			break_queue(q, VIRTQUEUE_ETOOLONG, "a request without header or status");
			return;
		}
		begin(&q->requests[q->left[i]]);
		io_board_add(&q->board->resubmitted, 1);
	}
}

static void wait_for(struct io_queue *q, const bool *flag)
{
	pthread_mutex_lock(&q->lock);
	while (!*flag)
		pthread_cond_wait(&q->wake, &q->lock);
	pthread_mutex_unlock(&q->lock);
}

static void tell(struct io_queue *q, bool *flag)
{
	pthread_mutex_lock(&q->lock);
	*flag = true;
	pthread_cond_broadcast(&q->wake);
	pthread_mutex_unlock(&q->lock);
}

/*
 * Of other queues, too, nothing that earlier processes left may be under way: a driver whose reset
 * took too long has been told that it is over, and an old write must not come after what it writes
 * to that block by now, by whichever queue.
 */
static void run_queue(struct io_queue *q)
{
	q->engine->settle(q);
	for (unsigned int i = 0; i < q->disk->opt->nqueues; i++)
		wait_for(&q->disk->queues[i], &q->disk->queues[i].settled);
	resubmit(q);
	if (q->recovered)
		call(q);
	serve(q);
	virtqueue_enable_kicks(&q->vq); /* it is nobody's now */
}

static void *queue_thread(void *arg)
{
	struct io_queue *q = arg;

	wait_for(q, &q->begun);
	q->engine->settle(q);
	tell(q, &q->settled);
	for (;;) {
		wait_for(q, &q->running); /* it may be told to stop before it has begun */
		run_queue(q);
		/* Nothing is in flight, and the front-end will be told where to go on. */
		q->base = q->vq.next_avail;
		io_inflight_forget(&q->inflight);
		pthread_mutex_lock(&q->lock);
		q->running = false;
		pthread_mutex_unlock(&q->lock);
		loop_wake_signal(&q->disk->process->stopped);
	}
	return NULL;
}

static void *zone(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int io_queue_init(struct io_queue *q, struct io_disk *d, unsigned int index, struct error *err)
{
	unsigned int size = d->opt->queue_size;

	q->disk = d;
	q->index = index;
	q->board = io_board_queue(&d->board, index);
	q->engine = d->opt->nrings ? &io_engine_uring : &io_engine_threads;
	q->kick_fd = dup(d->process->nowhere);
	q->call_fd = dup(d->process->nowhere);
	q->err_fd = dup(d->process->nowhere);
	if (q->kick_fd < 0 || q->call_fd < 0 || q->err_fd < 0)
		return err_sys(err, errno, "disk '%s', queue %u", d->opt->id, index);
	q->requests = zone(size * sizeof(*q->requests));
	q->wide = zone((size_t)size * IO_IOVS * sizeof(*q->wide));
	q->left = zone(size * sizeof(*q->left));
	if (!q->requests || !q->wide || !q->left)
		return err_set(err, ENOMEM, "disk '%s', queue %u: no memory", d->opt->id, index);
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->wake, NULL);
	return d->opt->nrings ? io_engine_uring_attach(q, d->opt->rings[index], err) : 0;
}

int io_queue_start_thread(struct io_queue *q, struct error *err)
{
	return io_thread_create(&q->thread, queue_thread, q, err);
}

void io_queue_begin(struct io_queue *q)
{
	tell(q, &q->begun);
}

bool io_queue_running(struct io_queue *q)
{
	bool running;

	pthread_mutex_lock(&q->lock);
	running = q->running;
	pthread_mutex_unlock(&q->lock);
	return running;
}

/*
 * Where a queue goes on is what the table says, if it says anything: the front-end cannot know it
 * of a back-end that was killed.
 */
static void take_up(struct io_queue *q)
{
	uint16_t used = virtqueue_read_used_idx(&q->vq);
	int left = io_inflight_recover(&q->inflight, &q->disk->table, q->index, q->config.size,
				       used, q->left);

	q->recovered = left >= 0;
	q->nleft = left > 0 ? left : 0;
	q->vq.used_idx = q->vq.published = used;
	if (q->recovered)
		q->vq.next_avail = (uint16_t)(used + q->nleft);
	else
		io_inflight_reset(&q->inflight, used);
}

int io_queue_start(struct io_queue *q, struct error *err)
{
	struct virtqueue_config *c = &q->config;
	int r;

	if (!q->begun)
		return err_set(err, EPROTO, "queue %u: SET_OWNER comes first", q->index);
	c->event_idx = q->disk->features >> VIRTIO_RING_F_EVENT_IDX & 1;
	c->indirect = q->disk->features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	if (c->size > q->disk->opt->queue_size)
		return err_set(err, EINVAL, "queue %u: a size of %u, more than %u", q->index,
			       c->size, q->disk->opt->queue_size);
	if (q->disk->table.addr &&
	    (c->size > q->disk->table.queue_size || q->index >= q->disk->table.nqueues))
		return err_set(err, EINVAL, "queue %u of %u has no place in the inflight table",
			       q->index, c->size);
	r = virtqueue_setup(&q->vq, &q->disk->mem, c, q->base, 0, err);
	if (r < 0) {
		err_prefix(err, "queue %u", q->index);
		return r;
	}
	take_up(q);
	q->board->broken = 0;
	pthread_mutex_lock(&q->lock);
	q->run = q->running = true;
	pthread_cond_signal(&q->wake);
	pthread_mutex_unlock(&q->lock);
	return 0;
}

void io_queue_stop(struct io_queue *q)
{
	pthread_mutex_lock(&q->lock);
	__atomic_store_n(&q->run, false, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&q->lock);
	io_queue_poke(q);
}
