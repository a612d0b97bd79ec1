/* SPDX-License-Identifier: MIT */
/*
 * One event is fetched at a time: a callback may then delete any source, itself included, and no
 * stale event for it can be left in a batch.
 *
 * There are two epoll sets, one in the other. In the outer one are the sources that go on while the
 * loop is held, in the inner one all others: so to hold the loop and to let it go is one call,
 * which needs no memory, whatever is registered. While it is held the inner set is watched for one
 * event only, which tells that somebody waits. A group is one more of the kind, in the outer one
 * while its sources are served.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/loop.h>

#define UNKNOWN UINT32_MAX /* no events that anybody waits for */

struct loop {
	int epfd; /* with those that go on, and late */
	int late; /* with all others */
	bool held;
	void (*waits)(void *opaque);
	void *opaque;
	struct loop_source *signals; /* NULL: not registered */
	struct loop_timer *timers;   /* in no order: there are few */
	bool stop;
	int value;
};

/* Its events have no source. */
static int watch_late(struct loop *loop, int op, uint32_t events)
{
	struct epoll_event ev = { .events = events };

	return epoll_ctl(loop->epfd, op, loop->late, &ev);
}

int loop_create(struct loop **loop, struct error *err)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return err_set(err, ENOMEM, "no memory for the event loop");
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->late = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0 || l->late < 0 || watch_late(l, EPOLL_CTL_ADD, EPOLLIN) < 0) {
		err_sys(err, errno, "epoll");
		loop_destroy(l);
		return -err->code;
	}
	*loop = l;
	return 0;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	fd_close(&loop->late);
	fd_close(&loop->epfd);
	free(loop);
}

/*
 * Main may die behind any of these calls, and the stand-in lives on in its memory, while epoll sets
 * are the kernel's, and shared. So a source says that it is registered, or what it waits for, only
 * while that is so: what it does not say is done again, and found there.
 */
static int add(struct loop *loop, struct loop_source *src, struct loop_source is)
{
	struct epoll_event ev = { .events = is.events, .data.ptr = src };

	*src = is;
	if (epoll_ctl(src->set, EPOLL_CTL_ADD, src->fd, &ev) < 0 &&
	    (errno != EEXIST || epoll_ctl(src->set, EPOLL_CTL_MOD, src->fd, &ev) < 0))
		return -errno;
	src->loop = loop;
	return 0;
}

int loop_add(struct loop *loop, struct loop_source *src, int fd, uint32_t events, loop_fn *fn,
	     void *opaque)
{
	return add(loop, src,
		   (struct loop_source){ .fd = fd,
					 .events = events,
					 .set = loop->late,
					 .fn = fn,
					 .opaque = opaque });
}

int loop_add_going_on(struct loop *loop, struct loop_source *src, int fd, uint32_t events,
		      loop_fn *fn, void *opaque)
{
	return add(loop, src,
		   (struct loop_source){ .fd = fd,
					 .events = events,
					 .set = loop->epfd,
					 .fn = fn,
					 .opaque = opaque });
}

int loop_add_signals(struct loop *loop, struct loop_source *src, int fd, loop_fn *fn, void *opaque)
{
	int r = loop_add(loop, src, fd, EPOLLIN, fn, opaque);

	if (r == 0)
		loop->signals = src;
	return r;
}

static int modify(struct loop_source *src, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = src };

	return epoll_ctl(src->set, EPOLL_CTL_MOD, src->fd, &ev) < 0 ? -errno : 0;
}

int loop_mod(struct loop_source *src, uint32_t events)
{
	uint32_t before = src->events;
	int r;

	if (!src->loop)
		return -ENOENT;
	if (before == events)
		return 0;
	src->events = UNKNOWN;
	r = modify(src, events);
	src->events = r == 0 ? events : before;
	return r;
}

static void take_out(const struct loop_source *src)
{
	epoll_ctl(src->set, EPOLL_CTL_DEL, src->fd, NULL);
}

void loop_del(struct loop_source *src)
{
	struct loop *loop = src->loop;

	if (!loop)
		return;
	if (loop->signals == src)
		loop->signals = NULL;
	src->loop = NULL;
	take_out(src);
}

int loop_fd(const struct loop *loop)
{
	return loop->epfd;
}

void loop_hold(struct loop *loop, void (*waits)(void *opaque), void *opaque)
{
	loop->held = true;
	loop->waits = waits;
	loop->opaque = opaque;
	watch_late(loop, EPOLL_CTL_MOD, EPOLLIN | EPOLLONESHOT);
}

void loop_release(struct loop *loop)
{
	loop->held = false;
	watch_late(loop, EPOLL_CTL_MOD, EPOLLIN);
	if (loop->signals)
		modify(loop->signals, loop->signals->events);
}

void loop_timer_cancel(struct loop_timer *timer)
{
	if (!timer->loop)
		return;
	for (struct loop_timer **at = &timer->loop->timers; *at; at = &(*at)->next)
		if (*at == timer) {
			*at = timer->next;
			break;
		}
	timer->loop = NULL;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns,
		    void (*fn)(void *opaque), void *opaque)
{
	loop_timer_cancel(timer);
	*timer = (struct loop_timer){ .loop = loop,
				      .next = loop->timers,
				      .at_ns = at_ns,
				      .fn = fn,
				      .opaque = opaque };
	loop->timers = timer;
}

