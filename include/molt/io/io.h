/* SPDX-License-Identifier: MIT */
/*
 * The I/O process, `molt io`: moves the data of a guest's disks. docs/io.md says what it is; it is
 * the back-end of vhost-user over sockets that it inherits, one a disk.
 */
#ifndef MOLT_IO_IO_H
#define MOLT_IO_IO_H

#include <stdbool.h>

#include <molt/base/error.h>
#include <molt/virtio/io_board.h>

#define IO_DISKS_MAX 64
#define IO_SERIAL_MAX 20 /* virtio 1.2, 5.2.6: bytes, and no NUL where all are used */

/* A disk to serve. All descriptors are open already, and the process's from io_run() on. */
struct io_disk_options {
	const char *id;
	int socket; /* stream, connected to the front-end */
	int file;   /* regular file or block device; O_RDWR unless readonly, O_DIRECT as it likes */
	int board;  /* io_board.h */
	int event;  /* eventfd: look at the board; -1: none */
	int rings[IO_BOARD_QUEUES_MAX]; /* io_ring_make()'s, one a queue */
	unsigned int nrings;            /* nqueues, or 0: threads do it */
	bool readonly;
	bool discard; /* DISCARD and WRITE_ZEROES are offered */
	const char *serial;
	unsigned int nqueues;    /* 1..IO_BOARD_QUEUES_MAX */
	unsigned int queue_size; /* descriptors, at most: a power of 2 up to VIRTQUEUE_SIZE_MAX */
};

/*
 * Serves the disks until the other ends of all sockets are gone: 0. -errno with the sentence where
 * it cannot begin. For the main thread, once in a process's life: it enters the sandbox, closes
 * what it was not given, and changes what signals do. disks and its strings must stay as they are.
 */
int io_run(const struct io_disk_options *disks, unsigned int ndisks, struct error *err);

#endif
