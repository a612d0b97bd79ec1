/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/thread.h>
#include <molt/base/writer.h>

#define STACK_BYTES (256u << 10)
#define AGAIN_MS 20 /* somebody made the descriptor non-blocking: asked so often for room */

static struct timespec after(unsigned int ms)
{
	return ns_to_timespec(now_ns() + ms * 1000000ull);
}

/* Under the lock: waits for a condition, at most until then. False when the time is over. */
static bool wait_until(struct writer *w, pthread_cond_t *cond, const struct timespec *then)
{
	return pthread_cond_clockwait(cond, &w->lock, CLOCK_MONOTONIC, then) == 0;
}

static void wait_while_frozen(struct writer *w)
{
	while (atomic_load(&w->frozen))
		syscall(SYS_futex, &w->frozen, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
}

static void thaw(struct writer *w)
{
	if (atomic_exchange(&w->frozen, 0))
		syscall(SYS_futex, &w->frozen, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/*
 * Writes a piece; false if there is none, or there is no room for it (*stalled). *again_ms: when to
 * look again in any case, 0 for never. may_wait: in write(2), for room.
 */
static bool write_piece(struct writer *w, bool may_wait, unsigned int *again_ms, bool *stalled)
{
	const void *piece;
	int fd;
	size_t len = w->ops->next(w->opaque, &piece, &fd, again_ms);
	ssize_t n;

	if (!len || (!may_wait && !fd_ready(fd, POLLOUT)))
		return false;
	do
		n = write(fd, piece, len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		n = -errno;
	if (may_wait)
		wait_while_frozen(w);
	if (n == -EAGAIN) {
		*again_ms = AGAIN_MS;
		*stalled = true;
		return false;
	}
	w->ops->written(w->opaque, n);
	return true;
}

static void *writer_main(void *opaque)
{
	struct writer *w = opaque;
	unsigned int again_ms = 0;

	prctl(PR_SET_NAME, w->ops->thread_name, 0, 0, 0);
	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		bool more, stalled = false;

		if (!w->kicked || w->hold) {
			struct timespec then = after(again_ms);

			if (!again_ms || w->hold)
				pthread_cond_wait(&w->work, &w->lock);
			else if (!wait_until(w, &w->work, &then))
				w->kicked = true;
			continue;
		}
		w->kicked = false;
		w->busy = true;
		again_ms = 0;
		pthread_mutex_unlock(&w->lock);
		more = write_piece(w, true, &again_ms, &stalled);
		pthread_mutex_lock(&w->lock);
		w->busy = false;
		w->stalled = stalled;
		w->kicked = w->kicked || more;
		pthread_cond_broadcast(&w->rest);
	}
	w->ended = true;
	pthread_cond_broadcast(&w->rest);
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

void writer_init(struct writer *w, const struct writer_ops *ops, void *opaque)
{
	*w = (struct writer)WRITER_INIT(ops, opaque);
}

/* Whether there is none yet; then all is as one expects it. Others may kick it already. */
static bool may_start(struct writer *w)
{
	bool runs;

	pthread_mutex_lock(&w->lock);
	runs = w->started && !w->ended;
	pthread_mutex_unlock(&w->lock);
	thaw(w);
	if (runs)
		return false;
	writer_stop(w, 0);
	pthread_mutex_lock(&w->lock);
	w->stop = w->ended = w->busy = w->stalled = false;
	w->kicked = true;
	pthread_mutex_unlock(&w->lock);
	return true;
}

int writer_start(struct writer *w, struct error *err)
{
	int r = may_start(w) ? thread_create(&w->thread, STACK_BYTES, writer_main, w) : 0;

	if (r)
		return err_sys(err, r, "thread '%s'", w->ops->thread_name);
	pthread_mutex_lock(&w->lock);
	w->started = true;
	pthread_mutex_unlock(&w->lock);
	return 0;
}

void writer_kick(struct writer *w)
{
	pthread_mutex_lock(&w->lock);
	w->kicked = true;
	pthread_cond_signal(&w->work);
	pthread_mutex_unlock(&w->lock);
}

bool writer_wait(struct writer *w, unsigned int ms)
{
	struct timespec then = after(ms);
	bool in_time = true, done;

	pthread_mutex_lock(&w->lock);
	while (w->started && (w->kicked || w->busy || w->stalled) && in_time)
		in_time = wait_until(w, &w->rest, &then);
	done = w->started && !w->kicked && !w->busy && !w->stalled;
	pthread_mutex_unlock(&w->lock);
	return done;
}

bool writer_hold(struct writer *w, unsigned int ms)
{
	struct timespec then = after(ms);
	bool in_time = true, done;

	pthread_mutex_lock(&w->lock);
	w->hold = true;
	while (w->started && w->busy && in_time)
		in_time = wait_until(w, &w->rest, &then);
	done = !w->started || !w->busy;
	pthread_mutex_unlock(&w->lock);
	return done;
}

void writer_release(struct writer *w)
{
	pthread_mutex_lock(&w->lock);
	w->hold = false;
	pthread_cond_signal(&w->work);
	pthread_mutex_unlock(&w->lock);
}

void writer_finish(struct writer *w)
{
	unsigned int again_ms;
	bool stalled;

	if (writer_hold(w, 0))
		while (write_piece(w, false, &again_ms, &stalled))
			;
	writer_release(w);
}

/* insist: it ends in any case, if not in time then when its write comes back. */
static bool have_it_end(struct writer *w, unsigned int ms, bool insist)
{
	struct timespec then = after(ms);
	bool in_time = true, ended;

	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->work);
	while (!w->ended && in_time)
		in_time = wait_until(w, &w->rest, &then);
	ended = w->ended;
	w->stop = ended || insist;
	pthread_mutex_unlock(&w->lock);
	if (!ended)
		return false;
	if (!w->detached)
		pthread_join(w->thread, NULL);
	w->started = w->detached = false;
	return true;
}

static bool has_thread(struct writer *w)
{
	bool started;

	pthread_mutex_lock(&w->lock);
	started = w->started;
	pthread_mutex_unlock(&w->lock);
	return started;
}

bool writer_rest(struct writer *w, unsigned int ms)
{
	return !has_thread(w) || have_it_end(w, ms, false);
}

bool writer_stop(struct writer *w, unsigned int ms)
{
	if (!has_thread(w) || have_it_end(w, ms, true))
		return true;
	/* Nobody will wait for one that hangs. */
	if (!w->detached)
		w->detached = pthread_detach(w->thread) == 0;
	return false;
}

void writer_freeze(struct writer *w)
{
	atomic_store(&w->frozen, 1);
}

void writer_revive(struct writer *w)
{
	const struct writer fresh = WRITER_INIT(w->ops, w->opaque);

	/*
	 * The kernel clears a dying thread's id, so this frees its stack; if not, that is all we
	 * lose.
	 */
	if (w->started && !w->detached)
		pthread_tryjoin_np(w->thread, NULL);
	*w = fresh;
}
