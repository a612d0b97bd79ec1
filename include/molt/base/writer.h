/* SPDX-License-Identifier: MIT */
/*
 * A thread of its own for an output that can block in write(2) whatever one does: standard error,
 * which is shared and so must not be made non-blocking, and regular files, whose file system may
 * hang. The owner keeps a bounded queue; the thread takes pieces from it and writes them. It opens
 * nothing, and is made by main after main has confined itself, so it may do no more than main.
 */
#ifndef MOLT_BASE_WRITER_H
#define MOLT_BASE_WRITER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <molt/base/error.h>

/* The owner's side. Called on the writer's thread, with no lock of the writer's held. */
struct writer_ops {
	const char *thread_name; /* at most 15 characters */
	/*
	 * What to write next and where; 0: nothing now. The piece stays as it is until written().
	 * With *again_ms set next() is called once more after so long, even if nobody calls
	 * writer_kick().
	 */
	size_t (*next)(void *opaque, const void **piece, int *fd, unsigned int *again_ms);
	/* How much of it was taken, or -errno. -EAGAIN is not told: the writer tries again. */
	void (*written)(void *opaque, ssize_t result);
};

struct writer {
	const struct writer_ops *ops;
	void *opaque;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t work;  /* for the thread */
	pthread_cond_t rest;  /* it has nothing to do, holds, or has ended */
	pthread_t thread;
	bool started;
	bool detached;
	bool kicked;
	bool busy;    /* between next() and written() */
	bool stalled; /* the last piece found no room */
	bool hold;
	bool stop;
	bool ended;
	_Atomic uint32_t frozen; /* a futex, without the lock */
};

#define WRITER_INIT(ops_, opaque_) \
	{ \
		.ops = (ops_), .opaque = (opaque_), .lock = PTHREAD_MUTEX_INITIALIZER, \
		.work = PTHREAD_COND_INITIALIZER, .rest = PTHREAD_COND_INITIALIZER, \
	}

/* No thread yet. The owner keeps opaque for as long as there is one. */
void writer_init(struct writer *w, const struct writer_ops *ops, void *opaque);

/* Main only. 0, also where it runs already, or -errno with the sentence. */
int writer_start(struct writer *w, struct error *err);

/* From any thread, never blocks: there is something to write. */
void writer_kick(struct writer *w);

/* Waits at most ms milliseconds until all is written; false if it is not. */
bool writer_wait(struct writer *w, unsigned int ms);

/*
 * From here on nothing is written until writer_release(). False where a write that is under way did
 * not come back within ms milliseconds.
 */
bool writer_hold(struct writer *w, unsigned int ms);
void writer_release(struct writer *w);

/*
 * At the end of it all: what is left is written by the caller, as far as there is room for it at
 * once and the thread is not writing. On a busy host it may not have got a CPU yet.
 */
void writer_finish(struct writer *w);

/*
 * Ends the thread, whatever is still queued. False where a write did not come back within ms
 * milliseconds: then the thread is left to the end of the process, and the owner and its queue must
 * stay, too.
 */
bool writer_stop(struct writer *w, unsigned int ms);

/*
 * Ends the thread for now, as writer_stop(); but where it does not in time it goes on as before.
 * After true what is queued waits for the next writer_start().
 */
bool writer_rest(struct writer *w, unsigned int ms);

/*
 * Before an exec ends a thread that does not rest: when its write comes back it goes no further,
 * until writer_start(). Else it could be ended with a lock held, which the stand-in needs.
 */
void writer_freeze(struct writer *w);

/* In the stand-in, which has the memory but not the threads: whoever held the lock is dead. */
void writer_revive(struct writer *w);

#endif
