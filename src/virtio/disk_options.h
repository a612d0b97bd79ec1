/* SPDX-License-Identifier: MIT */
/* --disk: what it says. */
#ifndef MOLT_VIRTIO_DISK_OPTIONS_H
#define MOLT_VIRTIO_DISK_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/values.h>
#include <molt/virtio/io_board.h>
#include <molt/vm/device.h>

enum disk_engine {
	DISK_ENGINE_AUTO, /* io_uring, or threads where the host has none for us */
	DISK_ENGINE_URING,
	DISK_ENGINE_THREADS,
};

struct disk_limit {
	uint64_t rate; /* a second; 0: none */
	uint64_t burst;
};

struct disk_options {
	char *path; /* what it is called, also where fd gives it */
	int fd;     /* open already; -1: path is to be opened */
	bool readonly;
	bool direct;
	bool discard;
	enum disk_engine engine;
	char *serial; /* NULL: the id */
	uint32_t queues;
	uint32_t queue_size;
	uint32_t slot;
	struct disk_limit limits[IO_BOARD_LIMITS];
};

extern const struct device_option disk_option;

/* -EINVAL, -ERANGE, -ENOMEM with the sentence. disk_options_fini() in any case. */
int disk_options_parse(struct disk_options *o, const struct value_list *list, struct error *err);
void disk_options_fini(struct disk_options *o);

void disk_options_set_limits(const struct disk_options *o, struct io_board *board);

#endif
