/* SPDX-License-Identifier: MIT */
/*
 * Requests carried out by a pool of threads, which wait for them: for hosts that forbid io_uring.
 * The queue's thread gives them to the pool, the pool puts them on the queue's list of what is done
 * and writes to the kick eventfd, for which a sleeping queue waits anyway.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

#define POOL_THREADS 8

struct io_pool {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct io_request *first;
	struct io_request **last;
};

static struct io_request *next_request(struct io_pool *p)
{
	struct io_request *r;

	pthread_mutex_lock(&p->lock);
	while (!p->first)
		pthread_cond_wait(&p->work, &p->lock);
	r = p->first;
	p->first = r->next;
	if (!p->first)
		p->last = &p->first;
	pthread_mutex_unlock(&p->lock);
	return r;
}

static void put_done(struct io_request *r)
{
	struct io_queue *q = r->queue;
	bool wake;

	pthread_mutex_lock(&q->lock);
	r->next = q->done;
	__atomic_store_n(&q->done, r, __ATOMIC_RELAXED);
	wake = q->sleeping;
	q->sleeping = false;
	pthread_mutex_unlock(&q->lock);
	if (wake)
		io_queue_poke(q);
}

static void *pool_thread(void *arg)
{
	struct io_pool *p = arg;

	for (;;) {
		struct io_request *r = next_request(p);

		r->result = io_request_do(r);
		put_done(r);
	}
	return NULL;
}

int io_pool_create(struct io_disk *d, struct error *err)
{
	struct io_pool *p = calloc(1, sizeof(*p));
	int r = p ? 0 : err_set(err, ENOMEM, "no memory");

	if (r < 0)
		return r;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	p->last = &p->first;
	d->pool = p;
	for (int i = 0; i < POOL_THREADS && r == 0; i++) {
		pthread_t thread;

		r = io_thread_create(&thread, pool_thread, p, err);
	}
	return r;
}

static void submit(struct io_request *r)
{
	struct io_pool *p = r->queue->disk->pool;

	r->next = NULL;
	pthread_mutex_lock(&p->lock);
	*p->last = r;
	p->last = &r->next;
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

/* It goes off by itself. */
static void flush(struct io_queue *q)
{
	(void)q;
}

static bool ready(struct io_queue *q)
{
	return __atomic_load_n(&q->done, __ATOMIC_RELAXED);
}

static void reap(struct io_queue *q)
{
	struct io_request *list, *next;

	pthread_mutex_lock(&q->lock);
	list = q->done;
	q->done = NULL;
	q->sleeping = false;
	pthread_mutex_unlock(&q->lock);
	for (; list; list = next) {
		next = list->next;
		io_request_result(list, list->result);
	}
}

/* #syscalls io: ppoll poll read */
static void wait_for_kick(struct io_queue *q, int64_t timeout_ns)
{
	const struct timespec ts = ns_to_timespec((uint64_t)timeout_ns);
	struct pollfd pfd = { .fd = q->kick_fd, .events = POLLIN };
	uint64_t count;

	if (ppoll(&pfd, 1, timeout_ns < 0 ? NULL : &ts, NULL) > 0 &&
	    read(q->kick_fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		io_queue_kicked(q);
}

static void wait_some(struct io_queue *q, int64_t timeout_ns)
{
	bool done;

	pthread_mutex_lock(&q->lock);
	done = q->done;
	q->sleeping = !done;
	pthread_mutex_unlock(&q->lock);
	if (!done)
		wait_for_kick(q, timeout_ns);
}

/* A process with threads in the middle of calls has ended only when these have. */
static void settle(struct io_queue *q)
{
	(void)q;
}

const struct io_engine io_engine_threads = {
	.submit = submit,
	.flush = flush,
	.reap = reap,
	.ready = ready,
	.wait = wait_some,
	.settle = settle,
};
