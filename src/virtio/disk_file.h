/* SPDX-License-Identifier: MIT */
/* Opening what a disk is on, and keeping others off it. */
#ifndef MOLT_VIRTIO_DISK_FILE_H
#define MOLT_VIRTIO_DISK_FILE_H

#include <molt/base/error.h>

#include "disk_options.h"

/*
 * Opens the file or block device, or takes the descriptor that the options name, and locks it: for
 * writing against everybody, for reading against writers. The lock is the open file description's
 * (F_OFD_SETLK, fcntl(2)): it lasts over exec and in every process that has the descriptor, and is
 * gone when the last of them has closed it. -EBUSY where it is somebody else's, with the way out.
 */
int disk_file_open(const struct disk_options *o, int *fd, struct error *err);

#endif
