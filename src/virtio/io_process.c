/* SPDX-License-Identifier: MIT */
/*
 * Nothing is lost when the process ends, for whatever reason: descriptors, counters and limits are
 * the VMM's as well, requests in flight are in a table that the front-end keeps. So another is
 * started at once; where they end one soon after the other, less and less often.
 *
 * A process has ended when its pidfd says so, which is after its last thread: until then the kernel
 * may still be writing for it to guest RAM or to the disk, and no other gets its queues. It ends
 * when its socket is closed; but one that hangs, or is not itself any more, does not, and is
 * killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "io_process.h"

#define LEAVE_NS 2000000000ull
#define NOT_EXECUTED_MS 1000
#define SOON_NS 5000000000ull
#define DELAY_MIN_MS 50
#define DELAY_MAX_MS 1000

enum { LEAVING, HERE }; /* whom a timer is for */

void io_process_init(struct io_process *p, struct loop *loop, const char *name)
{
	memset(p, 0, sizeof(*p));
	p->loop = loop;
	p->name = name;
	p->child = p->leaving = p->next.child = CHILD_NONE;
	p->next.conn.fd = -1;
}

static int spawn(const struct io_process *p, int socket, struct child *child, struct error *err)
{
	static char *const environment[] = { NULL };
	int fds[IO_PROCESS_FDS_MAX], code;
	size_t nfds = 0;
	_cleanup_free_ char *text = p->arguments(p->opaque, socket, fds, &nfds);
	char level[8];
	char *const argv[] = { "molt", "io", "--log-level", level, "--disk", text, NULL };
	/* This binary, whatever is at its path by now. */
	_cleanup_close_ int self = program_open_self(err);
	const struct program program = {
		.fd = self,
		.argv = argv,
		.envp = environment,
		.shared = fds,
		.nshared = nfds,
		.standard_input = -1,
		.standard_error = log_get_fd(),
	};

	if (!text)
		return err_set(err, ENOMEM, "no memory for the I/O process's arguments");
	if (self < 0)
		return self;
	snprintf(level, sizeof(level), "%s", log_level_name(log_get_level()));
	code = program_spawn(&program, child);
	if (code == 0)
		return 0;
	/* It was not executed, but goes on to its end after we have heard of that. */
	child_wait(child, NOT_EXECUTED_MS);
	return err_sys(err, code, "starting the I/O process");
}

