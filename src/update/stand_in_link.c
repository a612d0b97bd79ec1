/* SPDX-License-Identifier: MIT */
/* The stand-in as its successor sees it: what is said in the page between them; see stand_in.c. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "stand_in_impl.h"

#define STOPPING_NS 200000 /* until the stand-in begins, where it has a CPU */

static void wake_stand_in(const struct stand_in_link *link)
{
	if (!wake(link->wake_fd))
		log_warn("the stand-in cannot be woken: %s", error_text(errno));
}

int stand_in_link_open(struct stand_in_link *link, struct fdtable *fds, struct error *err)
{
	int fd = fdtable_take(fds, "guard-page", 0, FD_KIND_MEMFD, err);
	void *page;

	*link = (struct stand_in_link){ .wake_fd = -1, .child = CHILD_NONE };
	link->child.pid = (pid_t)fds->guardian;
	child_hold(&link->child);
	if (fd < 0)
		return fd;
	link->wake_fd = fdtable_take(fds, "guard-wake", 0, 0, err);
	if (link->wake_fd < 0) {
		close(fd);
		return link->wake_fd;
	}
	page = mmap(NULL, sizeof(*link->page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (page == MAP_FAILED)
		return err_sys(err, errno, "mapping the stand-in's page");
	link->page = page;
	return 0;
}

bool stand_in_link_runs_guest(const struct stand_in_link *link)
{
	return link->page && atomic_load(&link->page->owner) == OWNER_STAND_IN;
}

bool stand_in_link_hurry(const struct stand_in_link *link)
{
	return atomic_load(&link->page->hurry) || !stand_in_link_runs_guest(link);
}

static uint64_t deadline_in_ns(const struct stand_in_link *link)
{
	return link->page->deadline_ms * 1000000ull;
}

static uint64_t end_ns(const struct stand_in_link *link)
{
	return atomic_load(&link->page->armed) + deadline_in_ns(link);
}

uint64_t stand_in_link_left_ns(const struct stand_in_link *link)
{
	uint64_t end = end_ns(link);
	uint64_t now = now_ns();

	return end > now ? end - now : 0;
}

static int lost(const struct stand_in_link *link, struct error *err)
{
	if (atomic_load(&link->page->owner) == OWNER_TAKEN_BACK)
		return err_set(err, ECANCELED, "too late: the stand-in has taken the guest back");
	return err_set(err, ECANCELED, "the stand-in has ended, or says nothing");
}

/*
 * Where it is no child of ours (a wrapper started us) only the page tells, and the time, for by its
 * deadline it would have taken the guest back.
 */
static bool has_ended(struct stand_in_link *link)
{
	return link->child.fd >= 0 && fd_ready(link->child.fd, POLLIN);
}

/* For its next turn, or until it is seen that none will come. */
static void wait_while(struct stand_in_link *link, uint32_t turn, uint64_t until)
{
	struct stand_in_page *page = link->page;

	while (atomic_load(&page->turn) == turn && atomic_load(&page->owner) != OWNER_TAKEN_BACK &&
	       !has_ended(link) && now_ns() < until)
		wait_on(&page->turn, turn);
}

/* One of an older version does not say so. */
static void wait_until_it_stops(const struct stand_in_page *page)
{
	const uint64_t give_up = now_ns() + STOPPING_NS;

	while (!atomic_load(&page->stopping) && atomic_load(&page->turn) == TURN_READY &&
	       now_ns() < give_up)
		sched_yield();
}

int stand_in_link_switch(struct stand_in_link *link, void (*stops)(void *opaque), void *opaque,
			 struct error *err)
{
	struct stand_in_page *page = link->page;
	/* One of an older version does not say when the deadline has begun anew. */
	const uint64_t give_up = now_ns() + deadline_in_ns(link);
	uint32_t turn;

	atomic_store(&page->turn, TURN_READY);
	wake_stand_in(link);
	wait_until_it_stops(page);
	stops(opaque);
	wait_while(link, TURN_READY, give_up);
	turn = atomic_load(&page->turn); /* it may have saved, said so, and ended just now */
	if (turn == TURN_SAVED)
		return 0;
	if (turn == TURN_DECLINED)
		return err_set(err, EIO, "the stand-in cannot hand the guest over: %.*s",
			       STAND_IN_REASON_MAX, page->reason);
	return lost(link, err);
}

void stand_in_link_refuse(struct stand_in_link *link)
{
	struct stand_in_page *page = link->page;
	/* By now the deadline is the switch's, and the one before may be over. */
	const uint64_t give_up = now_ns() + deadline_in_ns(link);

	atomic_store(&page->turn, TURN_REFUSED);
	wake_stand_in(link);
	wait_while(link, TURN_REFUSED, give_up);
}

int stand_in_link_commit(struct stand_in_link *link, struct error *err)
{
	return link->page && !decide(link->page, OWNER_UNDECIDED, OWNER_SUCCESSOR)
		       ? lost(link, err)
		       : 0;
}

pid_t stand_in_link_left_process(const struct stand_in_link *link)
{
	pid_t predecessor = link->page ? atomic_load(&link->page->predecessor) : 0;

	return predecessor == getpid() ? 0 : predecessor;
}

bool stand_in_link_have_told(struct stand_in_link *link)
{
	if (!link->page || !atomic_load(&link->page->is_main))
		return false;
	atomic_store(&link->page->to_tell, getpid());
	return true;
}

void stand_in_link_release(struct stand_in_link *link, const cpu_set_t *spare)
{
	if (!link->page)
		return;
	if (spare) {
		link->page->spare = *spare;
		atomic_store(&link->page->has_spare, true);
	}
	wake_stand_in(link);
	munmap(link->page, sizeof(*link->page));
	link->page = NULL;
	fd_close(&link->wake_fd);
}

void stand_in_link_give_up(struct stand_in_link *link, const char *reason)
{
	const char *first;
	size_t len;

	if (!link->page)
		return;
	/* A way back that fails, too, has more to say, but the first reason is what it is about. */
	first = link->page->reason;
	len = strnlen(first, STAND_IN_REASON_MAX);
	if (strcmp(first, reason) != 0)
		snprintf(link->page->reason + len, STAND_IN_REASON_MAX - len, "%s%s",
			 len ? "; on the way back: " : "", reason);
}
