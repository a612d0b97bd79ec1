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

#endif
