/* SPDX-License-Identifier: MIT */
/*
 * After an update each disk is to be served by a process of this binary. One whose `molt io` dies,
 * hangs or finds no room must not cost the guest its disk: so the next process is started beside
 * the one that is there, enters its sandbox, and has to answer a first message, before that one is
 * asked for its queues.
 *
 * GET_FEATURES is that message: each session begins with it, so that the front-end, which is given
 * the socket afterwards, may ask the same again. A process that has answered has no queue and
 * touches nothing until SET_OWNER.
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "io_process.h"

#define ANSWER_NS 10000000000ull
#define LOOK_NS 100000000ull
#define FIRST_DELAY_S 1
#define LAST_DELAY_S 60
#define FAILURES_MAX 6 /* FIRST_DELAY_S doubled so often is LAST_DELAY_S */

static void try_next(void *opaque);

static void forget(struct io_process *p)
{
	struct io_process_next *n = &p->next;

	loop_del(&n->said);
	loop_timer_cancel(&n->timer);
	vhost_user_conn_close(&n->conn);
	n->answered = false;
	if (n->child.pid) {
		child_kill(&n->child, false);
		io_process_let_go(p, n->child);
	}
	n->child = CHILD_NONE;
}

void io_process_drop_next(struct io_process *p)
{
	forget(p);
	p->next.failures = 0;
}

static void try_later(struct io_process *p, const char *why)
{
	unsigned int s = FIRST_DELAY_S << p->next.failures;

	if (s > LAST_DELAY_S)
		s = LAST_DELAY_S;
	p->next.failures += p->next.failures < FAILURES_MAX;
	forget(p);
	log_error("disk '%s': an I/O process of this binary: %s; the one of the binary before goes "
		  "on, and another is tried in %u s",
		  p->name, why, s);
	loop_timer_set(p->loop, &p->next.timer, now_ns() + s * 1000000000ull, try_next, p);
}

/* Where this process was stopped, or busy, for as long, the answer is there and was not read. */
static void is_late(void *opaque)
{
	struct io_process *p = opaque;

	if (fd_ready(p->next.conn.fd, POLLIN))
		loop_timer_set(p->loop, &p->next.timer, now_ns() + LOOK_NS, is_late, p);
	else
		try_later(p, "it does not answer");
}

static void has_said(void *opaque, uint32_t events)
{
	struct io_process *p = opaque;
	struct vhost_user_conn *conn = &p->next.conn;
	struct vhost_user_message msg;
	struct error err = ERROR_INIT;
	int r = vhost_user_receive(conn, &msg, &err);

	(void)events;
	if (r == 0 && !(p->next.answered && conn->in_len))
		return;
	if (r > 0)
		vhost_user_close_fds(&msg);
	if (r < 0) {
		try_later(p, r == -ECONNRESET ? "it has ended" : err.text);
	} else if (p->next.answered) {
		try_later(p, "it says what it was not asked");
	} else if (!p->is_fit(p->opaque, msg.payload.u64)) {
		try_later(p, "it lacks what the guest uses");
	} else {
		p->next.answered = true;
		loop_timer_cancel(&p->next.timer);
		p->prepared(p->opaque);
	}
}

static int ask(struct io_process *p, struct error *err)
{
	struct io_process_next *n = &p->next;
	struct vhost_user_message msg = vhost_user_request(VHOST_USER_GET_FEATURES);
	int socket = io_process_spawn(p, &n->child, err), r;

	if (socket < 0)
		return socket;
	vhost_user_conn_init(&n->conn, VHOST_USER_FRONT_END, socket);
	r = vhost_user_send(&n->conn, &msg);
	if (r == 0)
		r = loop_add(p->loop, &n->said, n->conn.fd, EPOLLIN, has_said, p);
	return r < 0 ? err_sys(err, -r, "it cannot be asked") : 0;
}

static void try_next(void *opaque)
{
	struct io_process *p = opaque;
	struct error err = ERROR_INIT;

	if (ask(p, &err) < 0)
		try_later(p, err.text);
	else
		loop_timer_set(p->loop, &p->next.timer, now_ns() + ANSWER_NS, is_late, p);
}

void io_process_prepare(struct io_process *p)
{
	if (!p->next.child.pid && !p->next.timer.loop)
		try_next(p);
}

bool io_process_is_prepared(const struct io_process *p)
{
	return p->next.answered;
}

int io_process_take_next(struct io_process *p, struct child *child)
{
	int socket = p->next.conn.fd;

	*child = p->next.child;
	loop_del(&p->next.said);
	p->next.child = CHILD_NONE;
	p->next.conn.fd = -1;
	io_process_drop_next(p);
	return socket;
}
