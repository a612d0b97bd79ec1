/* SPDX-License-Identifier: MIT */
/*
 * The stand-ins of earlier updates, until they have taken their memory apart and ended; and what a
 * service manager is told, which may take one of them for the guest's process.
 */
#include <errno.h>
#include <sys/epoll.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

static void on_end(void *opaque, uint32_t events);

static bool reap(struct old_stand_in *g)
{
	loop_del(&g->ended);
	return child_wait(&g->child, 0);
}

/* Where it cannot be watched the next update looks for it. */
static void watch(struct loop *loop, struct old_stand_in *g)
{
	if (child_hold(&g->child) && !g->ended.loop &&
	    loop_add(loop, &g->ended, g->child.fd, EPOLLIN, on_end, g) < 0)
		fd_close(&g->child.fd);
}

static void on_end(void *opaque, uint32_t events)
{
	struct old_stand_in *g = opaque;
	struct loop *loop = g->ended.loop;

	(void)events;
	if (!reap(g))
		watch(loop, g);
}

void update_keep_stand_in(struct update *u, struct child *child)
{
	for (size_t i = 0; i < UPDATE_STAND_INS_MAX && child->pid > 0; i++) {
		struct old_stand_in *g = &u->old_stand_ins[i];

		if (g->child.pid)
			continue;
		g->child = *child;
		*child = CHILD_NONE;
		watch(u->machine->loop, g);
	}
	/* Only a stream that no molt wrote brings more. */
	fd_close(&child->fd);
}

int update_tell_main_pid(const struct update *u, pid_t pid, unsigned int wait_ms)
{
	int r = u->ops.main_pid(u->ops.opaque, pid, wait_ms);

	if (r < 0)
		log_warn("the service manager was not told of process %d: %s", (int)pid,
			 error_text(-r));
	return r;
}

bool update_has_stand_in(struct update *u, pid_t pid)
{
	for (size_t i = 0; i < UPDATE_STAND_INS_MAX; i++)
		if (u->old_stand_ins[i].child.pid == pid)
			return !reap(&u->old_stand_ins[i]);
	return false;
}

int update_reap_stand_ins(struct update *u, struct update_wire *wire, struct error *err)
{
	uint32_t n = 0;

	for (size_t i = 0; i < UPDATE_STAND_INS_MAX; i++) {
		struct old_stand_in *g = &u->old_stand_ins[i];

		if (!g->child.pid || reap(g))
			continue;
		wire->guardians[n++] = (uint32_t)g->child.pid;
	}
	wire->nguardians = n;
	if (n < UPDATE_STAND_INS_MAX)
		return 0;
	return err_set(err, EBUSY,
		       "the helper processes of the last %u updates have not ended yet, "
		       "process %u for one; try again later",
		       n, wire->guardians[0]);
}

void update_watch_stand_ins(struct update *u)
{
	for (size_t i = 0; i < UPDATE_STAND_INS_MAX; i++)
		if (u->old_stand_ins[i].child.pid)
			watch(u->machine->loop, &u->old_stand_ins[i]);
}

void update_forget_stand_ins(struct update *u)
{
	for (size_t i = 0; i < UPDATE_STAND_INS_MAX; i++) {
		loop_del(&u->old_stand_ins[i].ended);
		fd_close(&u->old_stand_ins[i].child.fd);
		u->old_stand_ins[i].child = CHILD_NONE;
	}
}
