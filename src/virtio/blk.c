/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "blk.h"

#define CLASS_STORAGE 0x018000 /* mass storage, other */
#define BIT(n) (1ull << (n))
/* Not CONFIG_WCE: FLUSH is what a file system needs. Nor SIZE_MAX, GEOMETRY: old drivers' affair. */
#define FEATURES \
	(BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) | \
	 BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_DISCARD) | \
	 BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 BIT(VIRTIO_RING_F_EVENT_IDX))

struct virtio_identity blk_identity(uint32_t nqueues, uint32_t queue_max)
{
	return (struct virtio_identity){
		.type = VIRTIO_ID_BLOCK,
		.class_code = CLASS_STORAGE,
		.features = FEATURES | (nqueues > 1 ? BIT(VIRTIO_BLK_F_MQ) : 0),
		.nqueues = nqueues,
		.queue_max = queue_max,
	};
}

uint64_t blk_capacity(const uint8_t *config)
{
	uint64_t sectors;

	memcpy(&sectors, config + offsetof(struct virtio_blk_config, capacity), sizeof(sectors));
	return sectors;
}

/*
 * Whether a byte of the configuration only tells what works well. It follows from where the disk
 * lies, which changes beneath a guest that runs: pvmove and lvextend to a device with other
 * physical blocks, a file system mounted anew.
 */
static bool is_hint(uint32_t at)
{
	const uint32_t topology = offsetof(struct virtio_blk_config, physical_block_exp);
	const uint32_t discard = offsetof(struct virtio_blk_config, discard_sector_alignment);

	return (at >= topology && at < offsetof(struct virtio_blk_config, wce)) ||
	       (at >= discard && at < discard + sizeof(uint32_t));
}

int blk_check_config(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
		     struct error *err)
{
	(void)opaque;
	for (uint32_t i = sizeof(uint64_t); i < len; i++)
		if (old[i] != now[i] && !is_hint(i))
			return err_set(err, EINVAL,
				       "the disk's properties other than its size are not those "
				       "that the guest was shown");
	return 0;
}

void blk_show_queues(uint8_t *config, uint32_t nqueues)
{
	uint16_t n = (uint16_t)nqueues;

	memcpy(config + offsetof(struct virtio_blk_config, num_queues), &n, sizeof(n));
}
