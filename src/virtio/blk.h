/* SPDX-License-Identifier: MIT */
/* What is virtio-blk's (virtio 1.2, 5.2), wherever its back-end is. */
#ifndef MOLT_VIRTIO_BLK_H
#define MOLT_VIRTIO_BLK_H

#include <stdint.h>

#include <molt/base/error.h>
#include <molt/virtio/virtio.h>

#define BLK_CONFIG_BYTES 60 /* up to write_zeroes_may_unmap and its padding */
#define BLK_QUEUE_MAX_DEFAULT 256

/* What the guest may be shown; a back-end may have less. */
struct virtio_identity blk_identity(uint32_t nqueues, uint32_t queue_max);

/* For struct vhost_device_setup: of a disk that runs, its size may change, and what is but a hint. */
int blk_check_config(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
		     struct error *err);

/* num_queues as the transport has them; a back-end's may be more. */
void blk_show_queues(uint8_t *config, uint32_t nqueues);

/* In sectors of 512 bytes. */
uint64_t blk_capacity(const uint8_t *config);

#endif
