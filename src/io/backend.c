/* SPDX-License-Identifier: MIT */
/*
 * The back-end side of vhost-user: what each message does. In which order they are answered is
 * backend_connection.c's, messages about one queue are backend_queue.c's.
 *
 * A queue runs while it is enabled and has a kick descriptor; it is set up anew each time. While it
 * runs, what it stands on (memory, features, size, addresses) cannot be changed.
 *
 * Whoever asks for something impossible is told so, if it wants an answer; else the connection is
 * closed, for then the two sides no longer agree on what is.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "backend.h"

#define PROTOCOL_FEATURES \
	(1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | \
	 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG | \
	 1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD | \
	 1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE)

int io_backend_send(struct io_disk *d, const struct vhost_user_message *msg, struct error *err)
{
	int r = vhost_user_send(&d->conn, msg);

	if (r < 0)
		return err_sys(err, -r, "answer to the front-end");
	loop_mod(&d->conn_source, EPOLLIN | (vhost_user_sending(&d->conn) ? EPOLLOUT : 0u));
	return IO_ANSWERED;
}

int io_backend_answer(struct io_disk *d, const struct vhost_user_message *msg, uint64_t value,
		      struct error *err)
{
	struct vhost_user_message reply = vhost_user_reply_u64(msg, value);

	return io_backend_send(d, &reply, err);
}

static bool any_running(struct io_disk *d)
{
	for (unsigned int i = 0; i < d->opt->nqueues; i++)
		if (io_queue_running(&d->queues[i]))
			return true;
	return false;
}

static int must_be_stopped(struct io_disk *d, struct error *err)
{
	return any_running(d) ? err_set(err, EBUSY, "not while a queue runs") : 0;
}

static int get_features(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	return io_backend_answer(d, msg, io_disk_features(d), err);
}

/* Without protocol features there is no SET_VRING_ENABLE, and a queue is enabled from the start. */
static int set_features(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	uint64_t features = msg->payload.u64;
	int r = must_be_stopped(d, err);

	if (r < 0)
		return r;
	if (features & ~io_disk_features(d))
		return err_set(err, EINVAL, "features 0x%llx were not offered",
			       (unsigned long long)(features & ~io_disk_features(d)));
	if (!(features >> VIRTIO_F_VERSION_1 & 1))
		return err_set(err, EINVAL, "VIRTIO_F_VERSION_1 was not accepted");
	d->features = features;
	for (unsigned int i = 0; i < d->opt->nqueues; i++)
		if (!(features >> VHOST_USER_F_PROTOCOL_FEATURES & 1))
			d->queues[i].enabled = true;
	return 0;
}

static int get_protocol_features(struct io_disk *d, struct vhost_user_message *msg,
				 struct error *err)
{
	return io_backend_answer(d, msg, PROTOCOL_FEATURES, err);
}

static int set_protocol_features(struct io_disk *d, struct vhost_user_message *msg,
				 struct error *err)
{
	if (msg->payload.u64 & ~PROTOCOL_FEATURES)
		return err_set(err, EINVAL, "protocol features 0x%llx were not offered",
			       (unsigned long long)(msg->payload.u64 & ~PROTOCOL_FEATURES));
	d->protocol = msg->payload.u64;
	return 0;
}

static int get_queue_num(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	return io_backend_answer(d, msg, d->opt->nqueues, err);
}

static int set_owner(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	(void)msg;
	return io_disk_begin(d, err);
}

static int set_mem_table(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct memory mem;
	int r = must_be_stopped(d, err);

	if (r == 0)
		r = io_memory_map(&mem, &msg->payload.memory, msg->fds, err);
	if (r < 0)
		return r;
	io_memory_unmap(&d->mem);
	d->mem = mem;
	return 0;
}

