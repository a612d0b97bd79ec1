/* SPDX-License-Identifier: MIT */
/* What each vhost-user message must look like, by who receives it. */
#ifndef MOLT_SRC_VIRTIO_VHOST_USER_SHAPES_H
#define MOLT_SRC_VIRTIO_VHOST_USER_SHAPES_H

#include <molt/virtio/vhost_user.h>

/* Before the payload is read: version, direction, length. 1, or -EPROTO with the sentence. */
int vhost_user_check_header(enum vhost_user_role role, const struct vhost_user_header *hdr,
			    struct error *err);

/*
 * Of a whole message: descriptors and counts. 1, or -EPROTO with the sentence. An unknown request
 * loses its descriptors.
 */
int vhost_user_check_message(enum vhost_user_role role, struct vhost_user_message *msg,
			     struct error *err);

#endif