int io_process_spawn(const struct io_process *p, struct child *child, struct error *err)
{
	int ends[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_sys(err, errno, "socket for the I/O process");
	r = spawn(p, ends[1], child, err);
	close(ends[1]);
	if (r < 0) {
		close(ends[0]);
		return r;
	}
	fd_set_nonblock(ends[0], true);
	return ends[0];
}

static void serves_from_now_on(struct io_process *p, int socket)
{
	p->ours = true;
	p->started_ns = now_ns();
	p->started(p->opaque, socket);
}

int io_process_start(struct io_process *p, struct error *err)
{
	int socket;

	if (p->child.pid)
		return 0;
	socket = io_process_spawn(p, &p->child, err);
	if (socket < 0)
		return socket;
	serves_from_now_on(p, socket);
	return 0;
}

static void try_again(void *opaque);

static void start_later(struct io_process *p)
{
	uint64_t ms = p->failures ? (uint64_t)DELAY_MIN_MS << (p->failures - 1) : 0;

	loop_timer_set(p->loop, &p->again,
		       now_ns() + (ms > DELAY_MAX_MS ? DELAY_MAX_MS : ms) * 1000000, try_again, p);
}

static void try_again(void *opaque)
{
	struct error err = ERROR_INIT;
	struct io_process *p = opaque;

	if (io_process_start(p, &err) < 0) {
		log_error("disk '%s': %s; trying again", p->name, err.text);
		p->failures += p->failures < 5;
		start_later(p);
		return;
	}
	io_process_watch(p);
}

static void has_exited(void *opaque, uint32_t events)
{
	struct io_process *p = opaque;
	pid_t pid = p->child.pid;

	(void)events;
	loop_del(&p->exited);
	loop_timer_cancel(&p->late[HERE]);
	io_process_drop_next(p); /* the one that is started now is this binary's as well */
	if (!child_wait(&p->child, 0)) {
		fd_close(&p->child.fd); /* another process's child: after a stand-in took over */
		p->child = CHILD_NONE;
	}
	p->failures = now_ns() - p->started_ns < SOON_NS ? p->failures + (p->failures < 5) : 0;
	log_warn("disk '%s': its I/O process %d has ended; another is started, and goes on with "
		 "what it has left",
		 p->name, (int)pid);
	start_later(p);
}

void io_process_watch(struct io_process *p)
{
	int r = 0;

	p->ours = true;
	if (p->child.pid && !p->exited.loop)
		r = loop_add(p->loop, &p->exited, p->child.fd, EPOLLIN, has_exited, p);
	else if (!p->child.pid && !p->again.loop)
		start_later(p);
	if (r < 0)
		log_error("disk '%s': its I/O process cannot be waited for: %s", p->name,
			  error_text(-r));
}

static void end(const struct io_process *p, const struct child *child)
{
	log_warn("disk '%s': its I/O process %d has not ended without its connection, and is killed",
		 p->name, (int)child->pid);
	child_kill(child, false);
}

static void end_leaving(void *opaque)
{
	const struct io_process *p = opaque;

	end(p, &p->leaving);
}

static void end_lost(void *opaque)
{
	const struct io_process *p = opaque;

	end(p, &p->child);
}

void io_process_lost(struct io_process *p)
{
	if (p->child.pid)
		loop_timer_set(p->loop, &p->late[HERE], now_ns() + LEAVE_NS, end_lost, p);
}

/* Does not wait: that may be in an update's pause. */
static void see_off(struct io_process *p)
{
	loop_del(&p->left);
	loop_timer_cancel(&p->late[LEAVING]);
	if (p->leaving.pid && !child_wait(&p->leaving, 0)) {
		child_kill(&p->leaving, false);
		fd_close(&p->leaving.fd);
	}
	p->leaving = CHILD_NONE;
}

static void has_left(void *opaque, uint32_t events)
{
	(void)events;
	see_off(opaque);
}

bool io_process_leaves(const struct io_process *p)
{
	return p->leaving.pid && now_ns() < p->leave_by_ns;
}

void io_process_unwatch(struct io_process *p)
{
	loop_del(&p->exited);
	loop_timer_cancel(&p->again);
	loop_timer_cancel(&p->late[HERE]);
	io_process_drop_next(p);
	see_off(p);
}

void io_process_let_go(struct io_process *p, struct child child)
{
	int r;

	see_off(p);
	p->leaving = child;
	p->leave_by_ns = now_ns() + LEAVE_NS;
	if (!child.pid)
		return;
	r = loop_add(p->loop, &p->left, child.fd, EPOLLIN, has_left, p);
	loop_timer_set(p->loop, &p->late[LEAVING], p->leave_by_ns, end_leaving, p);
	if (r < 0)
		see_off(p);
}

void io_process_replace(struct io_process *p)
{
	struct child next;
	int socket = io_process_take_next(p, &next);

	/* This closes the old one's socket, and it ends. */
	serves_from_now_on(p, socket);
	io_process_unwatch(p);
	io_process_let_go(p, p->child);
	p->child = next;
	io_process_watch(p);
}

void io_process_end(struct io_process *p, unsigned int ms)
{
	io_process_unwatch(p);
	if (p->ours && p->child.pid && !child_wait(&p->child, (int)ms)) {
		child_kill(&p->child, false);
		child_wait(&p->child, (int)ms);
	}
	fd_close(&p->child.fd);
	p->child = CHILD_NONE;
}