static int get_config(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct virtio_blk_config config = io_disk_config(d);
	struct vhost_user_message reply = *msg;
	struct vhost_user_config *c = &reply.payload.config;

	memset(c->data, 0, sizeof(c->data));
	if (c->offset < sizeof(config))
		memcpy(c->data, (const char *)&config + c->offset,
		       sizeof(config) - c->offset < c->size ? sizeof(config) - c->offset : c->size);
	reply.hdr.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
	return io_backend_send(d, &reply, err);
}

static int set_config(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	(void)d;
	(void)msg;
	return err_set(err, EINVAL, "nothing in it can be changed");
}

static int get_inflight_fd(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct vhost_user_inflight *f = &msg->payload.inflight;
	struct vhost_user_message reply;
	int fd, r;

	if (f->num_queues < 1 || f->num_queues > d->opt->nqueues || f->queue_size < 1 ||
	    f->queue_size > VIRTQUEUE_SIZE_MAX)
		return err_set(err, EINVAL, "%u queues of %u", f->num_queues, f->queue_size);
	fd = io_inflight_make(f->num_queues, f->queue_size, err);
	if (fd < 0)
		return fd;
	reply = *msg;
	reply.hdr.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
	reply.payload.inflight.mmap_size = io_inflight_size(f->num_queues, f->queue_size);
	reply.payload.inflight.mmap_offset = 0;
	reply.fds[0] = fd;
	reply.nfds = 1;
	r = io_backend_send(d, &reply, err);
	close(fd);
	return r;
}

static int set_inflight_fd(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	const struct vhost_user_inflight *f = &msg->payload.inflight;
	struct io_inflight_table table;
	int r = must_be_stopped(d, err);

	if (r == 0 && (f->num_queues > d->opt->nqueues || f->queue_size > VIRTQUEUE_SIZE_MAX))
		r = err_set(err, EINVAL, "%u queues of %u", f->num_queues, f->queue_size);
	if (r == 0)
		r = io_inflight_map(&table, msg->fds[0], f->mmap_size, f->mmap_offset,
				    f->num_queues, f->queue_size, err);
	if (r < 0)
		return r;
	io_inflight_unmap(&d->table);
	d->table = table;
	return 0;
}

static void on_channel(void *opaque, uint32_t events)
{
	struct io_disk *d = opaque;
	struct vhost_user_message msg;
	struct error err = ERROR_INIT;
	int r = 0;

	if (events & EPOLLOUT)
		r = vhost_user_flush(&d->channel);
	while (r >= 0 && (r = vhost_user_receive(&d->channel, &msg, &err)) > 0)
		vhost_user_close_fds(&msg);
	if (r < 0) {
		loop_del(&d->channel_source);
		vhost_user_conn_close(&d->channel);
		return;
	}
	loop_mod(&d->channel_source, EPOLLIN | (vhost_user_sending(&d->channel) ? EPOLLOUT : 0u));
}

static int set_backend_req_fd(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	int r;

	loop_del(&d->channel_source);
	vhost_user_conn_close(&d->channel);
	vhost_user_conn_init(&d->channel, VHOST_USER_BACK_END_CHANNEL, msg->fds[0]);
	msg->nfds = 0;
	r = loop_add(d->process->loop, &d->channel_source, d->channel.fd, EPOLLIN, on_channel, d);
	if (r < 0)
		vhost_user_conn_close(&d->channel);
	return r < 0 ? err_sys(err, -r, "back-end channel") : 0;
}

