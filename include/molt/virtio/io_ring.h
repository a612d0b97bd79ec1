/* SPDX-License-Identifier: MIT */
/*
 * The io_uring instances of a disk's queues. The VMM makes them before it enters its sandbox, in
 * which nobody can; each I/O process inherits them. They are restricted to the operations that a
 * disk needs, for ever: a process that was taken over can open, connect or send nothing with them.
 */
#ifndef MOLT_VIRTIO_IO_RING_H
#define MOLT_VIRTIO_IO_RING_H

#include <linux/io_uring.h>

#include <molt/base/error.h>

/*
 * A ring for a queue of that many descriptors: the descriptor, close-on-exec, and in *params what
 * an I/O process needs to map it (struct io_board_queue's ring). -ENOSYS, -EPERM and others with
 * the sentence where the host does not let us: the disk goes by threads then.
 *
 * The requests of a process that ended are not all finished by then: the kernel goes on with those
 * that a device has. The next process waits for them, on the same ring. So a ring is kept as long
 * as its file, and a queue is never given another one.
 */
int io_ring_make(unsigned int queue_size, struct io_uring_params *params, struct error *err);

#endif
