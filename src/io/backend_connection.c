/* SPDX-License-Identifier: MIT */
/*
 * The back-end's connections, one a disk, served by the main thread: when what is answered. Theory
 * of operation.
 *
 * A request is answered before the next one is looked at. Some have to wait: GET_VRING_BASE,
 * RESET_DEVICE and a queue's disabling, until the queues that they stop have finished what they
 * have in flight. Until then nothing is read from that connection, and everything else goes on. But
 * of GET_VRING_BASE there may be one for each queue, and where a request takes seconds the last
 * queue must not go on with new ones until all the others have stopped: so these are taken as they
 * come, and answered in their order.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "backend.h"

/* The answer to what had to wait for all. */
static int stopped_answer(struct io_disk *d, struct error *err)
{
	struct vhost_user_message *msg = &d->stop_msg;

	if (msg->hdr.request == VHOST_USER_RESET_DEVICE)
		io_inflight_forget_all(&d->table);
	return io_backend_wants_ack(d, msg) ? io_backend_answer(d, msg, 0, err) : 0;
}

/* The answer to the first GET_VRING_BASE of those that wait. */
static int base_answer(struct io_disk *d, struct error *err)
{
	uint8_t index = d->asked[0];
	struct vhost_user_message reply = vhost_user_request_state(VHOST_USER_GET_VRING_BASE, index,
								   d->queues[index].base);

	reply.hdr.flags |= VHOST_USER_FLAG_REPLY;
	memmove(d->asked, d->asked + 1, --d->nasked);
	return io_backend_send(d, &reply, err);
}

/* Whether those that were asked to have. */
static bool all_stopped(struct io_disk *d)
{
	for (unsigned int i = 0; i < d->opt->nqueues; i++) {
		struct io_queue *q = &d->queues[i];

		if (!q->run && io_queue_running(q))
			return false;
	}
	return true;
}

static bool reads(const struct io_disk *d)
{
	return !d->stopping && !d->has_next;
}

static bool has_to_wait(const struct io_disk *d, const struct vhost_user_message *msg)
{
	return d->nasked &&
	       (msg->hdr.request != VHOST_USER_GET_VRING_BASE || d->nasked == ARRAY_SIZE(d->asked));
}

static void give_up(struct io_disk *d, int r, const struct error *err)
{
	if (r != -ECONNRESET)
		log_warn("disk '%s': %s", d->opt->id, err->text);
	io_backend_close(d);
}

static void serve(struct io_disk *d)
{
	struct vhost_user_message msg;
	struct error err = ERROR_INIT;
	int r = 0;

	while (r == 0 && reads(d)) {
		r = vhost_user_receive(&d->conn, &msg, &err);
		if (r == 0)
			return;
		d->has_next = r > 0 && has_to_wait(d, &msg);
		if (d->has_next)
			d->next = msg;
		else if (r > 0)
			r = io_backend_handle(d, &msg, &err);
	}
	if (r < 0)
		give_up(d, r, &err);
}

static void set_events(struct io_disk *d)
{
	loop_mod(&d->conn_source,
		 (reads(d) ? EPOLLIN : 0u) | (vhost_user_sending(&d->conn) ? EPOLLOUT : 0u));
}

/* One of those that waited and need not any more: 1, 0 if there is none, -errno. */
static int serve_waiting(struct io_disk *d, struct error *err)
{
	int r;

	if (d->nasked) {
		if (io_queue_running(&d->queues[d->asked[0]]))
			return 0;
		r = base_answer(d, err);
	} else if (d->has_next) {
		d->has_next = false;
		r = io_backend_handle(d, &d->next, err);
	} else if (d->stopping && all_stopped(d)) {
		d->stopping = false;
		r = stopped_answer(d, err);
	} else {
		return 0;
	}
	return r < 0 ? r : 1;
}

/* What is read behind an answer may be the next request of this kind, with nothing to wait for. */
void io_backend_queue_stopped(struct io_disk *d)
{
	struct error err = ERROR_INIT;
	int r = 1;

	while (d->conn_source.loop && (r = serve_waiting(d, &err)) > 0)
		serve(d);
	if (r < 0)
		give_up(d, r, &err);
	if (d->conn_source.loop)
		set_events(d);
}

static void on_message(void *opaque, uint32_t events)
{
	struct io_disk *d = opaque;

	/* What is read ends by itself where the other side is gone; what waits for a queue must. */
	if ((events & EPOLLOUT && vhost_user_flush(&d->conn) < 0) ||
	    (!reads(d) && events & (EPOLLHUP | EPOLLERR))) {
		io_backend_close(d);
		return;
	}
	serve(d);
	io_backend_queue_stopped(d);
}

int io_backend_open(struct io_disk *d, struct error *err)
{
	int r;

	vhost_user_conn_init(&d->conn, VHOST_USER_BACK_END, d->opt->socket);
	d->channel.fd = -1;
	r = loop_add(d->process->loop, &d->conn_source, d->conn.fd, EPOLLIN, on_message, d);
	return r < 0 ? err_sys(err, -r, "disk '%s': socket", d->opt->id) : 0;
}

/* The other disks go on. Without any there is nothing left to do. */
void io_backend_close(struct io_disk *d)
{
	if (!d->conn_source.loop)
		return;
	loop_del(&d->conn_source);
	loop_del(&d->channel_source);
	loop_del(&d->event_source); /* it is whose turn it is now */
	vhost_user_conn_close(&d->conn);
	vhost_user_conn_close(&d->channel);
	if (d->has_next)
		vhost_user_close_fds(&d->next);
	d->stopping = d->has_next = false;
	d->nasked = 0;
	for (unsigned int i = 0; i < d->opt->nqueues; i++)
		io_queue_stop(&d->queues[i]);
	if (--d->process->connected == 0)
		loop_stop(d->process->loop, 0);
}
