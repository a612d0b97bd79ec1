/* SPDX-License-Identifier: MIT */
/* A disk, for the files that are about it. */
#ifndef MOLT_VIRTIO_DISK_H
#define MOLT_VIRTIO_DISK_H

#include <molt/base/fd.h>
#include <molt/virtio/io_board.h>

#include "disk_options.h"
#include "io_process.h"
#include "vhost_device.h"

struct disk_guest {
	struct vhost_device_guest device;
	uint32_t pid;  /* of the I/O process */
	bool outdated; /* that is of the binary before an update */
	bool renew;    /* and is to be replaced by one of this binary */
	uint8_t reserved[2];
};

struct disk {
	struct device dev;
	struct disk_guest guest;
	struct {
		struct vhost_device device;
		struct disk_options options;
		struct io_process process;
		struct io_board_view board;
		int file;
		int board_fd;
		int event; /* tells the process to look at the board */
		int rings[VIRTIO_QUEUES_MAX];
		uint32_t nrings;
		uint64_t asked_ns; /* when the process was last asked to look at the file */
		bool replace;      /* the process has given its queues back */
	} host;
};

static inline struct disk *to_disk(struct device *dev)
{
	return container_of(dev, struct disk, dev);
}

/* disk_control.c */
extern const struct device_block_ops disk_block_ops;

#endif
