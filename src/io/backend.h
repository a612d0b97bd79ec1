/* SPDX-License-Identifier: MIT */
/* What the files of the back-end share. */
#ifndef MOLT_SRC_IO_BACKEND_H
#define MOLT_SRC_IO_BACKEND_H

#include "internal.h"

#define IO_ANSWERED 1 /* by the handler itself */
#define IO_LATER 2    /* the answer comes when queues have stopped */

/*
 * One for each request: 0: done; IO_ANSWERED; IO_LATER; -errno with the sentence. Descriptors that
 * it leaves in the message are closed.
 */
typedef int io_handler(struct io_disk *d, struct vhost_user_message *msg, struct error *err);

io_handler io_set_vring_num, io_set_vring_addr, io_set_vring_base, io_set_vring_kick,
	io_set_vring_call, io_set_vring_err, io_set_vring_enable, io_get_vring_base,
	io_reset_device;

/* backend.c, for backend_connection.c */
/* What the message asks for. 0, -errno: then the connection is of no use. */
int io_backend_handle(struct io_disk *d, struct vhost_user_message *msg, struct error *err);
int io_backend_send(struct io_disk *d, const struct vhost_user_message *msg, struct error *err);
int io_backend_answer(struct io_disk *d, const struct vhost_user_message *msg, uint64_t value,
		      struct error *err);
bool io_backend_wants_ack(const struct io_disk *d, const struct vhost_user_message *msg);

#endif
