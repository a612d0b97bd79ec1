/* SPDX-License-Identifier: MIT */
/*
 * The event loop: epoll with callbacks, run by the main thread alone. Sources are embedded in their
 * owners; all functions but loop_wake_signal() are for the main thread only.
 */
#ifndef MOLT_BASE_LOOP_H
#define MOLT_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>

struct loop;

/* events: the EPOLL* bits that are ready. */
typedef void loop_fn(void *opaque, uint32_t events);

struct loop_source {
	struct loop *loop; /* NULL while not registered */
	int fd;            /* the owner's, never closed by the loop */
	uint32_t events;
	int set; /* the epoll set that it is in */
	loop_fn *fn;
	void *opaque;
};

/*
 * Sources that are served or wait together: either takes one call, however many they are. fd is -1
 * before it is opened and after it is closed.
 */
struct loop_group {
	struct loop_source source; /* of all */
	int fd;
};

/* A flag that any thread can raise, and a callback that the main thread runs for it. */
struct loop_wake {
	struct loop_source source;
	void (*fn)(void *opaque);
	void *opaque;
};

/* A callback at a time; embedded in its owner, all zero before it is first set. */
struct loop_timer {
	struct loop *loop; /* NULL while it is not set */
	struct loop_timer *next;
	uint64_t at_ns;
	void (*fn)(void *opaque);
	void *opaque;
};

int loop_create(struct loop **loop, struct error *err);
void loop_destroy(struct loop *loop);

/*
 * Registers a descriptor for the EPOLL* bits of events (0 waits for errors and hang-ups only). A
 * regular file cannot be polled: -EPERM. The source must stay where it is until loop_del().
 */
int loop_add(struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fn *fn,
	     void *opaque);

/* The same for what a guest cannot do without: it is served while the loop is held, too. */
int loop_add_going_on(struct loop *loop, struct loop_source *src, int fd, uint32_t events,
		      loop_fn *fn, void *opaque);

/*
 * The same for a signalfd, of which there is one. Whether it is ready depends on the process that
 * asks, and epoll forgets what is not ready for who asked last: another process that waits for the
 * same loop. So loop_release() asks anew.
 */
int loop_add_signals(struct loop *loop, struct loop_source *src, int fd, loop_fn *fn, void *opaque);

/*
 * A group, which begins waiting. 0 or -errno with the sentence. Nothing is to be in it any more
 * when it is closed; harmless on one that is not open.
 */
int loop_group_open(struct loop *loop, struct loop_group *group, struct error *err);
void loop_group_close(struct loop_group *group);

/* As loop_add(), to an open group. */
int loop_group_add(struct loop_group *group, struct loop_source *src, int fd, uint32_t events,
		   loop_fn *fn, void *opaque);

/*
 * Lets the group's sources be served, while the loop is held, too, or has them wait; harmless on
 * what is so already, or is not open. 0 or -errno.
 */
int loop_group_serve(struct loop_group *group, bool on);

/*
 * From here to loop_release() timers, wake-ups and all sources but those that go on wait. waits()
 * is called once, from the loop, when one of these sources is ready. Neither call can fail.
 */
void loop_hold(struct loop *loop, void (*waits)(void *opaque), void *opaque);
void loop_release(struct loop *loop);

/* Readable while loop_turn() has something to do, but for timers; the loop's. */
int loop_fd(const struct loop *loop);

/* Changes what a registered source waits for; cheap when nothing changes. */
int loop_mod(struct loop_source *src, uint32_t events);

/* Unregisters; harmless on a source that is not registered. A callback may delete any source. */
void loop_del(struct loop_source *src);

/*
 * Runs fn once when now_ns() has reached at_ns; set anew, it is for the new time alone. Cannot
 * fail.
 */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns,
		    void (*fn)(void *opaque), void *opaque);

/* Harmless on a timer that is not set. */
void loop_timer_cancel(struct loop_timer *timer);

/* Runs callbacks until loop_stop(); returns the value given to it, or -errno if epoll fails. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int value);

/* One turn: waits up to timeout_ms (-1: for ever), runs what is ready. 0 or -errno. */
int loop_turn(struct loop *loop, int timeout_ms);

int loop_wake_init(struct loop *loop, struct loop_wake *wake, void (*fn)(void *opaque),
		   void *opaque, struct error *err);
/* The same for one that goes on while the loop is held. */
int loop_wake_init_going_on(struct loop *loop, struct loop_wake *wake, void (*fn)(void *opaque),
			    void *opaque, struct error *err);
void loop_wake_fini(struct loop_wake *wake);

/* From any thread, also while fn runs (it then runs once more). Never blocks. */
void loop_wake_signal(struct loop_wake *wake);

#endif