static const struct {
	uint32_t request;
	io_handler *fn;
} handlers[] = {
	{ VHOST_USER_GET_FEATURES, get_features },
	{ VHOST_USER_SET_FEATURES, set_features },
	{ VHOST_USER_SET_OWNER, set_owner },
	{ VHOST_USER_SET_MEM_TABLE, set_mem_table },
	{ VHOST_USER_SET_VRING_NUM, io_set_vring_num },
	{ VHOST_USER_SET_VRING_ADDR, io_set_vring_addr },
	{ VHOST_USER_SET_VRING_BASE, io_set_vring_base },
	{ VHOST_USER_GET_VRING_BASE, io_get_vring_base },
	{ VHOST_USER_SET_VRING_KICK, io_set_vring_kick },
	{ VHOST_USER_SET_VRING_CALL, io_set_vring_call },
	{ VHOST_USER_SET_VRING_ERR, io_set_vring_err },
	{ VHOST_USER_GET_PROTOCOL_FEATURES, get_protocol_features },
	{ VHOST_USER_SET_PROTOCOL_FEATURES, set_protocol_features },
	{ VHOST_USER_GET_QUEUE_NUM, get_queue_num },
	{ VHOST_USER_SET_VRING_ENABLE, io_set_vring_enable },
	{ VHOST_USER_SET_BACKEND_REQ_FD, set_backend_req_fd },
	{ VHOST_USER_GET_CONFIG, get_config },
	{ VHOST_USER_SET_CONFIG, set_config },
	{ VHOST_USER_GET_INFLIGHT_FD, get_inflight_fd },
	{ VHOST_USER_SET_INFLIGHT_FD, set_inflight_fd },
	{ VHOST_USER_RESET_DEVICE, io_reset_device },
};

bool io_backend_wants_ack(const struct io_disk *d, const struct vhost_user_message *msg)
{
	return msg->hdr.flags & VHOST_USER_FLAG_NEED_REPLY &&
	       d->protocol >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1;
}

static int handle(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(handlers); i++)
		if (handlers[i].request == msg->hdr.request)
			return handlers[i].fn(d, msg, err);
	return err_set(err, ENOSYS, "it is not supported");
}

int io_backend_handle(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	char buf[24];
	int r = handle(d, msg, err);

	vhost_user_close_fds(msg);
	if (r == IO_ANSWERED || r == IO_LATER)
		return 0;
	if (r < 0)
		err_prefix(err, "%s",
			   vhost_user_request_name(VHOST_USER_BACK_END, msg->hdr.request, buf));
	if (!io_backend_wants_ack(d, msg))
		return r;
	if (r < 0)
		log_warn("disk '%s': %s", d->opt->id, err->text);
	r = io_backend_answer(d, msg, r < 0, err);
	return r < 0 ? r : 0;
}

/* Whoever cannot be told now is told that it has changed by the next one that can. */
static void tell_config_change(struct io_disk *d)
{
	struct vhost_user_message msg = vhost_user_request(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);

	if (d->channel.fd < 0)
		return;
	if (vhost_user_try_send(&d->channel, &msg) < 0)
		log_debug("disk '%s': the front-end has not read of an earlier change", d->opt->id);
	loop_mod(&d->channel_source, EPOLLIN | (vhost_user_sending(&d->channel) ? EPOLLOUT : 0u));
}

void io_backend_look(struct io_disk *d)
{
	struct io_board *b = d->board.board;
	uint32_t asked = __atomic_load_n(&b->resize_asked, __ATOMIC_ACQUIRE);
	struct error err = ERROR_INIT;
	uint64_t bytes;

	for (unsigned int i = 0; i < d->opt->nqueues; i++)
		io_queue_poke(&d->queues[i]); /* limits may be others now */
	if (asked == __atomic_load_n(&b->resize_done, __ATOMIC_RELAXED))
		return;
	if (io_disk_read_size(d, &bytes, &err) < 0) {
		log_warn("%s", err.text);
	} else if (bytes != d->capacity) {
		log_info("disk '%s': %llu bytes, no longer %llu", d->opt->id,
			 (unsigned long long)bytes, (unsigned long long)d->capacity);
		__atomic_store_n(&d->capacity, bytes, __ATOMIC_RELAXED);
		__atomic_store_n(&b->capacity, bytes, __ATOMIC_RELAXED);
		tell_config_change(d);
	}
	__atomic_store_n(&b->resize_done, asked, __ATOMIC_RELEASE);
}