/* The next one that is due; NULL: none. *timeout_ms: not longer than until one is. */
static struct loop_timer *due(struct loop *loop, int *timeout_ms)
{
	uint64_t now = loop->timers ? now_ns() : 0;

	for (struct loop_timer *t = loop->timers; t; t = t->next) {
		uint64_t ms = t->at_ns > now ? (t->at_ns - now + 999999) / 1000000 : 0;

		if (!ms)
			return t;
		if (*timeout_ms < 0 || ms < (uint64_t)*timeout_ms)
			*timeout_ms = ms < INT_MAX ? (int)ms : INT_MAX;
	}
	return NULL;
}

/* One in a turn: its callback may set or cancel any. */
static bool run_timer(struct loop *loop, int *timeout_ms)
{
	struct loop_timer *timer = loop->held ? NULL : due(loop, timeout_ms);

	if (!timer)
		return false;
	loop_timer_cancel(timer);
	timer->fn(timer->opaque);
	return true;
}

/* One event of a set: 1 if its callback has run, 0 if there is none in time. */
static int serve(struct loop *loop, int set, int timeout_ms)
{
	struct epoll_event ev;
	int n = epoll_wait(set, &ev, 1, timeout_ms);
	struct loop_source *src = ev.data.ptr;

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (n == 0)
		return 0;
	if (src && src->loop)
		src->fn(src->opaque, ev.events);
	else if (src) /* main died in loop_del(), and nobody has added it since */
		take_out(src);
	else if (!loop->held)
		return serve(loop, loop->late, 0);
	else
		loop->waits(loop->opaque);
	return 1;
}

static void group_ready(void *opaque, uint32_t events)
{
	struct loop_group *group = opaque;

	(void)events;
	serve(group->source.loop, group->fd, 0);
}

int loop_group_open(struct loop *loop, struct loop_group *group, struct error *err)
{
	int r;

	group->fd = epoll_create1(EPOLL_CLOEXEC);
	if (group->fd < 0)
		return err_sys(err, errno, "epoll");
	r = loop_add_going_on(loop, &group->source, group->fd, 0, group_ready, group);
	if (r < 0)
		fd_close(&group->fd);
	return r < 0 ? err_sys(err, -r, "epoll in epoll") : 0;
}

void loop_group_close(struct loop_group *group)
{
	loop_del(&group->source);
	fd_close(&group->fd);
}

int loop_group_add(struct loop_group *group, struct loop_source *src, int fd, uint32_t events,
		   loop_fn *fn, void *opaque)
{
	return add(group->source.loop, src,
		   (struct loop_source){ .fd = fd,
					 .events = events,
					 .set = group->fd,
					 .fn = fn,
					 .opaque = opaque });
}

/*
 * Not loop_add() and loop_del(): to add a set to another one the kernel looks at each of its
 * sources.
 */
int loop_group_serve(struct loop_group *group, bool on)
{
	return group->fd < 0 ? 0 : loop_mod(&group->source, on ? EPOLLIN : 0);
}

int loop_turn(struct loop *loop, int timeout_ms)
{
	int r;

	/* A callback may have stopped the loop: then nobody waits. */
	if (run_timer(loop, &timeout_ms))
		timeout_ms = 0;
	r = serve(loop, loop->epfd, timeout_ms);
	return r < 0 ? r : 0;
}

int loop_run(struct loop *loop)
{
	while (!loop->stop) {
		int r = loop_turn(loop, -1);

		if (r < 0)
			return r;
	}
	loop->stop = false;
	return loop->value;
}

void loop_stop(struct loop *loop, int value)
{
	loop->stop = true;
	loop->value = value;
}

static void wake_ready(void *opaque, uint32_t events)
{
	struct loop_wake *wake = opaque;
	uint64_t count;

	(void)events;
	/*
	 * Cleared before fn looks at what was asked: a signal that comes meanwhile runs fn again.
	 */
	if (read(wake->source.fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		wake->fn(wake->opaque);
}

static int init_wake(struct loop *loop, struct loop_wake *wake, bool goes_on,
		     void (*fn)(void *opaque), void *opaque, struct error *err)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r;

	if (fd < 0)
		return err_sys(err, errno, "eventfd");
	wake->fn = fn;
	wake->opaque = opaque;
	r = add(loop, &wake->source,
		(struct loop_source){ .fd = fd,
				      .events = EPOLLIN,
				      .set = goes_on ? loop->epfd : loop->late,
				      .fn = wake_ready,
				      .opaque = wake });
	if (r < 0) {
		close(fd);
		return err_sys(err, -r, "epoll_ctl on an eventfd");
	}
	return 0;
}

int loop_wake_init(struct loop *loop, struct loop_wake *wake, void (*fn)(void *opaque),
		   void *opaque, struct error *err)
{
	return init_wake(loop, wake, false, fn, opaque, err);
}

int loop_wake_init_going_on(struct loop *loop, struct loop_wake *wake, void (*fn)(void *opaque),
			    void *opaque, struct error *err)
{
	return init_wake(loop, wake, true, fn, opaque, err);
}

void loop_wake_fini(struct loop_wake *wake)
{
	if (!wake->source.loop)
		return;
	loop_del(&wake->source);
	fd_close(&wake->source.fd);
}

/* #syscalls vcpu: write */
void loop_wake_signal(struct loop_wake *wake)
{
	const uint64_t one = 1;

	/* The counter can only be full when a wake-up is pending anyway. */
	while (write(wake->source.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}
